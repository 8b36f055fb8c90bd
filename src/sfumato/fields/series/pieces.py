"""What is read of a file: series as they stand there, and how the file is laid out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ORDER = "row"
"""Name of the time column of data without times."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One series as it was read: stamps (n,) int64 in the order of the file, None where it has no times; values (n,) float64,
    NaN where there is none; known covariates (n, c)."""

    name: str
    stamps: np.ndarray | None
    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True, eq=False)
class Shape:
    """How a table is laid out: kind, and the names of its columns; whether stamps are seconds of UTC (with a zone) or those of
    the wall clock; the step that the file itself tells, if it does."""

    kind: str
    time: str
    id: str
    value: str
    zone: str = ""
    freq: str = ""
    known: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """Everything read of a file."""

    pieces: tuple[Piece, ...]
    shape: Shape
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """The columns that a user names: time, ids, targets, known covariates; the zone of the wall clock."""

    time: str | None = None
    ids: str | None = None
    target: tuple[str, ...] | None = None
    known: tuple[str, ...] = ()
    zone: str = ""
