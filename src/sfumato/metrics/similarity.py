"""How like pictures are to the pictures that they should be: structural similarity (Wang et al. 2004, IEEE TIP 13)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.metrics.distances import MetricError

WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Of each pair of pictures (N, C, H, W) from -1 to 1, float64 (N,): 1 for equal ones, about 0 for unlike ones.

    Means, variances and the covariance are weighted by a Gaussian window of 11 pixels a side, of deviation 1.5, wherever it fits
    into the picture whole, and the index is averaged over places and channels. Raises MetricError for pictures of other shapes,
    or smaller than the window.
    """
    if a.shape != b.shape or a.ndim != 4 or min(a.shape[2:]) < WINDOW:
        raise MetricError(
            f"structural similarity compares pictures (N, C, H, W) of {WINDOW} pixels a side or more, not {tuple(a.shape)} with "
            f"{tuple(b.shape)}"
        )
    a, b = a.double(), b.double()
    place = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    line = torch.exp(-(place**2) / (2 * DEVIATION**2))
    line = line / line.sum()
    channels = a.shape[1]
    window = (line[:, None] * line).expand(channels, 1, WINDOW, WINDOW)

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=channels)

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    both = blurred(a * b) - mean_a * mean_b
    c1, c2 = (2 * K1) ** 2, (2 * K2) ** 2  # the range is 2
    index = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return index.flatten(1).mean(1)
