"""The options of autoencoders. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sfumato.errors import check
from sfumato.jobs.flags import arg

FACTORS = {2: (2, (1,)), 4: (2, (1, 2)), 8: (2, (1, 2, 4)), 16: (2, (1, 2, 4, 4))}
"""How many pixels of a side make one of a code -> what is folded into channels, and the levels."""


@dataclass(frozen=True)
class CoderNetwork:
    """The network: convolutions in and out."""

    latent: int = 8
    """Channels of a code."""
    factor: int = 4
    """Pixels of a side that make one of a code: 2, 4, 8 or 16."""
    width: int | None = None
    """Channels of the first level (default: 48 on a CPU, 128 on a GPU)."""
    depth: int = 2
    """Blocks of a level, each way."""
    spread: float = 0.1
    """Deviation of the noise on codes in training, of which the picture is to be made all the same."""

    def __post_init__(self) -> None:
        check(
            self,
            (1 <= self.latent <= 512, "latent", "from 1 to 512"),
            (self.factor in FACTORS, "factor", f"one of {', '.join(map(str, FACTORS))}"),
            (self.width is None or 4 <= self.width <= 4096, "width", "from 4 to 4096"),
            (1 <= self.depth <= 16, "depth", "from 1 to 16"),
            (0 <= self.spread <= 10, "spread", "from 0 to 10"),
        )


@dataclass(frozen=True)
class CoderMeasure:
    """How an autoencoder is measured."""

    n: Annotated[int | None, arg(aliases=["-n"])] = None
    """Held-out pictures (default: all, at most 2000)."""
    features: str = "auto"
    """Space of the distances: auto (imagenet where its package is installed, else patches), patches, pca, imagenet, or a
    network of your own as a .onnx file."""
