r"""Columns as states and values: what a cell *is*, and where it lies.

Every cell has a **state**, a small whole number:

    gaps      one state for each way to leave a cell empty ("", NA, ...)
    words     one for each category; of a number those single values that many rows share (0 in capital gains: 92 %)
    rare      one for all categories with few rows; which one is then drawn by their frequencies
    bins      the other numbers, cut into pieces of equal mass; edges never split a repeated value

and where the state is a bin, a **value**: the place in the bin, as a standard normal number by the empirical distribution.
A value that several rows share is a flat piece of that distribution, so it comes back to the digit; between single values
it is linear. So gaps, exact zeros and repeated values are things that happen, not numbers that are nearly hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.kinds import Kind, key_word
from sfumato.fields.tables.spelling import NEVER_ROUND
from sfumato.fields.tables.table import Column

FEW = 5  # categories with fewer training rows are rare
LEVELS, LEVEL_ROWS = 32, 20  # so few different numbers, with so many rows each, are states one and all
ATOM, MOST_ATOMS = 0.01, 32  # share of the rows from which a single number is a state of its own; how many at most
BINS, BIN_ROWS = 8, 50  # pieces of the other numbers, and the fewest rows of one
MOST_KNOTS = 20_000  # of the distribution of a column's values


# ---- states ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    """The states of a column, fitted on training rows: gaps, words, rare, bins, in this order.

    Args:
        words: categories, or single numbers, as they are spelt.
        rare: (word, training rows) of each category in the rare state.
        edges: between neighbouring bins; bins are one more, or none where ``bins`` is 0.
        distribution: what the values of the bins are distributed like, if there are any: see :class:`Knots`.
    """

    kind: Kind
    words: tuple[str, ...] = ()
    rare: tuple[tuple[str, int], ...] = ()
    edges: tuple[float, ...] = ()
    bins: int = 0

    @property
    def first_bin(self) -> int:
        return len(self.kind.gaps) + len(self.words) + bool(self.rare)

    @property
    def count(self) -> int:
        return self.first_bin + self.bins

    def words_of(self) -> str:
        """What the column is and how it is learned, in words."""
        kind = self.kind
        if kind.kind == "constant":
            return f"constant   always {kind.word!r}"
        if kind.kind == "key":
            return f"key        made anew: {key_word(kind, 0)}, {key_word(kind, 1)}, ..."
        parts = [f"{len(self.words)} words" if kind.kind == "category" else f"{len(self.words)} single values"] * bool(
            self.words
        )
        parts += [f"{len(self.rare)} rare ones as one"] * bool(self.rare)
        parts += [f"{self.bins} bins"] * bool(self.bins)
        parts += ["gaps " + ", ".join("empty" if gap in ("", None) else str(gap) for gap in kind.gaps)] * bool(
            kind.gaps
        )
        if kind.dates is not None:
            parts.append(f"like {kind.spelling.word(0)}")
        elif kind.numbers is not None and kind.numbers.style != "whole" and kind.numbers.decimals < NEVER_ROUND:
            parts.append(f"{kind.numbers.decimals} decimals")
        return f"{kind.kind:<10} {', '.join(parts)}"


@dataclass(frozen=True, eq=False)
class Knots:
    """The distribution of a column's values within their bins.

    Args:
        value: the knots, rising: float64 (k,).
        low, high: where each begins and ends in its bin's unit of mass; next to each other where a single row has it.
        bin: int64 (k,).
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bin: np.ndarray

    def place(self, values: np.ndarray, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where values (n,) begin and end in their bins; those beyond the bin's knots at its end."""
        first, last = np.searchsorted(self.bin, bins, "left"), np.searchsorted(self.bin, bins, "right") - 1
        left = np.clip(np.searchsorted(self.value, values, "right") - 1, first, last)
        right = np.clip(left + 1, first, last)
        here = values <= self.value[left]  # on a knot, or below the first
        gap = np.where(right > left, self.value[right] - self.value[left], 1.0)
        share = np.clip((values - self.value[left]) / gap, 0, 1) * (right > left)
        between = self.high[left] + share * (self.low[right] - self.high[left])
        beyond = (right == left) & ~here
        low = np.where(here | beyond, self.low[left], between)
        high = np.where(here | beyond, self.high[left], between)
        return low, high

    def at(self, place: np.ndarray, bins: np.ndarray) -> np.ndarray:
        """The values at a place (n,) in [0, 1] of bins (n,): the inverse of :meth:`place`."""
        first, last = np.searchsorted(self.bin, bins, "left"), np.searchsorted(self.bin, bins, "right") - 1
        left = np.clip(np.searchsorted(self.bin + self.low, bins + place, "right") - 1, first, last)
        right = np.clip(left + 1, first, last)
        gap = np.where(right > left, self.low[right] - self.high[left], 1.0)
        share = np.clip((place - self.high[left]) / np.where(gap > 0, gap, 1.0), 0, 1) * (gap > 0) * (right > left)
        return self.value[left] + share * (self.value[right] - self.value[left])


def fit(column: Column, kind: Kind, train: np.ndarray, bins: int = BINS) -> tuple[States, Knots | None]:
    """The states of a column, from the training rows alone; words that only other rows have are rare."""
    counts = np.bincount(column.codes[train], minlength=len(column.words))
    words = [(word, int(n)) for word, n in zip(column.words, counts) if word not in kind.gaps and word is not None]
    if kind.kind == "category":
        common = tuple(word for word, n in words if n >= FEW)
        rare = tuple((word, n) for word, n in words if n < FEW)
        if not common:
            common, rare = tuple(word for word, _ in words), ()
        return States(kind, common, rare), None
    spelling = kind.spelling
    total: dict[float, int] = {}
    for word, n in words:
        value = spelling.value(word)
        total[value] = total.get(value, 0) + n
    if not any(total.values()):  # only other rows have numbers: their places do not matter, but must be
        total = dict.fromkeys(total, 1)
    values = np.array(sorted(value for value, n in total.items() if n), dtype=np.float64)
    rows = np.array([total[value] for value in values.tolist()], dtype=np.int64)
    if len(total) <= LEVELS and len(total) == len(values) and rows.sum() >= LEVEL_ROWS * len(values):
        return States(kind, tuple(spelling.word(value) for value in values)), None
    shared = np.flatnonzero((rows >= ATOM * len(train)) & (rows >= FEW))
    atoms = np.sort(shared[np.argsort(-rows[shared], kind="stable")][:MOST_ATOMS])
    rest = np.setdiff1d(np.arange(len(values)), atoms)
    names = tuple(spelling.word(value) for value in values[atoms])
    if not len(rest):  # other rows may still have other values
        rest = np.arange(len(values))
    edges, knots = _cut(values[rest], rows[rest], bins)
    return States(kind, names, (), edges, len(edges) + 1), knots


def _cut(values: np.ndarray, rows: np.ndarray, bins: int) -> tuple[tuple[float, ...], Knots]:
    """Bins of about equal mass, and the distribution within each."""
    below = np.concatenate([[0], np.cumsum(rows)])
    total = int(below[-1])
    bins = max(1, min(bins, total // BIN_ROWS))
    ends = np.unique(np.searchsorted(below[1:], total * np.arange(1, bins) / bins, "left") + 1)
    ends = ends[ends < len(values)]  # the first value of each bin but the first
    halfway = values[ends - 1] / 2 + values[ends] / 2
    edges = tuple(np.where(halfway > values[ends - 1], halfway, values[ends]).tolist())
    which = np.searchsorted(ends, np.arange(len(values)), "right")
    start = below[np.concatenate([[0], ends])][which]
    mass = np.diff(np.concatenate([below[np.concatenate([[0], ends])], [total]]))[which]
    low, high = (below[:-1] - start) / mass, (below[1:] - start) / mass
    # a single value is a flat piece too: as short as float32 allows, so that it comes back, and hardly ever by itself
    middle, half = (low + high) / 2, np.minimum(SINGLE, (high - low) / 4)
    low, high = np.where(rows == 1, middle - half, low), np.where(rows == 1, middle + half, high)
    kept = _thin(rows, which)
    return edges, Knots(values[kept], low[kept], high[kept], which[kept].astype(np.int64))


def _thin(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The knots to keep: the most repeated values, and the others evenly; the ends of every bin always."""
    if len(rows) <= MOST_KNOTS:
        return np.arange(len(rows))
    repeated = np.flatnonzero(rows > 1)
    repeated = repeated[np.argsort(-rows[repeated], kind="stable")][: MOST_KNOTS // 2]
    single = np.flatnonzero(rows == 1)
    spread = single[np.linspace(0, len(single) - 1, MOST_KNOTS - len(repeated)).astype(int)] if len(single) else single
    ends = np.flatnonzero(np.diff(which, prepend=-1) + np.diff(which, append=which[-1] + 1))
    return np.unique(np.concatenate([repeated, spread, ends]))


def encode(column: Column, states: States, knots: Knots | None, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """State (n,) int64 and value (n,) float32 of each row; the value is 0 where the state is no bin.

    Args:
        chance: a uniform number for each row, which says where on a flat piece of the distribution it lies.

    Raises:
        DataError: a word that the column never had, naming its row.
    """
    state, low, high = located(column, states, knots)
    value = np.where(state >= states.first_bin, normal(low + chance * (high - low)), 0.0)
    return state, value.astype(np.float32)


def located(column: Column, states: States, knots: Knots | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State (n,) int64 of each row, and the ends (n,) of the flat piece that it lies on; both 1/2 where the state is no bin.

    Raises:
        DataError: a word that the column never had, naming its row.
    """
    kind = states.kind
    places: dict[str | None, int] = {gap: i for i, gap in enumerate(kind.gaps)}
    if kind.kind == "category":
        places |= {word: len(kind.gaps) + i for i, word in enumerate(states.words)}
        places |= dict.fromkeys((word for word, _ in states.rare), len(kind.gaps) + len(states.words))
    atoms = {} if kind.kind == "category" else {kind.spelling.value(word): i for i, word in enumerate(states.words)}
    of_word = np.full(len(column.words), -1, dtype=np.int64)
    values = np.zeros(len(column.words))
    for i, word in enumerate(column.words):
        if word in places:
            of_word[i] = places[word]
        elif kind.kind != "category" and word is not None:
            values[i] = _value(kind, word, column, i)
            atom = atoms.get(float(values[i]))
            if atom is not None:
                of_word[i] = len(kind.gaps) + atom
            elif states.bins:
                of_word[i] = states.first_bin + np.searchsorted(states.edges, values[i], "right")
    unknown = np.flatnonzero((of_word < 0)[column.codes])
    if len(unknown):
        word = column.words[column.codes[unknown[0]]]
        cell = "an empty cell" if word in (None, "") else f"{shown(str(word))[:40]!r}"
        raise DataError(f"column {shown(kind.name)!r}, row {unknown[0] + 1}: {cell} never occurs in the training table")
    low, high = np.full(len(of_word), 0.5), np.full(len(of_word), 0.5)
    if states.bins:
        assert knots is not None
        inside = np.flatnonzero(of_word >= states.first_bin)
        ends = knots.place(values[inside], of_word[inside] - states.first_bin)
        margin = np.minimum(ROUNDING, (ends[1] - ends[0]) / 4)
        low[inside], high[inside] = ends[0] + margin, ends[1] - margin
    return of_word[column.codes], low[column.codes], high[column.codes]


def _value(kind: Kind, word: str, column: Column, i: int) -> float:
    try:
        return kind.spelling.value(word)
    except ValueError:
        row = int(np.flatnonzero(column.codes == i)[0]) + 1 if (column.codes == i).any() else 0
        raise DataError(f"column {shown(kind.name)!r}, row {row}: {shown(word)[:40]!r} is no {kind.kind}") from None


ROUNDING = 2e-8  # of the distribution of a normal number in float32: half an ulp is at most 1.5e-8
SINGLE = 3 * ROUNDING
NORMAL_END = 4.0  # the first and last of a bin's rows lie at most this far out


def normal(place: np.ndarray) -> np.ndarray:
    """The standard normal numbers at these places of their distribution."""
    found: np.ndarray = torch.special.ndtri(torch.from_numpy(np.ascontiguousarray(place))).numpy()
    return found.clip(-NORMAL_END, NORMAL_END)


def decode(
    state: np.ndarray, value: np.ndarray, states: States, knots: Knots | None, chance: np.ndarray, numbers: np.ndarray
) -> list[str | None]:
    """The cells (n,) of states and values; ``chance`` draws among the rare, ``numbers`` (n,) count keys."""
    kind = states.kind
    words: list[str | None] = [*kind.gaps, *states.words]
    if states.rare:
        words.append(None)
    found: list[str | None] = [words[i] if i < len(words) else None for i in state.tolist()]
    if states.rare:
        rows = np.flatnonzero(state == len(words) - 1)
        shares = np.cumsum([max(n, 0) for _, n in states.rare], dtype=np.float64)
        shares = np.arange(1.0, 1 + len(shares)) if shares[-1] == 0 else shares
        drawn = np.searchsorted(shares, chance[rows] * shares[-1], "right").clip(0, len(shares) - 1)
        for row, i in zip(rows.tolist(), drawn.tolist()):
            found[row] = states.rare[i][0]
    if states.bins:
        assert knots is not None
        rows = np.flatnonzero(state >= states.first_bin)
        place = torch.special.ndtr(torch.from_numpy(value[rows].astype(np.float64))).numpy()
        spelling = kind.spelling
        for row, at in zip(rows.tolist(), knots.at(place, state[rows] - states.first_bin).tolist()):
            found[row] = spelling.word(at)
    return found
