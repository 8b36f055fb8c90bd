"""What an evaluation of forecasts says: rows with intervals, a table for people, the joint scores, and where a baseline wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.weather.baselines import MOST_YEARS, NEAR
from sfumato.fields.weather.grid import said
from sfumato.jobs.report import Report
from sfumato.metrics.table import Row

if TYPE_CHECKING:
    from sfumato.fields.weather.scoring import Scores
    from sfumato.jobs.model import Model

BLOCK = 10 * 86400
"""Seconds of the blocks that are drawn anew for intervals: weather a few days apart is not independent."""
DRAWS = 2000
Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A value, and its interval's ends."""


def intervals(scores: Scores, wanted: Sequence[tuple[str, str]], of: Callable[..., np.ndarray]) -> Part:
    """A function of the means over cases of some scores, each (forecaster, score), with a 90% interval: cases of ten
    days stand or fall together when they are drawn anew (block bootstrap, Kuensch 1989), all scores of a case at once.
    Each (leads[, C])."""
    _, block = np.unique(scores.begun // BLOCK, return_inverse=True)
    count = int(block.max()) + 1
    weight = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    sizes = np.bincount(block, minlength=count)
    means, whole = [], []
    for forecaster, name in wanted:
        own = scores.by[forecaster][name]
        sums = np.zeros((count, *own.shape[1:]))
        np.add.at(sums, block, own)
        means.append(np.tensordot(weight, sums, 1) / (weight @ sizes).reshape(-1, *[1] * (own.ndim - 1)))
        whole.append(own.mean(0))
    low, high = np.quantile(of(*means), [0.05, 0.95], axis=0)
    return of(*whole), low, high


def gain(scores: Scores, name: str, other: str = "ridge", own: str = "model") -> Part:
    """How much lower a score is than a baseline's, as a share of that: ratio of means less 1, below 0 where it is
    better; paired."""

    def less(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) != 0) - 1

    return intervals(scores, ((own, name), (other, name)), less)


def spread_skill(scores: Scores, who: str = "model", members: int | None = None) -> Part:
    """Spread over error of the mean, 1 where an ensemble of any size knows how wrong it is (Fortin et al. 2014)."""
    count = scores.members if members is None else members
    return intervals(scores, ((who, "variance"), (who, "square")), lambda v, s: np.sqrt((count + 1) / count * v / s))


def measures(scores: Scores, spread: np.ndarray) -> dict[str, Part]:
    """What rows and table show, in the units of the data, each (leads, C)."""
    found = {
        "crps": _scaled(intervals(scores, (("model", "crps"),), lambda a: a), spread),
        "rmse": _scaled(intervals(scores, (("model", "square"),), np.sqrt), spread),
        "spread_skill": spread_skill(scores),
    }
    for name in scores.by:
        if name != "model":
            found[f"crps_{name}"] = _scaled(intervals(scores, ((name, "crps"),), lambda a: a), spread)
            found[f"rmse_{name}"] = _scaled(intervals(scores, ((name, "square"),), np.sqrt), spread)
    if "ridge" in scores.by:
        found["crps_against_ridge"] = gain(scores, "crps")
    return found


def _scaled(part: Part, by: np.ndarray) -> Part:
    value, low, high = part
    return value * by, low * by, high * by


def report(model: Model, scores: Scores, pictures: Mapping[str, Any]) -> Report:
    """All of it."""
    facts = model.facts
    found, energy = measures(scores, np.array(facts.spread)), intervals(scores, (("model", "energy"),), lambda a: a)
    rows, n = [], len(scores.begun)
    for k in range(scores.leads):
        hours = f"{(k + 1) * facts.hours:g}h"
        for c, channel in enumerate(facts.channels):
            for name, each in found.items():
                value, low, high = (float(part[k, c]) for part in each)
                kind: Any = "near 1" if name == "spread_skill" else "lower"
                floor = {"spread_skill": 1.0, "crps_against_ridge": None}.get(name)
                rows.append(Row(f"{name}_{channel.label}_{hours}", value, low, high, floor, kind, n, 0))
        value, low, high = (float(part[k]) for part in energy)
        rows.append(Row(f"energy_{hours}", value, low, high, None, "lower", n, 0))
    notes = (
        f"{n} starts from {said(scores.begun[0])} to {said(scores.begun[-1])}, {scores.members} members; fair CRPS; 90% "
        f"intervals of "
        "blocks of ten days",
        f"persistence: the start; climatology: up to {MOST_YEARS} of the times learned from, within {NEAR} days of the "
        f"date; analogs: "
        "what followed on the 20 days most alike; ridge: linear, its residuals drawn again",
        "spread/skill is near 1 where the ensemble knows how wrong it is, below 1 where it is too sure",
        *_worse(facts, found, scores.leads),
        *_together(scores),
    )
    about = {
        "ranks": scores.ranks.tolist(), "leads_hours": [(k + 1) * facts.hours for k in range(scores.leads)],
        "channels": [channel.label for channel in facts.channels], "joint": joint(scores),
        "power": {name: each.tolist() for name, each in scores.power.items()},
        "forecast.png": "rows: channels; what came, the mean, members, their spread",
        "plume.png": "the mean over area of each channel: members thin, what came thick",
        "ranks.png": "how often the truth had each rank among the members; flat where it could be one of them",
    }  # fmt: skip
    return Report(tuple(rows), notes, pictures, about, table(facts, found, scores.leads))


