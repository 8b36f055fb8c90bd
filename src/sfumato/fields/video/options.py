"""The options of clips: of the network, of what is learned, of what is asked for, of what is measured. Needs neither torch nor
numpy."""

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

MOST = 4000
"""Characters of a prompt."""
Kind = Literal["auto", "table", "beside", "names", "folders", "none"]
"""Where captions stand."""
ORDER = re.compile(r"whole|rows|pyramid(:\d{1,4})?")
HIDE = re.compile(r"(\d{0,6}):(\d{0,6})")


@dataclass(frozen=True)
class ClipNetwork:
    """The network: a transformer on the patches of all frames. None: chosen from the data and the machine."""

    attention: Literal["full", "factored"] = "full"
    """full: every patch looks at all others of the clip; factored: blocks take turns, within a frame and along time."""
    causal: bool = False
    """No frame looks at a later one: what was made of frames before is kept when a film goes on."""
    carry: bool = True
    """Patches may take over what stands at their place in a frame with less noise."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks."""
    patch: int | None = None
    """Side of a patch in pixels; a frame is never merged with its neighbours."""
    text_depth: int | None = None
    """Blocks of the encoder of words, where it is trained too."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or self.width >= 16, "width", "at least 16"),
            (self.depth is None or self.depth >= 1, "depth", "at least 1"),
            (self.depth is None or self.depth >= 2 or self.attention == "full", "depth", "at least 2, of factored"),
            (self.patch is None or 1 <= self.patch <= 64, "patch", "from 1 to 64 pixels"),
            (self.text_depth is None or self.text_depth >= 0, "text_depth", "0 or more"),
        )


@dataclass(frozen=True)
class ClipMethod(MethodOptions):
    """The diffusion method, with a time for each frame: in some rows one for all, in some each its own, in some a prefix is
    known, or any frames; see `sfumato.diffusion.PartlyKnown`."""

    times_mean: float = 1.1
    times_std: float = 0.8
    cover: float = 0.02
    """Share of the training times at pure noise, where every sample begins and the others never come."""
    own: float = 0.2
    """Share of the rows in which each frame has a time of its own."""
    prefix: float = 0.2
    """Share of the rows whose first frames are known."""
    some: float = 0.1
    """Share of the rows of which any frames are known."""
    soft: float = 0.5
    """Share of the latter two in which what is known keeps a little noise: films that go on and on are learned by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self,
            (min(self.own, self.prefix, self.some) >= 0, "own", "0 or more, as prefix and some"),
            (self.own + self.prefix + self.some <= 1 + 1e-9, "own", "at most 1 together with prefix and some"),
            (0 <= self.soft <= 1, "soft", "a share from 0 to 1"),
        )

    def distribution(self) -> Times:
        from sfumato.diffusion import Covered, PartlyKnown

        plain: MethodOptions = dataclasses.replace(self, cover=0.0)
        drawn = MethodOptions.distribution(plain)
        covered = Covered(drawn, self.cover, even=False) if self.cover > 0 else drawn
        return PartlyKnown(covered, self.own, self.prefix, self.some, self.soft)


@dataclass(frozen=True)
class ClipAsk:
    """What clips are asked for."""

    prompt: str | None = None
    """What is to be seen (default: held-out captions in turn; "" for nothing in particular)."""
    prompts: Path | None = None
    """File with a prompt a line: -n clips of each."""
    then: str | None = None
    """What is to be seen in the clips of a film behind the first (default: the same)."""
    negative: str | None = None
    """What is not to be seen: clips are led away from it (by --w)."""
    first: Path | None = None
    """Picture that is the first frame."""
    last: Path | None = None
    """Picture that is the last frame of a clip as long as those of the run."""
    prefix: Path | None = None
    """Film, or folder of pictures, that goes on."""
    keep: int | None = None
    """Frames of the prefix that are looked at, its last ones (default: half of a clip)."""
    fill: Path | None = None
    """Film of which something is made anew: give --mask or --hide."""
    mask: Path | None = None
    """Picture that is white where the film is to be filled."""
    hide: str | None = None
    """Frames of the film to be made anew, FROM:TO, the latter left out: 3:5 are two."""
    frames: int | None = None
    """Frames of a film (default: as many as a clip of the run has); more are made clip by clip, each from the end of the last."""
    order: str = "whole"
    """In which order the frames of a clip are made: whole, all at once; pyramid:LAG, each so many steps behind the one before;
    rows, each once the one before is done."""
    context: int | None = None
    """Frames that a clip has in common with the one before in a film that goes on (default: half of a clip)."""
    context_noise: float = 0.03
    """Time at which those are shown, 0 clean to 1 noise: a little keeps errors from being trusted."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.prompt is None or self.prompts is None, "prompts", "given without prompt"),
            *(
                (text is None or len(text) <= MOST, name, f"at most {MOST} characters")
                for name, text in (("prompt", self.prompt), ("then", self.then), ("negative", self.negative))
            ),
            (self.keep is None or self.keep >= 1, "keep", "at least 1"),
            (self.keep is None or self.prefix is not None, "keep", "given with prefix"),
            (self.frames is None or 1 <= self.frames <= 100_000, "frames", "from 1 to 100000"),
            (ORDER.fullmatch(self.order), "order", "whole, rows, pyramid or pyramid:LAG"),
            (self.context is None or self.context >= 1, "context", "at least 1"),
            (0 <= self.context_noise < 1, "context_noise", "from 0 to below 1"),
            (self.prefix is None or self.first is None, "first", "given without prefix"),
            (self.fill is None or (self.mask is None) != (self.hide is None), "fill", "given with mask or with hide"),
            (self.fill is not None or (self.mask is None and self.hide is None), "mask", "given with fill, as hide"),
            (self.fill is None or (self.first or self.last or self.prefix) is None, "fill", "given without first, last, prefix"),
            (self.hide is None or HIDE.fullmatch(self.hide), "hide", "FROM:TO, such as 3:5"),
            (self.last is None or self.frames is None, "frames", "left out with last: it ends a clip"),
        )  # fmt: skip


@dataclass(frozen=True)
class ClipMeasure:
    """How a model of clips is measured."""

    n: Annotated[int | None, arg(aliases=["-n"])] = None
    """Held-out clips that clips are drawn for (default: all, at most 64)."""

    def __post_init__(self) -> None:
        check(self, (self.n is None or self.n >= 4, "n", "at least 4"))
