"""Rows of a table as data, x = {"states", "values"}, and back.

states  int64 (C,)     the state of each learned column, counted from 0 within the column
values  float32 (N,)   the value of each column that has bins; its weight is 0 where the state is no bin
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sfumato.data.dataset import split
from sfumato.data.errors import shown
from sfumato.diffusion.rng import Streams, key
from sfumato.errors import DataError
from sfumato.fields.tables.columns import SINGLE, decode, located, normal
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.kinds import key_word
from sfumato.fields.tables.table import Column, Table

TIMES, MOST = 16, 4_000_000
"""Places that a value gets on its flat piece in training; items of the data in all, where that is more than the rows."""
SHARED = 4 * SINGLE
"""Length from which a flat piece is that of a value of several rows."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as the model knows them; a data set.

    Args:
        states: int64 (n, C). values: float32 (n, N). live: bool (n, N), where the state is a bin.
        low, wide: float32 (n, N), where the flat piece of each value begins, and how long it is.
        hashes: uint64 (n,), of the rows' contents. names: of the columns that have values, (N,).
    """

    states: np.ndarray
    values: np.ndarray
    live: np.ndarray
    low: np.ndarray
    wide: np.ndarray
    hashes: np.ndarray
    names: tuple[str, ...]
    buckets = None

    def __len__(self) -> int:
        return len(self.states)

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """{"x": {"states", "values"}, "weight": {"values"}}; without values where no column has any."""
        x = {"states": torch.from_numpy(self.states[indices])}
        if not self.values.shape[1]:
            return {"x": x}
        x["values"] = torch.from_numpy(self.values[indices])
        return {"x": x, "weight": {"values": torch.from_numpy(self.live[indices].astype(np.float32))}}

    def name(self, index: int) -> str:
        return f"row {index + 1}"

    def take(self, rows: np.ndarray) -> Rows:
        return Rows(
            self.states[rows], self.values[rows], self.live[rows], self.low[rows], self.wide[rows], self.hashes[rows],
            self.names,
        )  # fmt: skip

    def anew(self) -> Rows | Anew:
        """The same to be learned from: see :class:`Anew`."""
        times = min(TIMES, MOST // max(1, len(self)))
        return Anew(self, times) if times > 1 and bool((self.wide > SHARED).any()) else self


@dataclass(frozen=True, eq=False)
class Anew:
    """Rows each of which comes several times, its values elsewhere on their flat pieces; a data set.

    A value that several rows share is a piece of the column's distribution, and where on it a row lies means nothing. If it lay
    at one place for good, that number would name the row, and be learned by heart (so noise that makes pictures of whole
    numbers continuous is drawn anew each time; Theis et al. 2016, arXiv 1511.01844).

    Args:
        times: items of each row; item i is of row i modulo their number.
    """

    rows: Rows
    times: int
    buckets = None

    def __len__(self) -> int:
        return len(self.rows) * self.times

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """As of the rows."""
        time, row = np.divmod(np.asarray(indices), len(self.rows))
        found, rows = self.rows.batch(row), self.rows
        hashes = rows.hashes[row] + time.astype(np.uint64) * GOLDEN
        chance = np.stack([_chance(hashes, name) for name in rows.names], 1)
        moved = normal(rows.low[row] + chance * rows.wide[row]).astype(np.float32)
        here = rows.live[row] & (rows.wide[row] > SHARED)
        found["x"]["values"] = torch.from_numpy(np.where(here, moved, rows.values[row]))
        return found

    def name(self, index: int) -> str:
        return self.rows.name(index % len(self.rows))

    def anew(self) -> Anew:
        """These, which are that already."""
        return self


def rows_of(table: Table, facts: Facts) -> Rows:
    """A table of the same columns, row by row.

    Raises:
        DataError: a column that is missing, or a cell that never occurred.
    """
    n, learned = len(table), facts.learned
    states = np.zeros((n, len(learned)), dtype=np.int64)
    values, low, wide = (np.zeros((n, len(facts.valued)), dtype=np.float32) for _ in range(3))
    hashes = table.hashes()
    valued = iter(range(len(facts.valued)))
    for i, column in enumerate(learned):
        name = column.kind.name
        if name not in table.names:
            raise DataError(f"the table lacks column {shown(name)!r}")
        states[:, i], begin, end = located(table[name], column, facts.knots.get(name))
        if column.bins:
            j = next(valued)
            low[:, j], wide[:, j] = begin, end - begin
            value = normal(begin + _chance(hashes, name) * (end - begin))
            values[:, j] = np.where(states[:, i] >= column.first_bin, value, 0.0)
    firsts = np.array([learned[i].first_bin for i in facts.valued], dtype=np.int64)
    names = tuple(learned[i].kind.name for i in facts.valued)
    return Rows(states, values, states[:, facts.valued] >= firsts, low, wide, hashes, names)


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _chance(hashes: np.ndarray, name: str) -> np.ndarray:
    """A uniform number for each row, by its content and the column alone (splitmix64, Steele 2014)."""
    word = hashes + np.uint64(key("tables", name) * int(GOLDEN) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    return ((word ^ (word >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def table_of(states: np.ndarray, values: np.ndarray, facts: Facts, numbers: Sequence[int], seed: int = 0) -> Table:
    """Rows (n, C) and (n, N) as a table with all the columns of the file; derived ones are empty yet.

    Args:
        numbers: of the samples: they count keys, and choose among rare categories together with ``seed``.
    """
    counted = np.asarray(numbers, dtype=np.int64)
    chance = Streams(key("tables", "rare", seed), counted.tolist()).uniform(
        (len(counted), len(facts.columns)), torch.float64
    )
    place = {i: j for j, i in enumerate(facts.valued)}
    columns, i = [], 0
    for each, drawn in zip(facts.columns, chance.T.numpy()):
        kind = each.kind
        if kind.kind == "constant":
            cells: list[str | None] = [kind.word] * len(counted)
        elif kind.kind == "key":
            cells = [key_word(kind, number) for number in counted.tolist()]
        elif kind.name in facts.rules.columns:
            cells = [None] * len(counted)
        else:
            value = values[:, place[i]] if i in place else np.zeros(len(counted), dtype=np.float32)
            cells = decode(states[:, i], value, each, facts.knots.get(kind.name), drawn, counted)
            i += 1
        columns.append(Column.of(kind.name, cells, kind.type))
    return Table(tuple(columns), facts.format)


def parts(table: Table, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (train, held out), by the rows' content: no copy of a training row is held out."""
    return split(table.keys(), held_out)
