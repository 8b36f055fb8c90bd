"""Rules of a table: columns that follow from others, and what every row must meet.

    derive:                                     # never learned, worked out for each row: no row can break these
      distance: lookup(origin, dest)            # what the training rows have most often beside this origin and dest
      dep_time: hhmm(minutes(sched_dep_time) + dep_delay)
    check:                                      # a row that breaks one is drawn again
      - arr_time is missing = air_time is missing
      - price >= 0

Formulas: :mod:`~sfumato.fields.tables.formula`. A rule speaks of real rows too, where it may be broken: how often is counted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.formula import ColumnValues, Formula, Kinds, parse
from sfumato.fields.tables.kinds import Kind
from sfumato.fields.tables.spelling import DAY
from sfumato.fields.tables.table import Column, Table

MOST_RULES, MOST_COMBINATIONS = 200, 200_000
_LOOKUP = "lookup"


@dataclass(frozen=True)
class Derived:
    """A column that follows from others: by a formula, or by looking up what stood beside these cells in training rows.

    Args:
        text: as the file of rules has it.
        beside: the columns of a lookup; none for a formula.
        found: of a lookup, (cells of ``beside``) -> cell.
    """

    column: str
    text: str
    beside: tuple[str, ...] = ()
    found: Mapping[tuple[str | None, ...], str | None] | None = None

    def needs(self, kinds: Kinds) -> frozenset[str]:
        """The columns that it follows from."""
        return frozenset(self.beside) if self.beside else self.formula(kinds).columns

    def formula(self, kinds: Kinds) -> Formula:
        """Raises DataError where it is no formula over these columns, or one of another kind."""
        made = parse(self.text, kinds, f"rule for {self.column}:")
        if made.kind != kinds[self.column]:
            raise DataError(
                f"rule for {self.column}: {self.text!r} is a {made.kind}, the column a {kinds[self.column]}"
            )
        return made


@dataclass(frozen=True)
class Rules:
    """All rules of a table. Columns are derived in the order in which they stand."""

    derived: tuple[Derived, ...] = ()
    checks: tuple[str, ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        """Those that are derived, so not learned."""
        return frozenset(each.column for each in self.derived)

    def __bool__(self) -> bool:
        return bool(self.derived or self.checks)

    def plain(self) -> dict[str, Any]:
        """As data.json keeps them."""
        derived = [
            {
                "column": each.column, "text": each.text, "beside": list(each.beside),
                "found": None if each.found is None else [[list(cells), cell] for cells, cell in each.found.items()],
            }
            for each in self.derived
        ]  # fmt: skip
        return {"derived": derived, "checks": list(self.checks)}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any] | None) -> Rules:
        """What :meth:`plain` gave; none where a run is older than rules."""
        if plain is None:
            return cls()
        words = [each[name] for each in plain["derived"] for name in ("column", "text")] + list(plain["checks"])
        if not all(isinstance(word, str) for word in words):
            raise ValueError("a rule is no text")
        derived = tuple(
            Derived(
                each["column"], each["text"], tuple(each["beside"]),
                None if each["found"] is None else {tuple(cells): cell for cells, cell in each["found"]},
            )
            for each in plain["derived"]
        )  # fmt: skip
        return cls(derived, tuple(plain["checks"]))


# ---- reading -----------------------------------------------------------------------------------------------------------


def read_rules(path: Path) -> Rules:
    """The rules in a YAML file, lookups not yet filled.

    Raises:
        DataError: no such file, or what in it is no rule.
    """
    return rules_of(read_words(path), shown(path))


def read_words(path: Path) -> Any:
    """What is in a YAML file, as dicts, lists and words. Raises DataError."""
    from sfumato.jobs.strict import LONGEST, ConfigError, composed

    source = shown(path)
    try:
        if path.stat().st_size > LONGEST:
            raise DataError(f"{source}: {path.stat().st_size} bytes, at most {LONGEST} are read")
        node = composed(path.read_text(encoding="utf-8"), source)
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise DataError(f"{source}: cannot be read ({error})") from error
    return _plain(node, source)


def rules_of(plain: Any, source: str) -> Rules:
    """Rules from dicts, lists and words; ``source`` is where they stand. Raises DataError for what is no rule."""
    right = f"{source}: expected  derive: {{column: formula}}  and  check: [formula, ...]"
    if not isinstance(plain, dict):
        raise DataError(right)
    derive, check = plain.get("derive") or {}, plain.get("check") or []
    if not isinstance(derive, dict) or not isinstance(check, list):
        raise DataError(right)
    if unknown := [name for name in plain if name not in ("derive", "check")]:
        near = difflib.get_close_matches(unknown[0], ("derive", "check"), 1)
        raise DataError(f"{source}: {unknown[0]!r} is no kind of rule" + (f"; did you mean {near[0]}?" if near else ""))
    if not all(isinstance(text, str) for text in (*derive.values(), *check)):
        raise DataError(right)
    if len(derive) + len(check) > MOST_RULES:
        raise DataError(f"{source}: {len(derive) + len(check)} rules, at most {MOST_RULES}")
    return Rules(tuple(_derived(column, text.strip()) for column, text in derive.items()), tuple(map(str.strip, check)))


def _plain(node: Any, source: str) -> Any:
    """A YAML node as dicts, lists and words: nothing in it is taken for a number or a date."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                raise DataError(f"{source}:{key.start_mark.line + 1}: {name!r} stands there twice")
            found[name] = _plain(value, source)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each, source) for each in node.value]
    return {} if node is None else str(node.value)


