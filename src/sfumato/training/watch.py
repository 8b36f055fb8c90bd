"""Looking at a run while it trains: the averaged network's held-out loss and samples, and what went wrong."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.diffusion import Auto, Denoiser, Equilibrium, Guess, Streams, auto, key, residual
from sfumato.diffusion.grids import cosine
from sfumato.training.checkpoint import save_weights
from sfumato.training.ema import PowerEMA
from sfumato.training.generate import evaluating, generate
from sfumato.training.loader import stack
from sfumato.training.objective import Objective, Precise, Task
from sfumato.training.run import Run, write_text

LEVELS = torch.linspace(-3.5, 3.0, 10)
"""Noise levels ln(sigma / alpha) at which the held-out loss is measured."""


@torch.no_grad()
def loss_by_level(denoiser: Guess, items: Tensor, condition: Mapping[str, Tensor], levels: Tensor = LEVELS) -> Tensor:
    """Mean squared error of the v answer on data (N, ...) at each noise level ln(sigma / alpha): (levels,).

    v has unit variance whatever the network answers and whatever its schedule, so 1 means "knows nothing" for every
    run alike. Deterministic: item i meets the same noise every time, the same at every level.
    """
    process = denoiser.process
    z = Streams(key("held out"), range(len(items))).normal(items.shape).to(items.device)
    out = []
    for level in levels.double():
        t = process.schedule.time(-2 * level).clamp(1e-4, 1)
        angle = process.schedule.angle(t)
        x, guessed = denoiser(process.interpolate(items, z, t), t, **condition)
        error = angle.cos() * (guessed - z) - angle.sin() * (x - items)
        out.append(float((error**2).mean()))
    return torch.tensor(out)


@torch.no_grad()
def held_out_loss(task: Task, denoiser: Denoiser, items: Tensor, condition: Mapping[str, Any], times: int = 8) -> float:
    """The training loss on data (N, ...) at evenly spread quantiles of the training times: the same ones every time."""
    z = Streams(key("held out"), range(len(items))).normal(items.shape).to(items.device)
    u = (torch.arange(times) + 0.5) / times
    total = 0.0
    with torch.random.fork_rng(devices=[items.device] if items.is_cuda else []):
        torch.manual_seed(key("held out"))  # what a criterion draws by itself
        for t in task.times(u, task.process.schedule).to(items.device, torch.float32):
            total += float(task.criterion(denoiser, items, t.expand(len(items)), z=z, **condition).mean()) / times
    return total


class Averaged:
    """The network with averaged weights: its held-out loss, previews, and the files it leaves."""

    def __init__(
        self, task: Task, run: Run, bf16: bool, device: torch.device, seed: int, held_out: int = 32, shown: int = 16
    ):
        self.task, self.run, self.device, self.seed, self.shown = task, run, device, seed, shown
        self.network: nn.Module = copy.deepcopy(task.network).to(device).requires_grad_(False).eval()
        self.denoiser = task.denoiser(Precise(self.network, bf16), task.process)
        count = min(held_out, len(task.held_out))
        items = stack([task.held_out[i] for i in range(count)])
        self.items = items.pop("x").to(device)
        self.condition = {name: value.to(device) for name, value in items.items()}

    def take(self, ema: PowerEMA, width: float | None = None) -> None:
        """Load the averaged weights of a width (the first by default)."""
        average = ema.averages[ema.widths[0] if width is None else width]
        self.network.load_state_dict({**self.network.state_dict(), **average})

    def look(self, ema: PowerEMA, step: int) -> dict[str, float]:
        """Held-out loss, and a grid of samples from the same noise every time."""
        self.take(ema)
        by_level = loss_by_level(self.denoiser, self.items, self.condition)
        held_out = held_out_loss(self.task, self.denoiser, self.items, self.condition)
        self.run.log(
            {
                "step": step,
                "held_out": held_out,
                "by_level": [round(v, 6) for v in by_level.tolist()],
                "levels": LEVELS.tolist(),
            }
        )
        if self.task.draw is not None:
            parts = generate(
                self.denoiser, tuple(self.items.shape[1:]), range(self.shown), seed=self.seed,
                steps=self.task.preview_steps, solver=self.task.preview_solver, grid=cosine, batch=self.shown,
                device=self.device, condition=lambda own: self.task.preview(len(own)),
            )  # fmt: skip
            samples = torch.cat(list(parts))
            self.task.draw(samples.cpu()).save(self.run.samples / f"step-{step:08d}.png")
        return {"held_out": held_out}

    def grid(self, count: int = 16) -> Auto:
        """The sampling grid with equal local error, measured on ``count`` noises."""
        z = Streams(key("grid"), range(count)).normal((count, *self.items.shape[1:])).to(self.device)
        condition: dict[str, Any] = {name: value.to(self.device) for name, value in self.task.preview(count).items()}
        return auto(self.denoiser, z, finest=self.task.process.finest, **condition)

    def finish(self, ema: PowerEMA) -> None:
        """Write what a user takes away: the averaged weights and the sampling grid."""
        self.take(ema)
        settings = {"network": json.dumps(self.network.options), "width": str(ema.widths[0])}
        save_weights(self.run.model, self.network.state_dict(), settings)
        with evaluating(self.network):
            found = self.grid()
            facts: dict[str, Any] = {"angles": found.angles, "progress": found.progress}
            if isinstance(self.task.process, Equilibrium):  # a sample has arrived where real data would have
                with torch.no_grad():
                    facts["residual"] = float(residual(self.denoiser, self.items, **self.condition).median())
        write_text(self.run.path / "grid.json", json.dumps(facts))


def blame(
    objective: Objective, x: Tensor, z: Tensor, t: Tensor, condition: Mapping[str, Tensor]
) -> tuple[list[int], str]:
    """Which rows of a batch give a loss that is not finite, and the first place where a bad value appears."""
    if not bool(torch.isfinite(x).all()):
        rows = (~torch.isfinite(x).flatten(1).all(1)).nonzero()[:, 0].tolist()
        return rows, "the data itself"
    first: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                first.append(name)

        return hook

    leaves = [(name, module) for name, module in objective.network.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            _, losses = objective(x, z, t, condition)
    finally:
        for handle in handles:
            handle.remove()
    rows = (~torch.isfinite(losses)).nonzero()[:, 0].tolist()
    return rows, f"layer {first[0]}" if first else "the loss"


@contextmanager
def tensorboard(run: Run, enabled: bool = True) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """A function that writes numbers to TensorBoard events in the run, if that package is installed (extra ``track``)."""
    if not enabled or importlib.util.find_spec("tensorboard") is None:
        yield lambda values, step: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(run.path / "events"))

    def write(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        writer.close()
