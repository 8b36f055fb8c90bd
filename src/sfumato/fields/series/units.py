"""The units of a window: where its past lies, and how far it goes. What a model sees is in them, so that multiplying a series or
adding to it changes nothing.

    mean    mean and deviation of the observed past          last    its last value, and the rms of a (seasonal) step
"""

from __future__ import annotations

import numpy as np

FLOOR = 1e-6
"""Of the size of the values: the least spread of a window; one that never moves has it."""


def carried(values: np.ndarray, season: int) -> np.ndarray:
    """Gaps filled by what was there a season before, or else the last value: from the past alone. (n,) -> (n,)."""
    gone = np.flatnonzero(~np.isfinite(values))
    if not len(gone):
        return values
    made = values.copy()
    for at in gone.tolist():
        back = at - season
        made[at] = made[back] if back >= 0 else made[at - 1] if at else 0.0
    return made


def windows(values: np.ndarray, origins: np.ndarray, past: int) -> np.ndarray:
    """The ``past`` values before each origin, (N, past); NaN before the first one."""
    padded = np.concatenate((np.full(past, np.nan), values))
    return np.lib.stride_tricks.sliding_window_view(padded, past)[origins]


def measured(past: np.ndarray, scale: str, season: int) -> tuple[np.ndarray, np.ndarray]:
    """Shift and size (N,) of windows (N, P) whose missing values are NaN; size above 0."""
    there = np.isfinite(past)
    count = np.maximum(there.sum(1), 1)
    full = np.where(there, past, 0.0)
    mean = full.sum(1) / count
    if scale == "mean":
        shift = mean
        size = np.sqrt(np.where(there, (past - mean[:, None]) ** 2, 0.0).sum(1) / count)
    else:
        shift = full[:, -1] if season == 1 else full[:, -season:].sum(1) / np.maximum(there[:, -season:].sum(1), 1)
        step = past[:, season:] - past[:, :-season]
        known = np.isfinite(step)
        size = np.sqrt(np.where(known, step, 0.0).__pow__(2).sum(1) / np.maximum(known.sum(1), 1))
    large = np.sqrt((full**2).sum(1) / count)
    return shift, np.maximum(size, np.maximum(FLOOR * large, 1e-12))
