"""Attention among points in space: what two points are to each other enters as a bias of their attention, and where a point looks
comes out as a vector. For atoms, residues, particles."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.parts import SwiGLU, matrix, no_autocast, standard, zero_


class Radial(nn.Module):
    """Distances as bumps: Gaussians at ``count`` even places from 0 to ``reach``; (...,) -> (..., count), float32."""

    def __init__(self, count: int = 20, reach: float = 15.0) -> None:
        super().__init__()
        self.count, self.reach = count, reach

    def forward(self, distance: Tensor) -> Tensor:
        """distance (...,) in the units of ``reach``."""
        step = self.reach / (self.count - 1)
        places = torch.arange(self.count, device=distance.device, dtype=torch.float32) * step
        return torch.exp(-0.5 * ((distance.float()[..., None] - places) / step) ** 2)


def spread(places: Tensor, longest: float = 40.0, shortest: float = 2.0, count: int = 6) -> Tensor:
    """Places (..., 3) as sines and cosines, and themselves over ``longest / 4``: (..., 6 count + 3), float32."""
    periods = torch.linspace(math.log(longest), math.log(shortest), count, device=places.device).exp()
    angles = places.float()[..., None] * (2 * math.pi / periods)
    return torch.cat((angles.sin().flatten(-2), angles.cos().flatten(-2), places.float() * (4 / longest)), -1)


class PairAttention(nn.Module):
    """Attention of N tokens to themselves and to S more whose keys and values are known, biased pair by pair."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = matrix(width, 3 * width), matrix(width, width)
        zero_(self.out)

    def forward(self, x: Tensor, bias: Tensor, more: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """x (B, N, width), bias (B, heads, N, N + S), -inf where nothing is to be seen, more: keys and values (B, S, width) each
        -> (B, N, width) and the shares of attention (B, heads, N, N + S), float32."""
        q, k, v = self.qkv(x).chunk(3, -1)
        if more is not None:
            k, v = torch.cat((k, more[0].to(k.dtype)), 1), torch.cat((v, more[1].to(v.dtype)), 1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        scores = standard(q) @ standard(k).transpose(-1, -2) * q.shape[-1] ** -0.5
        with no_autocast(scores):
            shares = (scores.float() + bias).softmax(-1)
        return self.out((shares.to(v.dtype) @ v).transpose(1, 2).flatten(2)), shares


class PairBlock(nn.Module):
    """Pair attention and a gated feed-forward layer, each scaled and shifted by a condition (adaLN, Peebles and Xie 2022)."""

    def __init__(self, width: int, heads: int, inside: int = 0) -> None:
        super().__init__()
        self.attention, self.feed = PairAttention(width, heads), SwiGLU(width, 2 * width)
        zero_(self.feed.out)
        self.modulate = nn.Linear(inside, 4 * width) if inside else None
        if self.modulate is not None:
            zero_(self.modulate)

    def forward(
        self, x: Tensor, bias: Tensor, more: tuple[Tensor, Tensor] | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :class:`PairAttention`; condition (B, inside)."""
        scale1, shift1, scale2, shift2 = (0.0,) * 4 if self.modulate is None or condition is None else (
            self.modulate(F.silu(condition))[:, None].chunk(4, -1)
        )  # fmt: skip
        added, shares = self.attention(standard(x) * (1 + scale1) + shift1, bias, more)
        x = x + added
        return x + self.feed(standard(x) * (1 + scale2) + shift2), shares
