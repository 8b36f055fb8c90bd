"""How linked tables are made ready: read, checked against their schema, and each given its body (see `linked.py`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError, naming
from sfumato.fields.tables import apart
from sfumato.fields.tables.columns import Knots, States, fit
from sfumato.fields.tables.data import FEWEST_ROWS, Facts
from sfumato.fields.tables.families import place_of, sides
from sfumato.fields.tables.keeping import save_table
from sfumato.fields.tables.keys import KeyPattern
from sfumato.fields.tables.kinds import MOST_WORDS, find_kind
from sfumato.fields.tables.linked import (
    NONE,
    Linked,
    Member,
    Orphans,
    beside_name,
    count_name,
    parents,
    shared_name,
    tuples,
)
from sfumato.fields.tables.reading import SUFFIXES, read_table
from sfumato.fields.tables.rows import rows_of
from sfumato.fields.tables.rules import fitted
from sfumato.fields.tables.schema import SCHEMA, Entry, Link, read_schema
from sfumato.fields.tables.sqlite import SUFFIXES as DATABASES
from sfumato.fields.tables.sqlite import read_database
from sfumato.fields.tables.table import Column, Say, Table, without
from sfumato.training.run import Run

SHARED, BEYOND = 0.9, 0.05
"""Share of the rows of a parent that have its most frequent word, in the mean, from which siblings are said to share it, and
by how much that must be more than the share of the most frequent word of all rows."""
REPEATED = 2.0
"""Rows of each word, in the mean, from which a column of too many words is drawn by their frequencies."""
Given = dict[str, tuple[States, Knots | None]]


def read_linked(path: Path, tell: Say = lambda line: None) -> tuple[dict[str, Table], tuple[Entry, ...]]:
    """The tables of a folder with a schema.yaml, or of a SQLite file, and how they hang together, parents first.

    Raises:
        DataError: what is missing or cannot be read.
    """
    if path.suffix.lower() in DATABASES:
        tables, entries = read_database(path)
        more = path.with_suffix(".yaml")
        return tables, read_schema(more, entries) if more.is_file() else entries
    schema = path / SCHEMA
    if not schema.is_file():
        raise DataError(
            f"{shown(path)}: a folder of tables needs a {SCHEMA} that names them, as  "
            "tables: {orders: {key: id, links: [customer -> customers]}, customers: {key: id}}"
        )
    entries = read_schema(schema)
    return {entry.name: read_table(_file(path, entry), tell) for entry in entries}, entries


def _file(folder: Path, entry: Entry) -> Path:
    if entry.file is not None:
        return folder / entry.file
    if Path(entry.name).name != entry.name:
        raise DataError(f"{shown(folder)}: {entry.name!r} cannot be the name of a file; say which it is with  file:")
    there = [folder / f"{entry.name}{suffix}" for suffix in SUFFIXES if (folder / f"{entry.name}{suffix}").is_file()]
    if len(there) != 1:
        what = f"both {there[0].name} and {there[1].name}" if there else f"no {entry.name}.csv"
        raise DataError(f"{shown(folder)}: there is {what} for the table {entry.name!r}; name one with  file:")
    return there[0]


def told(
    entries: Sequence[Entry], tables: Mapping[str, Table], leave_out: Sequence[str], kinds: Sequence[tuple[str, str]]
) -> tuple[Entry, ...]:
    """The entries with what the command line says of columns, each TABLE.COLUMN. Raises DataError for one that is not there."""
    found = {entry.name: entry for entry in entries}
    for what, column, kind in (
        *(("--leave-out", name, "") for name in leave_out),
        *(("--kind", *each) for each in kinds),
    ):
        table, _, name = column.partition(".")
        if table not in found or name not in tables[table].names:
            raise DataError(
                f"{what} names {shown(column)!r}, which is no TABLE.COLUMN; the tables are {', '.join(found)}"
            )
        entry = found[table]
        found[table] = (
            replace(entry, kind={**entry.kind, name: kind})
            if kind
            else replace(entry, leave_out=(*entry.leave_out, name))
        )
    return tuple(found.values())


# ---- checks ----------------------------------------------------------------------------------------------------------


def checked(tables: Mapping[str, Table], entries: Sequence[Entry]) -> None:
    """Keys that are there and unique, links between columns that are there. Raises DataError with the first row at fault."""
    for entry in entries:
        table = tables[entry.name]
        for name in (*entry.key, *(name for link in entry.links for name in link.columns)):
            _there(entry.name, table, name)
        for link in entry.links:
            for name in link.to:
                _there(link.table, tables[link.table], name)
            if set(link.to) != set(_entry(entries, link.table).key):
                _unique(link.table, tables[link.table], link.to)
            parent = _entry(entries, link.table)
            if entry.keep and not parent.whole:
                raise DataError(f"{entry.name} is kept and points at {link.table}, which is not: keep {link.table} too")
            if entry.keys == "keep" and not parent.whole and set(link.columns) & set(entry.key):
                raise DataError(
                    f"{entry.name} keeps its keys, which point at {link.table}, whose keys are made: keep those too"
                )
        if entry.key:
            _unique(entry.name, table, entry.key)


def _entry(entries: Sequence[Entry], name: str) -> Entry:
    return next(entry for entry in entries if entry.name == name)


def _there(name: str, table: Table, column: str) -> None:
    if column not in table.names:
        raise DataError(f"{name} has no column {column!r}; its columns are {', '.join(map(shown, table.names))}")


def _unique(name: str, table: Table, key: Sequence[str]) -> None:
    codes, cells = tuples(table, key)
    what = f"{name}: the key {', '.join(key)}"
    first: dict[int, int] = {}
    for row, code in enumerate(codes.tolist()):
        if (before := first.setdefault(code, row)) != row:
            said = ", ".join(map(repr, cells[code]))
            raise DataError(
                f"{what} is {shown(said)} in rows {before + 1} and {row + 1}; a key stands in one row alone"
            )
    for code, each in enumerate(cells):
        if any(word in ("", None) for word in each):
            raise DataError(f"{what} is empty in row {first[code] + 1}; a key has no gaps")


# ---- bodies ----------------------------------------------------------------------------------------------------------


@dataclass
class _Desk:
    """What is known so far, table by table."""

    tables: Mapping[str, Table]
    entries: Sequence[Entry]
    tell: Say
    bins: int
    held_out: float
    rows_of_parent: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    modes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bodies: dict[str, Table] = field(default_factory=dict)
    states: dict[str, Given] = field(default_factory=dict)
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)


def prepare(
    tables: Mapping[str, Table], entries: Sequence[Entry], run: Run, bins: int, held_out: float, tell: Say
) -> Linked:
    """The facts of linked tables, saved in the run, and their bodies in its cache. Raises DataError."""
    tables = {entry.name: without(tables[entry.name], entry.leave_out) for entry in entries}
    entries = [_few(entry, tables[entry.name], held_out, tell) for entry in entries]
    checked(tables, entries)
    desk = _Desk(tables, entries, tell, bins, held_out)
    for entry in entries:
        for i, link in enumerate(entry.links):
            desk.rows_of_parent[entry.name, i] = parents(tables[entry.name], link, tables[link.table])
        desk.modes[entry.name] = () if entry.keep else _modes(entry, desk)
    for entry in entries:
        with naming(shown(entry.name)):
            desk.members.append(_kept(entry, desk) if entry.keep else _learned(entry, desk))
        folder = place_of(run, entry.name)
        save_table(tables[entry.name], folder / "table")
        save_table(desk.bodies[entry.name], folder / "body")
        np.save(folder / "groups.npy", desk.groups[entry.name])
    if not any(member.facts for member in desk.members):
        raise DataError("every table is kept as it is: there is nothing to learn")
    digest = hashlib.blake2b(
        "\0".join(f"{e.name}\0{tables[e.name].source()}" for e in entries).encode(), digest_size=16
    )
    facts = Linked(tuple(desk.members), digest.hexdigest())
    facts.save(run)
    return facts


def _few(entry: Entry, table: Table, held_out: float, tell: Say) -> Entry:
    """A table of too few rows to be learned is kept."""
    if entry.keep or len(table) * (1 - held_out) > 1.1 * FEWEST_ROWS:
        return entry
    tell(f"{shown(entry.name)}: {len(table)} rows are too few to learn from; it is written as it is")
    return replace(entry, keep=True)


def _modes(entry: Entry, desk: _Desk) -> tuple[str, ...]:
    """What each link is: a list, the driver (the first that is none), or matched."""
    found: list[str] = []
    for link in entry.links:
        if _entry(desk.entries, link.table).whole and _listed(desk.tables[entry.name], link):
            found.append("list")
        else:
            found.append("matched" if "driver" in found or entry.whole else "driver")
    return tuple(found)


def _listed(table: Table, link: Link) -> bool:
    """Whether the columns of a link can be learned like any other: few words, or several columns that are a key together."""
    return len(link.columns) > 1 or int((table[link.columns[0]].counts() > 0).sum()) <= MOST_WORDS


def _kept(entry: Entry, desk: _Desk) -> Member:
    """A table that is written as it is; its body are those of its columns that can stand beside a child's row."""
    table, rows = desk.tables[entry.name], np.arange(len(desk.tables[entry.name]))
    body, states = [], {}
    for column in (*table.columns, *_counts(entry, desk)):
        try:
            kind = find_kind(column, entry.kind.get(column.name), lambda line: None)
        except DataError:
            continue  # text, names: nothing that a child's row could be drawn for
        if kind.kind not in ("key", "constant"):
            states[column.name] = fit(column, kind, rows, desk.bins)
            body.append(column)
    desk.bodies[entry.name] = Table(tuple(body) or table.columns[:1], table.format)
    desk.states[entry.name], desk.groups[entry.name] = states, table.hashes()
    return Member(entry, tuple(table.names), tuple(c.type for c in table.columns), table.format, len(table))


