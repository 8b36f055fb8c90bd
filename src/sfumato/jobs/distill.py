"""`sfumato distill`: make a trained run a flow map, sampled in any number of steps."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato.errors import options_meet_the_core, typed
from sfumato.jobs.adapt import TEACHER, DistillOptions, read_teacher
from sfumato.jobs.card import card
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.model import Model, load, task_of
from sfumato.jobs.recipe import Say, say
from sfumato.jobs.seal import seal, unchanged
from sfumato.jobs.train import starting
from sfumato.jobs.walk import Walk
from sfumato.training.careful import Careful
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError, write_text


def distill(teacher: Path, options: DistillOptions, training: TrainOptions, out: Path, tell: Say = say) -> Run:
    """Convert the trained run ``teacher`` in the new run ``out``, for about ``options.cost`` of what its training cost.

    Raises RunError if ``teacher`` is not finished, a flow map itself or of a process that has none, or ``out`` holds a run
    already; Stopped on a signal (go on with `sfumato resume`).
    """
    from sfumato import networks
    from sfumato.training import loop
    from sfumato.training.progress import clock

    source, run = Run(teacher), Run(out)
    config = _checked(source, run)
    unchanged(source)
    with starting(run):
        take_over(source, run, config.recipe.kept, TEACHER)
        seal(run)
        data = config.recipe.open(run)
        plain = task_of(config, run, data)
        training = _settings(training, config, plain)
        made = dataclasses.replace(config, training=training, distill=options)
        with options_meet_the_core():
            task = task_of(made, run, data)
            training, whole, seconds = _costed(training, options, config, plain, task)
        tell(f"teacher   {teacher}, {config.training.steps} steps, about {clock(whole)} on this machine")
        tell(f"network   {networks.describe(task.network)}")
        guided = f", takes guidance from {options.w[0]:g} to {options.w[1]:g}" if task.beside else ""
        tell(f"method    flow map, {options.kind}{guided}")
        assert training.steps is not None
        tell(
            f"training  {training.steps} steps of batch {training.batch}, {seconds:.3g} s each, about "
            f"{clock(seconds * training.steps)}"
        )
        write_text(run.config, dataclasses.replace(made, training=training).to_yaml())
        run.log({"step": 0, "teacher_seconds": whole, "conversion_seconds": seconds * training.steps})
    loop.train(task, run, training)
    careful = Careful(tell)
    with careful("README.md"):
        card(run)
    with careful("the pictures", (Exception,)):  # the map is made, whatever may be seen of it
        look(run)
    return run


def _checked(source: Run, run: Run) -> Configuration:
    """The teacher's configuration, found fit to be converted into ``run``."""
    from sfumato.adapting.flow_map import check_path

    config = read_config(source)
    if config.distill is not None:
        raise RunError(f"{source.path}: is a flow map already; distill the run that it was made from")
    if not source.model.is_file():
        raise RunError(f"{source.path}: is not finished; `sfumato resume {typed(source.path)}` first")
    try:
        check_path(config.recipe.process(config.recipe.facts(source)))
    except TypeError as error:
        raise RunError(f"{source.path}: {error}") from error
    if run.config.exists():
        raise RunError(
            f"{run.path}: there is a run here already; go on with `sfumato resume {typed(run.path)}`, or give another --out"
        )
    return dataclasses.replace(config, finetune=None, prefer=None)  # what was tuned is in the weights


def _settings(training: TrainOptions, config: Configuration, plain: Any) -> TrainOptions:
    """Batch, rate and precision of the conversion: the teacher's, at a fifth of its rate, unless asked otherwise."""
    from sfumato.training import optim

    batch = training.batch or config.training.batch
    assert batch is not None
    rate = training.optim.lr or 0.2 * optim.peak_lr(config.training.optim, plain.network)
    return dataclasses.replace(
        training,
        batch=batch + -batch % training.accumulate,
        optim=dataclasses.replace(training.optim, lr=rate),
        precision=config.training.precision if training.precision == "auto" else training.precision,
    )


def _costed(
    training: TrainOptions, options: DistillOptions, config: Configuration, plain: Any, task: Any
) -> tuple[TrainOptions, float, float]:
    """Threads and steps for the share of the teacher's cost; what the teacher cost, and what a step does, in seconds."""
    from sfumato.training.measure import measure, measure_threads

    assert training.batch is not None
    assert config.training.batch is not None
    assert config.training.steps is not None
    cost = measure_threads(task, training, training.batch)
    before = measure(plain, dataclasses.replace(config.training, threads=cost.threads), config.training.batch)
    whole, steps = config.training.steps * before.seconds, training.steps
    if steps is None:
        seconds = training.minutes * 60 if training.minutes is not None else options.cost * whole
        steps = max(1, int(seconds / cost.seconds))
    return dataclasses.replace(training, steps=steps), whole, cost.seconds


