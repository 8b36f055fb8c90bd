"""How rows become noise: states fall under masks, values under normal noise, each column in its own time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.diffusion.masked import Masked
from sfumato.diffusion.process import Endpoints, Gaussian, States
from sfumato.diffusion.product import Product
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.times import LogitNormal, Times
from sfumato.diffusion.tokens import NEVER, check_logits, loss_rate, share, wide
from sfumato.diffusion.tree import Tree, own
from sfumato.diffusion.weights import counted, mean_counted

EARLIEST = 1e-3  # time of states: the bound weighs what is hidden by 1 / t


@dataclass(frozen=True)
class Cells(Masked):
    """States of cells under masks: the law of :class:`Masked`, with less work where states are many and masks are few.

    On a CPU, where looking costs nothing, logits are looked at under masks alone; and the guess is not normalised, which no
    drawing asks for: it is log-probabilities up to a number for each cell.

    Args:
        apart: groups of columns that may be drawn together, see :mod:`apart`.
        only: whether the network, told ``only`` (bool (B, C)), answers for these cells alone: logits (n, V).
    """

    apart: tuple[tuple[int, ...], ...] = ()
    only: bool = False

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """As of :class:`Masked`: (B,). Raises ValueError likewise."""
        if x.device.type != "cpu" or not answer.is_floating_point():
            return super().loss(answer, x, z, t, weight)
        self._check_data(x)
        check_logits(answer, x)
        if bool((x >= answer.shape[-1]).any()):
            raise ValueError(f"token {int(x.max())} is beyond the {answer.shape[-1]} logits per token")
        hidden, counts = self.open(self.interpolate(x, z, t)), counted(x.shape, t, weight)
        hidden = hidden if counts is None else hidden & counts
        rate = loss_rate(self.schedule, t, x) / (1 - share(self.schedule, t, x)).clamp_min(1e-300)
        logits = torch.where(self._states(answer), wide(answer[hidden]), NEVER)
        surprise = F.cross_entropy(logits, x[hidden], reduction="none")
        lost = rate.new_zeros(x.shape).index_put(
            hidden.nonzero(as_tuple=True), rate.clamp_max(1e30).expand(x.shape)[hidden] * surprise
        )
        return mean_counted(lost, t, weight)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        """As of :class:`Masked`; x are log-probabilities up to a number, and the states themselves where no mask is left. Of an
        answer for some cells alone they are those cells'."""
        if self.only and answer.ndim == 2 and answer.is_floating_point():
            return Endpoints(wide(answer), x_t)
        if x_t.device.type != "cpu" or not answer.is_floating_point():
            return super().endpoints(answer, x_t, t, rng)
        check_logits(answer, x_t)
        hidden = self.open(x_t)
        if not bool(hidden.any()):
            return super().endpoints(x_t, x_t, t, rng)
        answer = wide(answer)
        answer = F.pad(answer, (0, 1), value=NEVER) if answer.shape[-1] == self.mask_id else answer
        x = torch.where(hidden[..., None] & self._states(answer), answer, NEVER)
        x = x.scatter_(-1, x_t[..., None], torch.where(hidden, NEVER, 0.0).to(x.dtype)[..., None])
        return Endpoints(x, super().endpoints(x_t, x_t, t, rng).z)

    def _states(self, answer: Tensor) -> Tensor:
        """Which of the logits (..., V) are of states, not of the mask: bool (V,)."""
        return torch.arange(answer.shape[-1], device=answer.device) != self.mask_id


def process_of(
    sizes: Sequence[int], values: int, apart: tuple[tuple[int, ...], ...] = (), only: bool = False
) -> Product:
    """The process of rows with ``sizes`` states a column, ``values`` of which have values; the rest as for :class:`Cells`.

    A row's loss is the bound of its states and the velocity error of its values, summed over columns and divided by their
    number. The answer for values is v, whose zero is the velocity of independent standard normal values.
    """
    columns = len(sizes)
    states = Cells(mask_id=max(sizes), apart=apart, only=only)
    if not values:
        return Product(states=states)
    weights = {"states": columns / (columns + values), "values": values / (columns + values)}
    return Product(weights, states=states, values=Gaussian(Linear(), predicts="v", loss_in="velocity"))


