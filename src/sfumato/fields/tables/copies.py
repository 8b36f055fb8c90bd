"""Made rows that are training rows, or lie nearer to them than to other real rows."""

from __future__ import annotations

import numpy as np

from sfumato.fields.tables.frames import Frame, nearest, spread
from sfumato.fields.tables.table import Table

NEAREST = 2000  # rows of each table between which distances are measured


def copied(made: Table, train: Table) -> tuple[float, float]:
    """Share of made rows that are a training row to the letter, and the share of training rows that another training row
    repeats: what a real row's chance to be a copy is. Keys and constants should be left out of both tables."""
    known, counts = np.unique(train.hashes(), return_counts=True)
    own = float((counts[counts > 1]).sum() / counts.sum())
    return float(np.isin(made.hashes(), known).mean()), own


def nearest_share(made: Frame, train: Frame, held_out: Frame, seed: int = 0) -> tuple[float, int]:
    """Share of made rows that lie nearer to a training row than to a held-out row, of equally many of both; ties count
    half. 0.5 where nothing was learned by heart. Distance: Gower's (1971), the mean over columns of |difference| / range
    (numbers) and of whether they differ (categories, gaps)."""
    rng = np.random.default_rng(seed)
    n = min(len(train), len(held_out), NEAREST)
    train, held_out = (frame.take(rng.permutation(len(frame))[:n]) for frame in (train, held_out))
    made = made.take(rng.permutation(len(made))[:NEAREST])
    scale = spread(train, held_out)
    here, there = (nearest(made, frame, scale) for frame in (train, held_out))
    return float(((here < there) + 0.5 * (here == there)).mean()), len(made)
