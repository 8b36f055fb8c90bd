"""Keys that are made: to the pattern of the real ones, each once, none a real one.

    N10156, N102UW   ->   shapes N99999 (many), N999AA (some): of each place the characters that were seen there
    1, 2, 3          ->   numbers, which go on where the data stop

A key is data where its words mean something (an airport); then it is kept, or its table is. A made one means nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from sfumato.errors import DataError

FINE, MOST_SHAPES = 64, 256
"""Shapes up to which letters, small letters and digits are told apart, and those that are kept."""
TRIES = 200
"""Times that a made key which exists already is made again."""


@dataclass(frozen=True)
class KeyPattern:
    """What keys look like.

    Args:
        next: the first number that is free, of keys that are whole numbers; else there are shapes.
        shapes: (number of real keys, the characters of each place).
    """

    next: int | None = None
    shapes: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def plain(self) -> dict[str, Any]:
        return {"next": self.next, "shapes": [[count, list(places)] for count, places in self.shapes]}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> KeyPattern:
        shapes = tuple((int(count), tuple(map(str, places))) for count, places in plain["shapes"])
        return cls(None if plain["next"] is None else int(plain["next"]), shapes)

    @classmethod
    def of(cls, words: Sequence[str]) -> KeyPattern:
        """The pattern of these keys (one at least)."""
        if all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", word) for word in words):
            return cls(next=max(map(int, words)) + 1)
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
        return str(self.next) if self.next is not None else "".join(place[0] for place in self.shapes[0][1])

    def make(self, n: int, rng: np.random.Generator, taken: set[str], what: str = "keys") -> list[str]:
        """n keys, of which none is in ``taken``, nor twice.

        Raises:
            DataError: hardly any are left to be made.
        """
        if self.next is not None:
            first = max([self.next, *(int(word) + 1 for word in taken if re.fullmatch(r"-?\d{1,18}", word))])
            return [str(first + i) for i in range(n)]
        shares = np.array([count for count, _ in self.shapes], dtype=np.float64)
        found: list[str] = []
        known = set(taken)
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
        if len(found) < n:
            raise DataError(
                f"{what}: {len(found)} new ones like {self.example()!r} could be made, {n} are wanted; ask for fewer rows"
            )
        return [found[i] for i in rng.permutation(n).tolist()]


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