def _counts(entry: Entry, desk: _Desk) -> list[Column]:
    """Columns that count the children of each row, for links that need it."""
    found = []
    for child in desk.entries:
        for i, link in enumerate(child.links):
            if link.table == entry.name and not child.keep and desk.modes[child.name][i] != "list":
                rows = desk.rows_of_parent[child.name, i]
                counts = np.bincount(rows[rows >= 0], minlength=len(desk.tables[entry.name]))
                found.append(Column.of(count_name(child.name, link), map(str, counts.tolist())))
    return found


def _shared(entry: Entry, desk: _Desk) -> list[Column]:
    """Columns for what the children of a row have in common: the most frequent word of theirs (the airline of a plane's
    flights), so that it is drawn with the parent and siblings agree in it. A row without children has an empty cell."""
    found = []
    for child in desk.entries:
        modes = desk.modes[child.name]
        if "driver" not in modes or child.links[modes.index("driver")].table != entry.name:
            continue
        driver = modes.index("driver")
        rows, table = desk.rows_of_parent[child.name, driver], desk.tables[child.name]
        apart = {*child.rules.columns, *child.links[driver].columns, *(child.key if len(child.key) == 1 else ())}
        for column in table.columns:
            if column.name not in apart and 2 <= int((column.counts() > 0).sum()) <= MOST_WORDS:
                most = _most(column, rows, len(desk.tables[entry.name]))
                if most is not None:
                    found.append(replace(most, name=shared_name(child.name, column.name)))
    return found


