"""`sfumato demo`: the whole job on small real pictures and their names, with everything drawn that one would want to look at."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.sheet import sheet, to_bytes
from sfumato.errors import typed
from sfumato.fields.captions.growth import growth, words
from sfumato.fields.captions.openmoji import WHAT, draw
from sfumato.fields.captions.options import CaptionAsk, CaptionNetwork, Measured
from sfumato.fields.captions.recipe import Captions
from sfumato.jobs import plots
from sfumato.jobs.evaluate import evaluate
from sfumato.jobs.model import Model, load
from sfumato.jobs.recipe import say
from sfumato.jobs.sample import sample
from sfumato.jobs.train import train
from sfumato.jobs.walk import Drawing
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.fields.captions.data import Pairs

CURVE = (2, 4, 8, 16, 32)
NETWORK = CaptionNetwork(width=128, depth=4, text_depth=1, summary="mean")
"""A little over a million parameters: on two cores small pictures are recognisable after a minute (docs/captions.md)."""
TRAINING = TrainOptions(batch=16, optim=OptimOptions(lr=2e-3))
MARK, PROMPTS = ".demo", "prompts.txt"
"""A folder without the first is somebody's own and is never cleared. The other: what the sheet at the end is drawn for."""
EACH = 2
"""Prompts of each class that were learned from, and of those that were not."""


def demo(out: Path, minutes: float, seed: int, side: int = 32, curve: tuple[int, ...] = CURVE) -> str:
    """Draw the pictures, train, sample, score and draw; returns where to look, and how to ask for pictures of one's own.

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
    say(f"{draw(pictures, side * 2)} pictures in {pictures}, their captions beside them")
    recipe = Captions(pictures, side=side, held_out=0.2, network=NETWORK)
    looks = max(1, round(minutes))
    say(f"training for {minutes:g} minutes; a sheet of samples after each: {out / 'samples'}/")
    train(recipe, dataclasses.replace(TRAINING, minutes=minutes, seed=seed, previews=looks), out)

    model = load(out, drawing=Drawing(seed=seed))
    data: Any = model.recipe.open(model.run)
    prompts = [*chosen(data.train), *chosen(data.held_out)]
    (out / PROMPTS).write_text("\n".join(prompts) + "\n", encoding="utf-8")
    sample(model, 4, CaptionAsk(prompts=out / PROMPTS), out / "samples" / "final")
    shutil.copyfile(out / "samples" / "final" / "grid.png", out / "samples.png")
    process_picture(model, out / "process.png", seed)
    text = evaluate(model, Measured(strengths=(), seeds=0))
    quality(model, curve)
    grown = growth(model, out / "growth.png")
    look = {
        "samples.png": f"samples for {PROMPTS}, their words below: half were learned from, half never seen",
        "process.png": "a picture dissolving, and samples forming",
        "report.png": "samples, the real held-out pictures of their words, their nearest training pictures",
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
        "",
        *asking(out, prompts),
    ]
    return "\n".join(lines)


def asking(out: Path, prompts: list[str]) -> Iterator[str]:
    """How pictures are asked for by words: in lines, of which the last is a command."""
    yield f"longer    sfumato resume {typed(out)} --steps N"
    yield "draw for words of your own, such as those in " + str(out / PROMPTS)
    yield f'  sfumato sample {typed(out)} --prompt "{prompts[-1]}" -n 4'


def kind(name: str) -> str:
    """The class of a picture, by its name in the run: that of its folder, or ""."""
    return PurePosixPath(name).parent.name


def chosen(pairs: Pairs, each: int = EACH) -> list[str]:
    """First captions of so many pictures of each class, in an order of their own that is always the same."""
    from sfumato.diffusion import key

    count = len(pairs.of)  # with the first caption of each
    order = sorted(range(count), key=lambda i: key("demo", pairs.name(i)))
    found: dict[str, list[str]] = {}
    for i in order:
        own = found.setdefault(kind(pairs.name(i)), [])
        if len(own) < each and pairs.caption(i) not in own:
            own.append(pairs.caption(i))
    return [text for name in sorted(found, key=lambda name: (name not in WHAT, name)) for text in found[name]]


def process_picture(model: Model, path: Path, seed: int, columns: int = 9, rows: int = 3) -> None:
    """The forward process on training pictures (top rows) and the reverse process that makes samples (bottom rows)."""
    import torch

    from sfumato.diffusion import Streams, cosine, key, trajectory
    from sfumato.fields.captions.queries import asked
    from sfumato.training.loader import fetch

    process, facts = model.process, model.facts
    train: Any = model.recipe.open(model.run).train
    count = len(train.of)
    x = fetch(train, [i * count // rows + count // (2 * rows) for i in range(rows)]).x
    z = process.prior(x, Streams(key("sample", seed), range(rows)))
    times = cosine(process.schedule, columns - 1)

    def shown(state: Tensor, t: Tensor) -> Tensor:  # at unit variance, else noise outshines all
        return state / process.schedule.hypot(t)

    forward = [shown(process.interpolate(x, z, t), t) for t in times.flip(0)]
    fine = cosine(process.schedule, 4 * (columns - 1))
    query = asked(CaptionAsk(), model.companions.words, facts, rows).batch(range(rows))
    denoiser = model.guided(model.walk)(model.denoiser, query)
    condition: dict[str, Any] = {name: value for name, value in query.items() if name != "x"}
    with torch.no_grad():
        states = list(trajectory(denoiser, z, fine, **condition))
    backward = [shown(state, t) for state, t in zip(states[::4], fine[::4], strict=True)]
    strip = torch.cat([torch.stack(column, 1).flatten(0, 1) for column in (forward, backward)])
    pictures = to_bytes(np.asarray(strip.float()) * facts.spread + facts.mean)
    sheet(list(pictures), columns=columns, least=900).save(path)


def quality(model: Model, curve: tuple[int, ...]) -> None:
    """Kernel distance to the training pictures against the number of steps, for Euler and the default solver."""
    from sfumato.fields.captions.measure import KNOWN, drawn_for, some
    from sfumato.metrics.distances import kernel_distance
    from sfumato.metrics.spaces import choose

    if not plots.available():
        return
    recipe: Any = model.recipe
    data, usual = recipe.open(model.run), model.walk
    known, held = some(data.train, KNOWN).x, some(data.held_out, 96, told=True)
    space = choose("patches", known, lambda x: x)
    real = space(known)
    curves: dict[str, dict[int, float]] = {}
    for solver, eta, grid in (("euler", 0.0, "uniform"), (usual.solver, usual.eta, usual.grid)):
        curve_here = curves.setdefault(f"{solver}, eta {eta:g}, {grid} grid", {})
        for steps in curve:
            walk = dataclasses.replace(usual, steps=steps, solver=solver, eta=eta, grid=grid, w=1.0)
            fake = space(drawn_for(model, held, None, walk, f"{solver}, {steps} steps"))
            curve_here[steps] = kernel_distance(fake, real)
    floor = kernel_distance(space(held.x), real)
    plots.against_steps(curves, floor, "kernel distance to training pictures", model.run.path / "steps.png")
