"""Series whose law is known, in files of several kinds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

TRAIN = ["--batch", "32", "--threads", "1", "--precision", "fp32", "--snapshots", "0", "--previews", "0", "--network.width", "16",
         "--network.depth", "1"]  # fmt: skip
PHI = 0.6
"""Of the steps of a walk: d_k = PHI d_(k-1) + e, so that nothing depends on its level."""


def walks(count: int, steps: int, seed: int = 0, phi: float = PHI) -> np.ndarray:
    """Walks whose steps are a linear autoregression, of innovations of deviation 1: (count, steps)."""
    chance = np.random.default_rng(seed)
    e = chance.standard_normal((count, steps + 50))
    d = np.zeros_like(e)
    for k in range(1, e.shape[1]):
        d[:, k] = phi * d[:, k - 1] + e[:, k]
    return 100 + np.cumsum(d, 1)[:, 50:]


def law(last: float, step: float, leads: int, phi: float = PHI) -> tuple[np.ndarray, np.ndarray]:
    """The exact law of what follows a walk at ``last`` whose last step was ``step``: mean (H,), root (H, H) of the covariance."""
    mean = last + step * np.cumsum(phi ** np.arange(1, leads + 1))
    # the k-th value holds innovation j with weight 1 + phi + ... + phi^(k - j)
    root = np.array(
        [[sum(phi**i for i in range(k - j + 1)) if j <= k else 0.0 for j in range(leads)] for k in range(leads)]
    )
    return mean, root


def wide(path: Path, when: Sequence[str], columns: Mapping[str, Sequence[object]], time: str = "date") -> Path:
    """A time column and a column a series."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([time, *columns])
        rows.writerows(zip(when, *columns.values()))
    return path


def long(
    path: Path,
    when: Sequence[str],
    columns: Mapping[str, Sequence[object]],
    heads: Sequence[str] = ("unique_id", "ds", "y"),
) -> Path:
    """A row a value."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(heads)
        for name, values in columns.items():
            rows.writerows((name, t, value) for t, value in zip(when, values))
    return path


def days(count: int, begin: str = "2021-01-01", step: str = "D") -> list[str]:
    """Times in a row."""
    return [str(t) for t in np.datetime64(begin) + np.arange(count) * np.timedelta64(1, step)]


def arrays(path: Path, every: Sequence[np.ndarray]) -> Path:
    """Values and offsets."""
    np.savez(path, values=np.concatenate(every), offsets=np.cumsum([0, *map(len, every)]))
    return path
