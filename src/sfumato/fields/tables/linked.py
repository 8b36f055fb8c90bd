"""Linked tables as data: what is known of each, its rows with their parent's beside them, and how many children a row has.

Every table that is learned has a **body**, a table that the model knows:

    its own columns      without keys that are made and columns that only point at parents
    counts               how many rows of a child point at this one: a column of numbers like any other
    the parent's body    beside each row, always given: rows are drawn for their parent. An orphan has none there

One link of a table is its *driver*: it says how many rows a parent has. A link to a table whose real keys are all in every
sample is a *list*: its columns are learned as categories or dates, like any other. Any other link is *matched*: the parent's
columns are drawn with the row, and of the parents with places left the one most like it is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sfumato.data.errors import decoding, shown
from sfumato.fields.tables.data import Facts, save_facts
from sfumato.fields.tables.keys import KeyPattern, pattern_of
from sfumato.fields.tables.kinds import GAPS
from sfumato.fields.tables.schema import Entry, Link, entries_of
from sfumato.fields.tables.table import Format, Table
from sfumato.jobs.strict import convert, options
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    from sfumato.fields.tables.process import OneOf, TableTimes

NONE = "\0none"
"""The cell of a parent's column beside a row that has no parent."""


# ---- links -----------------------------------------------------------------------------------------------------------


def is_gap(word: str | None) -> bool:
    """Whether a cell that should point at a row points at none."""
    return word is None or word.strip() in GAPS


def tuples(table: Table, columns: Sequence[str]) -> tuple[np.ndarray, list[tuple[str | None, ...]]]:
    """What stands in these columns together: a code for each row (n,), and the cells of each code."""
    parts = [table[name] for name in columns]
    codes, inverse = np.unique(np.stack([part.codes for part in parts], 1), axis=0, return_inverse=True)
    return inverse.reshape(-1), [tuple(p.words[c] for p, c in zip(parts, row)) for row in codes.tolist()]


def parents(child: Table, link: Link, parent: Table) -> np.ndarray:
    """The row of the parent that each row points at (n,): -1 where there is no such row, -2 where a cell is empty."""
    codes, cells = tuples(parent, link.to)
    row_of = np.full(len(cells), -1, dtype=np.int64)
    row_of[codes[::-1]] = np.arange(len(codes))[::-1]  # the first of equal ones
    where = dict(zip(cells, row_of.tolist()))
    codes, cells = tuples(child, link.columns)
    found = [where.get(each, -2 if any(map(is_gap, each)) else -1) for each in cells]
    return np.array(found, dtype=np.int64)[codes]


@dataclass(frozen=True)
class Orphans:
    """Rows of a link that has no parent for them, as the real ones are.

    Args:
        missing, dangling: share of the rows whose cell is empty, and of those that point at nothing.
        gap: how an empty cell is spelt. counts: rows of each key that points at nothing. pattern: what such a key looks like.
    """

    missing: float = 0.0
    dangling: float = 0.0
    gap: str | None = ""
    counts: tuple[int, ...] = ()
    pattern: KeyPattern | None = None

    @property
    def share(self) -> float:
        return self.missing + self.dangling

    @classmethod
    def of(cls, table: Table, link: Link, found: np.ndarray) -> Orphans:
        column = table[link.columns[0]]
        gaps = [w for w, n in sorted(zip(column.words, column.counts()), key=lambda each: -each[1]) if is_gap(w) and n]
        lost = np.flatnonzero(found == -1)
        codes, cells = tuples(table.take(lost), link.columns) if len(lost) else (np.zeros(0, np.int64), [])
        counts = tuple(sorted(np.bincount(codes).tolist(), reverse=True)) if len(lost) else ()
        pattern = pattern_of([each[0] for each in cells], is_gap) if len(link.columns) == 1 else None
        return cls(float((found == -2).mean()), float((found == -1).mean()), gaps[0] if gaps else "", counts, pattern)

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "pattern": None if self.pattern is None else self.pattern.plain()}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Orphans:
        pattern = None if plain["pattern"] is None else KeyPattern.of_plain(plain["pattern"])
        counts = tuple(int(n) for n in plain["counts"])
        gap = plain["gap"] if plain["gap"] is None else str(plain["gap"])
        return cls(float(plain["missing"]), float(plain["dangling"]), gap, counts, pattern)


def count_name(child: str, link: Link) -> str:
    """The column of a parent that counts its children."""
    return f"rows of {child} by {', '.join(link.columns)}"


def shared_name(child: str, column: str) -> str:
    """The column of a parent that says what its children have in common."""
    return f"{column} of most {child}"


def beside_name(link: Link, column: str) -> str:
    """A column of the parent beside a row: tailnum.seats."""
    return f"{'_'.join(link.columns)}.{column}"


