"""`sfumato demo`: the whole job on small real pictures, with everything drawn that one would want to look at."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.data.sheet import sheet, to_bytes
from sfumato.fields.images.growth import growth, words
from sfumato.fields.images.measure import Measure, as_held_out, features_for
from sfumato.fields.images.openmoji import draw
from sfumato.fields.images.recipe import Images
from sfumato.jobs import plots
from sfumato.jobs.evaluate import draw_samples, evaluate, stacked
from sfumato.jobs.model import Model, load
from sfumato.jobs.recipe import say
from sfumato.jobs.sample import sample
from sfumato.jobs.train import train
from sfumato.jobs.walk import Drawing
from sfumato.networks.options import NetworkOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from torch import Tensor

CURVE = (2, 4, 8, 16, 32)
NETWORK = NetworkOptions(width=128, depth=4)
"""A million parameters: on two cores small pictures are recognisable after a minute, and the usual network, with three times as
many, would be where this one is after four (docs/defaults.md)."""
MARK = ".demo"  # a folder without it is somebody's own and is never cleared


def demo(out: Path, minutes: float, seed: int, side: int = 32, curve: tuple[int, ...] = CURVE) -> str:
    """Draw the pictures, train, sample, score and draw; returns where to look.

    Raises RunError if ``out`` is something else than an earlier demo.
    """
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / MARK).is_file()):
            raise RunError(f"{out}: is not empty and not an earlier demo; give another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARK).touch()
    pictures = out / "pictures"
    say("drawing pictures: OpenMoji, CC BY-SA 4.0, openmoji.org")
    say(f"{draw(pictures, side * 2)} pictures in {pictures}")
    recipe = Images(pictures, side=side, labels=True, held_out=0.2, network=NETWORK)
    looks = max(1, round(minutes))
    say(f"training for {minutes:g} minutes; a sheet of samples after each: {out / 'samples'}/")
    train(recipe, TrainOptions(minutes=minutes, seed=seed, previews=looks), out)

    model = load(out, drawing=Drawing(seed=seed))
    sample(model, 64, model.recipe.Ask(), out / "samples" / "final")
    shutil.copyfile(out / "samples" / "final" / "grid.png", out / "samples.png")
    process_picture(model, out / "process.png", seed)
    text = evaluate(model, Measure(quick=True))
    quality(model, curve)
    grown = growth(model, out / "growth.png")
    look = {
        "samples.png": "64 samples, a class a column", "process.png": "a picture dissolving, and samples forming",
        "report.png": "samples, their nearest training pictures, real held-out pictures",
        "loss_by_level.png": "held-out loss per noise level", "loss.png": "loss over training",
        "steps.png": "quality against sampling steps", "growth.png": "the same samples after a quarter, a half and all of it",
    }  # fmt: skip
    lines = [
        text,
        "",
        *words(grown),
        "",
        f"look at {out}/",
        *(f"  {name:18s} {what}" for name, what in look.items() if (out / name).exists()),
    ]
    return "\n".join(lines)


def process_picture(model: Model, path: Path, seed: int, columns: int = 9, rows: int = 3) -> None:
    """The forward process on training pictures (top rows) and the reverse process that makes samples (bottom rows)."""
    import torch

    from sfumato.diffusion import Streams, cosine, guide, key, trajectory
    from sfumato.training.loader import fetch

    process, facts = model.process, model.facts
    train = model.recipe.open(model.run).train
    x = fetch(train, [i * len(train) // rows + len(train) // (2 * rows) for i in range(rows)]).x
    z = process.prior(x, Streams(key("sample", seed), range(rows)))
    times = cosine(process.schedule, columns - 1)

    def shown(state: Tensor, t: Tensor) -> Tensor:  # at unit variance, else noise outshines all
        return state / process.schedule.hypot(t)

    forward = [shown(process.interpolate(x, z, t), t) for t in times.flip(0)]
    fine = cosine(process.schedule, 4 * (columns - 1))
    condition: dict[str, Any] = {"label": torch.arange(rows) % len(facts.classes)} if facts.classes else {}
    denoiser: Any = guide(model.denoiser, 1.5) if facts.classes else model.denoiser
    with torch.no_grad():
        states = list(trajectory(denoiser, z, fine, **condition))
    backward = [shown(state, t) for state, t in zip(states[::4], fine[::4], strict=True)]
    strip = torch.cat([torch.stack(column, 1).flatten(0, 1) for column in (forward, backward)])
    pictures = to_bytes(facts.statistics.restore(strip.float().numpy()))
    sheet(list(pictures), columns=columns, least=900).save(path)


def quality(model: Model, curve: tuple[int, ...]) -> None:
    """Kernel distance to the training pictures against the number of steps, for Euler and the default solver."""
    from sfumato.metrics.distances import kernel_distance

    if not plots.available():
        return
    recipe: Any = model.recipe
    data, usual = recipe.open(model.run), model.walk
    real, held_out = stacked(data.train), stacked(data.held_out)
    features = features_for(real)
    known, count, ask = features(real), min(96, len(held_out)), recipe.Ask()
    queries = as_held_out(recipe.queries(model, ask, count), ask, data)
    curves: dict[str, dict[int, float]] = {}
    for solver, eta, grid in (("euler", 0.0, "uniform"), (usual.solver, usual.eta, usual.grid)):
        curve_here = curves.setdefault(f"{solver}, eta {eta:g}, {grid} grid", {})
        for steps in curve:
            walk = dataclasses.replace(usual, steps=steps, solver=solver, eta=eta, grid=grid, w=1.0)
            fake = draw_samples(model, count, walk, name=f"{solver}, {steps} steps", queries=queries)
            curve_here[steps] = kernel_distance(features(fake), known)
    floor = kernel_distance(features(held_out), known)
    plots.against_steps(curves, floor, "kernel distance to training pictures", model.run.path / "steps.png")
