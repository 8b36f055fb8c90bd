"""What stands between the same neighbours elsewhere: in the text itself, and in the text that was learned from.

A small network knows its language and not this file; a file repeats itself. So to the network's law of a token are added the
tokens that stand elsewhere between the same one, two and three tokens on both sides, longer contexts counting for more, as in
n-grams with Witten-Bell back-off (Witten and Bell 1991; a cache: Kuhn and De Mori 1990):

    p_k(w | context_k) = (c(context_k w) + T p_(k-1)(w)) / (c(context_k) + T),        p_0 the network's,

T the number of different tokens seen there. What is asked about is never among what is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

REACH = 3
"""Neighbours on each side that are looked at."""
MOST = 4096
"""Places that are counted for one context."""


@dataclass(frozen=True, eq=False)
class Source:
    """A text (n,) of tokens in which to look up what stands between others."""

    tokens: np.ndarray

    @cached_property
    def base(self) -> int:
        """More than any token."""
        return int(self.tokens.max(initial=0)) + 1

    def _sorted(self, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
        """Places in the order of the pair of tokens that stands at these distances from them, and the pairs in that order."""
        place = np.arange(2, len(self.tokens) - 2)
        pairs = self.tokens[place + first].astype(np.int64) * self.base + self.tokens[place + second]
        order = np.argsort(pairs, kind="stable")
        return place[order].astype(np.int32), pairs[order]

    @cached_property
    def _around(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted(-1, 1)

    @cached_property
    def _after(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted(-2, -1)

    @cached_property
    def _before(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sorted(1, 2)

    def places(self, left: Sequence[int], right: Sequence[int]) -> np.ndarray:
        """Where these tokens stand on the left and on the right, at most MOST places: of one side alone two at least."""
        if left and right:
            pair, index = (left[-1], right[0]), self._around
        elif len(left) > 1:
            pair, index = (left[-2], left[-1]), self._after
        elif len(right) > 1:
            pair, index = (right[0], right[1]), self._before
        else:
            return np.zeros(0, dtype=np.int64)
        if max(pair) >= self.base:
            return np.zeros(0, dtype=np.int64)
        order, pairs = index
        first, last = np.searchsorted(pairs, pair[0] * self.base + pair[1] + np.array([0, 1]))
        found = order[first : last : 1 + (last - first) // MOST].astype(np.int64)
        for distance, token in [(-i, t) for i, t in enumerate(reversed(left), 1)] + list(enumerate(right, 1)):
            at = found + distance
            inside = (at >= 0) & (at < len(self.tokens))
            found = found[inside & (self.tokens[at.clip(0, len(self.tokens) - 1)] == token)]
        return found


@dataclass(frozen=True, eq=False)
class Echo:
    """The sources, the nearer later, and the first token that is no text."""

    sources: tuple[Source, ...]
    end: int

    def mixed(
        self, law: np.ndarray, left: Sequence[int], right: Sequence[int], skip: tuple[int, int] = (-1, -1)
    ) -> np.ndarray:
        """A law (V,) of the token between known neighbours, the nearest ones next to it, and what stands there elsewhere.

        skip: places [first, last) of the last source that are not counted: what is asked about stands there.
        """
        law = law.copy()
        for number, source in enumerate(self.sources):
            asked: tuple[Sequence[int], Sequence[int]] | None = None
            for reach in range(1, REACH + 1):
                sides = left[-reach:], right[:reach]
                if sides == asked:
                    break
                asked = sides
                places = source.places(*sides)
                if number == len(self.sources) - 1:
                    places = places[(places < skip[0]) | (places >= skip[1])]
                there = source.tokens[places]
                kinds, counts = np.unique(there[there < self.end], return_counts=True)
                if len(kinds):
                    law *= len(kinds) / (counts.sum() + len(kinds))
                    law[kinds] += counts / (counts.sum() + len(kinds))
        return law


def known_around(tokens: np.ndarray, place: int, open_: np.ndarray) -> tuple[list[int], list[int]]:
    """The known tokens next to a place of tokens (n,), up to REACH on each side and none beyond an open one (n,)."""
    left, right = [], []
    for at in range(place - 1, max(-1, place - 1 - REACH), -1):
        if open_[at]:
            break
        left.append(int(tokens[at]))
    for at in range(place + 1, min(len(tokens), place + 1 + REACH)):
        if open_[at]:
            break
        right.append(int(tokens[at]))
    return left[::-1], right
