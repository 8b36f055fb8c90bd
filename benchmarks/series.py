"""Series: forecasts of M4 hourly and weekly, ETTh1 and exchange rates beside seasonal naive and ridges; gaps of ETTh1 filled.

    python -m benchmarks.series DATA train --set hourly [--seed 0]
    python -m benchmarks.series DATA score --set hourly [--seed 0 --held -n 256 --solver S --steps N --grid G --map RUN]
    python -m benchmarks.series DATA map --set weekly [--seed 0 --cost 0.6]
    python -m benchmarks.series DATA fill --set etth1 --share 0.3 [--seed 0 --blocks]
    python -m benchmarks.series DATA report
    python -m benchmarks.series DATA all

DATA is ../shared/data. One configuration for all sets, that of `sfumato train series` without options: what is told here is
what the data are (their step, and how many windows are kept). M4: the last window of each series; ETTh1: the last 20 windows of
48 hours of 7 channels; exchange rates: the last fifth in windows of 24. Settings were chosen on the windows held out (--held),
which lie before those. Runs and scores lie in FOLDER (--out); ``report`` makes benchmarks/results/series.json of what is there
and prints it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import store
from sfumato.fields.series.data import Store
from sfumato.fields.series.filling import fill
from sfumato.fields.series.measure import cases, measured
from sfumato.fields.series.options import ForecastAsk, SeriesMeasure
from sfumato.fields.series.recipe import Series
from sfumato.fields.series.report import SCORES, ratios, table
from sfumato.fields.series.spreading import calibrate
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.distill import distill
from sfumato.jobs.model import Model, load
from sfumato.jobs.train import train
from sfumato.jobs.walk import Walk
from sfumato.metrics.forecast import crps
from sfumato.training.options import TrainOptions

SETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "hourly": ("m4_hourly.npz", {"freq": "h"}),
    "weekly": ("m4_weekly.npz", {"freq": "W"}),
    "etth1": ("series/ETTh1.csv", {"test": 20}),
    "exchange": ("series/exchange_rate.txt.gz", {"horizon": 24, "season": 1, "test": 63}),
}
PATHS, DRAWS = 256, 100


def recipe(data: Path, out: Path, name: str) -> Series:
    """The set as a recipe; M4's arrays are taken apart first."""
    file, told = SETS[name]
    if not file.startswith("m4_"):
        return Series(data / file, **told)
    path = out / file
    if not path.is_file():
        kept = np.load(data / "series" / "m4.npz", allow_pickle=False)
        np.savez(path, values=kept[f"{name}_values"].astype(float), offsets=kept[f"{name}_offsets"].astype(int),
                 ids=kept[f"{name}_ids"].astype("S"))  # fmt: skip
    return Series(path, **told)


def trained(args: argparse.Namespace) -> None:
    """A run of the usual configuration."""
    begin = time.process_time()
    made = recipe(args.data, args.out, args.set)
    train(
        made,
        TrainOptions(seed=args.seed, threads=1, previews=4, steps=500 if args.set == "exchange" else None),
        run_of(args),
    )
    (run_of(args) / "seconds.json").write_text(json.dumps({"cpu_seconds": time.process_time() - begin}))


def run_of(args: argparse.Namespace) -> Path:
    return Path(args.out) / f"{args.set}{args.seed}"


def converted(args: argparse.Namespace) -> None:
    """A flow map of a run, its spread measured on the windows held out."""
    out = Path(f"{run_of(args)}-map")
    distill(run_of(args), DistillOptions(cost=args.cost), TrainOptions(threads=1, previews=0), out)
    calibrate(load(out, Walk(steps=1)))


def scored(args: argparse.Namespace) -> None:
    """Scores of a run on the kept windows (or those held out), with ratios to the bars."""
    walk = Walk(steps=args.steps, solver=args.solver, grid=args.grid)
    model = load(Path(args.map) if args.map else run_of(args), walk)
    begin = time.process_time()
    found = measured(model, cases(model, SeriesMeasure(n=args.n, held=args.held), ForecastAsk()), args.n)
    seconds = time.process_time() - begin
    scores = found.scores
    every = {name: {score: scores.value(name, score) for score in SCORES} for name in scores.by}
    told = {
        "set": args.set,
        "seed": args.seed,
        "held": args.held,
        "paths": args.n,
        "windows": len(scores.groups),
        "cpu_seconds": seconds,
        "walk": vars(model.walk),
        "factor": model.companions.spread.of(model.walk),
        "scores": every,
        "ratios": ratios(scores),
        "intervals": {score: scores.interval("sfumato", score) for score in ("wql", "mase", "sp")},
        "won": scores.won("sfumato", "ridge, own scale"),
    }
    word = f"{args.set}{args.seed}{'-held' if args.held else ''}{'-' + args.word if args.word else ''}"
    (Path(args.out) / f"{word}.score.json").write_text(json.dumps(told, indent=1, default=str))
    print(table(scores))
    for name, value in told["ratios"].items():
        print(f"{name}: {value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]")


# ---- filling ---------------------------------------------------------------------------------------------------------


def hidden(values: np.ndarray, share: float, blocks: int, chance: np.random.Generator) -> np.ndarray:
    """Which steps are taken away, at random or in blocks; never the first of a series and the last."""
    gone = np.zeros(len(values), bool)
    if blocks:
        while gone.mean() < share:
            at = int(chance.integers(blocks, len(values) - 2 * blocks))
            gone[at : at + blocks] = True
    else:
        gone[3:-1] = chance.uniform(size=len(values) - 4) < share
    return gone & np.isfinite(values)


def linear(values: np.ndarray) -> np.ndarray:
    """Between neighbours."""
    there = np.isfinite(values)
    return np.interp(np.arange(len(values)), np.flatnonzero(there), values[there])