JOINT = ("energy", "variogram", "pooled2", "pooled3", "brier_2", "brier_10", "brier_90", "brier_98")


def joint(scores: Scores) -> dict[str, Any]:
    """Scores of fields as a whole and of extremes: of the model, and against the linear bar, with intervals; lists by lead (and
    channel). In standard units."""
    found = {}
    for name in JOINT:
        if name in scores.by["model"]:
            parts = {"value": intervals(scores, (("model", name),), lambda a: a)}
            if name in scores.by.get("ridge", {}):
                parts["against_ridge"] = gain(scores, name)
            found[name] = {key: dict(zip(("value", "low", "high"), map(_plain, part))) for key, part in parts.items()}
    return found


def _plain(values: np.ndarray) -> Any:
    """As lists, None for what has no value: a score against a baseline of 0."""
    found = np.asarray(values, dtype=object)
    found[~np.isfinite(values)] = None
    return found.tolist()


def _together(scores: Scores) -> list[str]:
    """Whether the fields as a whole are better than the linear bar's, in words, at the first lead."""
    if "ridge" not in scores.by:
        return ["no linear bar: the fields are too many, or the times too few, for a regression"]
    said = []
    for name, words in (
        ("energy", "energy score"),
        ("variogram", "variogram score"),
        ("pooled3", "CRPS of means over 3 x 3 cells"),
    ):
        if name in scores.by["model"]:
            value, low, high = (float(np.mean(part[0])) for part in gain(scores, name))
            said.append(f"{words} {100 * value:+.1f} % ({100 * low:+.1f} to {100 * high:+.1f})")
    return [f"against the linear bar at the first lead: {', '.join(said)}"]


def _worse(facts: Any, found: Mapping[str, Part], leads: int) -> list[str]:
    """Where the forecast is no better than what needs no network."""
    said = []
    for name in ("persistence", "climatology", "analogs", "ridge"):
        if f"crps_{name}" not in found:
            continue
        bad = [f"{facts.channels[c].label} at {(k + 1) * facts.hours:g} h" for k in range(leads) for c in range(len(facts.names))
               if found["crps"][0][k, c] >= found[f"crps_{name}"][0][k, c]]  # fmt: skip
        if bad:
            said.append(f"no better than {name}: {', '.join(bad[:6])}{' ...' if len(bad) > 6 else ''}")
    return said


def table(facts: Any, found: Mapping[str, Part], leads: int) -> str:
    """The scores for people: a line for each lead and channel."""
    beside = [name for name in ("persistence", "climatology", "analogs", "ridge") if f"crps_{name}" in found]
    against = ["against ridge"] if "crps_against_ridge" in found else []
    lines = [("lead", "", "CRPS", "90% interval", *beside, *against, "RMSE of the mean", "spread/skill", "unit")]
    for k in range(leads):
        for c, channel in enumerate(facts.channels):
            value, low, high = (part[k, c] for part in found["crps"])
            others = [f"{found[f'crps_{name}'][0][k, c]:.4g}" for name in beside]
            gained = [f"{100 * part:+.1f}" for part in (each[k, c] for each in found.get("crps_against_ridge", ()))]
            shown = [f"{gained[0]} % ({gained[1]} to {gained[2]})"] if gained else []
            lines.append((f"+{(k + 1) * facts.hours:g} h", channel.label, f"{value:.4g}", f"{low:.4g} to {high:.4g}",
            *others, *shown,
                          f"{found['rmse'][0][k, c]:.4g}", f"{found['spread_skill'][0][k, c]:.2f}", channel.units))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
