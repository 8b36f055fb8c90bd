"""How the quality of a run grew while it was trained, by the averages that it kept, and where that leads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.data.sheet import to_bytes
from sfumato.fields.captions.measure import KNOWN, MOST, drawn_for, some
from sfumato.fields.captions.shown import Shown, sheet
from sfumato.jobs.config import read_config
from sfumato.jobs.model import Model, load

if TYPE_CHECKING:
    from sfumato.training.run import Run

SHARES = (0.25, 0.5, 1.0)
"""Of the steps of a run. It keeps eight averages unless told otherwise, these among them."""
COUNT, SHOWN = 96, 12


@dataclass(frozen=True)
class Grown:
    """After so many minutes of training: kernel distance of samples to the pictures held out, its 90 % interval, and the
    held-out loss, where it was looked at just then."""

    minutes: float
    distance: float
    low: float
    high: float
    loss: float | None = None


def growth(model: Model, path: Path) -> list[Grown]:
    """The run after a quarter, a half and all of its steps: samples of the same noise, for captions held out, measured; and a
    sheet of some of them, a row each, at ``path``.

    Nothing, and no sheet, of a run that kept no averages of these steps. Raises CheckpointError for a damaged one.
    """
    from sfumato.metrics.spaces import choose
    from sfumato.metrics.table import interval, kernel_distances
    from sfumato.training.ema import read_snapshots

    recipe: Any = model.recipe
    run, data = model.run, recipe.open(model.run)
    width = read_config(run).training.ema[0]
    kept = {each.step: each.weights for each in read_snapshots(run.snapshots) if each.width == width}
    steps = [step for share in SHARES if (step := round(share * max(kept, default=0))) in kept]
    if not steps:
        return []
    known, held, every = some(data.train, KNOWN).x, some(data.held_out, COUNT, told=True), some(data.held_out, MOST)
    drawn = []
    for step in steps:
        then = replace(load(run.path, drawing=model.drawing), walk=model.walk)
        then.denoiser.network.network.load_state_dict(dict(kept[step]))
        drawn.append(drawn_for(then, held, name=f"after {step} steps"))
    space, count = choose("patches", known, lambda x: x), len(held.captions)
    whole, parts = kernel_distances([space(x).double() for x in drawn], space(every.x).double())
    columns = min(SHOWN, count)
    spread = [i * count // columns for i in range(columns)]
    things = [Shown(pixels, held.captions[i]) for x in drawn for pixels, i in zip(to_bytes(x[spread].numpy()), spread)]
    sheet(things, columns, 900).save(path)
    clock, losses = minutes(run), {r["step"]: r["held_out"] for r in run.records() if "held_out" in r}
    return [
        Grown(clock(step), float(whole[i]), *interval(float(whole[i]), parts[:, i], count), losses.get(step))
        for i, step in enumerate(steps)
    ]


def minutes(run: Run) -> Callable[[int], float]:
    """A function that says after how many minutes of training a step was made, by the times of log.jsonl."""
    import numpy as np

    records = [(record["step"], record["time"]) for record in run.records() if "loss" in record]
    steps, times = np.array(records, dtype=np.float64).T
    pace = (times[-1] - times[0]) / max(
        1.0, steps[-1] - steps[0]
    )  # the first line is written some steps after the start
    return lambda step: float(np.interp(step, steps, times) - times[0] + pace * min(steps[0], step)) / 60


def words(grown: Sequence[Grown]) -> Iterator[str]:
    """What was measured, and where it leads if it goes on: in lines for a person."""
    if not grown:
        return
    yield "how quality grew: distance of samples to real pictures that were not trained on (0: none; 90 % intervals)"
    for each in grown:
        loss = "" if each.loss is None else f"   held-out loss {each.loss:.4f}"
        yield f"  {each.minutes:5.1f} min   {each.distance:.3f} ({each.low:.3f}..{each.high:.3f}){loss}"
    first, last = grown[0], grown[-1]
    doublings = math.log2(last.minutes / first.minutes) if last.minutes > first.minutes > 0 else 0.0
    if last.low <= 0:
        yield "  so few samples are not told from real pictures by this number; more minutes show in them, and in the loss"
        return
    if doublings == 0:
        return
    factor = (last.distance / first.distance) ** (1 / doublings) if first.distance > 0 else 1.0
    if factor >= 1:
        yield "  more minutes do not show in this number; look at the pictures"
        return
    later = [(k * last.minutes, last.distance * factor ** math.log2(k)) for k in (2, 4)]
    yield (
        f"  each doubling left {factor:.0%} of the distance; if that goes on: "
        + ", ".join(f"{value:.3f} after {time:.0f} min" for time, value in later)
    )
