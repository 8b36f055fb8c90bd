"""Two data sets seen as one, in a ratio that one wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sfumato.data.dataset import Dataset
from sfumato.data.errors import DataError


@dataclass(frozen=True, eq=False)
class Joined:
    """All items of ``first``, and of ``second`` about ``share`` times as many: the smaller side comes repeatedly. Conditions of
    different lengths are brought to the longer one, by what a hidden one is (`sfumato.diffusion.hide`).

    Raises DataError where they hold different things: names, shapes or types.
    """

    first: Dataset
    second: Dataset
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.share > 0:
            raise DataError(f"share = {self.share}: must be above 0")
        mine, others = (_shapes(each.batch(np.arange(1))) for each in (self.first, self.second))
        for name in sorted(mine.keys() | others.keys()):
            here, there = mine.get(name, "nothing"), others.get(name, "nothing")
            free = name in self.lengths or (self.first.buckets is not None and name.partition(".")[0] == "x")
            if here != there and not free:
                raise DataError(
                    f"{name}: is {here} of the one and {there} of the other, so they cannot be seen together"
                )

    @cached_property
    def lengths(self) -> dict[str, tuple[int, ...]]:
        """Conditions that differ in nothing but their lengths -> what they are brought to."""
        mine, others = (each.batch(np.arange(1)) for each in (self.first, self.second))
        found = {}
        for name in (mine.keys() & others.keys()) - {"x", "z", "weight"}:
            if isinstance(mine[name], Mapping) or isinstance(others[name], Mapping):
                continue
            here, there = np.asarray(mine[name]), np.asarray(others[name])
            if here.dtype == there.dtype and here.ndim == there.ndim and here.shape != there.shape:
                found[name] = tuple(map(max, zip(here.shape[1:], there.shape[1:], strict=True)))
        return found

    @cached_property
    def order(self) -> np.ndarray:
        """Item -> its number among those of both, first ones first."""
        n, k = len(self.first), len(self.second)
        times = k / (self.share * n)
        mine, others = (max(1, round(times)), 1) if times >= 1 else (1, max(1, round(1 / times)))
        return np.concatenate([np.tile(np.arange(n), mine), np.tile(n + np.arange(k), others)])

    @cached_property
    def buckets(self) -> np.ndarray | None:
        """Those of the first; items of the second are in the one whose items are shaped like them, or in one of their own."""
        mine, others = self.first.buckets, self.second.buckets
        if mine is None and others is None:
            return None
        mine = np.zeros(len(self.first), dtype=np.int64) if mine is None else mine
        others = np.zeros(len(self.second), dtype=np.int64) if others is None else others
        known = {_shape_of(self.first, mine, kind): int(kind) for kind in np.unique(mine)}
        for kind in np.unique(others):
            known.setdefault(_shape_of(self.second, others, kind), len(known) + int(mine.max()) + 1)
        place = {kind: known[_shape_of(self.second, others, kind)] for kind in np.unique(others)}
        every = np.concatenate([mine, np.array([place[kind] for kind in others], dtype=np.int64)])
        found: np.ndarray = every[self.order]
        return found

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """Items of both, in the order that was asked for."""
        which, n = self.order[indices], len(self.first)
        own = which < n
        if own.all():
            return self._long(self.first.batch(which))
        if not own.any():
            return self._long(self.second.batch(which - n))
        parts = self._long(self.first.batch(which[own])), self._long(self.second.batch(which[~own] - n))
        back = np.argsort(np.concatenate([np.flatnonzero(own), np.flatnonzero(~own)]))
        return {name: _rows(parts[0][name], parts[1][name], back) for name in parts[0]}

    def _long(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = dict(batch)
        for name, shape in self.lengths.items():
            value = np.asarray(batch[name])
            blank = {"b": False, "f": 0}.get(value.dtype.kind, -1)
            margins = [(0, 0), *((0, most - size) for most, size in zip(shape, value.shape[1:], strict=True))]
            found[name] = np.pad(value, margins, constant_values=blank)
        return found

    def name(self, index: int) -> str:
        """As the one that it is of calls it."""
        which, n = int(self.order[index]), len(self.first)
        return self.first.name(which) if which < n else self.second.name(which - n)


def _rows(first: Any, second: Any, back: np.ndarray) -> Any:
    if isinstance(first, Mapping):
        return {name: _rows(part, second[name], back) for name, part in first.items()}
    return np.concatenate([np.asarray(first), np.asarray(second)])[back]


def _shapes(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        found = [_shapes(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()]
        return {key: shape for each in found for key, shape in each.items()}
    array = np.asarray(value)
    return {name: f"{array.dtype} {tuple(array.shape[1:])}"}


def _shape_of(data: Dataset, buckets: np.ndarray, kind: int) -> tuple[tuple[str, str], ...]:
    item = data.batch(np.flatnonzero(buckets == kind)[:1])
    return tuple(sorted(_shapes(item["x"], "x").items()))
