"""`sfumato evaluate` of tables: rows drawn, and measured beside real rows that nothing was trained on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.saying import as_text, remarks
from sfumato.fields.tables.scoring import Score, scores
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.trees import detector

if TYPE_CHECKING:
    from sfumato.fields.tables.options import RowAsk, TableMeasure
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report

MOST = 5000  # rows compared at most
FEWEST = 50  # real rows without which nothing is compared


def measurable(model: Model, asked: TableMeasure, ask: RowAsk) -> None:
    """What would be missing at the end: a question that can be measured, real rows to compare with, and the detector. Raises
    DataError."""
    if ask.known is not None:
        raise DataError("--known cannot be evaluated: completed rows are not drawn like the table")
    detector()
    known(asked.target, model.facts)
    compared(model, asked, ask)


def known(target: str | None, facts: Facts) -> str | None:
    """A target that is a column which says something of a row. Raises DataError."""
    names = [states.kind.name for states in facts.measured]
    if target is not None and target not in names:
        near = difflib.get_close_matches(target, names, 1)
        why = "is always the same, or a key" if target in [kind.name for kind in facts.kinds] else "is no column"
        raise DataError(
            f"--target names {shown(target)!r}, which {why}; "
            + (f"{near[0]!r} is one" if near else f"as {names[-1]!r} is")
        )
    return target


def compared(model: Model, asked: TableMeasure, ask: RowAsk) -> tuple[Table, Table, int]:
    """The rows that were trained on and the real ones to compare with, and how many of each. Raises DataError."""
    from sfumato.fields.tables import asking
    from sfumato.fields.tables.reading import read_table
    from sfumato.fields.tables.rows import parts
    from sfumato.fields.tables.table import without

    recipe: Any = model.recipe
    whole = recipe.table(model.run)
    train, held = (whole.take(part) for part in parts(whole, recipe.held_out))
    real = held if asked.real is None else without(read_table(asked.real), recipe.leave_out)
    if missing := [name for name in whole.names if name not in real.names]:
        raise DataError(f"{shown(str(asked.real))}: lacks column {shown(missing[0])!r}")
    real = Table(tuple(real[name] for name in whole.names), whole.format)
    if ask.where:
        clauses = asking.checked(asking.parse(ask.where), model.facts)
        train, real = (part.take(np.flatnonzero(asking.meets(part, clauses, model.facts))) for part in (train, real))
    n = min(len(real), len(train), asked.rows or MOST)
    if n < FEWEST:
        raise DataError(f"{n} real rows to compare with, at least {FEWEST} are needed: give more with --real FILE")
    return train, real, n


def evaluate(model: Model, asked: TableMeasure, ask: RowAsk) -> Report:
    """As many rows drawn as there are real ones, and all their scores; what `sfumato evaluate` shows of a table."""
    from sfumato.fields.tables.looks import write_compared
    from sfumato.jobs.report import Report, Saves
    from sfumato.training.progress import Watch

    recipe: Any = model.recipe
    train, real, n = compared(model, asked, ask)
    queries, parts = recipe.queries(model, ask, n), []
    with Watch("sample", n, unit="rows") as watch:
        for drawn in recipe.draw(model, queries, range(n)):
            parts += recipe.rows(model, queries, drawn).rows()
            watch.show(len(parts))
    made = Table(tuple(Column.of(c.name, cells, c.type) for c, cells in zip(train.columns, zip(*parts))), train.format)
    found = scores(made, train, real, model.facts, target=asked.target, outside=asked.real is not None)
    who = "held-out rows" if asked.real is None else f"rows of {asked.real}"

    def page(path: Path) -> None:
        write_compared(path, "Made rows and real rows", found, made, train, model.facts, who)

    return Report(
        notes=remarks(found),
        about=plain(found, n, len(train)),
        table=as_text(found, len(train), who),
        pictures={"compared.html": Saves(page)},
    )


def plain(rows: Sequence[Score], n: int, reference: int) -> Mapping[str, Any]:
    """The scores as numbers, by name, as metrics.json has them."""
    metrics = {row.name: {**asdict(row), "reference": reference} for row in rows}
    for each in metrics.values():
        del each["name"]
    return {"n": n, "reference": reference, "metrics": metrics}
