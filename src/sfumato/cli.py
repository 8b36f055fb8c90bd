"""The `sfumato` command: parse, call, print. Nothing here or in what it parses imports torch before work begins."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from sfumato.errors import Mendable, Wrong, check
from sfumato.jobs import find, foreign, manual
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.config import Configuration, field_of
from sfumato.jobs.flags import Misspelt, Option, Positional, arg, listed, parse
from sfumato.jobs.recipe import Nothing, say
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.options import TrainOptions


@dataclass(frozen=True)
class Train:
    """Learn from data: inspects, chooses, says what it chose and how long it will take, and goes."""

    recipe: Annotated[Any, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Run directory (default: runs/NAME OF THE DATA)."""
    config: Path | None = None
    """YAML file with the same options, as in a run's config.yaml; options given here come first."""

    def __call__(self) -> int:
        from sfumato.jobs import train

        recipe: Any = self.recipe
        out = self.out or Path("runs") / recipe.title()
        return _trained(train.train(recipe, self.training, out).path, "trained")


@dataclass(frozen=True)
class Resume:
    """Go on with a run where its newest whole checkpoint left it: after Ctrl-C, a crash, a preemption; or for longer."""

    run: Positional[Path]
    """Run directory."""
    steps: int | None = None
    """Train until this many steps in all (default: as many as were planned)."""

    def __call__(self) -> int:
        from sfumato.jobs import train

        longer: dict[str, Any] = {} if self.steps is None else {"steps": self.steps}
        return _trained(train.resume(self.run, **longer).path, "trained")


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
        return _trained(distill.distill(self.run, self.options, self.training, out).path, "converted")


@dataclass(frozen=True)
class Sample:
    """Draw samples from a run: files in the units of the data, and a sheet of them."""

    run: Positional[Path]
    """Run directory."""
    ask: Annotated[Any, arg(name="")]
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
        done = sample.sample(loaded, self.n, self.ask, self.out, self.format or "")
        print(done[-1])
        sheet = done[-1].parent if len(done) > 1 else done[-1]
        say(f"{'look at   ' + str(done[-1]) if done[-1].suffix in ('.png', '.gif') else 'written   ' + str(sheet)}\n"
            f"measure   sfumato evaluate {self.run}\n"
            f"change    --seed N (others), --steps N (finer), --like FILE (one of them again)")  # fmt: skip
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a run: samples against real data, beside the floor that real held-out data sets; a policy in a simulator."""

    run: Positional[Path]
    """Run directory."""
    measure: Annotated[Any, arg(name="")]
    ask: Annotated[Any, arg(name="")]
    named: Annotated[str, arg(name="walk")] = "usual"
    """A walk that the field knows by name."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __call__(self) -> int:
        from sfumato.jobs import evaluate, model

        loaded = model.load(self.run, self.walk, self.drawing, self.named)
        print(evaluate.evaluate(loaded, self.measure, self.ask))
        say(f"kept in   {self.run}/metrics.json and {self.run}/README.md")
        return 0


@dataclass(frozen=True)
class Inspect:
    """Say what would be learned from data, what is broken in it, and what training would cost here."""

    recipe: Annotated[Any, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)

    def __call__(self) -> int:
        from sfumato.jobs import inspect

        recipe: Any = self.recipe
        report, sound = inspect.inspect(recipe, self.training)
        print(report)
        if sound:
            name = find.name_of(recipe)
            before = "" if name == find.plain() else f"{name} "
            say(f"train it  sfumato train {before}{getattr(recipe, 'data', 'DATA')}")
        return 0 if sound else 1


