"""How alike two tables are, column by column and pair by pair: shape, trend, gaps and single values, patterns of gaps."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np

from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.frames import Frame
from sfumato.fields.tables.table import Table

DECIMALS = 14  # to which numbers are rounded before they are compared, as SDMetrics does


def shape(real: Frame, made: Frame) -> float:
    """Mean over columns of 1 - Kolmogorov-Smirnov distance (numbers) and 1 - total variation (categories), gaps left out:
    "column shapes" of SDMetrics' quality report."""
    return float(np.nanmean(shapes(real, made)))


def shapes(real: Frame, made: Frame) -> np.ndarray:
    """The same of each column: (C,); 0 where one of the tables has only gaps, NaN where both have."""
    scores = np.full(len(real.words), np.nan)
    for i, word in enumerate(real.words):
        a, b = (frame.cells[:, i] for frame in (real, made))
        a, b = (values[~np.isnan(values)] for values in (a, b))
        if len(a) and len(b):
            scores[i] = 1 - (_variation(a, b) if word else _kolmogorov(a, b))
        elif len(a) or len(b):
            scores[i] = 0.0
    return scores


def _kolmogorov(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.sort(a.round(DECIMALS)), np.sort(b.round(DECIMALS))
    at = np.concatenate([a, b])
    below = [np.searchsorted(x, at, "right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _variation(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation of two lists of whole numbers from 0."""
    most = int(max(a.max(), b.max())) + 1
    shares = [np.bincount(x.astype(np.int64), minlength=most) / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def trend(real: Frame, made: Frame, one_range: bool = False) -> float:
    """Mean over pairs of columns of 1 - |r - r'| / 2 (two numbers; r is Pearson's) and 1 - total variation of their joint
    table (otherwise; numbers in 10 equal steps of each table's own range, a gap is a word): "column pair trends" of
    SDMetrics' quality report. A made column of one value goes with no other. NaN where a table has one column.

    Args:
        one_range: the steps are those of the real table for both. Where each has its own, a single far value moves all ten, and
            even two halves of a real table are unlike each other (the credit cards of benchmarks/tables.py: .85, and .98 so).
    """
    steps = [
        [_steps(frame.cells[:, i], word, real.cells[:, i] if one_range else None) for i, word in enumerate(frame.words)]
        for frame in (real, made)
    ]
    scores = []
    for i, j in combinations(range(len(real.words)), 2):
        if real.words[i] or real.words[j]:
            most = 1 + max(int(step[j].max()) for step in steps)
            joint = [step[i] * most + step[j] for step in steps]
            scores.append(1 - _joint(*joint))
        else:
            r = [pearson(frame.cells[:, i], frame.cells[:, j]) for frame in (real, made)]
            if not math.isnan(r[0]):
                scores.append(1 - abs(r[0] - np.nan_to_num(r[1])) / 2)
    return float(np.mean(scores)) if scores else math.nan


def _joint(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation of two lists of codes, however large."""
    codes = np.unique(np.concatenate([a, b]), return_inverse=True)[1]
    return _variation(codes[: len(a)], codes[len(a) :])


def _steps(values: np.ndarray, word: bool, of: np.ndarray | None = None) -> np.ndarray:
    """Whole numbers for the values: of words their own, of numbers the step of the range (of ``of``, else their own)."""
    if not word:
        known = values if of is None else of
        known = known[~np.isnan(known)]
        edges = np.histogram_bin_edges(known) if len(known) else np.zeros(2)
        return np.digitize(values, edges)
    return np.where(np.isnan(values), 0, values + 1).astype(np.int64)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the rows in which both are known; NaN where there is none."""
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)))


# ---- gaps and atoms --------------------------------------------------------------------------------------------------


def shares(real: Table, made: Table, facts: Facts) -> np.ndarray:
    """|share - real share| of each gap and each atom of a number or date: what is no smooth value, (k,)."""
    off = []
    for states in facts.learned:
        kind = states.kind
        single = () if kind.kind == "category" else states.words
        columns = [table[kind.name] for table in (real, made)]
        counts = [dict(zip(column.words, column.counts() / len(column.codes))) for column in columns]
        off += [abs(counts[0].get(word, 0.0) - counts[1].get(word, 0.0)) for word in (*kind.gaps, *single)]
    return np.array(off)


def patterns(real: Frame, made: Frame) -> float:
    """Total variation of which cells of a row are empty; 0 where nothing ever is."""
    both = np.packbits(np.isnan(np.concatenate([real.cells, made.cells])), axis=1)
    codes = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    return _variation(codes[: len(real)], codes[len(real) :])


# ---- how columns go together -----------------------------------------------------------------------------------------


def associations(frame: Frame) -> np.ndarray:
    """How strongly each pair of columns goes together, (C, C) from 0 to 1, NaN where that cannot be said: |correlation| of
    two numbers, Cramer's V (1946) of two categories, the correlation ratio (Pearson 1905) of a number and a category.
    A gap of a category is a word; rows with a gap in a number are left out of its pairs."""
    count = len(frame.words)
    found = np.eye(count)
    for i, j in combinations(range(count), 2):
        a, b = frame.cells[:, i], frame.cells[:, j]
        if frame.words[i] and frame.words[j]:
            value = _cramer(_steps(a, True), _steps(b, True))
        elif frame.words[i] or frame.words[j]:
            value = _ratio(*((a, b) if frame.words[i] else (b, a)))
        else:
            value = abs(pearson(a, b))
        found[i, j] = found[j, i] = value
    return found


def _cramer(a: np.ndarray, b: np.ndarray) -> float:
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    fewer = min(table.shape) - 1
    if fewer < 1:
        return math.nan
    usual = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float(np.sqrt(((table - usual) ** 2 / usual).sum() / (table.sum() * fewer)))


def _ratio(words: np.ndarray, numbers: np.ndarray) -> float:
    known = ~np.isnan(numbers)
    codes, numbers = _steps(words[known], True), numbers[known]
    if len(numbers) < 2 or numbers.min() == numbers.max():
        return math.nan
    numbers = (numbers - numbers.mean()) / np.abs(numbers).max()
    count = np.bincount(codes)
    mean = np.bincount(codes, numbers) / np.maximum(count, 1)
    return float(np.sqrt((count * mean**2).sum() / (numbers**2).sum()))
