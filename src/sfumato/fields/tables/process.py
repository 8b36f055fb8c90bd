"""How rows become noise: states fall under masks, values under normal noise, each column in its own time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.loss import LogitNormal, stratified
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.product import Product
from sfumato.diffusion.rng import Streams
from sfumato.diffusion.schedule import Linear

F64 = torch.float64


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
class RowTimes:
    """Times of training: (B, C) for states and (B, N) for values, of three kinds of rows.

    Args:
        values: share of the rows that train values: these have a time, and a share of the states is hidden beside them
            (all states together name the row, so that values would be learned by heart). The others train states: all
            values are noise.
        known: share of the rows of which a random part of the columns is given, states and values.
        open: share of the rows that train values in which no state is hidden.
    """

    values: float = 0.5
    known: float = 0.25
    open: float = 0.0

    def draw(self, rng: Streams, places: Tensor, total: int, owner: Sequence[int], columns: int) -> dict[str, Tensor]:
        """Times of rows at ``places`` in a batch of ``total``; ``owner`` (N,) are the columns of the values."""
        u = stratified(rng, places, total)
        rows = len(u)
        chance = rng.uniform((rows, 4), F64)
        given = rng.uniform((rows, columns), F64) < rng.uniform((rows, 1), F64)
        given &= (chance[:, 0] < self.known)[:, None]
        valued = (chance[:, 1] < self.values)[:, None] if len(owner) else torch.zeros(rows, 1, dtype=torch.bool)
        hidden = torch.where(chance[:, 3] < self.open, 0.0, chance[:, 2])[:, None]
        states = torch.where(valued, hidden, u[:, None]).clamp_min(1e-3).expand(rows, columns)
        states = torch.where(given, 0.0, states)
        if not len(owner):
            return {"states": states}
        place = LogitNormal()(u, Linear())[:, None]
        values = torch.where(valued, place, 1.0).expand(rows, len(owner))
        return {"states": states, "values": torch.where(given[:, list(owner)], 0.0, values)}


def cascade(states: Tensor, values: Tensor) -> list[dict[str, Tensor]]:
    """Times to walk along: states first, while the values are noise, then values, while the states stand.

    Args:
        states, values: falling times, (n + 1,) and (m + 1,) -> n + m + 1 times.
    """
    first = [{"states": t, "values": values[0]} for t in states]
    return first + [{"states": states[-1], "values": t} for t in values[1:]]
