"""Looking at a run while it trains: the averaged network's held-out loss and samples, and what went wrong."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.diffusion import Auto, Denoiser, Guess, Streams, auto, key, tree
from sfumato.diffusion.sample import Bound
from sfumato.diffusion.tree import Tree
from sfumato.diffusion.weights import mean_counted
from sfumato.training.careful import Careful
from sfumato.training.checkpoint import CheckpointError, save_weights
from sfumato.training.ema import PowerEMA
from sfumato.training.loader import Batch, bunched
from sfumato.training.memory import Shortage, fitting
from sfumato.training.objective import Noised, Objective, Precise, Task, evaluating
from sfumato.training.run import Run, sealed, write_text
from sfumato.training.telling import tell
from sfumato.training.tracking import Apart

LEVELS = torch.linspace(-3.5, 3.0, 10)
"""Noise levels ln(sigma / alpha) at which the held-out loss is measured."""


@torch.no_grad()
def loss_by_level(
    denoiser: Guess, items: Tensor, condition: Mapping[str, Tree], levels: Tensor = LEVELS, weight: Tensor | None = None
) -> Tensor:
    """Mean squared error of the v answer on data (N, ...) at each noise level ln(sigma / alpha): (levels,).

    v has unit variance whatever the network answers and whatever its schedule, so 1 means "knows nothing" for every
    run alike. Deterministic: item i meets the same noise every time, the same at every level. For vectors; ``weight`` says
    what counts of the items, as in a loss.
    """
    process = denoiser.process
    z = process.prior(items, Streams(key("held out"), range(len(items))))
    known = Bound.of(denoiser, condition)
    out = []
    for level in levels.double():
        t = process.schedule.time(-2 * level).clamp(1e-4, 1)
        angle = process.schedule.angle(t)
        x, guessed = known(process.interpolate(items, z, t), t)
        error = angle.cos() * (guessed - z) - angle.sin() * (x - items)
        out.append(float(mean_counted(error**2, t, weight).mean()))
    return torch.tensor(out)


@torch.no_grad()
def held_out_loss(task: Task, denoiser: Denoiser, batches: Sequence[Batch], times: int = 8) -> float:
    """The training loss on held-out rows at evenly spread quantiles of the training times: the same ones every time."""
    criterion = task.judged or task.criterion
    total, count = 0.0, sum(len(batch.indices) for batch in batches)
    for batch in batches:
        numbers, device = batch.indices, tree.first(batch.x).device
        z = batch.z if batch.z is not None else task.process.prior(batch.x, Streams(key("held out"), numbers))
        given = denoiser.given(**batch.condition)
        for k in range(times):
            rng = Streams(key("held out", k), numbers)  # what times and criteria draw by themselves
            u = torch.full((len(numbers),), (k + 0.5) / times, dtype=torch.float64)
            t = task.times.draw(u, rng, task.process, {"x": batch.x, "weight": batch.weight, **batch.condition})
            t = tree.each(lambda value: value.to(device, torch.float32), t)  # noqa: B023
            found = criterion(
                denoiser, batch.x, t, rng=rng, z=z, weight=batch.weight, given=given, condition=batch.condition
            )
            losses = found if isinstance(found, Tensor) else torch.stack(list(found.values())).sum(0)
            total += float(losses.sum()) / times / count
    return total


class Averaged:
    """The network with averaged weights: its held-out loss, previews, and the files it leaves."""

    def __init__(
        self,
        task: Task,
        run: Run,
        bf16: bool,
        device: torch.device,
        careful: Careful | None = None,
        held_out: int = 32,
        spare: nn.Module | None = None,
    ):
        """spare: a copy of the network to use; one is made unless given, which one in parts cannot be."""
        assert task.held_out is not None
        self.task, self.run, self.device, self.careful = task, run, device, careful or Careful(tell)
        spare = copy.deepcopy(task.network) if spare is None else spare
        self.network: nn.Module = spare.to(device).requires_grad_(False).eval()
        self.denoiser = task.denoiser(Precise(self.network, bf16), task.process)
        self.batches = [batch.to(device) for batch in bunched(task.held_out, held_out)]

    def take(self, ema: PowerEMA, width: float | None = None) -> None:
        """Load the averaged weights of a width (the first by default); what is no weight is as the trained network has it."""
        average = ema.averages[ema.widths[0] if width is None else width]
        self.network.load_state_dict({**dict(self.task.network.named_buffers()), **average}, strict=False)

    @property
    def items(self) -> Tensor | None:
        """The held-out items where they are vectors of one shape: what grids and losses by level are measured on."""
        x = self.batches[0].x
        vectors = self.task.process.states == "vectors" and isinstance(x, Tensor) and x.is_floating_point()
        return x if vectors else None

    def told(self, count: int | None = None) -> dict[str, Tree]:
        """What the network is told about the first ``count`` of these items (all): their conditions and what is beside."""
        found = tree.take(self.batches[0].condition, slice(count))
        rows = len(self.batches[0].indices[:count])
        beside = self.task.beside.items()
        return {**found, **{name: value.to(self.device).expand(rows, *value.shape[1:]) for name, value in beside}}

    def look(self, ema: PowerEMA, step: int) -> dict[str, float]:
        """Held-out loss, by noise level too where there is one for all, and what a person wants to see. A loss for which
        memory does not suffice is left out, and so is a preview that fails, whatever the reason: it is a field's own code."""
        self.take(ema)
        record: dict[str, Any] = {"step": step}
        with self.careful("the held-out loss", (Shortage,)), fitting():
            record["held_out"] = held_out_loss(self.task, self.denoiser, self.batches)
            if self.items is not None:
                by_level = loss_by_level(self.denoiser, self.items, self.told(), weight=self.batches[0].weight)
                record |= {"by_level": [round(v, 6) for v in by_level.tolist()], "levels": LEVELS.tolist()}
        if len(record) > 1:
            self.run.log(record)
        with self.careful("the preview", (Exception,)):
            seen = None if self.task.preview is None else self.task.preview(self.denoiser)
            if seen is not None:
                self.run.samples.mkdir(parents=True, exist_ok=True)
                seen.save(self.run.samples / f"step-{step:08d}{getattr(seen, 'suffix', '.png')}")
        return {name: record[name] for name in ("held_out",) if name in record}

    def grid(self, count: int = 16) -> Auto | None:
        """The sampling grid with equal local error, measured on ``count`` noises; None where states are no vectors."""
        if self.items is None:
            return None
        some = self.items[:count]
        z = self.task.process.prior(some, Streams(key("grid"), range(len(some)), self.device))
        finest: float = getattr(self.task.process, "finest", 0.0)
        told = Bound.of(self.denoiser, self.told(len(some)))  # bound here: a condition may be called "points", too
        weight = self.batches[0].weight
        return auto(told, z, finest=finest, weight=None if weight is None else weight[:count])

    def finish(self, ema: PowerEMA, step: int | None = None) -> None:
        """Write what a user takes away: the averaged weights, and what the run measured of itself for its walks; without that
        the run is sampled on a usual grid. Raises CheckpointError where the weights cannot be written."""
        self.take(ema)
        settings = {"network": settings_of(self.network), "width": str(ema.widths[0])}
        settings |= {} if step is None else {"step": str(step)}
        save_weights(self.run.model, self.task.written(self.network.state_dict()), settings)
        facts: dict[str, Any] = {}
        with self.careful("measuring the grid", (Shortage,)), fitting(), evaluating(self.network), torch.no_grad():
            if (found := self.grid()) is not None:
                facts |= {"angles": found.angles, "progress": found.progress}
            if (measured := getattr(self.task.process, "measured", None)) is not None:
                facts |= measured(self.denoiser, self.batches[0].x, **self.batches[0].condition)
        with self.careful("walk.json"):
            write_text(self.run.walk, sealed(facts))


