"""Lines for the person at the terminal, who may be gone. Needs no torch."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


class _Quiet:
    """Standard error as it is now; where nobody reads it any more (a closed terminal, `| head`) what is written is lost, and
    that is all."""

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text) if sys.stderr is not None else len(text)
        except (OSError, ValueError):
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except (OSError, ValueError):
            self._lose()

    def isatty(self) -> bool:
        try:
            return sys.stderr is not None and sys.stderr.isatty()
        except ValueError:  # closed
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def _lose(self) -> None:
        # what waits in the buffer would fail again when the interpreter ends, and change the exit status
        with suppress(OSError, ValueError, AttributeError):
            stream = sys.__stderr__
            if stream is not None and sys.stderr is stream:
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, stream.fileno())
                os.close(nothing)


QUIET: Any = _Quiet()


def tell(text: str) -> None:
    """A line for the person at the terminal, if there still is one."""
    QUIET.write(text + "\n")
    QUIET.flush()
