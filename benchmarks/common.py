"""What the benchmarks share: where results go, how they are summed up and drawn."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.jobs.config import Configuration
from sfumato.jobs.model import task_of
from sfumato.metrics.distances import checked_pair, kernel_matrix, kernel_within
from sfumato.training.measure import measure
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
COLOURS = {
    "sfumato": "#2b6cb0", "sfumato, best": "#63b3ed", "diffusers": "#dd6b20", "k-diffusion": "#805ad5",
    "azula": "#38a169", "lucidrains": "#805ad5", "torchcfm": "#38a169",
}  # fmt: skip


def store(name: str, facts: dict[str, Any]) -> Path:
    """Write results/NAME.json with the versions and the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    path = RESULTS / f"{name}.json"
    text = json.dumps({**machine, **facts}, indent=1)
    inline = re.sub(
        r"\[[^][{}]*\]", lambda found: re.sub(r"\n *", " ", found[0]), text
    )  # a list of numbers on one line
    path.write_text(inline + "\n")
    return path


def read(name: str) -> dict[str, Any] | None:
    """results/NAME.json, or None if it was never measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and the range that holds the middle half."""
    ordered = sorted(values)
    quarter = (len(ordered) - 1) / 4

    def at(place: float) -> float:
        left = int(place)
        right = min(left + 1, len(ordered) - 1)
        return ordered[left] + (place - left) * (ordered[right] - ordered[left])

    return {"median": statistics.median(ordered), "low": at(quarter), "high": at(3 * quarter), "count": len(ordered)}


def within_seconds(recipe: Any, options: TrainOptions, seconds: float, probe: Path) -> TrainOptions:
    """The options with as many steps as fit into so many CPU seconds, by a few steps measured in the run ``probe``."""
    run = Run(probe)
    run.create()
    chosen = recipe.prepare(run, lambda text: None)
    data = chosen.open(run)
    batch = options.over(chosen.training(data, "cpu")).batch or 1
    task = task_of(Configuration(chosen, options), run, data)
    measure(task, options, batch, repeats=1)
    begin, repeats = time.process_time(), 6
    measure(task, options, batch, repeats=repeats)
    per_step = (time.process_time() - begin) / (repeats + 1)
    return dataclasses.replace(options, steps=max(1, int(seconds / per_step)), batch=batch)


def figure(columns: int, rows: int, width: float = 3.3, height: float = 2.7) -> Any:
    """An empty sheet and its axes, (rows, columns) as a list of lists."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return sheet, [[sheet.add_subplot(rows, columns, r * columns + c + 1) for c in range(columns)] for r in range(rows)]


def save_figure(sheet: Any, name: str) -> None:
    """docs/NAME.png"""
    DOCS.mkdir(exist_ok=True)
    sheet.savefig(DOCS / f"{name}.png", dpi=110)


def jackknife(fake: Tensor, real: Tensor) -> tuple[float, Tensor]:
    """Kernel distance of fake (n, d) to real (m, d), and the distances with each of the fakes left out once (n,)."""
    fake, real = checked_pair(fake, real, 4)
    count = len(fake)
    own = kernel_matrix(fake, fake, 3)
    row = own.sum(1) - own.diagonal()
    to_real = torch.cat([kernel_matrix(rows, real, 3).mean(1) for rows in fake.split(256)])
    among_real = kernel_within(real, 3)
    value = row.sum() / (count * (count - 1)) - 2 * to_real.mean() + among_real
    within = (row.sum() - 2 * row) / ((count - 1) * (count - 2))
    return float(value), within - 2 * (to_real.sum() - to_real) / (count - 1) + among_real


def left_out_interval(value: float, left_out: Tensor) -> dict[str, float]:
    """A value and its 95 % interval, by what it is with each sample left out once (n,)."""
    count = len(left_out)
    half = 1.96 * float(((count - 1) / count * (left_out - left_out.mean()).square().sum()).sqrt())
    return {"value": value, "low": value - half, "high": value + half}


def kernel_interval(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Kernel distance of fake (n, d) to real (m, d), and the 95 % interval of it over draws of the fakes, by the jackknife
    (leave one out), which unlike resampling never compares a sample with its own copy."""
    return left_out_interval(*jackknife(fake, real))
