"""The network of windows: a residual network on the white numbers of a horizon, told the past once a walk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.mlp import Residual
from sfumato.networks.parts import Condition, check_level, no_autocast, zero_


class SeriesNetwork(nn.Module):
    """Shown white numbers (B, leads) of which some are known, answers as many.

    leads, told     numbers of a horizon; numbers that tell of the past
    width, depth    of the residual network

    What is known of the future is not seen as numbers on the way, but told. The head begins at 0: answering v, a fresh network is
    the exact denoiser of white noise, and so its forecasts are those of the ridge and the covariance of what that leaves.
    """

    units = ("Residual",)
    options: dict[str, Any]

    def __init__(self, *, leads: int, told: int, width: int = 128, depth: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.options = {
            "kind": "series",
            "leads": leads,
            "told": told,
            "width": width,
            "depth": depth,
            "dropout": dropout,
        }
        self.enter = nn.Linear(leads, width)
        self.first, self.second = nn.Linear(told + 2 * leads, width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.condition = Condition(width)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(depth))
        self.head = nn.Linear(width, leads)
        zero_(self.head)

    def given(self, *, told: Tensor, around: Tensor) -> dict[str, Tensor]:
        """What all calls of a walk share: told (B, D), around (B, 2 leads): residuals that are known, and where."""
        seen = torch.cat((told, around), 1).to(self.first.weight.dtype)
        known = around[:, self.options["leads"] :]
        return {"seen": self.second(F.silu(self.first(self.drop(seen)))), "unknown": 1 - known}

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, seen: Tensor, unknown: Tensor
    ) -> Tensor:
        """x (B, leads), level (B,), level_s (B,), seen (B, width), unknown (B, leads) -> shaped like x. Raises ValueError for
        other shapes."""
        if x.ndim != 2 or x.shape[1] != self.options["leads"]:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.options['leads']})")
        check_level(level, x.shape[0])
        condition = F.silu(self.condition(level, level_s, None))
        h = self.enter(x * unknown.to(x.dtype)) + seen
        for block in self.blocks:
            h = block(h, condition)
        with no_autocast(h):
            answer: Tensor = self.head(h.to(self.head.weight.dtype)).to(x.dtype)
        return answer
