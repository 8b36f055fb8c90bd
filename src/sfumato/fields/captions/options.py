"""The options of captioned pictures: of the network, of what is asked for, of what is measured. Needs neither torch nor numpy."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from sfumato.errors import check
from sfumato.jobs.flags import arg
from sfumato.jobs.methods import MethodOptions

if TYPE_CHECKING:
    from sfumato.diffusion.times import Times

SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MOST = 4000
"""Characters of a prompt."""
Kind = Literal["auto", "beside", "table", "names", "folders"]
"""Where captions stand."""


@dataclass(frozen=True)
class CaptionNetwork:
    """The network: one on pictures that is told words. None and auto mean: chosen from the data and the machine."""

    attention: Literal["auto", "cross", "joint", "none"] = "auto"
    """How words are heard: cross (the picture looks at them), joint (both look at both, each with weights of its own) or none
    (their summary alone, in what modulates every block)."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks."""
    patch: int | None = None
    """Side of a patch in pixels; of a U-Net what the sides of pictures are multiples of, itself a multiple of 4."""
    text_depth: int | None = None
    """Blocks of the encoder of words, where it is trained too."""
    summary: Literal["auto", "first", "mean"] = "auto"
    """What modulates every block, of words whose encoder is trained too: the first state, which learns to look at the words, or
    the mean of all, which hears each from the first step on."""
    body: Literal["auto", "transformer", "unet"] = "auto"
    """transformer, on patches, or unet, of three levels, the two lowest of which hear the words (auto: transformer)."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or self.width >= 8, "width", "at least 8"),
            (self.depth is None or self.depth >= 1, "depth", "at least 1"),
            (self.patch is None or 1 <= self.patch <= 64, "patch", "from 1 to 64 pixels"),
            (self.body != "unet" or self.attention != "joint", "attention", "cross or none, of a U-Net"),
            (self.body != "unet" or (self.patch or 4) % 4 == 0, "patch", "a multiple of 4, of a U-Net"),
            (self.text_depth is None or self.text_depth >= 0, "text_depth", "0 or more"),
        )

    @property
    def multiple(self) -> int | None:
        """What the sides of pictures must be multiples of; None: to be chosen."""
        return self.patch or (8 if self.body == "unet" else None)


@dataclass(frozen=True)
class PixelMethod(MethodOptions):
    """The diffusion method, with training times for pictures in pixels: those of JiT (Li and He 2025, arXiv 2511.13720), 0.8 and
    0.8 for pictures in [-1, 1], at the unit variance that pictures have here, which a spread of 0.7 moves by -ln 0.7. Pure noise,
    which these never come to, is trained too: what a network answers there is chance else, and the measured grid puts its steps
    where that changes fastest."""

    times_mean: float = 1.1
    times_std: float = 0.8
    cover: float = 0.02
    """Share of the training times at pure noise, where every sample begins and the others never come."""

    def distribution(self) -> Times:
        from sfumato.diffusion import Covered

        plain: MethodOptions = dataclasses.replace(self, cover=0.0)
        drawn = MethodOptions.distribution(plain)
        return Covered(drawn, self.cover, even=False) if self.cover > 0 else drawn


@dataclass(frozen=True)
class CaptionAsk:
    """What pictures are asked for."""

    prompt: str | None = None
    """What is to be seen (default: held-out captions in turn; "" for nothing in particular)."""
    negative: str | None = None
    """What is not to be seen: the samples are led away from it (by --w)."""
    prompts: Path | None = None
    """File with a prompt a line: -n samples of each."""
    size: str | None = None
    """HEIGHTxWIDTH, one of the sizes learned (default: the commonest)."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.prompt is None or self.prompts is None, "prompts", "given without prompt"),
            *(
                (text is None or len(text) <= MOST, name, f"at most {MOST} characters")
                for name, text in (("prompt", self.prompt), ("negative", self.negative))
            ),
            (self.size is None or SIZE.fullmatch(self.size), "size", "HEIGHTxWIDTH, such as 64x48"),
        )


@dataclass(frozen=True)
class Measured:
    """How a model of captioned pictures is measured."""

    n: Annotated[int | None, arg(aliases=["-n"])] = None
    """Held-out captions that pictures are drawn for (default: all, at most 512)."""
    features: str = "auto"
    """Space of the distances: auto (imagenet where its package is installed, else patches), patches, pca, imagenet (extra
    `features`), or a network of your own as a .onnx file."""
    strengths: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    """Strengths of guidance of the curve, on at most 128 of the captions; none: no curve."""

    seeds: int = 4
    """Pictures of each of 16 captions, whose differences from each other are measured; below 2: none."""

    def __post_init__(self) -> None:
        check(self, (self.n is None or self.n >= 12, "n", "at least 12"), (self.seeds >= 0, "seeds", "0 or more"))