@dataclass(frozen=True)
class Compare:
    """Compare two sets of items, without a run: the samples A with the real data B, beside the floor that B sets itself."""

    a: Positional[Path]
    """The samples: a folder of pictures, a .npy or .npz, or a run, of which samples are drawn."""
    b: Positional[Path]
    """The real data: a folder, a .npy or .npz."""
    held_out: Path | None = None
    """More real data, for the floor (default: half of B, and A is compared with the other half)."""
    n: Annotated[int | None, arg(aliases=["-n"])] = None
    """Items of A at most (of a run: samples drawn; default: 500)."""
    side: int | None = None
    """Pictures in folders are compared at this side in pixels (default: that of the smaller ones, at most 64)."""
    features: tuple[str, ...] = ()
    """Spaces to compare in: patches, pca, raw, waves, imagenet, or a .onnx file (default: patches and pca for pictures, pca
    and waves for the rest)."""
    seed: int = 0
    """Of the halves of B, and of the directions that distances are taken in."""
    out: Path | None = None
    """Write the numbers there too, as .json."""

    def __call__(self) -> int:
        from sfumato.jobs import compare

        found = compare.compare_paths(
            self.a, self.b, self.held_out, n=self.n, side=self.side, features=self.features, seed=self.seed
        )
        print(found)
        if self.out is not None:
            found.write(self.out)
            say(f"numbers   {self.out}")
        return 0


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
        say(f"more      sfumato sample {self.out} -n 64 --out samples; sfumato resume {self.out} --steps N")
        return 0


@dataclass(frozen=True)
class Doctor:
    """Say what this machine and installation have: versions, device, threads, disk, packages by field, and a self-test of ten
    seconds. Made to be pasted: no names of people, no secrets."""

    quick: bool = False
    """Leave the self-test out."""

    def __call__(self) -> int:
        from sfumato.jobs import doctor

        report, sound = doctor.report(test=not self.quick)
        print(report)
        return 0 if sound else 1


VERBS: dict[str, Any] = {
    "demo": Demo, "inspect": Inspect, "train": Train, "resume": Resume, "sample": Sample, "evaluate": Evaluate,
    "distill": Distill, "compare": Compare, "doctor": Doctor,
}  # fmt: skip
DESCRIPTION = "diffusion and flow matching on any kind of data"
LEARN = ("batch", "optim.lr", "seed", "precision", "threads", "network.kind", "network.width", "network.depth")
DRAW = ("n", "out", "format", "seed", "like")
WALK = ("steps", "tol", "solver", "w", "eta", "walk", "precision")
GROUPS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "train": (("how long, and where to", ("steps", "minutes", "out", "config")), ("how", LEARN)),
    "inspect": (("how long", ("steps", "minutes")), ("how", LEARN)),
    "distill": (
        ("how long, and where to", ("cost", "steps", "minutes", "out")),
        ("how", ("kind", "w", "batch", "optim.lr")),
    ),
    "sample": (("what", DRAW), ("how it is drawn", WALK)),
    "evaluate": (("what", ("seed",)), ("how samples are drawn", WALK)),
}
"""The common options of a verb, in groups; those of the field come after the first. Of other verbs all are common."""
CALLS = {"train": "[FIELD] PATH", "inspect": "[FIELD] PATH", "resume": "RUN", "distill": "RUN", "sample": "RUN",
         "evaluate": "RUN", "compare": "A B"}  # fmt: skip
EXAMPLES = {
    "train": ("sfumato train ./photos --minutes 30", "sfumato train tables sales.csv"),
    "sample": ("sfumato sample runs/photos -n 64 --seed 1 --out samples",),
    "evaluate": ("sfumato evaluate runs/photos --data ./held_out",),
    "compare": ("sfumato compare samples/ ./held_out", "sfumato compare runs/photos ./held_out -n 500"),
}


def _trained(run: Path, what: str) -> int:
    """Where a finished run is, and what to do with it."""
    print(f"{what}: {run}")
    sheets = run / "samples"
    if sheets.is_dir() and any(sheets.iterdir()):
        say(f"look at   {sheets}/, the samples of its previews")
    say(f"sample    sfumato sample {run} -n 64 --out samples")
    say(f"measure   sfumato evaluate {run}")
    if what == "trained":
        say(f"longer    sfumato resume {run} --steps N")
        say(f"faster    sfumato distill {run}")
    return 0


