"""How rain is drawn: first where it falls at all, tokens that come out from under masks, then how much, numbers out of
normal noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.diffusion import Gaussian, Masked, Product
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.times import Covered, LogitNormal, Times
from sfumato.diffusion.tree import Tree
from sfumato.networks.parts import LevelEmbedding, no_autocast, standard, waves, zero_

MASK = 2
EARLIEST = 1e-3  # of masks: the bound weighs what is hidden by 1 / t
FREQUENCIES = 16


def rain() -> Product:
    """wet: 0 dry, 1 wet, 2 the mask; amount: of no weight where it is dry."""
    return Product(wet=Masked(mask_id=MASK), amount=Gaussian(Linear(), "v", "velocity"))


@dataclass(frozen=True)
class RainTimes(Times):
    """Of training, {"wet": (B,), "amount": (B,)}: half of the rows learn where it rains, all amounts being noise, half how much,
    where it rains being known; as they are drawn. Of the former half see next to no cell: a draw's first cells decide on all the
    others, and of times spread evenly next to none is as near to the beginning."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return Covered(LogitNormal(), 0.05)(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tree:
        kind, other = uniform_like(u, rng, (len(u), 2)).unbind(1)
        amounts = kind < 0.5
        hidden = torch.where(other < 0.5, u, 1 - 0.2 * u**2).clamp_min(EARLIEST)
        return {
            "wet": torch.where(amounts, 0.0, hidden),
            "amount": torch.where(amounts, self(u, process.processes["amount"].schedule), 1.0),
        }


def cascade(times: Tensor) -> list[dict[str, Tensor]]:
    """The times to walk along: two thirds of the steps for where it rains, the first of them short (cells of one step
    do not know of each other), the rest for how much."""
    steps = len(times) - 1
    own = max(1, steps // 3)
    first, second = (torch.linspace(0, 1, n + 1, dtype=times.dtype) for n in (max(1, steps - own), own))
    first, second = 1 - first**2, 1 - second
    return [{"wet": t, "amount": second[0]} for t in first] + [{"wet": first[-1], "amount": t} for t in second[1:]]


class RainNetwork(nn.Module):
    """Residual network on whole fields of cells: what is known of each, the coarse weather, the clock -> logits and an
    answer each.

    cells   of the fine field
    coarse  numbers that describe the coarse frames
    width, depth, dropout   of the residual blocks
    jitter  spread of normal numbers that are added to the coarse ones in training: by 40 exact numbers a network knows
    a day again
    """

    units = ("Linear",)
    options: dict[str, Any]

    def __init__(
        self, *, cells: int, coarse: int, width: int = 256, depth: int = 3, dropout: float = 0.0, jitter: float = 0.0
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "rain", "cells": cells, "coarse": coarse, "width": width, "depth": depth, "dropout": dropout,
            "jitter": jitter,
        }  # fmt: skip
        self.cells, self.dropout, self.jitter = cells, dropout, jitter
        self.enter = nn.Linear(3 * cells + coarse + 4 + 2 * FREQUENCIES + 1, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.logits, self.amounts = nn.Linear(width, 2 * cells), nn.Linear(width, cells)
        for layer in (*self.outer, self.logits, self.amounts):
            zero_(layer)

    def forward(
        self, shown: Mapping[str, Tensor], level: Mapping[str, Tensor], *, coarse: Tensor, clock: Tensor
    ) -> dict[str, Tensor]:
        """{"wet" int64 (B, cells), "amount" (B, cells)}, {"amount": (B,)}, coarse (B, K), clock (B, 4) -> {"wet": logits
        (B, cells, 2), "amount" (B, cells)}. Raises ValueError for other shapes."""
        wet, amount, noise = shown["wet"], shown["amount"], level["amount"].float()
        if wet.shape[1:] != (self.cells,) or amount.shape != wet.shape:
            raise ValueError(
                f"wet has shape {tuple(wet.shape)} and amount {tuple(amount.shape)}, for {self.cells} cells"
            )
        share = torch.rsqrt(1 + torch.exp(2 * noise))[:, None]  # alpha / hypot: one that is all noise is silent
        told = waves(noise, LevelEmbedding.LONGEST, LevelEmbedding.SHORTEST, FREQUENCIES)
        if self.training and self.jitter:
            coarse = coarse + self.jitter * torch.randn_like(coarse)
        parts = (wet == 0, wet == 1, amount * share * (wet == 1), coarse, clock, told, share)
        h = self.enter(torch.cat([part.to(amount.dtype) for part in parts], 1))
        for inner, outer in zip(self.inner, self.outer):
            inside = F.silu(inner(standard(h)))
            h = h + outer(F.dropout(inside, self.dropout, self.training) if self.dropout else inside)
        with no_autocast(h):
            h = h.to(self.logits.weight.dtype)
            return {"wet": self.logits(h).unflatten(1, (self.cells, 2)), "amount": self.amounts(h)}
