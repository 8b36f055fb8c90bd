"""A transformer over tokens that attends both ways and is told no time.

What stands under a mask depends on the tokens seen and not on how many were to be hidden: the best answer of a masked
process has no time in it (Ou 2024, arXiv 2406.03736), so the level is not looked at. Blocks are pre-normalised, with
rotary positions, normalised queries and keys and SwiGLU; the table of tokens is also the last layer (Press 2017).

With `once`, tokens that are given (their time is 0, their level the least there is) see each other alone, and all others see
everything: so what is given is read once, however many steps what is open takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.networks.attention import rotary_angles, rotary_turns
from sfumato.networks.encoder import TokenBlock
from sfumato.networks.parts import standard
from sfumato.networks.strips import Strip

GIVEN = -11.9
"""Level at or below which a token is given: of time 0 it is -12."""


class TokenTransformer(nn.Module):
    """Logits of every token from tokens of which some are masks.

    answers  number of tokens V that may be answered
    extra    tokens beyond those that are only shown: 1, the mask
    gaps     whether there are gaps of unknown length, by four more tokens after those: two are answered of gaps alone, that
             they expand and that they are deleted, and two are shown, nothing at all, which nobody sees, and a gap
    once     whether given tokens do not see the others
    heads    of attention; by default one per 64 channels of width
    dropout  share of the numbers of each block's two answers that is dropped in training

    Raises ValueError if the options do not fit together.
    """

    units = ("TokenBlock",)
    options: dict[str, Any]

    def __init__(
        self,
        *,
        answers: int,
        extra: int = 1,
        width: int = 192,
        depth: int = 5,
        heads: int | None = None,
        mlp_ratio: float = 8 / 3,
        dropout: float = 0.0,
        gaps: bool = False,
        once: bool = False,
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "tokens",
            "answers": answers,
            "extra": extra,
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
        } | {name: True for name, on in (("gaps", gaps), ("once", once)) if on}
        heads = max(1, width // 64) if heads is None else heads
        for good, name, right in (
            (answers >= 2, f"answers = {answers}", "at least 2"),
            (extra >= 0, f"extra = {extra}", "0 or more"),
            (depth >= 1, f"depth = {depth}", "at least 1"),
            (width % heads == 0, f"width = {width}", f"divisible by the {heads} heads"),
            (0 <= dropout < 1, f"dropout = {dropout}", "from 0 to below 1"),
        ):
            if not good:
                raise ValueError(f"{name}: must be {right}")
        rotary_angles((1,), width // heads)  # complains now, not at the first batch
        hidden = max(1, round(mlp_ratio * width / 64)) * 64  # matrix units like multiples of 64
        self.plain, self.extra, self.gaps, self.once = answers + extra, extra, gaps, once
        self.answers, self.head_width = self.plain + 3 if gaps else answers, width // heads
        self.embed = nn.Embedding(answers + extra + (4 if gaps else 0), width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(TokenBlock(width, heads, hidden, dropout) for _ in range(depth))
        self.scale = nn.Parameter(torch.ones(width))
        self.strip: Strip | None = None

    def in_strips(self, strip: Strip) -> None:
        """From now on the blocks see this process's strip of the tokens. Raises ValueError where it cannot be done."""
        for block in self.blocks:
            block.attention.of_strip(strip)  # type: ignore[operator, union-attr]
        self.strip = strip

    def forward(self, x: Tensor, level: Tensor, level_s: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        """x (B, L) int64 -> logits (B, L, answers), or those of the places ``where`` (n,) alone, counted through all rows, (n,
        answers), which saves most of the last layer where few are asked about; the levels (B,) or (B, L) say which tokens are
        given, and nothing else.

        Raises ValueError for tokens of another shape or type, or beyond the table.
        """
        if x.ndim != 2 or x.dtype != torch.int64:
            raise ValueError(f"tokens are int64 of shape (batch, length), got {x.dtype} of shape {tuple(x.shape)}")
        h, turns = self.entered(x, rotary_angles((x.shape[1],), self.head_width, x.device))
        mask = self.sight(x, level)
        if self.strip is not None:
            h, turns = self.strip.cut(h), turns[:, self.strip.rows(x.shape[1])]
        for block in self.blocks:
            h = block(h, turns, mask)
        h = h if self.strip is None else self.strip.join(h)
        return self.said(h, x) if where is None else self.said(h.flatten(0, 1)[where], x.flatten()[where])

    def said(self, h: Tensor, x: Tensor) -> Tensor:
        """Logits (..., answers) from the last states h (..., width) of tokens x (...)."""
        return self.barred(nn.functional.linear(standard(h, self.scale), self.embed.weight[: self.answers]), x)

    def entered(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        """What the blocks are told of tokens x (B, L) at places of these angles (L, head / 2): states (B, L, width), turns."""
        h = standard(self.embed(x))
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            h = h.to(torch.get_autocast_dtype(x.device.type))
        return h, rotary_turns(angles, h.dtype)

    def read(self, x: Tensor, angles: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of given tokens x (B, G) at places of these angles, a pair a block: all that is seen of them."""
        h, turns = self.entered(x, angles)
        kept = []
        for block in self.blocks:
            kept.append(block.keys(h, turns))  # type: ignore[operator]
            h = block(h, turns)
        return kept

    def told(self, x: Tensor, angles: Tensor, kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Logits (B, N, answers) of open tokens x (B, N) at places of these angles, beside given ones that were `read`."""
        h, turns = self.entered(x, angles)
        for block, before in zip(self.blocks, kept, strict=True):
            h = block(h, turns, before=before)
        return self.said(h, x)

    def sight(self, x: Tensor, level: Tensor) -> Tensor | None:
        """Who sees whom: bool (B, L) or (B, L, L), True where it does; None: everybody everybody."""
        there = x != self.plain + 2 if self.gaps else None
        if there is not None and x.device.type == "cpu" and bool(there.all()):
            there = None
        if not self.once or level.ndim == 1:
            return there
        given = level <= GIVEN
        mask = ~given[:, :, None] | given[:, None, :]
        if there is None:
            return mask
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # somebody must be seen
        return mask & there[:, None, :] | itself

    def barred(self, logits: Tensor, x: Tensor) -> Tensor:
        """The logits, without those of what is only shown; those of rules for gaps are for gaps alone."""
        if not self.gaps:
            return logits
        places = torch.arange(self.answers, device=x.device)
        shown = (places >= self.plain - self.extra) & (places < self.plain) | (places == self.plain + 2)
        rules = (places >= self.plain) & (x != self.plain + 3)[..., None]
        return logits.masked_fill(shown | rules, -torch.inf)
