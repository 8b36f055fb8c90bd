"""`sfumato finetune`: a trained run learns further from other data, and keeps what it knew."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import options_meet_the_core, typed
from sfumato.jobs.card import card
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.find import name_of
from sfumato.jobs.model import Model, load, task_of
from sfumato.jobs.recipe import Recipe, Say, say
from sfumato.jobs.seal import seal, unchanged
from sfumato.jobs.train import same_run, several, starting, together
from sfumato.jobs.tune import BASE, PRIOR, FinetuneOptions, save_items
from sfumato.training.careful import Careful
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    from sfumato.training.objective import Task

STEPS = 500
"""Unless asked otherwise: as many as is usual for a subject of a few pictures (DreamBooth, Ruiz 2023, arXiv 2208.12242)."""
SHARES = {False: 0.1, True: 0.3}
"""Peak learning rate as a share of that of the training, of all weights and of a low-rank change."""


def finetune(
    base: Path, data: Path, options: FinetuneOptions, training: TrainOptions, out: Path, tell: Say = say
) -> Run:
    """Train the run ``base`` further on ``data``, in the new run ``out``; the average with the least held-out loss is taken.

    Raises RunError if ``base`` is not finished or a flow map, or ``out`` holds a run already; DataError for data that do not fit
    what the run knows; Stopped on a signal (go on with `sfumato resume`).
    """
    from sfumato.training import loop

    run = Run(out)
    if several():

        def begin() -> None:
            if run.config.exists():
                recipe = read_config(run).recipe
                same_run(run, dataclasses.replace(recipe, **_given(recipe, data, options)), training)
            else:
                _begun(base, data, options, training, run, tell)

        return together(out, training.parallel, begin)
    task, training = _begun(base, data, options, training, run, tell)
    loop.train(task, run, training)
    options.finished(run, task, training, tell)
    read_config(run).recipe.trained(run)
    with Careful(tell)("README.md"):
        card(run)
    return run


def _begun(
    base: Path, data: Path, options: FinetuneOptions, training: TrainOptions, run: Run, tell: Say
) -> tuple[Task, TrainOptions]:
    """The run begun, its task, and how it is trained."""
    from sfumato import networks

    source = Run(base)
    config = tunable(source, run)
    if not config.recipe.tunable:
        raise RunError(
            f"{source.path}: runs of {name_of(config.recipe)} cannot learn further from other data yet; train anew"
        )
    unchanged(source)
    with starting(run):
        recipe = _taken(source, run, config.recipe, data, options, tell)
        if options.prior > 0:
            keep_prior(load(base), options.kept, run, tell)
        seal(run)
        made = recipe.open(run)
        with options_meet_the_core():
            task = task_of(Configuration(recipe, training, finetune=options), run, made)
            training = costed(task, settled(training, config, options, task.network), tell)
        first = True
        for line in made.facts.words():
            tell(f"{'data' if first else '':<10}{line}")
            first = False
        trained = sum(p.numel() for p in task.network.parameters() if p.requires_grad)
        tell(f"network   {networks.describe(task.network)}, of which {trained:,} numbers are trained")
        tell(f"training  {training.steps} steps of batch {training.batch} from {base}, {len(made.train)} items"
             + (f", and {options.kept} samples of before" if (run.cache / PRIOR).is_file() else ""))  # fmt: skip
        write_text(run.config, Configuration(recipe, training, finetune=options).to_yaml())
    return task, training


def tunable(source: Run, run: Run) -> Configuration:
    """The configuration of the run that is to go on in ``run``, found fit for it. Raises RunError."""
    config = read_config(source)
    if config.distill is not None:
        raise RunError(f"{source.path}: is a flow map; finetune the run that it was made from, and distill that again")
    if not source.model.is_file():
        raise RunError(f"{source.path}: is not finished; `sfumato resume {typed(source.path)}` first")
    if run.config.exists():
        raise RunError(
            f"{run.path}: there is a run here already; go on with `sfumato resume {typed(run.path)}`, or give another --out"
        )
    return config


def _taken(source: Run, run: Run, recipe: Recipe, data: Path, options: FinetuneOptions, tell: Say) -> Recipe:
    """The recipe on other data, made ready by what the run knows: its weights and what it keeps beside them are taken over."""
    for name in recipe.kept:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, run.path / name)
    shutil.copyfile(source.model, run.path / BASE)
    other: Recipe = dataclasses.replace(recipe, **_given(recipe, data, options))
    return other.prepare(run, tell, base=recipe.facts(source))


def _given(recipe: Recipe, data: Path, options: FinetuneOptions) -> dict[str, Any]:
    """What is other in the recipe: the data, and the share of them held out where the field holds one out."""
    own = {f.name for f in dataclasses.fields(recipe)}
    return {"data": data, **({"held_out": options.held_out} if "held_out" in own else {})}


def keep_prior(model: Model, count: int, run: Run, tell: Say) -> None:
    """Samples of the run as it is, in ``run``'s cache, with what each was drawn for: what the field draws for where nothing is
    asked."""
    import torch

    from sfumato.diffusion import tree
    from sfumato.training.progress import Watch

    queries = model.recipe.queries(model, model.recipe.Ask(), count)
    found: list[Any] = []
    with Watch("samples of before", len(queries), unit="samples") as watch:
        for part in model.draw(queries, range(len(queries)), stream=("prior",)):
            found.append(tree.to(dict(model.recipe.items(model, queries, part)), torch.device("cpu")))
            watch.show(sum(len(tree.first(each["x"])) for each in found))
    save_items(run.cache / PRIOR, tree.join(*found))


def settled(training: TrainOptions, config: Configuration, options: FinetuneOptions, network: Any) -> TrainOptions:
    """Batch, rate, steps and precision: the run's own at a share of its rate, unless asked otherwise."""
    from sfumato.networks.parts import count
    from sfumato.training import optim

    batch = training.batch or config.training.batch or 1
    rate = config.training.optim.lr or optim.default_lr(count(network))
    rate = training.optim.lr or SHARES[options.lora is not None] * rate
    return dataclasses.replace(
        training,
        batch=batch + -batch % training.accumulate,
        steps=STEPS if training.steps is None and training.minutes is None else training.steps,
        optim=dataclasses.replace(training.optim, lr=rate),
        precision=config.training.precision if training.precision == "auto" else training.precision,
    )


def costed(task: Task, training: TrainOptions, tell: Say) -> TrainOptions:
    """Threads, and steps where a time was asked for."""
    from sfumato.training.measure import measure_threads
    from sfumato.training.progress import clock

    assert training.batch is not None
    cost = measure_threads(task, training, training.batch)
    steps = training.steps
    if steps is None or training.minutes is not None:
        steps = max(1, int((training.minutes or 1.0) * 60 / cost.seconds))
    tell(f"cost      {cost.seconds:.3g} s a step, about {clock(cost.seconds * steps)} in all on this machine")
    return dataclasses.replace(training, steps=steps)
