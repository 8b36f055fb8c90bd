"""Rows of linked tables as data, from the cache of a run: a batch is of one table, and families are held out whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.arrays import kept_array
from sfumato.data.dataset import MAX_HELD_OUT, split
from sfumato.data.errors import decoding
from sfumato.diffusion.tree import Tree
from sfumato.fields.tables.keeping import kept_table
from sfumato.fields.tables.linked import Linked, Member
from sfumato.fields.tables.rows import MOST, Anew, Rows, rows_of
from sfumato.fields.tables.table import Table
from sfumato.training.run import Run, RunError


@dataclass(frozen=True, eq=False)
class LinkedRows:
    """Rows of several tables, a batch of one of them; a data set.

    Args:
        tables: name -> its rows. table, row: of each item (n,).
    """

    tables: Mapping[str, Rows | Anew]
    table: np.ndarray
    row: np.ndarray

    @property
    def buckets(self) -> np.ndarray:
        return self.table

    def __len__(self) -> int:
        return len(self.table)

    def anew(self) -> LinkedRows:
        """The same to be learned from: of each table as :meth:`Rows.anew` has it."""
        tables = {name: rows.anew() for name, rows in self.tables.items()}
        sizes = np.array([len(rows) for rows in self.tables.values()])
        times = np.array([len(rows) for rows in tables.values()]) // np.maximum(sizes, 1)
        most = int(min(times.max(initial=1), max(1, MOST // max(1, len(self)))))
        turn = [self.row + (k % times)[self.table] * sizes[self.table] for k in range(most)]
        return LinkedRows(tables, np.tile(self.table, most), np.concatenate(turn))

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """{"x": {table: {"states", "values"}}, "weight": {table: {"values"}}}."""
        name = list(self.tables)[int(self.table[indices[0]])]
        found: Tree = self.tables[name].batch(self.row[indices])
        return {key: {name: value} for key, value in found.items()}

    def name(self, index: int) -> str:
        name = list(self.tables)[int(self.table[index])]
        return f"{name}, {self.tables[name].name(int(self.row[index]))}"

    @classmethod
    def of(cls, tables: Mapping[str, Rows], evenly: bool) -> LinkedRows:
        """All rows; ``evenly``: small tables' several times, so that each is seen by the square root of its rows.

        Those of all tables are mixed, so that the first few items are some of each.
        """
        most = max(map(len, tables.values()))
        times = [max(1, round((most / max(1, len(rows))) ** 0.5)) if evenly else 1 for rows in tables.values()]
        table = np.concatenate([np.full(len(rows) * k, i) for i, (k, rows) in enumerate(zip(times, tables.values()))])
        row = np.concatenate([np.tile(np.arange(len(rows)), k) for k, rows in zip(times, tables.values())])
        place = np.concatenate(
            [np.arange(len(rows) * k) / max(1, len(rows) * k) for k, rows in zip(times, tables.values())]
        )
        order = np.argsort(place, kind="stable")
        return cls(tables, table[order], row[order])


def opened(run: Run, facts: Linked, held_out: float) -> tuple[LinkedRows, LinkedRows]:
    """The rows to learn from and those held out, from the run alone. Raises RunError."""
    both: tuple[dict[str, Rows], dict[str, Rows]] = ({}, {})
    for member in facts.learned:
        assert member.facts is not None
        body = body_of(run, member)
        with decoding(run.path, "train again", RunError):
            rows = rows_of(body, member.facts)
        for part, which in zip(both, parts_of(run, member, held_out)):
            part[member.name] = rows.take(which)
    return LinkedRows.of(both[0], True), LinkedRows.of(both[1], False)


def place_of(run: Run, name: str) -> Path:
    """Where the cache of a run keeps a table, whatever characters its name has."""
    return run.cache / "tables" / hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def body_of(run: Run, member: Member) -> Table:
    """The real body of a table."""
    return kept_table(place_of(run, member.name) / "body")


def table_of_run(run: Run, member: Member) -> Table:
    """The real table, as it was read."""
    return kept_table(place_of(run, member.name) / "table")


def sides(groups: np.ndarray, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows to learn from and of those held out. No group is on both sides: of one that is held out the rows
    beyond :data:`MAX_HELD_OUT` in all are on neither, and every group has one before any has two: not its first, for rows that
    are sorted by date would all be early ones."""
    known, group = np.unique(groups, return_inverse=True)
    held = np.zeros(len(known), dtype=bool)
    held[split([each.tobytes() for each in known], held_out)[1]] = True
    out = np.random.default_rng(0).permutation(np.flatnonzero(held[group]))
    return np.flatnonzero(~held[group]), np.sort(out[np.argsort(ranks(group[out]), kind="stable")[:MAX_HELD_OUT]])


def ranks(codes: np.ndarray) -> np.ndarray:
    """Which of the equal ones each is, from 0: (n,)."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    found = np.empty(len(codes), dtype=np.int64)
    found[order] = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    return found


def parts_of(run: Run, member: Member, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows to learn from, and of those held out: children go with their parent."""
    return sides(kept_array(place_of(run, member.name) / "groups.npy", "train again"), held_out)
