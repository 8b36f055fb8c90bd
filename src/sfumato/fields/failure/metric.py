"""Where robustness does not care: directions in which pCN may step far, or draw anew.

A small network is fitted to robustness on all calls so far; the mean outer product of its gradient over a population,
H = E[grad r grad r'], has large eigenvalues where a step changes robustness and small ones where it does not (the subspace that
data inform, Cui, Martin, Marzouk, Solonen and Spantini 2014, arXiv 1403.4680; pCN with a size for each direction, Cui, Law and
Marzouk 2016, arXiv 1411.3688). Any sizes leave the standard normal unchanged: a fit that is wrong costs acceptance, not truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.diffusion.rng import key

STEPS, BATCH, WIDTH = 400, 256, 64
FLOOR, POWER = 1e-2, 0.25
"""Of an eigenvalue, as a share of the largest; and of a size in it. Small eigenvalues are underrated: a fit sees least of what
matters little, and there are many of these, so sizes are those of its root."""


@dataclass(frozen=True)
class Metric:
    """Directions (n, n), a column each, and how much robustness cares, (n,), 1 the most."""

    axes: np.ndarray
    care: np.ndarray

    def sizes(self, b: float) -> np.ndarray:
        """pCN's size in each direction (n,): b where robustness cares most, up to 1, a fresh draw, where it does not."""
        return np.minimum(1.0, b / np.maximum(self.care, FLOOR) ** POWER)

    def moved(self, x: np.ndarray, e: np.ndarray, b: float) -> np.ndarray:
        """x and normal numbers e, both (N, n), joined: sqrt(1 - b_i^2) x + b_i e along each direction."""
        size = self.sizes(b)
        return np.asarray((x @ self.axes * np.sqrt(1 - size**2) + e * size) @ self.axes.T)


def alike(n: int) -> Metric:
    """Every direction as every other: plain pCN."""
    return Metric(np.eye(n), np.ones(n))


class _Surrogate(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(n, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.silu(self.first(x))
        found: Tensor = self.last(h + nn.functional.silu(self.second(h)))[:, 0]
        return found


def fitted(x: np.ndarray, r: np.ndarray, at: np.ndarray, level: float, words: Sequence[str | int]) -> Metric:
    """The metric of robustness r (N,) of calls x (N, n), over the rows ``at`` (M, n) of a population whose level that is."""
    finite = np.isfinite(r)
    x, r = x[finite], r[finite]
    middle = float(np.median(r))
    low = min(level, 0.0) - 0.5 * max(middle, 1e-12)  # how badly it fails is of no interest
    target = np.clip(r, low, None)
    spread = max(float(target.std()), 1e-12)
    rows, wanted = torch.from_numpy(x).float(), torch.from_numpy((target - target.mean()) / spread).float()
    rng = torch.Generator().manual_seed(key("metric", *words))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("metric weights", *words))
        network = _Surrogate(x.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.3)
    near = torch.from_numpy(np.flatnonzero(r <= np.quantile(r, 0.5)))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / STEPS)
        chosen = torch.randint(len(rows), (BATCH // 2,), generator=rng)
        chosen = torch.cat([chosen, near[torch.randint(len(near), (BATCH // 2,), generator=rng)]])
        error = nn.functional.smooth_l1_loss(network(rows[chosen]), wanted[chosen])
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    points = torch.from_numpy(at).float().requires_grad_()
    (slope,) = torch.autograd.grad(network(points).sum(), points)
    values, axes = np.linalg.eigh((slope.T @ slope).double().numpy() / len(at))
    if not np.isfinite(values).all() or values[-1] <= 0:
        return alike(x.shape[1])
    return Metric(axes[:, ::-1].copy(), (values[::-1] / values[-1]).clip(0, 1).copy())
