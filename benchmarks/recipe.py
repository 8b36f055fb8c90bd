"""The default recipe against plain DDPM: same pictures, same network, same seconds, three seeds.

    python -m benchmarks.recipe [--seconds 150] [--seeds 3]

Plain DDPM (Ho 2020): noise answer, linear betas, uniform times, exponential average of decay 0.9999, ancestral
sampling with the guessed data clipped to the range of pixels, as its code does. That average hardly moves in a short
run, so DDPM is also shown with our power-function average. Both models are sampled with both samplers at 5, 10, 20 and
50 steps, and scored by kernel distance and sliced Wasserstein distance to the training pictures in the features of
`sfumato evaluate`, beside the floor of real held-out pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sfumato.diffusion import clip
from sfumato.fields.captions import openmoji
from sfumato.fields.images.measure import features_for
from sfumato.fields.images.recipe import Images
from sfumato.jobs import train as jobs_train
from sfumato.jobs.config import Configuration
from sfumato.jobs.evaluate import draw_samples, stacked
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.model import Model, load, task_of
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics.distances import kernel_distance, sliced_wasserstein
from sfumato.training import checkpoint, loop
from sfumato.training.ema import PowerEMA
from sfumato.training.measure import measure
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

STEPS = (5, 10, 20, 50)
BATCH = 16  # what `sfumato train` chooses on a CPU
SAMPLERS = {
    "dpmpp_2m, eta 0.5, auto grid": ("dpmpp_2m", 0.5, "auto"),
    "ancestral, uniform grid": ("ancestral", 1.0, "uniform"),
}
DDPM = MethodOptions(schedule="vp", predicts="noise", loss_in=None, times="uniform")


class AlsoConstant(PowerEMA):
    """The averages of the loop, and beside them the exponential one of decay 0.9999 that DDPM's code keeps."""

    latest: ClassVar[dict[str, Tensor]] = {}

    def __init__(self, parameters: Mapping[str, Tensor], *arguments: Any) -> None:
        super().__init__(parameters, *arguments)
        AlsoConstant.latest = {name: tensor.detach().clone() for name, tensor in parameters.items()}

    def update(self, parameters: Mapping[str, Tensor], step: int, previous: int) -> None:
        super().update(parameters, step, previous)
        names = list(parameters)
        torch._foreach_lerp_([AlsoConstant.latest[n] for n in names], [parameters[n].detach() for n in names], 1e-4)


def train(folder: Path, pictures: Path, method: MethodOptions, seed: int, steps: int) -> Path:
    """One run; returns its directory."""
    out = folder / f"{method.predicts}-{seed}"
    recipe = Images(pictures, side=32, labels=True, held_out=0.2, method=method)
    loop.PowerEMA = AlsoConstant  # type: ignore[misc]
    try:
        options = TrainOptions(steps=steps, batch=BATCH, seed=seed, previews=0, snapshots=0, save_seconds=1e6)
        jobs_train.train(recipe, options, out, lambda text: None)
    finally:
        loop.PowerEMA = PowerEMA  # type: ignore[misc]
    return out


def clipped(model: Model, lowest: float, highest: float) -> Model:
    """The model with its guessed data held within the range of the training data."""
    return dataclasses.replace(model, denoiser=clip(model.denoiser, lowest, highest))  # type: ignore[arg-type]


def score(out: Path, seed: int, samples: int, bounded: bool) -> dict[str, dict[str, dict[int, tuple[float, float]]]]:
    """sampler -> steps -> (kernel distance, sliced Wasserstein), and the floor under "floor"."""
    model = load(out, drawing=Drawing(seed))
    data = model.recipe.open(model.run)
    real, held_out = stacked(data.train), stacked(data.held_out)
    features = features_for(real)
    known = features(real)
    if bounded:
        model = clipped(model, float(real.min()), float(real.max()))
    found: dict[str, Any] = {
        "floor": {0: (kernel_distance(features(held_out), known), sliced_wasserstein(features(held_out), known))}
    }
    for name, (solver, eta, grid) in SAMPLERS.items():
        for steps in STEPS:
            walk = model.walked(Walk(steps=steps, solver=solver, eta=eta, grid=grid, batch=32, w=1.0))
            drawn = draw_samples(model, min(samples, len(held_out)), walk, name=f"{out.name} {name} {steps}")
            fake = features(drawn)
            found.setdefault(name, {})[steps] = (kernel_distance(fake, known), sliced_wasserstein(fake, known))
    return found


def with_weights(out: Path, weights: Mapping[str, Tensor]) -> None:
    """Give a run other weights to be sampled from."""
    from safetensors import safe_open

    with safe_open(out / "model.safetensors", "pt") as file:
        metadata = dict(file.metadata())
    stored = checkpoint.read_tensors(out / "model.safetensors")
    checkpoint.save_weights(out / "model.safetensors", {**stored, **weights}, metadata)


def main() -> None:
    """Run all, print a table, store JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=208)
    asked = parser.parse_args()
    results: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = folder / "pictures"
        openmoji.draw(pictures, 64)
        steps = 0
        for seed in range(asked.seeds):
            for name, method in (("sfumato", MethodOptions()), ("ddpm", DDPM)):
                if not steps:  # the network is the same and so is the loop: equal steps are equal seconds
                    run = Run(folder / "probe")
                    run.create()
                    recipe = Images(pictures, side=32, labels=True, held_out=0.2).prepare(run, lambda text: None)
                    cost = measure(task_of(Configuration(recipe), run), TrainOptions(), BATCH, repeats=8)
                    steps = int(asked.seconds / cost.seconds)
                out = train(folder, pictures, method, seed, steps)
                results.setdefault(name, []).append(score(out, seed, asked.samples, bounded=name == "ddpm"))
                if name == "ddpm":
                    with_weights(out, AlsoConstant.latest)
                    results.setdefault("ddpm, average 0.9999", []).append(score(out, seed, asked.samples, bounded=True))
    report(results, steps, asked)


def report(results: dict[str, list[Any]], steps: int, asked: argparse.Namespace) -> None:
    """Medians over seeds, and their range."""
    table = Table(
        "model",
        "sampler",
        *(f"{n} steps" for n in STEPS),
        title=f"kernel distance / sliced Wasserstein, median (range) of {asked.seeds} seeds, {steps} steps of training each",
    )

    def cell(rows: list[tuple[float, float]]) -> str:
        kd, sw = ([row[i] for row in rows] for i in (0, 1))
        return f"{statistics.median(kd):.4f} ({min(kd):.4f}..{max(kd):.4f}) / {statistics.median(sw):.3f}"

    for name, seeds in results.items():
        for sampler in SAMPLERS:
            table.add_row(name, sampler, *(cell([found[sampler][n] for found in seeds]) for n in STEPS))
    floor = [found["floor"][0] for found in results["sfumato"]]
    table.add_row("floor: real held-out pictures", "", cell(floor))
    Console(width=190).print(table)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    facts = {
        "seconds": asked.seconds,
        "training_steps": steps,
        "torch": torch.__version__,
        "ddpm": dataclasses.asdict(DDPM),
    }
    (folder / "recipe.json").write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
