"""What is minimised: the loss of a denoiser, under autocast, possibly with a learned weight, as one module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sfumato.data import Dataset
from sfumato.diffusion import Adaptive, Denoiser, Guess, LearnedUncertainty, LogitNormal, hide, independent, loss, tree
from sfumato.diffusion.couplings import Coupling
from sfumato.diffusion.process import Process
from sfumato.diffusion.rng import Rng, Streams, key, moved
from sfumato.diffusion.times import Times, stratified
from sfumato.diffusion.tree import Tree
from sfumato.training.loader import Batch


class Savable(Protocol):
    """What a person wants to look at: a picture, a text. ``suffix`` is that of its file, ".png" where it has none."""

    def save(self, path: Path, /) -> Any:
        """Write it to a file."""


class Criterion(Protocol):
    """What is minimised, where it is not the plain loss: a conversion, a geometry, a preference."""

    def __call__(
        self, denoiser: Denoiser, x: Tree, t: Tree, *, rng: Rng, z: Tree, weight: Tree | None, given: Tree,
        condition: Mapping[str, Tree],
    ) -> Tensor | dict[str, Tensor]:  # fmt: skip
        """Loss per sample (B,), or terms by name, each (B,), which are summed and logged.

        All that it draws it draws from ``rng``, the rows' own streams, so that it is the same on any number of processes; and how
        often it calls the denoiser does not depend on the rows, for where weights lie in parts all processes call it together.
        ``given`` is what ``denoiser.given`` made of ``condition``.
        """


def plain(
    denoiser: Denoiser, x: Tree, t: Tree, *, rng: Rng, z: Tree, weight: Tree | None, given: Tree,
    condition: Mapping[str, Tree],
) -> Tensor:  # fmt: skip
    """:func:`~sfumato.diffusion.loss` as a criterion."""
    return loss(denoiser, x, t, rng, z, weight, given=given)


@dataclass(frozen=True)
class Task:
    """What a field hands to the loop: the network, what its answers mean, the data, and how to look at samples.

    Args:
        network, process: the denoiser to train.
        train, held_out: the data; without a part held out, a tenth of ``train`` is.
        times: distribution of training times.
        coupling: which noise goes with which sample, where the data do not say so themselves.
        uncertainty: learn the weight of each noise level.
        hidden: names of conditions that are hidden together -> share of the samples, for guidance.
        copies: noise copies (times and noise of their own) of each row, after what depends on conditions alone is made.
        criterion: what is minimised; the plain loss unless given.
        judged: the held-out loss; the criterion unless given.
        denoiser: what the network and the process make; a FlowMap has two times.
        beside: what the network is told besides the items' conditions where its walk and its loss by level are measured,
            (1, ...) each.
        preview: the averaged denoiser -> something to look at, or None.
        written: the averaged weights -> those that the run gives away, where they are others.
    """

    network: nn.Module
    process: Process
    train: Dataset
    held_out: Dataset | None = None
    times: Times = LogitNormal()
    coupling: Coupling = independent
    uncertainty: bool = False
    hidden: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    copies: int = 1
    criterion: Criterion = plain
    judged: Criterion | None = None
    denoiser: type[Denoiser] = Denoiser
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    preview: Callable[[Guess], Savable | None] | None = None
    written: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and afterwards as it was."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)


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

    def given(self, **condition: Tree) -> Tree:
        """What the network makes of its conditions, in the types it has there; the conditions where it makes nothing."""
        make: Any = getattr(self.network, "given", None)
        if make is None or not condition:
            return condition
        with torch.autocast(tree.first(condition).device.type, torch.bfloat16, enabled=self.bf16):
            return make(**condition)

    def forward(self, x: Tree, *levels: Tree, **condition: Any) -> Tree:
        with torch.autocast(tree.first(x).device.type, torch.bfloat16, enabled=self.bf16):
            return tree.each(lambda answer: answer.float(), self.network(x, *levels, **condition))


class Noised(NamedTuple):
    """A piece of a batch, ready for the objective: everything random about it that is drawn beforehand, and the streams for
    the rest. With copies, x, z, t and weight have ``copies`` rows for each row of the conditions."""

    x: Tree
    z: Tree
    t: Tree
    condition: dict[str, Tree]
    weight: Tree | None
    rng: Streams


Gather = Callable[[Tensor], Tensor]
"""Rows of this process -> those of all, in the order of their places."""


def noised(
    task: Task, batch: Batch, base: int, first: int, total: int, device: torch.device, gather: Gather | None = None
) -> Noised:
    """Times, noise and hidden conditions of a piece: functions of the rows' numbers alone, and, where noise is dealt out to
    the rows, of what else is in the piece.

    The order in which a row's stream is drawn from is kept for ever: its time, what is hidden of it, its noise, and what a
    criterion draws.

    Args:
        batch: the rows, with their places in the global batch.
        base: key of the family of streams; row at place p has stream ``first + p`` of it.
        total: rows of the global batch, for the strata of the times.
        gather: brings the piece together where several processes share it, so that they deal noise out as one would.
    """
    k = task.copies
    places = (batch.places[:, None] * k + torch.arange(k)).flatten() if k > 1 else batch.places
    rng = Streams(base, [first * k + int(place) for place in places], device)
    batch = batch.to(device)
    whole = {"x": batch.x, "weight": batch.weight, **batch.condition}
    u = stratified(rng, places, total * k)
    drawn = task.times.draw(u, rng, task.process, repeated(whole, k))
    t = tree.each(lambda value: moved(value.to(torch.float32), device), drawn)
    condition = batch.condition
    for names, share in (task.hidden or {(): 0.0}).items():
        gone = rng.uniform((len(places),))[::k] < share
        if share > 0:
            condition = hide(condition, names, gone)
    x, weight = repeated(batch.x, k), repeated(batch.weight, k)
    if batch.z is not None:
        return Noised(x, repeated(batch.z, k), t, condition, weight, rng)
    z = _dealt(task, x, task.process.prior(x, rng), repeated(condition, k), places, gather)
    return Noised(x, z, t, condition, weight, rng)


def _dealt(task: Task, x: Tree, z: Tree, condition: dict[str, Tree], places: Tensor, gather: Gather | None) -> Tree:
    """The noise of the rows at these places of the batch, dealt out among the rows of all processes."""
    if gather is None or task.coupling is independent:
        return task.coupling(x, z, condition)
    every = gather(places.to(tree.first(z).device)).tolist()
    first = every.index(int(places[0]))
    dealt = task.coupling(*(tree.each(gather, value) for value in (x, z, condition)))
    return tree.take(dealt, slice(first, first + len(places)))


def repeated(value: Tree, copies: int) -> Tree:
    """Each row of a tree so many times; None stays None."""
    if value is None or copies == 1:
        return value
    if isinstance(value, Mapping):
        return {name: repeated(part, copies) for name, part in value.items()}
    return value.repeat_interleave(copies, 0)


class Objective(nn.Module):
    """Everything with parameters or learned state that training needs, in one module, so that it can be distributed.

    forward(x, z, t, condition, weight, rng) -> (what to descend on (), loss per sample (B,), mean of each term by name).
    """

    def __init__(self, task: Task, bf16: bool, compiled: bool = False):
        super().__init__()
        self.network = task.network
        self.bf16, self.compiled = bf16, compiled
        self.uncertainty = LearnedUncertainty() if task.uncertainty else None
        self.times = task.times if isinstance(task.times, nn.Module) else None
        network: Any = torch.compile(task.network) if compiled else task.network
        self._precise = (Precise(network, bf16),)  # in a tuple: not registered a second time
        self.process, self.criterion, self.denoiser, self.copies = (
            task.process,
            task.criterion,
            task.denoiser,
            task.copies,
        )

    def forward(
        self, x: Tree, z: Tree, t: Tree, condition: Mapping[str, Tree], weight: Tree | None = None, rng: Rng = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        denoiser = self.denoiser(self._precise[0], self.process)
        given = repeated(denoiser.given(**condition), self.copies)
        found = self.criterion(
            denoiser, x, t, rng=rng, z=z, weight=weight, given=given, condition=repeated(dict(condition), self.copies)
        )
        terms = found if isinstance(found, dict) else {}
        losses = found if isinstance(found, Tensor) else torch.stack(list(found.values())).sum(0)
        means = {name: term.detach().mean() for name, term in terms.items()}
        if self.uncertainty is None:
            return losses.mean(), losses.detach(), means
        return self.uncertainty(losses, log_ratio(self.process, t)).mean(), losses.detach(), means

    def learned_state(self) -> dict[str, Tensor]:
        """What is learned beside the network's weights: weights of noise levels, density of training times."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("network.")}


