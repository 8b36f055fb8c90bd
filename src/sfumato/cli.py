"""The `sfumato` command: parse, call, print. Nothing here or in what it parses imports torch before work begins."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from sfumato.errors import Mendable, Wrong, check
from sfumato.jobs import find
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.config import Configuration, field_of
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.options import TrainOptions

R = TypeVar("R")
M = TypeVar("M")
A = TypeVar("A")


@dataclass(frozen=True)
class Train(Generic[R]):
    """Learn from data: inspects, chooses, says what it chose and how long it will take, and goes.

    The data is pictures, unless the name of another field comes first: `sfumato train FIELD DATA`.
    """

    recipe: Annotated[R, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Run directory (default: runs/NAME OF THE DATA)."""
    config: Path | None = None
    """YAML file with the same options, as in a run's config.yaml; options given here come first."""

    def __call__(self) -> int:
        from sfumato.jobs import train

        recipe: Any = self.recipe
        out = self.out or Path("runs") / recipe.title()
        run = train.train(recipe, self.training, out)
        print(f"trained: {run.path}\nsamples: sfumato sample {run.path} -n 64 --out samples")
        return 0


@dataclass(frozen=True)
class Resume:
    """Go on with a run."""

    run: Positional[Path]
    """Run directory."""

    def __call__(self) -> int:
        from sfumato.jobs import train

        print(f"trained: {train.resume(self.run).path}")
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
        run = distill.distill(self.run, self.options, self.training, out)
        print(f"converted: {run.path}\nsamples: sfumato sample {run.path} -n 64 --steps 4 --out samples")
        return 0


@dataclass(frozen=True)
class Sample(Generic[A]):
    """Draw samples from a run: files in the units of the data, and a sheet of them.

    What a sample can be asked for depends on the field of the run: `sfumato sample RUN --help`.
    """

    run: Positional[Path]
    """Run directory."""
    ask: Annotated[A, arg(name="")]
    n: Annotated[int | None, arg(aliases=["-n"])] = None
    """How many (of each query that has a name)."""
    out: Path | None = None
    """Folder for the samples (default: samples), or file of a field whose samples go into one."""
    format: str | None = None
    """Suffix of the files, one of the field's (default: its first)."""
    like: Path | None = None
    """Draw the sample in this file again, by the same weights: same number, seed, walk and query; what is given here besides
    comes first."""
    named: Annotated[str, arg(name="walk")] = "usual"
    """A walk that the field knows by name."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __call__(self) -> int:
        from sfumato.jobs import model, sample

        if self.like is not None:
            check(
                self,
                (self.n is None, "n", "left out with --like, which is one sample"),
                (self.format is None, "format", "left out with --like, whose format is that of the file"),
            )
            if self.named != "usual":
                raise Wrong(f"walk = {self.named!r}: must be left out with --like, whose walk is that of the file")
            print(sample.again(self.run, self.like, self.walk, self.out, self.ask, self.drawing)[-1])
            return 0
        loaded = model.load(self.run, self.walk, self.drawing, self.named)
        print(sample.sample(loaded, self.n, self.ask, self.out, self.format or "")[-1])
        return 0


@dataclass(frozen=True)
class Evaluate(Generic[M, A]):
    """Measure a run: samples against real data, beside the floor that real held-out data sets; a policy in a simulator.

    What can be asked for depends on the field of the run: `sfumato evaluate RUN --help`.
    """

    run: Positional[Path]
    """Run directory."""
    measure: Annotated[M, arg(name="")]
    ask: Annotated[A, arg(name="")]
    named: Annotated[str, arg(name="walk")] = "usual"
    """A walk that the field knows by name."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __call__(self) -> int:
        from sfumato.jobs import evaluate, model

        loaded = model.load(self.run, self.walk, self.drawing, self.named)
        print(evaluate.evaluate(loaded, self.measure, self.ask))
        return 0


@dataclass(frozen=True)
class Inspect(Generic[R]):
    """Say what would be learned from data, what is broken in it, and what training would cost here.

    The data is pictures, unless the name of another field comes first: `sfumato inspect FIELD DATA`.
    """

    recipe: Annotated[R, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)

    def __call__(self) -> int:
        from sfumato.jobs import inspect

        recipe: Any = self.recipe
        report, sound = inspect.inspect(recipe, self.training)
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
        print(find.demo()(self.out, self.minutes, self.seed))
        return 0


VERBS = ("demo", "inspect", "train", "resume", "distill", "sample", "evaluate")
DESCRIPTION = "Diffusion and flow-matching models on your data: train, watch, sample, measure."


