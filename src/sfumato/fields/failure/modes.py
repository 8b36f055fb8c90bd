"""The distinct ways to fail: principal axes of what happened, clustered, with the likeliest and the most typical case of each.

After "eigenfailures" (PCA and k-means of failing trajectories, arXiv 2607.18106). Where a symmetry is declared, -x is the same
way to fail as x. Needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AXES = 8
MOST = 8
"""Modes at most."""
CLEAR = 0.35
"""Silhouette from which several modes are told apart at all."""
SEEN = 600
"""Cases that a silhouette is taken over."""


@dataclass(frozen=True)
class Mode:
    """One way to fail: its share, and the numbers of the cases that are likeliest and most typical (the medoid)."""

    share: float
    likeliest: int
    typical: int


@dataclass(frozen=True)
class Modes:
    """Which mode each case is of, (N,) int, the largest first, and the modes. clear: the silhouette of the split."""

    of: np.ndarray
    modes: tuple[Mode, ...]
    clear: float


def axes(cases: np.ndarray, most: int = AXES) -> np.ndarray:
    """The first principal coordinates (N, k) of cases (N, ...)."""
    flat = cases.reshape(len(cases), -1)
    flat = flat[:, np.isfinite(flat).all(0)]
    centred = flat - flat.mean(0)
    _, _, turned = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ turned[: min(most, len(turned))].T)


def split(points: np.ndarray, k: int, rounds: int = 50) -> np.ndarray:
    """k-means (Lloyd) of points (N, d), begun at the farthest points (Gonzalez): (N,) numbers of clusters."""
    centres = points[[int(((points - points.mean(0)) ** 2).sum(1).argmax())]]
    while len(centres) < k:
        centres = np.concatenate([centres, points[[int(_far(points, centres).min(1).argmax())]]])
    of = np.full(len(points), -1)
    for _ in range(rounds):
        new = _far(points, centres).argmin(1)
        if (new == of).all():
            break
        of = new
        centres = np.stack([points[of == i].mean(0) if (of == i).any() else centres[i] for i in range(k)])
    return of


def _far(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((points[:, None] - centres[None]) ** 2).sum(2)


def silhouette(points: np.ndarray, of: np.ndarray) -> float:
    """How much nearer cases are to their own cluster than to the next (Rousseeuw 1987), -1 to 1, over evenly spread ones."""
    chosen = np.linspace(0, len(points) - 1, min(SEEN, len(points))).astype(int)
    points, of = points[chosen], of[chosen]
    kinds, counts = np.unique(of, return_counts=True)
    if len(kinds) < 2:
        return 0.0
    far = np.sqrt(_far(points, points))
    mean = np.stack([far[:, of == kind].sum(1) for kind in kinds], 1)
    place = np.searchsorted(kinds, of)
    rows = np.arange(len(points))
    own = mean[rows, place] / np.maximum(counts[place] - 1, 1)
    other = mean / counts
    other[rows, place] = np.inf
    near = other.min(1)
    value = np.where(counts[place] > 1, (near - own) / np.maximum(np.maximum(near, own), 1e-300), 0.0)
    return float(value.mean())


def modes(x: np.ndarray, cases: np.ndarray, symmetric: bool = False) -> Modes:
    """The modes of disturbances x (N, n) by what they led to, cases (N, ...): trajectories, or x itself.

    symmetric: -x is the same mode as x (and -case as case): each is folded onto the side of the first axis first.
    """
    x2 = (x**2).sum(1)
    if len(x) < 4:
        return Modes(np.zeros(len(x), int), (Mode(1.0, int(x2.argmin()), 0),) if len(x) else (), 0.0)
    if symmetric:
        _, _, turned = np.linalg.svd(x, full_matrices=False)
        side = np.where(x @ turned[0] < 0, -1.0, 1.0)
        cases = cases * side.reshape(-1, *[1] * (cases.ndim - 1))
    points = axes(cases)
    best, clear = np.zeros(len(x), int), CLEAR
    for k in range(2, min(MOST, len(x) // 2) + 1):
        of = split(points, k)
        if (found := silhouette(points, of)) > clear + 0.02 * (k > 2):
            best, clear = of, found
    kinds, counts = np.unique(best, return_counts=True)
    order = kinds[np.argsort(-counts, kind="stable")]
    of = np.searchsorted(np.sort(order), best)
    rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    of = rank[of]
    told = []
    for i in range(len(kinds)):
        rows = np.flatnonzero(of == i)
        middle = points[rows].mean(0)
        typical = int(rows[((points[rows] - middle) ** 2).sum(1).argmin()])
        told.append(Mode(len(rows) / len(x), int(rows[x2[rows].argmin()]), typical))
    return Modes(of, tuple(told), 0.0 if len(kinds) == 1 else clear)
