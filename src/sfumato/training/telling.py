"""Lines for the person at the terminal, who may be gone. Needs no torch."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from contextlib import suppress
from typing import Any

LABEL = 10
"""Columns of the word before a line of a plan or report."""
LABELLED = re.compile(rf"\S+(?: \S+)* {{2,}}|\S{{{LABEL - 1}}} | {{{LABEL}}}")
"""The first columns of a line that has one, or that goes on with what has one."""
WIDEST = 120
"""Characters of a line where there is no terminal."""


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
    QUIET.write(fold(text, columns(QUIET)) + "\n")
    QUIET.flush()


def show(text: str, records: bool = False) -> None:
    """A result: lines on standard output, folded to the terminal. Of records, one a line, a file or pipe gets whole lines."""
    print(text if records and not sys.stdout.isatty() else fold(text, columns(sys.stdout)))


def columns(stream: Any) -> int:
    """Of the terminal that a stream is, or of a line in a file or pipe."""
    with suppress(OSError, ValueError, AttributeError):
        if stream.isatty():
            given = os.environ.get("COLUMNS", "")
            found = int(given) if given.isdigit() else os.get_terminal_size(stream.fileno()).columns
            return found if found > 0 else 80
    return WIDEST


def fold(text: str, width: int) -> str:
    """The text in lines of at most ``width`` characters, broken between words and set under the words above, beside a label
    under what it labels. Rows of tables, commands to be copied and words that are longer stay whole."""
    return "\n".join(part for line in text.split("\n") for part in _folded(line, width))


def _folded(line: str, width: int) -> list[str]:
    label = LABELLED.fullmatch(line[:LABEL]) is not None
    said = line[LABEL if label else 0 :]
    if len(line) <= width or said.startswith("sfumato ") or len(re.findall(r"\S {2,}(?=\S)", said)) > 1:
        return [line]
    hang = LABEL if label else len(line) - len(line.lstrip()) + 2
    whole = re.sub(r"`[^`]*`", lambda found: found.group().replace(" ", "\0"), line)  # commands within a sentence
    lines = textwrap.wrap(
        whole, max(width, hang + 20), subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True, replace_whitespace=False, expand_tabs=False,
    )  # fmt: skip
    return [part.replace("\0", " ") for part in lines] or [line]
