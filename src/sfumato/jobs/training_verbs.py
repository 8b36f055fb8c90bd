"""The verbs that train: from data, on from where a run stopped, or from a run to another one. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from sfumato.errors import Wrong, check, typed
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.prefer import PreferOptions
from sfumato.jobs.recipe import say
from sfumato.jobs.tune import FinetuneOptions
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
        return trained(train.train(recipe, self.training, out).path, "trained")


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
            return trained(rewarded.resumed(run, config.read_config(run), judge.Judge.of(self.reward)).path, "judged")
        more: dict[str, Any] = {} if self.steps is None else {"steps": self.steps}
        more |= {} if self.parallel == ParallelOptions() else {"parallel": self.parallel}
        return trained(train.resume(self.run, **more).path, "trained")


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
        return trained(distill.distill(self.run, self.options, self.training, out).path, "converted")


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
            return trained(done.path, "judged")
        else:
            assert self.data is not None
            done = finetune.finetune(self.run, self.data, self.options, self.training, out)
        return trained(done.path, "tuned")


def trained(run: Path, what: str) -> int:
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
