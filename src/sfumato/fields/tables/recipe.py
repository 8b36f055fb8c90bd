"""Tables as a field: what `sfumato train`, `sample` and `evaluate` do with a file of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from sfumato.errors import DataError, Wrong, check, decoding, naming
from sfumato.fields.tables.options import RowAsk, RowMethod, TableMeasure
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say, usual_batch
from sfumato.jobs.walk import Walk
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from torch import nn

    from sfumato.diffusion import Drawn, Solver
    from sfumato.diffusion.generate import Queries
    from sfumato.diffusion.tree import Tree
    from sfumato.fields.tables.asking import Asked
    from sfumato.fields.tables.data import Facts
    from sfumato.fields.tables.linked import Linked
    from sfumato.fields.tables.linking import TablesAsked
    from sfumato.fields.tables.table import Table
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

PASSES, STEPS = 300, 10_000
"""Times that each row is seen in training, and steps at most, where that is no less than all fields usually take."""
Row = dict[str, str | None]
"""A row by the names of its columns, each cell as the file spells it; None is a null of the file's own."""
VALUE_CALLS = 10
BATCH, DRAWN = 1024, 512
USUAL_ROWS = 1000


@dataclass(frozen=True)
class Tables(Recipe):
    """A table in a .csv, .tsv, .parquet, .jsonl or SQLite file: columns of numbers, categories, dates and gaps. Or several that
    are linked by keys: a folder of them with a schema.yaml, or a SQLite file."""

    Ask: ClassVar[type] = RowAsk
    Measure: ClassVar[type] = TableMeasure
    formats: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".parquet", ".jsonl", ".sqlite")
    tunable: ClassVar[bool] = True
    single: ClassVar[bool] = True
    verbs: ClassVar[Mapping[str, str]] = {
        "compare": "sfumato.fields.tables.comparing:Compare", "fill": "sfumato.fields.tables.fill:Fill",
    }  # fmt: skip

    data: Positional[Path]
    """The file, or the folder of linked tables."""
    only: Annotated[str | None, arg(name="table")] = None
    """The table of a SQLite file that is meant, alone (default: all of them, linked)."""
    leave_out: tuple[str, ...] = ()
    """Columns that are not learned, nor written (of linked tables TABLE.COLUMN)."""
    kind: tuple[str, ...] = ()
    """What columns are, where looking at them is not enough: AGE:category, or number, date, key, constant."""
    held_out: float = 0.1
    """Share of the rows kept out of training, to measure with (at most 2000)."""
    rules: Path | None = None
    """A YAML file of rules: columns that follow from others, and what every row must meet (docs/tables.md)."""
    bins: int = 8
    """Pieces into which the numbers of a column are cut."""
    width: int | None = None
    """Of the network (default: 256, 512 for more than 64 columns)."""
    depth: int = 3
    """Blocks of the network."""
    calls: tuple[int, int] | None = None
    """Calls of the network to draw the states and the values of a row (default: one for each column, and 10)."""
    method: RowMethod = dataclasses.field(default_factory=RowMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (all(name and kind for name, kind in self._kinds()), "kind", "like AGE:category"),
            (self.bins >= 1, "bins", "at least 1"),
            (self.width is None or self.width >= 8, "width", "at least 8"),
            (self.depth >= 1, "depth", "at least 1"),
            (
                self.calls is None or (self.calls[0] >= 1 and self.calls[1] >= 0),
                "calls",
                "two numbers, the first above 0",
            ),
            (0 <= self.method.known <= 1, "method.known", "a share from 0 to 1"),
        )

    def _kinds(self) -> list[tuple[str, str]]:
        pairs = (each.rpartition(":" if ":" in each else "=") for each in self.kind)
        return [(name, kind) for name, _, kind in pairs]

    # ---- data --------------------------------------------------------------------------------------------------------

    def _linked(self) -> bool:
        """Whether the data are several tables. Raises DataError."""
        from sfumato.fields.tables import sqlite

        if self.only is not None or self.data.suffix.lower() not in sqlite.SUFFIXES:
            return self.data.is_dir()
        return len(sqlite.names_in(self.data)) > 1

    def _prepare_linked(self, run: Run, tell: Say, base: Any) -> Linked:
        """Several tables made ready. Raises DataError."""
        from sfumato.fields.tables import joining

        if self.rules is not None:
            raise Wrong(
                f"rules = {str(self.rules)!r}: must be left out: rules of linked tables stand in their schema.yaml"
            )
        if base is not None:
            raise DataError(f"{self.data}: linked tables are not trained further on others; train on them alone")
        tables, entries = joining.read_linked(self.data, tell)
        with naming(self.data):
            entries = joining.told(entries, tables, self.leave_out, self._kinds())
            return joining.prepare(tables, entries, run, self.bins, self.held_out, tell)

    def _read(self, tell: Say, base: Facts | None = None) -> tuple[Table, Facts, Any]:
        """The table, its facts and the numbers of the rows to train on. Raises DataError."""
        from sfumato.fields.tables import data, rules
        from sfumato.fields.tables.reading import read_table
        from sfumato.fields.tables.rows import parts
        from sfumato.fields.tables.table import without

        table = without(read_table(self.data, tell, table=self.only), self.leave_out)
        train, _ = parts(table, self.held_out)
        if base:
            return table, base.again(table, train), train
        found = rules.read_rules(self.rules) if self.rules else rules.Rules()
        with naming(self.data):  # the facts know no file
            return table, data.Facts.of(table, train, dict(self._kinds()), self.bins, tell, found), train

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Tables:
        from sfumato.fields.tables.apart import groups
        from sfumato.fields.tables.keeping import save_table
        from sfumato.fields.tables.rows import rows_of

        if self._linked():
            found = self._prepare_linked(run, tell, base)
            valued = any(each.facts and each.facts.valued for each in found.learned)
            return self if self.calls is None or valued else dataclasses.replace(self, calls=(self.calls[0], 0))
        table, facts, train = self._read(tell, base)
        rows = rows_of(table, facts)  # what does not fit the facts of another run is refused before anything is written
        if base is None:
            facts = dataclasses.replace(facts, apart=groups(rows.states[train], facts.sizes))
        save_table(table, run.cache / "table")
        facts.save(run)
        calls = self.calls or (len(facts.sizes), VALUE_CALLS if facts.valued else 0)
        return dataclasses.replace(self, calls=(calls[0], calls[1] if facts.valued else 0))

    def facts(self, run: Run) -> Facts | Linked:
        from sfumato.fields.tables import data, linked

        plain, arrays = data.saved_facts(run)
        if "tables" in plain:
            return linked.Linked.of_plain(run, plain, arrays)
        return data.Facts.of_saved(run, plain, arrays)

    def open(self, run: Run) -> Data:
        from sfumato.fields.tables.families import opened
        from sfumato.fields.tables.rows import parts, rows_of

        facts: Any = self.facts(run)
        if facts.linked:
            return Data(facts, *opened(run, facts, self.held_out))
        table = self.table(run)
        with decoding(run.path, "train again"):
            rows = rows_of(table, facts)
        return Data(facts, *(rows.take(part) for part in parts(table, self.held_out)))

    def table(self, run: Run) -> Table:
        """The table of a run. Raises RunError."""
        from sfumato.fields.tables.keeping import load_table

        facts: Any = self.facts(run)
        return load_table(run.cache / "table", facts)

    def examine(self) -> Look:
        from sfumato.fields.tables.proposals import as_yaml, propose

        if self._linked():
            return self._examine_linked()
        told: list[str] = []
        table, facts, _ = self._read(told.append)
        head = f"{len(table)} rows of {len(table.columns)} columns in {self.data}: {table.format.words()}"
        lines = [] if self.rules else as_yaml(propose(table, facts.kinds))
        if lines:
            lines = ["rules that its rows seem to keep; none is applied unless you train with --rules FILE:", *lines]
        return Look((head, *told, *lines), self)

    def _examine_linked(self) -> Look:
        import tempfile

        from sfumato.training.run import Run

        told: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder))
            run.create()
            facts = self._prepare_linked(run, told.append, None)
        head = (
            f"{len(facts.members)} tables in {self.data}, {sum(each.rows + each.held for each in facts.members)} rows"
        )
        lead = facts.lead
        counted = [f"-n of `sfumato sample` counts rows of {lead.name}"] if lead is not None else []
        return Look((head, *told, *counted), self)

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: Facts | Linked) -> Any:
        return facts.process()

    def build(self, facts: Facts | Linked, device: str) -> nn.Module:
        return facts.network(self.width, self.depth)

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.tables.network import TableMLP, TableSet

        return {"table": TableMLP, "tables": TableSet}

    def training(self, data: Data, device: str) -> TrainOptions:
        batch = usual_batch(len(data.train), BATCH)
        return TrainOptions(batch=batch, steps=usual_steps(len(data.train), batch))

    def task(self, data: Data, network: nn.Module) -> Task:
        from sfumato.training.objective import Task

        times = data.facts.times(self.method.known)
        train: Any = data.train
        task = Task(network, self.process(data.facts), train.anew(), data.held_out, times=times)
        # whole tables are too much to be drawn on the way
        return dataclasses.replace(task, preview=lambda guess: None) if data.facts.linked else task

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        if name != "usual":
            raise Wrong(f"walk = {name!r}: must be usual; tables have no other")
        return Walk(steps=sum(self.calls or (1, 0)), solver="in_turn", eta=0.0, grid="uniform", batch=DRAWN)

    def solvers(self) -> Mapping[str, Solver]:
        from sfumato.fields.tables.turns import InTurn

        return {"in_turn": InTurn()}

    def queries(self, model: Model, ask: RowAsk, n: int | None) -> Asked | TablesAsked:
        from sfumato.fields.tables.asking import asked

        if model.facts.linked:
            from sfumato.fields.tables.linking import tables_asked

            return tables_asked(model.facts, ask, n)
        return asked(
            model.facts, ask.where, ask.known, USUAL_ROWS if n is None else n, 1 if n is None else n, ask.append
        )

    def begin(self, process: Any, z: Tree, times: Any, query: Mapping[str, Tree]) -> tuple[Tree, Tree]:
        from sfumato.fields.tables import asking
        from sfumato.fields.tables.process import walked

        return asking.begin(process, z, walked(times, self.calls or (1, 0)), query)

    def draw(self, model: Model, queries: Any, numbers: Sequence[int]) -> Iterator[Drawn]:
        from sfumato.fields.tables.asking import drawn_to_meet

        if model.facts.linked:
            yield from queries.drawn(model, numbers)
        else:
            yield from drawn_to_meet(model, queries, numbers, self.rows)

    def rows(self, model: Model, queries: Any, drawn: Drawn) -> Table:
        """Samples as a table of all columns, what was known as it was given."""
        from sfumato.fields.tables import asking, rules
        from sfumato.fields.tables.rows import table_of

        x = {
            name: value.float().cpu().numpy() if name == "values" else value.cpu().numpy()
            for name, value in drawn.x.items()
        }
        values = x.get("values", x["states"][:, :0])
        made = table_of(x["states"], values, queries.facts, drawn.numbers, model.drawing.seed)
        made = asking.restored(made, queries, drawn.numbers)
        derived, _ = rules.derive(made, model.facts.rules, model.facts.kinds)
        return asking.restored(derived, queries, drawn.numbers)

    def things(self, model: Model, queries: Queries, drawn: Drawn) -> list[Any]:
        """Rows; of linked tables a :class:`~linking.Made` each."""
        if model.facts.linked:
            return [drawn.x]
        made = self.rows(model, queries, drawn)
        return [dict(zip(made.names, row)) for row in made.rows()]

    def items(self, model: Model, queries: Queries, drawn: Drawn) -> Mapping[str, Any]:
        """As these rows were if they had been read: what they have no value of weighs nothing."""
        import numpy as np

        from sfumato.fields.tables.rows import rows_of

        rows = rows_of(self.rows(model, queries, drawn), model.facts)
        return rows.batch(np.arange(len(rows)))

    def save(self, thing: Row, path: Path, making: Making) -> Path:
        """One row as a table of its own; its making beside it."""
        from sfumato.fields.tables.writing import write_rows
        from sfumato.training.run import write_text

        write_rows([tuple(thing.values())], path, list(thing), ["text"] * len(thing))
        write_text(path.with_name(path.name + ".json"), making.text())
        return path

    def write(
        self, model: Model, queries: Queries, things: Iterable[tuple[int, Any]], out: Path, making: Making
    ) -> Iterator[Path]:
        from sfumato.fields.tables.making import write_made

        if model.facts.linked:
            from sfumato.fields.tables.linking import written

            yield from written(model.facts, (thing for _, thing in things), out, making)
            return
        if not out.suffix:  # one row drawn again, into a folder
            yield from super().write(model, queries, things, out, making)
            return
        rows = (tuple(thing.values()) for _, thing in things)
        yield write_made(rows, out, model.facts, getattr(queries, "above", None), making.text())

    def bundled(self, model: Model, queries: Any) -> None:
        what = "tables that are linked" if model.facts.linked else "rows below those of a table (--append)"
        if model.facts.linked or queries.above is not None:
            raise Wrong(f"{what} are drawn as a whole: leave out --shard, --workers, --bundle and --ray")

    def picture(self, model: Model, things: Sequence[Row], columns: int | None = None) -> Any:
        """The first rows as text."""
        from sfumato.fields.tables.writing import Sheet

        if model.facts.linked:
            return None
        return Sheet(tuple(things[:16]))

    def destination(self, model: Model, out: Path | None, suffix: str) -> tuple[Path, bool, str]:
        from sfumato.fields.tables.making import destination

        if model.facts.linked:
            return destination(out, suffix, self.formats)
        return super().destination(model, out, suffix or (model.facts.format.suffix if out is None else ""))

    def usage(self) -> Iterable[str]:
        return (
            'Rows: `sfumato sample RUN -n 1000 --out rows.csv`; with `--where "age >= 40"` such rows alone, with',
            "`--known rows.csv` the empty cells of that table drawn. Linked tables go into a folder, or a file like made.sqlite.",
            "Gaps of a table: `sfumato tables fill RUN gaps.csv`. How good all of it is: `sfumato evaluate RUN`.",
        )

    def measurable(self, model: Model, measure: TableMeasure, ask: RowAsk) -> None:
        if model.facts.linked:
            from sfumato.fields.tables.relations import measurable as all_measurable

            all_measurable(measure, ask)
            return
        from sfumato.fields.tables.measure import measurable

        measurable(model, measure, ask)

    def evaluate(self, model: Model, measure: TableMeasure, ask: RowAsk) -> Report:
        if model.facts.linked:
            from sfumato.fields.tables.relations import evaluate as evaluate_all

            return evaluate_all(model, measure)
        from sfumato.fields.tables.measure import evaluate

        return evaluate(model, measure, ask)


def usual_steps(rows: int, batch: int) -> int | None:
    """Steps of training; None where a hundred passes would take more than 10,000: then as in any field.

    Chosen on rows that are not test rows: after 300 passes the detector's score of tables of 24,000 and 14,000 rows was .93
    and .94; that of a third, of 9,000, .92 after 150 as after 300, when more of its values were known by heart.
    """
    if 100 * rows > STEPS * batch:
        return None
    return max(100, min(PASSES * rows // batch, STEPS))


RECIPE = Tables
