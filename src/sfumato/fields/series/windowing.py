"""Windows of series as items of a data set: white numbers of a horizon, and what tells of its past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sfumato.fields.series import base as bases
from sfumato.fields.series.base import Base, Table, Track
from sfumato.fields.series.white import MASKS, MOST, White, masks

SHARES = 5
"""One in so many items has part of its future known."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows as items. Of every ``rounds`` rounds over them one has part of the future known, by a mask that is the item's own.

    All series stand one after the other: ``values`` and ``filled`` with a past of NaN before each and a horizon of NaN after it,
    ``clock``, ``known``; ``table`` all rows; ``at`` (N,) where the origin of a row stands among the values, ``hour`` (N,) among
    the clocks, ``told`` (N,) among the covariates, and ``last`` (N,) the last of its series there."""

    base: Base
    values: np.ndarray
    filled: np.ndarray
    clock: np.ndarray
    known: np.ndarray
    table: Table
    at: np.ndarray
    hour: np.ndarray
    told: np.ndarray
    last: np.ndarray
    rounds: int = SHARES
    buckets: None = None

    @cached_property
    def white(self) -> White:
        """Residuals to white numbers."""
        return White(self.base.root)

    @cached_property
    def masks(self) -> np.ndarray:
        """Those that are learned with."""
        return masks(self.base.outlook.horizon)

    @cached_property
    def whiteners(self) -> np.ndarray:
        """What whitens residuals of which a mask's are known."""
        return self.white.whiteners(self.masks).astype(np.float32)

    def __len__(self) -> int:
        return len(self.at) * self.rounds

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """{"x" (H,) white, "weight" (H,), "told" (D,), "around" (2 H,)} of each."""
        indices = np.asarray(indices)
        row, leads = indices % len(self.at), np.arange(self.base.outlook.horizon)
        table, at = part(self.table, row), self.at[row][:, None]
        past = self.filled[at + np.arange(-self.base.outlook.past, 0)]
        ahead = np.zeros((len(row), 0))
        if self.known.shape[1]:
            ahead = self.known[np.minimum(self.told[row][:, None] + leads, self.last[row][:, None])].reshape(
                len(row), -1
            )
        left = self.base.left(table, self.values[at + leads])
        there = np.isfinite(left)
        which = np.where(indices // len(self.at) == self.rounds - 1, (indices * 7919 + 13) % MASKS, -1)
        which = which if self.rounds > 1 else np.full(len(row), -1)
        known = np.where((which >= 0)[:, None], self.masks[which], False) & there
        x = self._white(left, known, there, which)
        return {
            "x": np.where(known, 0, x).astype(np.float32),
            "weight": (there & ~known).astype(np.float32),
            "told": bases.told(past, table, self.clock[self.hour[row]], ahead),
            "around": around(left, known, self.base),
        }

    def _white(self, left: np.ndarray, known: np.ndarray, there: np.ndarray, which: np.ndarray) -> np.ndarray:
        """White numbers; of masks that are learned with by matrices worked out once."""
        quick = (which >= 0) & there.all(1)
        made = np.empty_like(left)
        made[~quick] = self.white.white(left[~quick], known[~quick], there[~quick])
        made[quick] = np.clip(np.einsum("nij,nj->ni", self.whiteners[which[quick]], left[quick]), -MOST, MOST)
        return made

    def name(self, index: int) -> str:
        return f"window {index % len(self.at)}"


def around(left: np.ndarray, known: np.ndarray, base: Base) -> np.ndarray:
    """What a network is told of the part of the future that is known: its residuals in spreads of their lead, and where."""
    spread = np.sqrt((base.root**2).sum(1))
    return np.concatenate((np.clip(np.where(known, left, 0) / spread, -6, 6), known), 1).astype(np.float32)


def part(table: Table, rows: np.ndarray) -> Table:
    """Some rows of a table."""
    return Table(*(getattr(table, name)[rows] for name in Table.__dataclass_fields__))


def windows(base: Base, tracks: Sequence[Track], origins: Sequence[np.ndarray], rounds: int = SHARES) -> Windows:
    """Windows after these origins of each series."""
    past, leads = base.outlook.past, base.outlook.horizon
    before, after = np.full(past, np.nan), np.full(leads, np.nan)
    every = [(track, own) for track, own in zip(tracks, origins) if len(own)]
    tables = [slim(base.table(track, own)) for track, own in every]
    steps = np.array([len(track.values) for track, _ in every])
    many = np.array([len(track.known) for track, _ in every])
    begins = np.cumsum(np.concatenate(([0], steps + past + leads)))[:-1] + past
    hours, told = (np.cumsum(np.concatenate(([0], each)))[:-1] for each in (steps + 1, many))

    def rows(of: np.ndarray) -> np.ndarray:
        return np.concatenate([begin + own for begin, (_, own) in zip(of, every)])

    last = np.concatenate([np.full(len(own), begin + count - 1) for begin, count, (_, own) in zip(told, many, every)])
    return Windows(
        base,
        np.concatenate([part for track, _ in every for part in (before, track.values, after)]),
        np.concatenate([part for track, _ in every for part in (before, track.filled, after)]),
        np.concatenate([track.clock for track, _ in every]),
        np.concatenate([track.known for track, _ in every]),
        joined(tables),
        rows(begins),
        rows(hours),
        rows(told),
        np.maximum(last, 0),
        rounds,
    )


def joined(tables: Sequence[Table]) -> Table:
    """Tables, one after the other."""
    return Table(*(np.concatenate([getattr(each, name) for each in tables]) for name in Table.__dataclass_fields__))


def slim(table: Table) -> Table:
    """A table whose large parts take half the memory; shift and size stay exact, which values are subtracted from."""
    small = {name: getattr(table, name).astype(np.float32) for name in ("mean", "second", "errors")}
    return replace(table, **small)
