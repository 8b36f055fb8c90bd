"""How time and memory grow: with the samples drawn, the training set, the side of the pictures, the batch, the processes.

    python -m benchmarks.growth          about ten minutes on 2 cores

Each point is a fresh process that does the real thing (the training loop on a memory-mapped array; `generate`), on one
thread. Seconds are the median of its steps with the middle half of them; memory is the peak of the process, in GB, less
what it had after importing everything. Two processes share a global batch over gloo, as under torchrun.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import DOCS, figure, save_figure, spread, store

ROOT = Path(__file__).parents[1]
BASE = {"side": 32, "batch": 16, "items": 2000, "processes": 1, "samples": 0}
AXES: dict[str, tuple[str, list[int]]] = {
    "batch": ("training step, batch", [4, 8, 16, 32, 64]),
    "side": ("training step, side of the pictures, patches of 4", [16, 32, 48, 64]),
    "items": ("training step, pictures in the training set", [1000, 10_000, 100_000]),
    "processes": ("training step, processes sharing a batch of 16", [1, 2]),
    "samples": ("drawing 20-step samples in batches of 16", [16, 64, 256]),
}


# ---- one point, in a process of its own -----------------------------------------------------------------------------


def one(given: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Measure one point; None in all but the first of several processes."""
    import torch

    from sfumato import networks

    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = given["side"]
    network = networks.DiT(channels=3, width=192, depth=6, patch=4)
    before = _memory()
    if given["samples"]:
        seconds, count = _draw(network, side, given["samples"], given["batch"]), given["samples"]
    else:
        seconds, count = _train(network, folder, given), 1
    if os.environ.get("RANK", "0") != "0":
        return None
    return {"seconds": spread(seconds), "memory": _memory() - before, "imported": before, "per": count}


def _memory() -> float:
    """Peak memory of this process, GB."""
    from sfumato.training.progress import memory

    return memory()


def _draw(network: Any, side: int, count: int, batch: int) -> list[float]:
    """Seconds of drawing ``count`` samples, three times (once where that is long)."""
    import torch

    from sfumato.diffusion import Blanks, Denoiser, Gaussian, Linear, dpmpp_2m, generate

    queries = Blanks(torch.zeros(3, side, side), count)
    denoiser = Denoiser(network.eval().requires_grad_(False), Gaussian(Linear(), "data", "velocity"))
    seconds = []
    for _ in range(3 if count <= 64 else 1):
        begin = time.perf_counter()
        for _ in generate(denoiser, queries, range(count), solver=dpmpp_2m(0.5), batch=batch):  # 20 steps
            pass
        seconds.append(time.perf_counter() - begin)
    return seconds


def _train(network: Any, folder: Path, given: dict[str, Any]) -> list[float]:
    """Seconds of the steps of the training loop, after the first three."""
    import numpy as np
    import torch

    from sfumato.data import ArrayDataset, Statistics
    from sfumato.diffusion import Gaussian, Linear, LogitNormal
    from sfumato.training import loop
    from sfumato.training.objective import Task
    from sfumato.training.options import TrainOptions
    from sfumato.training.parallel import launched
    from sfumato.training.run import Run

    path, shape = folder / "pictures.npy", (given["items"], 3, given["side"], given["side"])
    with launched() as runtime:
        run = Run(folder / "run")
        if runtime.first:
            written = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
            rng = np.random.default_rng(0)
            for start in range(0, len(written), 1000):
                written[start : start + 1000] = rng.integers(
                    0, 256, written[start : start + 1000].shape, dtype=np.uint8
                )
            written.flush()
            del written
            run.create()
        runtime.barrier()
        pictures = np.load(path, mmap_mode="r")
        dataset = ArrayDataset(pictures, Statistics(0.0, 1.0, len(pictures), shape[1:]))
        begun: list[float] = []
        original = loop._steps

        def watched(*arguments: Any) -> Iterator[Any]:
            source = iter(original(*arguments))
            while True:
                begun.append(time.perf_counter())  # before the data, which counts as the step's own
                try:
                    item = next(source)
                except StopIteration:
                    return
                yield item

        loop._steps = watched  # type: ignore[assignment]
        task = Task(network, Gaussian(Linear(), "data", "velocity"), dataset, dataset, LogitNormal())
        options = TrainOptions(
            steps=given["steps"],
            batch=given["batch"],
            previews=0,
            snapshots=0,
            save_seconds=1e6,
            threads=1,
            precision="fp32",
        )
        loop.train(task, run, options)
        torch.manual_seed(0)
    return [b - a for a, b in itertools.pairwise(begun[3:])]


