"""Attention: of tokens among themselves, of tokens to others, and how they know where they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.parts import matrix, no_autocast, standard, zero_
from sfumato.networks.strips import Strip, divisible


def rotary_angles(sides: tuple[int, ...], head: int, device: torch.device | None = None) -> Tensor:
    """Angles by which rotary positions turn the pairs of a head: (product of sides, head / 2), float32.

    The pairs are shared out among the axes, and each share turns with one coordinate at geometrically spaced speeds
    (RoFormer, Su et al. 2021; axial in two and three dimensions). Coordinates count tokens from 0.
    Raises ValueError if the head is odd or has fewer pairs than there are axes.
    """
    pairs, axes = head // 2, len(sides)
    if head % 2 or pairs < axes:
        raise ValueError(
            f"a head of {head} channels cannot hold positions on {axes} axes: use an even number >= {2 * axes}"
        )
    base = 10_000.0 if axes == 1 else 100.0  # sequences are long, pictures have few patches a side
    angles = []
    for axis, side in enumerate(sides):
        share = pairs // axes + (axis < pairs % axes)
        speeds = base ** (-torch.arange(share, device=device, dtype=torch.float32) / share)
        along = torch.arange(side, device=device, dtype=torch.float32)[:, None] * speeds  # (side, share)
        shape = [1] * axes
        shape[axis] = side
        angles.append(along.view(*shape, share).expand(*sides, share))
    return torch.cat(angles, dim=-1).flatten(0, -2)


def rotary_turns(angles: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosines and sines for `rotate`: angles (..., head / 2) -> (2, ..., head)."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cosine, cosine), -1), torch.cat((-sine, sine), -1))).to(dtype)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head / 2]) of x (..., head) as `rotary_turns` (2, ..., head) says."""
    cosine, sine = turns.unbind(0)
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), sine)  # rolling swaps the two halves


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; q (B, N, heads, head), k and v (B, S, heads, head) -> (B, N, heads * head).

    mask (B, S), or (B, N, S) where it is not the same for all q, bool, True = keep.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if mask is not None:
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    short = q.shape[2] * k.shape[2] <= 512**2
    if short and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # The CPU's fused kernel saves memory, but in bfloat16 its way back takes up to twice as long as this, masked four times.
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        with no_autocast(scores):  # softmax sums in float32 anyway; autocast would also store its result so
            shares = scores.softmax(-1)
        mixed = shares @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention among tokens, with normalised queries and keys (Henry et al. 2020) and rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = matrix(width, 3 * width)
        self.out = matrix(width, width)
        self.scale = nn.Parameter(torch.ones(width // heads))  # of queries and keys alike: only the product counts
        self.strip: Strip | None = None

    def of_strip(self, strip: Strip) -> None:
        """From now on x is a process's strip of the tokens, and masks are of all of them. Raises ValueError."""
        divisible(self.heads, strip)
        self.strip = strip

    def forward(
        self, x: Tensor, turns: Tensor, mask: Tensor | None = None, before: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """x (B, N, width), turns (2, N, head) or (2, B, N, head), mask (B, N) or (B, N, N) bool, True = attend to it ->
        (B, N, width). before: keys and values (B, M, heads, head) of other tokens that are attended to, too."""
        q, k, v = self.heard(x, turns)
        if before is not None:
            k, v = torch.cat((before[0], k), 1), torch.cat((before[1], v), 1)
        if self.strip is None:
            return self.out(attend(q, k, v, mask))
        q, k, v = (self.strip.to_heads(each) for each in (q, k, v))
        mixed = attend(q, k, v, mask).unflatten(-1, (-1, v.shape[-1]))
        return self.out(self.strip.to_tokens(mixed).flatten(2))

    def heard(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, N, heads, head) of x (B, N, width) at places `turns`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, head)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        q, k = rotate(standard(qk, self.scale), turns[..., None, None, :]).unbind(2)
        return q, k, v


class CrossAttention(nn.Module):
    """Attention from tokens to a condition sequence; starts with no influence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = matrix(width, width)
        self.kv = matrix(width, 2 * width)
        self.out = matrix(width, width)
        self.scale = nn.Parameter(torch.ones(width // heads))  # of queries times keys
        zero_(self.out)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, width), context (B, S, width), mask (B, S) bool, True = keep -> (B, N, width)."""
        q = standard(self.q(x).unflatten(-1, (self.heads, -1)), self.scale)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.out(attend(q, standard(k), v, mask))
