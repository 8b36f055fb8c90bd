"""`sfumato train` and `sfumato resume`, for every field: plan, say it, learn."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import options_meet_the_core, typed
from sfumato.jobs import expect
from sfumato.jobs.card import card
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.find import name_of
from sfumato.jobs.model import task_of
from sfumato.jobs.page import write_page
from sfumato.jobs.recipe import Data, Recipe, Say, say
from sfumato.jobs.seal import seal
from sfumato.jobs.strict import to_plain
from sfumato.training.careful import Careful
from sfumato.training.leaving import at_once
from sfumato.training.options import ParallelOptions, TrainOptions
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    from sfumato.training.measure import Cost
    from sfumato.training.objective import Task


@dataclass(frozen=True)
class Plan:
    """Every choice made, and what it will cost: time and memory, disk in words, and what its losses will mean."""

    recipe: Recipe
    training: TrainOptions
    data: Data
    task: Task
    cost: Cost
    disk: str
    losses: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        from sfumato import networks
        from sfumato.training.progress import clock

        train, first = self.training, True
        for line in self.data.facts.words():
            yield f"{'data' if first else '':<10}{line}"
            first = False
        yield f"network   {networks.describe(self.task.network)}"
        yield f"method    {self.recipe.learning().words()}"
        assert train.steps is not None
        assert train.batch is not None
        epochs = train.steps * train.batch / len(self.data.train)
        yield f"training  {train.steps} steps of batch {train.batch} ({epochs:.1f} epochs), {train.optim.kind}"
        yield (
            f"cost      {self.cost.seconds:.3g} s a step, about {clock(self.cost.seconds * train.steps)} in all on this machine, "
            f"previews aside, {self.memory:.2f} GB of memory"
        )
        yield f"disk      {self.disk}"
        yield from (f"loss      {line}" for line in self.losses)
        yield from (f"few       {line}" for line in expect.few(len(self.data.train)))

    @property
    def memory(self) -> float:
        """GB at the peak: what was measured, and on the CPU the copy of the state from which checkpoints are written."""
        from sfumato.training.memory import state
        from sfumato.training.parallel import pick_device

        copied = state(self.task.network, self.training)[1] if pick_device().type == "cpu" else 0.0
        return self.cost.memory + copied / 1e9


def choose_steps(count: int, batch: int, seconds: float) -> int:
    """Enough to see each item 100 times and at least 100,000 items in all, but no more than an hour's work."""
    wanted = max(100 * count, 100_000) // batch
    return max(100, min(wanted, int(3600 / seconds)))


def plan(recipe: Recipe, training: TrainOptions, run: Run, tell: Say = say) -> Plan:
    """Look at the data and the machine and make every choice that was left open."""
    from sfumato.training.parallel import pick_device

    recipe = recipe.prepare(run, tell)
    seal(run)
    data = recipe.open(run)
    asked, training = training, training.over(recipe.training(data, pick_device().type))
    batch = training.batch or 1
    batch += -batch % training.accumulate
    with options_meet_the_core():  # a network that takes no such shape says so when it is made, or first called
        task = task_of(Configuration(recipe, training), run, data)
        training, cost = _measured(task, training, batch, tell)
    steps = training.steps
    if asked.minutes is not None or steps is None:
        minutes = training.minutes
        steps = (
            choose_steps(len(data.train), batch, cost.seconds) if minutes is None else int(minutes * 60 / cost.seconds)
        )
    training = dataclasses.replace(training, batch=batch, steps=max(1, steps))
    seconds = cost.seconds * max(1, steps)
    said = expect.disk(task.network, training, run, seconds), tuple(expect.loss_words(task))
    return Plan(recipe.settled(task.network), training, data, task, cost, *said)


