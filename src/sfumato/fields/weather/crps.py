"""The rival of diffusion: a network trained on the CRPS of its members, which answers one with one call.

At t = 1 a denoiser is shown pure noise. Trained as one, it answers the mean of all that may come; trained on the almost
fair CRPS of two answers to two noises (Lang et al. 2024, AIFS-CRPS, arXiv 2412.15832), it answers a member. The same
network on the same data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion import Denoiser
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.tree import Tree
from sfumato.diffusion.weights import mean_counted


@dataclass(frozen=True)
class AlmostFair:
    """The criterion: per cell, mean_m |x_m - y| - (1 - (1 - fair) / M) / (2 M (M - 1)) sum_mk |x_m - x_k|.

    fair: 1 is the fair CRPS, which one member that is right and M - 1 that are anywhere can satisfy; a little less forbids that.
    """

    members: int = 2
    fair: float = 0.95

    def __call__(
        self, denoiser: Denoiser, x: Tree, t: Tree, *, rng: Rng, z: Tree, weight: Tree | None, given: Tree,
        condition: Mapping[str, Tree],
    ) -> Tensor:  # fmt: skip
        assert isinstance(x, Tensor)
        assert isinstance(t, Tensor)
        assert weight is None or isinstance(weight, Tensor)
        process, one = denoiser.process, torch.ones_like(t)
        noises = [z, *(process.prior(x, rng) for _ in range(self.members - 1))]
        drawn = torch.stack([denoiser(process.start(each), one, given=given).x for each in noises])
        count = self.members
        error = (drawn - x).abs().mean(0)
        between = (drawn[:, None] - drawn[None]).abs().sum((0, 1))
        error = error - (1 - (1 - self.fair) / count) / (2 * count * (count - 1)) * between
        return mean_counted(error, one, weight)
