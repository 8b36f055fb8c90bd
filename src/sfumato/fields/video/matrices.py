"""When each frame of a clip is at which time: matrices of times (n + 1, B, T), each column falling from 1 to 0.

    whole     all frames together
    pyramid   each frame so many steps behind the one before (rolling diffusion, Ruhe 2024, arXiv 2402.09470)
    rows      each frame once the one before is done (autoregressive)

All three are one: frame k starts ``lag`` k steps after the first, with a lag of 0, of some steps, and of all n. Frames that are
known stand still, at 0 or at the time of their noise; the others follow in their order.
"""

from __future__ import annotations

import torch
from torch import Tensor

USUAL_LAG = 2
ROWS = -1
"""A lag of as many steps as there are."""


def spelt(order: str, still: float, count: int) -> Tensor:
    """whole, rows, pyramid or pyramid:LAG as numbers, beside the time at which known frames stand: (count, 2) float64, each row
    (lag, still), with ROWS for as many steps as there are."""
    name, _, lag = order.partition(":")
    number = {"whole": 0, "rows": ROWS}.get(name, int(lag or USUAL_LAG))
    return torch.tensor([[float(number), still]], dtype=torch.float64).repeat(count, 1)


def matrix(times: Tensor, known: Tensor, lag: int, still: float = 0.0) -> Tensor:
    """The times of each frame: (n + 1 + lag (free - 1), B, T) where ``free`` is the most frames that are made in a row.

    Args:
        times: (n + 1,), falling from 1 to 0.
        known: (B, T) bool, frames that stand at the time ``still``.
        lag: steps between the starts of two frames, from 0 to n.
    """
    steps = len(times) - 1
    rank = (~known).cumsum(1) - 1  # of the frames that are made
    most = int((~known).sum(1).max())
    if most == 0:
        return times.new_full((2, *known.shape), still)
    at = torch.arange(steps + 1 + lag * (most - 1), device=known.device)
    places = (at[:, None, None] - lag * rank).clamp(0, steps)
    found = times.to(known.device)[places]
    return torch.where(known, torch.full_like(found, still), found)
