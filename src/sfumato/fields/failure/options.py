"""The options of failure sampling. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from sfumato.errors import check
from sfumato.jobs.flags import arg

if TYPE_CHECKING:
    from sfumato.diffusion import Gaussian
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.times import Times

LEAST_CALLS = 500


@dataclass(frozen=True)
class FailureNetwork:
    """The network: a residual one on the numbers of a disturbance, or a transformer along its steps."""

    kind: Literal["auto", "flat", "along"] = "auto"
    """flat: a residual network on all numbers; along: a transformer along the steps; auto: along beyond 256 numbers."""
    width: int | None = None
    """Width (default: 128, of few numbers 64)."""
    depth: int | None = None
    """Blocks (default: 2, of a transformer 4)."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.width is None or 8 <= self.width <= 8192, "width", "from 8 to 8192"),
            (self.depth is None or 1 <= self.depth <= 64, "depth", "from 1 to 64"),
        )


@dataclass(frozen=True)
class FailureMethod:
    """How failing disturbances are learned. The answer is v, of which nothing but 0 is right for the prior: an untrained network
    draws it exactly, and training learns what failing changes."""

    times_mean: float = -0.6
    """Middle of ln(sigma / alpha) in training."""
    times_std: float = 1.4
    """Its spread."""

    def __post_init__(self) -> None:
        check(
            self,
            (math.isfinite(self.times_mean), "times_mean", "a finite number"),
            (0 < self.times_std < math.inf, "times_std", "above 0"),
        )

    def build(self) -> Gaussian:
        """The process."""
        from sfumato.diffusion import EDM, Gaussian

        return Gaussian(EDM(0.02, 40.0, rho=7.0), predicts="v")

    def distribution(self) -> Times:
        """Of training times."""
        from sfumato.diffusion import LogNormal

        return LogNormal(self.times_mean, self.times_std)

    def dealt(self) -> Coupling:
        """Every disturbance keeps its noise."""
        from sfumato.diffusion import independent

        return independent

    def learns_weights(self) -> bool:
        """No."""
        return False

    def words(self) -> str:
        """One line about the method."""
        return "v of disturbances that fail ever more, level by level (DiFS, arXiv 2406.14761, on moved populations)"


@dataclass(frozen=True)
class CampaignOptions:
    """How the calls are spent. Shares are of --calls."""

    prior: float = 0.05
    """Share of plain runs at the start."""
    passing: float = 0.1
    """Share of a level's population that passes to the next level."""
    states: float = 0.08
    """Share that the moves of a population take at each level; twice as many where the level is failure itself."""
    last: int = 2
    """Rounds at the level of failure."""
    islands: float = 0.25
    """Share for estimate A, islands that go through the levels anew."""
    weighing: float = 0.1
    """Share for estimate B, weighed draws of the model."""
    samples: int = 1000
    """Failures to end with."""
    walk: int = 32
    """Steps of the weighed walk."""
    start: str | None = None
    """Run of an earlier version of the system, whose failures the campaign begins from."""

    @property
    def pairs(self) -> int:
        """Pairs of moves of a population, one by the network and one of pCN: so many that each row of those that passed stands
        for as many states as it is drawn from, and none is drawn twice."""
        return max(1, round(0.5 / self.passing))

    def __post_init__(self) -> None:
        check(
            self,
            (0 < self.prior <= 0.5, "prior", "a share above 0, at most 0.5"),
            (0.01 <= self.passing <= 0.5, "passing", "from 0.01 to 0.5"),
            (0 < self.states <= 0.5, "states", "a share above 0, at most 0.5"),
            (1 <= self.last <= 50, "last", "from 1 to 50"),
            (0 <= self.islands < 0.8, "islands", "a share from 0 to below 0.8"),
            (0 <= self.weighing < 0.8, "weighing", "a share from 0 to below 0.8"),
            (
                self.prior + self.islands + self.weighing < 0.9,
                "islands",
                "less, with prior and weighing below 0.9 in all",
            ),
            (1 <= self.samples <= 1_000_000, "samples", "from 1 to 1,000,000"),
            (4 <= self.walk <= 1000, "walk", "from 4 to 1000"),
        )


@dataclass(frozen=True)
class FailureAsk:
    """What failures are asked for."""

    level: float = 0.0
    """Robustness that is aimed at: 0 is failure, above it nearly failing."""

    def __post_init__(self) -> None:
        check(self, (0 <= self.level < math.inf, "level", "0 or more"))


@dataclass(frozen=True)
class FailureMeasure:
    """How a campaign is measured."""

    n: Annotated[int | None, arg(aliases=["-n"])] = None
    """Samples and true failures compared (default: 1000, less where there are fewer)."""
    truth: str | None = None
    """File of true failures, .npz with z or x (N, n): what samples are compared with (none: those of the islands)."""
    baselines: bool = False
    """Run the plain methods at the same number of calls beside it: they call the simulator."""

    def __post_init__(self) -> None:
        check(self, (self.n is None or self.n >= 20, "n", "at least 20"))
