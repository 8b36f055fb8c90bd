"""Quality per second: our default recipe against diffusers, denoising-diffusion-pytorch and torchcfm, same everything.

    python -m benchmarks.seconds [--data PATH] [--seconds 240] [--seeds 0 1 2] [--samplers RESULT]

Same pictures (the demo's, or any folder), same CPU seconds of training on the same number of threads, the same number of
parameters within a tenth, three seeds, no classes, no flips. Each library trains by its own published recipe
(`benchmarks/peer_seconds.py` says which) and with the first seed is sampled with several of its own samplers, with averaged
and with last weights, at 10 and at 50 network calls; the one of least kernel distance there is its sampler for all seeds,
ours likewise, beside our defaults. Where drawing is slow the choice may be taken over from an earlier result (--samplers).
Scored on pictures as bytes: kernel distance (95 % interval), sliced Wasserstein distance, precision and recall to the
training pictures, in the features of `sfumato evaluate`. CPU seconds, not the clock's, so that a busy machine favours
nobody; the reports say how many each had. Runs that are done are kept in --folder and not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.common import COLOURS, figure, kernel_interval, save_figure, store, within_seconds
from sfumato.data import ArrayDataset
from sfumato.fields.captions import openmoji
from sfumato.fields.images.measure import features_for
from sfumato.fields.images.recipe import Images
from sfumato.jobs.evaluate import draw_samples, stacked
from sfumato.jobs.model import built, load
from sfumato.jobs.train import train
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics.coverage import precision_recall
from sfumato.metrics.distances import sliced_wasserstein
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

CALLS = (10, 50)
LIBRARIES = ("sfumato", "diffusers", "lucidrains", "torchcfm")
OURS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "ab2, auto": {"solver": "ab2", "eta": 0.0},
    "unipc, auto": {"solver": "unipc", "eta": 0.0},
    "ancestral, uniform": {"solver": "ancestral", "eta": 1.0, "grid": "uniform"},
    "dpmpp_2m eta 1, auto": {"solver": "dpmpp_2m", "eta": 1.0},
}
"""Samplers tried, as walks."""


# ---- data --------------------------------------------------------------------------------------------------------------


def prepare(data: Path | None, side: int, folder: Path) -> tuple[Images, Path, Path]:
    """Our recipe on the data, and the training pictures as an array of bytes and as PNG files for the peers."""
    from PIL import Image

    if data is None:
        data = folder / "demo_pictures"
        if not data.is_dir():
            openmoji.draw(data, 2 * side)
    recipe = Images(data, side=side, held_out=0.2)
    array, pngs = folder / "train.npy", folder / "train"
    if not array.is_file():
        run = Run(folder / "prepared")
        run.create()
        train: Any = recipe.prepare(run, lambda text: None).open(run).train
        pictures = np.asarray(train.x[train.indices])
        pngs.mkdir(exist_ok=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture.transpose(1, 2, 0)).save(pngs / f"{i:06d}.png")
        np.save(array, pictures)
    return recipe, array, pngs


# ---- ours ----------------------------------------------------------------------------------------------------------------


def ours(
    recipe: Images, seed: int, given: argparse.Namespace, out: Path, only: dict[str, str] | None
) -> dict[str, Any]:
    """Train by the default recipe for so many CPU seconds and draw with every sampler, or with the defaults and the one
    that is named for a number of calls; the pictures as bytes."""
    options = TrainOptions(seed=seed, previews=0, snapshots=0, threads=given.threads)
    options = within_seconds(recipe, options, given.seconds, out / "probe")
    begin = time.process_time()
    run = train(recipe, options, out / "run")
    taken = time.process_time() - begin
    model = load(run.path, drawing=Drawing(seed))
    network: Any = model.denoiser.network.network
    facts: dict[str, Any] = {
        "steps": options.steps, "cpu_seconds": taken, "network": type(network).__name__,
        "parameters": sum(p.numel() for p in network.parameters()), "samples": {},
    }  # fmt: skip
    for name, named in OURS.items():
        for calls in given.calls:
            if only and name not in ("defaults", only[str(calls)]):
                continue
            walk = model.walked(Walk(steps=calls, batch=min(32, given.samples), **named))
            x = draw_samples(model, given.samples, walk, name=f"{name}, {calls} calls")
            pixels = (model.facts.statistics.restore(x.numpy()) + 1) * 127.5
            path = out / f"{len(facts['samples'])}_{calls}_{name.split(',')[0].replace(' ', '_')}.npy"
            np.save(path, np.clip(np.rint(np.nan_to_num(pixels)), 0, 255).astype(np.uint8))
            facts["samples"].setdefault(name, {})[str(calls)] = str(path)
    return facts


# ---- scores --------------------------------------------------------------------------------------------------------------


def score(path: Path, statistics_: Any, known: torch.Tensor, features: Any) -> dict[str, Any]:
    """The metrics of pictures as bytes."""
    fake = features(stacked(ArrayDataset(np.load(path), statistics_)))
    both = precision_recall(known, fake)
    return {
        "kernel": kernel_interval(fake, known), "sliced": sliced_wasserstein(fake, known),
        "precision": both["precision"], "recall": both["recall"],
    }  # fmt: skip


def one(
    library: str, seed: int, given: argparse.Namespace, prepared: Any, parameters: int, only: dict[str, str] | None
) -> dict[str, Any]:
    """Train and score one library with one seed, or read what was found before. ``only``: its sampler at each number of
    calls, where that was chosen already."""
    recipe, array, pngs = prepared
    out = given.folder / f"{library}-{seed}"
    stored = out / "scores.json"
    if stored.is_file():
        return json.loads(stored.read_text())
    out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    if library == "sfumato":
        facts = ours(recipe, seed, given, out, only)
    else:
        asked = {
            "library": library, "seed": seed, "seconds": given.seconds, "parameters": parameters, "calls": given.calls,
            "pictures": str(array.resolve()), "folder": str(pngs.resolve()), "out": str(out.resolve()),
            "samples": given.samples, "threads": given.threads, "only": only,
        }  # fmt: skip
        facts = peers.run("peer_seconds", asked, given.threads)
    facts["wall_seconds"] = time.perf_counter() - begin
    data = recipe.open(Run(given.folder / "prepared"))
    real = stacked(data.train, 2000)
    features = features_for(real)
    known = features(real)
    facts["scores"] = {
        name: {calls: score(Path(path), data.facts.statistics, known, features) for calls, path in files.items()}
        for name, files in facts.pop("samples").items()
    }
    facts["floor"] = kernel_interval(features(stacked(data.held_out, 2000)), known)
    stored.write_text(json.dumps(facts, indent=1))
    return facts


def choice(scores: dict[str, Any], counts: list[int]) -> dict[str, str]:
    """The sampler of least kernel distance at every number of calls."""
    return {str(n): min(scores, key=lambda name: scores[name][str(n)]["kernel"]["value"]) for n in counts}


def chosen_before(result: Path, library: str, counts: list[int]) -> dict[str, str]:
    """The sampler that a library had at every number of calls in an earlier result of this benchmark."""
    rows = json.loads(result.read_text())["rows"]
    return {str(n): rows[f"{library}, {n} calls"]["sampler"] for n in counts}


def summary(runs: dict[str, list[dict[str, Any]]], counts: list[int]) -> dict[str, Any]:
    """Medians over seeds of each library with the sampler that was its best with the first seed, and ours over the best
    peer's."""
    rows: dict[str, Any] = {}
    for library, found in runs.items():
        for calls, name in choice(found[0]["scores"], counts).items():
            rows[f"{library}, {calls} calls"] = row([f["scores"][name][calls] for f in found]) | {"sampler": name}
    for calls in map(str, counts if "sfumato" in runs else ()):
        default = [facts["scores"]["defaults"][calls] for facts in runs["sfumato"]]
        rows[f"sfumato, defaults, {calls} calls"] = row(default) | {"sampler": "defaults"}
    ratios = {}
    for calls in counts:
        theirs = [rows[f"{n}, {calls} calls"]["kernel"]["median"] for n in runs if n != "sfumato"]
        if theirs and "sfumato" in runs:
            ratios[str(calls)] = rows[f"sfumato, {calls} calls"]["kernel"]["median"] / min(theirs)
    return {"rows": rows, "ratio_to_best_peer": ratios}


