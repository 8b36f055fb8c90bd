"""How rows become noise: states fall under masks, values under normal noise, each column in its own time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.masked import Masked
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.product import Product
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.times import LogitNormal, Times
from sfumato.diffusion.tree import Tree

EARLIEST = 1e-3  # time of states: the bound weighs what is hidden by 1 / t


def process_of(sizes: Sequence[int], values: int) -> Product:
    """The process of rows with ``sizes`` states a column, ``values`` of which have values.

    A row's loss is the bound of its states and the velocity error of its values, summed over columns and divided by their
    number. The answer for values is v, whose zero is the velocity of independent standard normal values.
    """
    columns = len(sizes)
    states = Masked(mask_id=max(sizes))
    if not values:
        return Product(states=states)
    weights = {"states": columns / (columns + values), "values": values / (columns + values)}
    return Product(weights, states=states, values=Gaussian(Linear(), predicts="v", loss_in="velocity"))


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
    """

    owner: tuple[int, ...]
    values: float = 0.5
    known: float = 0.25

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return LogitNormal()(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tree:
        rows, columns = batch["x"]["states"].shape
        kind, known, share, hidden, *each = uniform_like(u, rng, (rows, 4 + columns)).unbind(1)
        given = (torch.stack(each, 1) < share[:, None]) & (known < self.known)[:, None]
        owner = torch.tensor(self.owner, dtype=torch.int64, device=u.device)
        valued = (kind < self.values) & bool(self.owner)
        states = torch.where(valued, hidden, u).clamp_min(EARLIEST)
        states = torch.where(given, 0.0, states[:, None])
        if not self.owner:
            return {"states": states}
        values = torch.where(valued, self(u, process.processes["values"].schedule), 1.0)
        return {"states": states, "values": torch.where(given[:, owner], 0.0, values[:, None])}


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
