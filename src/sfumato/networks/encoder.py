"""Transformers over tokens: the block, and an encoder that turns tokens into states to attend to.

Blocks are pre-normalised, with rotary positions, normalised queries and keys and SwiGLU, and start as the identity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.diffusion.tree import Tree
from sfumato.networks.attention import SelfAttention, rotary_angles, rotary_turns
from sfumato.networks.parts import SwiGLU, standard, zero_


class TokenBlock(nn.Module):
    """Attention and feed-forward; starts as the identity. dropout: share of each answer that is dropped in training."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = SelfAttention(width, heads)
        self.feed = SwiGLU(width, hidden)
        zero_(self.attention.out)
        zero_(self.feed.out)

    def forward(
        self, h: Tensor, turns: Tensor, mask: Tensor | None = None, before: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """h (B, L, width), turns (2, L, head), mask (B, L) or (B, L, L) bool, True = attend to it -> (B, L, width). before: keys
        and values (B, M, heads, head) of other tokens, from `keys`, that are attended to, too."""
        h = h + self.dropped(self.attention(standard(h), turns, mask, before))
        return h + self.dropped(self.feed(standard(h)))

    def keys(self, h: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, L, heads, head) of h (B, L, width)."""
        _, k, v = self.attention.heard(standard(h), turns)
        return k, v

    def dropped(self, answer: Tensor) -> Tensor:
        """An answer (B, L, width) of which in training a share is dropped."""
        return F.dropout(answer, self.dropout) if self.training and self.dropout else answer


class TokenEncoder(nn.Module):
    """States of tokens of which some may be absent; the first state stands before them and sums them up.

    vocab  number of tokens
    heads  of attention; by default one per 64 channels of width

    Raises ValueError if the options do not fit together.
    """

    units = ("TokenBlock",)
    options: dict[str, Any]

    def __init__(
        self, *, vocab: int, width: int = 256, depth: int = 4, heads: int | None = None, mlp_ratio: float = 8 / 3
    ) -> None:
        super().__init__()
        heads = max(1, width // 64) if heads is None else heads
        for good, name, right in (
            (vocab >= 1, f"vocab = {vocab}", "at least 1"),
            (depth >= 0, f"depth = {depth}", "0 or more"),
            (width % heads == 0, f"width = {width}", f"divisible by the {heads} heads"),
        ):
            if not good:
                raise ValueError(f"{name}: must be {right}")
        rotary_angles((1,), width // heads)  # complains now, not at the first batch
        hidden = max(1, round(mlp_ratio * width / 64)) * 64  # matrix units like multiples of 64
        self.vocab, self.head_width = vocab, width // heads
        self.embed = nn.Embedding(vocab, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.first = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(TokenBlock(width, heads, hidden) for _ in range(depth))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, S) int64, mask (B, S) bool, False = absent, whatever stands there -> states (B, 1 + S, width) and their
        mask (B, 1 + S), whose first column is True. With nothing there the first state is the same for every row.

        Raises ValueError for another shape or type.
        """
        if tokens.ndim != 2 or tokens.dtype != torch.int64 or mask.shape != tokens.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"tokens are int64 (batch, length) with a mask of booleans, got {tokens.dtype} {tuple(tokens.shape)} and "
                f"{mask.dtype} {tuple(mask.shape)}"
            )
        known = torch.where(mask, tokens, 0)
        h = torch.cat((self.first.expand(len(tokens), 1, -1), self.embed(known)), 1)
        mask = F.pad(mask, (1, 0), value=True)
        h = standard(h)
        if not h.is_meta and torch.is_autocast_enabled(h.device.type):
            h = h.to(torch.get_autocast_dtype(h.device.type))
        turns = rotary_turns(rotary_angles((h.shape[1],), self.head_width, h.device), h.dtype)
        for block in self.blocks:
            h = block(h, turns, mask)
        return standard(h, self.scale), mask


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of the states (B, S, D) that are there, mask (B, S) bool; 0 where there is none: (B, D)."""
    kept = mask[..., None]
    return torch.where(kept, states, 0).sum(1) / kept.sum(1).clamp_min(1)


def heard(
    words: TokenEncoder | None, caption: Tensor | None, caption_mask: Tensor | None, summary: str = "first"
) -> dict[str, Tree]:
    """What a network is told of words: {"context" (B, S, D), "context_mask", "vector" (B, D), "vector_known"}; nothing of none.

    Args:
        words: the encoder of tokens; None where states are given.
        caption: (B, S) int64, or (B, S, D) states. caption_mask: (B, S) bool.
        summary: the vector: "first", the state before the words, or "mean", of all. Of given states it is their mean in any case.

    Raises ValueError for a caption without its mask, or the mask without it, or of another shape.
    """
    if caption is None and caption_mask is None:
        return {}
    if caption is None or caption_mask is None:
        raise ValueError("a caption needs its caption_mask, and a mask its caption")
    if words is not None:
        states, mask = words(caption, caption_mask)
        vector = states[:, 0] if summary == "first" else mean(states, mask)
        return {"context": states, "context_mask": mask, "vector": vector, "vector_known": caption_mask.any(1)}
    if caption.ndim != 3 or caption.shape[:2] != caption_mask.shape:
        raise ValueError(f"states have shape {tuple(caption.shape)} and their mask {tuple(caption_mask.shape)}")
    return {"context": caption, "context_mask": caption_mask, "vector": mean(caption, caption_mask),
            "vector_known": caption_mask.any(1)}  # fmt: skip
