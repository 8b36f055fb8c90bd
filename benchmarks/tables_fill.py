"""Gaps filled: cells of held-out rows are hidden, and drawn by ours and by miceforest, or set to the column's median."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import peers, tables_methods
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.frames import frames
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.writing import write_table

if TYPE_CHECKING:
    from benchmarks.tables import Trial

SHARE, ROWS, DRAWS, TRAINED, ITERATIONS = 0.3, 500, 10, 5000, 3
INSIDE = 0.8  # of the interval whose coverage is counted


def holes(n: int, columns: int, blocks: bool, seed: int = 0) -> np.ndarray:
    """Which cells are hidden, bool (n, columns): each by itself, or neighbouring columns together."""
    rng = np.random.default_rng(seed)
    if not blocks:
        return rng.random((n, columns)) < SHARE
    wide = max(1, round(SHARE * columns))
    first = rng.integers(0, columns, n)
    return (np.arange(columns)[None] - first[:, None]) % columns < wide


def hidden(table: Table, which: np.ndarray) -> Table:
    """The table with these cells empty."""
    columns = []
    for i, column in enumerate(table.columns):
        cells = ["" if gone else cell for cell, gone in zip(column.cells(), which[:, i])]
        columns.append(Column.of(column.name, cells, column.type))
    return Table(tuple(columns), table.format)


def fill(trial: Trial) -> dict[str, Any]:
    """Both kinds of holes, each filled by all."""
    truth = trial.some(trial.held, ROWS, salt=7)
    found: dict[str, Any] = {"rows": len(truth), "draws": DRAWS, "share": SHARE}
    for name, blocks in (("at random", False), ("blocks", True)):
        which = holes(len(truth), len(truth.columns), blocks, trial.seed)
        found[name] = _filled(trial, truth, which)
    return found


def _filled(trial: Trial, truth: Table, which: np.ndarray) -> dict[str, Any]:
    gaps, model, facts = hidden(truth, which), trial.model, trial.facts
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        known = write_table(gaps, place / "gaps.csv")
        began = time.process_time()
        recipe: Any = model.recipe
        queries = recipe.queries(model, recipe.Ask(known=known), DRAWS)
        made = tables_methods.stacked(
            [recipe.rows(model, queries, some) for some in recipe.draw(model, queries, range(len(queries)))]
        )
        taken = time.process_time() - began
        ours = [made.take(np.arange(draw, len(made), DRAWS)) for draw in range(DRAWS)]
        found["ours"] = {**judged(truth, ours, which, trial.parts.train, facts), "cpu": taken}
        median = [hidden(truth, which)]
        found["medians"] = judged(truth, median, which, trial.parts.train, facts, usual=True)
        tables_methods.as_numbers(trial.parts.train, facts, place / "train.csv")
        tables_methods.as_numbers(gaps, facts, place / "holes.csv")
        given = {
            "do": "mice", "train": str(place / "train.csv"), "gaps": str(place / "holes.csv"), "out": str(place / "out"),
            "words": tables_methods.words(facts), "draws": DRAWS, "iterations": ITERATIONS, "most": TRAINED, "share": SHARE,
            "seed": trial.seed,
        }  # fmt: skip
        try:
            told = peers.run("tables_peers", given, of=peers.TABLES)
        except RuntimeError as error:
            found["miceforest"] = {"error": str(error)}
        else:
            draws = [tables_methods.of_numbers(place / f"out.{i}.csv", facts, truth) for i in range(DRAWS)]
            found["miceforest"] = {**judged(truth, draws, which, trial.parts.train, facts), **told}
    return found


def judged(
    truth: Table, draws: list[Table], which: np.ndarray, train: Table, facts: Facts, usual: bool = False
) -> dict[str, float]:
    """Of the hidden cells that are known: the error of the median draw in standard deviations of the column, mean over the
    columns of numbers; the continuous ranked probability score and the coverage of the middle 80 % of the draws; the share
    of categories that the most frequent draw gets right. usual: medians and most frequent words of the training rows."""
    real, known, *made = frames([truth, train, *draws], facts)
    place = [truth.names.index(states.kind.name) for states in facts.measured]
    errors, ranked, covered, right = [], [], [], []
    for i, word in enumerate(real.words):
        rows = which[:, place[i]] & ~np.isnan(real.cells[:, i])
        column = known.cells[:, i][~np.isnan(known.cells[:, i])]
        if not rows.any() or not len(column):
            continue
        x = real.cells[rows, i]
        if usual:
            values, counts = np.unique(column, return_counts=True)
            drawn = np.full((1, len(x)), values[counts.argmax()] if word else np.median(column))
        else:
            drawn = np.stack([frame.cells[rows, i] for frame in made])
            drawn = np.where(np.isnan(drawn), np.median(column) if not word else -1.0, drawn)
        if word:
            best = [np.unique(draw, return_counts=True) for draw in drawn.T]
            right.append(float(np.mean([values[counts.argmax()] == y for (values, counts), y in zip(best, x)])))
            continue
        unit = float(column.std()) or 1.0
        errors.append(float(np.sqrt(np.mean(((np.median(drawn, 0) - x) / unit) ** 2))))
        ranked.append(_crps(drawn / unit, x / unit))
        covered.append(_coverage(drawn, x))
    means = {"rmse": errors, "crps": ranked, f"coverage of {INSIDE:.0%}": covered, "accuracy": right}
    return {name: float(np.mean(values)) for name, values in means.items() if values}


def _crps(drawn: np.ndarray, x: np.ndarray) -> float:
    """Mean |draw - x| less half the mean difference of two draws (Gneiting and Raftery 2007), each pair of draws once."""
    n = len(drawn)
    apart = np.abs(drawn[:, None] - drawn[None]).sum((0, 1)) / max(1, n * (n - 1))
    return float((np.abs(drawn - x).mean(0) - apart / 2).mean())


def _coverage(drawn: np.ndarray, x: np.ndarray) -> float:
    """How often x lies within the middle of the draws: between the draws k and n + 1 - k in order, which a draw of the same
    law does with probability (n + 1 - 2 k) / (n + 1); interpolated to 80 %, ties at the ends counted half."""
    ordered, n = np.sort(drawn, 0), len(drawn)
    k = (1 - INSIDE) / 2 * (n + 1)
    if k < 1:
        return float("nan")
    shares = []
    for whole in (int(k), int(k) + 1):
        low, high = ordered[whole - 1], ordered[n - whole]
        outside = (x < low) + (x > high) + 0.5 * ((x == low) & (x < high)) + 0.5 * ((x == high) & (x > low))
        shares.append(float(1 - outside.mean()))
    return shares[0] + (k - int(k)) * (shares[1] - shares[0])
