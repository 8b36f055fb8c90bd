"""The verbs that all fields share, as dataclasses that are called: their fields are the command's options. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from sfumato.errors import Wrong, check, typed
from sfumato.jobs import find, manual
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.flags import Positional, arg, listed
from sfumato.jobs.prefer import PreferOptions
from sfumato.jobs.recipe import say
from sfumato.jobs.steering import SteerOptions
from sfumato.jobs.tune import FinetuneOptions
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.options import ParallelOptions, TrainOptions
from sfumato.training.telling import show


@dataclass(frozen=True)
class Train:
    """Learn from data, in a new run: inspects, chooses, says what it chose and how long it will take, and goes."""

    recipe: Annotated[Any, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Run directory (default: runs/NAME OF THE DATA)."""
    config: Path | None = None
    """YAML file of options (a run's config.yaml is one); options given here come first."""
    plan: int | None = None
    """Of so many processes on GPUs, say what each would hold and do, and train nothing."""

    def __call__(self) -> int:
        from sfumato.jobs import train

        recipe: Any = self.recipe
        if self.plan is not None:
            check(self, (self.plan >= 1, "plan", "a number of processes, 1 or more"))
            show("\n".join(train.foreseen(recipe, self.training, self.plan)))
            return 0
        out = self.out or Path("runs") / recipe.title()
        return _trained(train.train(recipe, self.training, out).path, "trained")


@dataclass(frozen=True)
class Resume:
    """Go on with a run that stopped, or for longer: where its newest whole checkpoint left it, after Ctrl-C or a crash."""

    run: Positional[Path]
    """Run directory."""
    steps: int | None = None
    """Train until this many steps in all (default: as many as were planned)."""
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    """Several processes, where they are to be laid out otherwise than the run says."""
    reward: str | None = None
    """Of a run that learns from a reward: module:function, which is imported because it is named here, not in the run."""

    def __call__(self) -> int:
        from sfumato.jobs import train

        if self.reward is not None:
            from sfumato.jobs import config, judge, rewarded
            from sfumato.training.run import Run

            if self.steps is not None:
                raise Wrong(f"steps = {self.steps}: must be left out with --reward, whose rounds are planned")
            run = Run(self.run)
            return _trained(rewarded.resumed(run, config.read_config(run), judge.Judge.of(self.reward)).path, "judged")
        more: dict[str, Any] = {} if self.steps is None else {"steps": self.steps}
        more |= {} if self.parallel == ParallelOptions() else {"parallel": self.parallel}
        return _trained(train.resume(self.run, **more).path, "trained")


@dataclass(frozen=True)
class Export:
    """Write the averaged weights of a run that is not finished as one plain file, merged where many processes wrote parts."""

    run: Positional[Path]
    """Run directory."""
    out: Path | None = None
    """File (default: RUN/model-step-N.safetensors)."""

    def __call__(self) -> int:
        from sfumato.jobs import export

        print(export.export(self.run, self.out))
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

        out = self.out or beside(self.run)
        return _trained(distill.distill(self.run, self.options, self.training, out).path, "converted")


