"""`sfumato evaluate` of series, and what it says: a table of scores, ratios with intervals, and what they mean in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.series.bars import COPULA, NAIVE, OWN, RIDGE
from sfumato.fields.series.density import densities
from sfumato.fields.series.fan import Calibration, Fan
from sfumato.fields.series.forecasting import Case, Forecasts, Path, drawn
from sfumato.fields.series.measure import APART, CURVE, MODEL, Measured, cases, measured
from sfumato.jobs.plots import available
from sfumato.jobs.report import Report
from sfumato.metrics.table import Row

if TYPE_CHECKING:
    from sfumato.fields.series.options import ForecastAsk, SeriesMeasure
    from sfumato.fields.series.scoring import Scores
    from sfumato.jobs.model import Model

SCORES = ("wql", "mase", "sp", "cover50", "cover80", "cover95", "es", "sum", "cover_sum", "max")
SHOWN = 4
DRAWN = 100
LARGE = 0.25
"""Share of all |y| in a hundredth of the windows from which on WQL is a score of them."""


def evaluate(model: Model, measure: SeriesMeasure, ask: ForecastAsk) -> Report:
    """Forecasts of kept windows, measured. Raises RunError, DataError, MetricError."""
    chosen = cases(model, measure, ask)
    return report(model, measured(model, chosen, measure.n), chosen)


def report(model: Model, found: Measured, chosen: list[Case]) -> Report:
    """Rows, table, sentences and pictures."""
    scores = found.scores
    n = len(chosen)
    rows = tuple(
        Row(score, scores.value(MODEL, score), *scores.interval(MODEL, score, level=0.9), None, "lower", n, 0)
        for score in ("wql", "mase", "sp", "es")
        if np.isfinite(scores.value(MODEL, score))
    )
    every = {name: {score: round(scores.value(name, score), 6) for score in SCORES} for name in scores.by}
    said, densest = _dense(model, chosen)
    told = ratios(scores)
    about = {"density": densest, "scores": every, "ratios": told, "windows": n}
    return Report(rows, (*notes(scores, told), *said), pictures(model, found, chosen), about, table=table(scores))


def _dense(model: Model, chosen: list[Case]) -> tuple[list[str], dict[str, Any]]:
    """What the densities of what came say."""
    from sfumato.metrics.intervals import bootstrap

    found = densities(model, chosen)
    if found is None:
        return [], {}
    gain = found[:, 1] - found[:, 0]
    low, high = bootstrap(gain)
    told = f"log density of what came: {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}] nats a step beside the ridge's Gaussian law"
    return [told], {
        "model": float(found[:, 0].mean()),
        "gaussian": float(found[:, 1].mean()),
        "gain": [float(gain.mean()), low, high],
    }


def table(scores: Scores) -> str:
    """The scores, a line a forecaster."""
    heads = ["", *(score.replace("cover_sum", "coverS") for score in SCORES)]
    lines = [heads]
    for name in scores.by:
        cells = [scores.value(name, score) for score in SCORES]
        lines.append(
            [
                name,
                *(
                    "" if cell != cell else f"{cell:.4f}" if score == "wql" else f"{cell:.3f}"
                    for cell, score in zip(cells, SCORES)
                ),
            ]
        )
    widths = [max(len(line[c]) for line in lines) for c in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not c else cell.rjust(width) for c, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def ratios(scores: Scores) -> dict[str, Any]:
    """Of the model to the bars: value and 95 % interval."""
    found = {}
    pairs = [
        (NAIVE, ("wql", "mase", "sp")),
        (RIDGE, ("wql", "mase", "sp")),
        (OWN, ("wql", "mase", "sp")),
        (COPULA, ("wql", "es", "sum", "max")),
        (APART, ("es", "sum", "max")),
    ]
    for name, those in pairs:
        if name not in scores.by:
            continue
        for score in those:
            if np.isfinite(scores.value(MODEL, score)) and scores.value(name, score) > 0:
                low, high = scores.interval(MODEL, score, name)
                found[f"{score} to {name}"] = [round(v, 4) for v in (scores.ratio(MODEL, name, score), low, high)]
    return found


def notes(scores: Scores, told: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """What the scores say."""
    for key, (value, low, high) in told.items():
        verdict = "better" if high < 1 else "worse" if low > 1 else "no difference that these windows show"
        yield f"{key}: {value:.3f} [{low:.3f}, {high:.3f}]: {verdict}"
    if OWN in scores.by:
        yield f"better than the ridge in its own scale, by SP, in {100 * scores.won(MODEL, OWN):.0f} % of the series"
    size = np.sort(scores.by[MODEL]["size"])[::-1]
    top = max(1, round(len(size) / 100))
    share = float(size[:top].sum() / max(size.sum(), 1e-300))
    if share > LARGE and len(size) >= 50:
        yield (
            f"WQL is decided by few series here: {top} of {len(size)} windows hold {100 * share:.0f} % of all |y|; "
            f"judge by SP and MASE, "
            "in which every window counts alike"
        )
    cover = scores.value(MODEL, "cover80")
    if abs(cover - 0.8) > 0.05:
        yield f"intervals that promise 80 % hold {100 * cover:.0f} % of what came: {'too wide' if cover > 0.8 else 'too narrow'}"


def pictures(model: Model, found: Measured, chosen: list[Case]) -> dict[str, Any]:
    """The fan of a few windows, ranks and coverage. None without matplotlib."""
    if not available():
        return {}
    return {
        "fan.png": Fan(model.companions.store, fans(model, chosen)),
        "calibration.png": Calibration(found.ranks, CURVE, found.covered, found.sums),
    }


def fans(model: Model, chosen: list[Case], shown: int = SHOWN, count: int = DRAWN) -> list[Path]:
    """Paths of a few windows, evenly spread."""
    some = [chosen[k] for k in np.unique(np.linspace(0, len(chosen) - 1, min(shown, len(chosen))).astype(int))]
    forecasts = Forecasts.of(model.companions.base, some, count, model.facts.horizon, facts=model.facts)
    return [
        thing
        for part in drawn(model, forecasts, range(len(forecasts)))
        for thing in model.recipe.things(model, forecasts, part)
    ]