def log_ratio(process: Any, t: Tree) -> Tensor:
    """ln(sigma / alpha) at times t (B,). Raises ValueError for other times."""
    if not isinstance(t, Tensor) or t.ndim != 1:
        raise ValueError("weights and times are learned by noise level, and need one time a sample")
    level: Tensor = -process.schedule.logsnr(t) / 2
    return level


def observe(times: Adaptive, process: Any, t: Tensor, losses: Tensor) -> None:
    """Tell adaptive times how wrong the noise answer was: losses (B,) are in the space of the process's loss."""
    ratio = process.row("noise", t)[2] / process.row(process.predicts, t)[2]
    times.observe(log_ratio(process, t), losses / process.loss_weight(t) * ratio**2)


def parted(task: Task) -> tuple[Dataset, Dataset]:
    """The data to learn from and the data held out: the task's own, or a tenth of the first, at random but ever the same.

    Raises:
        DataError: no second item to hold out.
    """
    import numpy as np

    from sfumato.data import DataError, Part

    if task.held_out is not None:
        return task.train, task.held_out
    numbers = np.arange(len(task.train))
    if len(numbers) < 2:
        raise DataError(f"{len(numbers)} item(s) to learn from: two at least, for one is held out, or give held_out")
    order = numbers[
        np.argsort(np.random.Philox(key=np.array([key("held out"), 0], dtype=np.uint64)).random_raw(len(numbers)))
    ]
    count = max(1, len(numbers) // 10)
    return Part(task.train, np.sort(order[count:])), Part(task.train, np.sort(order[:count]))
