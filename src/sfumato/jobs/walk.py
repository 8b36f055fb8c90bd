"""How samples are drawn: what can be asked for, and what is done where nothing is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sfumato.errors import check


@dataclass(frozen=True)
class SampleOptions:
    """How samples are drawn from a run."""

    steps: int | None = None
    """Steps from noise to data (for all solvers but heun and predictor_corrector, calls of the network); default 20, fewer
    for actions, and 4 for a flow map."""
    tol: float | None = None
    """Instead of steps: as many as each sample needs to keep its error below this, in units of the data's spread."""
    solver: str | None = None
    """euler, ancestral, heun, dpmpp_2m, ab2, ab3, ab4, unipc, churn, euler_maruyama, predictor_corrector, adaptive; leap for
    flow maps and descent for equilibrium matching, each of which is the default there."""
    gamma: float = 0.0
    """Of leap: 0 walks the flow, 1 makes all noise anew at every step, as consistency models do."""
    last: Literal["flow", "mean"] | None = None
    """Of leap: where the last of several steps goes, to the end of the flow or to the mean of the data there; default flow,
    and mean for actions, which are smoother for it."""
    eta: float | None = None
    """Fresh noise of euler and dpmpp_2m: 0 none (deterministic), 1 as much as DDPM. Some mends a network's errors; default
    0.5, and 1 for actions."""
    grid: str = "auto"
    """Where the steps are: auto (equal error, measured), cosine, uniform, karras, logsnr."""
    shift: float | None = None
    """Above 1 the steps move to more noise, below 1 to less: on the straight schedule the stops have this many times the
    noise for the signal; default 1, and 0.5 for actions."""
    seed: int = 0
    """Sample i depends on the seed and i alone."""
    batch: int = 16
    """Samples computed at once."""
    w: float | None = None
    """Guidance strength where there are classes: 0 unconditional, 1 conditional, above 1 guided; default 1.5, or the
    nearest that a flow map learned."""
    guide_from: float = 0.0
    """Guide only at times from this one ..."""
    guide_to: float = 1.0
    """... to this one (0 is data, 1 is noise); plainly conditional outside."""
    label: str | None = None
    """Class (task of a robot) to draw from (default: all in turn)."""
    loops: int | None = None
    """Rounds of the middle blocks of a network trained with loops (default: the most of its training)."""
    ema: float | None = None
    """Width of the average to use (default: the run's first; any other is rebuilt from the snapshots)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the network's arithmetic."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.steps is None or self.steps >= 1, "steps", "at least 1"),
            (self.tol is None or self.tol > 0, "tol", "above 0"),
            (self.steps is None or self.tol is None, "tol", "given without steps: it chooses them"),
            (0 <= self.gamma <= 1, "gamma", "from 0 to 1"),
            (self.eta is None or self.eta >= 0, "eta", "0 or more"),
            (self.shift is None or 0 < self.shift < math.inf, "shift", "above 0"),
            (self.batch >= 1, "batch", "at least 1"),
            (0 <= self.guide_from <= self.guide_to <= 1, "guide_from", "at most guide_to, both from 0 to 1"),
            (self.ema is None or 0 < self.ema < 0.28, "ema", "a width between 0 and 0.28"),
        )


class Habits(NamedTuple):
    """How a recipe's models are sampled unless asked otherwise."""

    solver: str = "dpmpp_2m"
    steps: int = 20
    eta: float = 0.5
    shift: float = 1.0
    last: Literal["flow", "mean"] = "flow"
