"""The verbs that all fields share, as dataclasses that are called: their fields are the command's options. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from sfumato.errors import Wrong, check, typed
from sfumato.jobs import find, manual
from sfumato.jobs.flags import Positional, arg, listed
from sfumato.jobs.recipe import say
from sfumato.jobs.steering import SteerOptions
from sfumato.jobs.training_verbs import Distill, Export, Finetune, Resume, Train
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.options import TrainOptions
from sfumato.training.telling import show


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
