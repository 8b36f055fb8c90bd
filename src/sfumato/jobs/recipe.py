"""What a recipe is: where a field's data comes from, which network and process fit, what its people look at.

The rest of a run (loop, checkpoints, averages, sampling, commands) is shared and knows no field.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sfumato.training.run import Run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from sfumato.data import Dataset
    from sfumato.diffusion import Equilibrium, Gaussian
    from sfumato.jobs.walk import Habits, SampleOptions
    from sfumato.training.objective import Task

Say = Callable[[str], None]


def say(text: str) -> None:
    """A line for the person at the terminal (standard error: standard output is for results)."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Prepared:
    """Data made ready: the whole array, its two parts, and what is needed to undo the standardisation."""

    array: np.ndarray | None
    train: Dataset
    held_out: Dataset
    statistics: Any
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Nothing:
    """No options at all."""


class Recipe(Protocol):
    """One field of use; a frozen dataclass whose fields are its options."""

    Measure: ClassVar[type]
    """What `sfumato evaluate` may be told: a dataclass whose fields are options."""
    verbs: ClassVar[Mapping[str, str]]
    """The field's own verbs: name -> "module:Class", of a dataclass that is called; imported when it is. One that
    is worth showing without data has, besides, ``demo``: "module:function" (out, minutes, seed) -> where to look."""

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

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        """The field's own networks by kind, beside those that all fields know."""

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

    def evaluate(self, out: Path, asked: Any, options: SampleOptions) -> str:
        """The run in ``out`` measured as its field judges it, told a ``Measure``: a table, and where to look. Raises
        RunError, DataError, MetricError."""

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
