"""The rival of diffusion: a network trained on a proper score of its members, which answers one with one call.

At t = 1 a denoiser is shown pure noise. Trained as one, it answers the mean of all that may come; trained on the score of several
answers to several noises it answers a member. The same network on the same data. Of weather this is AIFS-CRPS (Lang et al. 2024,
arXiv 2412.15832); the scores are those of Gneiting and Raftery (2007), eq. 20 (CRPS) and 22 (energy score).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.tree import Tree
from sfumato.diffusion.weights import mean_counted


@dataclass(frozen=True)
class ProperScore:
    """The criterion: per number, mean_m |x_m - y| - (1 - (1 - fair) / M) / (2 M (M - 1)) sum_mk |x_m - x_k|, and ``whole`` times
    the same of the whole, with its norm for the absolute values, over the root of how many numbers it has.

    members: M. fair: 1 is the fair CRPS, which one member that is right and M - 1 that are anywhere can satisfy; a little less
    forbids that. whole: CRPS alone does not feel how numbers vary together. What has no weight is not there for either.
    """

    members: int = 2
    fair: float = 1.0
    whole: float = 0.0

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
        score = mean_counted(self._score((drawn - x).abs(), (drawn[:, None] - drawn[None]).abs()), one, weight)
        if not self.whole:
            return score
        there = 1.0 if weight is None else (weight != 0)
        off, between = ((each * there).flatten(-x.ndim + 1) for each in (drawn - x, drawn[:, None] - drawn[None]))
        whole = self._score(_norm(off), _norm(between))
        return score + self.whole * whole / (x[0].numel() ** 0.5)

    def _score(self, error: Tensor, between: Tensor) -> Tensor:
        """Of distances to the truth (M, ...) and between members (M, M, ...)."""
        count = self.members
        return error.mean(0) - (1 - (1 - self.fair) / count) / (2 * count * (count - 1)) * between.sum((0, 1))


def _norm(off: Tensor) -> Tensor:
    """(..., n) -> (...), with a slope at 0."""
    return (off.square().sum(-1) + 1e-12).sqrt()
