"""The `sfumato` command: parse, call, print. Nothing here or in what it parses imports torch before work begins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.config import Configuration
from sfumato.jobs.find import kind, name_of, names
from sfumato.jobs.evaluate import Evaluation
from sfumato.fields.images.recipe import Images
from sfumato.jobs.walk import SampleOptions
from sfumato.fields.policy.simulators.recording import RecordOptions
from sfumato.training.options import TrainOptions

R = TypeVar("R")


@dataclass(frozen=True)
class Train(Generic[R]):
    """Learn from data: inspects, chooses, says what it chose and how long it will take, and goes.

    The data is pictures, unless the name of another recipe comes first: `sfumato train policy DEMONSTRATIONS`.
    """

    recipe: Annotated[R, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Run directory (default: runs/NAME OF THE DATA)."""
    config: Path | None = None
    """YAML file with the same options, as in a run's config.yaml; options given here come first."""

    def __call__(self) -> int:
        from sfumato.jobs import job_TODO

        recipe: Any = self.recipe
        out = self.out or Path("runs") / recipe.data.resolve().stem
        run = job.train(recipe, self.training, out)
        print(f"trained: {run.path}\nsamples: sfumato sample {run.path} -n 64 --out samples")
        return 0


@dataclass(frozen=True)
class Resume:
    """Go on with a run."""

    run: Positional[Path]
    """Run directory."""

    def __call__(self) -> int:
        from sfumato.jobs import job_TODO

        print(f"trained: {job.resume(self.run).path}")
        return 0


@dataclass(frozen=True)
class Distill:
    """Make a trained run a flow map: one network for any number of steps, from 1 to 1000."""

    run: Positional[Path]
    """Run directory of the teacher."""
    options: Annotated[DistillOptions, arg(name="")] = field(default_factory=DistillOptions)
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Run directory of the flow map (default: RUN-map)."""

    def __call__(self) -> int:
        from sfumato.jobs import distill

        out = self.out or self.run.resolve().with_name(self.run.resolve().name + "-map")
        run = distillation.distill(self.run, self.options, self.training, out)
        print(f"converted: {run.path}\nsamples: sfumato sample {run.path} -n 64 --steps 4 --out samples")
        return 0


@dataclass(frozen=True)
class Sample:
    """Draw samples from a run: 0000.png ... and grid.png."""

    run: Positional[Path]
    """Run directory."""
    n: Annotated[int, arg(aliases=["-n"])] = 16
    """How many."""
    out: Path = Path("samples")
    """Folder for the samples."""
    options: Annotated[SampleOptions, arg(name="")] = field(default_factory=SampleOptions)

    def __call__(self) -> int:
        from sfumato.jobs import job_TODO

        print(job.sample(self.run, self.n, self.options, self.out)[-1])
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a run: samples against real data, beside the floor that real held-out data sets; a policy in a simulator."""

    run: Positional[Path]
    """Run directory."""
    asked: Annotated[Evaluation, arg(name="")] = field(default_factory=Evaluation)
    options: Annotated[SampleOptions, arg(name="")] = field(default_factory=SampleOptions)

    def __call__(self) -> int:
        from sfumato.jobs.config import read_config
        from sfumato.training.run import Run

        print(read_config(Run(self.run)).recipe.evaluate(self.run, self.asked, self.options))
        return 0


@dataclass(frozen=True)
class Record:
    """Play in simulators and keep what was seen and done, as demonstrations to learn a policy from."""

    environments: Positional[tuple[str, ...]]
    """Environments: gym_pusht/PushT-v0, metaworld/TASK, or any id that gymnasium knows."""
    out: Path
    """Where to write: a .npz file, or a folder for a LeRobot dataset."""
    options: Annotated[RecordOptions, arg(name="")] = field(default_factory=RecordOptions)

    def __call__(self) -> int:
        from sfumato.fields.policy.simulators import recording

        print(recording.record(self.environments, self.out, self.options))
        return 0


@dataclass(frozen=True)
class Inspect(Generic[R]):
    """Say what would be learned from data, what is broken in it, and what training would cost here.

    The data is pictures, unless the name of another recipe comes first: `sfumato inspect policy DEMONSTRATIONS`.
    """

    recipe: Annotated[R, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)

    def __call__(self) -> int:
        from sfumato.jobs import inspect

        recipe: Any = self.recipe
        report, sound = inspection.inspect(recipe, self.training)
        print(report)
        return 0 if sound else 1


