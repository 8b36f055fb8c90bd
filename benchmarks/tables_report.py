"""The table of docs/tables.md from results/tables.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.tables_sets import SETS

BEGIN, END = "<!-- table: python -m benchmarks.tables --report -->", "<!-- end of table -->"
METHODS = (
    ("ours", "sfumato"),
    ("arf", "random forests"),
    ("copula", "Gaussian copula"),
    ("independent", "columns alone"),
)


def write(name: str) -> None:
    """Between the marks of docs/tables.md."""
    found = common.read(name)
    if found is None:
        raise SystemExit(f"results/{name}.json: not measured yet; python -m benchmarks.tables")
    page = common.DOCS / "tables.md"
    text = page.read_text()
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    page.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n{tables(found)}\n{END}", text, flags=re.DOTALL))


def tables(found: dict[str, Any]) -> str:
    """Both tables."""
    return "\n\n".join("\n".join(lines) for lines in (_methods(found["sets"]), _ours(found["sets"])) if len(lines) > 2)


def _methods(sets: dict[str, Any]) -> list[str]:
    head = ["table", "n", "real rows", *(name for _, name in METHODS)]
    lines = [_line(head), _line(["---"] * len(head))]
    for each in SETS:
        trials = _trials(sets, each.name)
        scores = {key: [_scores(trial, key) for trial in trials] for key, _ in METHODS}
        scores = {key: [score for score in of if score] for key, of in scores.items()}
        if not scores["ours"]:
            continue
        first = scores["ours"][0]
        cells = [each.name, str(first["detection"]["n"]), _mean([s["detection"]["floor"] for s in scores["ours"]])]
        for key, _ in METHODS:
            cells.append(_mean([s["detection"]["value"] for s in scores[key]]))
        lines.append(_line(cells))
    return lines


def _ours(sets: dict[str, Any]) -> list[str]:
    head = ["table", "detection, training rows", "shape / trend", "useful (real rows)", "useful everywhere", "shares at 100,000",
            "nearer to training", "attacks", "copied (real rows)", "all calls / half", "steps"]  # fmt: skip
    lines = [_line(head), _line(["---"] * len(head))]
    for each in SETS:
        trials = [trial for trial in _trials(sets, each.name) if _scores(trial, "ours")]
        if not trials:
            continue
        ours = [_scores(trial, "ours") for trial in trials]
        use = "useful_auc" if each.task == "auc" else "useful_rmse"
        attacks = [
            max(s[f"attack_by_{by}"]["value"] for by in ("distance", "trees")) for s in ours if "attack_by_trees" in s
        ]
        shares = [trial["shares"]["max"] for trial in trials if "max" in trial.get("shares", {})]
        lines.append(_line([
            each.name, _of(ours, "training_5000"), f"{_of(ours, 'shape')} / {_of(ours, 'trend')}",
            f"{_of(ours, use)} ({_of(ours, use, 'floor')})", _of(ours, "useful_everywhere"),
            f"{np.mean(shares):.2f} points" if shares else "", _of(ours, "nearer_to_training"), _mean(attacks),
            f"{_of(ours, 'copied', digits=4)} ({_of(ours, 'copied', 'floor', 4)})",
            _calls(trials), f"{round(np.mean([trial['training']['steps'] for trial in trials]))}",
        ]))  # fmt: skip
    return lines


def _calls(trials: Sequence[dict[str, Any]]) -> str:
    """Rows a CPU second and detection, with all calls of the network and with about half of them."""
    told = [trial["calls"] for trial in trials if "full" in trial.get("calls", {})]
    parts = [
        (_mean([t[n]["rows a CPU second"] for t in told], 0), _mean([t[n]["detection"] for t in told]))
        for n in ("full", "few")
    ]
    return " / ".join(f"{speed} a second, {value}" for speed, value in parts) if told else ""


def _trials(sets: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return list(sets.get(name, {}).values())


def _scores(trial: dict[str, Any], method: str) -> dict[str, Any]:
    of: dict[str, Any] = trial.get("arf", {}) if method == "arf" else trial.get("rows", {}).get(method, {})
    return of if "detection" in of else {}


def _of(scores: Sequence[dict[str, Any]], name: str, part: str = "value", digits: int = 3) -> str:
    return _mean([score[name][part] for score in scores if name in score], digits)


def _mean(values: Sequence[float], digits: int = 3) -> str:
    """The mean, and the range where there are several."""
    if not values:
        return ""
    size = 3 if max(values) < 10 else 1
    text = f"{np.mean(values):.{min(digits, 4) if size == 3 else 1}f}"
    return text if len(values) == 1 else f"{text} [{min(values):.{size}f}, {max(values):.{size}f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
