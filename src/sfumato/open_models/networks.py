"""Their networks, called as ours are: network(shown, level, **condition), each by the names that conditions have here.

context (B, S, D): states of the text; pooled (B, P): its vector; label (B,): a class; sizes (B, 6): of Stable Diffusion XL; mask
(B, S): which of the states count; guidance (B,): a strength that the network takes as an input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Called(nn.Module):
    """A network of theirs. ``network`` is the module itself, whose names are those of its files."""

    conditions: tuple[str, ...] = ()
    """Names that it can be told."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    @property
    def config(self) -> Any:
        """Its settings."""
        return self.network.config

    def shape(self, side: int | None = None) -> tuple[int, ...]:
        """Of one sample, (C, H, W)."""
        whole = side or self.config["sample_size"]
        high, wide = whole if isinstance(whole, (list, tuple)) else (whole, whole)
        return int(self.config["in_channels"]), int(high), int(wide)

    def places(self, shape: tuple[int, ...]) -> int:
        """Tokens of a sample of this shape."""
        patch = int(self.config.get("patch_size") or 1)
        return shape[1] * shape[2] // patch**2


class Unet(Called):
    """UNet2DModel: pictures without text."""

    conditions = ("label",)

    def forward(self, shown: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        answer: Tensor = self.network(shown, level, class_labels=label).sample
        return answer


class TextUnet(Called):
    """UNet2DConditionModel: Stable Diffusion 1.x, 2.x and XL."""

    conditions = ("context", "pooled", "sizes")

    def forward(
        self, shown: Tensor, level: Tensor, context: Tensor, pooled: Tensor | None = None, sizes: Tensor | None = None
    ) -> Tensor:
        more = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
        answer: Tensor = self.network(shown, level, encoder_hidden_states=context, added_cond_kwargs=more).sample
        return answer


class ClassDit(Called):
    """DiTTransformer2DModel: its answer, without the variances beside it."""

    conditions = ("label",)

    def forward(self, shown: Tensor, level: Tensor, label: Tensor) -> Tensor:
        answer: Tensor = self.network(shown, timestep=level, class_labels=label).sample
        return answer[:, : shown.shape[1]]


class Pixart(Called):
    """PixArtTransformer2DModel (alpha and sigma): likewise."""

    conditions = ("context", "mask")

    def forward(self, shown: Tensor, level: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        answer: Tensor = self.network(
            shown, encoder_hidden_states=context, timestep=level, encoder_attention_mask=mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample  # fmt: skip
        return answer[:, : shown.shape[1]]


class Sd3(Called):
    """SD3Transformer2DModel: Stable Diffusion 3 and 3.5."""

    conditions = ("context", "pooled")

    def forward(self, shown: Tensor, level: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        answer: Tensor = self.network(
            shown, encoder_hidden_states=context, pooled_projections=pooled, timestep=level
        ).sample
        return answer


class Sana(Called):
    """SanaTransformer2DModel."""

    conditions = ("context", "mask")

    def forward(self, shown: Tensor, level: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        answer: Tensor = self.network(
            shown, encoder_hidden_states=context, timestep=level, encoder_attention_mask=mask
        ).sample
        return answer


class Flux(Called):
    """FluxTransformer2DModel: FLUX.1. Its latents go in as patches of two by two with their places."""

    conditions = ("context", "pooled", "guidance")

    def shape(self, side: int | None = None) -> tuple[int, ...]:
        if side is None:
            raise ValueError("side: must be given, the settings of this model name none")
        return int(self.config["in_channels"]) // 4, side, side

    def places(self, shape: tuple[int, ...]) -> int:
        return shape[1] * shape[2] // 4

    def forward(
        self, shown: Tensor, level: Tensor, context: Tensor, pooled: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        rows, channels, high, wide = shown.shape
        packed = shown.reshape(rows, channels, high // 2, 2, wide // 2, 2).permute(0, 2, 4, 1, 3, 5)
        packed = packed.reshape(rows, (high // 2) * (wide // 2), channels * 4)
        at = torch.zeros(high // 2, wide // 2, 3, device=shown.device, dtype=shown.dtype)
        at[..., 1], at[..., 2] = torch.arange(high // 2)[:, None].to(at), torch.arange(wide // 2)[None].to(at)
        answer = self.network(
            packed, encoder_hidden_states=context, pooled_projections=pooled, timestep=level / 1000, img_ids=at.flatten(0, 1),
            txt_ids=torch.zeros(context.shape[1], 3, device=shown.device, dtype=shown.dtype), guidance=guidance,
        ).sample  # fmt: skip
        whole: Tensor = answer.reshape(rows, high // 2, wide // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return whole.reshape(shown.shape)


KNOWN: Mapping[str, Callable[[nn.Module], Called]] = {
    "UNet2DModel": Unet, "UNet2DConditionModel": TextUnet, "DiTTransformer2DModel": ClassDit,
    "PixArtTransformer2DModel": Pixart, "SD3Transformer2DModel": Sd3, "SanaTransformer2DModel": Sana,
    "FluxTransformer2DModel": Flux,
}  # fmt: skip
"""Their classes that can be opened -> how they are called."""
