"""Tables as numbers, to be measured: one matrix of float64, in which a gap is NaN and categories are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sfumato.fields.tables.columns import States
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.table import Column, Table


@dataclass(frozen=True, eq=False)
class Frame:
    """A table as numbers: float64 (n, C), NaN is a gap; categories are numbered alike in all frames made together.

    Args:
        words: bool (C,), which columns are categories.
    """

    cells: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, rows: np.ndarray) -> Frame:
        return Frame(self.cells[rows], self.words)


def frames(tables: Sequence[Table], facts: Facts) -> list[Frame]:
    """The columns of several tables but keys and constants. A cell that is no number where numbers are expected is a gap."""
    known: list[dict[str, int]] = [{} for _ in facts.measured]
    words = np.array([column.kind.kind == "category" for column in facts.measured])
    made = []
    for table in tables:
        cells = [_numbers(table[states.kind.name], states, code) for states, code in zip(facts.measured, known)]
        made.append(Frame(np.stack(cells, 1), words))
    return made


def _numbers(column: Column, states: States, known: dict[str, int]) -> np.ndarray:
    kind = states.kind
    values = np.full(len(column.words), np.nan)
    for i, word in enumerate(column.words):
        if word not in kind.gaps and word is not None:
            values[i] = known.setdefault(word, len(known)) if kind.kind == "category" else number(states, word)
    cells: np.ndarray = values[column.codes]
    return cells


def number(states: States, word: str) -> float:
    """The value of a cell of numbers or dates; NaN for one that is neither."""
    try:
        value = states.kind.spelling.value(word)
    except ValueError:
        return float("nan")
    return value if abs(value) < float("inf") else float("nan")


# ---- distances -------------------------------------------------------------------------------------------------------

FAR = 1e7  # where a gap lies on a scale on which real numbers lie within 0 to 1


def spread(*frames: Frame) -> np.ndarray:
    """(C, 2): the lowest number of each column over several frames, and the range; of a column of one number 1."""
    both = np.concatenate([frame.cells for frame in frames])
    known = ~np.isnan(both)
    low = np.min(both, 0, initial=np.inf, where=known)
    high = np.max(both, 0, initial=-np.inf, where=known)
    low = np.where(np.isfinite(low), low, 0.0)
    return np.stack([low, np.where(high > low, high - low, 1.0)], 1)


def nearest(a: Frame, b: Frame, scale: np.ndarray) -> np.ndarray:
    """Gower's distance (1971) of each row of a (n,) to the nearest row of b, times the number of columns: the sum over
    columns of |difference| / range, at most 1, of numbers, and of whether they differ, of categories and gaps."""
    x, y = (_scaled(frame, scale) for frame in (a, b))
    found = []
    for part in x.split(256):
        total = torch.zeros(len(part), len(y))
        for i in range(x.shape[1]):
            total += (part[:, i, None] - y[None, :, i]).abs_().clamp_max_(1.0)
        found.append(total.min(1).values)
    return torch.cat(found).numpy()


def _scaled(frame: Frame, scale: np.ndarray) -> torch.Tensor:
    """Cells on a scale on which rows that differ in a category or a gap are 1 or more apart."""
    low, width = (np.where(frame.words, usual, each) for usual, each in zip((0.0, 1.0), scale.T))
    cells = ((frame.cells - low) / width).clip(-FAR / 2, FAR / 2)
    return torch.from_numpy(np.where(np.isnan(cells), FAR, cells).astype(np.float32))
