"""Behaviour cloning as a process, the baseline of policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import Gaussian


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
