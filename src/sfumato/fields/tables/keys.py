"""Keys that are made: to the pattern of the real ones, each once, none a real one.

    N10156, N102UW   ->   shapes N99999 (many), N999AA (some): of each place the characters that were seen there
    1, 2, 3; D001    ->   numbers, which go on where the data stop

A key is data where its words mean something (an airport); then it is kept, or its table is. A made one means nothing.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from sfumato.errors import DataError

FINE, MOST_SHAPES = 64, 256
"""Shapes up to which letters, small letters and digits are told apart, and those that are kept."""
LONGEST = 10_000
"""Characters of a key at most."""
DENSE = 2.0
"""Numbers between the first and the last key, for each key, up to which they count."""
CLASSES = (string.digits, string.ascii_uppercase, string.ascii_lowercase)
TRIES = 200
"""Times that a made key which exists already is made again."""


@dataclass(frozen=True)
class KeyPattern:
    """What keys look like.

    Args:
        next: the first number that is free, of keys that count; else there are shapes.
        shapes: (number of real keys, the characters of each place).
        before, width: of keys that count, what stands before the number, and its digits at least.
    """

    next: int | None = None
    shapes: tuple[tuple[int, tuple[str, ...]], ...] = ()
    before: str = ""
    width: int = 1

    def plain(self) -> dict[str, Any]:
        shapes = [[count, list(places)] for count, places in self.shapes]
        return {"next": self.next, "shapes": shapes, "before": self.before, "width": self.width}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> KeyPattern:
        shapes = tuple((int(count), tuple(map(str, places))) for count, places in plain["shapes"])
        first = None if plain["next"] is None else int(plain["next"])
        if not 0 <= int(plain["width"]) <= LONGEST or any(len(places) > LONGEST for _, places in shapes):
            raise ValueError(f"a key longer than {LONGEST} characters")
        return cls(first, shapes, str(plain["before"]), int(plain["width"]))

    @classmethod
    def of(cls, words: Sequence[str]) -> KeyPattern:
        """The pattern of these keys (one at least)."""
        if all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", word) for word in words):
            return cls(next=max(map(int, words)) + 1)
        if counted := _counted(words):
            return counted
        for classes in (_fine, _coarse, _bare):
            shapes = Counter(classes(word) for word in words)
            if len(shapes) <= FINE:
                break
        kept = [shape for shape, _ in shapes.most_common(MOST_SHAPES)]
        seen: dict[Any, list[set[str]]] = {shape: [] for shape in kept}
        for word in words:
            places = seen.get(classes(word))
            if places is None:
                continue
            places += [set() for _ in range(len(word) - len(places))]
            for place, character in zip(places, word):
                place.add(character)
        return cls(None, tuple((shapes[shape], tuple("".join(sorted(p)) for p in seen[shape])) for shape in kept))

    def example(self) -> str:
        """What a made key looks like."""
        return self._word(self.next) if self.next is not None else "".join(place[0] for place in self.shapes[0][1])

    def _word(self, number: int) -> str:
        return f"{self.before}{str(number).rjust(self.width, '0')}"

    def _wider(self) -> KeyPattern:
        """The same shapes, with every digit where there are digits, and every letter where there are letters."""
        return replace(self, shapes=tuple((count, tuple(map(_whole, places))) for count, places in self.shapes))

    def make(self, n: int, rng: np.random.Generator, taken: set[str], what: str = "keys") -> list[str]:
        """n keys, of which none is in ``taken``, nor twice.

        Raises:
            DataError: hardly any are left to be made.
        """
        if self.next is not None:
            used = [re.fullmatch(rf"{re.escape(self.before)}(-?\d{{1,18}})", word) for word in taken]
            first = max([self.next, *(int(each[1]) + 1 for each in used if each)])
            return [self._word(first + i) for i in range(n)]
        found: list[str] = []
        known = set(taken)
        self._more(found, known, n, rng)
        if len(found) < n:
            self._wider()._more(found, known, n, rng)
        if len(found) < n:
            raise DataError(
                f"{what}: {len(found)} new ones like {self.example()!r} could be made, {n} are wanted; ask for fewer rows"
            )
        return [found[i] for i in rng.permutation(n).tolist()]

    def _more(self, found: list[str], known: set[str], n: int, rng: np.random.Generator) -> None:
        """Keys that are not known, into ``found`` and ``known``, until there are n or hardly any are left."""
        shares = np.array([count for count, _ in self.shapes], dtype=np.float64)
        for _ in range(TRIES):
            if len(found) == n:
                break
            which = np.sort(rng.choice(len(shares), n - len(found), p=shares / shares.sum()))
            for shape, group in groupby(which.tolist()):
                places, count = self.shapes[shape][1], len(list(group))
                letters = [np.array(list(place))[rng.integers(0, len(place), count)] for place in places]
                for word in map("".join, zip(*letters, strict=True)) if letters else [""] * count:
                    if word not in known:
                        known.add(word)
                        found.append(word)


def _counted(words: Sequence[str]) -> KeyPattern | None:
    """Keys of one prefix and width whose numbers lie densely: D001, D002, D004."""
    parts = [re.fullmatch(r"(\D*)(\d{1,18})", word) for word in words]
    if not all(parts) or len({(each[1], len(each[2])) for each in parts if each}) != 1:
        return None
    numbers = [int(each[2]) for each in parts if each]
    if max(numbers) - min(numbers) + 1 > DENSE * len(numbers):
        return None
    first = parts[0]
    assert first is not None
    return KeyPattern(next=max(numbers) + 1, before=first[1], width=len(first[2]))


def _whole(place: str) -> str:
    """The characters of a place, and all others of their classes."""
    return "".join(sorted(set(place).union(*(whole for whole in CLASSES if set(whole) & set(place)))))


def _fine(word: str) -> Any:
    return tuple("9" if c.isdigit() else "A" if c.isupper() else "a" if c.islower() else c for c in word)


def _coarse(word: str) -> Any:
    return tuple("x" if c.isalnum() else c for c in word)


def _bare(word: str) -> Any:
    return len(word)


def pattern_of(words: Sequence[str | None], gap: Callable[[str | None], bool]) -> KeyPattern | None:
    """The pattern of the words that are no gaps; None where there are none."""
    known = [word for word in words if word is not None and not gap(word)]
    return KeyPattern.of(known) if known else None