def row(found: list[dict[str, Any]]) -> dict[str, Any]:
    values = {"kernel": [f["kernel"]["value"] for f in found]}
    values |= {name: [f[name] for f in found] for name in ("sliced", "precision", "recall")}
    return {name: {"median": statistics.median(v), "low": min(v), "high": max(v)} for name, v in values.items()}


def report(facts: dict[str, Any]) -> None:
    """Print the table."""
    title = f"{facts['seconds']:.0f} CPU seconds of training, median (range) of {len(facts['seeds'])} seeds"
    table = Table("library, calls", "kernel distance", "sliced W.", "precision", "recall", "sampler", title=title)
    for name, found in facts["rows"].items():
        cells = [
            f"{found[m]['median']:.3f} ({found[m]['low']:.3f}..{found[m]['high']:.3f})" for m in ("kernel", "sliced")
        ]
        cells += [f"{found[m]['median']:.2f}" for m in ("precision", "recall")]
        table.add_row(name, *cells, found["sampler"])
    console = Console(width=170)
    console.print(table)
    for library, found in facts["runs"].items():
        console.print(library, [{k: f[k] for k in ("network", "parameters", "steps", "cpu_seconds")} for f in found])
    console.print("floor (real held-out pictures)", facts["floor"], "; ours / best peer", facts["ratio_to_best_peer"])