# ---- what is known of a table ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Member:
    """What is known of one of the tables.

    Args:
        names, types, format: of its columns and file, as they are written.
        rows, held: real rows to learn from, and held out.
        facts: of the body; None of a table that is written as it is.
        given: columns of the body that are the parent's.
        modes: of each link: "driver", "list" or "matched". orphans: of each.
        key: the pattern of a key that is made.
        by_count: columns of many words, drawn by their frequencies alone: (word, rows) each.
    """

    entry: Entry
    names: tuple[str, ...]
    types: tuple[str, ...]
    format: Format
    rows: int
    held: int = 0
    facts: Facts | None = None
    given: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    orphans: tuple[Orphans, ...] = ()
    key: KeyPattern | None = None
    by_count: Mapping[str, tuple[tuple[str | None, int], ...]] | None = None

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def driver(self) -> int | None:
        """Which of the links says how many rows there are."""
        return self.modes.index("driver") if "driver" in self.modes else None

    @property
    def beside(self) -> set[str]:
        """Columns of the body that are a parent's, whether they are given or drawn."""
        assert self.facts is not None
        before = tuple(beside_name(link, "") for link, mode in zip(self.entry.links, self.modes) if mode != "list")
        names = {states.kind.name for states in self.facts.columns} - set(self.names)
        return {name for name in names if name.startswith(before)}

    def context(self) -> tuple[int, ...]:
        """Which of the learned columns are given."""
        assert self.facts is not None
        return tuple(i for i, states in enumerate(self.facts.learned) if states.kind.name in self.given)

    def plain(self) -> dict[str, Any]:
        return {
            "name": self.name, "entry": self.entry.plain(), "names": list(self.names), "types": list(self.types),
            "format": asdict(self.format), "rows": self.rows, "held": self.held,
            "facts": None if self.facts is None else self.facts.plain(), "given": list(self.given),
            "modes": list(self.modes), "orphans": [each.plain() for each in self.orphans],
            "key": None if self.key is None else self.key.plain(),
            "by_count": {name: [list(pair) for pair in pairs] for name, pairs in (self.by_count or {}).items()},
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Linked:
    """What is known of linked tables, parents before children."""

    members: tuple[Member, ...]
    source: str
    linked: ClassVar[bool] = True

    def __getitem__(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    @property
    def learned(self) -> list[Member]:
        """Those that the model knows."""
        return [member for member in self.members if member.facts is not None]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(member.entry for member in self.members)

    @property
    def lead(self) -> Member | None:
        """The table that -n counts: of those without a driver whose keys are made, the one with most rows."""
        roots = [member for member in self.learned if member.driver is None and not member.entry.whole]
        return max(roots, key=lambda member: member.rows, default=None)

    def words(self) -> list[str]:
        """The tables in lines, for people."""
        found = []
        for member in self.members:
            if member.facts is None:
                found.append(f"{shown(member.name)}: {member.rows} rows, written as they are")
            else:
                found += [f"{shown(member.name)}: {line}" for line in member.facts.words()]
        return found

    def values(self) -> list[str]:
        """Their columns and links, a line each."""
        found = []
        for member in self.members:
            found.append(f"{shown(member.name)}:")
            if member.key is not None:
                found.append(f"  {', '.join(member.entry.key):<20} key        made anew, like {member.key.example()}")
            for link, mode, lost in zip(member.entry.links, member.modes, member.orphans):
                said = {"driver": "says how many rows a parent has", "list": "one of a list that is kept",
                        "matched": "to the parent most like it"}[mode]  # fmt: skip
                alone = f"; {lost.share:.2%} have none, and as many will" if lost.share else ""
                found.append(f"  {link.text}: {said}{alone}")
            for name, pairs in (member.by_count or {}).items():
                found.append(f"  {shown(name):<20} {len(pairs)} words, drawn by their frequencies alone")
            if member.facts is not None:
                lines = zip(member.facts.columns, member.facts.values())
                found += [f"  {line}" for states, line in lines if states.kind.name not in member.beside]
        return found

    def process(self) -> OneOf:
        from sfumato.fields.tables.process import OneOf

        return OneOf({each.name: each.facts.process() for each in self.learned if each.facts})

    def times(self, known: float) -> TableTimes:
        """The times of training: what is the parent's is always given."""
        from sfumato.fields.tables.process import RowTimes, TableTimes

        return TableTimes(
            {
                each.name: RowTimes(tuple(each.facts.valued), known=known, context=each.context())
                for each in self.learned
                if each.facts
            }
        )

    def network(self, width: int | None, depth: int) -> Any:
        from sfumato.fields.tables.network import TableSet, usual_width

        facts = [each.facts for each in self.learned if each.facts]
        return TableSet(
            names=[each.name for each in self.learned], sizes=[each.sizes for each in facts],
            first_bins=[each.first_bins for each in facts], valued=[each.valued for each in facts],
            width=[width or usual_width(len(each.sizes)) for each in facts], depth=depth,
        )  # fmt: skip

    def save(self, run: Run) -> None:
        arrays: dict[str, np.ndarray] = {}
        for i, member in enumerate(self.members):
            if member.facts is not None:
                arrays |= member.facts.arrays(f"{i}/")
        save_facts(run, {"tables": [member.plain() for member in self.members], "source": self.source}, arrays)

    @classmethod
    def of_plain(cls, run: Run, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Linked:
        """As they were saved. Raises RunError."""
        with decoding(run.path / "data.json", "train again", RunError):
            schema = {"tables": {str(each["name"]): each["entry"] for each in plain["tables"]}}
            entries = {entry.name: entry for entry in entries_of(schema, "data.json")}
            members = tuple(
                _member(entries[each["name"]], each, arrays, f"{i}/") for i, each in enumerate(plain["tables"])
            )
            return cls(members, convert(str, plain["source"]))


def _member(entry: Entry, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], before: str) -> Member:
    facts = None if plain["facts"] is None else Facts.of_plain(plain["facts"], arrays, before)
    words = tuple[str, ...]
    counts = {
        str(name): tuple((None if word is None else str(word), int(n)) for word, n in pairs)
        for name, pairs in plain["by_count"].items()
    }
    return Member(
        entry, convert(words, plain["names"]), convert(words, plain["types"]), options(Format, plain["format"]),
        convert(int, plain["rows"]), convert(int, plain["held"]), facts, convert(words, plain["given"]),
        convert(words, plain["modes"]), tuple(Orphans.of_plain(each) for each in plain["orphans"]),
        None if plain["key"] is None else KeyPattern.of_plain(plain["key"]), counts,
    )  # fmt: skip