def _measured(task: Task, training: TrainOptions, batch: int, tell: Say) -> tuple[TrainOptions, Cost]:
    """What a step costs; where a batch does not fit into memory it is learned from in smaller pieces. Raises Shortage."""
    from sfumato.training.measure import measure_threads
    from sfumato.training.memory import is_short, release, shortage
    from sfumato.training.progress import Watch

    while True:
        try:
            with Watch("measure speed", 1, quiet=float("inf")) as watch:  # a terminal sees that something is done
                measured = training, measure_threads(task, training, batch)
                if watch.live:
                    watch.show(1)
                return measured
        except (RuntimeError, MemoryError) as error:
            if not is_short(error):
                raise
        release()
        more = next((k for k in range(2 * training.accumulate, batch + 1) if batch % k == 0), None)
        if more is None:
            raise shortage(task.network, None, batch)
        tell(f"out of memory with {batch // training.accumulate} samples at once: --accumulate {more}")
        training = dataclasses.replace(training, accumulate=more)


def foreseen(recipe: Recipe, training: TrainOptions, world: int) -> list[str]:
    """What each of so many processes on GPUs would hold and do, in lines; nothing is trained, and nothing left behind.

    Raises DataError for bad data, Wrong where the processes cannot share out the batch or the weights, Cannot where nothing can
    be said without numbers.
    """
    import tempfile

    import torch

    from sfumato import networks
    from sfumato.training.dry import foresee

    with tempfile.TemporaryDirectory() as folder, options_meet_the_core():
        run = Run(Path(folder))
        run.create()
        recipe = recipe.prepare(run, lambda text: None)
        data = recipe.open(run)
        training = training.over(recipe.training(data, "cuda"))
        precision = "bf16" if training.precision == "auto" else training.precision
        try:
            with torch.device("meta"):
                network = recipe.build(data.facts, "cuda")
        except (RuntimeError, NotImplementedError):  # a field's own network may want numbers to be built
            network = recipe.build(data.facts, "cuda")
        found = foresee(recipe.task(data, network), dataclasses.replace(training, precision=precision), world)
    return [f"network   {networks.describe(network)}", f"batch     {training.batch}", *found.lines()]


def train(recipe: Recipe, training: TrainOptions, out: Path, tell: Say = say) -> Run:
    """Train in a new run directory; says what it chose and how long it will take. Returns the run.

    Raises RunError if ``out`` holds a run already, DataError for bad data, Stopped on a signal.
    """
    run = Run(out)
    if several():

        def begin() -> None:
            if run.config.exists():
                same_run(run, recipe, training)
            else:
                _begin(recipe, training, run, tell)

        return together(out, training.parallel, begin)
    if run.config.exists():
        raise RunError(
            f"{out}: there is a run here already; go on with `sfumato resume {typed(out)}`, or give another --out"
        )
    made = _begin(recipe, training, run, tell)
    made.recipe.fit(run, made.task, made.training)
    _carded(run)
    return run


def several() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def together(out: Path, parallel: ParallelOptions, begin: Callable[[], Any]) -> Run:
    """Under torchrun the first process begins a run (or finds that it goes on with it); the others wait for its configuration,
    and all of them train in it, laid out as ``parallel`` says."""
    from sfumato.training.mesh import Mesh
    from sfumato.training.parallel import launched

    with launched() as runtime:
        failed: Exception | None = None
        if runtime.first:
            try:
                Mesh.of(parallel, runtime.world)
                begin()
            except Exception as error:
                failed = error
        if runtime.agree(failed is not None):  # said once, and nobody waits for who will not come
            raise failed or SystemExit(1)
        return resume(out)


def same_run(run: Run, recipe: Recipe, training: TrainOptions) -> None:
    """Complain unless what is asked for is what a run that is there was begun with: then it is gone on with, as when a
    scheduler gives the same command again. What was left open stands for what was chosen. Raises RunError naming what differs.
    """
    config = read_config(run)
    before, asked = ({"field": name_of(r), **to_plain(r), **to_plain(t)} for r, t in (
        (config.recipe, config.training), (recipe, training),
    ))  # fmt: skip
    if wrong := list(_different(before, asked)):
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise RunError(
            f"{run.path}: there is a run here already, of other options ({wrong[0]}{more}); go on with "
            f"`sfumato resume {typed(run.path)}`, or give another --out"
        )


