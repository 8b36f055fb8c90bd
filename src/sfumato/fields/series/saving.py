"""`sfumato series forecast`: quantiles, paths and a fan, from one drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.fields.series.data import Store
from sfumato.fields.series.fan import PANELS, Fan
from sfumato.fields.series.options import ForecastAsk
from sfumato.fields.series.writing import paths_table, quantiles_table, write_table
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