def _command(run: str | None) -> Any:
    """What can be asked for where no field is named; of `evaluate` what fits the field of the run, if there is one."""
    plain, of = find.kind(find.plain()), find.kind(run or find.plain())
    inspect, train, sample, evaluate = _generic(Inspect, Train, Sample, Evaluate)
    verbs = (
        Demo, inspect[plain], train[plain], Resume, Distill, sample[of.Ask], evaluate[of.Measure, of.Ask],
    )  # fmt: skip
    return Union[tuple(Annotated[verb, subcommand(name)] for name, verb in zip(VERBS, verbs, strict=True))]  # noqa: UP007


def _generic(*verbs: Any) -> tuple[Any, ...]:
    """The same, of which a checker of types asks nothing: their options are found while running."""
    return verbs


def _fields() -> str:
    """The fields and their own verbs, for the end of the help."""
    lines = [f"  {name:<10} {find.line(name)}" for name in find.names()]
    return "\n".join([DESCRIPTION, "", "fields:", *lines, "", "A field's own verbs: sfumato FIELD --help"])


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


def _field(arguments: list[str]) -> str | None:
    """The field that `train` or `inspect` names before its data; the name of a file alone is the data."""
    if arguments[:1] not in (["train"], ["inspect"]) or len(arguments) < 2 or arguments[1] not in find.names():
        return None
    more = len(arguments) > 2 and not arguments[2].startswith("-")
    return arguments[1] if more or not Path(arguments[1]).exists() else None


def _field_of_run(arguments: list[str]) -> str | None:
    """The field of the run that a verb is given: of the first word that is a run and not the value of an option."""
    if arguments[:1] not in (["evaluate"], ["sample"]):
        return None
    runs = [i for i, word in enumerate(arguments) if i and (Path(word) / "config.yaml").is_file()]
    runs.sort(key=lambda i: arguments[i - 1].startswith("-"))
    return field_of(Path(arguments[runs[0]])) if runs else None


def _with_config(arguments: list[str], name: str | None) -> Train[Any] | None:
    """The options of ``train --config FILE``, as the defaults of the command line."""
    if arguments[:1] != ["train"] or "--config" not in arguments:
        return None
    path = Path(*arguments[arguments.index("--config") + 1 :][:1])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FileNotFoundError(f"{path}: cannot be read ({reason}); --config wants a YAML file") from error
    base = Configuration(find.kind(name or find.plain())(tyro.MISSING))
    found = Configuration.from_yaml(text, str(path), base)
    if name and find.name_of(found.recipe) != name:
        raise Wrong(f"{path}: is of the recipe {find.name_of(found.recipe)}, not {name}; leave the name out")
    return Train(found.recipe, found.training, config=path)


def _own_verb(arguments: list[str]) -> Any:
    """One of a field's own verbs, `FIELD VERB`, ready to be called; nothing where the words are not of that kind."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in VERBS:
        return None
    if arguments[0] in find.names():
        name, word, rest = arguments[0], "".join(arguments[1:2]), arguments[2:]
        if word in ("", "-h", "--help"):
            print(f"usage: sfumato {name} {{{','.join(find.verbs(name))}}} ...\n\n{find.line(name)}")
            raise SystemExit(0 if word else 2)
    else:  # a verb alone, as before fields had verbs of their own
        word, rest = arguments[0], arguments[1:]
        owner = find.having(word)
        if owner is None:
            return None
        name = owner
        print(
            f"sfumato {word} is now `sfumato {name} {word}`; the old name goes with the next version", file=sys.stderr
        )
    return tyro.cli(find.verb(name, word), args=rest, prog=f"sfumato {name} {word}")


def _parse(given: list[str]) -> Any:
    """The command that the words mean, ready to be called."""
    own = _own_verb(given)
    if own is not None:
        return own
    name = _field(given)
    words = given[:1] + given[2:] if name else given
    default = _with_config(words, name)
    if name is None and default is None:
        return tyro.cli(_command(_field_of_run(words)), args=words, prog="sfumato", description=_fields())
    of = type(default.recipe) if default else find.kind(name or find.plain())
    verb = dict(zip(("train", "inspect"), _generic(Train, Inspect)))[words[0]]
    prog = f"sfumato {words[0]} {name}" if name else f"sfumato {words[0]}"
    if default is None:
        return tyro.cli(verb[of], args=words[1:], prog=prog)
    return tyro.cli(verb[of], args=words[1:], prog=prog, default=default)


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
    except (Mendable, FileNotFoundError, PermissionError) as error:
        print(f"sfumato: {error}", file=sys.stderr)
        code = getattr(error, "code", None)
        return code if isinstance(code, int) else 1


if __name__ == "__main__":
    sys.exit(main())
