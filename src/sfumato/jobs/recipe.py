"""What a recipe is: where a field's data comes from, which network and process fit, what its people look at.

The rest of a run (loop, checkpoints, averages, sampling, commands) is shared and knows no field.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from sfumato.data import Dataset
    from sfumato.diffusion import Equilibrium, Gaussian
    from sfumato.jobs.evaluate import Evaluation
    from sfumato.jobs.walk import SampleOptions
    from sfumato.training.objective import Task

Say = Callable[[str], None]
R = TypeVar("R")


def say(text: str) -> None:
    """A line for the person at the terminal (standard error: standard output is for results)."""
    print(text, file=sys.stderr, flush=True)


def read_facts(run: Run) -> dict[str, Any]:
    """What data.json says about the data of a run: at least "shape" of an item, "classes" and "count". Raises RunError."""
    try:
        return json.loads((run.path / "data.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.path / 'data.json'}: cannot be read ({error}); the run is not complete, train again"
        ) from error


@dataclass(frozen=True)
class NetworkOptions:
    """The network. None means: chosen from the data and the machine."""

    kind: Literal["auto", "dit", "unet", "mlp"] = "auto"
    """DiT (transformer on patches), U-Net, MLP (vectors)."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks (U-Net: per level)."""
    patch: int | None = None
    """Side of a DiT's patch in pixels."""
    loops: tuple[int, int] | None = None
    """A DiT applies its middle blocks this often with the same weights, least and most, at random while training; and any
    number of times in sampling."""


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
            raise ValueError("process = 'equilibrium': its network knows no noise level to learn times or weights of")

    def distribution(self) -> Any:
        """The distribution of training times."""
        from sfumato import diffusion as d

        if self.times == "uniform":
            return d.Uniform()
        if self.times == "adaptive":
            return d.Adaptive()
        return (d.LogitNormal if self.times == "logit_normal" else d.LogNormal)(self.times_mean, self.times_std)


@dataclass(frozen=True)
class DistillOptions:
    """How a trained run becomes a flow map: one network for any number of steps."""

    kind: Literal["lagrangian", "semigroup", "mean_flow", "consistency"] = "lagrangian"
    """Which truth about the map is learned: its end follows the flow, two steps are one, or its end stays put;
    consistency is the last with the data as the only end."""
    cost: float = 0.6
    """Cost of the conversion as a share of the teacher's training, unless --steps or --minutes is given."""
    w: tuple[float, float] = (1.0, 2.0)
    """Strengths of guidance that the map takes as an input, where there are classes; 1 1 leaves guidance out."""

    def __post_init__(self) -> None:
        for good, name, right in (
            (self.cost > 0, "cost", "above 0"),
            (0 <= self.w[0] <= self.w[1], "w", "two strengths, the smaller one first"),
        ):
            if not good:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be {right}")

    @property
    def guided(self) -> bool:
        """Whether the strength is an input at all."""
        return self.w != (1.0, 1.0)


@dataclass(frozen=True)
class Prepared:
    """Data made ready: the whole array, its two parts, and what is needed to undo the standardisation."""

    array: np.ndarray | None
    train: Dataset
    held_out: Dataset
    statistics: Any
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


class Habits(NamedTuple):
    """How a recipe's models are sampled unless asked otherwise."""

    solver: str = "dpmpp_2m"
    steps: int = 20
    eta: float = 0.5
    shift: float = 1.0
    last: Literal["flow", "mean"] = "flow"


class Recipe(Protocol):
    """One field of use; a frozen dataclass whose fields are its options."""

    @property
    def data(self) -> Path:
        """Where the data is."""

    # ---- before training

    def examine(self) -> tuple[list[str], Any, bool]:
        """A look at the data: what is there and what is broken in it, line by line; the recipe to plan with; and whether
        training would start. Raises DataError."""

    def prepare(self, run: Run, say: Say) -> tuple[Any, Prepared]:
        """Read the data into the run; returns the recipe with every choice made, and the data."""

    def reload(self, run: Run) -> Prepared:
        """The data again, from the run alone."""

    def process(self) -> Gaussian | Equilibrium:
        """What the network's answers mean."""

    def task(self, prepared: Prepared, seed: int) -> Task:
        """What to train."""

    def batch(self, count: int, device: str) -> int:
        """A batch that suits so many items and the machine ("cpu" or an accelerator)."""

    def settled(self, network: nn.Module) -> Any:
        """The recipe with the choices written into its options that were made for this network."""

    def learned_from(self, prepared: Prepared) -> str:
        """The data in words."""

    def values(self, prepared: Prepared) -> list[str]:
        """The numbers in the data in words, for a look before training."""

    def learned_how(self) -> str:
        """The method in words."""

    def usage(self) -> Iterable[str]:
        """How a finished run is used, for its README.md."""

    def evaluate(self, out: Path, asked: Evaluation, options: SampleOptions) -> str:
        """The run in ``out`` measured as its field judges it: a table, and where to look. Raises RunError, DataError,
        MetricError, and ValueError for options that mean nothing here."""

    # ---- samples

    def habits(self) -> Habits:
        """How samples are drawn unless asked otherwise."""

    def condition(self, run: Run, options: SampleOptions) -> Callable[[range], Mapping[str, Tensor]] | None:
        """Numbers of samples -> what they are drawn for, name -> (b, ...); None where there is nothing. Raises ValueError
        for options that make no sense in this run."""

    def write(self, samples: Tensor, numbers: range, folder: Path, run: Run) -> None:
        """Store samples as this field's files."""

    def draw(self, samples: Tensor, run: Run, columns: int | None = None) -> Any:
        """What a person wants to look at, with a ``save(path)``; None where there is nothing to see. Samples are those of
        numbers 0, 1, ... unless ``columns`` asks for a plain sheet of whatever states are given."""


def settle(options: R, network: nn.Module) -> R:
    """Options of a network, with what was left open (None or "auto") as the network has it."""
    made: Mapping[str, Any] = getattr(network, "options", {})
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    open_ = [f.name for f in fields if getattr(options, f.name) in (None, "auto") and f.name in made]
    return dataclasses.replace(options, **{name: made[name] for name in open_})  # type: ignore[type-var]
