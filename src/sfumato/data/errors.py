"""The one error of this room, and how a file name is written into its message."""

from __future__ import annotations

import os

from sfumato.errors import DataError

__all__ = ["DataError", "one_line", "shown"]


def shown(name: str | os.PathLike[str]) -> str:
    """A file name that can always be printed on one line: control characters and undecodable bytes are escaped."""
    text = os.fspath(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; its type where it has no message."""
    return " ".join(shown(str(error).replace("\n", " ")).split()) or type(error).__name__