# ---- all points --------------------------------------------------------------------------------------------------------


def run_one(given: dict[str, Any]) -> dict[str, Any]:
    """A point, measured in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        launcher = []
        if given["processes"] > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={given['processes']}"]
        command = [sys.executable, *launcher, "-m", "benchmarks.growth", "--one", json.dumps(given), "--folder", folder]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
        if ran.returncode or not answer.is_file():
            raise RuntimeError(f"growth at {given} failed: {ran.stderr[-2000:]}")
        return {**given, **json.loads(answer.read_text())}


def measure(axes: list[str], steps: int) -> dict[str, Any]:
    """{axis: [point, ...]}"""
    from sfumato.training.progress import Watch

    work = [(axis, value) for axis in axes for value in AXES[axis][1]]
    found: dict[str, list[Any]] = {axis: [] for axis in axes}
    with Watch("points", len(work), unit="points") as watch:
        for number, (axis, value) in enumerate(work):
            found[axis].append(run_one({**BASE, "steps": steps, axis: value}))
            watch.show(number + 1, f"{axis} {value}")
    return {"base": BASE, "steps": steps, "axes": found, "exponents": {a: exponents(a, p) for a, p in found.items()}}


def exponents(axis: str, points: list[dict[str, Any]]) -> dict[str, float]:
    """Slope of log seconds and log memory against the logarithm of the axis, between its last two points."""
    a, b = points[-2:]
    ratio = math.log(b[axis] / a[axis])
    found = {"seconds": math.log(b["seconds"]["median"] / a["seconds"]["median"]) / ratio}
    if min(a["memory"], b["memory"]) > 0.01:
        found["memory"] = math.log(b["memory"] / a["memory"]) / ratio
    return found


def report(facts: dict[str, Any]) -> None:
    """Print the table and draw the plot."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", "seconds (middle half)", "memory, GB", "grows as the power", title="growth")
    for axis, points in facts["axes"].items():
        for i, point in enumerate(points):
            s = point["seconds"]
            power = facts["exponents"][axis]
            last = f"{power['seconds']:.2f} in time" if i == len(points) - 1 else ""
            table.add_row(
                AXES[axis][0] if i == 0 else "", str(point[axis]),
                f"{s['median']:.3f} ({s['low']:.3f}..{s['high']:.3f})", f"{point['memory']:.3f}", last,
            )  # fmt: skip
    Console(width=140).print(table)
    draw(facts)


def draw(facts: dict[str, Any]) -> None:
    """docs/bench_growth.png: seconds above, memory below."""
    from matplotlib.ticker import LogLocator

    axes_of = list(facts["axes"])
    sheet, panels = figure(len(axes_of), 2, 2.6, 2.2)
    for column, axis in enumerate(axes_of):
        points = facts["axes"][axis]
        x = [p[axis] for p in points]
        seconds = [p["seconds"]["median"] for p in points]
        bars = [[p["seconds"]["median"] - p["seconds"]["low"] for p in points],
                [p["seconds"]["high"] - p["seconds"]["median"] for p in points]]  # fmt: skip
        panels[0][column].errorbar(x, seconds, bars, color="#2b6cb0", marker="o", ms=3, capsize=2)
        panels[1][column].plot(x, [p["memory"] for p in points], color="#dd6b20", marker="o", ms=3)
        panels[0][column].set_title(axis, fontsize=9)
        panels[0][column].set(yscale="log", ylim=(min(seconds) / 2, max(seconds) * 2))
        panels[0][column].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0][column].yaxis.set_major_formatter("{x:g}")
        panels[1][column].set_ylim(0, 1.1 * max(p["memory"] for p in points))
        for row in (0, 1):
            panels[row][column].set_xscale("log")
            panels[row][column].set_xticks(x, [str(v) for v in x])
            panels[row][column].minorticks_off()
            panels[row][column].tick_params(labelsize=7)
    panels[0][0].set_ylabel("seconds")
    panels[1][0].set_ylabel("memory, GB")
    save_figure(sheet, "bench_growth")
    assert DOCS.is_dir()


def main() -> None:
    """Measure, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    parser.add_argument("--steps", type=int, default=15, help="training steps of a point")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        found = one(json.loads(asked.one), asked.folder)
        if found is not None:
            (asked.folder / "answer.json").write_text(json.dumps(found))
        return
    facts = measure(asked.axes, asked.steps)
    store("growth", facts)
    report(facts)


if __name__ == "__main__":
    main()
