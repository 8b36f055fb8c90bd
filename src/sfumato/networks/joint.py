"""Diffusion transformer of two streams: the tokens of the item and those of a condition, in one attention.

Each stream has weights of its own, and both attend to both (MMDiT, Esser et al. 2024, arXiv 2403.03206): what the words mean
may change on the way with what is seen of the picture, as it cannot where only the picture attends to them. Costs about
twice the parameters and, per token, the same work.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.attention import attend, rotary_angles, rotary_turns, rotate
from sfumato.networks.parts import (
    Condition,
    ContextEntry,
    SwiGLU,
    add_gated,
    check_level,
    matrix,
    modulate,
    no_autocast,
    standard,
    zero_,
)
from sfumato.networks.patches import Patches


class JointDiT(nn.Module):
    """Diffusion transformer with joint attention to a condition sequence.

    dims, patch, heads, classes, vectors, guided as of `DiT`; context_dim: width of the condition sequence, above 0.

    Raises ValueError if the options do not fit together.
    """

    units = ("JointBlock",)
    options: dict[str, Any]

    def __init__(
        self,
        *,
        channels: int,
        context_dim: int,
        dims: int = 2,
        width: int = 256,
        depth: int = 6,
        heads: int | None = None,
        patch: int = 4,
        classes: int = 0,
        mlp_ratio: float = 8 / 3,
        guided: bool = False,
        vectors: int = 0,
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "joint",
            "channels": channels,
            "context_dim": context_dim,
            "dims": dims,
            "width": width,
            "depth": depth,
            "heads": heads,
            "patch": patch,
            "classes": classes,
            "mlp_ratio": mlp_ratio,
            "guided": guided,
            "vectors": vectors,
        }
        heads = max(1, width // 64) if heads is None else heads
        for good, name, right in (
            (dims in (1, 2, 3), f"dims = {dims}", "1 (sequence), 2 (picture) or 3 (clip)"),
            (context_dim >= 1, f"context_dim = {context_dim}", "at least 1"),
            (depth >= 1, f"depth = {depth}", "at least 1"),
            (width % heads == 0, f"width = {width}", f"divisible by the {heads} heads"),
        ):
            if not good:
                raise ValueError(f"{name}: must be {right}")
        rotary_angles((1,) * dims, width // heads)  # complains now, not at the first batch
        hidden = max(1, round(mlp_ratio * width / 64)) * 64
        self.patches, self.head_width = Patches(dims, channels, patch), width // heads
        self.condition = Condition(width, classes=classes, vectors=vectors, guided=guided)
        self.modulation = nn.Linear(width, 8 * width)  # 6 for every block and stream, 2 for the head
        self.enter = nn.Linear(self.patches.numbers, width)
        self.place = nn.Linear(self.head_width, width, bias=False)
        self.context = ContextEntry(context_dim, width)
        self.blocks = nn.ModuleList(JointBlock(width, heads, hidden, last=i == depth - 1) for i in range(depth))
        self.head = nn.Linear(width, self.patches.numbers)
        zero_(self.modulation)
        zero_(self.head)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        level_s: Tensor | None = None,
        *,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
        vector: Tensor | None = None,
        vector_known: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Answer, shaped like x; arguments as of `DiT`, with one level for each row. Raises ValueError as that does."""
        sides = self.patches.sides(x)
        check_level(level, len(x))
        condition = self.condition(level, level_s, label, guidance, vector, vector_known)
        modulation = self.modulation(F.silu(condition))[:, None].unflatten(-1, (8, -1))  # (B, 1, 8, width)
        angles = rotary_angles(sides, self.head_width, x.device)
        h = self.enter(self.patches.cut(x, sides))
        h = h + self.place(torch.cat((angles.cos(), angles.sin()), -1)).to(h.dtype)
        words, mask = self.context(context, context_mask, len(x))
        if mask is not None:
            mask = F.pad(mask, (0, math.prod(sides)), value=True)
        # the condition's own order is its encoder's business: its tokens are not turned
        angles = F.pad(angles, (0, 0, words.shape[1], 0))
        turns = rotary_turns(angles, h.dtype)
        words = words.to(h.dtype)
        for block in self.blocks:
            h, words = block(h, words, modulation[:, :, :6], turns, mask)
        with no_autocast(h):  # the answer in full precision: it will be subtracted from something close to it
            scale, shift = modulation[:, :, 6:].to(self.head.weight.dtype).unbind(2)
            answer = self.head(modulate(standard(h.to(self.head.weight.dtype)), scale, shift))
        return self.patches.join(answer.to(x.dtype), sides)


class Stream(nn.Module):
    """The weights of one stream in one block: on the way into the attention, out of it, and feed-forward. A stream that is
    only looked at, as the condition's in the last block, has none of the second and third."""

    def __init__(self, width: int, heads: int, hidden: int, *, seen: bool) -> None:
        super().__init__()
        self.heads = heads
        self.offsets = nn.Parameter(torch.zeros(6, width))  # what this stream adds to the shared modulation
        self.qkv = matrix(width, 3 * width)
        self.scale = nn.Parameter(torch.ones(width // heads))  # of queries and keys alike: only the product counts
        self.out = None if seen else matrix(width, width)
        self.feed = None if seen else SwiGLU(width, hidden)

    def modulations(self, modulation: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Scale, shift and gate of attention, then of feed-forward, (B, 1, width) each."""
        return (modulation + self.offsets).to(dtype).unbind(2)

    def enters(self, h: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, N, width) -> normalised queries and keys (B, N, 2, heads, head), values (B, N, heads, head)."""
        qkv = self.qkv(modulate(standard(h), scale, shift)).unflatten(-1, (3, self.heads, -1))
        return standard(qkv[:, :, :2], self.scale), qkv[:, :, 2]

    def leaves(self, h: Tensor, mixed: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, gate_f: Tensor) -> Tensor:
        """h with what attention found (B, N, width), and the feed-forward of that."""
        if self.out is None or self.feed is None:
            return h
        h = add_gated(h, gate, self.out(mixed))
        return add_gated(h, gate_f, self.feed(modulate(standard(h), scale, shift)))


class JointBlock(nn.Module):
    """One attention over both streams; starts as the identity. In the ``last`` one the condition is only looked at."""

    def __init__(self, width: int, heads: int, hidden: int, *, last: bool) -> None:
        super().__init__()
        self.item = Stream(width, heads, hidden, seen=False)
        self.words = Stream(width, heads, hidden, seen=last)

    def forward(
        self, h: Tensor, words: Tensor, modulation: Tensor, turns: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """h (B, N, width), words (B, S, width), modulation (B, 1, 6, width), turns (2, S + N, head), mask (B, S + N) bool ->
        both streams again."""
        length = words.shape[1]
        scale, shift, *rest = self.item.modulations(modulation, h.dtype)
        gate, scale_f, shift_f, gate_f = rest
        qk, v = self.item.enters(h, scale, shift)
        scale_w, shift_w, gate_w, *rest_w = self.words.modulations(modulation, words.dtype)
        qk_w, v_w = self.words.enters(words, scale_w, shift_w)
        q, k = rotate(torch.cat((qk_w, qk), 1), turns[..., None, None, :]).unbind(2)
        mixed = attend(q, k, torch.cat((v_w, v), 1), mask)
        h = self.item.leaves(h, mixed[:, length:], gate, scale_f, shift_f, gate_f)
        return h, self.words.leaves(words, mixed[:, :length], gate_w, *rest_w)
