"""The defaults, measured: solver, grid, guidance, few steps; time shift, width of the average, learning rate and network by size.

    python -m benchmarks.defaults train      networks: of each data set for each seed, and one changed choice at a time
    python -m benchmarks.defaults measure    distances, stage by stage; the best of a stage go on
    python -m benchmarks.defaults report     docs/defaults.md and its picture

Each goes on where it was left (runs/defaults, benchmarks/results/defaults.json). Two data sets with classes, at 32 pixels:
the demo's pictures, and clothing64 (photographs in ../shared/data, or where SFUMATO_SHARED says; left out where they are not
there). A third of each is held out; every second of these is validation and the others are the test part. Everything is chosen
on validation, in the space of patch statistics; the chosen and the old default are then measured on the test part, in a space
that nothing was chosen by (features of EfficientNet-Lite0), with other noise. All walks of a network are given the same noise
and labels, so differences are paired: their 95 % intervals leave one sample out at a time (jackknife), of both.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import defaults_report
from benchmarks.common import DOCS, jackknife, left_out_interval, read, store, within_seconds
from sfumato.data import ArrayDataset
from sfumato.diffusion import Blanks, LogitNormal
from sfumato.fields.captions import openmoji
from sfumato.fields.images.recipe import Images
from sfumato.jobs.config import read_config
from sfumato.jobs.evaluate import stacked
from sfumato.jobs.methods import MethodOptions
from sfumato.jobs.model import Model, load, task_of
from sfumato.jobs.train import train
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics.spaces import Space, choose
from sfumato.networks.options import NetworkOptions
from sfumato.training.loader import fetch
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.watch import held_out_loss

FOLDER = Path("runs/defaults")
SHARED = Path(os.environ.get("SFUMATO_SHARED", DOCS.parent.parent / "shared" / "data"))
"""Where clothing64 is."""
SIDE, COUNT, BATCH = 32, 80, 40
CHOOSES, REPORTS = "patches", "imagenet"
SEEDS = {"demo": (0, 1), "clothing64": (0, 1)}
SECONDS, LONGER = 60.0, 120.0
"""CPU seconds of training, and those of a network that says whether more of them change the choice."""
SMALL: dict[str, Any] = {"width": 128, "depth": 4}
LARGE: dict[str, Any] = {"width": 192, "depth": 6}
STEPS, FIRST = (5, 10, 20), (10,)
FEW = (2, 4, 8, 20)
OLD = "dpmpp_2m:eta=0.5, auto"
"""The default before this was measured."""
SOLVERS = ("dpmpp_2m:eta=0.5", "dpmpp_2m:eta=0", "unipc", "ab2", "euler:eta=0")
GRIDS = ("auto", "cosine", "uniform")
GUIDANCE = (1.0, 1.5, 2.0, 3.0)
WIDTHS = (0.02, 0.1, 0.15)
KEPT = 3


# ---- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One network: of which data, with what changed, for how many CPU seconds, from which seed."""

    data: str
    name: str
    seconds: float
    seed: int
    network: Mapping[str, Any]
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optim: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.data}/{self.name}/{self.seed}"


CHANGES: dict[str, dict[str, Any]] = {
    "time shift 0.8": {"method": {"times_mean": 0.8}},
    "time shift -0.3": {"method": {"times_mean": -0.3}},
    "width 192, depth 6": {"network": LARGE},
    "rate 4e-3": {"optim": {"lr": 4e-3}},
    "width 192, depth 6, rate 2e-3": {"network": LARGE, "optim": {"lr": 2e-3}},
    "muon": {"optim": {"kind": "muon"}},
    "cover 0.02": {"method": {"cover": 0.02}},
    "rate 1e-3": {"optim": {"lr": 1e-3}},
}
"""One choice at a time, on the demo's pictures. As it is: a shift of 0.3, a rate of 2e-3 (of the larger network 1e-3), AdamW,
width 128, depth 4."""


def trainings() -> Iterator[Training]:
    """All networks, the most needed first."""
    bases = [(seed, data) for data, seeds in SEEDS.items() if source(data) is not None for seed in seeds]
    bases.sort(key=lambda pair: pair[0])
    for seed, data in bases:
        yield Training(data, "base", SECONDS, seed, SMALL)
    for name, cover in (("longer", 0.0), ("covered", 0.02)):
        yield Training("demo", name, LONGER, 0, SMALL, {"cover": cover})
    if source("clothing64") is not None:
        yield Training("clothing64", "covered", SECONDS, 0, SMALL, {"cover": 0.02})
    for name, change in CHANGES.items():
        yield Training("demo", name, SECONDS, 0, **{"network": SMALL, **change})


