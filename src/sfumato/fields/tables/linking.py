"""Drawing linked tables: parents first, then the children of each, so that every key that should be found is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.errors import shown
from sfumato.diffusion.generate import Drawn
from sfumato.diffusion.rng import key as stream_key
from sfumato.errors import DataError, Wrong, naming
from sfumato.fields.tables.asking import Asked, drawn_to_meet
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.families import body_of, table_of_run
from sfumato.fields.tables.joining import beside
from sfumato.fields.tables.linked import Linked, Member, beside_name, count_name, parents, tuples
from sfumato.fields.tables.pointing import cells_of, matched, places
from sfumato.fields.tables.schema import SCHEMA, Link, as_yaml
from sfumato.fields.tables.sqlite import SUFFIXES, write_database
from sfumato.fields.tables.table import Column, Table, stacked
from sfumato.fields.tables.writing import write_table

if TYPE_CHECKING:
    from sfumato.fields.tables.options import RowAsk
    from sfumato.jobs.making import Making
    from sfumato.jobs.model import Model

ROUNDS = 100
"""Times that rows are drawn again whose key exists already, or which have no parent where they should."""


@dataclass(frozen=True)
class Made:
    """One made table: what a person gets of linked ones.

    Args:
        body: the same as the model knows it, with the parent's columns beside each row.
    """

    name: str
    table: Table
    body: Table

    def rows(self) -> list[dict[str, str | None]]:
        """Its rows, by the names of the columns."""
        names = self.table.names
        return [dict(zip(names, row)) for row in self.table.rows()]


def submodel(model: Model, member: Member) -> Model:
    """The model of one of the tables, as if it were a run of its own."""
    from sfumato.jobs.resolve import resolved
    from sfumato.training.objective import Precise

    facts: Any = member.facts
    drawn = [i for i in range(len(facts.sizes)) if i not in member.context()]
    calls = model.recipe.calls or (max(1, len(drawn)), 10)  # type: ignore[attr-defined]
    values = max(1, calls[1]) if set(facts.valued) & set(drawn) else min(1, len(facts.valued))
    changed: dict[str, Any] = {"calls": (calls[0], values)}
    recipe = replace(model.recipe, **changed)
    whole = model.denoiser.network
    network = Precise(whole.network.of(member.name), whole.bf16)
    denoiser = replace(model.denoiser, network=network, process=facts.process())
    walk = resolved(model.given, model.named, recipe, denoiser.process, model.adaptations)
    return replace(model, recipe=recipe, facts=facts, denoiser=denoiser, walk=walk)


@dataclass
class _Desk:
    """What is drawn so far: whole tables as they are written, and their bodies."""

    model: Model
    facts: Linked
    scale: float
    rows: int | None
    tables: dict[str, Table] = field(default_factory=dict)
    bodies: dict[str, Table] = field(default_factory=dict)

    def rng(self, *what: str | int) -> np.random.Generator:
        return np.random.default_rng(stream_key("linked", *what, self.model.drawing.seed))


def draw_tables(model: Model, n: int | None) -> Iterator[Made]:
    """Every table, parents first; n rows of the leading one, and of the others in proportion.

    Raises:
        DataError: keys that cannot be made; rules that no row meets.
    """
    facts: Any = model.facts
    lead = facts.lead
    scale = 1.0 if n is None or lead is None else n / (lead.rows + lead.held)
    desk = _Desk(model, facts, scale, n)
    for member in facts.members:
        with naming(shown(member.name)):
            if member.facts is None:
                desk.tables[member.name] = table_of_run(model.run, member)
                desk.bodies[member.name] = body_of(model.run, member)
            else:
                desk.tables[member.name], desk.bodies[member.name] = _drawn(desk, member)
        yield Made(member.name, desk.tables[member.name], desk.bodies[member.name])


@dataclass(frozen=True)
class TablesAsked:
    """What is asked of linked tables: all of them, each one of the queries.

    Args:
        n: rows of the leading table; None: as many as the real ones.
    """

    facts: Linked
    n: int | None
    buckets: None = None

    def __len__(self) -> int:
        return len(self.facts.members)

    def name(self, number: int) -> tuple[str, int]:
        return self.facts.members[number].name, 0

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Nothing: a table is drawn row by row, in batches of its own."""
        return {}

    def drawn(self, model: Model, numbers: Sequence[int]) -> Iterator[Drawn]:
        """The tables of these numbers, each as a :class:`Made`."""
        wanted: Any
        for number, made in enumerate(draw_tables(model, self.n)):
            if number in numbers:
                wanted = made
                yield Drawn(wanted, {}, [number], {})


def tables_asked(facts: Linked, ask: RowAsk, n: int | None) -> TablesAsked:
    """Raises Wrong for what can be asked of a single table alone."""
    for name in ("where", "known", "append"):
        if getattr(ask, name) is not None:
            raise Wrong(
                f"{name} = {str(getattr(ask, name))!r}: must be left out: it asks a single table, and this run has several"
            )
    if n is not None and facts.lead is None:
        raise Wrong(f"n = {n}: must be left out: all tables without a parent keep their real keys")
    return TablesAsked(facts, n)


