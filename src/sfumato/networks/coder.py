"""An autoencoder of pictures: convolutions down to a few channels at a fraction of the side, and back.

A diffusion model that learns there has fewer numbers to learn, and most of what the eye does not see is left out already
(Rombach et al. 2022, arXiv 2112.10752). The code of a picture is the mean of a normal posterior whose deviation is fixed,
q(z | x) = N(encode(x), spread^2), so the decoder has met codes that are off by so much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.parts import no_autocast, standard, zero_


class Coder(nn.Module):
    """Pictures (B, channels, H, W) from -1 (black) to 1 (white) <-> codes (B, latent, H / factor, W / factor).

    latent       channels of a code
    width        channels of the first level, times `multipliers` of each
    multipliers  each level but the last halves H and W
    depth        residual blocks of a level, on the way in and again on the way out
    unshuffle    fold squares of this many pixels into channels first, which makes everything so many squared times cheaper
    spread       deviation of the posterior, of which the decoder is to make the picture all the same

    `factor` is unshuffle * 2 ** (len(multipliers) - 1), and must divide H and W. Edges are continued by their last pixel, so
    a picture of one colour has a code of one colour, whatever the weights. What a code says depends on what is near it alone,
    so pictures of any size can be coded.
    """

    units = ("Block",)
    options: dict[str, Any]

    def __init__(
        self,
        *,
        channels: int = 3,
        latent: int = 8,
        width: int = 64,
        depth: int = 2,
        multipliers: tuple[int, ...] | list[int] = (1, 2),
        unshuffle: int = 2,
        spread: float = 0.1,
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "coder",
            "channels": channels,
            "latent": latent,
            "width": width,
            "depth": depth,
            "multipliers": list(multipliers),
            "unshuffle": unshuffle,
            "spread": spread,
        }
        if not multipliers:
            raise ValueError("multipliers is empty: an autoencoder needs one level or more")
        self.channels, self.latent, self.unshuffle, self.spread = channels, latent, unshuffle, spread
        self.factor = unshuffle * 2 ** (len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]
        last = len(widths) - 1
        down: list[nn.Module] = [_conv(channels * unshuffle**2, widths[0])]
        up: list[nn.Module] = [_conv(latent, widths[-1])]
        for i, there in enumerate(widths):
            down += [Block(there) for _ in range(depth)]
            if i < last:
                down.append(_conv(there, widths[i + 1], stride=2))
        for i in range(last, -1, -1):
            up += [Block(widths[i]) for _ in range(depth)]
            if i:
                up += [nn.Upsample(scale_factor=2.0, mode="nearest"), _conv(widths[i], widths[i - 1])]
        self.down = nn.Sequential(*down, PixelNorm(widths[-1]), nn.SiLU())
        self.up = nn.Sequential(*up, PixelNorm(widths[0]), nn.SiLU())
        self.code = _conv(widths[-1], latent)
        self.head = _conv(widths[0], channels * unshuffle**2)

    def encode(self, x: Tensor) -> Tensor:
        """Pictures -> the means of their codes. Raises ValueError for another shape."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.channels}, height, width)")
        for name, side in (("height", x.shape[2]), ("width", x.shape[3])):
            if side % self.factor:
                raise ValueError(f"{name} {side} is not divisible by {self.factor}")
        h = self.down(_fast(F.pixel_unshuffle(x, self.unshuffle)))
        with no_autocast(h):
            code: Tensor = self.code(h.to(self.code.weight.dtype))
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Codes -> pictures. Raises ValueError for another shape."""
        if code.ndim != 4 or code.shape[1] != self.latent:
            raise ValueError(f"codes have shape {tuple(code.shape)}, expected (batch, {self.latent}, height, width)")
        h = self.up(_fast(code))
        with no_autocast(h):
            return F.pixel_shuffle(self.head(h.to(self.head.weight.dtype)), self.unshuffle)

    def size(self, height: int, width: int) -> tuple[int, int, int]:
        """The shape of the code of a picture."""
        return self.latent, height // self.factor, width // self.factor

    def forward(self, x: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """{"x": the pictures again, "code": the means of their codes}; from ``noise`` (standard normal, shaped like the codes)
        by codes drawn from their posteriors, without by their means."""
        code = self.encode(x)
        drawn = code if noise is None else code + self.spread * noise
        return {"x": self.decode(drawn), "code": code}


class Block(nn.Module):
    """Residual: norm, SiLU, convolution, twice. Starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = PixelNorm(width), _conv(width, width)
        self.norm2, self.conv2 = PixelNorm(width), _conv(width, width)
        zero_(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return x + h


class PixelNorm(nn.Module):
    """Layer normalisation of the channels of each place by itself. Norms over places would take away how bright a picture is
    on the whole, which is what a code has to say, and make a part of it depend on all of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return standard(x.permute(0, 2, 3, 1), self.weight).permute(0, 3, 1, 2)


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1, padding_mode="replicate")


def _fast(x: Tensor) -> Tensor:
    """In the layout that CPU convolutions are fastest in."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
