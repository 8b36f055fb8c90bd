"""Their schedules as our processes: tables of betas with the answers epsilon, v or sample, and flow matching's straight line.

A step i of training of a table of N betas is our time t = (i + 1) / N, the state after i + 1 steps of noise; of the straight
line a time t is their sigma. Their v is alpha z - sigma x, as ours, and their flow's answer z - x is our velocity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import Gaussian, Linear, Table
from sfumato.errors import DataError, shown

ANSWERS = {"epsilon": "noise", "v_prediction": "v", "sample": "data", "flow_prediction": "velocity"}
"""Their word for what a network answers -> ours."""
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
MOST = 100_000
"""Steps of a table."""


@dataclass(frozen=True)
class Stepped(Gaussian):
    """A Gaussian process whose network is shown x_t as it is, and the step of its own training as the level.

    Args:
        steps: of that training. first: the step of t = 0 (of a table -1, for its step 0 has noise already).
    """

    steps: int = 1000
    first: float = -1.0

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t, and the step (B,): a whole one where t is one to rounding, as the network was trained."""
        step = t.double() * self.steps + self.first
        step = torch.where((step - step.round()).abs() < 1e-3, step.round(), step).to(x_t.device, torch.float32)
        return x_t, step.expand(len(x_t)) if step.ndim == 0 else step


def betas_of(config: Mapping[str, Any], where: Path) -> tuple[float, ...]:
    """The table of a scheduler's settings, in the precision in which it was trained. Raises DataError."""
    count = config.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or not 1 <= count <= MOST:
        raise DataError(f"{shown(where)}: num_train_timesteps = {count!r}; must be from 1 to {MOST:,}")
    low, high = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    given = config.get("trained_betas")
    if given is not None:
        betas = torch.tensor(given, dtype=torch.float32)
    elif kind == "linear":
        betas = torch.linspace(low, high, count, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, count, dtype=torch.float32) ** 2
    elif kind == "squaredcos_cap_v2":
        bar = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = torch.tensor([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(count)], dtype=torch.float32)
    else:
        raise DataError(
            f"{shown(where)}: beta_schedule = {kind!r}; known are linear, scaled_linear and squaredcos_cap_v2"
        )
    if config.get("rescale_betas_zero_snr"):
        betas = _to_zero(betas)
    return tuple(betas.double().clamp(1e-12, 1 - 1e-12).tolist())


def _to_zero(betas: Tensor) -> Tensor:
    """Stretched until no signal is left at the end (Lin 2023, arXiv 2305.08891, algorithm 1)."""
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bar = root**2
    return 1 - torch.cat([bar[:1], bar[1:] / bar[:-1]])


def process_of(config: Mapping[str, Any], where: Path) -> Stepped:
    """The process of a scheduler's settings. Raises DataError for one that is not known."""
    if config.get("_class_name") in FLOWS:
        return Stepped(Linear(), "velocity", steps=int(config.get("num_train_timesteps", 1000)), first=0.0)
    said = config.get("prediction_type", "epsilon")
    if said not in ANSWERS:
        raise DataError(f"{shown(where)}: prediction_type = {said!r}; known are {', '.join(ANSWERS)}")
    if said == "flow_prediction":
        return Stepped(Linear(), "velocity", steps=int(config.get("num_train_timesteps", 1000)), first=0.0)
    betas = betas_of(config, where)
    return Stepped(Table(betas), ANSWERS[said], steps=len(betas))  # type: ignore[arg-type]
