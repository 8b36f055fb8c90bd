"""Forecasts of Europe's weather beside the linear bar: ERA-Interim, 2.5 degrees, 11 x 13 cells, once a day: mean sea level
pressure, the height of 500 hPa, the temperature of 850 hPa.

    python -m benchmarks.weather DATA train --name NAME [--seed 0 --seconds 600 --mean ridge --learn crps --begin RUN]
    python -m benchmarks.weather DATA together --name NAME --of SCORED SCORED --as NAME
    python -m benchmarks.weather DATA bar --name NAME --of SCORED
    python -m benchmarks.weather DATA map --name NAME --begin RUN --steps N
    python -m benchmarks.weather DATA score --name NAME --year 2008 --leads 1 --every 6 [--solver S --steps N]
    python -m benchmarks.weather DATA rain --name NAME --steps N [--year test]
    python -m benchmarks.weather DATA report
    python -m benchmarks.weather DATA all

DATA is ../shared/data/weather_era_interim. 2000 to 2007 are learned from; 2008 is what settings are chosen on; 2009 and 2010
(--year test) are scored once these stand: every third day, 242 starts, 16 members, leads of 1 to 5 days. Budgets are CPU seconds
of one thread. What is scored is written every twenty starts, to FOLDER/scores/NAME.npz, and gone on with; ``report`` makes
benchmarks/results/weather.json of what is there, and prints it: fair CRPS weighted by area, in hPa, metres and kelvin, against
the linear bar on the same starts, with 90% intervals of blocks of ten days. ``rain``: downscaling, daily rain of 211
cells of 5 km (SPREAD) for the coarse fields of its day, every day of a year or of "test"; results in FOLDER/NAME-YEAR.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import store, within_seconds
from sfumato.fields.weather.baselines import baselines
from sfumato.fields.weather.data import places
from sfumato.fields.weather.downscaling import measured
from sfumato.fields.weather.grid import moment
from sfumato.fields.weather.measure import case, ensembles, gathered, truth_of
from sfumato.fields.weather.options import FieldNetworkOptions, WeatherMethod
from sfumato.fields.weather.recipe import Weather
from sfumato.fields.weather.report import gain, intervals, spread_skill
from sfumato.fields.weather.scoring import Scores, Scoring
from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.config import read_config
from sfumato.jobs.distill import distill
from sfumato.jobs.model import Model, load
from sfumato.jobs.train import train
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics.intervals import mean_interval
from sfumato.training.ema import read_snapshots
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

VARIABLES, UNITS = ("msl", "z", "t"), np.array([0.01, 1 / 9.80665, 1.0])
"""In hPa, metres and kelvin."""
EVERY, DRAWN = 20, "drawn"
"""Starts between two writings; the name under which the forecasts themselves are kept beside their scores."""


def recipe_of(data: Path, given: argparse.Namespace) -> Weather:
    """The recipe of a run."""
    network = FieldNetworkOptions(
        width=given.width, depth=given.depth, dropout=given.dropout, attention_levels=given.attention
    )
    method = WeatherMethod(given.learn, given.sigma_low)
    when = {"until": "2008-01-01", "held_until": "2009-01-01"}
    return Weather(
        data,
        VARIABLES,
        **when,
        mean=given.mean,
        weights=given.begin,
        networks=given.networks,
        network=network,
        method=method,
    )


def learn(data: Path, given: argparse.Namespace) -> None:
    """Train one run for so many CPU seconds of one thread."""
    out, recipe = given.folder / given.name, recipe_of(data, given)
    rate = OptimOptions(given.optimizer, lr=given.lr, weight_decay=given.weight_decay)
    usual = TrainOptions(seed=given.seed, batch=given.batch, previews=2, snapshots=6, threads=1, optim=rate)
    options = dataclasses.replace(usual, precision=given.precision)
    if given.steps:
        options = dataclasses.replace(options, steps=given.steps)
    else:
        options = within_seconds(recipe, options, given.seconds, given.folder / f"{given.name}-probe")
    begin = time.process_time()
    train(recipe, options, out)
    (out / "cpu_seconds").write_text(f"{time.process_time() - begin}\n")


def convert(given: argparse.Namespace) -> None:
    """Make a flow map of a run."""
    begin, out = time.process_time(), given.folder / given.name
    training = TrainOptions(seed=given.seed, steps=given.steps, previews=2, snapshots=0, threads=1)
    distill(given.begin, DistillOptions(), training, out)
    (out / "cpu_seconds").write_text(f"{time.process_time() - begin}\n")


def downscale(data: Path, given: argparse.Namespace) -> None:
    """Learn to draw rain for coarse fields, unless that is done, and measure it on a year."""
    out, begin = given.folder / given.name, time.process_time()
    if not (out / "model.safetensors").is_file():
        network = FieldNetworkOptions(width=given.width, depth=given.depth, dropout=given.dropout, jitter=given.jitter)
        when = {"until": "2008-01-01", "held_until": "2009-01-01"}
        rate = OptimOptions(lr=given.lr, weight_decay=given.weight_decay)
        options = TrainOptions(
            steps=given.steps, seed=given.seed, batch=given.batch, previews=6, snapshots=0, threads=1, optim=rate
        )
        recipe = Weather(data, VARIABLES, **when, fine=data / "pcp_spread.nc", network=network)
        train(recipe, dataclasses.replace(options, precision="fp32"), out)
        (out / "cpu_seconds").write_text(f"{time.process_time() - begin}\n")
    model, begin = load(out, Walk(steps=given.walk_steps, solver=given.solver)), time.process_time()
    first, last = (
        ("2009-01-01", "2011-01-01")
        if given.year == "test"
        else (f"{given.year}-01-01", f"{int(given.year) + 1}-01-01")
    )
    rows = model.companions.split(moment("since", first), moment("before", last)).rows[:: given.every]
    found = measured(model, rows, given.members)
    scores = {name: mean_interval(torch.from_numpy(each)) for name, each in found.pop("crps").items()}
    told = {
        "days": len(rows),
        "members": given.members,
        "crps": scores,
        "cpu_seconds": time.process_time() - begin,
    } | found
    told["training_cpu_seconds"] = float((out / "cpu_seconds").read_text())
    text = json.dumps(told, indent=1)
    (given.folder / f"{given.as_ or given.name}-{given.year}.json").write_text(text)
    print(text, flush=True)


# ---- scores --------------------------------------------------------------------------------------------------------------


def starts_of(model: Model, year: str, leads: int, every: int) -> np.ndarray:
    """Every so many days of a year, or of "test", 2009 and 2010."""
    first, last = ("2009-01-01", "2011-01-01") if year == "test" else (f"{year}-01-01", f"{int(year) + 1}-01-01")
    return model.companions.starts(moment("since", first), moment("before", last), leads)[::every]


def measure(given: argparse.Namespace) -> None:
    """Score a run, or of no run the baselines alone, and keep it; go on where an earlier call left off."""
    asked = Walk(steps=given.steps, solver=given.solver, grid=given.grid, batch=given.walk_batch)
    model = load(given.folder / (given.run or given.name), asked, Drawing(given.seed, ema=given.ema))
    if given.after is not None:
        as_it_was(model, given.after)
    starts = starts_of(model, given.year, given.leads, given.every)
    path = given.folder / "scores" / f"{given.as_ or given.name}.npz"
    path.parent.mkdir(exist_ok=True)
    done, cpu = kept(path)
    begin, beside = time.process_time(), baselines(model.companions, given.leads)
    beginning = time.process_time()
    left, new, scoring, drawings = starts[len(done.get("begun", ())) :], [], Scoring(model.companions), []
    for place, (start, x) in enumerate(ensembles(model, left, given.members, given.leads), 1):
        new.append(case(scoring, start, x.double(), beside))
        drawings.append(x.numpy())
        if place % EVERY and place < len(left):
            continue
        parts = parts_of(gathered(model.companions, new, given.members, given.leads)) | {DRAWN: np.stack(drawings)}
        done = {name: np.concatenate((done[name], each)) if name in done else each for name, each in parts.items()}
        np.savez(path, cpu=cpu + time.process_time() - beginning, bars=beginning - begin, members=given.members, **done)
        new, drawings = [], []
    summary(given.as_ or given.name, scores_of(path), kept(path)[1])


def parts_of(found: Scores) -> dict[str, np.ndarray]:
    """Scores as arrays whose first axis is that of the cases."""
    count = len(found.begun)
    parts = {f"{who}/{what}": each for who, own in found.by.items() for what, each in own.items()}
    parts |= {f"power/{who}": each[None].repeat(count, 0) for who, each in found.power.items()}
    return parts | {"begun": found.begun, "ranks": found.ranks[None].repeat(count, 0)}


def together(given: argparse.Namespace) -> None:
    """Score ensembles of the members of several runs, as one run of so many --networks has them: of what was drawn when these
    were scored."""
    files = [given.folder / "scores" / f"{name}.npz" for name in given.of]
    done, begin = [kept(path)[0] for path in files], time.process_time()
    store = load(given.folder / given.name).companions
    starts = done[0]["begun"]
    if any(not np.array_equal(each["begun"], starts) for each in done):
        raise SystemExit(f"{' '.join(given.of)}: scored from other starts; score them alike")
    x = np.concatenate([each[DRAWN] for each in done], 1)
    members, leads = x.shape[1:3]
    scoring, at, beside = Scoring(store), places(store.times, starts), baselines(store, leads)
    new = [case(scoring, int(start), torch.from_numpy(each).double(), beside) for start, each in zip(at, x)]
    parts = parts_of(gathered(store, new, members, leads))
    path = given.folder / "scores" / f"{given.as_}.npz"
    np.savez(path, cpu=time.process_time() - begin, bars=0.0, members=members, **parts)
    summary(given.as_, scores_of(path), kept(path)[1])


def steady(given: argparse.Namespace) -> None:
    """Scored forecasts against a bar of 300 members: as few as a forecast has move the bar by 2 %. Ratios of means, with 90%
    intervals from blocks of ten days."""
    store = load(given.folder / given.name).companions
    for name in given.of:
        found, _ = kept(given.folder / "scores" / f"{name}.npz")
        own, at = found["model/crps"], places(store.times, found["begun"])
        leads, scoring = own.shape[1], Scoring(store)
        linear, bar = baselines(store, leads)["ridge"], []
        for start in at:
            x = torch.from_numpy(linear(int(start), 300)).double()
            bar.append(scoring.plain(x, truth_of(store, int(start), leads))["crps"].numpy())
        block, rng = (found["begun"] - found["begun"][0]) // (10 * 86400), np.random.default_rng(0)
        sums = [np.stack([each[block == b].sum(0) for b in np.unique(block)]) for each in (own, np.stack(bar))]
        draws = rng.integers(0, len(sums[0]), (2000, len(sums[0])))
        low, high = np.quantile(sums[0][draws].sum(1) / sums[1][draws].sum(1) - 1, (0.05, 0.95), 0)
        value = own.mean(0) / np.stack(bar).mean(0) - 1
        for k in range(leads):
            told = ", ".join(f"{100 * v:+.1f} ({100 * a:+.1f} to {100 * b:+.1f})" for v, a, b in
                             zip(value[k], low[k], high[k]))  # fmt: skip
            print(f"{name}  +{k + 1} d  CRPS against ridge of 300 members {told} %", flush=True)


def as_it_was(model: Model, step: int) -> None:
    """The average that was kept nearest to a step of the training, instead of that of its end: stopped early."""
    width = read_config(model.run).training.ema[0]
    every = [each for each in read_snapshots(model.run.snapshots) if each.width == width]
    then = min(every, key=lambda each: abs(each.step - step))
    print(f"the average of step {then.step}", flush=True)
    network: Any = model.denoiser.network
    network.network.load_state_dict({**network.network.state_dict(), **then.weights})


def kept(path: Path) -> tuple[dict[str, np.ndarray], float]:
    """The scores in a file, and the CPU seconds that they took."""
    if not path.is_file():
        return {}, 0.0
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    return {name: each for name, each in found.items() if name not in ("cpu", "members", "bars")}, float(found["cpu"])


def scores_of(path: Path) -> Scores:
    """Those in a file."""
    found, _ = kept(path)
    by: dict[str, dict[str, np.ndarray]] = {}
    for name, each in found.items():
        who, _, what = name.partition("/")
        if what and who != "power":
            by.setdefault(who, {})[what] = each
    with np.load(path) as file:
        members = int(file["members"])
    power = {name.partition("/")[2]: each.mean(0) for name, each in found.items() if name.startswith("power/")}
    return Scores(by, found["ranks"].mean(0), power, found["begun"], members, found["ranks"].shape[1])


def spreads(folder: Path) -> np.ndarray:
    """What standard units are in ours, (C,): of any run of the folder."""
    facts = next(iter(sorted(folder.glob("*/data.json"))))
    return np.array(json.loads(facts.read_text())["spread"]) * UNITS


def summary(name: str, found: Scores, cpu: float) -> None:
    """A line for each lead."""
    print(f"{name}: {len(found.begun)} starts, {found.members} members, {cpu:.0f} CPU s", flush=True)
    for k in range(found.leads):
        value, low, high = (100 * part[k] for part in gain(found, "crps"))
        against = ", ".join(f"{v:+.1f} ({a:+.1f} to {b:+.1f})" for v, a, b in zip(value, low, high))
        joint = " ".join(
            f"{what} {100 * float(np.mean(gain(found, what)[0][k])):+.1f}"
            for what in ("energy", "variogram", "pooled3")
        )
        ratio = spread_skill(found)[0][k].round(3)
        print(f"  +{k + 1} d  CRPS against ridge {against} %; {joint}; spread/skill {ratio}", flush=True)


def facts_of(found: Scores, spread: np.ndarray) -> dict[str, Any]:
    """Everything about a forecaster, in hPa, metres and kelvin, by lead and variable."""
    told: dict[str, Any] = {"starts": len(found.begun), "members": found.members}
    for who in found.by:
        crps = intervals(found, ((who, "crps"),), lambda a: a)
        told[who] = {
            "crps": [(part * spread).round(4).tolist() for part in crps],
            "rmse": (np.sqrt(found.by[who]["square"].mean(0)) * spread).round(4).tolist(),
        }
        if who != "ridge" and "ridge" in found.by:
            told[who]["crps_against_ridge"] = [part.round(4).tolist() for part in gain(found, "crps", own=who)]
        for name in ("energy", "variogram", "pooled2", "pooled3", "brier_2", "brier_10", "brier_90", "brier_98"):
            if name in found.by[who]:
                told[who][name] = found.by[who][name].mean(0).round(5).tolist()
                if who == "model":
                    told[who][f"{name}_against_ridge"] = [
                        np.asarray(part).round(4).tolist() for part in gain(found, name)
                    ]
    told["spread_skill"] = [part.round(3).tolist() for part in spread_skill(found)]
    flat = 1 / found.ranks.shape[-1]
    told["ranks"] = found.ranks.round(4).tolist()
    told["rank_distance"] = (np.square(found.ranks - flat) / flat).sum(-1).round(4).tolist()
    told["power_ratio"] = (found.power["model"] / found.power["truth"]).round(3).tolist()
    return told


def report(given: argparse.Namespace) -> None:
    """What is there, as JSON; scores of the same starts are set against each other, paired."""
    spread = spreads(given.folder)
    files = sorted((given.folder / "scores").glob("*.npz"))
    every = {path.stem: scores_of(path) for path in files}
    told: dict[str, Any] = {"variables": VARIABLES, "units": ("hPa", "m", "K"), "blocks_of_days": 10}
    for name, found in every.items():
        told[name] = {"cpu_seconds": round(kept(given.folder / "scores" / f"{name}.npz")[1], 1)} | facts_of(
            found, spread
        )
        summary(name, found, told[name]["cpu_seconds"])
    spent = {file.parent.name: round(float(file.read_text()), 1) for file in given.folder.glob("*/cpu_seconds")}
    told["training_cpu_seconds"] = dict(sorted(spent.items()))
    for own, other in (pair.split(":") for pair in given.pairs):
        told[f"{own} against {other}"] = versus(every[own], every[other])
    store("weather", told)


def versus(own: Scores, other: Scores) -> Mapping[str, Any]:
    """The scores of one model against those of another on the starts of both: ratio of means less 1, with its interval."""
    both = np.intersect1d(own.begun, other.begun)
    leads = min(own.leads, other.leads)
    by = {name: {what: each[np.isin(found.begun, both)][:, :leads] for what, each in found.by["model"].items()}
          for name, found in (("own", own), ("other", other))}  # fmt: skip
    joined = dataclasses.replace(own, by=by, begun=both, leads=leads)
    told = {
        what: [np.asarray(part).round(4).tolist() for part in gain(joined, what, "other", "own")] for what in by["own"]
    }
    return {"starts": len(both)} | told


CHOSEN = {"width": 24, "weight_decay": 0.1, "precision": "fp32", "members": 8}
"""What stood best on 2008, for forecasts. Eight members of each network: two networks together have sixteen."""
NETWORKS: Mapping[str, dict[str, Any]] = {
    "kernel-0": {"mean": "kernel", "dropout": 0.3},
    "direct-0": {"mean": "none", "dropout": 0.2, "after": 1329},
}
"""One that learns what a regression of second degree leaves of a step, and one that learns the whole change, stopped early."""
TEST = {"year": "test", "leads": 5, "every": 3}


def everything(given: argparse.Namespace) -> None:
    """All that the page claims: two networks, alone and together, flow maps, the rival, rain; what is done is not done again."""

    def told(**changes: Any) -> argparse.Namespace:
        return argparse.Namespace(**{**vars(given), **CHOSEN, **changes})

    folder, first = given.folder, given.folder / "kernel-0"
    for place, (name, own) in enumerate(NETWORKS.items()):
        if not (folder / name / "model.safetensors").is_file():
            learn(given.data, told(name=name, steps=1993, **own))
        measure(told(name=name, as_=f"test-{name}", seed=place, **own, **TEST))
    together(told(name="kernel-0", of=[f"test-{name}" for name in NETWORKS], as_="test-both"))
    steady(told(name="kernel-0", of=["test-both"]))
    if not (folder / "map-0" / "model.safetensors").is_file():
        convert(told(name="map-0", begin=first, steps=150))
    for steps in (1, 2, 4):
        measure(told(name="map-0", as_=f"test-map-{steps}", steps=steps, **{**TEST, "leads": 3}))
    if not (folder / "crps-0" / "model.safetensors").is_file():
        rival = {"mean": "kernel", "dropout": 0.3, "learn": "crps"}
        learn(given.data, told(name="crps-0", begin=first, steps=277, lr=5e-4, **rival))
    measure(told(name="crps-0", as_="test-crps-0", **TEST))
    rain = {"steps": 3000, "width": 256, "dropout": 0.3, "members": 16}
    downscale(given.data, told(name="rain-0", year="test", every=1, **rain))
    others = ["test-both", "test-crps-0", *(f"test-map-{steps}" for steps in (1, 2, 4))]
    report(told(pairs=[f"{name}:test-kernel-0" for name in others]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("verb", choices=("train", "map", "score", "together", "bar", "rain", "report", "all"))
    parser.add_argument("--folder", type=Path, default=Path("runs/weather"))
    parser.add_argument("--name", default="model")
    parser.add_argument("--run", default="")
    parser.add_argument("--as", dest="as_", default="")
    parser.add_argument("--begin", type=Path)
    parser.add_argument("--mean", default="none")
    parser.add_argument("--learn", default="denoiser")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--year", default="2008")
    parser.add_argument("--solver")
    parser.add_argument("--grid")
    for name, usual in (
        ("seed", 0),
        ("members", 16),
        ("leads", 1),
        ("every", 6),
        ("batch", 64),
        ("walk-batch", 64),
        ("attention", 1),
        ("networks", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=usual)
    for name in ("steps", "width", "depth", "walk-steps", "after"):
        parser.add_argument(f"--{name}", type=int)
    for name, value in (("seconds", 600.0), ("dropout", 0.1), ("jitter", 0.5), ("lr", 1e-3), ("weight-decay", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--sigma-low", type=float, default=0.01)
    parser.add_argument("--ema", type=float)
    parser.add_argument("--pairs", nargs="*", default=[])
    parser.add_argument("--of", nargs="*", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    verbs: dict[str, Callable[[], None]] = {
        "train": lambda: learn(given.data, given), "map": lambda: convert(given), "score": lambda: measure(given),
        "together": lambda: together(given),
        "bar": lambda: steady(given),
        "rain": lambda: downscale(given.data, given), "report": lambda: report(given), "all": lambda: everything(given),
    }  # fmt: skip
    verbs[given.verb]()


if __name__ == "__main__":
    main()