def source(data: str) -> Path | None:
    """The folder of pictures, a sub-folder a class; the demo's are drawn. None where it is not at hand."""
    if data == "demo":
        folder = FOLDER / "pictures"
        if not folder.is_dir():
            openmoji.draw(folder, 2 * SIDE)
        return folder
    return SHARED / data if (SHARED / data).is_dir() else None


def trained(training: Training, steps: dict[str, int]) -> dict[str, Any]:
    """Train one network in its folder; ``steps`` remembers how many fit into the seconds, for networks of the same size."""
    out = FOLDER / training.key.replace(" ", "_").replace(",", "")
    folder = source(training.data)
    assert folder is not None
    recipe = Images(
        folder, side=SIDE, labels=True, held_out=0.3, network=NetworkOptions(**training.network),
        method=MethodOptions(**{"cover": 0.0, **training.method}),
    )  # fmt: skip
    options = TrainOptions(
        seed=training.seed, previews=0, threads=1, save_seconds=1e6, optim=OptimOptions(**training.optim)
    )
    cost = json.dumps([training.seconds, training.network, training.optim.get("kind")])
    if cost not in steps:
        steps[cost] = fitting(training, recipe, options, steps, out / "probe")
    begin = time.process_time()
    run = train(recipe, dataclasses.replace(options, steps=steps[cost]), out / "run", lambda text: None)
    model = load(run.path)
    network: Any = model.denoiser.network.network
    return {
        **dataclasses.asdict(training), "steps": steps[cost], "cpu_seconds": round(time.process_time() - begin, 1),
        "parameters": sum(p.numel() for p in network.parameters()), "run": str(run.path),
        "held_out": held_out(model),
    }  # fmt: skip


def fitting(training: Training, recipe: Images, options: TrainOptions, steps: dict[str, int], probe: Path) -> int:
    """Steps for so many CPU seconds. The usual network is measured once, and beside every other one: then a busy machine
    slows both."""
    usual = (
        dataclasses.replace(recipe, network=NetworkOptions(**SMALL)),
        dataclasses.replace(options, optim=OptimOptions()),
    )
    same = (recipe, options) == usual
    if not same or "a second" not in steps:
        now = within_seconds(*usual, training.seconds, probe / "usual").steps or 1
        steps.setdefault("a second", round(now / training.seconds))
    count = steps["a second"] * training.seconds
    if same:
        return round(count)
    return round(count * (within_seconds(recipe, options, training.seconds, probe / "other").steps or 1) / now)


# ---- parts, and the loss on one ------------------------------------------------------------------------------------------


def part(dataset: Any, name: str) -> Any:
    """Every second of the items held out: "validation", or "test"."""
    own = np.asarray(dataset.indices)[{"validation": 0, "test": 1}[name] :: 2]
    return dataclasses.replace(dataset, indices=own)


def held_out(model: Model) -> float:
    """The loss on validation under the usual distribution of times, whatever the network was trained with."""
    data = model.recipe.open(model.run)
    task = dataclasses.replace(task_of(read_config(model.run), model.run, data), times=LogitNormal(0.3, 1.0))
    some = part(data.held_out, "validation")
    batches = [fetch(some, range(i, min(i + 64, len(some), 256))) for i in range(0, min(len(some), 256), 64)]
    return held_out_loss(task, model.denoiser, batches)


