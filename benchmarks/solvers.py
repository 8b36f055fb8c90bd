"""Error against network calls on exact denoisers: our solvers and grids, diffusers', k-diffusion's and azula's.

    python -m benchmarks.solvers [--rows 128] [--quick] [--resume]       about 20 minutes on 2 idle cores

Data: 12 normals of deviations from 0.1 to 2, a mixture of five blobs, and the softmax denoiser of 256 digits, all in
float64. Everyone starts from the same noises and ends at pure data (sigma = 0); the error is the root-mean-square
distance to where the probability flow goes, in units of the data's spread. A cell is (data, schedule, number of calls),
every number from 5 to 128. A solver that needs two calls a step takes the most steps that fit. Samplers that stop at a
smallest sigma (azula's, DPM-Solver-fast) spend their last call on the data guessed there, as part of their calls;
azula's are also shown walking to 1e-7, where their coordinate allows it.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.common import COLOURS, figure, save_figure, store
from benchmarks.worlds import (
    NAMES,
    SCHEDULES,
    World,
    digit_pictures,
    doubt,
    fine,
    kept,
    measured_grid,
    noises,
    rms,
    slug,
    steps_within,
    world,
)
from sfumato.diffusion import ab, cosine, dpmpp_2m, euler, heun, sample, uniform, unipc
from sfumato.training.progress import Watch

FLOOR = 1e-6
"""Errors below this count as equal: the reference itself is known to this accuracy, and peers work in float32 in part."""
SOLVERS = {
    "euler": euler(), "heun": heun(), "dpmpp_2m": dpmpp_2m(), "ab2": ab(2), "ab3": ab(3), "ab4": ab(4),
    "unipc2": unipc(2), "unipc3": unipc(3),
}  # fmt: skip
GRIDS = {"uniform": uniform, "cosine": cosine, "auto": None}
FIXED = "unipc3 auto"
"""The one choice of ours that is compared with the best of all peers, cell by cell."""
SHOWN = (5, 8, 10, 15, 20, 30, 50, 80, 128)
EVERY = range(5, 129)
QUICK = (*range(5, 21), 24, 30, 36, 43, 50, 64, 80, 100, 128)
LIBRARIES = ("diffusers", "k-diffusion", "azula")
Curves = dict[str, dict[str, list[float | None]]]
"""sampler -> data -> error at every number of calls; None is NaN, or too few calls for that sampler."""


def walk(exact: World, z: torch.Tensor, grid: Any, solver: Any, end: torch.Tensor, counts: list[int]) -> Any:
    """{data: [error at every number of calls]} of the walk with the most steps that needs no more calls."""

    @cache
    def walked(steps: int) -> tuple[int, dict[str, float]]:
        exact.calls[0] = 0
        x = sample(exact, z, grid(exact.process.schedule, steps), solver)
        return exact.calls[0], rms(x - end, exact.places)

    found: dict[str, list[float | None]] = {name: [] for name in exact.places}
    for calls in counts:
        used, errors = walked(steps_within(calls, lambda n: walked(n)[0]))
        assert used <= calls
        for name, row in found.items():
            row.append(errors[name] if math.isfinite(errors[name]) else None)
    return found


def ours(exact: World, z: torch.Tensor, end: torch.Tensor, counts: list[int], keep: Path, tell: Any) -> Curves:
    """All our solvers on all our grids, on one schedule. ``auto`` is measured for each of the data by itself."""
    measured = {name: measured_grid(exact, name) for name in NAMES}

    def curve(solver: Any, grid: Any) -> dict[str, list[float | None]]:
        if grid is not None:
            return walk(exact, z, grid, solver, end, counts)
        row: dict[str, list[float | None]] = {}
        for name, place in exact.places.items():
            row |= walk(exact.only(name), z[:, place], measured[name], solver, end[:, place], counts)
        return row

    found: Curves = {}
    for solver_name, solver in SOLVERS.items():
        for grid_name, grid in GRIDS.items():
            name = f"{solver_name} {grid_name}"
            stored = keep.with_name(slug(keep.name, "sfumato", name))
            found[name] = kept(stored, partial(curve, solver, grid))
            tell(len(found))
    return found


def best(curves: Curves, name: str, chosen: Any) -> tuple[list[float | None], list[str | None]]:
    """The least error, and whose, at every number of calls, among samplers whose name ``chosen`` accepts."""
    rows = {key: row[name] for key, row in curves.items() if chosen(key)}
    errors, names = [], []
    for i in range(len(next(iter(rows.values())))):
        error, key = min(((row[i], key) for key, row in rows.items() if row[i] is not None), default=(None, None))
        errors.append(error)
        names.append(key)
    return errors, names


def references(exact: World, z: torch.Tensor, digits: torch.Tensor, folder: Path) -> tuple[Any, Any]:
    """Where the flow ends, by schedule, and how well that is known; kept for the peers in folder/arrays.pt."""
    stored, doubted = folder / "arrays.pt", folder / "doubt.json"
    if not (stored.is_file() and doubted.is_file()):
        arrays, doubts = {"digits": digits}, {}
        with Watch("reference walks", len(SCHEDULES), unit="schedules") as watch:
            for number, (name, schedule) in enumerate(SCHEDULES.items()):
                arrays[name] = fine(exact.on(schedule), z)
                doubts[name] = doubt(exact.on(schedule), z, arrays[name])
                watch.show(number + 1)
        torch.save(arrays, stored)
        doubted.write_text(json.dumps(doubts))
    return torch.load(stored, weights_only=True), json.loads(doubted.read_text())


def measure(rows: int, counts: list[int], folder: Path) -> dict[str, Any]:
    """Everything; peers and ours at the same time, one core each. Curves that lie in ``folder`` are not walked again."""
    torch.set_num_threads(1)
    digits = digit_pictures()
    exact = world(digits)
    z = noises(rows, sum(place.stop - place.start for place in exact.places.values()))
    folder.mkdir(parents=True, exist_ok=True)
    arrays, doubts = references(exact, z, digits, folder)
    curves: dict[str, Curves] = {}
    with ThreadPoolExecutor(1) as pool:
        given = {"folder": str(folder.resolve()), "rows": rows, "counts": counts, "schedules": list(SCHEDULES)}
        theirs = pool.submit(peers.run, "peer_solvers", given)
        each = len(SOLVERS) * len(GRIDS)
        with Watch("our solvers", len(SCHEDULES) * each, unit="solvers") as watch:
            for number, (name, schedule) in enumerate(SCHEDULES.items()):
                tell = lambda done, before=number * each: watch.show(before + done)  # noqa: E731
                curves[name] = ours(exact.on(schedule), z, arrays[name], counts, folder / name, tell)
        peer_curves: dict[str, Curves] = theirs.result()
    return summary(curves, peer_curves, doubts, {"rows": rows, "counts": counts})


def summary(curves: dict[str, Curves], peer_curves: dict[str, Curves], doubts: Any, settings: Any) -> dict[str, Any]:
    """The best of everyone in every cell, what was won, where not, and all curves at a few numbers of calls."""
    counts = settings["counts"]
    cells: dict[str, Any] = {}
    lost: list[dict[str, Any]] = []
    won = {"fixed": 0, "best": 0, "cells": 0}
    for schedule, mine in curves.items():
        for name in NAMES:
            cell: dict[str, Any] = {"fixed": [mine[FIXED][name], None]}
            cell["best"] = best(mine, name, lambda key: True)
            cell["peer"] = best(peer_curves[schedule], name, lambda key: True)
            for library in LIBRARIES:
                if any(key.startswith(library) for key in peer_curves[schedule]):
                    cell[library] = best(peer_curves[schedule], name, lambda key, of=library: key.startswith(of))
            for i, (fixed, mine_best, theirs) in enumerate(zip(cell["fixed"][0], cell["best"][0], cell["peer"][0])):
                won["cells"] += 1
                bar = max(theirs, FLOOR)
                won["fixed"] += fixed is not None and fixed <= bar
                won["best"] += mine_best is not None and mine_best <= bar
                if fixed is None or fixed > bar:
                    lost.append(
                        {"schedule": schedule, "data": name, "calls": counts[i], "ours": fixed, "best": mine_best,
                         "best_name": cell["best"][1][i], "peer": theirs, "peer_name": cell["peer"][1][i]}
                    )  # fmt: skip
            cells[f"{schedule}/{name}"] = cell
    shown = [n for n in SHOWN if n in counts]
    table = {
        schedule: {
            key: {name: [_short(row[name][counts.index(n)]) for n in shown] for name in NAMES}
            for key, row in {**{f"sfumato {k}": v for k, v in mine.items()}, **peer_curves[schedule]}.items()
        }
        for schedule, mine in curves.items()
    }
    for cell in cells.values():
        for key, (errors, names) in cell.items():
            cell[key] = {"errors": [_short(e) for e in errors], "names": _runs(names) if names else None}
    missing = {
        whose: sum(error is None for rows in found.values() for row in rows.values() for n in NAMES for error in row[n])
        for whose, found in (("sfumato", curves), ("peers", peer_curves))
    }
    return {
        "settings": settings, "floor": FLOOR, "fixed": FIXED, "reference_doubt": doubts, "won": won, "nan": missing,
        "lost": lost, "cells": cells, "shown_calls": shown, "samplers": table, "peers": peers.pins(),
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _runs(names: list[str | None]) -> list[tuple[str | None, int]]:
    """Names in a row, with how often each comes."""
    found: list[tuple[str | None, int]] = []
    for name in names:
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + 1)
        else:
            found.append((name, 1))
    return found


def report(facts: dict[str, Any]) -> None:
    """Print the table and draw the plot."""
    counts = facts["settings"]["counts"]
    table = Table("schedule / data", "calls", FIXED, "best of ours", *LIBRARIES, title="error against network calls")
    for key, cell in facts["cells"].items():
        for n in (5, 10, 20, 50, 128):
            if n in counts:
                row = [cell[c]["errors"][counts.index(n)] if c in cell else None for c in ("fixed", "best", *LIBRARIES)]
                table.add_row(key, str(n), *("-" if v is None else f"{v:.1e}" for v in row))
    console = Console(width=130)
    console.print(table)
    won = facts["won"]
    console.print(
        f"{FIXED} at most the best peer's error in {won['fixed']} of {won['cells']} cells "
        f"({won['fixed'] / won['cells']:.1%}), the best of ours in {won['best'] / won['cells']:.1%}; NaN: {facts['nan']}"
    )
    draw(facts)


def draw(facts: dict[str, Any]) -> None:
    """docs/bench_solvers.png: a panel for each schedule and data."""
    counts = facts["settings"]["counts"]
    sheet, axes = figure(3, 3)
    for place, (key, cell) in enumerate(facts["cells"].items()):
        panel = axes[place // 3][place % 3]
        for name, label in (("fixed", "sfumato"), ("best", "sfumato, best"), *((v, v) for v in LIBRARIES)):
            if name in cell:
                errors = [math.nan if e is None else max(e, facts["floor"]) for e in cell[name]["errors"]]
                panel.plot(
                    counts, errors, label=label, color=COLOURS[label], lw=1.4, zorder=3 if name == "fixed" else 2
                )
        panel.set(xscale="log", yscale="log", title=key)
        panel.title.set_fontsize(9)
        if place % 3 == 0:
            panel.set_ylabel("error (RMS)")
        if place >= 6:
            panel.set_xlabel("network calls")
        if place == len(NAMES):  # the first row has no k-diffusion
            panel.legend(frameon=False, fontsize=7)
    save_figure(sheet, "bench_solvers")


def main() -> None:
    """Measure, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128, help="noises followed")
    parser.add_argument("--quick", action="store_true", help=f"only {len(QUICK)} of the 124 numbers of calls")
    parser.add_argument(
        "--resume", action="store_true", help="take up what an earlier run, cut short, left in --folder"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/solvers"))
    asked = parser.parse_args()
    counts = list(QUICK if asked.quick else EVERY)
    folder = asked.folder / f"{asked.rows}_noises_{len(counts)}_counts"
    if not asked.resume:
        shutil.rmtree(folder, ignore_errors=True)
    facts = measure(asked.rows, counts, folder)
    store("solvers", facts)
    report(facts)


if __name__ == "__main__":
    main()
