"""One step of a task as several processes make it: its loss, norm and gradients, whole, from the loop's own functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sfumato.training import loop
from sfumato.training.objective import Task
from sfumato.training.options import ParallelOptions
from sfumato.training.parallel import Runtime, launched
from sfumato.training.sharding import local
from sfumato.training.whole import read_tensors, write_tensors

from .small import options, processes


@dataclass(frozen=True)
class Layout:
    """How many processes, how they are laid out, in how many pieces each batch is learned."""

    replicate: int = 1
    shard: int = 1
    context: int = 1
    accumulate: int = 1

    @property
    def world(self) -> int:
        return self.replicate * self.shard * self.context

    @property
    def name(self) -> str:
        return f"{self.replicate}x{self.shard}x{self.context} in {self.accumulate}"

    def options(self, batch: int, **more: object) -> loop.TrainOptions:
        asked = ParallelOptions(self.replicate, self.shard, self.context)
        return options(batch=batch, accumulate=self.accumulate, seed=5, parallel=asked, **more)


ONE = Layout()


def descent(task: Task, layout: Layout, runtime: Runtime, batch: int = 8, step: int = 3) -> dict[str, Tensor]:
    """Loss and norm () of one step, and the gradient of each parameter, whole."""
    how = layout.options(batch)
    state, module = loop._begun(task, how, runtime.arranged(how.parallel))
    state.objective.network.train()
    _, pieces = next(loop._steps(task, how, step, state.runtime))
    total, _, _ = loop._pieces(state, module, step, pieces)
    found = {"loss": state.runtime.mean(total)}
    for name, parameter in state.objective.named_parameters():
        if parameter.grad is not None:
            slope, sharding = local(parameter.grad), state.runtime.sharding
            found[name] = slope.clone() if sharding is None else sharding.whole(slope, parameter).clone()
    return {**found, "norm": loop._clipped(state)}


def descents(
    tasks: Mapping[str, Callable[[], Task]], layouts: list[Layout], folder: Path, batch: int = 8
) -> dict[tuple[str, str], dict[str, Tensor]]:
    """What `descent` gives of every task, by names of layout and task; of as many processes as each layout says."""

    def work() -> None:
        with launched("cpu") as runtime:
            for layout in layouts:
                if layout.world != runtime.world:
                    continue
                for name, task in tasks.items():
                    found = descent(task(), layout, runtime, batch)
                    if runtime.first:
                        write_tensors(folder / f"{layout.name} {name}".replace("/", "-"), found)

    for world in sorted({layout.world for layout in layouts}):
        assert processes(work, world) == [0] * world
    return {
        (layout.name, name): read_tensors(folder / f"{layout.name} {name}".replace("/", "-"))
        for layout in layouts
        for name in tasks
    }


def apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """How far two descents are apart: of losses and norms relative, of gradients relative to the largest of each tensor.

    A gradient below a millionth of the largest of all is nothing but rounding, as that of a bias before a norm that takes it
    away: what it is off by is compared with the largest of all.
    """
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    sizes = {name: float(value.abs().max()) for name, value in a.items() if value.numel()}
    most = max(size for name, size in sizes.items() if name not in ("loss", "norm"))
    found = {}
    for name, size in sizes.items():
        scale = size if name in ("loss", "norm") or size > 1e-6 * most else most
        found[name] = float((a[name].double() - b[name].double()).abs().max()) / max(scale, 1e-30)
    return found


def double(task: Task) -> Task:
    """The task with a network of 64 bits."""
    return dataclasses.replace(task, network=task.network.double())


def worst(found: Mapping[str, float], loss: bool) -> float:
    """The largest difference of the loss, or of the gradients."""
    return max(value for name, value in found.items() if (name == "loss") == loss)