@dataclass(frozen=True)
class OneOf:
    """The process of rows of several tables, a batch of which holds rows of one: {"planes": {"states", "values"}}.

    Everything is as the process of that table has it. To draw, each table is walked by its own process alone.

    Args:
        processes: table -> the process of its rows.
    """

    processes: Mapping[str, Product]
    states: ClassVar[States] = "parts"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "euler", "grid": "uniform", "eta": 0.0}

    @property
    def schedule(self) -> Schedule:
        """That of the first table."""
        return next(iter(self.processes.values())).schedule

    def moving(self) -> Mapping[str, Any]:
        """The parts that rows of a table can have."""
        parts: dict[str, Any] = {}
        for process in self.processes.values():
            parts = {**process.moving(), **parts}
        return parts

    @property
    def parts(self) -> tuple[tuple[str, Product], ...]:
        return tuple(self.processes.items())

    def prior(self, x: Mapping[str, Tree], rng: Rng = None) -> dict[str, Tree]:
        return {name: self.processes[name].prior(rows, rng) for name, rows in x.items()}

    def start(self, z: Mapping[str, Tree]) -> dict[str, Tree]:
        return {name: self.processes[name].start(rows) for name, rows in z.items()}

    def interpolate(self, x: Mapping[str, Tree], z: Mapping[str, Tree], t: Any) -> dict[str, Tree]:
        return {name: self.processes[name].interpolate(rows, z[name], own(t, name)) for name, rows in x.items()}

    def precondition(self, x_t: Mapping[str, Tree], t: Any) -> tuple[dict[str, Tree], dict[str, Tree]]:
        both = {name: self.processes[name].precondition(rows, own(t, name)) for name, rows in x_t.items()}
        return {name: shown for name, (shown, _) in both.items()}, {name: level for name, (_, level) in both.items()}

    def target(self, x: Mapping[str, Tree], z: Mapping[str, Tree], t: Any) -> dict[str, Tree]:
        return {name: self.processes[name].target(rows, z[name], own(t, name)) for name, rows in x.items()}

    def loss(
        self, answer: Mapping[str, Tree], x: Mapping[str, Tree], z: Mapping[str, Tree], t: Any, weight: Any = None
    ) -> Tensor:
        """That of the one table, (B,)."""
        ((name, rows),) = x.items()
        counts = None if weight is None else weight.get(name)
        return self.processes[name].loss(answer[name], rows, z[name], own(t, name), counts)

    def endpoints(self, answer: Mapping[str, Tree], x_t: Mapping[str, Tree], t: Any, rng: Rng = None) -> Endpoints:
        ends = {
            name: self.processes[name].endpoints(answer[name], rows, own(t, name), rng) for name, rows in x_t.items()
        }
        return Endpoints({name: end.x for name, end in ends.items()}, {name: end.z for name, end in ends.items()})

    def step(
        self, ends: Endpoints, x_t: Mapping[str, Tree], t: Any, s: Any, eta: float = 0.0, rng: Rng = None
    ) -> dict[str, Tree]:
        x: Any = ends.x
        z: Any = ends.z
        return {
            name: self.processes[name].step(Endpoints(x[name], z[name]), rows, own(t, name), own(s, name), eta, rng)
            for name, rows in x_t.items()
        }

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Mapping[str, Tree], t: Any) -> Endpoints:
        """Rows have no conditions that could be hidden: there is nothing to be guided by."""
        return strong


@dataclass(frozen=True)
class RowTimes(Times):
    """Times of training, (B, C) for states and (B, N) for values, of two kinds of rows.

    Some rows train states: all values are noise. The others train values; a share of their states is hidden, too, for all
    states together name the row, and its values would be learned by heart. In a part of both a random set of columns is
    given, states and values, so that the rest can be drawn for them.

    Args:
        owner: (N,) the column of each value.
        values: share of the rows that train values.
        known: share of the rows in which columns are given.
        context: columns that are given in every row: those of a row's parent in another table.
    """

    owner: tuple[int, ...]
    values: float = 0.5
    known: float = 0.25
    context: tuple[int, ...] = ()

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return LogitNormal()(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tree:
        rows, columns = batch["x"]["states"].shape
        kind, known, share, hidden, *each = uniform_like(u, rng, (rows, 4 + columns)).unbind(1)
        given = (torch.stack(each, 1) < share[:, None]) & (known < self.known)[:, None]
        given[:, list(self.context)] = True
        owner = torch.tensor(self.owner, dtype=torch.int64, device=u.device)
        valued = (kind < self.values) & bool(self.owner)
        states = torch.where(valued, hidden, u).clamp_min(EARLIEST)
        states = torch.where(given, 0.0, states[:, None])
        if not self.owner:
            return {"states": states}
        values = torch.where(valued, self(u, process.processes["values"].schedule), 1.0)
        return {"states": states, "values": torch.where(given[:, owner], 0.0, values[:, None])}


@dataclass(frozen=True)
class TableTimes(Times):
    """Those of the one table that a batch is of: table -> the times of its rows."""

    tables: Mapping[str, RowTimes]

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return LogitNormal()(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tree:
        whole: Any = batch["x"]
        ((name, rows),) = whole.items()
        return {name: self.tables[name].draw(u, rng, process.processes[name], {"x": rows})}


def walked(times: Tensor, calls: tuple[int, int]) -> list[dict[str, Tensor]] | Tensor:
    """The times of a cascade with as many steps as ``times`` (n + 1,) has: those of values fall like it.

    Args:
        calls: steps of states and of values that are usual; of other numbers each gets its share, at least one. A single
            step is taken by both together.
    """
    steps, (states, values) = len(times) - 1, calls
    if not values or steps < 2:
        return times if values else [{"states": t} for t in torch.linspace(1, 0, steps + 1, dtype=times.dtype)]
    own = min(max(1, round(steps * values / (states + values))), steps - 1)
    place = torch.linspace(0, steps, own + 1, dtype=torch.float64)
    low = place.floor().long().clamp_max(steps - 1)
    return cascade(
        torch.linspace(1, 0, steps - own + 1, dtype=times.dtype), torch.lerp(times[low], times[low + 1], place - low)
    )


def cascade(states: Tensor, values: Tensor) -> list[dict[str, Tensor]]:
    """Times to walk along: states first, while the values are noise, then values, while the states stand.

    Args:
        states, values: falling times, (n + 1,) and (m + 1,) -> n + m + 1 times.
    """
    first = [{"states": t, "values": values[0]} for t in states]
    return first + [{"states": states[-1], "values": t} for t in values[1:]]