def _most(column: Column, rows: np.ndarray, parents_: int) -> Column | None:
    """The most frequent word among each parent's rows, if nearly all of them have it; None otherwise."""
    linked = np.flatnonzero(rows >= 0)
    pairs, counts = np.unique(rows[linked] * len(column.words) + column.codes[linked], return_counts=True)
    owner, word = pairs // len(column.words), pairs % len(column.words)
    total = np.bincount(owner, weights=counts, minlength=parents_)
    order = np.lexsort((counts, owner))
    last = order[np.flatnonzero(np.diff(owner[order], append=-1))]  # of each parent its most frequent word
    several = total[owner[last]] > 1
    if not several.any():
        return None
    share = counts[last][several].sum() / total[owner[last]][several].sum()
    usual = column.counts().max() / len(column.codes)
    if share < SHARED or share < usual + BEYOND:
        return None
    codes = np.full(parents_, len(column.words), dtype=np.int32)
    codes[owner[last]] = word[last]
    return Column(column.name, (*column.words, None), codes, column.type)


def _learned(entry: Entry, desk: _Desk) -> Member:
    table, modes = desk.tables[entry.name], desk.modes[entry.name]
    lost = tuple(Orphans.of(table, link, desk.rows_of_parent[entry.name, i]) for i, link in enumerate(entry.links))
    pointing = {name for link, mode in zip(entry.links, modes) if mode != "list" for name in link.columns}
    made = entry.key if entry.keys == "make" and len(entry.key) == 1 and entry.key[0] not in pointing else ()
    copied = entry.key if entry.keys == "keep" and len(entry.key) == 1 else ()
    key = KeyPattern.of([str(word) for word in table[made[0]].words]) if made else None
    kinds = dict(entry.kind)
    for link, mode in zip(entry.links, modes):
        if mode == "list" and len(link.columns) == 1:
            kinds.setdefault(link.columns[0], "category")
    own = [column for column in table.columns if column.name not in {*pointing, *made, *copied}]
    settled = {*kinds, *entry.rules.columns}
    by_count = {c.name: _frequencies(c) for c in own if c.name not in settled and _many(c, desk.tell)}
    own = [column for column in own if column.name not in by_count]
    counts, shared = _counts(entry, desk), _shared(entry, desk)
    own += [*counts, *shared]
    kinds |= {column.name: "number" for column in counts if len(column.words) > 1}
    kinds |= {column.name: "category" for column in shared}
    for column in shared:
        desk.tell(f"{column.name!r} is drawn with each row, for its children to have it in common")
    given: Given = {}
    beside: list[Column] = []
    context: list[str] = []
    for i, (link, mode) in enumerate(zip(entry.links, modes)):
        if mode == "list":
            continue
        columns, states = _beside(link, lost[i].share > 0, desk.rows_of_parent[entry.name, i], desk)
        beside, given = beside + columns, given | states
        context += [column.name for column in columns] if mode == "driver" else []
    if not own and not beside:
        raise DataError("has nothing but its key: there is nothing to learn; keep it, or leave it out")
    body = Table((*own, *beside), table.format)
    groups = _groups(entry, modes, desk)
    train, held = sides(groups, desk.held_out)
    facts = Facts.of(body, train, kinds, desk.bins, desk.tell, entry.rules, given)
    desk.bodies[entry.name], desk.groups[entry.name] = body, groups
    if entry.keys == "keep":  # rows are drawn for every real key, so each can be looked up
        facts = replace(facts, rules=fitted(entry.rules, facts.kinds, body, np.arange(len(body))))
    desk.states[entry.name] = {s.kind.name: (s, facts.knots.get(s.kind.name)) for s in facts.learned}
    context = [name for name in context if name in desk.states[entry.name]]
    known = [i for i, states in enumerate(facts.learned) if states.kind.name in context]
    facts = replace(facts, apart=apart.groups(rows_of(body.take(train), facts).states, facts.sizes, known))
    return Member(
        entry, tuple(table.names), tuple(c.type for c in table.columns), table.format, len(table) - len(held), len(held), facts,
        tuple(context), modes, lost, key, by_count,
    )  # fmt: skip


