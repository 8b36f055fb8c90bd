"""Conditions that rows must meet.

    age >= 40 and (sex = 'woman' or not city in ('Rome', 'Paris')) and income is not missing and n between 3 and 5

From loose to tight: or, and, not. Words with blanks or signs in them stand in quotes. A gap meets no comparison but = and `in`
that name it, and != that does not; `not` turns what stands behind it round.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.columns import States
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.table import Column, Table

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<sign><=|>=|!=|==|[=<>(),])|(?P<word>[^\s=<>!(),'"]+))"""
)
_ORDERED = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
DEEPEST = 50


@dataclass(frozen=True)
class Clause:
    """One comparison of a column with one word, or with several ("in"), or whether it is "missing"."""

    column: str
    sign: str
    words: tuple[str, ...] = ()

    def clauses(self) -> list[Clause]:
        """Every comparison in it."""
        return [self]

    def apart(self) -> list[Condition]:
        """What must hold, all of it."""
        return [self]

    def fixes(self, gaps: Sequence[str | None]) -> tuple[str | None, ...]:
        """The one cell that meets it, where there is only one; ``gaps`` are those of the column."""
        if self.sign == "=":
            return (self.words[0],)
        return tuple(gaps) if self.sign == "missing" and len(gaps) == 1 else ()

    def met(self, table: Table, facts: Facts) -> np.ndarray:
        """Which rows meet it: bool (n,)."""
        states = next(states for states in facts.measured if states.kind.name == self.column)
        column = table[self.column]
        found: np.ndarray = np.array([_holds(word, self, states) for word in column.words], dtype=bool)[column.codes]
        return found


@dataclass(frozen=True)
class Either:
    """Several of which one must hold."""

    parts: tuple[Condition, ...]

    def clauses(self) -> list[Clause]:
        return [clause for part in self.parts for clause in part.clauses()]

    def apart(self) -> list[Condition]:
        return [self]

    def met(self, table: Table, facts: Facts) -> np.ndarray:
        return np.any([part.met(table, facts) for part in self.parts], axis=0)


@dataclass(frozen=True)
class All:
    """Several that must hold."""

    parts: tuple[Condition, ...]

    def clauses(self) -> list[Clause]:
        return [clause for part in self.parts for clause in part.clauses()]

    def apart(self) -> list[Condition]:
        return [each for part in self.parts for each in part.apart()]

    def met(self, table: Table, facts: Facts) -> np.ndarray:
        return np.all([part.met(table, facts) for part in self.parts], axis=0)


@dataclass(frozen=True)
class Not:
    """One that must not hold."""

    part: Condition

    def clauses(self) -> list[Clause]:
        return self.part.clauses()

    def apart(self) -> list[Condition]:
        return [self]

    def met(self, table: Table, facts: Facts) -> np.ndarray:
        return ~self.part.met(table, facts)


Condition = Clause | Either | All | Not


# ---- reading -----------------------------------------------------------------------------------------------------------


def parse(where: str) -> list[Condition]:
    """What must hold, all of it.

    Raises:
        DataError: what is not understood, quoted.
    """
    return _Reader(where).whole().apart()


