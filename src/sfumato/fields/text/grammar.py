"""Whether a file parses with what is written into its holes: of several fillings, those that do come first. Nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from sfumato.fields.text.originals import MARK, Hole, Original
from sfumato.fields.text.samples import accepted

SUFFIXES = (".py", ".pyi")
"""Of files whose grammar is known here: Python's own."""
MOST = 1 << 18
"""Bytes of a file that is parsed, at most."""
BLANK = b"_"
"""What stands in a marked hole that is not filled yet: a name, which fits where most things do."""


@dataclass(frozen=True, eq=False)
class Grammar:
    """Of a file with holes, in order."""

    original: Original
    holes: Sequence[Hole]

    @property
    def known(self) -> bool:
        """Whether anything can be said of it."""
        return self.original.path.suffix.lower() in SUFFIXES and len(self.original.text) <= MOST

    def accepts(self, written: Sequence[bytes]) -> bool:
        """Whether it parses with these in its first holes; in the others are what stood there, or a blank."""
        text, place, parts = self.original.text, 0, []
        for hole, there in zip(self.holes, [*written, *self._unwritten[len(written) :]], strict=True):
            parts += [text[place : hole.start], there]
            place = hole.stop
        try:
            return accepted(b"".join([*parts, text[place:]]).decode("utf-8"))
        except UnicodeDecodeError:
            return False

    @cached_property
    def _unwritten(self) -> list[bytes]:
        stood = [self.original.text[hole.start : hole.stop] for hole in self.holes]
        return [BLANK if MARK.fullmatch(there) else there for there in stood]


Accepts = Callable[[Sequence[bytes]], bool]


def everything(written: Sequence[bytes]) -> bool:
    """No grammar at all."""
    return True


def grammar(original: Original, holes: Sequence[Hole]) -> Accepts:
    """What accepts texts in the first holes of a file: its grammar, where that is known."""
    known = Grammar(original, holes)
    return known.accepts if known.known else everything