def settings_of(network: nn.Module) -> str:
    """What a network can be built from again, as JSON: its ``options``; {} where it has none that can be written."""
    try:
        return json.dumps(getattr(network, "options", {}))
    except (TypeError, ValueError):
        return "{}"


def blame(objective: Objective, rows: Noised, joined: bool = False) -> tuple[list[int], str]:
    """Which rows of a piece give a loss that is not finite, and the first place where a bad value appears, with its type.
    ``joined``: other processes wait for this one inside the network, so that it is called in any case."""
    whole = torch.stack([torch.isfinite(x).flatten(1).all(1) for x in tree.leaves(rows.x)]).all(0)
    data = (~whole).nonzero()[:, 0].tolist()
    if data and not joined:
        return data, "the data itself"
    first: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                first.append(f"{name} ({str(output.dtype).removeprefix('torch.')})")

        return hook

    leaves = [(name, module) for name, module in objective.network.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            losses = objective(*rows)[1]
    finally:
        for handle in handles:
            handle.remove()
    if data:
        return data, "the data itself"
    bad = (~torch.isfinite(losses)).nonzero()[:, 0].tolist()
    return bad, f"layer {first[0]}" if first else "the loss"


def dump(path: Path, step: int, indices: Sequence[int], rows: Noised) -> bool:
    """A batch as it met the network, for whoever wants to look at it: x, z, t, conditions and the numbers of its items, as
    safetensors. Whether it could be written."""
    parts = {"x": rows.x, "z": rows.z, "t": rows.t, **{f"condition.{k}": value for k, value in rows.condition.items()}}
    leaves = {name: list(tree.leaves(part)) for name, part in parts.items()}
    tensors = {
        name if len(found) == 1 else f"{name}.{i}": value
        for name, found in leaves.items()
        for i, value in enumerate(found)
    }
    with suppress(CheckpointError):
        save_weights(path, {**tensors, "indices": torch.tensor(indices)}, {"step": str(step)})
        return True
    return False


@contextmanager
def tensorboard(
    run: Run, enabled: bool = True, careful: Careful | None = None
) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """A function that writes numbers to TensorBoard events in the run, if that package is installed (extra ``track``). It
    is somebody else's: whatever fails in it is a warning, and nothing waits for it."""
    careful = careful or Careful(tell)

    def failed(error: Exception) -> None:
        with careful("TensorBoard", (Exception,)):
            raise error

    apart: Apart | None = None
    if enabled and importlib.util.find_spec("tensorboard") is not None:
        with careful("TensorBoard", (Exception,)):
            from torch.utils.tensorboard import SummaryWriter

            apart = Apart(lambda: SummaryWriter(str(run.path / "events")), failed)
    try:
        yield apart or (lambda values, step: None)
    finally:
        if apart is not None:
            apart.close()