def look(run: Run, columns: int = 12, teacher_steps: int = 50) -> None:
    """steps.png: the same noises by the teacher (top row) and by the map in 1, 2, 4 and 16 steps. trajectory.png: a few
    samples on their way, the teacher's path above the map's eight stops. Nothing where the field draws nothing."""
    from sfumato.diffusion import Denoiser

    model = load(run.path)
    network, _, _ = read_teacher(run.path / TEACHER, model.recipe.kinds())
    plain = Denoiser(network.to(model.device).eval().requires_grad_(False), model.process)
    teacher = dataclasses.replace(model, denoiser=plain, adaptations=())
    usual = dataclasses.replace(model.walk, batch=columns, tol=None)
    flow = dataclasses.replace(usual, solver="euler", eta=0.0, steps=teacher_steps)
    rows = [drawn_things(teacher, flow, columns)]
    rows += [drawn_things(model, dataclasses.replace(usual, steps=n), columns) for n in (1, 2, 4, 16)]
    sheet = model.recipe.picture(model, [thing for row in rows for thing in row], columns)
    if sheet is not None:
        sheet.save(run.path / "steps.png")
        if model.process.states == "vectors":
            paths = on_the_way(teacher, dataclasses.replace(flow, steps=40)) + on_the_way(
                model, dataclasses.replace(usual, steps=8)
            )
            both = [thing for pair in zip(paths[:3], paths[3:], strict=True) for path in pair for thing in path]
            picture = model.recipe.picture(model, both, 9)
            assert picture is not None
            picture.save(run.path / "trajectory.png")


def drawn_things(model: Model, walk: Walk, count: int) -> list[Any]:
    """The first things of a model, walked so."""
    queries = model.recipe.queries(model, model.recipe.Ask(), count)
    parts = model.draw(queries, range(count), walk=walk)
    return [thing for part in parts for thing in model.recipe.things(model, queries, part)]


def on_the_way(model: Model, walk: Walk, count: int = 3, stops: int = 9) -> list[list[Any]]:
    """A few samples on their way from noise, as things at ``stops`` evenly spread times; of vectors, at unit variance, else
    noise outshines all."""
    from sfumato.diffusion import tree
    from sfumato.diffusion.generate import RESERVED, Drawn, streams
    from sfumato.diffusion.sample import trajectory
    from sfumato.jobs.model import Told

    queries: Any = model.recipe.queries(model, model.recipe.Ask(), count)
    told = {name: value for each in model.adaptations for name, value in each.told(model.settings, walk).items()}
    query = tree.to(dict(Told(queries, told).batch(range(count))), model.device)
    rng = streams(queries, range(count), model.drawing.seed, ("sample",), model.device)
    z, process = model.process.prior(query["x"], rng), model.process
    times = model.grid(walk)(process.schedule, walk.steps or 8)
    condition = {name: value for name, value in query.items() if name not in RESERVED}
    import torch

    with torch.no_grad():
        guess = model.guided(walk)(model.denoiser, query)
        states = list(trajectory(guess, z, times, model.solver(walk), rng, **condition))
    chosen = range(0, len(times), (len(times) - 1) // (stops - 1))
    shown = [
        model.recipe.things(
            model, queries, Drawn(states[i] / process.schedule.hypot(times[i]), query, range(count), {})
        )
        for i in chosen
    ]
    return [list(path) for path in zip(*shown, strict=True)]


def take_over(source: Run, run: Run, kept: Sequence[str], weights: str) -> None:
    """The data, what the field keeps beside them, and the weights, under a name of their own; files are shared where the disk
    can, copied where it cannot."""
    for file in sorted(path for path in source.cache.iterdir() if path.is_file()):  # folders are what was measured
        target = run.cache / file.name
        target.unlink(missing_ok=True)
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
    named = [
        "data.json",
        *(name for name in kept if not name.startswith("cache/")),
    ]  # what is in there is there already
    beside = [(source.path / name, name) for name in named if (source.path / name).is_file()]
    for file, name in (*beside, (source.model, weights)):
        shutil.copyfile(file, run.path / name)
