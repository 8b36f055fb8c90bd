"""A table as data: its facts, fitted on training rows, and its rows as x = {"states", "values"}.

states  int64 (C,)     the state of each learned column, counted from 0 within the column
values  float32 (N,)   the value of each column that has bins; its weight is 0 where the state is no bin
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from sfumato.data.arrays import kept_array
from sfumato.data.dataset import split
from sfumato.data.errors import decoding, shown
from sfumato.diffusion.rng import Streams, key
from sfumato.errors import DataError
from sfumato.fields.tables.columns import BINS, Knots, States, decode, encode, fit
from sfumato.fields.tables.kinds import Kind, beyond, find_kind, key_word, kinds_asked
from sfumato.fields.tables.rules import Rules, fitted
from sfumato.fields.tables.table import Column, Format, Say, Table
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
    """

    columns: tuple[States, ...]
    format: Format
    rows: int
    held: int
    source: str
    knots: Mapping[str, Knots]
    rules: Rules = Rules()
    by_bin: bool = True
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

        return process_of(self.sizes, len(self.valued))

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
        return cls(columns, options(Format, plain["format"]), rows, held, source, knots, rules, by_bin)

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


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as the model knows them; a data set.

    Args:
        states: int64 (n, C). values: float32 (n, N). live: bool (n, N), where the state is a bin.
    """

    states: np.ndarray
    values: np.ndarray
    live: np.ndarray
    buckets = None

    def __len__(self) -> int:
        return len(self.states)

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """{"x": {"states", "values"}, "weight": {"values"}}; without values where no column has any."""
        x = {"states": torch.from_numpy(self.states[indices])}
        if not self.values.shape[1]:
            return {"x": x}
        x["values"] = torch.from_numpy(self.values[indices])
        return {"x": x, "weight": {"values": torch.from_numpy(self.live[indices].astype(np.float32))}}

    def name(self, index: int) -> str:
        return f"row {index + 1}"

    def take(self, rows: np.ndarray) -> Rows:
        return Rows(self.states[rows], self.values[rows], self.live[rows])


def rows_of(table: Table, facts: Facts) -> Rows:
    """A table of the same columns, row by row.

    Raises:
        DataError: a column that is missing, or a cell that never occurred.
    """
    n, learned = len(table), facts.learned
    states = np.zeros((n, len(learned)), dtype=np.int64)
    values = np.zeros((n, len(facts.valued)), dtype=np.float32)
    live = np.zeros(values.shape, dtype=bool)
    place = {i: j for j, i in enumerate(facts.valued)}
    hashes = table.hashes()
    for i, column in enumerate(learned):
        name = column.kind.name
        if name not in table.names:
            raise DataError(f"the table lacks column {shown(name)!r}")
        chance = _chance(hashes, name)
        states[:, i], value = encode(table[name], column, facts.knots.get(name), chance)
        if i in place:
            values[:, place[i]], live[:, place[i]] = value, states[:, i] >= column.first_bin
    return Rows(states, values, live)


def _chance(hashes: np.ndarray, name: str) -> np.ndarray:
    """A uniform number for each row, by its content and the column alone (splitmix64, Steele 2014)."""
    word = hashes + np.uint64(key("tables", name) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    return ((word ^ (word >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def table_of(states: np.ndarray, values: np.ndarray, facts: Facts, numbers: Sequence[int], seed: int = 0) -> Table:
    """Rows (n, C) and (n, N) as a table with all the columns of the file; derived ones are empty yet.

    Args:
        numbers: of the samples: they count keys, and choose among rare categories together with ``seed``.
    """
    counted = np.asarray(numbers, dtype=np.int64)
    chance = Streams(key("tables", "rare", seed), counted.tolist()).uniform(
        (len(counted), len(facts.columns)), torch.float64
    )
    place = {i: j for j, i in enumerate(facts.valued)}
    columns, i = [], 0
    for each, drawn in zip(facts.columns, chance.T.numpy()):
        kind = each.kind
        if kind.kind == "constant":
            cells: list[str | None] = [kind.word] * len(counted)
        elif kind.kind == "key":
            cells = [key_word(kind, number) for number in counted.tolist()]
        elif kind.name in facts.rules.columns:
            cells = [None] * len(counted)
        else:
            value = values[:, place[i]] if i in place else np.zeros(len(counted), dtype=np.float32)
            cells = decode(states[:, i], value, each, facts.knots.get(kind.name), drawn, counted)
            i += 1
        columns.append(Column.of(kind.name, cells, kind.type))
    return Table(tuple(columns), facts.format)


# ---- the cache of a run ----------------------------------------------------------------------------------------------


def save_table(table: Table, folder: Path) -> None:
    """The table in a folder, as words and codes."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [{"name": c.name, "type": c.type, "words": list(c.words)} for c in table.columns]
    write_text(folder / "words.json", json.dumps({"format": asdict(table.format), "columns": plain}))
    np.save(folder / "codes.npy", np.stack([column.codes for column in table.columns]))


def load_table(folder: Path, facts: Facts) -> Table:
    """As it was saved. Raises RunError where it is damaged or another one."""
    found = kept_table(folder)
    with decoding(folder, "train again", RunError):
        if found.source() != facts.source:
            raise ValueError("it is not the table that the run began with")
    return found


def kept_table(folder: Path) -> Table:
    """What :func:`save_table` wrote. Raises RunError where it is damaged."""
    codes = kept_array(folder / "codes.npy", "train again")
    with decoding(folder, "train again", RunError):
        plain = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        columns = zip(plain["columns"], codes, strict=True)
        found = tuple(Column(c["name"], tuple(c["words"]), own, c["type"]) for c, own in columns)
        for column in found:
            if not all(word is None or isinstance(word, str) for word in column.words):
                raise ValueError(f"column {shown(str(column.name))!r} holds something else than words")
            if column.codes.size and not 0 <= int(column.codes.min()) <= int(column.codes.max()) < len(column.words):
                raise ValueError(f"column {shown(str(column.name))!r} has codes of no word")
        return Table(found, Format(**plain["format"]))


def without(table: Table, names: Sequence[str]) -> Table:
    """The table without some columns.

    Raises:
        DataError: a column that is not there, or none left.
    """
    for name in names:
        if name not in table.names:
            raise DataError(
                f"--leave-out names {shown(name)!r}, but the columns are {', '.join(map(shown, table.names))}"
            )
    kept = tuple(column for column in table.columns if column.name not in names)
    if not kept:
        raise DataError("--leave-out leaves no column")
    return replace(table, columns=kept)


def parts(table: Table, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (train, held out), by the rows' content: no copy of a training row is held out."""
    return split(table.keys(), held_out)
