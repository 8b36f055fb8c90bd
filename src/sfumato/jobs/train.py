"""`sfumato train` and `sfumato resume`, for every field: plan, say it, learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import options_meet_the_core
from sfumato.jobs.card import card
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.model import task_of
from sfumato.jobs.recipe import Data, Recipe, Say, say
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    from sfumato.training.measure import Cost
    from sfumato.training.objective import Task


@dataclass(frozen=True)
class Plan:
    """Every choice made, and what it will cost."""

    recipe: Recipe
    training: TrainOptions
    data: Data
    task: Task
    cost: Cost

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
            f"{self.cost.memory:.1f} GB"
        )


def choose_steps(count: int, batch: int, seconds: float) -> int:
    """Enough to see each item 100 times and at least 100,000 items in all, but no more than an hour's work."""
    wanted = max(100 * count, 100_000) // batch
    return max(100, min(wanted, int(3600 / seconds)))


def plan(recipe: Recipe, training: TrainOptions, run: Run, tell: Say = say) -> Plan:
    """Look at the data and the machine and make every choice that was left open."""
    from sfumato.training.measure import measure_threads
    from sfumato.training.parallel import pick_device

    recipe = recipe.prepare(run, tell)
    data = recipe.open(run)
    asked, training = training, training.over(recipe.training(data, pick_device().type))
    batch = training.batch or 1
    batch += -batch % training.accumulate
    with options_meet_the_core():  # a network that takes no such shape says so when it is made, or first called
        task = task_of(Configuration(recipe, training), run, data)
        cost = measure_threads(task, training, batch)
    steps = training.steps
    if asked.minutes is not None or steps is None:
        minutes = training.minutes
        steps = (
            choose_steps(len(data.train), batch, cost.seconds) if minutes is None else int(minutes * 60 / cost.seconds)
        )
    training = dataclasses.replace(training, batch=batch, steps=max(1, steps), threads=cost.threads)
    return Plan(recipe.settled(task.network), training, data, task, cost)


def train(recipe: Recipe, training: TrainOptions, out: Path, tell: Say = say) -> Run:
    """Train in a new run directory; says what it chose and how long it will take. Returns the run.

    Raises RunError if ``out`` holds a run already, DataError for bad data, Stopped on a signal.
    """
    import os

    from sfumato.training import loop
    from sfumato.training.parallel import launched

    run = Run(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # under torchrun the first process prepares the run; the others wait for its configuration
        with launched() as runtime:
            if runtime.first and not run.config.exists():
                _begin(recipe, training, run, tell)
            runtime.barrier()
            return resume(out)
    if run.config.exists():
        raise RunError(f"{out}: there is a run here already; go on with `sfumato resume {out}`, or give another --out")
    made = _begin(recipe, training, run, tell)
    loop.train(made.task, run, made.training)
    card(run)
    return run


def _begin(recipe: Recipe, training: TrainOptions, run: Run, tell: Say) -> Plan:
    run.create()
    with run.locked():
        made = plan(recipe, training, run, tell)
        for line in made.lines():
            tell(line)
        write_text(run.config, Configuration(made.recipe, made.training).to_yaml())
    return made


def resume(out: Path) -> Run:
    """Go on with a run where its newest whole checkpoint left it. Returns the run."""
    from sfumato.training import loop

    run = Run(out)
    config = read_config(run)
    loop.train(task_of(config, run), run, config.training)
    card(run)
    return run