def _many(column: Column, tell: Say) -> bool:
    """Whether a column of too many words is repeated enough to be drawn by their frequencies."""
    try:
        find_kind(column, None, lambda line: None)
    except DataError:
        used = [word for word, n in zip(column.words, column.counts()) if n]
        if len(column.codes) >= REPEATED * len(used):
            tell(
                f"column {shown(column.name)!r}: {len(used)} words are too many to learn; drawn by their frequencies alone"
            )
            return True
    return False


def _frequencies(column: Column) -> tuple[tuple[str | None, int], ...]:
    return tuple((word, int(n)) for word, n in zip(column.words, column.counts()) if n)


def _beside(link: Link, orphans: bool, rows: np.ndarray, desk: _Desk) -> tuple[list[Column], Given]:
    """The parent's learned columns beside each row of a child, and their states, with one more where there is no parent."""
    body, known = desk.bodies[link.table], desk.states.get(link.table, {})
    columns, given = [], {}
    for name, (states, knots) in known.items():
        called = beside_name(link, name)
        more = (NONE,) * (orphans and NONE not in states.kind.gaps)
        kind = replace(states.kind, name=called, gaps=(*states.kind.gaps, *more))
        given[called] = (replace(states, kind=kind), knots)
        columns.append(beside(body[name], called, rows))
    return columns, given


def beside(column: Column, name: str, rows: np.ndarray) -> Column:
    """A parent's column at these of its rows; where they are below 0, NONE stands."""
    codes = np.where(rows >= 0, column.codes[np.maximum(rows, 0)], len(column.words)).astype(np.int32)
    words = (*column.words, NONE) if (rows < 0).any() else column.words
    return Column(name, words, codes, column.type)


def _groups(entry: Entry, modes: Sequence[str], desk: _Desk) -> np.ndarray:
    """Rows with the same number are on one side of the split: uint64 (n,). Children go with a learned parent."""
    table = desk.tables[entry.name]
    own = table.hashes()
    if "driver" not in modes:
        return own
    i = modes.index("driver")
    link, rows = entry.links[i], desk.rows_of_parent[entry.name, i]
    if _entry(desk.entries, link.table).keep:
        return own
    alone = Table(tuple(table[name] for name in link.columns)).hashes()
    gap = rows == -2
    found: np.ndarray = np.where(rows >= 0, desk.groups[link.table][np.maximum(rows, 0)], np.where(gap, own, alone))
    return found
