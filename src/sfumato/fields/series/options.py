"""The options of series. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from sfumato.errors import check
from sfumato.jobs.flags import arg

if TYPE_CHECKING:
    from sfumato.diffusion import Gaussian
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.times import Times

SIZES = {"small": (128, 3), "medium": (384, 6), "large": (1024, 12)}
"""Width and depth."""


@dataclass(frozen=True)
class SeriesNetworkOptions:
    """The network. None means: of the size."""

    size: Literal["auto", "small", "medium", "large"] = "auto"
    """small: 128 x 3, for a CPU; medium: 384 x 6; large: 1024 x 12. auto: small on a CPU, medium on a GPU."""
    width: int | None = None
    """Numbers of a layer."""
    depth: int | None = None
    """Blocks."""
    dropout: float = 0.0
    """Share of what tells of the past that is dropped in training."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or 4 <= self.width <= 16384, "width", "from 4 to 16384"),
            (self.depth is None or 1 <= self.depth <= 64, "depth", "from 1 to 64"),
            (0 <= self.dropout < 1, "dropout", "a share from 0 to below 1"),
        )

    def of(self, device: str) -> tuple[int, int]:
        """Width and depth on a device."""
        size = self.size if self.size != "auto" else "small" if device == "cpu" else "medium"
        width, depth = SIZES[size]
        return self.width or width, self.depth or depth


@dataclass(frozen=True)
class SeriesMethod:
    """Flow matching's straight schedule with an answer v, on white numbers."""

    learn: Literal["denoiser", "crps"] = "denoiser"
    """A denoiser, or the rival: a path by one call each, from the same network, trained on their CRPS and energy score."""

    def build(self) -> Gaussian:
        """The process."""
        from sfumato.diffusion import Gaussian, Linear

        return Gaussian(Linear(), "v")

    def distribution(self) -> Times:
        """Even."""
        from sfumato.diffusion import Uniform

        return Uniform()

    def dealt(self) -> Coupling:
        """Every sample keeps its noise."""
        from sfumato.diffusion import independent

        return independent

    def learns_weights(self) -> bool:
        """No."""
        return False

    def words(self) -> str:
        """One line about the method."""
        if self.learn == "crps":
            return "one call a path, trained on CRPS and energy score"
        return "linear schedule, answers v, of what a ridge leaves, whitened"


@dataclass(frozen=True)
class ForecastAsk:
    """What is forecast."""

    series: tuple[str, ...] = ()
    """Series to forecast, by name (none: all, or as many as are asked for)."""
    start: Literal["end", "test"] = "end"
    """From the end of each series, or from where its last kept windows begin, whose truth is known."""
    leads: int | None = None
    """Steps to forecast (none: the horizon of the run); more than that horizon by horizon, each path going on from itself."""
    after: Path | None = None
    """Forecast other series than those of the run: a file of their past, laid out in the same way."""
    given: Path | None = None
    """A scenario: a table laid out like the data, of which the values after the origins (within the first horizon) are taken as
    known; paths go through them."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.leads is None or 1 <= self.leads <= 100_000, "leads", "from 1 to 100000"),
            (len(set(self.series)) == len(self.series), "series", "different names"),
        )


@dataclass(frozen=True)
class SeriesMeasure:
    """How forecasts are measured."""

    n: Annotated[int, arg(aliases=["-n"])] = 256
    """Paths of each forecast."""
    held: bool = False
    """Measure on the windows held out, on which settings may be chosen, and not on those kept."""
    most: int = 5000
    """Windows at most, evenly spread over the series."""

    def __post_init__(self) -> None:
        check(
            self,
            (2 <= self.n <= 10_000, "n", "from 2 to 10000: a fair score needs two paths"),
            (self.most >= 2, "most", "2 or more"),
        )
