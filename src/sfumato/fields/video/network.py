"""A network on clips that is told words, and the encoder of the words where it is trained with it.

caption, caption_mask, before --given, once a walk or batch--> context (B, S, D), context_mask, vector (B, D), vector_known,
                                                               memory of the frames before
x, level and these            --forward-->                     answer
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfumato.diffusion.tree import Tree
from sfumato.networks.clips import ClipDiT
from sfumato.networks.encoder import TokenEncoder, heard


class Filmed(nn.Module):
    """Answers for clips (B, T, channels, H, W) under words.

    attention, causal, carry  which patches look at which, and take over what; see `sfumato.networks.clips`.
    vocab       tokens of the words, whose encoder is a part of this network; 0: states are given, or there are no words.
    context_dim width of a state of a token; 0: there are no words.
    text_depth  blocks of the encoder.
    guided      the strength of guidance is an input (flow maps).

    Raises ValueError if the options do not fit together.
    """

    options: dict[str, Any]

    def __init__(
        self, *, channels: int = 3, attention: str = "full", causal: bool = False, carry: bool = False, width: int = 256,
        depth: int = 6, heads: int | None = None, patch: int = 8, vocab: int = 0, context_dim: int = 0, text_depth: int = 2,
        guided: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.options = {
            "kind": "filmed", "channels": channels, "attention": attention, "causal": causal, "carry": carry, "width": width,
            "depth": depth, "heads": heads, "patch": patch, "vocab": vocab, "context_dim": context_dim, "text_depth": text_depth,
            "guided": guided,
        }  # fmt: skip
        if vocab and not context_dim:
            raise ValueError(f"vocab is {vocab} and context_dim 0, expected a width of the states of tokens")
        self.words = TokenEncoder(vocab=vocab, width=context_dim, depth=text_depth) if vocab else None
        self.clip = ClipDiT(
            channels=channels, attention=attention, causal=causal, carry=carry, width=width, depth=depth, heads=heads,
            patch=patch, context_dim=context_dim, vectors=context_dim, guided=guided,
        )  # fmt: skip
        self.worded = context_dim > 0

    def given(
        self, caption: Tensor | None = None, caption_mask: Tensor | None = None, before: Tensor | None = None,
        before_level: Tensor | None = None, **beside: Tree,
    ) -> dict[str, Tree]:  # fmt: skip
        """What the words make, and what the frames before (B, K, C, H, W) at their levels (B, K) make, of a causal network. What
        stands beside them is passed on. Raises ValueError for what does not fit."""
        made: dict[str, Any] = heard(self.words, caption, caption_mask)
        if before is not None:
            if before_level is None:
                raise ValueError("frames before need their before_level")
            made["memory"] = self.clip.remember(before, before_level, **(made or self._nothing(before)))
        return {**beside, **made}

    def _nothing(self, x: Tensor) -> dict[str, Any]:
        """What no words make."""
        if self.words is None:
            return {}
        none = torch.full((len(x), 1), -1, device=x.device)
        return dict(heard(self.words, none, torch.zeros_like(none, dtype=torch.bool)))

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, context: Tensor | None = None,
        context_mask: Tensor | None = None, vector: Tensor | None = None, vector_known: Tensor | None = None,
        guidance: Tensor | None = None, memory: dict[str, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Answer, shaped like x (B, T, channels, H, W); level (B,) or (B, T). Without a context as with one that says nothing."""
        told: dict[str, Any] = {"context": context, "context_mask": context_mask, "vector": vector,
                                "vector_known": vector_known}  # fmt: skip
        if context is None:
            told |= self._nothing(x)
        answer: Tensor = self.clip(x, level, level_s, guidance=guidance, memory=memory, **told)
        return answer