def _derived(column: str, text: str) -> Derived:
    head, bracket, rest = text.partition("(")
    if head.strip().lower() != _LOOKUP or not bracket or not rest.endswith(")"):
        return Derived(column, text)
    beside = tuple(name.strip().strip("`") for name in rest[:-1].split(","))
    if not all(beside):
        raise DataError(f"rule for {column}: {text!r}: lookup takes columns, as in lookup(origin, dest)")
    return Derived(column, text, beside)


def kinds_of(kinds: Iterable[Kind]) -> dict[str, str]:
    """What each column is to a formula; a constant or a key is a word."""
    return {kind.name: kind.kind if kind.kind in ("number", "date") else "word" for kind in kinds}


def fitted(rules: Rules, kinds: Sequence[Kind], table: Table, train: np.ndarray) -> Rules:
    """The rules found to be about this table, in an order in which each column follows from what is known before it, and the
    lookups filled from the rows ``train``.

    Raises:
        DataError: an unknown column, a formula that is none, columns that follow from each other, a lookup that is too large.
    """
    known = kinds_of(kinds)
    for each in rules.derived:
        for name in (each.column, *each.beside):
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise DataError(
                    f"rule for {each.column}: there is no column {name!r}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
        if {kind.name: kind.kind for kind in kinds}[each.column] == "constant":
            raise DataError(f"rule for {each.column}: the column is always the same and needs none")
        if each.column in each.needs(known):
            raise DataError(f"rule for {each.column}: {each.text!r} needs the column itself")
    for text in rules.checks:
        if (made := parse(text, known, "check")).kind != "truth":
            raise DataError(f"check {text!r}: is a {made.kind}; a check is true or false, as price >= 0")
    left, ordered = list(rules.derived), []
    while left:
        open_ = {each.column for each in left}
        ready = [each for each in left if not each.needs(known) & open_]
        if not ready:
            raise DataError(f"rules: {', '.join(sorted(open_))} follow from each other; one of them must be learned")
        ordered += ready
        left = [each for each in left if each not in ready]
    part = table.take(train)
    filled = tuple(replace(each, found=_looked_up(each, part)) if each.beside else each for each in ordered)
    return replace(rules, derived=filled)


def _looked_up(each: Derived, table: Table) -> dict[tuple[str | None, ...], str | None]:
    """The most frequent cell beside each combination; of equally frequent ones the first in the alphabet."""
    columns = [table[name] for name in (*each.beside, each.column)]
    codes, counts = np.unique(np.stack([column.codes for column in columns], 1), axis=0, return_counts=True)
    found: dict[tuple[str | None, ...], tuple[int, str, str | None]] = {}
    for row, n in zip(codes.tolist(), counts.tolist()):
        *cells, cell = (column.words[code] for column, code in zip(columns, row))
        best = (-n, cell or "", cell)
        key = tuple(cells)
        if key not in found or best < found[key]:
            found[key] = best
    if len(found) > MOST_COMBINATIONS:
        raise DataError(
            f"rule for {each.column}: {len(found)} combinations of {', '.join(each.beside)}, at most {MOST_COMBINATIONS} are kept"
        )
    return {key: cell for key, (_, _, cell) in found.items()}


# ---- rows --------------------------------------------------------------------------------------------------------------


def column_values(table: Table, kinds: Sequence[Kind]) -> dict[str, np.ndarray]:
    """The cells as formulas know them."""
    return {kind.name: _values(table[kind.name], kind) for kind in kinds if kind.name in table.names}


def _values(column: Column, kind: Kind) -> np.ndarray:
    if kind.kind not in ("number", "date"):
        words = np.empty(len(column.words), dtype=object)
        words[:] = [None if word in kind.gaps else word for word in column.words]
        return words[column.codes]
    numbers = [np.nan if word in kind.gaps or word is None else kind.spelling.value(word) for word in column.words]
    values = np.array(numbers, dtype=np.float64)[column.codes]
    if kind.dates is None:
        return values
    return (values * kind.dates.unit + kind.dates.first) / DAY


def derive(table: Table, rules: Rules, kinds: Sequence[Kind]) -> tuple[Table, np.ndarray]:
    """The table with its derived columns worked out anew, and the rows for which that could be done: bool (n,).

    A combination that no training row had cannot be looked up: such a row is drawn again. Where a formula comes to a gap, the
    cell is the column's first kind of gap; a column that never has one makes the row one to draw again.
    """
    known, by_name = kinds_of(kinds), {kind.name: kind for kind in kinds}
    columns = {column.name: column for column in table.columns}
    good = np.ones(len(table), dtype=bool)
    for each in rules.derived:
        kind = by_name[each.column]
        if each.beside:
            cells, could = _by_lookup(each, columns)
        else:
            here = Table(tuple(columns.values()), table.format)
            cells, could = _by_formula(each.formula(known), column_values(here, kinds), kind)
        good &= could
        columns[each.column] = Column.of(each.column, cells, kind.type)
    return replace(table, columns=tuple(columns[name] for name in table.names)), good


def _by_lookup(each: Derived, columns: Mapping[str, Column]) -> tuple[list[str | None], np.ndarray]:
    assert each.found is not None
    keys = list(zip(*(columns[name].cells() for name in each.beside), strict=True))
    could = np.array([key in each.found for key in keys], dtype=bool)
    usual = next(iter(each.found.values()))
    return [each.found.get(key, usual) for key in keys], could


def _by_formula(formula: Formula, rows: ColumnValues, kind: Kind) -> tuple[list[str | None], np.ndarray]:
    values = formula.of(rows)
    if kind.kind in ("number", "date"):
        missing = ~np.isfinite(values)
        if kind.dates is not None:
            values = (values * DAY - kind.dates.first) / kind.dates.unit
        cells: list[str | None] = [kind.spelling.word(0.0 if gone else value) for value, gone in zip(values, missing)]
    else:
        missing = np.array([value is None for value in values], dtype=bool)
        cells = list(values)
    gap = kind.gaps[0] if kind.gaps else None
    could = ~missing if not kind.gaps else np.ones(len(missing), dtype=bool)
    return [gap if gone and kind.gaps else cell for cell, gone in zip(cells, missing)], could


def kept(table: Table, rules: Rules, kinds: Sequence[Kind]) -> dict[str, np.ndarray]:
    """Which rows keep each rule, by its text: bool (n,). A derived cell keeps its rule where it is what the rule says, up to
    how it is spelt."""
    known, found = kinds_of(kinds), {}
    if rules.derived:
        again, _ = derive(table, rules, kinds)
        by_name = {kind.name: kind for kind in kinds}
        for each in rules.derived:
            old, new = (_values(part[each.column], by_name[each.column]) for part in (table, again))
            same = (old == new) | ((old != old) & (new != new)) if old.dtype != object else old == new
            found[f"{each.column}: {each.text}"] = np.asarray(same, dtype=bool)
    rows = column_values(table, kinds) if rules.checks else {}
    for text in rules.checks:
        found[text] = parse(text, known, "check").of(rows) != 0  # unknown is not broken
    return found


def fits(table: Table, rules: Rules, kinds: Sequence[Kind]) -> np.ndarray:
    """Which drawn rows may stand: their derived cells could be worked out, and they keep every check: bool (n,)."""
    good = derive(table, rules, kinds)[1]
    for holds in kept(table, replace(rules, derived=()), kinds).values():
        good &= holds
    return good


def broken(table: Table, rules: Rules, kinds: Sequence[Kind]) -> dict[str, float]:
    """The share of rows that break each rule, by its text, and under "" the share that breaks any."""
    found = kept(table, rules, kinds)
    whole = np.all(list(found.values()), axis=0) if found else np.ones(len(table), dtype=bool)
    return {"": float(1 - whole.mean())} | {text: float(1 - holds.mean()) for text, holds in found.items()}
