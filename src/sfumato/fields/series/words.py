"""Checks of options that need no numbers. Needs neither torch nor numpy."""

from __future__ import annotations

import re

from sfumato.errors import Wrong


def parsed_or_wrong(freq: str | None) -> None:
    """Complain of a step that cannot be one. Raises Wrong."""
    if freq is not None and not re.fullmatch(
        r"\s*\d{0,9}\s*(s|S|min|T|t|h|H|D|d|B|W|w|M|ME|MS|Q|QE|QS|Y|A|YE|YS)(-[A-Za-z]+)?\s*", freq
    ):
        raise Wrong(f"freq = {freq!r}: must be a step such as h, 15min, D, B, W, M, Q or Y")