@dataclass(frozen=True)
class Finetune:
    """Let a trained run learn further from other data, pairs or a reward; it keeps what it knew."""

    run: Positional[Path]
    """Run directory."""
    data: Path | None = None
    """What it is to learn from: as for `sfumato train` of its field."""
    prefer: Path | None = None
    """Instead of data: pairs of which one was preferred, a folder with chosen/ and rejected/ (items of the same names), or a
    .jsonl of {"chosen": PATH, "rejected": PATH}."""
    reward: str | None = None
    """Instead of data: module:function of your own, samples and what they were drawn for -> a number each, the more the
    better."""
    options: Annotated[FinetuneOptions, arg(name="")] = field(default_factory=FinetuneOptions)
    preferring: Annotated[PreferOptions, arg(name="")] = field(default_factory=PreferOptions)
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Run directory of what comes of it (default: RUN-tuned)."""

    def __call__(self) -> int:
        from sfumato.jobs import finetune, judge, rewarded

        given = [name for name in ("data", "prefer", "reward") if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"{given[0]} and {given[1]}: give one of them" if given else "data: must be given"
            raise Wrong(f"{said}; --data DATA, --prefer PAIRS or --reward module:function is learned from")
        out, rest = self.out or beside(self.run, "tuned"), (self.preferring, self.options, self.training)
        if self.prefer is not None:
            done = rewarded.prefer(self.run, self.prefer, *rest, out)
        elif self.reward is not None:
            done = rewarded.reward(self.run, judge.Judge.of(self.reward), *rest, out)
            return _trained(done.path, "judged")
        else:
            assert self.data is not None
            done = finetune.finetune(self.run, self.data, self.options, self.training, out)
        return _trained(done.path, "tuned")


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
    shard: str | None = None
    """Of a set too large for one process the I-th of N equal shares, as I/N with I from 0, into bundles in the folder --out;
    given again it goes on, and the files are the same for any N."""
    workers: int | None = None
    """Processes of this machine that draw, one thread or accelerator each (into bundles too)."""
    bundle: int | None = None
    """Samples in a bundle (default: about 1000)."""
    ray: bool = False
    """The processes are actors of Ray: of the cluster at RAY_ADDRESS, or begun here."""
    named: Annotated[str, arg(name="walk")] = "usual"
    """A walk that the field knows by name."""
    reward: str | None = None
    """Steer samples by module:function of your own, samples and what they are drawn for -> a number each, the more the better."""
    steering: Annotated[SteerOptions, arg(name="")] = field(default_factory=SteerOptions)
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __call__(self) -> int:
        from sfumato.jobs import model, sample

        parts = {"shard": self.shard, "workers": self.workers, "bundle": self.bundle}
        given = [name for name, value in parts.items() if value is not None] + ["ray"] * self.ray
        if given and self.like is None:
            from sfumato.jobs.bulk_run import bulk

            loaded = model.load(self.run, self.walk, self.drawing, self.named)
            print(bulk(loaded, self.n, self.ask, self.out, self.format or "", self.shard, self.workers, self.bundle,
                       self.ray).folder)  # fmt: skip
            return 0

        if self.like is not None:
            check(
                self,
                (self.n is None, "n", "left out with --like, which is one sample"),
                (self.format is None, "format", "left out with --like, whose format is that of the file"),
                *((False, name, "left out with --like, which is one sample") for name in given),
                (self.reward is None, "reward", "left out with --like"),
            )
            if self.named != "usual":
                raise Wrong(f"walk = {self.named!r}: must be left out with --like, whose walk is that of the file")
            print(sample.again(self.run, self.like, self.walk, self.out, self.ask, self.drawing)[-1])
            return 0
        loaded = model.load(self.run, self.walk, self.drawing, self.named)
        if self.reward is not None:
            from sfumato.jobs import judge, steering

            loaded = steering.steered(loaded, judge.Judge.of(self.reward), self.steering)
        try:
            done = sample.sample(loaded, self.n, self.ask, self.out, self.format or "")
        except OSError as error:  # of a full disk Pillow does not say where
            error.filename = error.filename or str(self.out or "samples")
            raise
        print(done[-1])
        sheet = done[-1].parent if len(done) > 1 else done[-1]
        say(f"{'look at   ' + str(done[-1]) if done[-1].suffix in ('.png', '.gif') else 'written   ' + str(sheet)}\n"
            f"measure   sfumato evaluate {typed(self.run)}\n"
            f"change    --seed N (others), --steps N (finer), --like FILE (one of them again)")  # fmt: skip
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a run against real data: its samples beside the floor that held-out data sets; a policy in a simulator."""

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
        show(evaluate.evaluate(loaded, self.measure, self.ask))
        say(f"kept in   {self.run}/metrics.json and {self.run}/README.md")
        if not loaded.adaptations:
            say(f"better    sfumato resume {typed(self.run)} --steps N, where the samples still differ from the data")
        return 0


@dataclass(frozen=True)
class Inspect:
    """Say what would be learned from data; what is broken in it, and what training would cost here."""

    recipe: Annotated[Any, arg(name="")]
    training: Annotated[TrainOptions, arg(name="")] = field(default_factory=TrainOptions)
    out: Path | None = None
    """Write it there too, as a page (.html) with a sheet of the pictures."""

    def __call__(self) -> int:
        from sfumato.jobs import inspect

        recipe: Any = self.recipe
        report, sound = inspect.inspect(recipe, self.training, self.out)
        show(report, records=True)
        if self.out is not None:
            say(f"page      {self.out}, in a browser")
        if sound:
            name = find.name_of(recipe)
            before = "" if name == find.plain() else f"{name} "
            said = manual.given(self, listed(type(self), {"recipe": type(recipe)}), ("out",))
            place = next((o.path[-1] for o in listed(type(recipe)) if o.positional), "data")
            say(f"train it  sfumato train {before}{typed(str(getattr(recipe, place, 'DATA')))}{said}")
        return 0 if sound else 1


