"""`sfumato series forecast` and `fill`: quantiles, paths and a fan, from one drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.series.data import Store
from sfumato.fields.series.fan import PANELS, Fan
from sfumato.fields.series.filling import Filled
from sfumato.fields.series.filling import fill as filled
from sfumato.fields.series.options import ForecastAsk
from sfumato.fields.series.writing import QUANTILES, ordered, paths_table, quantiles_table, table_of, write_table
from sfumato.jobs.plots import available
from sfumato.training.progress import Watch

if TYPE_CHECKING:
    from sfumato.jobs.model import Model


def forecast(
    model: Model, ask: ForecastAsk, n: int, quantiles: Sequence[float], out: Path, paths: Path | None, fan: bool
) -> Iterator[str]:
    """Written; yields a line about each file beside ``out``. Raises Wrong, DataError."""
    queries = model.recipe.queries(model, ask, n)
    things = []
    with Watch("forecast", len(queries), unit="paths") as watch:
        for part in model.recipe.draw(model, queries, range(len(queries))):
            things += model.recipe.things(model, queries, part)
            watch.show(len(things))
    facts = queries.facts  # type: ignore[attr-defined]
    making = model.making(ask, out.suffix.lower())
    write_table(*quantiles_table(facts, things, quantiles), out, making)
    if paths is not None:
        write_table(*paths_table(facts, things), paths, replace(making, suffix=paths.suffix.lower()))
        yield f"paths     {paths}"
    if fan and available():
        store = model.companions.store if ask.after is None else Store.after(ask.after, model.facts)
        picture = out.with_name(out.name + ".fan.png")
        first = {thing.series: None for thing in things}
        shown = set(list(first)[:PANELS])
        Fan(store, [thing for thing in things if thing.series in shown]).save(picture)
        yield f"look at   {picture}"


def fill(model: Model, gaps: Path, n: int, out: Path, paths: Path | None) -> Iterator[str]:
    """Written; yields lines about what was done. Raises Wrong, DataError."""
    store = Store.after(gaps, model.facts)
    found = filled(model, store, n)
    count = sum(len(each.at) for each in found)
    every = [store.series(i).copy() for i in range(len(store))]
    for each in found:
        every[each.index][each.at] = np.median(each.drawn, 0)
    making = model.making(ForecastAsk(after=gaps), out.suffix.lower())
    write_table(*table_of(store, every), out, making)
    beside = out.with_name(f"{out.stem}.gaps{out.suffix}")
    write_table(*_quantiles(store, found), beside, None)
    yield f"filled    {count:,} gaps of {len(found)} series"
    left = sum(int((~np.isfinite(values)).sum()) for values in every)
    if left:
        yield f"left      {left:,} gaps before the third value of their series, which has no past to tell them from"
    yield f"quantiles {beside}"
    if paths is not None:
        write_table(*_draws(store, found), paths, None)
        yield f"paths     {paths}"


def _quantiles(store: Store, found: Sequence[Filled]) -> tuple[list[str], list[list[Any]]]:
    """A row a gap: series, time, mean and quantiles."""
    facts = store.facts
    heads = [facts.id or "series", facts.time or "row", "mean", *(f"q{q:g}" for q in QUANTILES)]
    columns: list[list[Any]] = [[] for _ in heads]
    for each in found:
        numbers = np.quantile(each.drawn, QUANTILES, axis=0) if len(each.at) else np.zeros((len(QUANTILES), 0))
        mean = each.drawn.mean(0).tolist() if len(each.at) else []
        rows = [[each.name] * len(each.at), ordered(store, each.index, each.at), mean, *numbers.tolist()]
        for column, cells in zip(columns, rows):
            column.extend(cells)
    return heads, columns


def _draws(store: Store, found: Sequence[Filled]) -> tuple[list[str], list[list[Any]]]:
    """A row a gap and draw."""
    facts = store.facts
    columns: list[list[Any]] = [[], [], [], []]
    for each in found:
        when = ordered(store, each.index, each.at)
        for number, row in enumerate(each.drawn.tolist()):
            for column, cells in zip(columns, ([each.name] * len(row), when, [number] * len(row), row)):
                column.extend(cells)
    return [facts.id or "series", facts.time or "row", "sample", facts.value or "value"], columns
