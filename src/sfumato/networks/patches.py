"""Patches: an item cut into tokens of equal size, and laid back together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """How items become tokens.

    dims: 1 for sequences (B, L, channels), 2 for pictures (B, channels, H, W), 3 for clips (B, T, channels, H, W), whose frames
    are never merged. side: of a patch, in elements or pixels.
    """

    dims: int
    channels: int
    side: int

    @property
    def numbers(self) -> int:
        """In one patch."""
        return self.channels * self.side ** (1 if self.dims == 1 else 2)

    def sides(self, x: Tensor) -> tuple[int, ...]:
        """Number of tokens along each axis. Raises ValueError if x does not fit."""
        axes = {1: "(batch, length, {})", 2: "(batch, {}, height, width)", 3: "(batch, frames, {}, height, width)"}
        if x.ndim != self.dims + 2 or x.shape[2 if self.dims != 2 else 1] != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected {axes[self.dims].format(self.channels)}")
        frames = (x.shape[1],) if self.dims == 3 else ()
        spatial = {"length": x.shape[1]} if self.dims == 1 else {"height": x.shape[-2], "width": x.shape[-1]}
        for name, side in spatial.items():
            if side % self.side:
                raise ValueError(f"{name} {side} is not divisible by the patch, {self.side}; give one that divides it")
        return frames + tuple(side // self.side for side in spatial.values())

    def cut(self, x: Tensor, sides: tuple[int, ...]) -> Tensor:
        """(B, tokens, numbers in a patch)."""
        if self.dims == 1:
            return x.reshape(x.shape[0], sides[0], -1)
        p = self.side
        cut = x.reshape(-1, self.channels, sides[-2], p, sides[-1], p).permute(0, 2, 4, 1, 3, 5)
        return cut.reshape(x.shape[0], math.prod(sides), -1)

    def join(self, h: Tensor, sides: tuple[int, ...]) -> Tensor:
        """The inverse of `cut`."""
        if self.dims == 1:
            return h.reshape(h.shape[0], sides[0] * self.side, self.channels)
        p, c = self.side, self.channels
        cut = h.reshape(-1, sides[-2], sides[-1], c, p, p).permute(0, 3, 1, 4, 2, 5)
        return cut.reshape(h.shape[0], *sides[:-2], c, sides[-2] * p, sides[-1] * p)
