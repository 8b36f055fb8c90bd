"""Where their samplers stop, as times of ours: with these and Euler's steps we draw what they draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import Wrong
from sfumato.open_models.schedules import FLOWS


def their_times(config: Mapping[str, Any], steps: int, places: int | None = None) -> Tensor:
    """Falling times (steps + 1,), float64, of a scheduler's settings: DDIM, Euler and flow matching, of the spacings leading,
    trailing and linspace.

    Args:
        places: tokens of a picture, by which some shift their stops (FLUX).

    Raises Wrong for a scheduler whose stops are not known here.
    """
    if steps < 1:
        raise Wrong(f"steps = {steps}: must be at least 1")
    if config.get("_class_name") in FLOWS:
        return _flow(config, steps, places)
    count = int(config.get("num_train_timesteps", 1000))
    spacing, each = config.get("timestep_spacing", "leading"), count // steps
    if spacing == "leading":
        stops = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * each + int(config.get("steps_offset", 0))
    elif spacing == "trailing":
        stops = torch.tensor([round(count - i * count / steps) - 1 for i in range(steps)], dtype=torch.float64)
    elif spacing == "linspace":
        stops = torch.linspace(0, count - 1, steps, dtype=torch.float64).flip(0)
        if config.get("_class_name") == "DDIMScheduler":
            stops = stops.round()
    else:
        raise Wrong(f"timestep_spacing = {spacing!r}: must be leading, trailing or linspace")
    own = config.get("_class_name") == "DDIMScheduler" and not config.get("set_alpha_to_one", True)
    return torch.cat([(stops + 1) / count, torch.tensor([1 / count if own else 0.0], dtype=torch.float64)])


def _flow(config: Mapping[str, Any], steps: int, places: int | None) -> Tensor:
    count, shift = int(config.get("num_train_timesteps", 1000)), float(config.get("shift", 1.0))
    if config.get("use_dynamic_shifting"):
        if places is None:
            raise Wrong("places: must be given, the stops of this model depend on the number of tokens")
        sigmas = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
        power = math.exp(_mu(config, places))
        sigmas = power / (power + (1 / sigmas - 1))
    else:
        least = shift / count / (1 + (shift - 1) / count)
        sigmas = torch.linspace(1, least, steps, dtype=torch.float64)
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _mu(config: Mapping[str, Any], places: int) -> float:
    """The logarithm of the shift, straight in the number of tokens between two ends (FLUX)."""
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    first, last = int(config.get("base_image_seq_len", 256)), int(config.get("max_image_seq_len", 4096))
    return low + (high - low) * (places - first) / (last - first)
