"""With what: which noise goes with which sample of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from sfumato.diffusion.tree import Tree


class Coupling(Protocol):
    """Deals the noises of a batch out to its samples."""

    def __call__(self, x: Tree, z: Tree, condition: Mapping[str, Tree] | None = None) -> Tree:
        """The noise (B, ...) that goes with the data x (B, ...): drawn as z, given the conditions name -> (B, ...)."""


def independent(x: Tree, z: Tree, condition: Mapping[str, Tree] | None = None) -> Tree:
    """Every sample keeps the noise it drew."""
    return z


def optimal_transport(
    x: Tensor, z: Tensor, condition: Mapping[str, Tensor] | None = None, strictness: float = 1e3
) -> Tensor:
    """Deal the batch's noise out so that the total squared distance to the data is least (Pooladian 2023, Tong 2024).

    Straighter paths, hence fewer steps. Each noise first belongs to the condition it was drawn beside, and moving it to
    another condition costs ``strictness`` times the squared distance of the conditions (C2OT, arXiv 2503.10636):
    without that, noise would come to depend on the condition in training but not in sampling.

    Args:
        x, z: (B, ...). condition: name -> (B, ...), labels or vectors.

    Returns:
        z with its rows reordered.
    """
    data, noise = x.flatten(1).double(), z.flatten(1).double()
    cost = torch.cdist(data, noise) ** 2
    for value in (condition or {}).values():
        flat = value.reshape(len(value), -1).double()
        apart = (
            (flat[:, None] != flat[None]).any(-1).double()
            if not value.is_floating_point()
            else torch.cdist(flat, flat) ** 2
        )
        cost = cost + strictness * cost.mean() * apart
    return z[assign(cost)]


def assign(cost: Tensor, precision: float = 1e-4) -> Tensor:
    """Least-cost assignment of columns to rows: (n, n) costs -> column of each row (n,), int64.

    Bertsekas' auction with falling step: the total is within ``precision`` times the spread of the costs of the least.

    Raises:
        ValueError: a cost is NaN or infinite.
    """
    n = len(cost)
    if n < 2:
        return torch.zeros(n, dtype=torch.long, device=cost.device)
    value = (cost.max() - cost).double()
    spread = float(value.max()) or 1.0
    if not math.isfinite(spread):  # the auction would never end
        raise ValueError("assign needs finite costs: there is a NaN or an infinity in the data or the noise")
    prices = torch.zeros(n, dtype=torch.float64, device=cost.device)
    step = spread / 4
    while True:
        step = max(step / 5, spread * precision / n)
        owner = torch.full((n,), -1, dtype=torch.long, device=cost.device)  # row that holds each column
        holds = torch.full((n,), -1, dtype=torch.long, device=cost.device)  # column that each row holds
        while bool((holds < 0).any()):
            bidders = (holds < 0).nonzero()[:, 0]
            best = (value[bidders] - prices).topk(2, dim=1)
            wanted, bids = best.indices[:, 0], best.values[:, 0] - best.values[:, 1] + step
            highest = torch.zeros(n, dtype=torch.float64, device=cost.device).scatter_reduce_(0, wanted, bids, "amax")
            winning = bids == highest[wanted]
            columns, rows = wanted[winning], bidders[winning]
            owner_before = owner[columns]
            owner[columns] = rows  # of equal bids the last written wins; only the owner may hold the column
            won = owner[columns] == rows
            holds[owner_before[owner_before >= 0]] = -1
            holds[rows[won]] = columns[won]
            prices = prices + highest
        if step <= spread * precision / n:
            return holds
