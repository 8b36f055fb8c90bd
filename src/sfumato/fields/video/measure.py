"""`sfumato evaluate`: are clips what their words ask for, do they go on rightly from frames that are known, do they look real?

A held-out clip is the truth: frame by frame where its words, or its first frame, leave nothing open; where they do (walkers in a
street), nearness to one truth rewards blur, and the distances between sets say more.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion import key
from sfumato.errors import Wrong
from sfumato.fields.video.options import ClipAsk, ClipMeasure
from sfumato.fields.video.queries import Clips, Known
from sfumato.fields.video.scoring import by_frame, changes, features, flicker, similarity, spaces
from sfumato.fields.video.shown import Shown, sheet
from sfumato.fields.video.stock import Clips as Data
from sfumato.fields.video.units import to_bytes
from sfumato.jobs.model import Model
from sfumato.jobs.report import Report
from sfumato.metrics.intervals import mean_interval
from sfumato.metrics.similarity import WINDOW
from sfumato.metrics.table import Row, compare
from sfumato.training.run import RunError

MOST, KNOWN, LEAST, SHOWN = 64, 500, 4, 6
ENOUGH = 12
"""Clips for distances between sets."""


@dataclass(frozen=True, eq=False)
class Held:
    """Clips (n, T, 3, H, W) from -1 (black) to 1 (white), and what is said of each."""

    x: Tensor
    captions: tuple[str, ...]


def some(clips: Data, most: int) -> Held:
    """At most so many clips, in an order of their names' hashes."""
    order = sorted(range(len(clips.of)), key=lambda i: key("measure", clips.name(i)))[:most]
    return Held(torch.from_numpy(clips.pictures(np.array(order))), tuple(map(clips.caption, order)))


def measurable(model: Model, measure: ClipMeasure, ask: ClipAsk) -> None:
    """Whether there is enough to measure with, and what is asked for can be. Raises RunError, Wrong."""
    for name in ("prompt", "prompts", "first", "last", "prefix", "fill", "frames"):
        if (value := getattr(ask, name)) is not None:
            raise Wrong(f"{name} = {str(value)!r}: must be left out, clips are measured for held-out ones")
    if model.facts.held < LEAST:
        raise RunError(
            f"{model.run.path}: {model.facts.held} held-out clips are too few to measure with, {LEAST} at least"
        )


def drawn_for(
    model: Model, held: Held, known: tuple[int, ...] = (), ask: ClipAsk = ClipAsk(), name: str = "clips"
) -> Tensor:
    """A clip for each held-out one, for its words and with its frames at the places ``known``: (n, F, 3, H, W) from -1 to 1."""
    from sfumato.training.progress import Watch

    facts, count = model.facts, len(held.captions)
    frames = torch.zeros(facts.frames, dtype=torch.bool)
    frames[list(known)] = True
    given = tuple(Known(each, frames) for each in model.companions.units.standard(held.x)) if known else ()
    turns = [held.captions[:i].count(text) for i, text in enumerate(held.captions)]
    queries = Clips(
        held.captions, count, model.companions.words, facts, known=given, places=tuple(turns), frames=ask.frames or facts.frames,
        order=ask.order, context=ask.context or max(1, facts.frames // 2), context_noise=ask.context_noise, ask=ask,
    )  # fmt: skip
    found: dict[int, Tensor] = {}
    with Watch(name, count, unit="clips") as watch:
        for part in model.recipe.draw(model, queries, range(count)):
            x: Any = part.x
            found.update(zip(part.numbers, model.companions.units.raw(x.float().cpu()).clamp(-1, 1)))
            watch.show(len(found))
    return torch.stack([found[i] for i in range(count)])


def against(fake: Tensor, real: Tensor, free: list[int], name: str) -> list[Row]:
    """Rows: nearness of the frames at the places ``free`` to the true ones, with intervals over clips."""
    n = len(fake)
    rows = [Row(f"psnr_{name}", *mean_interval(by_frame(fake[:, free], real[:, free]).mean(1)), None, "higher", n, n)]
    if min(real.shape[-2:]) >= WINDOW:
        rows.append(
            Row(f"ssim_{name}", *mean_interval(similarity(fake[:, free], real[:, free]).mean(1)), None, "higher", n, n)
        )
    return rows


def evaluate(model: Model, measure: ClipMeasure, ask: ClipAsk) -> Report:
    """Clips of held-out words and frames against the true ones. Raises RunError, DataError, MetricError."""
    recipe, facts = model.recipe, model.facts
    data: Any = recipe.open(model.run)
    held, known = some(data.held_out, measure.n or MOST), some(data.train, KNOWN)
    last, real, n = facts.frames - 1, held.x, len(held.captions)
    rows: list[Row] = []
    notes: list[str] = []
    free = list(range(1, facts.frames))
    sets = {"words": drawn_for(model, held, (), ask, "clips")}
    if facts.worded:
        rows += against(sets["words"], real, list(range(facts.frames)), "words")
    if last > 0:
        sets["first"] = drawn_for(model, held, (0,), ask, "from the first frame")
        rows += against(sets["first"], real, free, "first")
        rows.append(Row("psnr_changes", *mean_interval(changes(sets["first"], real).mean(1)), None, "higher", n, n))
        stands = by_frame(real[:, :1].expand_as(real)[:, free], real[:, free]).mean()
        notes.append(f"first frame held: psnr {float(stands):.2f}")
    if last > 1:
        sets["between"] = drawn_for(model, held, (0, last), ask, "between first and last")
        rows += against(sets["between"], real, free[:-1], "between")
        notes.append(f"flicker: unrest {flicker(sets['words'], real):.2f} times that of the real clips")
    if facts.worded and last > 0:
        curve = by_frame(sets["words"], real).mean(0).tolist()
        notes.append("psnr by frame, from words: " + " ".join(f"{value:.1f}" for value in curve))
    if n >= ENOUGH and min(real.shape[-2:]) >= 6:
        frames, moves = spaces(known.x)
        rows += compare(*(features(frames, moves, x) for x in (sets["words"], known.x, real)))
        notes.append(f"distances of clips: features of patches of 3 frames and of their differences, of {n} and {n}")
    things = strips(model, held, sets)
    return Report(
        tuple(rows), tuple(notes), {"report.png": sheet(things)},
        {"features": "patches of three frames and of their differences",
         "report.png": "of each clip: the real one, from its words, from its first frame, between its first and last"},
    )  # fmt: skip


def strips(model: Model, held: Held, sets: dict[str, Tensor]) -> list[Shown]:
    """Some real clips, each with those made for it below."""
    facts, found = model.facts, []
    for i in range(min(SHOWN, len(held.captions))):
        every = {f"real: {held.captions[i]}": held.x[i], **{name: x[i] for name, x in sets.items()}}
        found += [Shown(to_bytes(x), facts.rate, name) for name, x in every.items()]
    return found


def steps_of(model: Model, steps: int, **more: Any) -> Model:
    """The model, drawn in so many steps."""
    return dataclasses.replace(model, walk=dataclasses.replace(model.walk, steps=steps, tol=None, **more))
