"""Diffusion transformer for clips in which one may choose what looks at what.

    full      every token looks at every token of the clip
    factored  blocks take turns: one looks within each frame, the next along time, at one place of all frames
    causal    no token looks at a later frame, so what was made of the frames before is kept, and they are not shown again

    carry     a patch may take over what stands at its place in a frame that is nearly clean, where its own is not: so what stands
              still need not be painted again

With full attention that is neither causal nor carries it is :class:`~sfumato.networks.dit.DiT` of three dimensions, to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.attention import SelfAttention, rotary_angles, rotary_turns
from sfumato.networks.dit import DiT, Looks
from sfumato.networks.parts import check_level, modulate, no_autocast, standard, zero_
from sfumato.networks.strips import Strip

Memory = dict[str, Tensor]
"""Keys and values of frames before, of each block that looks at other frames: "0k", "0v", "1k", ...; "frame" (B, 1, C, H, W) and
"level" (B, 1), the last of them. Rows first."""


CLEAN = -1.5
"""ln(sigma / alpha) below which a frame is nearly clean."""


class ClipDiT(DiT):
    """Diffusion transformer for clips (B, T, channels, H, W).

    attention  "full" or "factored", see the head of this file.
    causal     whether no frame looks at a later one.
    carry      whether patches may take over what stands in a frame with less noise.
    The other options are those of `DiT`.

    Raises ValueError if the options do not fit together.
    """

    def __init__(
        self, *, channels: int, attention: str = "full", causal: bool = False, carry: bool = False, width: int = 256,
        depth: int = 6, heads: int | None = None, patch: int = 8, context_dim: int = 0, mlp_ratio: float = 8 / 3,
        guided: bool = False, vectors: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(
            channels=channels, dims=3, width=width, depth=depth, heads=heads, patch=patch, context_dim=context_dim,
            mlp_ratio=mlp_ratio, guided=guided, vectors=vectors,
        )  # fmt: skip
        if attention not in ("full", "factored"):
            raise ValueError(f"attention is {attention!r}, expected full or factored")
        if attention == "factored" and depth < 2:
            raise ValueError(f"depth is {depth}, expected at least 2 of a factored network: space and time take turns")
        self.attention, self.causal = attention, causal
        self.carry = nn.Linear(width, 1) if carry else None
        if self.carry is not None:
            zero_(self.carry)
        self.options = {
            name: value
            for name, value in self.options.items()
            if name not in ("dims", "classes", "routing", "loops", "kind")
        } | {"kind": "clips", "attention": attention, "causal": causal, "carry": carry}

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        level: Tensor,
        level_s: Tensor | None = None,
        *,
        guidance: Tensor | None = None,
        vector: Tensor | None = None,
        vector_known: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Answer, shaped like x.

        x        (B, T, C, H, W)
        level    (B,) or (B, T); level_s likewise. guidance (B, 3), vector (B, D), context (B, S, D): as for `DiT`.
        memory   what `remember` made of the frames before these; of a causal network

        Raises ValueError if a shape does not fit the options.
        """
        known: dict[str, Any] = {"guidance": guidance, "vector": vector, "vector_known": vector_known, "context": context,
                 "context_mask": context_mask}  # fmt: skip
        if self.attention == "full" and not self.causal and self.carry is None and memory is None:
            return super().forward(x, level, level_s, **known)
        return self._through(x, level, level_s, known, memory, None)

    def in_strips(self, strip: Strip) -> None:
        """As for `DiT`. Raises ValueError for a network whose tokens do not all look at all."""
        if self.attention != "full" or self.causal or self.carry is not None:
            raise ValueError(
                "clips whose frames look at some alone, or take over what stands in others, cannot be shared out: leave context "
                "out, or train with --network.attention full --no-network.causal --no-network.carry"
            )
        super().in_strips(strip)

    def remember(self, x: Tensor, level: Tensor, **known: Tensor | None) -> Memory:
        """What later frames look at of the frames x (B, K, C, H, W) at these levels; known: as for `forward`. Raises ValueError
        where the network is not causal."""
        kept: Memory = {}
        self._through(x, level, None, known, None, kept)
        return kept

    def _through(
        self, x: Tensor, level: Tensor, level_s: Tensor | None, known: dict[str, Tensor | None], memory: Memory | None,
        kept: Memory | None,
    ) -> Tensor:  # fmt: skip
        if not self.causal and (memory is not None or kept is not None):
            raise ValueError("this network was built with causal=False: its frames look at later ones, nothing is kept")
        sides = self.patches.sides(x)
        batch, frames, places = x.shape[0], sides[0], math.prod(sides[1:])
        check_level(level, batch, frames)
        condition = self.condition(
            level, level_s, None, *(known.get(n) for n in ("guidance", "vector", "vector_known"))
        )
        if condition.ndim == 2:
            condition = condition[:, None]
        modulation = self.modulation(F.silu(condition)).unflatten(-1, (8, -1))
        context, context_mask = self.enter_context(known.get("context"), known.get("context_mask"), batch)
        before = 0 if memory is None else self._length(memory, places)
        angles = rotary_angles((before + frames, *sides[1:]), self.head_width, x.device)[before * places :]
        h = self.enter(self.patches.cut(x, sides))
        h = h + self.place(torch.cat((angles.cos(), angles.sin()), -1)).to(h.dtype)
        turns = rotary_turns(angles, h.dtype)
        for number, block in enumerate(self.blocks):
            looks = self._looks(number, frames, places, before, memory, kept)
            h = block(h, modulation[:, :, :6], turns, context, context_mask, looks)
        with no_autocast(h):
            scale, shift = modulation[:, :, 6:].to(self.head.weight.dtype).unbind(2)
            shown = modulate(standard(h.to(self.head.weight.dtype)), scale, shift)
            answer = self.head(shown)
            if self.carry is not None:
                taken = self.patches.cut(cleanest(x, level, memory, self.causal), sides)
                answer = answer + self.carry(shown) * taken
        if kept is not None:
            kept |= {"frame": x[:, -1:], "level": spread(level, frames)[:, -1:]}
        return self.patches.join(answer.to(x.dtype), sides)

    def _length(self, memory: Memory, places: int) -> int:
        """Frames that a memory is of."""
        if self.attention == "factored":
            return memory["1k"].shape[2]
        return memory["0k"].shape[1] // places

    def _looks(
        self, number: int, frames: int, places: int, before: int, memory: Memory | None, kept: Memory | None
    ) -> Looks:
        """What the tokens of a block look at."""
        if self.attention == "factored" and number % 2 == 0:
            return Within(frames)
        names = f"{number}k", f"{number}v"
        own = None if memory is None else (memory[names[0]], memory[names[1]])
        kind = Along if self.attention == "factored" else All
        return kind(frames, places, before, self.causal, names, own, kept)