def _different(before: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Options that were asked for and are not what a run has."""
    if isinstance(asked, dict) and isinstance(before, dict):
        for name, value in asked.items():
            yield from _different(before.get(name), value, f"{path}.{name}" if path else name)
        return
    if asked is None or asked == before or asked == "auto":
        return
    paths = isinstance(asked, str) and isinstance(before, str)
    if not (paths and Path(asked).exists() and Path(asked).resolve() == Path(before).resolve()):
        yield f"{path}: the run has {before!r}, asked is {asked!r}"


@contextmanager
def starting(run: Run, lasting: Sequence[str] = ()) -> Iterator[None]:
    """A run begins: its directory is made and held. If nothing comes of it, what was made is removed again, but for the folders
    ``lasting``, and what stood there before stays."""
    above = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
    before = (set(run.path.iterdir()) if run.path.is_dir() else set()) | {run.path / name for name in lasting}
    try:
        run.create()
        with at_once(), run.locked():
            yield
    except BaseException:
        if not run.config.exists():
            for path in set(run.path.iterdir()) - before if run.path.is_dir() else ():
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for folder in above:
                with suppress(OSError):
                    folder.rmdir()
        raise


def _begin(recipe: Recipe, training: TrainOptions, run: Run, tell: Say) -> Plan:
    with starting(run, recipe.lasting):
        made = plan(recipe, training, run, tell)
        for line in made.lines():
            tell(line)
        write_text(run.config, Configuration(made.recipe, made.training).to_yaml())
    return made


def _carded(run: Run) -> None:
    """Card and page of a run that was trained: what is done is done, whether they can be written or not."""
    careful = Careful(say)
    with careful("README.md"):
        card(run)
    with careful("report.html"):
        write_page(run)


def resume(out: Path, steps: int | None = None, tell: Say = say, parallel: ParallelOptions | None = None) -> Run:
    """Go on with a run where its newest whole checkpoint left it. Returns the run.

    Args:
        steps: how many it is to have in all, if other than it was begun with; config.yaml is changed.
        parallel: how processes are laid out, if otherwise than it says; it is not changed, for what is learned is the same.

    Raises RunError where it has more steps behind it than that, CheckpointError where its checkpoints are gone.
    """
    run = Run(out)
    config = read_config(run)
    if config.prefer is not None and config.prefer.reward:
        raise RunError(config.prefer.again(run))
    if steps is not None and steps != config.training.steps:
        with at_once(), run.locked():
            config = _relength(run, config, steps, tell)
    if parallel is not None:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, parallel=parallel))
    task = task_of(config, run)
    if config.adaptations:
        from sfumato.training import loop

        loop.train(task, run, config.training)
        for adaptation in config.adaptations if int(os.environ.get("RANK", "0")) == 0 else ():  # one of them writes
            adaptation.finished(run, task, config.training, tell)
            if config.finetune is not None:
                config.recipe.trained(run)
    else:
        config.recipe.fit(run, task, config.training)
    _carded(run)
    return run


def _relength(run: Run, config: Configuration, steps: int, tell: Say) -> Configuration:
    """The configuration with another number of steps, written; says what that does to the learning rate."""
    from sfumato.training import checkpoint
    from sfumato.training.optim import learning_rate

    training = dataclasses.replace(config.training, steps=steps, minutes=None)  # complains of a number that is none
    path, _ = checkpoint.newest(run.checkpoints)
    done = 0 if path is None else int(path.name.partition("-")[2])
    if steps < done:
        raise RunError(
            f"{run.path}: {done} steps are done already, so steps = {steps} cannot be; give {done} or more ({done}: it ends "
            "here)"
        )
    before = config.training.steps or steps
    made = dataclasses.replace(config, training=training)
    write_text(run.config, made.to_yaml())
    optim, at = training.optim, min(done, before - 1)
    old, new = learning_rate(optim, at, before, 1.0), learning_rate(optim, min(done, steps - 1), steps, 1.0)
    falls = round(steps * (1 - optim.decay))
    tell(
        f"steps     {steps} instead of {before}: after step {done} the learning rate goes from {old:.0%} to {new:.0%} of its "
        f"peak, and falls to 0 from step {max(falls, done)} on"
    )
    if new > 1.5 * old:
        tell(
            "          it rises again: what the end of the shorter run had settled is stirred up, and settles at the new end"
        )
    return made
