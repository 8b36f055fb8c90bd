"""The contract of a field: where its data comes from, which network and process fit, what is drawn for what, which numbers
its people judge by, and what they look at. Everything else of a run is shared and knows no field.

A field is a folder of `sfumato.fields`; its recipe.py holds a frozen dataclass that inherits from :class:`Recipe`, whose
fields are the options of `sfumato train`, and ends with ``RECIPE = TheClass``. Options need no torch: what does is imported
inside methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run
from sfumato.training.telling import tell

if TYPE_CHECKING:
    from torch import nn

    from sfumato.data import Dataset
    from sfumato.diffusion import Drawn, Guess, Solver
    from sfumato.diffusion.generate import Queries
    from sfumato.diffusion.process import Process
    from sfumato.diffusion.tree import Tree
    from sfumato.jobs.making import Making
    from sfumato.jobs.methods import Method
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Savable, Task

Say = Callable[[str], None]
R = TypeVar("R", bound="Recipe")


def say(text: str) -> None:
    """A line for the person at the terminal (standard error: standard output is for results), if there still is one."""
    tell(text)


@dataclass(frozen=True)
class Nothing:
    """No options at all."""


@dataclass(frozen=True)
class Data:
    """Data made ready: what is known of it (the field's own Facts, kept in data.json), and its two parts."""

    facts: Any
    train: Dataset
    held_out: Dataset


@dataclass(frozen=True)
class Look:
    """A look at data before training: lines to read, the recipe to plan with, and whether training would start."""

    lines: tuple[str, ...]
    recipe: Any
    sound: bool = True


@dataclass(frozen=True)
class Recipe:
    """One field of use. No option bears a name that stands here, no option of ``Ask`` one that `sfumato sample` has anyway,
    and none of ``Measure`` one of `sfumato evaluate`; all is checked when the class is made."""

    Facts: ClassVar[Any] = None
    """What is known of the data: a class with ``read(run)``, whose instances have ``words()`` and ``values()``, lines for
    people: one that inherits from :class:`~sfumato.jobs.facts.Facts` has all three."""
    Ask: ClassVar[type] = Nothing
    """What a sample may be asked for: a dataclass whose fields are options. ``Ask()`` is the usual, as in previews."""
    Measure: ClassVar[type] = Nothing
    """What `sfumato evaluate` may be told: likewise."""
    verbs: ClassVar[Mapping[str, str]] = {}
    """The field's own verbs: name -> "module:Class", of a dataclass that is called; imported when it is."""
    guided: ClassVar[tuple[str, ...]] = ()
    """Conditions that are hidden together in training and guided by in sampling."""
    formats: ClassVar[tuple[str, ...]] = (".png",)
    """Suffixes of its files, the default first."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Files that ``prepare`` writes beside data.json (or into cache/), which samples need too: a vocabulary. A conversion takes
    them over, and a tuning begins with them."""
    single: ClassVar[bool] = False
    """Whether all samples go into one file, ``--out rows.csv``, and not into a folder."""
    lasting: ClassVar[tuple[str, ...]] = ()
    """Folders of a run that stay where its beginning fails: what cannot be had again for nothing, as calls of a simulator."""
    tunable: ClassVar[bool] = False
    """Whether ``prepare`` heeds ``base``, so that a run may learn further from other data."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Options of earlier revisions -> what they are called now, for old config.yaml files."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [name for name, hint in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(hint)]
        if taken := [name for name in own if hasattr(Recipe, name)]:
            raise TypeError(f"{cls.__name__}: the option {taken[0]!r} bears the name of a method of recipes; rename it")
        shared = {"run", "walk", "seed"} | {f.name for kind in (Walk, Drawing) for f in fields(kind)}
        asked = {f.name for f in fields(cls.Ask)}
        for kind, verb, used in (
            (cls.Ask, "sample", shared | {"n", "out", "like", "format", "shard", "workers", "bundle", "ray"}),
            (cls.Measure, "evaluate", shared | asked),
        ):  # fmt: skip
            if taken := [f.name for f in fields(kind) if f.name in used]:
                raise TypeError(
                    f"{cls.__name__}.{kind.__name__}: the option {taken[0]!r} is one of `sfumato {verb}` already; rename it"
                )

    # ---- what a field must give

    def prepare(self: R, run: Run, tell: Say, base: Any = None) -> R:
        """Read the data into ``run.cache`` and what is known of it into data.json; returns the recipe with every choice
        made. ``base``: the facts of a run that is trained further, whose units, vocabulary and columns stay. Raises
        DataError."""
        raise NotImplementedError

    def open(self, run: Run) -> Data:
        """The prepared data again, from the run alone. Raises DataError, RunError."""
        raise NotImplementedError

    def process(self, facts: Any) -> Process:
        """What the network's answers mean."""
        raise NotImplementedError

    def build(self, facts: Any, device: str) -> nn.Module:
        """A network that suits the data and the machine ("cpu" or an accelerator); the caller has seeded torch."""
        raise NotImplementedError

    def queries(self, model: Model, ask: Any, n: int | None) -> Queries:
        """The samples asked for: n, of each query that has a name; None: the field's own number. Raises Wrong for what makes
        no sense in this run."""
        raise NotImplementedError

    def things(self, model: Model, queries: Queries, drawn: Drawn) -> list[Any]:
        """What a person gets, one a sample: pictures, poses, texts, rows, in the units of the data."""
        raise NotImplementedError

    def save(self, thing: Any, path: Path, making: Making) -> Path:
        """One thing as a file of the format of the path's suffix, its making inside; returns the path."""
        raise NotImplementedError

    def evaluate(self, model: Model, measure: Any, ask: Any) -> Report:
        """The model measured as its field judges it, told a ``Measure`` and an ``Ask``. Raises RunError, DataError,
        MetricError."""
        raise NotImplementedError

    # ---- what has a default

    def title(self) -> str:
        """Name of the run directory."""
        source: Any = getattr(self, "data", None)
        return Path(source).resolve().stem if source is not None else type(self).__name__.lower()

    def examine(self) -> Look:
        """A look at the data: what is there and what is broken in it. Raises DataError."""
        return Look((), self)

    def facts(self, run: Run) -> Any:
        """What is known of the data, without opening it. Raises RunError."""
        return self.Facts.read(run)

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        """The field's own networks, by the name in a weights file, beside those that all fields know."""
        return {}

    def learning(self) -> Method:
        """How it is learned: times, coupling, words. By default the option ``method``."""
        method: Method = getattr(self, "method")  # noqa: B009 - an option of most fields, not of this class
        return method

    def training(self, data: Data, device: str) -> TrainOptions:
        """Batch, rate and the like unless asked otherwise: 16 on a CPU, where more steps are worth more than larger ones,
        up to 256 on an accelerator, less for few items."""
        return TrainOptions(batch=usual_batch(len(data.train), 16 if device == "cpu" else 256))

    def task(self, data: Data, network: nn.Module) -> Task:
        """What to train."""
        import numpy as np

        from sfumato.training.objective import Task

        method = self.learning()
        share = float(getattr(self, "drop", 0.1))
        there = data.train.batch(np.arange(1)) if self.guided else {}  # classes may not have been asked for
        guided = tuple(name for name in self.guided if name in there)
        return Task(
            network, self.process(data.facts), data.train, data.held_out, times=method.distribution(),
            coupling=method.dealt(), uncertainty=method.learns_weights(),
            hidden={guided: share} if guided and share > 0 else {},
        )  # fmt: skip

    def fit(self, run: Run, task: Task, training: TrainOptions) -> None:
        """Learn, from where the run stands on: ``task`` is trained once. A campaign, whose data come with what it has learned,
        trains again and again, in runs inside the run. Raises Stopped."""
        from sfumato.training import loop

        loop.train(task, run, training)

    def trained(self, run: Run) -> None:
        """After a training or a tuning: what is measured of the run besides, with the weights that it has now."""

    def walk(self, name: str = "usual") -> Walk:
        """How samples are drawn unless asked otherwise: "usual", "few" (a flow map), and what else a field names (--walk).
        Raises Wrong for a name that it has not."""
        from sfumato.errors import Wrong

        if name not in ("usual", "few"):
            raise Wrong(f"walk = {name!r}: must be usual; this field names no other")
        return Walk()

    def companions(self, run: Run, device: Any) -> Any:
        """What samples need besides the network: a decoder, a ranker, the windows held out. Loaded when it is first asked
        for, as ``model.companions``, and once. Raises DataError, RunError."""
        return None

    def choices(self, model: Model) -> Mapping[str, Sequence[str]]:
        """Words that an option of ``Ask`` can take in this run, where they can be listed, label -> its classes; none where the
        run has no such thing. For forms."""
        return {}

    def named_files(self, ask: Any) -> Iterable[tuple[str, str]]:
        """Files that words of a query name: (option, path) of each, beside the options that are paths. A server, to which files
        come with the request, reads no other, and refuses a query that names one."""
        return ()

    def begin(self, process: Process, z: Tree, times: Tree, query: Mapping[str, Tree]) -> tuple[Tree, Tree]:
        """The first state and the times to walk through, from the noise z and the walk's own times (n + 1,)."""
        return process.start(z), times

    def guide(self, guess: Guess, query: Mapping[str, Tree]) -> Guess:
        """Around the guess, which is guided already: infill, inpaint, clip; by row, from query["aside"]."""
        return guess

    def solvers(self) -> Mapping[str, Solver]:
        """Solvers that only runs of this field have, by name."""
        return {}

    def around(self, solver: Solver) -> Solver:
        """What goes around the solver of a run that was not converted: the memory of a network that is told its last guess."""
        return solver

    def draw(self, model: Model, queries: Queries, numbers: Sequence[int]) -> Iterator[Drawn]:
        """The samples of these numbers, through ``model.draw`` alone: a rollout, rejection or ranking calls it again."""
        return model.draw(queries, numbers)

    def items(self, model: Model, queries: Queries, drawn: Drawn) -> Mapping[str, Any]:
        """Samples as the field's data set would give them in a batch, to be learned from again: numbers and conditions, unless
        there are weights too."""
        from sfumato.diffusion.generate import RESERVED

        return {"x": drawn.x, **{name: value for name, value in drawn.query.items() if name not in RESERVED}}

    def decoded(self, model: Model, x: Any) -> Any:
        """Drawn numbers as those of the data, where a run learns in another space: codes decoded. They as they are."""
        return x

    def glimpse(self, data: Data) -> Any:
        """A picture (of Pillow) of some of the data, for the page of `sfumato inspect`. None where there is nothing to see."""
        return None

    def picture(self, model: Model, things: Sequence[Any], columns: int | None = None) -> Savable | None:
        """What a person wants to look at: a sheet of things. None where there is nothing to see."""
        return None

    def write(
        self, model: Model, queries: Queries, things: Iterable[tuple[int, Any]], out: Path, making: Making
    ) -> Iterator[Path]:
        """Things with their numbers as files, as they come: 0000.png, 0001.png, ... in the folder ``out``; a field whose
        samples go into one file writes that. Yields each file once it is whole."""
        suffix = making.suffix or self.formats[0]
        for number, thing in things:
            yield self.save(thing, out / f"{number:04d}{suffix}", making.of(queries, number))

    def destination(self, model: Model, out: Path | None, suffix: str) -> tuple[Path, bool, str]:
        """Where samples go, whether that is one file, and the suffix of the files. Raises Wrong for a file of another kind.

        Args:
            out, suffix: as they were asked for; None and "" where they were not.
        """
        from sfumato.errors import Wrong

        suffix = suffix or self.formats[0]
        if not self.single:
            return out or Path("samples"), False, suffix
        out = Path(f"samples{suffix}") if out is None else out
        if out.suffix.lower() not in self.formats:
            raise Wrong(f"out = {str(out)!r}: must be a file that ends with one of {', '.join(self.formats)}")
        return out, True, ""

    def bundled(self, model: Model, queries: Queries) -> None:
        """Raises Wrong where samples cannot be drawn and written a bundle at a time, each as if there were no other: where they
        are ranked among themselves, or one file holds them all."""

    def usage(self) -> Iterable[str]:
        """How a finished run is used, for its README.md; RUN stands for the folder."""
        return ("Samples: `sfumato sample RUN -n 64 --seed 0 --out samples`.",)

    def measurable(self, model: Model, measure: Any, ask: Any) -> None:
        """What an evaluation would find missing at its end (data, counts, packages), found at its start, before the network is
        called. Raises RunError, DataError, MetricError."""

    def ready(self, model: Model) -> Any:
        """What ``sfumato.load`` gives: the model, or what the field makes of it."""
        return model

    def settled(self: R, network: nn.Module) -> R:
        """The recipe with the choices written into its option ``network`` that were made for this network."""
        import dataclasses

        from sfumato.networks.options import settle

        if not any(field.name == "network" for field in fields(self)):
            return self
        changed: dict[str, Any] = {"network": settle(getattr(self, "network"), network)}  # noqa: B009
        return dataclasses.replace(self, **changed)


def usual_batch(count: int, most: int) -> int:
    """At most so many items in a batch, and no more than a quarter of the data where that is 8 or more."""
    while most > 8 and most * 4 > count:
        most //= 2
    return max(1, min(most, count))