def _tokens(where: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while where[at:].strip():
        match = _TOKEN.match(where, at)
        if match is None:
            raise DataError(f"--where {where!r}: cannot read {where[at:]!r}")
        kind = match.lastgroup or ""
        text = match[kind]
        found.append((kind, text[1:-1].replace(text[0] * 2, text[0]) if kind == "text" else text))
        at = match.end()
    return found


class _Reader:
    """Reads a condition from left to right."""

    def __init__(self, where: str):
        self.where, self.tokens, self.at, self.depth = where, _tokens(where), 0, 0

    def wrong(self, why: str) -> DataError:
        return DataError(f"--where {self.where!r}: {why}")

    def take(self) -> tuple[str, str]:
        """The next token."""
        if self.at >= len(self.tokens):
            raise self.wrong("ends in the middle; it should be like  age >= 40 and sex = 'woman'")
        self.at += 1
        return self.tokens[self.at - 1]

    def next(self, word: str, kind: str = "word") -> bool:
        """Whether the next token is this one, which is then behind us."""
        here = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        found = here[0] == kind and here[1].lower() == word
        self.at += found
        return found

    def whole(self) -> Condition:
        found = self.loose()
        if self.at < len(self.tokens):
            odd = self.tokens[self.at][1]
            raise self.wrong(f"{odd!r} where 'and' or 'or' should stand; put words with blanks in quotes")
        return found

    def loose(self) -> Condition:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.wrong(f"more than {DEEPEST} brackets in each other")
        parts = [self.joined()]
        while self.next("or"):
            parts.append(self.joined())
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def joined(self) -> Condition:
        parts = [self.tight()]
        while self.next("and"):
            parts.append(self.tight())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def tight(self) -> Condition:
        turns = 0
        while self.next("not"):
            turns += 1
        if self.next("(", "sign"):
            found = self.loose()
            if not self.next(")", "sign"):
                raise self.wrong("a bracket is not closed")
        else:
            found = self.clause()
        return Not(found) if turns % 2 else found

    def clause(self) -> Condition:
        _, column = self.take()
        kind, sign = self.take()
        sign = sign.lower() if kind == "word" else {"==": "="}.get(sign, sign)
        if kind == "word" and sign == "is":
            negative = self.next("not")
            if not self.next("missing"):
                raise self.wrong(f"after {column!r} is  comes  missing  or  not missing")
            return Not(Clause(column, "missing")) if negative else Clause(column, "missing")
        negative = kind == "word" and sign == "not"
        if negative:
            kind, sign = self.take()
            sign = sign.lower()
        if kind == "word" and sign == "in":
            found: Condition = Clause(column, "in", self.listed())
        elif kind == "word" and sign == "between":
            low = self.take()[1]
            if not self.next("and"):
                raise self.wrong(f"between {low!r} and what? it should be like  age between 20 and 30")
            found = All((Clause(column, ">=", (low,)), Clause(column, "<=", (self.take()[1],))))
        elif kind == "sign" and sign in ("=", "!=", *_ORDERED) and not negative:
            found = Clause(column, sign, (self.take()[1],))
        else:
            raise self.wrong(
                f"{sign!r} is no comparison; use =, !=, <, <=, >, >=, in ('a', 'b'), between A and B or is missing"
            )
        return Not(found) if negative else found

    def listed(self) -> tuple[str, ...]:
        if not self.next("(", "sign") or ("sign", ")") not in self.tokens[self.at :]:
            raise self.wrong("after 'in' comes a list in brackets, as in ('a', 'b')")
        end = self.tokens.index(("sign", ")"), self.at)
        words = tuple(text for kind, text in self.tokens[self.at : end] if kind != "sign")
        self.at = end + 1
        return words


# ---- what can be -------------------------------------------------------------------------------------------------------


def checked(conditions: Sequence[Condition], facts: Facts) -> list[Condition]:
    """The conditions, found to be about columns of the table and values that they can have.

    Raises:
        DataError: an unknown column or word with the nearest one, or a comparison that no row can meet.
    """
    names = {states.kind.name: states for states in facts.measured}
    for clause in (clause for condition in conditions for clause in condition.clauses()):
        if clause.column not in names:
            near = difflib.get_close_matches(clause.column, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; they are {', '.join(map(shown, names))}"
            raise DataError(f"--where names {shown(clause.column)!r}, which is no learned column{hint}")
        states = names[clause.column]
        if clause.sign == "missing":
            if not states.kind.gaps and clause.column not in facts.rules.columns:
                raise DataError(f"--where: {clause.column!r} is never missing")
        elif states.kind.kind == "category":
            _word(clause, states, facts)
        else:
            for word in clause.words:
                _value(states, word)
            _reached(clause, states, facts)
    return list(conditions)


def _word(clause: Clause, states: States, facts: Facts) -> None:
    """A category is compared with words that it can be."""
    if clause.sign in _ORDERED:
        raise DataError(f"--where: {clause.column!r} holds words, which have no order: use =, != or in")
    known = [*states.words, *(word for word, _ in states.rare), *(gap or "" for gap in states.kind.gaps)]
    for word in clause.words:
        if word not in known and clause.column not in facts.rules.columns:
            near = difflib.get_close_matches(word, known, 1)
            said = f"did you mean {near[0]!r}?" if near else f"it is {', '.join(known[:12])}"
            raise DataError(f"--where: {clause.column!r} is never {word!r}; {said}")


def _reached(clause: Clause, states: States, facts: Facts) -> None:
    """A comparison of numbers is one that some value of the column meets."""
    if clause.sign not in _ORDERED or clause.column in facts.rules.columns or clause.words[0] in states.kind.gaps:
        return
    spelling = states.kind.spelling
    knots = facts.knots.get(clause.column)
    values = [spelling.value(word) for word in states.words] + ([] if knots is None else knots.value.tolist())
    if not values or bool(_ORDERED[clause.sign](np.array(values), _value(states, clause.words[0])).any()):
        return
    low, high = spelling.word(min(values)), spelling.word(max(values))
    raise DataError(
        f"--where: {clause.column!r} is never {clause.sign} {clause.words[0]}; it goes from {low} to {high}"
    )


def _value(states: States, word: str) -> float:
    kind = states.kind
    if word in kind.gaps:
        return float("nan")
    try:
        return kind.spelling.value(word)
    except ValueError:
        raise DataError(f"--where: {kind.name!r} is a {kind.kind}, and {word!r} is none") from None


def meets(table: Table, conditions: Sequence[Condition], facts: Facts) -> np.ndarray:
    """Which rows meet all conditions: bool (n,)."""
    good = np.ones(len(table), dtype=bool)
    for condition in conditions:
        good &= condition.met(table, facts)
    return good


def _holds(word: str | None, clause: Clause, states: States) -> bool:
    kind = states.kind
    gap = word is None or word in kind.gaps
    if clause.sign == "missing":
        return gap
    if kind.kind == "category" or gap:
        here = (word or "") in clause.words
        return here if clause.sign in ("=", "in") else clause.sign == "!=" and not here
    assert word is not None
    value = kind.spelling.value(word)
    wanted = [_value(states, each) for each in clause.words]
    if clause.sign in _ORDERED:
        return bool(_ORDERED[clause.sign](value, wanted[0]))
    return (value in wanted) == (clause.sign != "!=")


def given_by(conditions: Sequence[Condition], facts: Facts) -> Table | None:
    """The columns that conditions fix, as a table of one row; None where there is none."""
    kinds = {states.kind.name: states.kind for states in facts.learned}
    fixed: dict[str, str | None] = {}
    for condition in conditions:
        for clause in condition.clauses():
            if clause == condition and clause.column in kinds:  # one that stands alone
                for word in clause.fixes(kinds[clause.column].gaps):
                    fixed[clause.column] = word
    columns = tuple(Column.of(name, [word], kinds[name].type) for name, word in fixed.items())
    return Table(columns, facts.format) if columns else None
