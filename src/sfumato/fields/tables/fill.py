"""`sfumato tables fill`: the gaps of a table drawn by a trained run, everything else of it to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sfumato.errors import DataError, Wrong, check
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import Drawing, Walk

if TYPE_CHECKING:
    import numpy as np

    from sfumato.fields.tables.asking import Asked
    from sfumato.fields.tables.data import Facts
    from sfumato.fields.tables.kinds import Kind
    from sfumato.fields.tables.table import Table
    from sfumato.jobs.model import Model

TRIES = 200
"""Draws of a row whose gaps come out as gaps again, or that breaks a rule, before it is left as it is."""


@dataclass(frozen=True)
class Fill:
    """Draw what is missing in a table by a trained run: only empty cells change, each for what its row says."""

    run: Positional[Path]
    """Run directory."""
    data: Positional[Path]
    """The table with gaps: columns of the run's own table, in any order, and any others, which stay."""
    draws: int = 1
    """Files to write, each with other draws (as multiple imputation wants them): NAME-1.csv, NAME-2.csv, ..."""
    out: Path | None = None
    """File to write (default: NAME-filled.csv in the folder where you are, or whatever the table's own suffix is)."""
    only: Annotated[str | None, arg(name="table")] = None
    """The table of a SQLite file that is meant."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(self, (self.draws >= 1, "draws", "at least 1"))

    def __call__(self) -> int:
        from sfumato.fields.tables.reading import read_table
        from sfumato.jobs import model
        from sfumato.jobs.outputs import Place

        loaded = model.load(self.run, self.walk, self.drawing)
        table = read_table(self.data, say, table=self.only)
        out = self.out or Path(f"{self.data.stem}-filled{table.format.suffix}")
        if out.suffix.lower() not in loaded.recipe.formats:
            raise Wrong(f"out = {str(out)!r}: must be a file that ends with one of {', '.join(loaded.recipe.formats)}")
        names = [out] if self.draws == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(self.draws)]
        places = [Place(name, True) for name in names]
        for place in places:
            place.check()
        found, left = fill(loaded, table, self.draws)
        for place, each in zip(places, found):
            place.clear()
            _write(self.data, table, each, place.desk)
            path = place.put(place.desk)
            place.note([path], loaded.making(loaded.recipe.Ask()))
            print(path)
        cells = sum(len(column) for column in gaps(table, loaded.facts).values())
        say(
            f"filled    {cells - left} of {cells} empty cells"
            + ("; the others are empty in every row like theirs" if left else "")
        )
        return 0


def _write(path: Path, table: Table, filled: Table, out: Path) -> None:
    """The filled table: a CSV with its other bytes as they are, any other kind as it is spelt by itself."""
    from sfumato.fields.tables.patching import patched
    from sfumato.fields.tables.writing import write_table

    if path.suffix.lower() == out.suffix.lower() and path.suffix.lower() in (".csv", ".tsv"):
        cells: dict[tuple[int, int], str] = {}
        for i, (before, after) in enumerate(zip(table.columns, filled.columns)):
            pairs = zip(before.cells(), after.cells())
            cells |= {(row, i): str(new) for row, (old, new) in enumerate(pairs) if old != new}
        raw = patched(path, table, cells)
        if raw is not None:
            out.write_bytes(raw)
            return
        say(f"{path}: its cells cannot be found byte by byte; the whole file is spelt anew")
    write_table(filled, out)


# ---- in memory -------------------------------------------------------------------------------------------------------


def is_empty(word: str | None, kind: Kind) -> bool:
    """Whether a cell is to be filled: it is empty, or spelt as a gap in a column of numbers or dates."""
    from sfumato.fields.tables.kinds import GAPS

    return word in ("", None) or (kind.kind in ("number", "date") and word is not None and word.strip() in GAPS)


def gaps(table: Table, facts: Facts) -> dict[str, np.ndarray]:
    """Column -> the rows where it is to be filled."""
    import numpy as np

    kinds = {kind.name: kind for kind in facts.kinds}
    found = {}
    for column in table.columns:
        if column.name in kinds:
            empty = np.array([is_empty(word, kinds[column.name]) for word in column.words], dtype=bool)
            rows = np.flatnonzero(empty[column.codes])
            if len(rows):
                found[column.name] = rows
    return found


def fill(model: Model, table: Table, draws: int = 1) -> tuple[list[Table], int]:
    """The table with its gaps drawn, ``draws`` times, and the number of cells that were left empty.

    A draw of a row depends on the seed, its place in the table and the number of the draw alone. Columns that the run does not
    know stay as they are. A cell is left empty where rows like its own are always empty there, or where nothing is known
    beside which it could be looked up.

    Raises:
        DataError: no column that the run knows; a cell that never occurred in training.
    """
    import numpy as np

    facts: Any = model.facts
    if facts.linked:
        raise DataError(
            "fill asks a run of a single table, and this run has several: train on one of them with --table"
        )
    own = {kind.name for kind in facts.kinds}
    if not own & set(table.names):
        raise DataError(f"the table has no column of the run's, which are {', '.join(sorted(own))}")
    holes = gaps(table, facts)
    rows = np.unique(np.concatenate(list(holes.values()))) if holes else np.zeros(0, dtype=np.int64)
    if not len(rows):
        return [table] * draws, 0
    asked, wanted = _asked(facts, table, rows, holes, draws)
    made = _drawn(model, asked, wanted)
    left, found = 0, []
    for draw in range(draws):
        part = made.take(np.arange(draw, len(made), draws))
        filled, empty = _put(table, part, rows, holes, facts)
        left += empty
        found.append(filled)
    return found, left // draws


def _asked(
    facts: Facts, table: Table, rows: np.ndarray, holes: dict[str, np.ndarray], draws: int
) -> tuple[Asked, dict[str, np.ndarray]]:
    """What is known of these rows, and which of them are to be filled in each column: bool (rows,)."""
    import numpy as np

    from sfumato.fields.tables.asking import Asked

    own = {kind.name for kind in facts.kinds}
    columns, wanted = [], {}
    for column in table.columns:
        if column.name not in own:
            continue
        part = column.take(rows)
        here = np.isin(rows, holes.get(column.name, np.zeros(0, dtype=np.int64)))
        if here.any():
            wanted[column.name] = here
            part = replace(
                part, words=(*part.words, None), codes=np.where(here, len(part.words), part.codes).astype(np.int32)
            )
        columns.append(part.take(np.arange(len(rows))))  # without the words that are gaps
    known = replace(table, columns=tuple(columns))
    return Asked(facts, draws, known, named=True, places=rows.tolist()), wanted


def _drawn(model: Model, asked: Asked, wanted: dict[str, np.ndarray]) -> Table:
    """Every draw of every row; drawn again where a gap comes out as a gap, or a rule is broken by what was drawn."""
    import numpy as np

    from sfumato.fields.tables.asking import drawn_until
    from sfumato.fields.tables.formula import parse
    from sfumato.fields.tables.rules import kinds_of
    from sfumato.fields.tables.table import stacked
    from sfumato.training.progress import Watch

    facts, recipe = asked.facts, model.recipe
    kinds = {kind.name: kind for kind in facts.kinds}
    derived = {each.column for each in facts.rules.derived}
    known = kinds_of(facts.kinds)
    checks = [(text, parse(text, known, "check").columns) for text in facts.rules.checks]

    def good(made: Table, numbers: Sequence[int]) -> np.ndarray:
        of = np.array([asked.row(number) for number in numbers])
        fine = np.ones(len(made), dtype=bool)
        for name, here in wanted.items():
            if name not in derived:
                empty = np.array([is_empty(word, kinds[name]) for word in made[name].words], dtype=bool)
                fine &= ~(empty[made[name].codes] & here[of])
        for text, columns in checks:  # what the row itself says is not to be mended by drawing
            drawn = np.any(
                [wanted[name][of] for name in columns if name in wanted] or [np.zeros(len(of), bool)], axis=0
            )
            fine &= _keeps(made, text, facts) | ~drawn
        return fine

    parts = []
    with Watch("fill", len(asked), unit="rows") as watch:
        rows: Any = recipe.rows  # type: ignore[attr-defined]
        for drawn in drawn_until(model, asked, range(len(asked)), rows, good, ("fill",), TRIES, resigned=True):
            parts.append(rows(model, asked, drawn))
            watch.show(sum(map(len, parts)))
    return stacked(parts)


def _keeps(made: Table, text: str, facts: Facts) -> np.ndarray:
    from sfumato.fields.tables.rules import Rules, kept

    return kept(made, Rules(checks=(text,)), facts.kinds)[text]


def _put(table: Table, made: Table, rows: np.ndarray, holes: dict[str, np.ndarray], facts: Facts) -> tuple[Table, int]:
    """The table with the drawn cells in its gaps, and how many are gaps still."""
    import numpy as np

    from sfumato.fields.tables.rules import derive
    from sfumato.fields.tables.table import Column

    kinds = {kind.name: kind for kind in facts.kinds}
    lookups = {each.column for each in facts.rules.derived if each.beside}
    could = derive(made, facts.rules, facts.kinds)[1] if lookups else np.ones(len(made), dtype=bool)
    place = {int(row): i for i, row in enumerate(rows.tolist())}
    left, columns = 0, []
    for column in table.columns:
        if column.name in holes:
            cells, new = column.cells(), made[column.name].cells()
            for row in holes[column.name].tolist():
                word = new[place[row]]
                if is_empty(word, kinds[column.name]) or (column.name in lookups and not could[place[row]]):
                    left += 1
                else:
                    cells[row] = word
            column = Column.of(column.name, cells, column.type)
        columns.append(column)
    return replace(table, columns=tuple(columns)), left