@dataclass(frozen=True)
class Demo:
    """Train on small real pictures that come with a package, sample, score and draw what happened."""

    out: Path = Path("runs/demo")
    """Run directory; an earlier demo there is replaced."""
    minutes: float = 4.5
    """Minutes of training."""
    seed: int = 0
    """Seed of everything."""

    def __call__(self) -> int:
        from sfumato.fields.images import demo

        print(demo.demo(self.out, self.minutes, self.seed))
        return 0


DESCRIPTION = "Diffusion and flow-matching models on your data: train, watch, sample, measure."

Command = Union[  # noqa: UP007
    Annotated[Demo, subcommand("demo")],
    Annotated[Inspect[Images], subcommand("inspect")],
    Annotated[Train[Images], subcommand("train")],
    Annotated[Resume, subcommand("resume")],
    Annotated[Distill, subcommand("distill")],
    Annotated[Sample, subcommand("sample")],
    Annotated[Evaluate, subcommand("evaluate")],
    Annotated[Record, subcommand("record")],
]


def _flags(arguments: Sequence[str]) -> list[str]:
    """``key=value`` as ``--key value``, as in YAML-minded command lines, unless it is the name of a file."""
    out: list[str] = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        named = all(part.isidentifier() for part in key.split("."))
        if sign and named and not Path(argument).exists():
            out += [f"--{key}", value]
        elif sign and argument.startswith("--"):
            out += [key, value]
        else:
            out.append(argument)
    return out


def _recipe(arguments: list[str]) -> str | None:
    """The recipe that `train` or `inspect` names before its data; the name of a file alone is the data."""
    if arguments[:1] not in (["train"], ["inspect"]) or len(arguments) < 2 or arguments[1] not in names():
        return None
    more = len(arguments) > 2 and not arguments[2].startswith("-")
    return arguments[1] if more or not Path(arguments[1]).exists() else None


def _with_config(arguments: list[str], recipe: str | None) -> Train[Any] | None:
    """The options of ``train --config FILE``, as the defaults of the command line."""
    if arguments[:1] != ["train"] or "--config" not in arguments:
        return None
    path = Path(*arguments[arguments.index("--config") + 1 :][:1])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FileNotFoundError(f"{path}: cannot be read ({reason}); --config wants a YAML file") from error
    base = Configuration((kind(recipe) if recipe else Images)(tyro.MISSING))
    found = Configuration.from_yaml(text, str(path), base)
    if recipe and name_of(found.recipe) != recipe:
        raise ValueError(f"{path}: is of the recipe {name_of(found.recipe)}, not {recipe}; leave the name out")
    return Train(found.recipe, found.training, config=path)


def _parse(given: list[str]) -> Any:
    """The command that the words mean, ready to be called."""
    recipe = _recipe(given)
    words = given[:1] + given[2:] if recipe else given
    default = _with_config(words, recipe)
    if recipe is None and default is None:
        return tyro.cli(Command, args=words, prog="sfumato", description=DESCRIPTION)
    of = kind(recipe) if recipe else type(default.recipe) if default else Images
    verb: Any = {"train": Train, "inspect": Inspect}[words[0]]
    name = f"sfumato {words[0]} {recipe}" if recipe else f"sfumato {words[0]}"
    if default is None:
        return tyro.cli(verb[of], args=words[1:], prog=name)
    return tyro.cli(verb[of], args=words[1:], prog=name, default=default)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Errors a user can mend are one line on standard error."""
    given = _flags(sys.argv[1:] if arguments is None else arguments)
    try:
        return _parse(given)()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        code = getattr(error, "code", None)
        if _mendable(error):
            print(f"sfumato: {error}", file=sys.stderr)
            return code if isinstance(code, int) else 1
        raise


def _mendable(error: Exception) -> bool:
    """Whether the message alone tells a user what to do (the rest are our bugs and keep their traceback)."""
    names = {"DataError", "RunError", "ConfigError", "CheckpointError", "MetricError", "NonFinite", "Stopped", "NotMet"}
    return type(error).__name__ in names or isinstance(error, (ValueError, FileNotFoundError, PermissionError))


if __name__ == "__main__":
    sys.exit(main())
