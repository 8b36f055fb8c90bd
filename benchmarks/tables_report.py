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
FIVE = ("adult", "shoppers", "magic", "default", "beijing")
"""The sets that a mean is of."""


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
    """All of them."""
    every = [make(found["sets"]) for make in (_methods, _ours, _calls, _fills, _canaries)]
    return "\n\n".join("\n".join(lines) for lines in every if len(lines) > 2)


def _methods(sets: dict[str, Any]) -> list[str]:
    head = ["table", "n", "real rows", *(name for _, name in METHODS)]
    found: list[list[Any]] = []
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
        if each.name in FIVE:
            found.append([np.mean([s["detection"]["floor"] for s in scores["ours"]])])
            found[-1] += [np.mean([s["detection"]["value"] for s in of]) if of else np.nan for of in scores.values()]
    if len(found) == len(FIVE):
        means = [f"{mean:.3f}" if np.isfinite(mean) else "" for mean in np.mean(found, 0)]
        lines.append(_line([f"mean of {', '.join(FIVE)}", "", *means]))
    return lines


def _ours(sets: dict[str, Any]) -> list[str]:
    head = ["table", "detection, training rows", "shape / trend (real rows)", "trend in one range (real rows)",
            "useful (real rows)", "useful everywhere", "shares at 100,000", "nearer to training", "attacks",
            "copied (real rows)", "steps, CPU seconds"]  # fmt: skip
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
            each.name, _of(ours, "training_5000") or _of(ours, "detection_train"),
            f"{_of(ours, 'shape')} / {_of(ours, 'trend')} ({_of(ours, 'shape', 'floor')} / {_of(ours, 'trend', 'floor')})",
            " ".join(filter(None, (
                _of(ours, "trend_in_one_range"), f"({_of(ours, 'trend_in_one_range', 'floor')})".replace("()", "")
            ))),
            f"{_of(ours, use)} ({_of(ours, use, 'floor')})", _of(ours, "useful_everywhere"),
            f"{np.mean(shares):.2f} points" if shares else "", _of(ours, "nearer_to_training"), _mean(attacks),
            f"{_of(ours, 'copied', digits=4)} ({_of(ours, 'copied', 'floor', 4)})",
            _spent([trial["training"] for trial in trials]),
        ]))  # fmt: skip
    return lines


def _spent(training: Sequence[dict[str, Any]]) -> str:
    """Steps and CPU seconds, of each what is known."""
    known = ([each[name] for each in training if each.get(name) is not None] for name in ("steps", "cpu"))
    return ", ".join(str(round(np.mean(values))) for values in known if values)


def _calls(sets: dict[str, Any]) -> list[str]:
    """Rows a CPU second and detection, with all calls of the network and with half of them for states, 5 for values."""
    head = ["table", "calls", "CPU seconds for 100,000 rows", "detection", "half the calls", "CPU seconds", "detection"]
    lines = [_line(head), _line(["---"] * len(head))]
    for each in SETS:
        told = [trial["calls"] for trial in _trials(sets, each.name) if "full" in trial.get("calls", {})]
        cells = [each.name] if told else []
        for name in ("full", "few") if told else ():
            cells += [
                " + ".join(map(str, told[0][name]["calls"])), _mean([1e5 / t[name]["rows a CPU second"] for t in told]),
                _mean([t[name]["detection"] for t in told]),
            ]  # fmt: skip
        lines += [_line(cells)] if cells else []
    return lines


def _fills(sets: dict[str, Any]) -> list[str]:
    """Gaps filled by ours, by chained forests and by medians."""
    head = ["table", "gaps", "filled by", "error", "CRPS", "80 % interval", "words right", "CPU seconds"]
    lines = [_line(head), _line(["---"] * len(head))]
    for each in SETS:
        told = [trial["fill"] for trial in _trials(sets, each.name) if "blocks" in trial.get("fill", {})]
        for gaps in ("at random", "blocks"):
            for by, name in (("ours", "sfumato"), ("miceforest", "miceforest"), ("medians", "medians")):
                found = [of for t in told if "rmse" in (of := t[gaps].get(by, {}))]
                if found:
                    keys = ("rmse", "crps", "coverage of 80%", "accuracy")
                    values = [_mean([f[key] for f in found if not np.isnan(f.get(key, np.nan))]) for key in keys]
                    spent = _mean([f["cpu"] for f in found if "cpu" in f])
                    lines.append(_line([each.name, gaps, name, *values, spent]))
    return lines


def _canaries(sets: dict[str, Any]) -> list[str]:
    """Planted rows that came back, and how well the nearest made row tells them from others."""
    head = ["table", "rows drawn", "planted once: back", "told from others", "ten times: back", "told from others"]
    lines = [_line(head), _line(["---"] * len(head))]
    for each in SETS:
        for t in (t["canaries"] for t in _trials(sets, each.name) if "once" in t.get("canaries", {})):
            cells = [
                f"{t[how]['back']} of {t['planted']}, {t[how]['told from others']:.3f}" for how in ("once", "10 times")
            ]
            lines.append(_line([each.name, str(t["drawn"]), *(part for cell in cells for part in cell.split(", "))]))
    return lines


def _trials(sets: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return list(sets.get(name, {}).values())


def _scores(trial: dict[str, Any], method: str) -> dict[str, Any]:
    parts = (
        [trial.get("arf", {})] if method == "arf" else [trial.get(part, {}).get(method) for part in ("plain", "rows")]
    )
    of: dict[str, Any] = next((part for part in parts if part), {})
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
