"""The options of forecasts. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from sfumato.errors import Wrong, check
from sfumato.jobs.flags import arg

if TYPE_CHECKING:
    from sfumato.diffusion import Gaussian
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.times import Times
    from sfumato.fields.weather.grid import Grid

SIZES = {"small": (32, 1, (1, 2, 2)), "medium": (128, 1, (1, 2, 2)), "large": (192, 2, (1, 2, 3, 4))}
"""Width, depth and multipliers of the network."""
LOWEST = 1e-7
"""Noise that is left in a sample, in units of the spread of a step's change: so little that the last step of a walk ends at the
network's guess, as GenCast's does."""


@dataclass(frozen=True)
class FieldNetworkOptions:
    """The network. None means: of the size."""

    size: Literal["auto", "small", "medium", "large"] = "auto"
    """small: 32 channels, 1 2 2, for regions on a CPU; medium: the same of 128 channels, for a GPU; large: 192, 1 2 3 4, two
    blocks a level, whose activations are worked out again on the way back: 84 channels of the globe at 1.5 degrees. auto: small
    on a CPU, medium on a GPU."""
    width: int | None = None
    """Channels of the first level."""
    depth: int | None = None
    """Blocks of a level, each way."""
    multipliers: tuple[int, ...] | None = None
    """Widths of the levels, each of half the resolution."""
    attention_levels: int = 1
    """Lowest levels with attention."""
    dropout: float = 0.3
    """Share of each block's numbers that is dropped in training: years of weather are few."""
    jitter: float = 0.5
    """Of downscaling: noise on the numbers that tell of the coarse fields, in training; without it a day is known by heart."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or 4 <= self.width <= 4096, "width", "from 4 to 4096"),
            (self.depth is None or 1 <= self.depth <= 16, "depth", "from 1 to 16"),
            (
                self.multipliers is None or (1 <= len(self.multipliers) <= 8 and min(self.multipliers) >= 1),
                "multipliers",
                "1 to 8 numbers of 1 or more",
            ),
            (0 <= self.attention_levels <= len(self.of("cpu")[2]), "attention_levels", "at most the number of levels"),
            (0 <= self.dropout < 1, "dropout", "a share from 0 to below 1"),
            (0 <= self.jitter < math.inf, "jitter", "0 or more"),
        )

    def of(self, device: str) -> tuple[int, int, tuple[int, ...], bool]:
        """Width, depth and multipliers on a device, and whether activations are worked out again."""
        size = self.size if self.size != "auto" else "small" if device == "cpu" else "medium"
        width, depth, multipliers = SIZES[size]
        return self.width or width, self.depth or depth, tuple(self.multipliers or multipliers), size == "large"


@dataclass(frozen=True)
class WeatherMethod:
    """The diffusion method of GenCast (Price et al. 2023, arXiv 2312.15796): EDM's denoiser, trained between two noise levels.

    The network answers v, which for data of spread 1 is EDM's own output, and its plain square EDM's weighting. Times are even
    in sigma^(1/7), Karras' law: smooth fields keep their large scales until sigma is 80 and more.
    """

    learn: Literal["denoiser", "crps"] = "denoiser"
    """A denoiser, or the rival: members by one call each, from the same network, trained on their CRPS. Best begun from
    a denoiser's weights (--weights RUN)."""
    sigma_low: float = 0.01
    """Least noise that is trained, and from which a walk goes to the data in one step, in units of the spread of a step's
    change."""
    sigma_high: float = 88.0
    """Most of it, from which samples begin."""
    noise: Literal["auto", "sphere", "cells"] = "auto"
    """Isotropic on the sphere, or white by cell. auto: on the sphere where the grid is the globe."""

    def __post_init__(self) -> None:
        check(
            self,
            (LOWEST <= self.sigma_low < self.sigma_high, "sigma_low", f"from {LOWEST:g} to below sigma_high"),
            (self.sigma_high < math.inf, "sigma_high", "a finite number"),
        )

    def build(self, grid: Grid | None = None) -> Gaussian:
        """The process, on a grid."""
        from sfumato.diffusion import EDM, Gaussian

        if grid is None or self.noise == "cells" or (self.noise == "auto" and not grid.globe):
            return Gaussian(EDM(LOWEST, self.sigma_high), "v")
        if not grid.globe:
            raise Wrong(f"method.noise = 'sphere': must be cells or auto on a region ({grid.words()})")
        from sfumato.fields.weather.sphere import SphereGaussian

        return SphereGaussian(EDM(LOWEST, self.sigma_high), "v", latitude=tuple(grid.latitude), columns=grid.shape[1])

    def distribution(self) -> Times:
        """Even in t, from where sigma is ``sigma_low``."""
        import torch

        from sfumato.diffusion import EDM, Uniform

        angle = torch.atan(torch.tensor(self.sigma_low, dtype=torch.float64))
        return Uniform(float(EDM(LOWEST, self.sigma_high).at_angle(angle)))

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
            return "one call a member, trained on their CRPS"
        return f"EDM, noise {self.sigma_low:g} to {self.sigma_high:g} of a step's change, answers v"


@dataclass(frozen=True)
class ForecastAsk:
    """What is forecast."""

    start: tuple[str, ...] = ()
    """Dates to forecast from, as 2010-03-01T12:00 (UTC), or latest, the last one of the data (default: the last held-out
    one whose truth is known)."""
    leads: int = 5
    """Steps to forecast, one after the other."""

    def __post_init__(self) -> None:
        check(
            self,
            (1 <= self.leads <= 10_000, "leads", "from 1 to 10000"),
            (len(set(self.start)) == len(self.start), "start", "different dates"),
        )


@dataclass(frozen=True)
class ForecastMeasure:
    """How forecasts are measured."""

    n: Annotated[int, arg(aliases=["-n"])] = 16
    """Members of each forecast."""
    cases: int = 60
    """Starts at most, evenly spread over the times held out (or over --since to --before)."""
    since: str | None = None
    """Measure on times from this date on (default: those held out)."""
    before: str | None = None
    """... and before this one."""

    def __post_init__(self) -> None:
        check(
            self,
            (2 <= self.n <= 1000, "n", "from 2 to 1000: a fair score needs two members"),
            (self.cases >= 2, "cases", "2 or more"),
        )
