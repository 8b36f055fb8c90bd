"""Failures of the pendulum: a campaign beside the plain methods at the same number of calls.

    python -m benchmarks.failure                     five seeds, all methods; some 20 minutes on one thread
    python -m benchmarks.failure --only campaign --seeds 0 1 2
    python -m benchmarks.failure --system pendulum:0.17 --only campaign

Truth: the failures among 100,000,000 plain runs, rows of batches 0 to 49 (../shared/data/failure_pendulum, or --truth FILE).
Every line is judged on 1,000 samples against 1,000 rows of its own draw of them. What is done is kept in
benchmarks/results/failure.json (--out) at once and not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.fields.failure.baselines import METHODS, run_baseline
from sfumato.fields.failure.ending import read_report, stored
from sfumato.fields.failure.measure import coverage_floor, near
from sfumato.fields.failure.options import CampaignOptions
from sfumato.fields.failure.simulators import Asked, opened
from sfumato.fields.failure.spec import Spec
from sfumato.jobs.api import train
from sfumato.metrics.two_sample import classifier_test
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

TRUTH = Path(__file__).parents[2] / "shared" / "data" / "failure_pendulum" / "truth.npz"
RESULTS = Path(__file__).parent / "results" / "failure.json"
KNOWN = {"pendulum": 5.487e-5, "pendulum:0.13": 1.19e-5, "pendulum:0.15": 2.23e-4, "pendulum:0.17": 2.08e-3}
COUNT = 1000


def true_rows(path: Path, seed: int) -> np.ndarray:
    """1,000 true failures of batches 0 to 49, another draw for each seed."""
    with np.load(path, allow_pickle=False) as truth:
        x = truth["z"].astype(np.float64)[truth["batch"] < 50]
    return x[np.random.default_rng([7, seed]).choice(len(x), COUNT, replace=False)]


def judged(x: np.ndarray, r: np.ndarray, truth: np.ndarray | None, asked: Asked) -> dict[str, float]:
    """Samples against true rows: what the table has."""
    if len(x) < 20:
        return {}
    found = {"samples": len(x), "failing": float((r <= 0).mean()), "nll": float((x**2).sum(1).mean() / 2)}
    path = asked.whole(x).trajectory
    assert path is not None
    far = path[np.arange(len(x)), np.abs(path[:, :, 0]).argmax(1), 0]
    found["right"] = float((far > 0).mean())
    if truth is None:
        return found
    real = asked.whole(truth).trajectory
    assert real is not None
    for name, pair in (("trajectory", (path, real)), ("x", (x, truth))):
        found |= {f"{name}_{key}": value for key, value in near(*pair).items()}
        flat = [torch.from_numpy(each.reshape(len(each), -1)) for each in pair]
        found[f"{name}_auc"] = classifier_test(*flat).auc
    return found


def campaign(args: argparse.Namespace, seed: int, asked: Asked, truth: np.ndarray | None) -> dict[str, Any]:
    """One campaign of the field, with weight decay."""
    begun = time.process_time()
    options = dataclasses.replace(CampaignOptions(), **json.loads(args.campaign))
    training = TrainOptions(seed=seed, threads=1, steps=args.steps, optim=OptimOptions(weight_decay=1.0))
    out = args.runs / f"{args.system.replace(':', '-')}-{args.calls}-{seed}"
    if not (out / "report.json").is_file():
        train(args.system, training, out, field="failure", calls=args.calls, campaign=options)
    failures, told = stored(Run(out)), read_report(Run(out))
    some = np.linspace(0, len(failures.x) - 1, min(COUNT, len(failures.x))).astype(int)
    found = told["probability"]
    more = {name: {k: v for k, v in (found[name] or {}).items() if k != "about"} for name in ("islands", "weighing")}
    return {
        "calls": told["calls"], "p": found["p"], "low": found["low"], "high": found["high"], "established": found["established"],
        **more, "effective": (found["weighing"] or {"about": {}})["about"].get("effective"),
        "nats": (found["weighing"] or {"about": {}})["about"].get("nats"), "seconds": time.process_time() - begun,
        **judged(failures.x[some], failures.robustness[some], truth, asked),
    }  # fmt: skip


def line(name: str, rows: Sequence[dict[str, Any]], p: float) -> str:
    """A method in the table: means over its seeds, and the root mean square error of p."""

    def mean(key: str) -> str:
        values = [row[key] for row in rows if row.get(key) is not None]
        return f"{np.mean(values):.3f}" if values else "-"

    told = [row["p"] / p - 1 for row in rows if row.get("p")]
    error = f"{math.sqrt(np.mean(np.square(told))):.1%} ({len(told)})" if told else "-"
    holds = [row["low"] <= p <= row["high"] for row in rows if row.get("low")]
    inside = f"{sum(holds)}/{len(holds)}" if holds else "-"
    keys = (
        "failing",
        "nll",
        "right",
        "trajectory_density",
        "trajectory_coverage",
        "x_density",
        "x_coverage",
        "trajectory_auc",
        "x_auc",
    )
    seconds = np.mean([row["seconds"] for row in rows])
    return f"| {name} | {len(rows)} | {rows[0]['calls']:,} | {' | '.join(map(mean, keys))} | {error} | {inside} | {seconds:.0f} |"


def table(done: dict[str, Any], system: str, calls: int) -> str:
    """Everything that was done on a system with so many calls."""
    head = (
        "| method | seeds | calls | failing | nll | right | density | coverage | x density | x coverage | auc | x auc | "
        "p, r.m.s. | 95 % holds | CPU-s |\n" + "|---" * 15 + "|"
    )
    lines = []
    for name in ("campaign", *METHODS):
        rows = [row for key, row in done.items() if key.startswith(f"{system}/{calls}/{name}/")]
        lines += [line(name, rows, KNOWN[system])] if rows else []
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="pendulum", choices=sorted(KNOWN))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=300, help="training steps of a round")
    parser.add_argument("--campaign", default="{}", help="options of the campaign, JSON")
    parser.add_argument("--only", nargs="+", default=["campaign", *METHODS])
    parser.add_argument("--truth", type=Path, default=TRUTH)
    parser.add_argument("--runs", type=Path, default=Path("runs/failure"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    asked = opened(Spec(args.system))
    done = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for seed in args.seeds:
        truth = true_rows(args.truth, seed) if args.truth.is_file() and args.system == "pendulum" else None
        for name in args.only:
            key = f"{args.system}/{args.calls}/{name}/{seed}"
            if key in done:
                continue
            if name == "campaign":
                done[key] = campaign(args, seed, asked, truth)
            else:
                made = run_baseline(name, asked, asked.law.n, args.calls, seed, COUNT)
                found = judged(made.samples.x, made.samples.r, truth, asked)
                done[key] = {"calls": made.calls, "p": made.p, "seconds": made.seconds, **found}
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(done, indent=1, default=float))
            print(
                key,
                {k: round(v, 4) if isinstance(v, float) and v > 1e-3 else v for k, v in done[key].items()},
                flush=True,
            )
    print(f"floor of coverage at {COUNT} against {COUNT}: {coverage_floor(COUNT, COUNT):.3f}")
    print(table(done, args.system, args.calls))


if __name__ == "__main__":
    main()
