"""A network on pictures that is told words, a transformer on patches or a U-Net, and the encoder of the words where it is trained
with it.

    caption, caption_mask --given, once a walk or batch--> context (B, S, D), context_mask, vector (B, D), vector_known
    x, level and these    --forward-->                     answer

The words are heard twice: token by token in attention, and summed up in what modulates every block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfumato.diffusion.tree import Tree
from sfumato.networks import DiT, JointDiT, UNet
from sfumato.networks.encoder import TokenEncoder, heard

LEVELS = 4
"""Times that a U-Net's lowest level is coarser than its first."""


class Captioned(nn.Module):
    """Answers for pictures (B, channels, H, W) under words.

    body        "transformer", or "unet", which attends to the words at its two lowest levels.
    attention   "cross", "joint", the latter of transformers alone, or "none": the summary of the words is all that is heard.
    patch       side of a patch; of a U-Net four times the side of the squares that it folds into channels: its three levels
                take pictures whose sides are multiples of this.
    vocab       tokens of the words, whose encoder is a part of this network; 0: states are given.
    context_dim width of a state of a token.
    text_depth  blocks of the encoder.
    summary     what modulates the blocks: "first", the state before the words, which has to learn to look at them, or "mean", of
                all states, which hears each word from the first step on. Of given states it is their mean in any case.
    guided      the strength of guidance is an input (flow maps).

    Raises ValueError if the options do not fit together.
    """

    options: dict[str, Any]

    def __init__(
        self,
        *,
        channels: int = 3,
        body: str = "transformer",
        attention: str = "cross",
        width: int = 256,
        depth: int = 6,
        patch: int = 4,
        vocab: int = 0,
        context_dim: int = 256,
        text_depth: int = 4,
        summary: str = "first",
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "captioned",
            "channels": channels,
            "body": body,
            "attention": attention,
            "width": width,
            "depth": depth,
            "patch": patch,
            "vocab": vocab,
            "context_dim": context_dim,
            "text_depth": text_depth,
            "summary": summary,
            "guided": guided,
        }
        kinds: dict[str, Any] = {"cross": DiT, "joint": JointDiT, "none": DiT}
        for good, name, right in (
            (body in ("transformer", "unet"), f"body is {body!r}", "transformer or unet"),
            (summary in ("first", "mean"), f"summary is {summary!r}", "first or mean"),
            (attention in kinds, f"attention is {attention!r}", " or ".join(kinds)),
            (body != "unet" or attention != "joint", f"attention is {attention!r}", "cross or none, of a U-Net"),
            (body != "unet" or patch % LEVELS == 0, f"patch is {patch}", f"a multiple of {LEVELS}, of a U-Net"),
        ):
            if not good:
                raise ValueError(f"{name}, expected {right}")
        if context_dim < 1:
            raise ValueError(f"context_dim is {context_dim}, expected at least 1")
        self.summary, self.attends = summary, attention != "none"
        self.words = TokenEncoder(vocab=vocab, width=context_dim, depth=text_depth) if vocab else None
        shared: dict[str, Any] = {"channels": channels, "width": width, "depth": depth, "context_dim": context_dim * self.attends,
                  "vectors": context_dim, "guided": guided}  # fmt: skip
        self.picture = (
            UNet(multipliers=(1, 2, 2), unshuffle=patch // LEVELS, **shared)
            if body == "unet"
            else kinds[attention](patch=patch, **shared)
        )

    def given(
        self, caption: Tensor | None = None, caption_mask: Tensor | None = None, **beside: Tree
    ) -> dict[str, Tree]:
        """What the words make: caption (B, S) int64, or (B, S, D) states, caption_mask (B, S) bool. What stands beside them is
        passed on. Raises ValueError for one without the other, or of another shape."""
        return {**beside, **heard(self.words, caption, caption_mask, self.summary)}

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        level_s: Tensor | None = None,
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        vector: Tensor | None = None,
        vector_known: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Answer, shaped like x (B, channels, H, W); level (B,). Without a context as with one that says nothing."""
        if self.words is not None and context is None:
            nothing = torch.full((len(x), 1), -1, device=x.device)
            told = self.given(nothing, torch.zeros_like(nothing, dtype=torch.bool))
            context, context_mask, vector, vector_known = (
                told[name] for name in ("context", "context_mask", "vector", "vector_known")
            )
        if not self.attends:
            context = context_mask = None
        answer: Tensor = self.picture(
            x, level, level_s, context=context, context_mask=context_mask, vector=vector, vector_known=vector_known,
            guidance=guidance,
        )  # fmt: skip
        return answer
