"""What is minimised: the loss of a denoiser, under autocast, possibly with a learned weight, as one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.data import Dataset
from sfumato.diffusion import Adaptive, Denoiser, Equilibrium, Gaussian, LearnedUncertainty, LogitNormal, ab, loss
from sfumato.diffusion.couplings import Coupling, independent
from sfumato.diffusion.sample import Solver
from sfumato.diffusion.times import Times


@dataclass(frozen=True)
class Task:
    """What a recipe hands to the loop: the network, what its answers mean, the data, and how to look at samples.

    Args:
        network, process: the denoiser to train.
        train, held_out: items {"x": ..., condition name: ...}, standardised.
        times: distribution of training times.
        coupling: which noise goes with which sample.
        uncertainty: learn the weight of each noise level.
        drop: share of samples whose condition is dropped, for guidance.
        draw: samples (N, ...) -> a picture with a ``save(path)``; None where there is nothing to look at.
        preview: number of samples -> condition for the preview, name -> (N, ...).
        preview_steps, preview_solver: how previews are sampled.
        criterion: called like :func:`~sfumato.diffusion.loss`, which it is unless a model is converted.
        denoiser: what the network and the process make; a FlowMap has two times.
    """

    network: nn.Module
    process: Gaussian | Equilibrium
    train: Dataset
    held_out: Dataset
    times: Times = LogitNormal()
    coupling: Coupling = independent
    uncertainty: bool = False
    drop: float = 0.1
    draw: Callable[[Tensor], Any] | None = None
    preview: Callable[[int], dict[str, Tensor]] = lambda count: {}
    preview_steps: int = 12
    preview_solver: Solver = ab(2)
    criterion: Callable[..., Tensor] = loss
    denoiser: type[Denoiser] = Denoiser


def bf16_pays(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if device.type == "cpu" else False


class Precise(nn.Module):
    """A network run under autocast, its answers in float32. Everything around it keeps its own, wider precision."""

    def __init__(self, network: nn.Module, bf16: bool):
        super().__init__()
        self.network, self.bf16 = network, bf16

    def forward(self, x: Tensor, *levels: Tensor, **condition: Any) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network(x, *levels, **condition).float()


class Objective(nn.Module):
    """Everything with parameters or learned state that training needs, in one module, so that it can be distributed.

    forward(x, z, t, condition) -> (what to descend on (), loss per sample (B,)).
    """

    def __init__(self, task: Task, bf16: bool, compiled: bool = False):
        super().__init__()
        self.network = task.network
        self.uncertainty = LearnedUncertainty() if task.uncertainty else None
        self.times = task.times if isinstance(task.times, nn.Module) else None
        network: Any = torch.compile(task.network) if compiled else task.network
        self._precise = (Precise(network, bf16),)  # in a tuple: not registered a second time
        self.process, self.criterion, self.denoiser = task.process, task.criterion, task.denoiser

    def forward(self, x: Tensor, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        given: dict[str, Any] = dict(condition)
        losses = self.criterion(self.denoiser(self._precise[0], self.process), x, t, z=z, **given)
        if self.uncertainty is None:
            return losses.mean(), losses.detach()
        return self.uncertainty(losses, log_ratio(self.process, t)).mean(), losses.detach()

    def learned_state(self) -> dict[str, Tensor]:
        """What is learned beside the network's weights: weights of noise levels, density of training times."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("network.")}


def log_ratio(process: Any, t: Tensor) -> Tensor:
    """ln(sigma / alpha) at time t."""
    return -process.schedule.logsnr(t) / 2


def observe(times: Adaptive, process: Any, t: Tensor, losses: Tensor) -> None:
    """Tell adaptive times how wrong the noise answer was: losses (B,) are in the space of the process's loss."""
    ratio = process.row("noise", t)[2] / process.row(process.predicts, t)[2]
    times.observe(log_ratio(process, t), losses / process.loss_weight(t) * ratio**2)


def drop_condition(condition: Mapping[str, Tensor], share: float, u: Tensor) -> dict[str, Tensor]:
    """Drop the condition of the rows with u < share (u uniform, (B,)): labels become -1, sequences zero."""
    gone = u < share

    def dropped(value: Tensor) -> Tensor:
        mask = gone.to(value.device).reshape(-1, *[1] * (value.ndim - 1))
        return torch.where(mask, torch.full_like(value, 0 if value.is_floating_point() else -1), value)

    return {name: dropped(value) for name, value in condition.items()}
