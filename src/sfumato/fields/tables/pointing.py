"""Which parent a drawn row points at, and what stands in its cells then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sfumato.fields.tables.columns import encode
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.families import ranks
from sfumato.fields.tables.joining import beside
from sfumato.fields.tables.linked import NONE, Orphans, beside_name, tuples
from sfumato.fields.tables.schema import Link
from sfumato.fields.tables.table import Column, Table

TRIES = 100
"""Times that a key of several columns which exists already is made again."""


def places(counts: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n numbers below len(counts), each about in proportion to its count, in random order: (n,)."""
    if not counts.sum():
        return rng.integers(0, len(counts), n)
    wanted = counts * (n / counts.sum())
    whole = np.floor(wanted).astype(np.int64)
    rest = n - int(whole.sum())
    if rest:
        part = wanted - whole
        more = rng.choice(len(counts), rest, p=part / part.sum(), replace=bool(rest > np.count_nonzero(part)))
        np.add.at(whole, more, 1)
    return rng.permutation(np.repeat(np.arange(len(counts)), whole))


def cells_of(parent: Table, link: Link, rows: np.ndarray, lost: Orphans, rng: np.random.Generator) -> dict[str, Column]:
    """The cells of a link: keys of the parent's rows, gaps for -2, keys that nothing has for -1."""
    columns = {name: beside(parent[to], name, rows) for name, to in zip(link.columns, link.to, strict=True)}
    alone = np.flatnonzero(rows == -1)
    words: Sequence[Sequence[str | None]]
    if len(link.columns) == 1 and lost.pattern is not None:
        ghosts = places(np.array(lost.counts, dtype=np.float64), len(alone), rng)
        used, ghosts = np.unique(ghosts, return_inverse=True)
        words = [lost.pattern.make(len(used), rng, {str(w) for w in parent[link.to[0]].words}, link.columns[0])]
    else:
        words, ghosts = _strangers(parent, link, len(alone), rng), np.arange(len(alone))
    found = {}
    for column, made in zip(columns.values(), words, strict=True):
        cells = column.cells()
        for row, ghost in zip(alone.tolist(), ghosts.tolist()):
            cells[row] = made[ghost]
        found[column.name] = Column.of(column.name, [lost.gap if cell == NONE else cell for cell in cells], column.type)
    return found


def _strangers(parent: Table, link: Link, n: int, rng: np.random.Generator) -> list[list[str | None]]:
    """Keys of several columns that no row of the parent has, of cells that its rows do have; column by column."""
    known = set(tuples(parent, link.to)[1])
    parts = [parent[name].cells() for name in link.to]
    found: list[tuple[str | None, ...]] = []
    for _ in range(TRIES * max(1, n)):
        if len(found) == n:
            break
        cells = tuple(part[rng.integers(len(part))] for part in parts)
        if cells not in known:
            found.append(cells)
    found += [tuple(None for _ in parts)] * (
        n - len(found)
    )  # every combination exists: a gap is all that points at nothing
    return [list(column) for column in zip(*found)] if found else [[] for _ in parts]


def matched(
    link: Link, lost: Orphans, facts: Facts, body: Table, parent: Table, counts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The parent of each row (n,): of those with places left the one most like the columns that were drawn for it; -1 or -2
    where there is none.

    Args:
        body: of the rows. parent: the body of the parents. counts: how many rows each parent should have.
    """
    known = {states.kind.name: states for states in facts.learned}
    pairs = [(column, beside_name(link, column.name)) for column in parent.columns]
    pairs = [(column, name) for column, name in pairs if name in known]
    n = len(body)
    gone = np.zeros(n, dtype=bool)
    if pairs and lost.share:
        column = body[pairs[0][1]]
        gone = np.array([word == NONE for word in column.words], dtype=bool)[column.codes]
    elif lost.share:
        gone = rng.random(n) < lost.share
    slots = places(counts, int((~gone).sum()), rng)
    codes = [
        (_coarse(body[name], known[name], facts)[~gone], _coarse(column, known[name], facts)[slots])
        for column, name in pairs
    ]
    rows = np.full(n, -1, dtype=np.int64)
    rows[~gone] = slots[assigned([a for a, _ in codes], [b for _, b in codes], len(slots))]
    empty = gone & (rng.random(n) < (lost.missing / lost.share if lost.share else 0.0))
    rows[empty] = -2
    return rows


def _coarse(column: Column, states: Any, facts: Facts) -> np.ndarray:
    """The state of each cell (n,)."""
    return encode(column, states, facts.knots.get(states.kind.name), np.full(len(column.codes), 0.5))[0]


def assigned(wanted: Sequence[np.ndarray], there: Sequence[np.ndarray], n: int) -> np.ndarray:
    """For each of n rows one of n places, each once: (n,). Those that agree in all codes first, then in all but the last, ...

    Args:
        wanted, there: codes of the rows and of the places, (n,) each, column by column.
    """
    found = np.full(n, -1, dtype=np.int64)
    rows, places = np.arange(n), np.arange(n)
    for k in range(len(wanted), -1, -1):
        both = np.zeros((len(rows) + len(places), 1), dtype=np.int64)
        if k:
            both = np.stack([np.concatenate([wanted[j][rows], there[j][places]]) for j in range(k)], 1)
        codes = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
        left, right = (_ranked(part) for part in (codes[: len(rows)], codes[len(rows) :]))
        _, a, b = np.intersect1d(left, right, assume_unique=True, return_indices=True)
        found[rows[a]] = places[b]
        rows, places = np.delete(rows, a), np.delete(places, b)
    return found


def _ranked(codes: np.ndarray) -> np.ndarray:
    """A number of its own for each: its code and which of the equal ones it is."""
    found: np.ndarray = codes.astype(np.int64) * (len(codes) + 1) + ranks(codes)
    return found