# ---- samples -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """Samples of one network by one walk, for the labels of a part. ``steps`` are calls of the network, of each side of
    guidance. width: of the average, None for the first that the run kept."""

    training: str
    walk: str
    steps: int
    w: float = 1.5
    part: str = "validation"
    width: float | None = None

    @property
    def key(self) -> str:
        width = "" if self.width is None else f", average {self.width}"
        return f"{self.training}: {self.walk}, {self.steps} steps, w {self.w:g}, {self.part}{width}"

    @property
    def group(self) -> str:
        """All but the number of steps and the network: what a choice is made between."""
        return f"{self.walk}, w {self.w:g}" + ("" if self.width is None else f", average {self.width}")


class Bench:
    """What is known so far, and the features of data that are compared with again and again."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = read("defaults") or {}
        for name in ("steps", "trainings", "cells", "stages"):
            self.facts.setdefault(name, {})
        self.models: dict[Any, Model] = {}
        self.known: dict[Any, tuple[Space, Tensor]] = {}

    def save(self) -> None:
        store("defaults", self.facts)

    def model(self, cell: Cell) -> Model:
        key = cell.training, cell.width
        if key not in self.models:
            about = self.facts["trainings"][cell.training]
            self.models = {key: load(about["run"], drawing=Drawing(about["seed"], cell.width))}  # one at a time
        return self.models[key]

    def samples(self, cell: Cell) -> Path:
        """The bytes of the pictures, drawn once."""
        path = FOLDER / "samples" / f"{hashlib.sha256(cell.key.encode()).hexdigest()[:24]}.npy"
        if not path.is_file():
            model = self.model(cell)
            labels = labels_of(part(model.recipe.open(model.run).held_out, cell.part))
            queries = Blanks(torch.zeros(model.facts.shape), len(labels), {"label": labels})
            solver, grid = cell.walk.split(", ")
            walk = model.walked(Walk(steps=cell.steps, solver=solver, grid=grid, w=cell.w, batch=BATCH))
            with torch.no_grad():
                parts = list(model.draw(queries, range(len(labels)), walk=walk, stream=("defaults", cell.part)))
            path.parent.mkdir(parents=True, exist_ok=True)
            items = np.stack(model.facts.items(torch.cat([each.x for each in parts]).numpy()))
            np.save(path, items.transpose(0, 3, 1, 2))
        return path

    def space(self, cell: Cell, name: str) -> tuple[Space, Tensor]:
        """A space fitted on what was learned from, and the features of a part in it."""
        data = cell.training.split("/")[0]
        if (data, name, cell.part) not in self.known:
            about = self.facts["trainings"][cell.training]
            model = load(about["run"])
            prepared = model.recipe.open(model.run)
            real, statistics = stacked(prepared.train, 2000), model.facts.statistics
            space = choose(name, real, lambda x: torch.from_numpy(statistics.restore(x.numpy())))
            self.known[data, name, cell.part] = space, space(stacked(part(prepared.held_out, cell.part), 500)).double()
        return self.known[data, name, cell.part]

    def score(self, cell: Cell, name: str = CHOOSES) -> tuple[float, Tensor]:
        """Kernel distance to the part, and the same with each sample left out once (n,); noted."""
        space, known = self.space(cell, name)
        kept = self.samples(cell).with_suffix(f".{name}.npy")
        if kept.is_file():
            values = torch.from_numpy(np.load(kept))
        else:
            model = load(self.facts["trainings"][cell.training]["run"])
            fake = space(stacked(ArrayDataset(np.load(self.samples(cell)), model.facts.statistics))).double()
            value, left_out = jackknife(fake, known)
            values = torch.cat([torch.tensor([value], dtype=torch.float64), left_out])
            np.save(kept, values.numpy())
        self.facts["cells"].setdefault(name, {})[cell.key] = left_out_interval(float(values[0]), values[1:])
        return float(values[0]), values[1:]


