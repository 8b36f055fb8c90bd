"""`sfumato distill`: make a trained run a flow map, sampled in any number of steps."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.recipes.base import DistillOptions, Say, say
from sfumato.recipes.configuration import Configuration, read_config
from sfumato.recipes.job import card
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    from torch import nn

    from sfumato.training.objective import Task

# measured on the demo's pictures: without the weight by error the losses of long steps drown those of short ones; half of
# the samples anchored to the teacher take a third off the distance at 4 steps, more that go all the way keep that of one;
# semigroup, whose targets the map makes itself, needs as much of the teacher and less weight on its small errors
HABITS: dict[str, dict[str, float]] = {
    "lagrangian": {"anchor": 0.5, "ends": 0.3, "power": 1.0},
    "semigroup": {"anchor": 0.5, "power": 0.5},
    "mean_flow": {"power": 1.0},
    "consistency": {"power": 1.0},
}
TEACHER = "teacher.safetensors"
"""The teacher's averaged weights, in the new run: it needs nothing of the old one."""


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
        task = converted(plain, run, options, training)
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
    from sfumato.recipes.model import SampleOptions, load

    model = load(run.path)
    first = next(model.samples(range(1)))
    if model.recipe.draw(first.cpu(), run, 1) is None:
        return
    network, _, _ = _read_teacher(run.path / TEACHER)
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


def guidance_in(task: Task) -> bool:
    """Whether the network takes the strength of guidance as an input."""
    return bool(getattr(task.network, "options", {}).get("guided", False))


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


def converted(task: Task, run: Run, options: DistillOptions, training: TrainOptions) -> Task:
    """The task of converting the teacher that lies in ``run``; its data and condition are those of ``task``."""
    import torch

    from sfumato import networks
    from sfumato.adapting.flow_map import Conversion, FlowMap, Guided, Leap
    from sfumato.diffusion import Denoiser, Uniform, key
    from sfumato.training.objective import Precise, bf16_pays
    from sfumato.training.parallel import pick_device

    device = pick_device()
    teacher, weights, settings = _read_teacher(run.path / TEACHER)
    guided = settings.get("classes", 0) > 0 and options.guided
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("weights", training.seed))
        student = networks.build({**settings, "guided": True} if guided else settings)
    student.load_state_dict({**student.state_dict(), **weights})
    teacher.to(device).eval().requires_grad_(False)
    bf16 = training.precision == "bf16" or (training.precision == "auto" and bf16_pays(device))
    criterion = Conversion(
        Denoiser(Precise(teacher, bf16), task.process),
        options.kind,
        Guided(*options.w) if guided else None,
        finest=finest_share(task.process),
        **HABITS[options.kind],
    )
    middle = torch.tensor([[min(max(1.5, options.w[0]), options.w[1]), 0.0, 1.0]])
    beside = {"guidance": middle} if guided else {}
    preview: Any = task.preview
    if preview is not None:
        asked = preview.keywords["queries"]
        queries = dataclasses.replace(asked, condition={**asked.condition, **beside})
        preview = partial(preview.func, **{**preview.keywords, "queries": queries, "steps": 4, "solver": Leap()})
    return dataclasses.replace(
        task, network=student, criterion=criterion, denoiser=FlowMap, times=Uniform(), uncertainty=False, hidden={},
        beside=beside, preview=preview,
    )  # fmt: skip


def finest_share(process: Any) -> float:
    """The share of noise from which the last step goes to the data in one."""
    return max(process.finest / (1 + process.finest), 0.01)


def _read_teacher(file: Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The teacher's network, its weights, and the settings it was built with. Raises CheckpointError."""
    from safetensors import safe_open

    from sfumato import networks
    from sfumato.training import checkpoint

    weights = checkpoint.read_tensors(file)
    with safe_open(file, "pt") as opened:
        settings = json.loads(opened.metadata()["network"])
    network = networks.build(settings)
    network.load_state_dict(weights)
    return network, weights, settings
