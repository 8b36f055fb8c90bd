"""The tables and figures of :mod:`benchmarks.policy`, from what it found."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import DOCS, figure, save_figure
from sfumato.fields.policy.acting import Policy
from sfumato.fields.policy.measure import session_of
from sfumato.fields.policy.simulators.environments import make
from sfumato.fields.policy.simulators.filming import AMBIGUOUS, fan, futures
from sfumato.fields.policy.simulators.rollout import FIELD_SEEDS
from sfumato.fields.policy.simulators.world import PUSH_T
from sfumato.metrics.intervals import share_bounds

FIELD = len(FIELD_SEEDS)


def report_push_t(facts: dict[str, Any]) -> None:
    """Print the table and draw the figures."""
    episodes, console = facts["episodes"], Console(width=150)
    table = Table(
        "policy", "steps", f"reward, {FIELD}", f"success, {FIELD}", f"reward, {episodes}", f"success, {episodes}",
        "a chunk, ms", title=f"Push-T, {len(facts['seeds'])} seeds: median (range)",
    )  # fmt: skip
    for kind, found in facts["runs"].items():
        for way in found[0]["trials"]:
            trials = [run["trials"][way] for run in found]
            cells = [
                middle([t[part][name] for t in trials])
                for part in ("field", "all")
                for name in ("mean_maximum", "success")
            ]
            times = [run["latency_ms"][way]["one_row_p50"] for run in found] if way in found[0]["latency_ms"] else []
            table.add_row(kind, way, *cells, middle(times, 1) if times else "")
    console.print(table)
    for kind, found in facts["runs"].items():
        console.print(kind, [(run["training_steps"], round(run["cpu_seconds"])) for run in found])
    draw_steps(facts)
    draw_learning(facts)


def middle(values: list[float], digits: int = 3) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


NAMES = {"policy": "policy", "map": "its flow map", "cloning": "behaviour cloning"}
PAINT = {"policy": "#2b6cb0", "map": "#dd6b20", "cloning": "#718096"}


def draw_steps(facts: dict[str, Any]) -> None:
    """docs/policy_steps.png: reward and success against steps, success against the time of a chunk."""
    sheet, [[left, right, last]] = figure(3, 1, 3.6, 3.2)
    for kind, found in facts["runs"].items():
        steps, colour = [int(way) for way in found[0]["trials"] if way.isdigit()], PAINT[kind]
        for axes, name in ((left, "mean_maximum"), (right, "success")):
            columns = [[run["trials"][str(n)]["all"][name] for run in found] for n in steps]
            middles = [statistics.median(column) for column in columns]
            if kind == "cloning":
                axes.axhline(middles[0], color=colour, ls="--", label=NAMES[kind])
                axes.axhspan(min(columns[0]), max(columns[0]), color=colour, alpha=0.12)
                continue
            axes.plot(steps, middles, marker="o", ms=4, color=colour, label=NAMES[kind])
            axes.fill_between(steps, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.15)
        times = [statistics.median(run["latency_ms"][str(n)]["one_row_p50"] for run in found) for n in steps]
        shares = [statistics.median(run["trials"][str(n)]["all"]["success"] for run in found) for n in steps]
        last.plot(times, shares, marker="o", ms=4, color=colour, ls="" if kind == "cloning" else "-", label=NAMES[kind])
        for n, x, y in zip(steps, times, shares, strict=True):
            last.annotate(str(n), (x, y), textcoords="offset points", xytext=(3, 4), fontsize=6, color=colour)
    for axes, label in ((left, "steps"), (right, "steps"), (last, "time of a chunk, ms (numbers: steps)")):
        axes.set_xscale("log")
        axes.set_xlabel(label)
    left.set_ylabel("mean greatest reward")
    right.set_ylabel("share of episodes won")
    last.set_ylabel("share of episodes won")
    left.legend(frameon=False, fontsize=7)
    save_figure(sheet, "policy_steps")


def draw_learning(facts: dict[str, Any]) -> None:
    """docs/policy_learning.png: reward and success over the training."""
    sheet, [panels] = figure(2, 1, 3.8, 3.0)
    for kind in ("policy", "cloning"):
        for axes, name in zip(panels, ("mean_maximum", "success"), strict=True):
            lines = [[row[name] for row in run["over_training"]] for run in facts["runs"][kind]]
            seconds = [
                statistics.median(c)
                for c in zip(
                    *([r["seconds"] for r in run["over_training"]] for run in facts["runs"][kind]), strict=True
                )
            ]
            columns = list(zip(*lines, strict=True))
            axes.plot(
                seconds, [*map(statistics.median, columns)], marker="o", ms=4, color=PAINT[kind], label=NAMES[kind]
            )
            axes.fill_between(seconds, [*map(min, columns)], [*map(max, columns)], color=PAINT[kind], alpha=0.15)
            axes.set_xlabel("CPU seconds of training")
            axes.set_ylabel({"mean_maximum": "mean greatest reward", "success": "share of episodes won"}[name])
    panels[0].legend(frameon=False, fontsize=7)
    save_figure(sheet, "policy_learning")


def draw_fan(folder: Path, seed: int) -> None:
    """docs/policy_fan.png: 32 futures of four chunks from a state of Push-T near which people went two ways."""
    paths = {}
    for kind in ("policy", "map", "cloning"):
        sessions = partial(session_of, Policy.load(folder / f"{kind}-{seed}"), None, None)
        paths[NAMES[kind]] = futures(
            partial(make, PUSH_T), sessions, 32, state=AMBIGUOUS, seed=FIELD_SEEDS[0], chunks=4
        )
    fan(partial(make, PUSH_T, side=384), paths, state=AMBIGUOUS, side=384).save(DOCS / "policy_fan.png")


def report_meta_world(facts: dict[str, Any]) -> None:
    """Print the table: successes of each task, and of all with the bounds of their share."""
    trials = facts["episodes"] * len(facts["seeds"])
    table = Table(
        "task", *facts["successes"], title=f"successes, of {facts['episodes']} episodes for each of the seeds"
    )
    tasks = list(facts["successes"]["expert"])
    for task in tasks:
        table.add_row(task, *(", ".join(map(str, found[task])) for found in facts["successes"].values()))
    shares = []
    for kind, found in facts["successes"].items():
        won, of = sum(map(sum, found.values())), len(tasks) * (facts["episodes"] if kind == "expert" else trials)
        low, high = share_bounds(won, of)
        shares.append(f"{won / of:.1%} ({low:.1%}..{high:.1%})")
    table.add_row("all", *shares)
    Console(width=120).print(table)