@dataclass(frozen=True)
class Compare:
    """Compare two sets of items, without a run: the samples A with the real data B, beside the floor that B sets itself."""

    a: Positional[Path]
    """The samples: a folder of pictures, a .npy or .npz; or a run, of which samples are drawn."""
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
        show(str(found))
        if self.out is not None:
            found.write(self.out)
            say(f"numbers   {self.out}")
        return 0


@dataclass(frozen=True)
class Demo:
    """Train on small real pictures and their names; these come with packages. Sample, score, draw what happened."""

    out: Path = Path("runs/demo")
    """Run directory; an earlier demo there is replaced."""
    minutes: float = 4.0
    """Minutes of training."""
    seed: int = 0
    """Seed of everything."""

    def __call__(self) -> int:
        show(find.demo()(self.out, self.minutes, self.seed))
        return 0


@dataclass(frozen=True)
class Doctor:
    """Say what this machine and installation have: versions, device, threads, disk, packages by field, and a self-test of ten
    seconds. Made to be pasted: no names of people, no secrets."""

    quick: bool = False
    """Leave the self-test out."""
    slurm: Literal["train", "sample"] | None = None
    """Print a script for SLURM instead, to be changed: a training on many machines, or a large set of samples in shares."""

    def __call__(self) -> int:
        if self.slurm is not None:
            from sfumato.jobs.clusters import SLURM

            print(SLURM[self.slurm], end="")
            return 0
        from sfumato.jobs import doctor

        report, sound = doctor.report(test=not self.quick)
        show(report)
        return 0 if sound else 1


@dataclass(frozen=True)
class Serve:
    """Serve trained runs, of any field: a page to draw with, and an HTTP API, for many at once."""

    runs: Positional[tuple[Path, ...]]
    """Run directories."""
    port: int = 8000
    """Where to listen (0: any port that is free)."""
    bind: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own needs --token."""
    token: Path | None = None
    """File of those who may come in, a line each: CLASS:TOKEN, or CLASS:TOKEN:WEIGHT for its share of the device."""
    host: tuple[str, ...] = ()
    """Names by which the server may be called besides localhost."""
    webhook_key: Path | None = None
    """File with a key: requests may name an address (webhook_url) that is told of their end, signed with it."""
    webhook_allow: tuple[str, ...] = ()
    """Hosts that may be told so, besides this machine where it serves itself alone."""
    workers: int = 1
    """Processes that draw."""
    threads: int = 0
    """CPU threads of each (0: as torch chooses)."""
    cap: int = 64
    """Samples in one call of the network at most; how many pay is measured at the start."""
    queue: int = 256
    """Samples that wait or are under way at most; beyond that requests are turned away."""
    most_n: int = 64
    """Samples of a request at most (no more than --queue)."""
    most_steps: int = 1000
    """Steps of a walk at most."""
    deadline: float = 300.0
    """Seconds after which a request is given up, unless it asks for less."""
    keep_minutes: float = 15.0
    """How long what was made is kept."""
    keep_mb: int = 512
    """How much of it is kept."""
    drain: float = 30.0
    """Seconds that requests under way have when the server is told to end."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 <= self.port < 65536, "port", "from 0 to 65535"),
            (1 <= self.workers <= 64, "workers", "from 1 to 64"),
            (0 <= self.threads <= 1024, "threads", "0 or more"),
            (1 <= self.cap <= 4096, "cap", "from 1 to 4096"),
            (1 <= self.queue <= 100_000, "queue", "from 1 to 100000"),
            (1 <= self.most_n <= 100_000, "most_n", "from 1 to 100000"),
            (1 <= self.most_steps <= 10_000, "most_steps", "from 1 to 10000"),
            (0 < self.deadline <= 86_400, "deadline", "above 0 seconds, at most a day"),
            (0 < self.keep_minutes <= 10_000, "keep_minutes", "above 0"),
            (1 <= self.keep_mb <= 1_000_000, "keep_mb", "at least 1"),
            (0 <= self.drain <= 3600, "drain", "0 or more seconds, at most an hour"),
        )

    def __call__(self) -> int:
        return int(find.serving()(self))