def labels_of(dataset: Any) -> Tensor:
    """The labels of at most COUNT items, evenly spread."""
    count = min(COUNT, len(dataset))
    return fetch(dataset, [i * len(dataset) // count for i in range(count)]).condition["label"]


# ---- stages ------------------------------------------------------------------------------------------------------------


def compared(
    bench: Bench, asked: Sequence[Cell], than: Cell, networks: Sequence[str], steps: Sequence[int], name: str = CHOOSES
) -> dict[str, Any]:
    """Every choice's distance, the mean over the steps, by network; and its paired difference from ``than``'s.

    Returns {group: {"networks": {network: {"kernel", "difference"}}, "ratio"}}, where the ratio is that of the sums, its mean
    over the data sets.
    """
    found: dict[str, Any] = {}
    old: dict[str, tuple[float, Tensor]] = {}
    for network in networks:  # one network is loaded at a time
        for cell in (than, *asked):
            own = [bench.score(dataclasses.replace(cell, training=network, steps=n), name) for n in steps]
            value, left_out = sum(v for v, _ in own) / len(own), torch.stack([rest for _, rest in own]).mean(0)
            old.setdefault(network, (value, left_out))
            before, rest = old[network]
            of = found.setdefault(cell.group, {"networks": {}})["networks"]
            of[network] = {
                "kernel": left_out_interval(value, left_out),
                "difference": left_out_interval(value - before, left_out - rest),
            }
            print(f"{name} {network} {cell.group}: {value:.4f}, {value - before:+.4f}", flush=True)
        bench.save()
    for row in found.values():
        ratios = []
        for data in dict.fromkeys(network.split("/")[0] for network in networks):
            mine = [network for network in networks if network.startswith(f"{data}/")]
            ratios.append(sum(row["networks"][n]["kernel"]["value"] for n in mine) / sum(old[n][0] for n in mine))
        row["ratio"] = sum(ratios) / len(ratios)
    return dict(sorted(found.items(), key=lambda pair: pair[1]["ratio"]))


def measure(bench: Bench) -> None:
    """All stages, each once."""
    base = [key for key in bench.facts["trainings"] if "/base/" in key]
    first = [key for key in base if key.endswith("/0")]
    stages = bench.facts["stages"]

    def stage(name: str, *arguments: Any) -> dict[str, Any]:
        if name not in stages:
            stages[name] = compared(bench, *arguments)
            bench.save()
        return stages[name]

    old = Cell("", OLD, 0)
    walks = [f"{solver}, {grid}" for solver in SOLVERS for grid in GRIDS]
    all_walks = [Cell("", walk, 0) for walk in walks if walk != OLD]
    ranked = list(stage("walks", all_walks, old, first, FIRST))
    best = [group.rsplit(", w ", 1)[0] for group in ranked]
    finalists = [Cell("", walk, 0) for walk in best if walk != OLD][:KEPT]
    winner = next(iter(stage("finalists", finalists, old, base, STEPS))).rsplit(", w ", 1)[0]
    guided = [
        Cell("", walk, 0, w) for walk in dict.fromkeys((winner, OLD)) for w in GUIDANCE if (walk, w) != (OLD, 1.5)
    ]
    strength = float(next(iter(stage("guidance", guided, old, base, FIRST))).rsplit(" ", 1)[1])
    averages = [Cell("", winner, 0, strength, width=width) for width in WIDTHS]
    stage("averages", averages, Cell("", winner, 0, strength), first, (20,))
    if "demo/longer/0" in bench.facts["trainings"]:
        stage("longer", [Cell("", winner, 0), Cell("", winner, 0, strength)], old, ["demo/longer/0"], STEPS)
    long = [key for key in ("demo/covered/0", "demo/longer/0") if key in bench.facts["trainings"]]
    if len(long) == 2:
        for n in FEW:
            stage(f"few, {n}", [Cell("", winner, 0), Cell("", "unipc, auto", 0)], old, long, (n,))
    if covered := [key for key in bench.facts["trainings"] if "/covered/" in key]:
        stage("covered", [Cell("", winner, 0), Cell("", "unipc, auto", 0)], old, covered, STEPS)
    pairs = dict.fromkeys([(winner, strength), (winner, 1.5), (OLD, strength)])
    chosen = [Cell("", walk, 0, w, "test") for walk, w in pairs if (walk, w) != (OLD, 1.5)]
    for name in (REPORTS, CHOOSES):
        stage(f"test, {name}", chosen, dataclasses.replace(old, part="test"), base, STEPS, name)
    changes = [key for key in bench.facts["trainings"] if key.split("/")[1] in CHANGES]
    if "changes" not in stages or len(stages["changes"]) < len(changes):
        walk = Cell("", winner, 20, 1.0)
        same = bench.score(dataclasses.replace(walk, training="demo/base/0"))
        stages["changes"] = {}
        for key in changes:
            value, left_out = bench.score(dataclasses.replace(walk, training=key))
            stages["changes"][key] = {
                "held_out": bench.facts["trainings"][key]["held_out"], "kernel": left_out_interval(value, left_out),
                "difference": left_out_interval(value - same[0], left_out - same[1]),
            }  # fmt: skip
        bench.save()


def main() -> None:
    """Train, measure or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure", "report"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "report":
        return defaults_report.write()
    bench = Bench()
    if asked.what == "measure":
        return measure(bench)
    for training in trainings():
        if training.key not in bench.facts["trainings"]:
            bench.facts["trainings"][training.key] = trained(training, bench.facts["steps"])
            bench.save()
            print(training.key, bench.facts["trainings"][training.key]["held_out"], flush=True)
    return None


if __name__ == "__main__":
    main()
