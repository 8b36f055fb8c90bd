"""Ways to learn chunks of actions: behaviour cloning, actions that are noised each by itself, times that cover the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, Gaussian, loss


@dataclass(frozen=True)
class Regression(Gaussian):
    """Behaviour cloning as a process: the network is shown nothing of x_t and answers the data, so it learns its mean.

    Whatever the noise and the number of steps, a sample is that answer. The baseline that a policy has to beat where
    people do different things in the same place.
    """

    predicts: Any = "data"
    loss_in: Any = "data"

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        shown, level = super().precondition(x_t, t)
        return torch.zeros_like(shown), torch.zeros_like(level)


@dataclass(frozen=True)
class Covered:
    """A distribution of training times of which a share is spread evenly from 0 to 1, and as much lies at 1 itself.

    Every sample starts at t = 1, where a logit-normal distribution never comes and what a network answers is chance: one
    step on Push-T was off by 166 pixels, and by 42 with this share after half of that training.
    """

    times: Any
    share: float = 0.05

    def __call__(self, u: Tensor, schedule: Any) -> Tensor:
        """Quantile function, not in order: uniform numbers (B,) -> times (B,)."""
        u = u.double()
        spread = (u / self.share).clamp(1e-4, 1.0)
        rest = self.times(((u - 2 * self.share) / (1 - 2 * self.share)).clamp(0, 1), schedule)
        return torch.where(u < 2 * self.share, spread, rest)


@dataclass(frozen=True)
class Staggered:
    """The loss of a denoiser where actions have noise levels of their own: half of the chunks rise from less noise at the
    action of now to more at later ones, as they do while a chunk is carried on from the one before.

    A chunk's times are t * ramp with ramp_l = min(1, low + (1 - low) l / length), low in [0, 1] and length in 1..horizon at
    random; sampling walks through just these. Sources: rolling diffusion (Ruhe 2024, arXiv 2402.09470), diffusion forcing
    (Chen 2024, arXiv 2407.01392), streaming diffusion policy (Hoeg 2024, arXiv 2406.04806).
    """

    share: float = 0.5
    """Of chunks with a ramp; the others have one time."""

    def __call__(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, rng: Any = None, z: Any = None, **condition: Any
    ) -> Tensor:
        """Loss per sample (B,) for chunks x (B, horizon, dim) and times t (B,)."""
        rows, steps = x.shape[:2]
        u = torch.rand(3, rows, 1, device=t.device, dtype=t.dtype)
        length = 1 + (u[1] * steps).floor()
        ramps = ramp(u[0], length, steps)
        each = t[:, None] * torch.where(u[2] < self.share, ramps, torch.ones_like(ramps))
        return loss(denoiser, x, each, rng, z, **condition)


def ramp(low: Tensor, length: Tensor, steps: int) -> Tensor:
    """min(1, low + (1 - low) l / length) for l = 0 .. steps - 1; low and length (B, 1) -> (B, steps)."""
    place = torch.arange(steps, device=low.device, dtype=low.dtype)
    return (low + (1 - low) * place / length).clamp_max(1.0)
