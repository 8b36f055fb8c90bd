"""The rival of diffusion: a network trained on the scores of two of its answers, which makes a path by one call.

At t = 1 a denoiser is shown pure noise z. Here its answer is a path; two answers to two noises are learned from by the CRPS of
each lead and half the energy score of the whole (Gneiting and Raftery 2007, eq. 20 and 22), on white numbers.
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
class Pairs:
    """The criterion: of two paths x_1, x_2 of an item, mean |x_m - y| - |x_1 - x_2| / 2, by lead and of the whole."""

    whole: float = 0.5

    def __call__(
        self, denoiser: Denoiser, x: Tree, t: Tree, *, rng: Rng, z: Tree, weight: Tree | None, given: Tree,
        condition: Mapping[str, Tree],
    ) -> Tensor:  # fmt: skip
        assert isinstance(x, Tensor)
        assert isinstance(t, Tensor)
        assert weight is None or isinstance(weight, Tensor)
        process, one = denoiser.process, torch.ones_like(t)
        made = [denoiser(process.start(each), one, given=given).x for each in (z, process.prior(x, rng))]
        first, second = (each * (1.0 if weight is None else (weight != 0)) for each in made)
        leads = (first - x).abs() / 2 + (second - x).abs() / 2 - (first - second).abs() / 2

        def norm(off: Tensor) -> Tensor:
            return (off.square().sum(1) + 1e-12).sqrt()

        whole = norm(first - x) / 2 + norm(second - x) / 2 - norm(first - second) / 2
        return mean_counted(leads, one, weight) + self.whole * whole / x.shape[1] ** 0.5
