"""`sfumato evaluate` of a campaign: are its failures right in law, and its probability right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.errors import DataError, decoding
from sfumato.fields.failure.ending import read_report, stored
from sfumato.jobs.recipe import say
from sfumato.jobs.report import Report
from sfumato.metrics.coverage import precision_recall
from sfumato.metrics.intervals import mean_interval, share_interval
from sfumato.metrics.table import Row
from sfumato.metrics.two_sample import classifier_test
from sfumato.training.run import write_text

if TYPE_CHECKING:
    from sfumato.fields.failure.moves import Population
    from sfumato.fields.failure.options import FailureAsk, FailureMeasure
    from sfumato.jobs.model import Model

MOST, NEIGHBOURS = 1000, 5


def coverage_floor(samples: int, truth: int, k: int = NEIGHBOURS) -> float:
    """Mean coverage of so many true cases by so many others of the same law: a true case is missed where its k nearest
    neighbours of all are true ones."""
    missed = 1.0
    for i in range(k):
        missed *= (truth - 1 - i) / (truth - 1 + samples - i)
    return 1 - missed


def truth_of(path: Path, n: int) -> np.ndarray:
    """True failures (N, n) of a .npz with x or z. Raises DataError."""
    remedy = "give a .npz with an array x or z, (N, numbers of a disturbance)"
    with decoding(path, remedy), np.load(path, allow_pickle=False) as file:
        name = next((name for name in ("x", "z") if name in file), None)
        if name is None:
            raise DataError(f"{path}: has neither x nor z; it has {', '.join(file.files)}")
        x = np.asarray(file[name], dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != n or len(x) < 20:
        raise DataError(f"{path}: true failures of shape {x.shape}; (N, {n}) with N of 20 or more is expected")
    return x


def near(samples: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Density and coverage, k = 5, of cases (N, ...) among true ones (M, ...), flat."""
    fake, real = (torch.from_numpy(np.ascontiguousarray(a.reshape(len(a), -1))) for a in (samples, truth))
    found = precision_recall(fake, real, k=NEIGHBOURS)
    return {"density": float(found["density"]), "coverage": float(found["coverage"])}


def law_rows(x: np.ndarray, truth: np.ndarray | None, cases: tuple[np.ndarray, np.ndarray] | None) -> Iterator[Row]:
    """Is the law of failures x (N, n) right? Beside true ones (M, n), and beside what both led to."""
    nll = torch.from_numpy((x**2).sum(1) / 2)
    floor = None if truth is None else float((truth**2).sum(1).mean() / 2)
    yield Row("nll", *mean_interval(nll), floor, "near 1", len(x), 0 if truth is None else len(truth))
    if truth is None:
        return
    m, n = len(truth), len(x)
    for name, pair in (("trajectory", cases), ("x", (x, truth))):
        if pair is None:
            continue
        found = near(*pair)
        yield Row(f"{name}_density", found["density"], math.nan, math.nan, 1.0, "near 1", n, m)
        ends = share_interval(found["coverage"], m)
        yield Row(f"{name}_coverage", found["coverage"], *ends, coverage_floor(n, m), "higher", n, m)
        a, b = (torch.from_numpy(np.ascontiguousarray(each.reshape(len(each), -1))) for each in pair)
        test = classifier_test(a, b)
        yield Row(f"{name}_auc", test.auc, math.nan, math.nan, 0.5, "lower", n, m)


def evaluate(model: Model, measure: FailureMeasure, ask: FailureAsk) -> Report:
    """The failures of a run, in law beside true ones where these are given, its probability, and the plain methods at the same
    calls. Raises DataError, MetricError."""
    failures, told = stored(model.run), read_report(model.run)
    most = measure.n or MOST
    chosen = np.linspace(0, len(failures.x) - 1, min(most, len(failures.x))).astype(int)
    x = failures.x[chosen]
    truth = None if measure.truth is None else truth_of(Path(measure.truth), model.facts.n)
    truth = None if truth is None else truth[np.linspace(0, len(truth) - 1, min(most, len(truth))).astype(int)]
    recipe: Any = model.recipe
    asked: Any = recipe.asked() if truth is not None or measure.baselines else None
    if asked is not None:
        say(f"simulator {model.facts.simulator}: its code runs here")
    cases = None
    if truth is not None and failures.trajectory is not None:
        path = asked.whole(truth).trajectory
        cases = None if path is None else (failures.trajectory[chosen], path)
    failing = float((failures.robustness <= 0).mean())
    n = len(failures.x)
    found = told["probability"]
    rows = [
        Row("failing", failing, *share_interval(failing, n), 1.0, "higher", n, 0),
        Row("p", found["p"], found["low"], found["high"], None, "near 1", told["calls"], 0),
        *law_rows(x, truth, cases),
    ]
    shares = ", ".join(f"{mode['share']:.1%}" for mode in told["modes"])
    notes = [
        told["note"],
        f"modes: {shares} of the failures",
        "nll: half the squared length of a standard normal disturbance; lower is likelier, and right is that of true failures",
    ]
    about: dict[str, Any] = {"probability": found, "modes": told["modes"]}
    if measure.baselines:
        about["baselines"] = list(_baselines(model, asked, truth, most))
        notes += [each["line"] for each in about["baselines"]]
    return Report(tuple(rows), tuple(notes), {}, about)


def _baselines(model: Model, asked: Any, truth: np.ndarray | None, most: int) -> Iterator[dict[str, Any]]:
    """The plain methods, each a dict with a line; kept in baselines.json as they come."""
    from sfumato.fields.failure.baselines import METHODS, run_baseline

    done = []
    for name in METHODS:
        made = run_baseline(name, asked, model.facts.n, model.facts.calls, model.drawing.seed, most)
        found = judged(made.samples, truth, asked)
        p = "no p" if made.p is None else f"p {made.p:.3g}"
        said = ", ".join(f"{key} {value:.3g}" for key, value in found.items())
        told = {"name": name, "calls": made.calls, "p": made.p, "seconds": made.seconds, **found,
                "line": f"{name}: {made.calls:,} calls, {p}, {said or 'no failures'}, {made.seconds:.0f} CPU-s"}  # fmt: skip
        done.append(told)
        write_text(model.run.path / "baselines.json", json.dumps(done, indent=1))
        say(str(told["line"]))
        yield told


def judged(samples: Population, truth: np.ndarray | None, asked: Any) -> dict[str, float]:
    """Samples as a method gives them: share failing, nll, and among true failures density and coverage."""
    if len(samples) < 20:
        return {}
    found = {"failing": float((samples.r <= 0).mean()), "nll": float((samples.x**2).sum(1).mean() / 2)}
    if truth is None:
        return found
    found |= {f"x_{name}": value for name, value in near(samples.x, truth).items()}
    both = [asked.whole(x).trajectory for x in (samples.x, truth)]
    if both[0] is not None:
        found |= {f"trajectory_{name}": value for name, value in near(both[0], both[1]).items()}
    return found
