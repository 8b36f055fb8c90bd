"""Forecasts as tables, in the names, units, zone and calendar of the input: of paths, and of quantiles."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path as File
from typing import Any

import numpy as np

from sfumato.data.writing import appearing
from sfumato.errors import needed
from sfumato.fields.series import zones
from sfumato.fields.series.data import Store
from sfumato.fields.series.facts import SeriesFacts
from sfumato.fields.series.forecasting import Path
from sfumato.fields.series.pieces import ORDER
from sfumato.fields.series.reading import EXTRA
from sfumato.jobs.making import KEY, Making
from sfumato.training.run import write_text

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def times(facts: SeriesFacts, place: int, count: int) -> list[str]:
    """The times of steps from a place of the grid on, as in the input; of series without times the numbers of the steps."""
    steps = place + np.arange(count)
    if not facts.dated:
        return [str(step) for step in steps.tolist()]
    frequency = facts.frequency
    return zones.said(frequency.stamps(steps), facts.zone, frequency.local)


def paths_table(facts: SeriesFacts, paths: Iterable[Path]) -> tuple[list[str], list[list[Any]]]:
    """Names and columns: a row a series, path and step; of a wide table a column a series."""
    time = facts.time or ORDER
    if facts.kind != "wide":
        columns: list[list[Any]] = [[], [], [], []]
        for path in paths:
            count = len(path.values)
            for column, cells in zip(
                columns,
                ([path.series] * count, times(facts, path.place, count), [path.number] * count, path.values.tolist()),
            ):
                column.extend(cells)
        return [facts.id or "series", time, "sample", facts.value or "value"], columns
    names: dict[str, None] = {}
    held: dict[tuple[int, str], dict[str, float]] = {}
    for path in paths:
        names.setdefault(path.series)
        for when, value in zip(times(facts, path.place, len(path.values)), path.values.tolist()):
            held.setdefault((path.number, when), {})[path.series] = value
    rows = sorted(held)
    wide: list[list[Any]] = [[when for _, when in rows], [number for number, _ in rows],
            *([held[row].get(name, float("nan")) for row in rows] for name in names)]  # fmt: skip
    return [time, "sample", *names], wide


def quantiles_table(
    facts: SeriesFacts, paths: Sequence[Path], quantiles: Sequence[float] = QUANTILES
) -> tuple[list[str], list[list[Any]]]:
    """Names and columns: a row a series and step, with the mean and quantiles of its paths."""
    groups: dict[tuple[str, int], list[np.ndarray]] = {}
    for path in paths:
        groups.setdefault((path.series, path.place), []).append(path.values)
    heads = [facts.id or "series", facts.time or ORDER, "mean", *(f"q{q:g}" for q in quantiles)]
    columns: list[list[Any]] = [[] for _ in heads]
    for (name, place), every in groups.items():
        values = np.stack(every)
        found = np.quantile(values, quantiles, axis=0)
        rows = (
            [name] * values.shape[1],
            times(facts, place, values.shape[1]),
            values.mean(0).tolist(),
            *found.tolist(),
        )
        for column, cells in zip(columns, rows):
            column.extend(cells)
    return heads, columns


def ordered(store: Store, i: int, steps: np.ndarray) -> list[str]:
    """The times of some steps of a series."""
    facts, places = store.facts, int(store.starts[i]) + np.asarray(steps, dtype=np.int64)
    if not facts.dated:
        return [str(place) for place in places.tolist()]
    return zones.said(facts.frequency.stamps(places), facts.zone, facts.frequency.local)


def table_of(store: Store, every: Sequence[np.ndarray]) -> tuple[list[str], list[list[Any]]]:
    """Whole series as a table laid out like the data: wide, or a row a value."""
    facts = store.facts
    time = facts.time or ORDER
    if facts.kind != "wide":
        columns: list[list[Any]] = [[], [], []]
        for i, values in enumerate(every):
            cells = ([facts.names[i]] * len(values), ordered(store, i, np.arange(len(values))), values.tolist())
            for column, own in zip(columns, cells):
                column.extend(own)
        return [facts.id or "series", time, facts.value or "value"], columns
    first = int(store.starts.min())
    last = max(int(start) + len(values) for start, values in zip(store.starts, every))
    wide = np.full((len(every), last - first), np.nan)
    for row, start, values in zip(wide, store.starts, every):
        row[int(start) - first : int(start) - first + len(values)] = values
    return [time, *facts.names], [times(facts, first, last - first), *wide.tolist()]


def write_table(heads: Sequence[str], columns: Sequence[Sequence[Any]], path: File, making: Making | None) -> File:
    """As CSV (its making in PATH.json) or parquet (its making inside)."""
    if path.suffix.lower() == ".parquet":
        pa, parquet = needed("pyarrow", EXTRA), needed("pyarrow.parquet", EXTRA)
        table = pa.table(dict(zip(heads, columns)))
        if making is not None:
            table = table.replace_schema_metadata({KEY: making.text()})
        with appearing(path) as file:
            parquet.write_table(table, file)
    else:
        with appearing(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(heads)
            writer.writerows(zip(*([_cell(value) for value in column] for column in columns)))
            text.flush()
            text.detach()
    if making is not None:
        write_text(path.with_name(path.name + ".json"), making.text())
    return path


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else repr(float(f"{value:.9g}"))
    return value
