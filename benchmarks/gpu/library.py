"""The places that use the training loop and its neighbours, so that a change of their contracts is mended here alone.

They import pillow and rich (through `sfumato.data` and the progress bar), which the other sections do without: hence the
imports inside.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.diffusion import (
    Adaptive,
    Auto,
    Denoiser,
    Gaussian,
    Linear,
    LogitNormal,
    Streams,
    dpmpp_2m,
    key,
    stratified,
)
from sfumato.diffusion.rng import moved


def picture_process() -> Gaussian:
    """What pictures are trained with: data is answered, velocity lost in."""
    return Gaussian(Linear(), "data", "velocity")


def make_task(network: nn.Module, pictures: np.ndarray, held_out: int, process: Any = None, labels: Any = None) -> Any:
    """A task on pictures, uint8 (N, C, H, W), the last ``held_out`` of which are not trained on."""
    from sfumato.data import ArrayDataset, Statistics
    from sfumato.training.objective import Task

    count = len(pictures) - held_out
    parts = np.arange(count), np.arange(count, len(pictures))
    statistics = Statistics.of(pictures, parts[0])
    train, rest = (ArrayDataset(pictures, statistics, labels, "pictures", part) for part in parts)
    hidden = {} if labels is None else {("label",): 0.1}
    return Task(network, process or picture_process(), train, rest, LogitNormal(), hidden=hidden)


def fit(task: Any, folder: Path, device: torch.device, **options: Any) -> None:
    """Train in a run at ``folder``, from its newest checkpoint if there is one; the options are those of TrainOptions."""
    from sfumato.training import loop
    from sfumato.training.options import TrainOptions
    from sfumato.training.run import Run

    run = Run(folder)
    run.create()
    loop.train(task, run, TrainOptions(**options), str(device))


def trained(folder: Path, network: nn.Module) -> Auto | None:
    """Load the averaged weights of a finished run into the network; the grid that was measured in it."""
    from safetensors.torch import load_file

    network.load_state_dict(load_file(folder / "model.safetensors"))
    stored = json.loads((folder / "walk.json").read_text()) if (folder / "walk.json").is_file() else {}
    return Auto(tuple(stored["angles"]), tuple(stored["progress"])) if "angles" in stored else None


def draw_samples(
    network: nn.Module, shape: tuple[int, ...], count: int, device: torch.device, *, bf16: bool, grid: Any = None,
    steps: int = 20, batch: int = 64, condition: Any = None, process: Any = None, solver: Any = None,
) -> Tensor:  # fmt: skip
    """Samples (count, *shape) as `sfumato sample` draws them: dpmpp_2m with half of the noise renewed."""
    from sfumato.diffusion import Blanks, FromNoise, cosine, generate
    from sfumato.training.objective import Precise, evaluating

    with evaluating(network):
        parts = generate(
            Denoiser(Precise(network, bf16), process or picture_process()),
            Blanks(torch.zeros(shape), count, condition or {}), range(count), begin=FromNoise(steps, grid or cosine),
            solver=solver or dpmpp_2m(0.5), batch=min(batch, count), device=device,
        )  # fmt: skip
        return torch.cat([part.x.float().cpu() for part in parts])


class LoopStep:
    """A step of `training/loop.py` from the same pieces, callable on a batch that is on the device already."""

    def __init__(self, network: nn.Module, process: Any, device: torch.device, *, bf16: bool = True, total: int = 1000):
        from sfumato.training import optim
        from sfumato.training.ema import PowerEMA
        from sfumato.training.objective import Objective
        from sfumato.training.options import TrainOptions

        pictures = np.random.default_rng(0).integers(0, 256, (8, 1, 4, 4), dtype=np.uint8)
        task = dataclasses.replace(make_task(network, pictures, 2), process=process)
        self.options, self.device, self.total = TrainOptions(steps=total), device, total
        self.objective = Objective(task, bf16).to(device)
        self.optimizer = optim.build(self.options.optim, self.objective.network)
        self.rate = optim.peak_lr(self.options.optim, self.objective.network)
        self.average = PowerEMA(dict(self.objective.network.named_parameters()), self.options.ema)
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.clip, self.learning_rate, self.step = optim.clip, optim.learning_rate, 0
        self.objective.network.train()

    def __call__(self, x: Tensor, z: Tensor, t: Tensor) -> float:
        """One step; the loss."""
        torch.manual_seed(key("network", 0, self.step, 0))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        value, losses, _ = self.objective(x, z, t, {})
        value.backward()
        total += losses.mean()
        norm = self.clip(self.parameters, self.options.optim.clip)
        if not bool(torch.isfinite(total + norm)):
            raise RuntimeError("the loss is not finite")
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.options.optim, self.step, self.total, self.rate)
        self.optimizer.step()
        self.step += 1
        self.average.update(dict(self.objective.network.named_parameters()), self.step, self.step - 1)
        return float(total)


def loaded(pictures: np.ndarray, batch: int, steps: int, workers: int = 0) -> Iterator[Tensor]:
    """Batches (batch, C, H, W) as the loop reads them, on the CPU."""
    from sfumato.training.loader import batches

    task = make_task(nn.Identity(), pictures, 2)
    for found in batches(task.train, batch, 0, 0, steps, range(batch), workers):
        yield found.x


def drawn(x: Tensor, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Data, noise and times on the device, drawn as the loop draws them for a batch x on the CPU."""
    batch = len(x)
    rng = Streams(key("train", 0), [step * batch + j for j in range(batch)], device)
    t = LogitNormal()(stratified(rng, torch.arange(batch), batch), Linear()).to(torch.float32)
    rng.uniform((batch,))
    return moved(x, device), rng.normal(x.shape), t


def observe_adaptive(device: torch.device) -> Callable[[], None]:
    """Times that learn from the loss, on the device, as the loop keeps them."""
    from sfumato.training.objective import observe

    times, process = Adaptive().to(device), picture_process()

    def work() -> None:
        t = times(torch.linspace(0.01, 0.99, 16, dtype=torch.float64), process.schedule).to(device, torch.float32)
        observe(times, process, t, torch.rand(16, device=device))

    return work


def cost(task: Any, batch: int, device: torch.device, precision: Any) -> float:
    """Seconds of a whole step, the median of a few."""
    from sfumato.training.measure import measure
    from sfumato.training.options import TrainOptions

    return measure(
        task, TrainOptions(steps=10, batch=batch, precision=precision), batch, str(device), repeats=8
    ).seconds


def records(folder: Path) -> list[dict[str, Any]]:
    """What the run wrote down while it trained."""
    from sfumato.training.run import Run

    return Run(folder).records()
