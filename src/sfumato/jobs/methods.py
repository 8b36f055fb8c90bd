"""Methods: how data is noised, what a network answers, what it learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sfumato.errors import Wrong, options_meet_the_core

if TYPE_CHECKING:
    from sfumato.diffusion import Equilibrium, Gaussian


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
    uncertainty: bool = False
    """Learn the weight of each noise level (EDM2)."""
    coupling: Literal["independent", "transport"] = "independent"
    """Which noise goes with which sample: as drawn, or by optimal transport within the batch."""

    @options_meet_the_core()
    def build(self) -> Gaussian | Equilibrium:
        """The process these options describe."""
        from sfumato import diffusion as d

        if self.process == "equilibrium":
            return d.Equilibrium()
        schedules: dict[str, Any] = {
            "linear": d.Linear, "cosine": d.Cosine, "vp": d.VP, "edm": d.EDM, "loglinear": d.LogLinear,
        }  # fmt: skip
        weights: dict[str, Any] = {
            "none": None, "edm": d.edm_weight(), "min_snr": d.min_snr(), "sigmoid": d.sigmoid_weight(),
        }  # fmt: skip
        return d.Gaussian(schedules[self.schedule](), self.predicts, self.loss_in, weights[self.weight])

    def words(self) -> str:
        """One line about the method."""
        return f"{self.schedule} schedule, answers {self.predicts}, loss in {self.loss_in or self.predicts}"

    def __post_init__(self) -> None:
        if self.process == "equilibrium" and (self.times == "adaptive" or self.uncertainty):
            raise Wrong("process = 'equilibrium': its network knows no noise level to learn times or weights of")

    @options_meet_the_core()
    def distribution(self) -> Any:
        """The distribution of training times."""
        from sfumato import diffusion as d

        if self.times == "uniform":
            return d.Uniform()
        if self.times == "adaptive":
            return d.Adaptive()
        return (d.LogitNormal if self.times == "logit_normal" else d.LogNormal)(self.times_mean, self.times_std)
