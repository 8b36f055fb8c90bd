"""Quality per network call: our solvers and grids on one trained network.

    python -m benchmarks.calls [--run RUN] [--count 64]       about 12 minutes on 1 core

Kernel distance of samples to the training pictures, in the features of `sfumato evaluate`, with the 95 % interval over
draws of the samples, at 5, 10, 20 and 50 network calls, every solver from the same noises. The floor is that of real
held-out pictures. Without --run a model of the demo's pictures and their classes is trained first into runs/calls.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import figure, kernel_interval, save_figure, store
from sfumato.fields.captions import openmoji
from sfumato.fields.images.measure import features_for
from sfumato.jobs.config import read_config
from sfumato.jobs.evaluate import stacked
from sfumato.jobs.model import load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.progress import Watch

CALLS = (5, 10, 20, 50)
SOLVERS = {
    "euler": "euler:eta=0", "heun": "heun", "dpmpp_2m": "dpmpp_2m:eta=0", "dpmpp_2m, eta 0.5": "dpmpp_2m:eta=0.5",
    "ab2": "ab2", "ab3": "ab3", "unipc3": "unipc", "ancestral": "ancestral",
}  # fmt: skip
"""Solvers by the name of their curve, as `--solver` spells them."""
GRIDS = ("auto", "cosine", "uniform", "karras", "logsnr")


def steps_for(solver: str, calls: int) -> int:
    """The most steps that need no more calls: Heun's method makes two a step, but for the last."""
    return (calls + 1) // 2 if solver == "heun" else calls


def measure(run: Path, count: int, solvers: list[str], grids: list[str], seed: int, batch: int) -> dict[str, Any]:
    """{"solver, grid": {calls: interval}}, and the floor."""
    torch.set_num_threads(1)
    model = load(run, drawing=Drawing(seed))
    data = model.recipe.open(model.run)
    real, held_out = stacked(data.train, 2000), stacked(data.held_out, 2000)
    features = features_for(real)
    known = features(real)
    queries = model.recipe.queries(model, model.recipe.Ask(), count)
    found: dict[str, Any] = {}
    work = [(solver, grid, calls) for solver in solvers for grid in grids for calls in CALLS]
    total, done = sum(calls for *_, calls in work), 0
    with Watch("sampling", total * count, unit="calls") as watch:
        for solver, grid, calls in work:
            asked = Walk(steps=steps_for(solver, calls), solver=SOLVERS[solver], grid=grid, batch=batch, w=1.0)
            parts = model.draw(queries, range(count), walk=model.walked(asked))  # w of 1: one call is one call
            samples = torch.cat([part.x.cpu() for part in parts])
            done += calls
            watch.show(done * count, f"{solver}, {grid}, {calls}")
            finite = bool(samples.isfinite().all())
            interval = kernel_interval(features(samples), known) if finite else None
            found.setdefault(f"{solver}, {grid}", {})[str(calls)] = interval
    return {
        "run": {"name": run.name, "steps": read_config(model.run).training.steps, "shape": list(model.facts.shape)},
        "count": count, "seed": seed, "curves": found, "floor": kernel_interval(features(held_out), known),
    }  # fmt: skip


def report(facts: dict[str, Any]) -> None:
    """Print the table and draw the plot."""
    title = f"kernel distance to training pictures, {facts['count']} samples, 95 % intervals"
    table = Table("solver, grid", *(f"{n} calls" for n in CALLS), title=title)
    for name, curve in facts["curves"].items():
        table.add_row(name, *(shown(curve[str(n)]) for n in CALLS))
    table.add_row("floor: real held-out pictures", shown(facts["floor"]))
    Console(width=150).print(table)
    draw(facts)


def shown(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "NaN"
    return f"{interval['value']:.3f} ({interval['low']:.3f}..{interval['high']:.3f})"


def draw(facts: dict[str, Any]) -> None:
    """docs/bench_calls.png: a panel for each grid, a line for each solver; lines that fail leave the frame."""
    grids = list(dict.fromkeys(name.rsplit(", ", 1)[1] for name in facts["curves"]))
    sheet, [panels] = figure(len(grids), 1, 3.0, 3.0)
    values = sorted(i["value"] for curve in facts["curves"].values() for i in curve.values() if i)
    low, high = min(0.0, values[0]) - 0.05, 1.1 * values[int(0.9 * (len(values) - 1))]
    for panel, grid in zip(panels, grids, strict=True):
        for name, curve in facts["curves"].items():
            solver, own = name.rsplit(", ", 1)
            if own == grid:
                points = [(n, curve[str(n)]["value"]) for n in CALLS if curve[str(n)]]
                panel.plot(*zip(*points, strict=True), label=solver, lw=1, marker="o", ms=3)
        panel.axhline(facts["floor"]["value"], color="#a0aec0", ls=":", lw=1)
        panel.set(xscale="log", xlabel="network calls", title=f"{grid} grid", ylim=(low, high))
        panel.set_xticks(CALLS, [str(n) for n in CALLS])
        panel.minorticks_off()
    panels[0].set_ylabel("kernel distance (dotted: real pictures)")
    panels[0].legend(frameon=False, fontsize=6)
    save_figure(sheet, "bench_calls")


def main() -> None:
    """Measure, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/calls"), help="a trained run of pictures")
    parser.add_argument("--count", type=int, default=64, help="samples of each")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=SOLVERS)
    parser.add_argument("--grids", nargs="+", default=list(GRIDS), choices=GRIDS)
    asked = parser.parse_args()
    if not (asked.run / "config.yaml").is_file():
        pictures = asked.run.parent / f"{asked.run.name}_pictures"
        if not pictures.is_dir():
            openmoji.draw(pictures, 64)
        command = [sys.executable, "-m", "sfumato.cli", "train", str(pictures), "--side", "32", "--labels", "--held-out", "0.2",
                   "--network.width", "128", "--network.depth", "4", "--minutes", "4", "--out", str(asked.run)]  # fmt: skip
        print(f"{asked.run} is not there: training it", flush=True)
        subprocess.run(command, check=True)
    facts = measure(asked.run, asked.count, asked.solvers, asked.grids, asked.seed, asked.batch)
    store("calls", facts)
    report(facts)


if __name__ == "__main__":
    main()