# ---- which options -------------------------------------------------------------------------------------------------------


def _parts(verb: str, name: str | None) -> dict[str, type]:
    """What the recipe, ask and measure of a verb are in a field; nothing is asked of no field."""
    kind = None if name is None else find.kind(name)
    if verb in ("train", "inspect"):
        return {"recipe": kind or find.kind(find.plain())}
    if verb == "sample":
        return {"ask": Nothing if kind is None else kind.Ask}
    if verb == "evaluate":
        return {"measure": Nothing if kind is None else kind.Measure, "ask": Nothing if kind is None else kind.Ask}
    return {}


def _options(verb: str, name: str | None) -> tuple[Option, ...]:
    return listed(VERBS[verb], _parts(verb, name))


def _page(verb: str, name: str | None, run: Path | None) -> manual.Page:
    """The help of a verb, for a field where one is named."""
    call = f"sfumato {verb} {CALLS.get(verb, '')}".strip()
    more: tuple[str, ...] = ()
    if verb in ("train", "inspect"):
        others = [other for other in find.names() if other != (name or find.plain())]
        call = f"sfumato {verb} {name} PATH" if name else call
        more = ("Other fields: " + "; ".join(f"sfumato {verb} {other} --help" for other in others),)
    elif verb in ("sample", "evaluate") and run is None:
        more = (f"What a run can be asked for besides depends on its field: sfumato {verb} RUN --help",)
    elif run is not None:
        more = (f"What a {name} run can be asked for is shown: {run}",)
    groups = GROUPS.get(verb, (("options", tuple(option.name for option in _options(verb, name))),))
    return manual.Page(
        f"{call} [options]", manual.first(VERBS[verb]), groups, EXAMPLES.get(verb, ()) if not name else (), more
    )


def _help(verb: str, name: str | None, run: Path | None, everything: bool) -> str:
    options, page = _options(verb, name), _page(verb, name, run)
    if everything:
        return manual.whole(page, options)
    field_ = name or (find.plain() if verb in ("train", "inspect") else "")
    common = {each for _, names in GROUPS.get(verb, ()) for each in names}
    own = [o for o in options if o.path[0] in ("recipe", "ask", "measure") and len(o.path) == 2 and not o.positional]
    return manual.short(page, options, [o for o in own if o.name not in common], f"of {field_}")


def _unknown(verb: str, options: Sequence[Option], words: Sequence[str]) -> Any:
    """Says what a word should have been, for one that is no option of the verb."""

    def said(word: str) -> str:
        first = ("train", "sample", "evaluate")
        others = {each: _options(each, find.plain()) for each in (*first, *VERBS) if each != verb}
        return foreign.advice(verb, word, options, others, words)

    return said


# ---- what the words mean -------------------------------------------------------------------------------------------------


def _field(arguments: Sequence[str]) -> str | None:
    """The field that `train` or `inspect` names before its data; the name of a file alone is the data."""
    if arguments[0] not in ("train", "inspect") or len(arguments) < 2 or arguments[1] not in find.names():
        return None
    more = len(arguments) > 2 and (not arguments[2].startswith("-") or arguments[2] in HELP)
    return arguments[1] if more or not Path(arguments[1]).exists() else None


def _run(arguments: Sequence[str]) -> Path | None:
    """The run that a verb is given: the first word that is one and not the value of an option."""
    runs = [i for i, word in enumerate(arguments) if i and not word.startswith("-") and field_of(Path(word))]
    runs.sort(key=lambda i: arguments[i - 1].startswith("-"))
    return Path(arguments[runs[0]]) if runs else None