@dataclass(frozen=True, eq=False)
class Within:
    """Tokens look at those of their own frame."""

    frames: int

    def __call__(self, attention: SelfAttention, h: Tensor, turns: Tensor) -> Tensor:
        places = h.shape[1] // self.frames  # of rotary positions only differences count, and time is the same for all
        found: Tensor = attention(h.unflatten(1, (self.frames, places)).flatten(0, 1), turns[:, :places])
        return found.unflatten(0, (len(h), self.frames)).flatten(1, 2)


@dataclass(frozen=True, eq=False)
class All:
    """Tokens look at those of all frames, or of all up to their own. before: frames that were kept. names: of keys and values in
    a memory. own: those of the frames before. kept: takes those of these."""

    frames: int
    places: int
    before: int
    causal: bool
    names: tuple[str, str]
    own: tuple[Tensor, Tensor] | None
    kept: Memory | None

    def __call__(self, attention: SelfAttention, h: Tensor, turns: Tensor) -> Tensor:
        if self.kept is not None:
            _, k, v = attention.heard(h, turns)
            self.kept.update({self.names[0]: k, self.names[1]: v})
        mask = None
        if self.causal and self.frames > 1:
            mask = causal_mask(self.frames, self.before, h.device)
            mask = mask.repeat_interleave(self.places, 0).repeat_interleave(self.places, 1)[None]
        found: Tensor = attention(h, turns, mask, self.own)
        return found


@dataclass(frozen=True, eq=False)
class Along(All):
    """Tokens look at those of their own place in all frames, or in all up to their own."""

    def __call__(self, attention: SelfAttention, h: Tensor, turns: Tensor) -> Tensor:
        rows = h.unflatten(1, (self.frames, self.places)).transpose(1, 2).flatten(0, 1)  # (B * places, T, width)
        own = turns.unflatten(1, (self.frames, self.places))[:, :, 0]  # the place is the same for all
        if self.kept is not None:
            _, k, v = attention.heard(rows, own)
            shape = (len(h), self.places)
            self.kept.update({self.names[0]: k.unflatten(0, shape), self.names[1]: v.unflatten(0, shape)})
        mask = causal_mask(self.frames, self.before, h.device)[None] if self.causal and self.frames > 1 else None
        before = None if self.own is None else (self.own[0].flatten(0, 1), self.own[1].flatten(0, 1))
        found: Tensor = attention(rows, own, mask, before)
        return found.unflatten(0, (len(h), self.places)).transpose(1, 2).flatten(1, 2)


def spread(level: Tensor, frames: int) -> Tensor:
    """A level of each frame, (B, T), of (B,) or (B, T)."""
    return level if level.ndim == 2 else level[:, None].expand(-1, frames)


def cleanest(x: Tensor, level: Tensor, memory: Memory | None, causal: bool) -> Tensor:
    """For each frame of x (B, T, C, H, W) the one with the lowest level, of several the nearest in time, earlier ones alone where
    ``causal``; 0 where none that is nearly clean has a lower one than it. Shaped like x."""
    frames, level = x.shape[1], spread(level, x.shape[1])
    others, levels = x, level
    if memory is not None:
        others, levels = torch.cat((memory["frame"], x), 1), torch.cat((memory["level"], level), 1)
    before = others.shape[1] - frames
    place = torch.arange(frames, device=x.device)[:, None] + before
    other = torch.arange(others.shape[1], device=x.device)
    far = (place - other).abs() / (2.0 * others.shape[1])  # breaks ties: below 1, of ranks that are whole
    ranks = (levels[:, :, None] > levels[:, None, :]).sum(2).to(far.dtype)  # how many have a lower level
    cost = ranks[:, None, :] + far
    lower = (levels[:, None, :] < level[:, :, None]) & (levels[:, None, :] < CLEAN)
    if causal:
        lower = lower & (other < place)
    best = cost.masked_fill(~lower, torch.inf).argmin(2)
    taken = torch.take_along_dim(others, best[..., None, None, None], 1)
    return torch.where(lower.any(2)[..., None, None, None], taken, torch.zeros((), dtype=x.dtype, device=x.device))


def causal_mask(frames: int, before: int, device: torch.device) -> Tensor:
    """Which frames each of ``frames`` looks at, of those and ``before`` earlier ones: (frames, before + frames) bool."""
    seen: Tensor = torch.ones(frames, before + frames, dtype=torch.bool, device=device).tril(before)
    return seen
