"""U-Net for pictures: residual convolutions on a pyramid, with short cuts from its way down to its way up.

The plan is that of DDPM (Ho et al. 2020) and ADM (Dhariwal and Nichol 2021), with one skip connection per residual
block on either side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sfumato.networks.attention import attend
from sfumato.networks.parts import Condition, ContextEntry, GroupNorm, check_level, matrix, no_autocast, standard, zero_

Context = tuple[Tensor, Tensor | None]
"""A condition sequence (B, S, width) and its mask (B, S) bool, True = keep."""


class UNet(nn.Module):
    """U-Net on pictures (B, channels, H, W) with any number of channels.

    multipliers       width of each level of the pyramid, times `width`; each level halves H and W
    depth             residual blocks per level, on the way down and again on the way up
    attention_levels  number of lowest levels with attention (the bottom always attends once if this is > 0)
    guided            the strength of guidance is an input (flow maps)
    vectors           number of numbers that a sample is drawn for, 0 for none
    unshuffle         fold squares of this many pixels into channels first: 2 makes everything four times cheaper
    context_dim       width of a condition sequence to attend to, 0 for none
    context_levels    number of lowest levels that attend to it, after every residual block
    beside            channels that are shown beside x and not answered: a frame before, a map
    dropout           share of the numbers before each block's last convolution that is dropped in training
    recompute         remember no activation inside blocks, and work them out again on the way back: less memory, a third
    more time

    H and W must be multiples of `unshuffle * 2 ** (len(multipliers) - 1)`.

    Raises ValueError if the options do not fit together.
    """

    units = ("Residual",)
    options: dict[str, Any]

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 64,
        depth: int = 2,
        multipliers: tuple[int, ...] | list[int] = (1, 2, 3, 4),
        attention_levels: int = 1,
        classes: int = 0,
        unshuffle: int = 1,
        guided: bool = False,
        vectors: int = 0,
        context_dim: int = 0,
        context_levels: int = 2,
        beside: int = 0,
        dropout: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "unet",
            "channels": channels,
            "width": width,
            "depth": depth,
            "multipliers": list(multipliers),
            "attention_levels": attention_levels,
            "classes": classes,
            "unshuffle": unshuffle,
            "guided": guided,
        } | ({"vectors": vectors} if vectors else {})
        self.options |= {"context_dim": context_dim, "context_levels": context_levels} if context_dim else {}
        self.options |= {"beside": beside} if beside else {}
        self.options |= {"dropout": dropout} if dropout else {}
        self.options |= {"recompute": recompute} if recompute else {}
        if not multipliers:
            raise ValueError("multipliers is empty: a U-Net needs one level or more")
        if context_dim and context_levels < 1:
            raise ValueError(
                f"context_levels is {context_levels}, expected 1 or more: nothing would attend to the context"
            )
        self.channels, self.beside, self.unshuffle = channels, beside, unshuffle
        self.divisor = unshuffle * 2 ** (len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]
        lowest = len(widths) - 1
        folded = channels * unshuffle**2
        condition = 4 * width

        self.condition = Condition(condition, classes=classes, vectors=vectors, guided=guided)
        self.context = ContextEntry(context_dim, condition) if context_dim else None
        self.enter = nn.Conv2d(folded + beside * unshuffle**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        here = widths[0]
        hears = [context_dim > 0 and i > lowest - context_levels for i in range(len(widths))]
        for i, there in enumerate(widths):
            attend = i > lowest - attention_levels
            self.down.append(Down(here, there, condition, depth=depth, attend=attend, hear=hears[i], last=i == lowest))
            here = there
        self.bottom1 = Residual(here, here, condition, attend=attention_levels > 0, hear=context_dim > 0)
        self.bottom2 = Residual(here, here, condition, attend=False)
        for i, there in reversed(list(enumerate(widths))):
            attend = i > lowest - attention_levels
            self.up.append(Up(here, there, condition, depth=depth, attend=attend, hear=hears[i], last=i == 0))
            here = there
        self.norm = GroupNorm(here)
        self.head = nn.Conv2d(here, folded, 3, padding=1)
        zero_(self.head)
        for part in self.modules():
            if isinstance(part, Residual):
                part.dropout, part.recompute = dropout, recompute

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
        beside: Tensor | None = None,
    ) -> Tensor:
        """x (B, channels, H, W), level (B,), level_s (B,), label (B,) int64 with -1 for none, guidance (B, 3), context
        (B, S, context_dim) with context_mask (B, S) bool, True = keep, beside (B, channels beside, H, W) -> shaped like x.

        Raises ValueError for other shapes, for a label where `classes` is 0, a context where `context_dim` is.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.channels}, height, width)")
        wanted = (len(x), self.beside, *x.shape[2:])
        if (() if beside is None else tuple(beside.shape)) != (wanted if self.beside else ()):
            found = "missing" if beside is None else f"of shape {tuple(beside.shape)}"
            raise ValueError(f"what is shown beside x is {found}, expected {wanted if self.beside else 'nothing'}")
        for name, side in (("height", x.shape[2]), ("width", x.shape[3])):
            if side % self.divisor:
                raise ValueError(f"{name} {side} is not divisible by {self.divisor} (unshuffle and halvings)")
        check_level(level, x.shape[0])
        condition = F.silu(self.condition(level, level_s, label, guidance, vector, vector_known))
        told = self.told(context, context_mask, len(x))

        h = x if beside is None else torch.cat((x, beside.to(x.dtype)), 1)
        h = F.pixel_unshuffle(h, self.unshuffle) if self.unshuffle > 1 else h
        if h.device.type == "cpu":
            h = h.contiguous(memory_format=torch.channels_last)  # the layout that CPU convolutions are fastest in
        h = self.enter(h)
        skips: list[Tensor] = []
        for down in self.down:
            h = down(h, condition, skips, told)
        h = self.bottom2(self.bottom1(h, condition, told), condition)
        for up in self.up:
            h = up(h, condition, skips, told)
        h = F.silu(self.norm(h))
        with no_autocast(h):  # the answer in full precision: it will be subtracted from something close to it
            answer = self.head(h.to(self.head.weight.dtype)).to(x.dtype)
        return F.pixel_shuffle(answer, self.unshuffle) if self.unshuffle > 1 else answer

    def told(self, context: Tensor | None, mask: Tensor | None, batch: int) -> Context | None:
        """The condition sequence as the levels attend to it; None for a network without one."""
        if self.context is not None:
            entered: Context = self.context(context, mask, batch)
            return entered
        if context is not None or mask is not None:
            raise ValueError("this network was built with context_dim=0 and takes no context")
        return None