def draw(facts: dict[str, Any]) -> None:
    """docs/bench_seconds.png"""
    counts = facts["calls"]
    sheet, [panels] = figure(len(counts), 1, 3.6, 3.0)
    for panel, calls in zip(panels, counts, strict=True):
        names = list(facts["runs"])
        for place, name in enumerate(names):
            k = facts["rows"][f"{name}, {calls} calls"]["kernel"]
            panel.bar(place, k["median"], color=COLOURS[name], width=0.7)
            panel.plot([place, place], [k["low"], k["high"]], color="black", lw=1)
        if max(facts["rows"][f"{name}, {calls} calls"]["kernel"]["median"] for name in names) > 100:
            panel.set_yscale("log")
        panel.axhline(facts["floor"]["value"], color="#a0aec0", ls=":")
        panel.set_xticks(range(len(names)), names, fontsize=7)
        panel.set(title=f"{calls} network calls", ylabel="kernel distance" if calls == counts[0] else "")
    save_figure(sheet, "bench_seconds")


def main() -> None:
    """Measure, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="a folder of pictures (default: the demo's)")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=240.0, help="CPU seconds of training of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS), help="network calls of a sample")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument(
        "--samplers", type=Path, default=None, help="an earlier result, whose samplers are used, not chosen anew"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/seconds"), help="where runs are kept; its name is the result's"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare(asked.data, asked.side, asked.folder)
    network = built(prepared[0], prepared[0].facts(Run(asked.folder / "prepared")), 0)
    parameters = sum(p.numel() for p in network.parameters())
    runs: dict[str, list[dict[str, Any]]] = {library: [] for library in asked.libraries}
    for seed in asked.seeds:
        for library in asked.libraries:
            print(f"seed {seed}: {library}", flush=True)
            only = choice(runs[library][0]["scores"], asked.calls) if runs[library] else None
            if asked.samplers is not None:
                only = chosen_before(asked.samplers, library, asked.calls)
            runs[library].append(one(library, seed, asked, prepared, parameters, only))
    facts = {
        "data": asked.data.name if asked.data else "the demo's pictures", "seconds": asked.seconds, "seeds": asked.seeds,
        "samples": asked.samples, "calls": asked.calls, "side": asked.side, "runs": runs,
        "samplers_from": asked.samplers.stem if asked.samplers else None,
        "floor": next(iter(runs.values()))[0]["floor"], **summary(runs, asked.calls), "peers": peers.pins(),
    }  # fmt: skip
    store(asked.folder.name, facts)
    report(facts)
    if asked.folder.name == "seconds":
        draw(facts)


if __name__ == "__main__":
    main()