def _with_config(words: Sequence[str], name: str | None) -> Train | None:
    """The options of ``train --config FILE``, as the defaults of the command line."""
    given = [word.partition("=")[2] for word in words if word.startswith(("--config=", "config="))]
    given += [word for before, word in zip(words, [*words[1:], ""]) if before == "--config"]
    if words[0] != "train" or not given:
        return None
    path = Path(given[-1])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FileNotFoundError(f"{path}: cannot be read ({reason}); --config wants a YAML file") from error
    base = Configuration(find.kind(name or find.plain())(MISSING))
    found = Configuration.from_yaml(text, str(path), base)
    if name and find.name_of(found.recipe) != name:
        raise Wrong(f"{path}: is of the recipe {find.name_of(found.recipe)}, not {name}; leave the name out")
    return Train(found.recipe, found.training, config=path)


HELP = ("-h", "--help", "--help-all")


def _own_verb(arguments: Sequence[str]) -> Any:
    """One of a field's own verbs, `FIELD VERB`, ready to be called; nothing where the words are not of that kind."""
    if arguments[0] in VERBS:
        return None
    if arguments[0] in find.names():
        name, word, rest = arguments[0], "".join(arguments[1:2]), arguments[2:]
        if word in ("", *HELP):
            known = find.verbs(name)
            own = f"{{{','.join(known)}}} ..." if known else "has no verbs of its own"
            _leave(f"usage: sfumato {name} {own}\n\n{find.line(name)}\nIts options: sfumato train {name} --help",
                   0 if word else 2)  # fmt: skip
    else:  # a verb alone, as before fields had verbs of their own
        word, rest = arguments[0], arguments[1:]
        owner = find.having(word)
        if owner is None:
            return None
        name = owner
        say(f"sfumato {word} is now `sfumato {name} {word}`; the old name goes with the next version")
    verb = find.verb(name, word)
    options = listed(verb)
    if any(each in HELP for each in rest):
        places = " ".join(o.shape for o in options if o.positional)
        page = manual.Page(f"sfumato {name} {word} {places} [options]", manual.first(verb))
        _leave(manual.whole(page, options), 0)
    return parse(verb, rest, unknown=lambda each: foreign.advice(f"{name} {word}", each, options, {}, rest))


def _leave(text: str, code: int) -> None:
    print(text, file=sys.stderr if code else sys.stdout)
    raise SystemExit(code)


def _parse(given: Sequence[str]) -> Any:
    """The command that the words mean, ready to be called."""
    if not given or given[0] in HELP:
        verbs = [(name, manual.first(kind)) for name, kind in VERBS.items()]
        fields = [(name, find.line(name)) for name in find.names()]
        _leave(manual.overview(DESCRIPTION, verbs, fields), 0 if given else 2)
    if given[0] in ("--version", "-V", "version"):
        from sfumato import __version__

        _leave(f"sfumato {__version__}", 0)
    own = _own_verb(given)
    if own is not None:
        return own
    verb = given[0]
    if verb not in VERBS:
        raise Misspelt(foreign.verb_advice(verb, list(VERBS), find.names()))
    name, run = _field(given), None
    words = [*given[:1], *given[2:]] if name else list(given)
    if verb in ("sample", "evaluate"):
        run = _run(words)
        name = field_of(run) if run else None
    before = words[: words.index("--")] if "--" in words else words
    asked = next((word for word in before if word in HELP), None)
    if asked:
        _leave(_help(verb, name, run, asked == "--help-all"), 0)
    base = _with_config(words, name)
    if base is not None:
        name = find.name_of(base.recipe)
    parts: Mapping[str, type] = _parts(verb, name or find.plain())
    options = listed(VERBS[verb], parts)
    return parse(VERBS[verb], words[1:], parts, base, _unknown(verb, options, words))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. Errors a user can mend are one line on standard error; words that are not
    understood leave with status 2."""
    try:
        return int(_parse(sys.argv[1:] if arguments is None else list(arguments))())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except Misspelt as error:
        print(f"sfumato: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (Mendable, FileNotFoundError, PermissionError) as error:
        print(f"sfumato: {error}", file=sys.stderr)
        code = getattr(error, "code", None)
        return code if isinstance(code, int) else 1


if __name__ == "__main__":
    sys.exit(main())
