"""A docked case beside its crystal: what is known of it once it is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = (0.3, 0.5, 0.7)
"""Similarities to the nearest known pose between which results are told apart."""


@dataclass(frozen=True)
class Judged:
    """A case measured: RMSD of its poses by rank and as drawn, how sure each was, RMSD of the overlay (NaN: none)."""

    name: str
    target: str
    scaffold: str
    similarity: float
    rmsd: np.ndarray
    drawn: np.ndarray
    sure: np.ndarray
    overlay: float
    centre: float
    """A from the centre of the first pose to that of the crystal's."""
    agreed: float
    """Share of the samples that lie within 2 A of the first pose."""
