"""The options of forecasts. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from sfumato.errors import check
from sfumato.jobs.flags import arg

if TYPE_CHECKING:
    from sfumato.diffusion import Gaussian
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.times import Times

LOWEST = 0.002
"""Noise that is left in a sample, in units of the spread of a step's change."""


@dataclass(frozen=True)
class FieldNetworkOptions:
    """The network. None means: chosen from the machine."""

    width: int | None = None
    """Channels of the first level (default: 32 on a CPU, 128 on a GPU)."""
    depth: int = 1
    """Blocks of a level, each way."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Widths of the levels, each of half the resolution."""
    attention_levels: int = 1
    """Lowest levels with attention."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or 4 <= self.width <= 4096, "width", "from 4 to 4096"),
            (1 <= self.depth <= 16, "depth", "from 1 to 16"),
            (
                1 <= len(self.multipliers) <= 8 and min(self.multipliers) >= 1,
                "multipliers",
                "1 to 8 numbers of 1 or more",
            ),
            (0 <= self.attention_levels <= len(self.multipliers), "attention_levels", "at most the number of levels"),
        )


@dataclass(frozen=True)
class WeatherMethod:
    """The diffusion method of GenCast (Price et al. 2023, arXiv 2312.15796): EDM's denoiser, trained between two noise levels.

    The network answers v, which for data of spread 1 is EDM's own output, and its plain square EDM's weighting. Times are even
    in sigma^(1/7), Karras' law: smooth fields keep their large scales until sigma is 80 and more.
    """

    sigma_low: float = 0.02
    """Least noise that is trained, in units of the spread of a step's change."""
    sigma_high: float = 88.0
    """Most of it, from which samples begin."""

    def __post_init__(self) -> None:
        check(
            self,
            (LOWEST <= self.sigma_low < self.sigma_high, "sigma_low", f"from {LOWEST:g} to below sigma_high"),
            (self.sigma_high < math.inf, "sigma_high", "a finite number"),
        )

    def build(self) -> Gaussian:
        """The process."""
        from sfumato.diffusion import EDM, Gaussian

        return Gaussian(EDM(LOWEST, self.sigma_high), "v")

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