def written(facts: Linked, made: Iterable[Made], out: Path, making: Making) -> Iterator[Path]:
    """Tables as files of a folder, as they come, and their schema at the end; or as one SQLite file. Each file is of the
    making's suffix, or like the real one where that is open."""
    if out.suffix.lower() in SUFFIXES:
        yield write_database(out, {each.name: each.table for each in made}, facts.entries)
        return
    names: list[str] = []
    for each in made:
        own = making.suffix or each.table.format.suffix
        plain = re.sub(r"[^\w .-]", "_", each.name).lstrip(". ") or "table"
        plain = plain if plain not in {Path(name).stem for name in names} else f"{plain}_{len(names) + 1}"
        names.append(f"{plain}{'.csv' if own in SUFFIXES else own}")
        yield write_table(each.table, out / names[-1], making.text())
    entries = [replace(entry, file=name) for entry, name in zip(facts.entries, names)]
    path = out / SCHEMA
    path.write_text(as_yaml(entries), encoding="utf-8")
    yield path


# ---- one table -------------------------------------------------------------------------------------------------------


def _drawn(desk: _Desk, member: Member) -> tuple[Table, Table]:
    """A table as it is written, and its body."""
    model = submodel(desk.model, member)
    rows = _rows_of_driver(desk, member)
    count = _count(desk, member) if rows is None else len(rows)
    fixed = _fixed(desk, member, rows, count)
    given = {name: column for name, column in fixed.items() if name in _learned(member)}
    body = _bodies(model, member, given, np.arange(count), 0)
    links = _pointing(desk, member, body, rows)
    whole = {**fixed, **_by_count(desk, member, count), **links}
    for round_ in range(1, ROUNDS + 1):
        table = _composed(desk, member, body, whole)
        twice, alone = _twice(member, table), _alone(desk, member, table)
        again = np.union1d(twice, alone)
        if not len(again):
            return table, body
        if swapped := _swapped(desk, member, whole, twice, round_):
            whole, again = {**whole, **swapped}, alone
        if not len(again):
            continue
        new = _bodies(model, member, {name: column.take(again) for name, column in given.items()}, again, round_)
        body = _replaced(body, again, new)
    raise DataError(
        f"{len(again)} of {count} rows drawn have a key that exists already, or none that should, after {ROUNDS} draws; ask for "
        "fewer rows, or leave its key out of the schema"
    )


def _learned(member: Member) -> set[str]:
    facts: Any = member.facts
    return {states.kind.name for states in facts.learned}


def _count(desk: _Desk, member: Member) -> int:
    """Rows of a table without a driver."""
    real = member.rows + member.held
    if member.entry.whole:
        return real
    lead = desk.facts.lead
    if desk.rows is not None and lead is not None and lead.name == member.name:
        return desk.rows
    return max(1, round(real * desk.scale))


def _rows_of_driver(desk: _Desk, member: Member) -> np.ndarray | None:
    """The parent's row of each row (n,), -1 or -2 where there is none; None for a table without a driver."""
    if member.driver is None:
        return None
    link, lost = member.entry.links[member.driver], member.orphans[member.driver]
    counts = _counts(desk, member, link)
    linked = np.repeat(np.arange(len(counts)), counts)
    alone = round(len(linked) * lost.share / (1 - lost.share)) if lost.share < 1 else member.rows + member.held
    gone = round(alone * lost.missing / lost.share) if lost.share else 0
    return np.concatenate([linked, np.full(alone - gone, -1), np.full(gone, -2)])


def _counts(desk: _Desk, member: Member, link: Link) -> np.ndarray:
    """How many rows each row of the parent has, (parents,)."""
    parent, name = desk.facts[link.table], count_name(member.name, link)
    if parent.facts is not None:
        column = desk.bodies[link.table][name]
        return np.array([max(0, int(word or 0)) for word in column.words], dtype=np.int64)[column.codes]
    real = parents(table_of_run(desk.model.run, member), link, desk.tables[link.table])
    counts = np.bincount(real[real >= 0], minlength=len(desk.tables[link.table]))
    chance = desk.rng(member.name, "counts").random(len(counts))
    return np.floor(counts * desk.scale + chance * (desk.scale != 1)).astype(np.int64)


def _fixed(desk: _Desk, member: Member, rows: np.ndarray | None, count: int) -> dict[str, Column]:
    """Columns that are known before a row is drawn: the parent's beside it, and keys that stay."""
    found: dict[str, Column] = {}
    if rows is not None:
        link = member.entry.links[member.driver or 0]
        body = desk.bodies[link.table]
        for name in member.given:
            column = next(column for column in body.columns if beside_name(link, column.name) == name)
            found[name] = beside(column, name, rows)
    if member.entry.keys == "keep":
        real = table_of_run(desk.model.run, member)
        found |= {name: real[name] for name in member.entry.key}
    return found


