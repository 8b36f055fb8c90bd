"""Diffusion transformer for sequences, pictures and clips.

The network cuts its input into patches, gives each a token, lets the tokens attend to each other, and lays the
answers of the tokens back together. The noise level enters every block as a scale, a shift and a gate (adaLN-zero,
Peebles and Xie 2022), all computed once by a layer that the blocks share (adaLN-single, PixArt-alpha, Chen et al.
2023): a layer of its own in each block would hold a third of all parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.attention import CrossAttention, SelfAttention, rotary_angles, rotary_turns
from sfumato.networks.loops import check_loops, draw_loops, settle
from sfumato.networks.parts import (
    Condition,
    ContextEntry,
    SwiGLU,
    add_gated,
    check_level,
    modulate,
    no_autocast,
    standard,
    zero_,
)
from sfumato.networks.patches import Patches
from sfumato.networks.strips import Strip


class DiT(nn.Module):
    """Diffusion transformer.

    dims     1: x is (B, L, channels); 2: (B, channels, H, W); 3: (B, T, channels, H, W).
    patch    side of a patch: elements of a sequence, or pixels of a picture or frame (a frame is never merged with
             its neighbours). L, or H and W, must be multiples of it; nothing else about the size is fixed.
    heads    of attention; by default one per 64 channels of width.
    classes  number of class labels, 0 for none.
    guided   the strength of guidance is an input (flow maps).
    vectors  number of numbers that a sample is drawn for, 0 for none.
    context_dim  width of a condition sequence to attend to, 0 for none.
    routing  share of the tokens that skip the middle blocks during training (TREAD, Krause et al. 2025,
             arXiv 2501.04765); they are put back unchanged. Cheaper steps, and a weak model for autoguidance.
    loops    (least, most): the blocks between the first and the last are applied that often, with the same weights, a
             random number of times in training and any number afterwards (`loops.py`). Not together with routing.

    Raises ValueError if the options do not fit together.
    """

    units = ("Block",)
    options: dict[str, Any]

    def __init__(
        self,
        *,
        channels: int,
        dims: int = 2,
        width: int = 256,
        depth: int = 6,
        heads: int | None = None,
        patch: int = 4,
        classes: int = 0,
        context_dim: int = 0,
        routing: float = 0.0,
        loops: Sequence[int] | None = None,
        mlp_ratio: float = 8 / 3,
        guided: bool = False,
        vectors: int = 0,
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "dit",
            "channels": channels,
            "dims": dims,
            "width": width,
            "depth": depth,
            "heads": heads,
            "patch": patch,
            "classes": classes,
            "context_dim": context_dim,
            "routing": routing,
            "loops": None if loops is None else list(loops),
            "mlp_ratio": mlp_ratio,
            "guided": guided,
        } | ({"vectors": vectors} if vectors else {})
        if dims not in (1, 2, 3):
            raise ValueError(f"dims is {dims}, expected 1 (sequence), 2 (picture) or 3 (clip)")
        heads = max(1, width // 64) if heads is None else heads
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        if not 0 <= routing < 1:
            raise ValueError(f"routing is {routing}, expected a share in [0, 1)")
        if routing and depth < 4:
            raise ValueError(
                f"routing needs a depth of 4 or more, not {depth}: the first and last two blocks see all tokens"
            )
        self.loops = None if loops is None else check_loops(loops, depth, routing)
        rotary_angles((1,) * dims, width // heads)  # complains now, not at the first batch

        self.dims, self.patch, self.routing = dims, patch, routing
        self.patches = Patches(dims, channels, patch)
        self.head_width = width // heads
        numbers = self.patches.numbers
        hidden = max(1, round(mlp_ratio * width / 64)) * 64  # matrix units like multiples of 64

        self.condition = Condition(width, classes=classes, vectors=vectors, guided=guided)
        self.modulation = nn.Linear(width, 8 * width)  # 6 for every block, 2 for the head
        self.enter = nn.Linear(numbers, width)
        self.place = nn.Linear(self.head_width, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, cross=context_dim > 0) for _ in range(depth))
        self.head = nn.Linear(width, numbers)
        self.context = ContextEntry(context_dim, width) if context_dim else None
        self.strip: Strip | None = None

        zero_(self.modulation)
        zero_(self.head)

    def in_strips(self, strip: Strip) -> None:
        """From now on the blocks see this process's strip of the tokens. Raises ValueError where it cannot be done."""
        if self.routing:
            raise ValueError("routing chooses among all tokens, of which a process would have some: leave routing out")
        for block in self.blocks:
            block.attention.of_strip(strip)  # type: ignore[operator, union-attr]
        self.strip = strip

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
        route: bool | None = None,
        routing_order: Tensor | None = None,
        loops: int | None = None,
    ) -> Tensor:
        """Answer, shaped like x.

        x             (B, L, C), (B, C, H, W) or (B, T, C, H, W), see `dims`
        level         (B,), or a level per element (B, L) or per frame (B, T); level_s likewise
        label         (B,) int64, -1 for none
        guidance      (B, 3): strength, and the times between which it acts; only for networks built with `guided`
        context       (B, S, context_dim), with context_mask (B, S) bool, True = keep
        route         whether `routing` tokens skip the middle blocks; None: only in training
        routing_order (B, tokens) uniform random numbers: the tokens with the smallest go through. Drawn if None.
        loops         of the middle blocks, 1 or more, also beyond those of training; None: random in training, else most

        Raises ValueError if a shape does not fit the options.
        """
        times = self.times_around(loops)
        sides = self.patches.sides(x)
        batch, tokens = x.shape[0], math.prod(sides)
        check_level(level, batch, None if self.dims == 2 else x.shape[1])

        condition = self.condition(level, level_s, label, guidance, vector, vector_known)
        if condition.ndim == 2:
            condition = condition[:, None]
        elif self.dims == 1:
            condition = condition.unflatten(1, (sides[0], self.patch)).mean(2)  # elements of a patch share a token
        # (B, M, 8, width), where M is 1, or the number of runs of tokens that have a level of their own
        modulation = self.modulation(F.silu(condition)).unflatten(-1, (8, -1))
        context, context_mask = self.enter_context(context, context_mask, batch)

        angles = rotary_angles(sides, self.head_width, x.device)
        # Rotary positions only tell tokens how far apart they are; this tells them where they are.
        h = self.enter(self.patches.cut(x, sides))
        h = h + self.place(torch.cat((angles.cos(), angles.sin()), -1)).to(h.dtype)
        turns = rotary_turns(angles, h.dtype)
        if self.strip is not None:
            h, turns = self.strip.cut(h), turns[:, self.strip.rows(tokens)]
            modulation = self.strip_of(modulation, tokens)

        first, last = 1, len(self.blocks) - 2
        if route is None:
            route = self.training and self.routing > 0
        if route:
            if not self.routing:
                raise ValueError("route=True, but this network was built with routing=0")
            for block in self.blocks[:first]:
                h = block(h, modulation[:, :, :6], turns, context, context_mask)
            index = self.kept(batch, tokens, routing_order, x.device)
            part, part_modulation = take(h, index), modulation[:, :, :6]
            if modulation.shape[1] > 1:
                each = part_modulation.repeat_interleave(tokens // modulation.shape[1], 1)
                part_modulation = take(each.flatten(2), index).unflatten(-1, (6, -1))
            for block in self.blocks[first:last]:
                part = block(part, part_modulation, turns[:, index], context, context_mask)
            h = put(h, index, part)
            for block in self.blocks[last:]:
                h = block(h, modulation[:, :, :6], turns, context, context_mask)
        elif self.loops is not None:

            def middle(h: Tensor) -> Tensor:
                for block in self.blocks[1:-1]:
                    h = block(h, modulation[:, :, :6], turns, context, context_mask)
                return h

            h = self.blocks[0](h, modulation[:, :, :6], turns, context, context_mask)
            h = settle(middle, h, times, self.loops[1])
            h = self.blocks[-1](h, modulation[:, :, :6], turns, context, context_mask)
        else:
            for block in self.blocks:
                h = block(h, modulation[:, :, :6], turns, context, context_mask)

        with no_autocast(h):  # the answer in full precision: it will be subtracted from something close to it
            scale, shift = modulation[:, :, 6:].to(self.head.weight.dtype).unbind(2)
            answer = self.head(modulate(standard(h.to(self.head.weight.dtype)), scale, shift))
        if self.strip is not None:
            answer = self.strip.join(answer)
        return self.patches.join(answer.to(x.dtype), sides)

    def strip_of(self, modulation: Tensor, tokens: int) -> Tensor:
        """What modulates this process's strip of so many tokens, of what modulates all, (B, M, 8, width)."""
        assert self.strip is not None
        runs = modulation.shape[1]
        if runs == 1:
            return modulation
        if runs % self.strip.count:
            modulation = modulation.repeat_interleave(tokens // runs, 1)
        return self.strip.cut(modulation)

    def times_around(self, loops: int | None) -> int:
        """How often to apply the middle blocks; ``loops`` as in `forward`."""
        if self.loops is None:
            if loops is not None:
                raise ValueError(f"loops={loops}, but this network was built with loops=None")
            return 1
        if loops is None:
            return draw_loops(*self.loops) if self.training else self.loops[1]
        if loops < 1:
            raise ValueError(f"loops is {loops}, expected 1 or more")
        return loops

    def enter_context(
        self, context: Tensor | None, mask: Tensor | None, batch: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Condition sequence and mask as the blocks want them."""
        if self.context is None:
            if context is not None or mask is not None:
                raise ValueError("this network was built with context_dim=0 and takes no context")
            return None, None
        return self.context(context, mask, batch)

    def kept(self, batch: int, tokens: int, order: Tensor | None, device: torch.device) -> Tensor:
        """Indices (B, K) of the tokens that go through the middle blocks."""
        if order is None:
            order = torch.rand(batch, tokens, device=device)
        elif order.shape != (batch, tokens):
            raise ValueError(f"routing_order has shape {tuple(order.shape)}, expected ({batch}, {tokens})")
        keep = max(1, round((1 - self.routing) * tokens))
        return order.argsort(1)[:, :keep]


Looks = Callable[[SelfAttention, Tensor, Tensor], Tensor]
"""An attention, tokens h (B, N, width) and their turns -> what they heard (B, N, width)."""


class Block(nn.Module):
    """Attention, attention to the context if there is one, feed-forward; starts as the identity."""

    def __init__(self, width: int, heads: int, hidden: int, *, cross: bool) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.zeros(6, width))  # what this block adds to the shared modulation
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads) if cross else None
        self.feed = SwiGLU(width, hidden)

    def forward(
        self, h: Tensor, modulation: Tensor, turns: Tensor, context: Tensor | None, context_mask: Tensor | None,
        looks: Looks | None = None,
    ) -> Tensor:  # fmt: skip
        """h (B, N, width), modulation (B, M, 6, width), turns (2, N, head) or (2, B, N, head). looks: which tokens look at which;
        None: all at all."""
        scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = (modulation + self.offsets).to(h.dtype).unbind(2)
        shown = modulate(standard(h), scale_a, shift_a)
        h = add_gated(h, gate_a, self.attention(shown, turns) if looks is None else looks(self.attention, shown, turns))
        if self.cross is not None and context is not None:
            h = h + self.cross(standard(h), context, context_mask)
        return add_gated(h, gate_f, self.feed(modulate(standard(h), scale_f, shift_f)))


def take(h: Tensor, index: Tensor) -> Tensor:
    """Tokens `index` (B, K) of h (B, N, width): (B, K, width)."""
    return h.gather(1, index[..., None].expand(-1, -1, h.shape[-1]))


def put(h: Tensor, index: Tensor, part: Tensor) -> Tensor:
    """h (B, N, width) with the tokens `index` (B, K) replaced by `part` (B, K, width)."""
    return h.scatter(1, index[..., None].expand_as(part), part.to(h.dtype))