VERBS: dict[str, Any] = {
    "demo": Demo, "inspect": Inspect, "train": Train, "resume": Resume, "sample": Sample, "evaluate": Evaluate,
    "distill": Distill, "finetune": Finetune, "compare": Compare, "serve": Serve, "export": Export,
    "doctor": Doctor,
}  # fmt: skip
DESCRIPTION = "diffusion and flow matching on any kind of data"
LEARN = ("batch", "optim.lr", "seed", "precision", "threads", "network.kind", "network.width", "network.depth")
DRAW = ("n", "out", "format", "seed", "like", "reward")
WALK = ("steps", "tol", "solver", "w", "eta", "walk", "precision")
BULK = ("shard", "workers", "bundle", "ray")
GROUPS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "train": (("how long, and where to", ("steps", "minutes", "out", "config")), ("how", LEARN)),
    "inspect": (("how long, and where to", ("steps", "minutes", "out")), ("how", LEARN)),
    "distill": (
        ("how long, and where to", ("cost", "steps", "minutes", "out")),
        ("how", ("kind", "w", "batch", "optim.lr")),
    ),
    "finetune": (
        ("how long, and where to", ("steps", "minutes", "out")),
        ("how", ("data", "prefer", "reward", "lora", "prior", "kept", "diversity", "batch", "optim.lr")),
    ),
    "sample": (("what", DRAW), ("how it is drawn", WALK), ("a large set", BULK)),
    "evaluate": (("what", ("seed",)), ("how samples are drawn", WALK)),
}
"""The common options of a verb, in groups; those of the field come after the first. Of other verbs all are common."""
CALLS = {"train": "[FIELD] PATH", "inspect": "[FIELD] PATH", "resume": "RUN", "distill": "RUN", "finetune": "RUN",
         "export": "RUN", "sample": "RUN", "evaluate": "RUN", "compare": "A B", "serve": "RUN [RUN ...]"}  # fmt: skip
EXAMPLES = {
    "train": ("sfumato train ./photos --minutes 30", "sfumato train tables sales.csv"),
    "finetune": (
        "sfumato finetune runs/photos --data ./mine --lora 8",
        "sfumato finetune runs/photos --reward mine:redness --lora 8",
        "sfumato finetune runs/photos --prefer ./pairs",
    ),
    "sample": ("sfumato sample runs/photos -n 64 --seed 1 --out samples",),
    "evaluate": ("sfumato evaluate runs/photos --data ./held_out",),
    "serve": (
        "sfumato serve runs/photos runs/photos-map",
        "sfumato serve runs/photos --bind 0.0.0.0 --token tokens.txt",
    ),
    "compare": ("sfumato compare samples/ ./held_out", "sfumato compare runs/photos ./held_out -n 500"),
}


def _trained(run: Path, what: str) -> int:
    """Where a finished run is, and what to do with it; of several processes the first one says it."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    print(f"{what}: {run}")
    sheets = run / "samples"
    if sheets.is_dir() and any(sheets.iterdir()):
        say(f"look at   {sheets}/, the samples of its previews")
    if (run / "report.html").is_file():
        say(f"report    {run / 'report.html'}, in a browser")
    words = typed(run)
    say(f"sample    sfumato sample {words} -n 64 --out samples")
    say(f"measure   sfumato evaluate {words}")
    if what != "converted":
        if what != "judged":
            say(f"longer    sfumato resume {words} --steps N")
        if _convertible(run):
            say(f"faster    sfumato distill {words}")
    else:
        say(f"fewer     sfumato sample {words} -n 64 --steps 1 --out fast; any number of steps from 1 up")
    return 0


def _convertible(run: Path) -> bool:
    """Whether a run can become a flow map."""
    from sfumato.adapting.flow_map import check_path
    from sfumato.jobs.config import read_config
    from sfumato.training.run import Run, RunError

    try:
        recipe = read_config(Run(run)).recipe
        check_path(recipe.process(recipe.facts(Run(run))))
    except (TypeError, RunError):
        return False
    return True


def beside(run: Path, what: str = "map") -> Path:
    """Where the flow map of a run goes: RUN-map, spelt as the run is; what else is made of it likewise."""
    plain = run if run.name not in ("", ".", "..") and not run.is_symlink() else run.resolve()
    return plain.with_name(f"{plain.name}-{what}")