def _bodies(model: Model, member: Member, given: Mapping[str, Column], numbers: np.ndarray, round_: int) -> Table:
    """Bodies of the rows with these numbers, drawn for what is given of them."""
    recipe: Any = model.recipe
    facts: Any = member.facts
    known = Table(tuple(given.values())) if given else None
    asked = Asked(facts, 1 if known else len(numbers), known, named=known is not None, stated=frozenset(given))
    stream = ("table", member.name, round_) if round_ else ("table", member.name)
    parts = [
        recipe.rows(model, asked, drawn)
        for drawn in drawn_to_meet(model, asked, range(len(numbers)), recipe.rows, stream)
    ]
    return stacked(parts) if parts else _empty(facts)


def _empty(facts: Facts) -> Table:
    """No rows."""
    return Table(tuple(Column.of(states.kind.name, [], states.kind.type) for states in facts.columns), facts.format)


def _swapped(
    desk: _Desk, member: Member, whole: Mapping[str, Column], rows: np.ndarray, round_: int
) -> dict[str, Column]:
    """The matched links of a key, in which these rows have changed parents with others; nothing where a key has none."""
    links = [
        link
        for link, mode in zip(member.entry.links, member.modes)
        if mode == "matched" and set(link.columns) & set(member.entry.key)
    ]
    rng, found = desk.rng(member.name, "swap", round_), dict[str, Column]()
    for link in links:
        order = np.arange(len(whole[link.columns[0]].codes))
        for row, other in zip(rows.tolist(), rng.integers(0, len(order), len(rows)).tolist()):
            order[row], order[other] = order[other], order[row]
        found |= {name: replace(whole[name], codes=whole[name].codes[order]) for name in link.columns}
    return found


def _replaced(body: Table, rows: np.ndarray, new: Table) -> Table:
    """The body with other rows in these places."""
    order = np.arange(len(body))
    order[rows] = len(body) + np.arange(len(rows))
    return stacked([body, new]).take(order)


def _composed(desk: _Desk, member: Member, body: Table, whole: Mapping[str, Column]) -> Table:
    """The table as it is written: every column of the file."""
    columns = {column.name: column for column in body.columns} | dict(whole)
    if member.key is not None:
        (name,) = member.entry.key
        real = {str(word) for word in table_of_run(desk.model.run, member)[name].words}
        words = member.key.make(len(body), desk.rng(member.name, "key"), real, f"{member.name}.{name}")
        columns[name] = Column.of(name, words)
    return Table(
        tuple(replace(columns[name], name=name, type=type) for name, type in zip(member.names, member.types)),
        member.format,
    )


def _by_count(desk: _Desk, member: Member, count: int) -> dict[str, Column]:
    """Columns of too many words, each word as often as in the real table."""
    found = {}
    for name, pairs in (member.by_count or {}).items():
        counts = np.array([n for _, n in pairs], dtype=np.float64)
        codes = places(counts, count, desk.rng(member.name, name))
        found[name] = Column(name, tuple(word for word, _ in pairs), codes.astype(np.int32))
    return found


def _pointing(desk: _Desk, member: Member, body: Table, rows: np.ndarray | None) -> dict[str, Column]:
    """The columns that point at parents, of every link that is no list."""
    found: dict[str, Column] = {}
    for i, (link, mode) in enumerate(zip(member.entry.links, member.modes)):
        if mode == "list":
            continue
        rng = desk.rng(member.name, "link", i)
        if mode == "driver" and rows is not None:
            at = rows
        else:
            facts: Any = member.facts
            counts = _counts(desk, member, link)
            at = matched(link, member.orphans[i], facts, body, desk.bodies[link.table], counts, rng)
        found |= cells_of(desk.tables[link.table], link, at, member.orphans[i], rng)
    return found


# ---- what is drawn again ---------------------------------------------------------------------------------------------


def _twice(member: Member, table: Table) -> np.ndarray:
    """Rows whose key an earlier row has, where it is made of several columns: one alone is made unique."""
    if len(member.entry.key) < 2 or member.entry.keys == "keep":
        return np.zeros(0, dtype=np.int64)
    codes, _ = tuples(table, member.entry.key)
    return np.setdiff1d(np.arange(len(table)), np.unique(codes, return_index=True)[1])


def _alone(desk: _Desk, member: Member, table: Table) -> np.ndarray:
    """Rows that point at nothing in a list, beyond the share of real rows that do."""
    found = [np.zeros(0, dtype=np.int64)]
    for i, (link, mode) in enumerate(zip(member.entry.links, member.modes)):
        if mode == "list":
            lost = np.flatnonzero(parents(table, link, desk.tables[link.table]) < 0)
            found.append(lost[int(np.ceil(member.orphans[i].share * len(table))) :])
    return np.unique(np.concatenate(found))
