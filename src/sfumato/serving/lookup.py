"""Lookups: at which times a row will stand is known before it begins. So the coefficients of every time of a grid are worked out
once, for all that ever walk it, and a step of a batch looks up those of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_not
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import tree
from sfumato.diffusion.coefficients import LOOKUP
from sfumato.diffusion.tree import Tree

MOST = 1 << 13
"""Times of one :class:`Worked`, about; beyond it another is begun."""
RULES = 64
"""Rules whose coefficients it keeps."""


# ---- of one row --------------------------------------------------------------------------------------------------------


class Times:
    """The times of a walk of one row: n + 1 trees with leaves (1,), or (1, L) where each token has its own.

    Args:
        stacked: the same as one tree, (n + 1, 1) or (n + 1, 1, L).
    """

    def __init__(self, stacked: Tree):
        self.stacked = stacked
        self.leaves = tree.leaves(stacked)
        self.keys = [leaf.cpu().numpy().tobytes() if leaf.ndim == 2 else b"" for leaf in self.leaves]

    @classmethod
    def of(cls, times: Any, dtype: torch.dtype, device: torch.device) -> Times:
        """Of a walk of one row, however they are given: a tensor (n + 1,), (n + 1, 1) or (n + 1, 1, L), or n + 1 trees of
        leaves (), (1,) or (1, L)."""

        def shaped(*own: Tensor) -> Tensor:
            all_times = own[0] if len(own) == 1 else torch.stack(own)
            return (all_times[:, None] if all_times.ndim == 1 else all_times).to(device, dtype)

        return cls(shaped(times) if isinstance(times, Tensor) else tree.each(shaped, *times))

    def __len__(self) -> int:
        return len(self.leaves[0])

    def __getitem__(self, place: int) -> Tree:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return tree.each(lambda leaf: leaf[place], self.stacked)

    def __iter__(self) -> Iterator[Tree]:
        return map(self.__getitem__, range(len(self)))


# ---- of many -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Worked:
    """Single times of many walks on one device, one walk after the other, and what rules made of them."""

    times: Tensor
    begins: dict[bytes, int] = field(default_factory=dict)
    walks: list[Tensor] = field(default_factory=list)
    found: dict[Any, tuple[int, tuple[Tensor, ...]]] = field(default_factory=dict)

    def begin(self, key: bytes, times: Tensor) -> int:
        """The place of the first of a walk's times (n + 1, 1)."""
        if key not in self.begins:
            self.begins[key] = len(self.times)
            self.walks.append(times[:, 0])
            self.times = torch.cat([self.times, times[:, 0]])
        return self.begins[key]

    def coefficients(self, rule: Callable[..., Any], owner: Any, ahead: tuple[int, ...]) -> tuple[Tensor, ...]:
        """What a rule says at each place of the time there, and of those so many steps ahead in its walk (of its last or first
        one beyond the ends)."""
        key = rule, owner, ahead
        done, found = self.found.get(key, (0, ()))
        if done < len(self.walks):
            if done == 0 and len(self.found) >= RULES:
                self.found.clear()
            new = self.walks[done:]
            more = rule(owner, *(torch.cat([_shifted(walk, by) for walk in new]) for by in ahead))
            found = tuple(more) if not found else tuple(torch.cat(pair) for pair in zip(found, more, strict=True))
            self.found[key] = len(self.walks), found
        return found


def _shifted(walk: Tensor, by: int) -> Tensor:
    if by == 0:
        return walk
    return walk[(torch.arange(len(walk), device=walk.device) + by).clamp(0, len(walk) - 1)]


class Lookups:
    """What was worked out for all walks: one for each device and type, the last one begun."""

    def __init__(self) -> None:
        self.last: dict[Any, Worked] = {}

    def room(self, leaves: Sequence[Tensor], keys: Sequence[bytes]) -> Worked:
        """One with room for these walks (n + 1, 1)."""
        kind = leaves[0].device, leaves[0].dtype
        worked = self.last.get(kind)
        if worked is None or (len(worked.times) > MOST and any(key not in worked.begins for key in keys)):
            worked = self.last[kind] = Worked(leaves[0].new_empty(0))
        return worked


@dataclass(frozen=True, eq=False)
class Stand:
    """Where the times of a tensor stand among those worked out: the lookup that it bears.

    Args:
        places: (B,). rows: things that say which rows these are: only times of the same rows are looked up together. ahead:
            steps since those began to walk together.
    """

    worked: Worked
    places: Tensor
    rows: tuple[Any, ...]
    ahead: int

    def __call__(
        self, rule: Callable[..., Any], owner: Any, times: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...] | None:  # fmt: skip
        by = []
        for each in times:
            stand = getattr(each, LOOKUP, None)
            if (
                not isinstance(stand, Stand)
                or len(stand.rows) != len(self.rows)
                or any(map(is_not, stand.rows, self.rows))
            ):
                return None
            by.append(stand.ahead - self.ahead)
        found = self.worked.coefficients(rule, owner, tuple(by))
        return tuple(values.index_select(0, self.places) for values in found)

    def times(self) -> Tensor:
        """The times (B,), which bear this lookup."""
        t = self.worked.times.index_select(0, self.places)
        setattr(t, LOOKUP, self)
        return t


class Stops:
    """The times at which rows that walk together stand, step after step.

    Args:
        walks: the times of each row, of one form. places: where it is on its way.
    """

    def __init__(self, lookups: Lookups, walks: Sequence[Times], places: Sequence[int]):
        self.walks, self.places = walks, list(places)
        self.begins: list[tuple[Worked, Tensor] | None] = []
        for j, leaf in enumerate(walks[0].leaves):
            if leaf.ndim != 2:
                self.begins.append(None)
                continue
            own, keys = [each.leaves[j] for each in walks], [each.keys[j] for each in walks]
            worked = lookups.room(own, keys)
            first = [worked.begin(key, leaf) + place for key, leaf, place in zip(keys, own, places, strict=True)]
            self.begins.append((worked, torch.tensor(first, device=leaf.device)))

    def at(self, ahead: int) -> Tree:
        """The times so many steps from where they began to walk together: leaves (B,) or (B, L)."""
        if isinstance(self.walks[0].stacked, Tensor):
            return self._leaf(0, ahead)
        j = iter(range(len(self.begins)))
        return tree.each(lambda _: self._leaf(next(j), ahead), self.walks[0].stacked)

    def _leaf(self, j: int, ahead: int) -> Tensor:
        if (begun := self.begins[j]) is not None:
            worked, first = begun
            return Stand(worked, first + ahead, (self,), ahead).times()
        return torch.cat([walk.leaves[j][place + ahead] for walk, place in zip(self.walks, self.places, strict=True)])


def some(times: Tree, which: Tensor) -> Tree:
    """The times of some of the rows, looked up as those were."""

    def of(t: Tensor) -> Tensor:
        stand = getattr(t, LOOKUP, None)
        if not isinstance(stand, Stand):
            return t[which.to(t.device)]
        places = stand.places.index_select(0, which.to(t.device))
        return Stand(stand.worked, places, (*stand.rows, which), stand.ahead).times()

    return tree.each(of, times)
