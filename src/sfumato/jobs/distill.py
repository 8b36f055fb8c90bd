"""`sfumato distill`: make a trained run a flow map, sampled in any number of steps."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from sfumato.errors import options_meet_the_core
from sfumato.jobs.adapt import TEACHER, DistillOptions, converted, guidance_in, read_teacher
from sfumato.jobs.card import card
from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.model import load
from sfumato.jobs.recipe import Say, say
from sfumato.jobs.walk import SampleOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError, write_text


def distill(teacher: Path, options: DistillOptions, training: TrainOptions, out: Path, tell: Say = say) -> Run:
    """Convert the trained run ``teacher`` in the new run ``out``, for about ``options.cost`` of what its training cost.

    Raises RunError if ``teacher`` is not finished, a flow map itself or of a process that has none, or ``out`` holds a run
    already; Stopped on a signal (go on with `sfumato resume`).
    """
    from sfumato import networks
    from sfumato.adapting.flow_map import check_path
    from sfumato.training import loop, optim
    from sfumato.training.measure import measure, measure_threads
    from sfumato.training.progress import clock

    source, run = Run(teacher), Run(out)
    config = read_config(source)
    if config.distill is not None:
        raise RunError(f"{teacher}: is a flow map already; distill the run that it was made from")
    if not source.model.is_file():
        raise RunError(f"{teacher}: is not finished; `sfumato resume {teacher}` first")
    try:
        check_path(config.recipe.process())
    except TypeError as error:
        raise RunError(f"{teacher}: {error}") from error
    if run.config.exists():
        raise RunError(f"{out}: there is a run here already; go on with `sfumato resume {out}`, or give another --out")
    run.create()
    with run.locked():
        _take_over(source, run)
        plain = config.recipe.task(config.recipe.reload(run), config.training.seed)
        batch = training.batch or config.training.batch
        assert batch is not None
        assert config.training.steps is not None
        assert config.training.batch is not None
        rate = training.optim.lr or 0.2 * optim.peak_lr(config.training.optim, plain.network)
        training = dataclasses.replace(
            training,
            batch=batch + -batch % training.accumulate,
            optim=dataclasses.replace(training.optim, lr=rate),
            precision=config.training.precision if training.precision == "auto" else training.precision,
        )
        with options_meet_the_core():
            task = converted(plain, run, options, training, config.recipe.kinds())
            cost = measure_threads(task, training, batch)
        training = dataclasses.replace(training, threads=cost.threads)
        before = measure(plain, dataclasses.replace(config.training, threads=cost.threads), config.training.batch)
        whole = config.training.steps * before.seconds
        steps = training.steps
        if steps is None:
            seconds = training.minutes * 60 if training.minutes is not None else options.cost * whole
            steps = max(1, int(seconds / cost.seconds))
        training = dataclasses.replace(training, steps=steps)
        tell(f"teacher   {teacher}, {config.training.steps} steps, about {clock(whole)} on this machine")
        tell(f"network   {networks.describe(task.network)}")
        guided = f", takes guidance from {options.w[0]:g} to {options.w[1]:g}" if guidance_in(task) else ""
        tell(f"method    flow map, {options.kind}{guided}")
        tell(
            f"training  {steps} steps of batch {training.batch}, {cost.seconds:.3g} s each, about {clock(cost.seconds * steps)}"
        )
        write_text(run.config, Configuration(config.recipe, training, options).to_yaml())
        run.log({"step": 0, "teacher_seconds": whole, "conversion_seconds": cost.seconds * steps})
    loop.train(task, run, training)
    card(run)
    look(run)
    return run


def look(run: Run, columns: int = 12, teacher_steps: int = 50) -> None:
    """steps.png: the same noises by the teacher (top row) and by the map in 1, 2, 4 and 16 steps. trajectory.png: a few
    samples on their way, the teacher's path above the map's eight stops. Nothing where the recipe draws nothing."""
    import torch

    from sfumato.diffusion import Denoiser, Streams, euler, key, trajectory

    model = load(run.path)
    first = next(model.samples(range(1)))
    if model.recipe.draw(first.cpu(), run, 1) is None:
        return
    network, _, _ = read_teacher(run.path / TEACHER, model.recipe.kinds())
    teacher = dataclasses.replace(
        model,
        denoiser=Denoiser(network.to(model.device).eval().requires_grad_(False), model.process),
        map=None,
    )
    w = model.chosen(SampleOptions()).w
    plain = SampleOptions(steps=teacher_steps, solver="euler", eta=0.0, w=w, batch=columns)
    rows = [next(teacher.samples(range(columns), plain))]
    rows += [next(model.samples(range(columns), SampleOptions(steps=n, w=w, batch=columns))) for n in (1, 2, 4, 16)]
    model.recipe.draw(torch.cat(rows).cpu(), run, columns).save(run.path / "steps.png")

    shown, grid_ = 3, model.grid
    assert grid_ is not None
    z = Streams(key("sample", 0), range(shown), model.device).normal((shown, *model.shape))
    strips = []
    for one, solver, steps in ((teacher, euler(), 40), (model, model.solver(model.chosen(SampleOptions())), 8)):
        condition = one.condition(plain)
        given = {
            name: value.to(model.device)
            for name, value in ({} if condition is None else condition(range(shown))).items()
        }
        times = grid_(model.process.schedule, steps)
        with torch.no_grad():
            states = list(trajectory(one.guess(plain), z, times, solver, **given))
        # at unit variance, else noise outshines all
        every = [x_t / model.process.schedule.hypot(t) for x_t, t in zip(states, times, strict=True)][:: steps // 8]
        strips.append(torch.stack(every, 1))
    both = torch.stack(strips, 1).flatten(0, 2)
    model.recipe.draw(both.cpu(), run, 9).save(run.path / "trajectory.png")


def _take_over(source: Run, run: Run) -> None:
    """The data and the weights of the teacher; files are shared where the disk can, copied where it cannot."""
    for file in sorted(source.cache.iterdir()):
        target = run.cache / file.name
        target.unlink(missing_ok=True)
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
    for file, name in ((source.path / "data.json", "data.json"), (source.model, TEACHER)):
        shutil.copyfile(file, run.path / name)
