"""Reports: the numbers of `sfumato evaluate` beside their floors, what they say in words, and pictures. Written here alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.jobs import plots
from sfumato.jobs.card import card
from sfumato.jobs.page import NAME, write_page
from sfumato.jobs.strict import to_plain
from sfumato.training.careful import reason
from sfumato.training.run import write_text
from sfumato.training.telling import tell

if TYPE_CHECKING:
    from sfumato.jobs.model import Model
    from sfumato.metrics.table import Row
    from sfumato.training.objective import Savable


@dataclass(frozen=True)
class Saves:
    """Something to look at that is written by a function of its path."""

    write: Callable[[Path], Any]

    def save(self, path: Path, /) -> None:
        self.write(path)


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    rows: each metric with its interval and floor. notes: what they say, in sentences. pictures: file name -> what to save.
    about: more for metrics.json, by name. table: the rows as text, where a field has a table of its own form.
    space: the feature space of the rows, where there is one. beside: the same metrics in other spaces, by name, which nothing
    in the field chooses by: a model that was trained or chosen to be near in ``space`` is found out there.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, Savable] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    table: str | None = None
    space: str = ""
    beside: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)


def render(model: Model, report: Report, ask: Any) -> str:
    """Write metrics.json, README.md and the pictures of a run; returns the report as text."""
    from sfumato.metrics.table import as_dict, format_table
    from sfumato.metrics.words import agreement, sentences

    run = model.run
    table = report.table if report.table is not None else format_table(report.rows)
    if report.beside:
        others = (
            f"features: {name} (nothing is chosen by it)\n{format_table(of)}" for name, of in report.beside.items()
        )
        table = "\n\n".join([f"features: {report.space}\n{table}", *others])
    spaces = {report.space: report.rows, **report.beside} if report.beside else {}
    notes = [*sentences(report.rows), *(agreement(spaces) if spaces else []), *report.notes]
    text = "\n".join([table, *notes])
    drawn = {"walk": to_plain(model.walk), "drawing": to_plain(model.drawing), "ask": to_plain(ask)}
    found = {
        **(as_dict(report.rows) if report.rows else {}),
        **({"beside": {name: as_dict(of) for name, of in report.beside.items()}} if report.beside else {}),
        "samples": drawn,
        **report.about,
        "remarks": notes,
        "table": table,
    }
    metrics = run.path / "metrics.json"
    _done("metrics.json", lambda: write_text(metrics, json.dumps(found, indent=1)))
    _done("README.md", lambda: card(run, text))
    made = [name for name, picture in report.pictures.items() if _done(name, lambda: picture.save(run.path / name))]  # noqa: B023
    if plots.available():
        records = run.records()
        if by_level := [record for record in records if "by_level" in record]:
            _done("loss_by_level.png", lambda: plots.by_level(by_level, run.path / "loss_by_level.png"))
            _done("loss.png", lambda: plots.training(records, run.path / "loss.png"))
    pages = [NAME] if _done(NAME, lambda: write_page(run)) else []
    look = ", ".join(str(run.path / name) for name in (*pages, *made))
    return f"{text}\nlook at {look}" if look else text


def _done(name: str, work: Callable[[], Any]) -> bool:
    """Whether a file of the report came to be. A full disk, or somebody else's simulator, codec or plotting, costs a warning
    and no number."""
    try:
        work()
    except Exception as error:
        tell(f"warning: {name} could not be made ({reason(error)}); the numbers are below")
        return False
    return True