class Down(nn.Module):
    """One level on the way down: residual blocks, each remembered for the way up, then half the resolution."""

    def __init__(
        self, inside: int, outside: int, condition: int, *, depth: int, attend: bool, hear: bool, last: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Residual(outside if i else inside, outside, condition, attend=attend, hear=hear) for i in range(depth)
        )
        self.halve = None if last else nn.Conv2d(outside, outside, 3, stride=2, padding=1)

    def forward(self, h: Tensor, condition: Tensor, skips: list[Tensor], told: Context | None = None) -> Tensor:
        """Appends to `skips`."""
        for block in self.blocks:
            h = block(h, condition, told)
            skips.append(h)
        return h if self.halve is None else self.halve(h)


class Up(nn.Module):
    """One level on the way up: blocks that also see their counterparts' results, then double the resolution."""

    def __init__(
        self, inside: int, outside: int, condition: int, *, depth: int, attend: bool, hear: bool, last: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Residual((outside if i else inside) + outside, outside, condition, attend=attend, hear=hear)
            for i in range(depth)
        )
        self.smooth = None if last else nn.Conv2d(outside, outside, 3, padding=1)

    def forward(self, h: Tensor, condition: Tensor, skips: list[Tensor], told: Context | None = None) -> Tensor:
        """Takes from `skips`, the latest first."""
        for block in self.blocks:
            h = block(torch.cat((h, skips.pop()), 1), condition, told)
        if self.smooth is None:
            return h
        return self.smooth(F.interpolate(h, scale_factor=2.0, mode="nearest"))


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, the second norm scaled and shifted by the condition; attention to all pixels and to the
    condition sequence if asked for.

    Starts as the identity (or, where the number of channels changes, as a 1x1 convolution).
    """

    def __init__(self, inside: int, outside: int, condition: int, *, attend: bool, hear: bool = False) -> None:
        super().__init__()
        self.norm1 = GroupNorm(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outside)
        self.norm2 = GroupNorm(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.short = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        self.dropout, self.recompute = 0.0, False
        self.attention = PixelAttention(outside) if attend else None
        self.words = WordAttention(outside, condition) if hear else None
        zero_(self.modulation)
        zero_(self.conv2)

    def forward(self, x: Tensor, condition: Tensor, told: Context | None = None) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            again: Tensor = checkpoint(self.answer, x, condition, told, use_reentrant=False)
            return again
        return self.answer(x, condition, told)

    def answer(self, x: Tensor, condition: Tensor, told: Context | None = None) -> Tensor:
        """What `forward` gives, its activations remembered."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(condition).to(h.dtype)[..., None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        h = self.conv2(F.dropout(h, self.dropout, self.training) if self.dropout else h)
        h = self.short(x) + h
        if self.attention is not None:
            h = self.attention(h)
        return h if self.words is None or told is None else self.words(h, *told)


class PixelAttention(nn.Module):
    """Residual attention among all pixels, in heads of 64 channels or so; starts as the identity.

    Needs no positions: the convolutions around it know them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = heads(channels)
        self.norm = GroupNorm(channels)
        self.qkv = matrix(channels, 3 * channels)
        self.scale = nn.Parameter(torch.ones(channels // self.heads))  # of queries times keys
        self.out = matrix(channels, channels)
        zero_(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        out = self.out(attend(standard(q, self.scale), standard(k), v))
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])


class WordAttention(nn.Module):
    """Residual attention from all pixels to a condition sequence of ``inside`` channels; starts as the identity."""

    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        self.heads = heads(channels)
        self.norm = GroupNorm(channels)
        self.q = matrix(channels, channels)
        self.kv = matrix(inside, 2 * channels)
        self.scale = nn.Parameter(torch.ones(channels // self.heads))  # of queries times keys
        self.out = matrix(channels, channels)
        zero_(self.out)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, H, W), context (B, S, inside), mask (B, S) bool, True = keep -> (B, C, H, W)."""
        q = self.q(self.norm(x).flatten(2).transpose(1, 2)).unflatten(-1, (self.heads, -1))
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        out = self.out(attend(standard(q, self.scale), standard(k), v, mask))
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])


def heads(channels: int) -> int:
    """Heads of 64 channels or so that divide them."""
    found = max(1, channels // 64)
    while channels % found:
        found -= 1
    return found