def filled(args: argparse.Namespace) -> None:
    """Gaps made in the part of each series that is kept: CRPS and coverage beside linear interpolation, and the value a season
    before, each with its own errors on gaps made in the same way before that part."""
    model = load(run_of(args))
    whole, leads = model.companions.store, model.facts.horizon
    chance, blocks = np.random.default_rng(0), model.facts.season if args.blocks else 0
    back = model.facts.past + 6 * leads
    test = model.facts.test * leads
    parts, gone, rivals = [], [], {"linear": [], "season": []}  # type: ignore[var-annotated]
    for i in range(len(whole)):
        own = whole.series(i)
        part, before = own[-(test + back) :].copy(), own[-(3 * test + back) : -test].copy()
        mask = hidden(part, args.share, blocks, chance)
        mask[:back] = False
        parts.append(part)
        gone.append(mask)
        other = hidden(before, args.share, blocks, chance)
        for name, make in ((("linear", linear)), ("season", lambda v: seasonal(v, model.facts.season))):
            errors = before[other] - make(np.where(other, np.nan, before))[other]
            at = make(np.where(mask, np.nan, part))[mask]
            rivals[name].append(at + np.quantile(errors, (np.arange(DRAWS) + 0.5) / DRAWS)[:, None])
    store_ = Store(
        part_facts(model, whole),
        np.concatenate([np.where(m, np.nan, p) for p, m in zip(parts, gone)]),
        np.cumsum([0, *map(len, parts)]),
        np.array([int(whole.starts[i]) + len(whole.series(i)) - len(p) for i, p in enumerate(parts)]),
        np.zeros((sum(map(len, parts)), 0)),
        np.zeros(len(parts), int),
        new=True,
    )
    begin = time.process_time()
    found = {each.index: each for each in fill(model, store_, DRAWS)}
    seconds = time.process_time() - begin
    ours = [found[i].drawn for i in range(len(parts))]
    told = {
        "set": args.set,
        "seed": args.seed,
        "share": args.share,
        "blocks": blocks,
        "cpu_seconds": seconds,
        "gaps": int(sum(map(np.sum, gone))),
    }
    for name, draws in (("sfumato", ours), *rivals.items()):
        told[name] = of_gaps(draws, parts, gone)
    for name in rivals:
        told[f"ratio to {name}"] = [told["sfumato"][0] / told[name][0]]
        each = [np.array(of_gaps([d], [p], [m])[0]) for d, p, m in zip(ours, parts, gone)]
        rest = [np.array(of_gaps([d], [p], [m])[0]) for d, p, m in zip(rivals[name], parts, gone)]
        told[f"ratio to {name}, channels"] = [float(a / b) for a, b in zip(each, rest)]
    word = f"{args.set}{args.seed}-{args.share:g}{'-blocks' if blocks else ''}"
    (Path(args.out) / f"{word}.fill.json").write_text(json.dumps(told, indent=1))
    print(json.dumps(told, indent=1))


def seasonal(values: np.ndarray, season: int) -> np.ndarray:
    """The mean of the nearest values that are there a season before and after."""
    found = values.copy()
    for at in np.flatnonzero(~np.isfinite(values)):
        sides = []
        for step in (-season, season):
            k = at + step
            while 0 <= k < len(values) and not np.isfinite(values[k]):
                k += step
            if 0 <= k < len(values):
                sides.append(values[k])
        found[at] = np.mean(sides) if sides else np.nanmean(values)
    return found


def part_facts(model: Model, whole: Store) -> Any:
    import dataclasses

    return dataclasses.replace(whole.facts, test=0)


def of_gaps(draws: list[np.ndarray], parts: list[np.ndarray], gone: list[np.ndarray]) -> list[float]:
    """Mean over series of CRPS / spread of the series, and the coverage of 80 %."""
    import torch

    scores, covers = [], []
    for drawn, part, mask in zip(draws, parts, gone):
        truth = part[mask]
        scores.append(float(crps(torch.from_numpy(np.asarray(drawn)), torch.from_numpy(truth)).mean()) / part.std())
        low, high = np.quantile(drawn, (0.1, 0.9), axis=0)
        covers.append(float(((low <= truth) & (truth <= high)).mean()))
    return [float(np.mean(scores)), float(np.mean(covers))]


def reported(args: argparse.Namespace) -> None:
    """Everything that was scored, as one file."""
    out = Path(args.out)
    found = {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in sorted(out.glob("*.score.json"))}
    gaps = {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in sorted(out.glob("*.fill.json"))}
    spent = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/seconds.json"))}
    print(store("series", {"scores": found, "gaps": gaps, "training": spent}))


def everything(args: argparse.Namespace) -> None:
    """All that docs/series.md tells of, from nothing."""
    for name in SETS:
        for seed in (0,) if name == "exchange" else (0, 1):
            args.set, args.seed = name, seed
            for step in (trained, scored):
                step(args)
    args.set, args.seed = "etth1", 0
    for share in (0.1, 0.3, 0.5):
        args.share = share
        filled(args)
    reported(args)


VERBS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "train": trained, "score": scored, "map": converted, "fill": filled, "report": reported, "all": everything,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--set", choices=SETS, default="hourly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/series-benchmark"))
    parser.add_argument("--held", action="store_true")
    parser.add_argument("-n", type=int, default=PATHS)
    parser.add_argument("--solver")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--grid")
    parser.add_argument("--map")
    parser.add_argument("--word", default="")
    parser.add_argument("--cost", type=float, default=0.6)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--blocks", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    VERBS[args.verb](args)


if __name__ == "__main__":
    main()
