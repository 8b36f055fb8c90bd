"""What is known of a table: its facts, fitted on training rows, and how a run keeps them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file

from sfumato.data.errors import decoding, shown
from sfumato.errors import DataError
from sfumato.fields.tables.columns import BINS, Knots, States, fit
from sfumato.fields.tables.kinds import Kind, beyond, find_kind, kinds_asked
from sfumato.fields.tables.rules import Rules, fitted
from sfumato.fields.tables.table import Format, Say, Table
from sfumato.jobs.facts import read_facts
from sfumato.jobs.strict import convert, options
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    from sfumato.diffusion.product import Product
    from sfumato.fields.tables.network import TableMLP
    from sfumato.fields.tables.process import RowTimes

FEWEST_ROWS = 50
KNOTS = ("value", "low", "high", "bin")
NAMES = (
    ("number", "number", "numbers"), ("category", "category", "categories"), ("date", "date", "dates"),
    ("key", "key", "keys"), ("constant", "constant", "constants"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a table: enough to build the network and to write samples.

    Args:
        columns: every column, in the order of the file; constants and keys have no states.
        format: how the file spells it.
        rows, held: rows that are trained on, and rows that are not.
        source: hash of the table.
        knots: column -> the distribution of its values.
        rules: columns that follow from others, and what every row must meet.
        by_bin: whether the network has a slope and an answer of its own for each bin; False of runs of old.
        apart: groups of the learned columns that may be drawn together, see :mod:`apart`; nothing of runs of old.
    """

    columns: tuple[States, ...]
    format: Format
    rows: int
    held: int
    source: str
    knots: Mapping[str, Knots]
    rules: Rules = Rules()
    by_bin: bool = True
    apart: tuple[tuple[int, ...], ...] = ()
    linked: ClassVar[bool] = False
    """Whether these are the facts of several tables."""

    @property
    def measured(self) -> list[States]:
        """The columns that say something of a row, in order: those learned and those derived."""
        return [column for column in self.columns if column.kind.kind not in ("key", "constant")]

    @property
    def learned(self) -> list[States]:
        """The columns that the model knows, in order."""
        return [column for column in self.measured if column.kind.name not in self.rules.columns]

    @property
    def kinds(self) -> list[Kind]:
        """What each column is, in order."""
        return [column.kind for column in self.columns]

    @property
    def sizes(self) -> list[int]:
        """Number of states of each learned column: (C,)."""
        return [column.count for column in self.learned]

    @property
    def first_bins(self) -> list[int]:
        """First state of each learned column that is a bin; the number of its states where none is: (C,)."""
        return [column.first_bin for column in self.learned]

    @property
    def valued(self) -> list[int]:
        """Which of the learned columns have values: (N,)."""
        return [i for i, column in enumerate(self.learned) if column.bins]

    @classmethod
    def of(
        cls,
        table: Table,
        train: np.ndarray,
        kinds: Mapping[str, str] | None = None,
        bins: int = BINS,
        tell: Say = lambda line: None,
        rules: Rules = Rules(),
        given: Mapping[str, tuple[States, Knots | None]] | None = None,
    ) -> Facts:
        """The facts of a table of which the rows ``train`` are trained on.

        Args:
            kinds: column -> what it is, where that should not be found by looking.
            bins: pieces into which the numbers of a column are cut.
            rules: as they were read; lookups are filled from the training rows.
            given: column -> its states, where they are known already.

        Raises:
            DataError: fewer than 50 training rows, a column that cannot be learned, or none that can.
        """
        asked = kinds or {}
        kinds_asked(asked, table.names)
        if len(train) < FEWEST_ROWS:
            raise DataError(f"{len(train)} rows to train on, at least {FEWEST_ROWS} are needed")
        columns, knots = [], {}
        for column in table.columns:
            if given and column.name in given:
                states, found = given[column.name]
                columns.append(states)
                if found is not None:
                    knots[column.name] = found
                continue
            derived = column.name in rules.columns
            kind = find_kind(column, asked.get(column.name), tell, learned=not derived)
            if derived or kind.kind in ("key", "constant"):
                columns.append(States(kind))
                continue
            states, found = fit(column, kind, train, bins)
            columns.append(states)
            if found is not None:
                knots[column.name] = found
        rules = fitted(rules, [states.kind for states in columns], table, train)
        facts = cls(tuple(columns), table.format, len(train), len(table) - len(train), table.source(), knots, rules)
        if not facts.learned:
            raise DataError("every column is a key, always the same, or derived: there is nothing to learn")
        return facts

    def process(self) -> Product:
        from sfumato.fields.tables.process import process_of

        return process_of(self.sizes, len(self.valued), self.apart, only=True)

    def times(self, known: float) -> RowTimes:
        """The times of training; ``known``: share of the rows in which columns are given."""
        from sfumato.fields.tables.process import RowTimes

        return RowTimes(tuple(self.valued), known=known)

    def network(self, width: int | None, depth: int) -> TableMLP:
        from sfumato.fields.tables.network import TableMLP, usual_width

        width = width or usual_width(len(self.sizes))
        return TableMLP(
            sizes=self.sizes,
            first_bins=self.first_bins,
            valued=self.valued,
            width=width,
            depth=depth,
            by_bin=self.by_bin,
        )

    def words(self) -> list[str]:
        """The table in a line, for people."""
        kinds = Counter(column.kind.kind for column in self.columns)
        named = ", ".join(
            f"{kinds[kind]} {many if kinds[kind] > 1 else one}" for kind, one, many in NAMES if kinds[kind]
        )
        gaps = sum(bool(column.kind.gaps) for column in self.learned)
        holes = f"; gaps in {gaps}" if gaps else ""
        return [f"{self.rows} rows to learn from, {self.held} held out: {named}{holes}"]

    def values(self) -> list[str]:
        """The columns, a line each."""
        derived = {each.column: each.text for each in self.rules.derived}
        said = {name: f"derived    {text}" for name, text in derived.items()}
        lines = [f"{shown(c.kind.name):<20} {said.get(c.kind.name) or c.words_of()}" for c in self.columns]
        return lines + [f"every row            {text}" for text in self.rules.checks]

    def again(self, table: Table, train: np.ndarray) -> Facts:
        """These facts for another table of the same columns, whose states and values stay."""
        return replace(self, rows=len(train), held=len(table) - len(train), source=table.source(), format=table.format)

    def beyond(self, table: Table) -> Facts:
        """These facts with keys that go on where those of a table stop."""
        columns = [
            replace(column, kind=beyond(column.kind, table[column.kind.name])) if column.kind.kind == "key" else column
            for column in self.columns
        ]
        return replace(self, columns=tuple(columns))

    def plain(self) -> dict[str, Any]:
        """What data.json keeps of them."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "format": asdict(self.format),
            "rows": self.rows,
            "held": self.held,
            "source": self.source,
            "rules": self.rules.plain(),
            "by_bin": self.by_bin,
            "apart": [list(each) for each in self.apart],
        }

    def arrays(self, before: str = "") -> dict[str, np.ndarray]:
        """What data.safetensors keeps of them; ``before`` begins the names."""
        found: dict[str, np.ndarray] = {}
        for i, column in enumerate(self.columns):
            if (knots := self.knots.get(column.kind.name)) is not None:
                found |= {f"{before}{i}.{part}": np.ascontiguousarray(getattr(knots, part)) for part in KNOTS}
        return found

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], before: str = "") -> Facts:
        """What :meth:`plain` and :meth:`arrays` gave. Raises what is caught by `decoding`."""
        columns: tuple[States, ...] = tuple(options(States, each) for each in plain["columns"])
        knots = {
            column.kind.name: Knots(*(arrays[f"{before}{i}.{part}"] for part in KNOTS))
            for i, column in enumerate(columns)
            if column.bins
        }
        rows, held, source = convert(int, plain["rows"]), convert(int, plain["held"]), convert(str, plain["source"])
        rules = Rules.of_plain(plain.get("rules"))
        by_bin = convert(bool, plain.get("by_bin", False))
        apart = convert(tuple[tuple[int, ...], ...], plain.get("apart", ()))
        facts = cls(columns, options(Format, plain["format"]), rows, held, source, knots, rules, by_bin, apart)
        if any(len(each) != len(facts.sizes) or not all(0 <= c < len(each) for c in each) for each in apart):
            raise ValueError("apart does not name the columns that are learned")
        return facts

    def save(self, run: Run) -> None:
        """Into data.json and data.safetensors."""
        save_facts(run, self.plain(), self.arrays())

    @classmethod
    def read(cls, run: Run) -> Facts:
        """As they were saved. Raises RunError."""
        return cls.of_saved(run, *saved_facts(run))

    @classmethod
    def of_saved(cls, run: Run, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Facts:
        """From what :func:`saved_facts` gave. Raises RunError."""
        with decoding(run.path / "data.json", "train again", RunError):
            return cls.of_plain(plain, arrays)


def save_facts(run: Run, plain: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """What is known of the data, into data.json and data.safetensors."""
    write_text(run.path / "data.json", json.dumps(plain, indent=1, ensure_ascii=False))
    save_file(arrays, run.path / "data.safetensors")


def saved_facts(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`save_facts` wrote. Raises RunError."""
    plain = read_facts(run)
    with decoding(run.path / "data.safetensors", "train again", RunError):
        return plain, load_file(run.path / "data.safetensors")
