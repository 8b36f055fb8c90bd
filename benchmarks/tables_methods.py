"""What makes rows in the benchmark of tables: ours, columns drawn independently, a Gaussian copula, and a peer's forests."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sfumato
from benchmarks import peers
from benchmarks.tables_sets import Set
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.frames import frames
from sfumato.fields.tables.recipe import Tables
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.writing import write_table
from sfumato.jobs.model import Model
from sfumato.training.options import TrainOptions


def trained(each: Set, train: Table, out: Path, options: TrainOptions) -> tuple[Model, dict[str, Any]]:
    """`sfumato train tables` on these rows with the defaults of the field; what it took. A run that is there is kept."""
    told = out / "told.json"
    if not told.is_file():
        out.mkdir(parents=True, exist_ok=True)
        data = write_table(train, out / "train.csv")
        began = time.process_time()
        run = sfumato.train(Tables(data, kind=each.kinds), options, out / "run")
        taken, records = time.process_time() - began, run.records()
        held = {record["step"]: record["held_out"] for record in records if "held_out" in record}
        steps = max(record["step"] for record in records)
        told.write_text(json.dumps({"cpu": taken, "steps": steps, "held-out loss": held}))
    return sfumato.load(out / "run"), json.loads(told.read_text())


def drawn(model: Model, n: int, seed: int = 0, calls: tuple[int, int] | None = None) -> tuple[Table, float]:
    """n rows of a run, and the CPU seconds they took; calls: of the states and of the values, instead of the usual."""
    if calls is not None:
        recipe: Any = model.recipe
        walk = dataclasses.replace(model.walk, steps=sum(calls))
        model = dataclasses.replace(model, recipe=dataclasses.replace(recipe, calls=calls), walk=walk)
    model = dataclasses.replace(model, drawing=dataclasses.replace(model.drawing, seed=seed))
    recipe = model.recipe
    began = time.process_time()
    queries, parts = recipe.queries(model, recipe.Ask(), n), []
    for some in recipe.draw(model, queries, range(n)):
        parts.append(recipe.rows(model, queries, some))
    return stacked(parts), time.process_time() - began


def stacked(parts: list[Table]) -> Table:
    """Tables of the same columns, one below the other."""
    columns = []
    for column in parts[0].columns:
        cells = [cell for part in parts for cell in part[column.name].cells()]
        columns.append(Column.of(column.name, cells, column.type))
    return Table(tuple(columns), parts[0].format)


def independent(train: Table, n: int, seed: int = 0) -> Table:
    """Every column by itself."""
    rng = np.random.default_rng(seed)
    return dataclasses.replace(
        train, columns=tuple(column.take(rng.integers(0, len(train), n)) for column in train.columns)
    )


def copula(train: Table, facts: Facts, n: int, seed: int = 0) -> Table:
    """A Gaussian copula: ranks of all columns (categories by how frequent they are, gaps below everything) as normal
    numbers, ties broken at random, of which the correlation alone is kept; back by the columns' own distributions."""
    rng, kinds = np.random.default_rng(seed), {kind.name: kind for kind in facts.kinds}
    orders, scores = [], []
    for column in train.columns:
        kind, counts = kinds[column.name], column.counts()
        value = [
            -math.inf if word is None or word in kind.gaps
            else float(counts[i]) if kind.kind in ("category", "constant", "key")
            else kind.spelling.value(word)
            for i, word in enumerate(column.words)
        ]  # fmt: skip
        place = np.argsort(np.argsort(value, kind="stable"), kind="stable")[column.codes]
        order = np.lexsort((rng.random(len(train)), place))
        rank = np.empty(len(train))
        rank[order] = (np.arange(len(train)) + 0.5) / len(train)
        orders.append(order)
        scores.append(torch.special.ndtri(torch.from_numpy(rank)).numpy())
    together = np.corrcoef(np.stack(scores)) + 1e-6 * np.eye(len(scores))
    place = torch.special.ndtr(torch.from_numpy(rng.multivariate_normal(np.zeros(len(scores)), together, n))).numpy()
    rows = (place * len(train)).astype(int).clip(0, len(train) - 1)
    columns = (column.take(order[rows[:, i]]) for i, (column, order) in enumerate(zip(train.columns, orders)))
    return dataclasses.replace(train, columns=tuple(columns))


# ---- peers -----------------------------------------------------------------------------------------------------------


def arf(train: Table, facts: Facts, n: int, most: int, seed: int = 0) -> tuple[Table, dict[str, Any]]:
    """Adversarial random forests, on at most so many training rows."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "train.csv", Path(folder) / "made.csv"
        as_numbers(train, facts, data)
        given = {
            "do": "arf",
            "train": str(data),
            "out": str(out),
            "rows": n,
            "most": most,
            "seed": seed,
            "words": words(facts),
        }
        told = peers.run("tables_peers", given, of=peers.TABLES)
        return of_numbers(out, facts, train), told


def words(facts: Facts) -> list[str]:
    """The columns of categories."""
    return [states.kind.name for states in facts.measured if states.kind.kind == "category"]


def as_numbers(table: Table, facts: Facts, path: Path) -> None:
    """A CSV in which numbers and dates are floats and gaps are empty, of all columns but keys and constants."""
    (frame,) = frames([table], facts)
    columns = []
    for i, states in enumerate(facts.measured):
        if frame.words[i]:
            cells = [cell or "" for cell in table[states.kind.name].cells()]
        else:
            cells = ["" if math.isnan(value) else repr(value) for value in frame.cells[:, i].tolist()]
        columns.append(Column.of(states.kind.name, cells))
    write_table(Table(tuple(columns)), path)


def of_numbers(path: Path, facts: Facts, like: Table) -> Table:
    """A peer's CSV in the spelling of the table; a number is rounded to the column's decimals."""
    from sfumato.fields.tables.reading import read_table
    from sfumato.fields.tables.table import Format

    made = read_table(path, like=Format())
    columns = []
    for column in like.columns:
        states = next(each for each in facts.columns if each.kind.name == column.name)
        if states.kind.kind in ("key", "constant"):
            columns.append(Column.of(column.name, [states.kind.word] * len(made), column.type))
            continue
        cells = made[column.name].cells()
        if states.kind.kind != "category":
            gap = states.kind.gaps[0] if states.kind.gaps else ""
            cells = [gap if cell in ("", None) else states.kind.spelling.word(float(cell or 0)) for cell in cells]
        columns.append(Column.of(column.name, cells, column.type))
    return Table(tuple(columns), like.format)
