"""Methods: how data is noised, what a network answers, what it learns from. One dataclass of options for each kind of world."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sfumato.errors import Wrong, check, options_meet_the_core

if TYPE_CHECKING:
    from sfumato.diffusion import Equilibrium, Gaussian, Masked, UniformTokens
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.schedule import Schedule
    from sfumato.diffusion.times import Times


class Method(Protocol):
    """What the shared rooms ask of a method, whatever its world."""

    def distribution(self) -> Times:
        """The distribution of training times."""

    def dealt(self) -> Coupling:
        """Which noise goes with which sample."""

    def learns_weights(self) -> bool:
        """Whether the weight of each noise level is learned."""

    def words(self) -> str:
        """One line about it."""


@dataclass(frozen=True)
class MethodOptions:
    """The diffusion method: how data is noised, what is answered, which noise levels are trained."""

    process: Literal["gaussian", "equilibrium"] = "gaussian"
    """gaussian, or equilibrium matching: a field without time, sampled by descent for as many calls as a sample needs."""
    schedule: Literal["linear", "cosine", "vp", "edm", "loglinear"] = "linear"
    """linear is flow matching."""
    predicts: Literal["data", "noise", "v", "velocity", "score"] = "data"
    """What the network answers."""
    loss_in: Literal["data", "noise", "v", "velocity"] | None = "velocity"
    """Space of the loss (none: the answer's own)."""
    weight: Literal["none", "edm", "min_snr", "sigmoid"] = "none"
    """A further weight by noise level."""
    times: Literal["uniform", "logit_normal", "log_normal", "adaptive"] = "logit_normal"
    """Distribution of training times."""
    times_mean: float = 0.3
    """Of the logit (logit_normal: above 0 is more noise) or of ln(sigma / alpha) (log_normal)."""
    times_std: float = 1.0
    """Spread of the same."""
    cover: float | None = None
    """Share of the training times spread evenly from 0 to 1, and as much at pure noise, where every sample begins and a
    logit_normal or log_normal distribution never comes (default: 0.02 for arrays that are no pictures, 0 for pictures, where it
    is worth it for samples in 2 to 4 steps; policies have 0.05 at least)."""
    uncertainty: bool = False
    """Learn the weight of each noise level (EDM2)."""
    coupling: Literal["independent", "transport"] = "independent"
    """Which noise goes with which sample: as drawn, or by optimal transport within the batch."""

    def __post_init__(self) -> None:
        check(
            self,
            (math.isfinite(self.times_mean), "times_mean", "a finite number"),
            (0 < self.times_std < math.inf, "times_std", "above 0"),
            (0 <= (self.cover or 0) < 0.5, "cover", "from 0 to below 0.5"),
        )
        if self.process == "equilibrium" and (self.times == "adaptive" or self.uncertainty):
            raise Wrong("process = 'equilibrium': its network knows no noise level to learn times or weights of")

    @options_meet_the_core()
    def build(self) -> Gaussian | Equilibrium:
        """The process these options describe."""
        from sfumato import diffusion as d

        if self.process == "equilibrium":
            return d.Equilibrium()
        weights: dict[str, Any] = {
            "none": None, "edm": d.edm_weight(), "min_snr": d.min_snr(), "sigmoid": d.sigmoid_weight(),
        }  # fmt: skip
        return d.Gaussian(pace(self.schedule), self.predicts, self.loss_in, weights[self.weight])

    @options_meet_the_core()
    def distribution(self) -> Times:
        """The distribution of training times."""
        from sfumato import diffusion as d

        if self.times == "uniform":
            return d.Uniform()
        if self.times == "adaptive":
            return d.Adaptive()
        drawn = (d.LogitNormal if self.times == "logit_normal" else d.LogNormal)(self.times_mean, self.times_std)
        return d.Covered(drawn, self.cover) if self.cover else drawn

    def dealt(self) -> Coupling:
        """Which noise goes with which sample."""
        from sfumato.diffusion import independent, optimal_transport

        return independent if self.coupling == "independent" else optimal_transport

    def learns_weights(self) -> bool:
        """Whether the weight of each noise level is learned."""
        return self.uncertainty

    def words(self) -> str:
        """One line about the method."""
        return f"{self.schedule} schedule, answers {self.predicts}, loss in {self.loss_in or self.predicts}"


@dataclass(frozen=True)
class TokenMethod:
    """The diffusion method for tokens: they turn into masks, or into random tokens."""

    process: Literal["masked", "uniform"] = "masked"
    """masked: noise hides tokens; uniform: noise replaces them, so that sampling may revise what it wrote."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the share of tokens that are still there falls with time."""

    @options_meet_the_core()
    def build(self, vocab: int) -> Masked | UniformTokens:
        """The process for a vocabulary, the mask not counted: it is token number ``vocab``."""
        from sfumato import diffusion as d

        if self.process == "masked":
            return d.Masked(vocab, pace(self.schedule))
        return d.UniformTokens(vocab, pace(self.schedule))

    def distribution(self) -> Times:
        """Times spread evenly."""
        from sfumato.diffusion import Uniform

        return Uniform(1e-3)

    def dealt(self) -> Coupling:
        """Every sample keeps its noise."""
        from sfumato.diffusion import independent

        return independent

    def learns_weights(self) -> bool:
        """No."""
        return False

    def words(self) -> str:
        """One line about the method."""
        return f"{self.process} tokens, {self.schedule} schedule"


def pace(name: str) -> Schedule:
    """A schedule by the name of the command line."""
    from sfumato import diffusion as d

    schedules: dict[str, Any] = {
        "linear": d.Linear, "cosine": d.Cosine, "vp": d.VP, "edm": d.EDM, "loglinear": d.LogLinear,
    }  # fmt: skip
    made: Schedule = schedules[name]()
    return made
