"""A small language of formulas over the columns of a table. It knows columns, numbers, words and the functions below: no
formula can run anything else.

    hhmm(minutes(sched_dep_time) + dep_delay)                price * (1 + tax / 100)
    arr_time is missing = air_time is missing                start <= end or status = 'open'

From loose to tight: or, and, not, comparisons (= != < <= > >=, `is missing`), + and -, * and /, a sign. A column whose name has
blanks, signs or quotes stands in `backquotes`, words in 'quotes'.

A gap makes what is computed from it a gap. A comparison with a gap is itself unknown, so that a rule is broken only where it is
plainly false (as CHECK of SQL has it); `is missing` is never unknown.

While a formula is worked out a number is float64, NaN for a gap; a date is the days since 1970; a truth is 1, 0 or NaN; a word is
a str, None for a gap.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from sfumato.errors import DataError

LONGEST, DEEPEST = 2000, 50
SHARP = 1e-9  # numbers this near to each other, relative to them, are equal: 0.1 + 0.2 is 0.3
_TOKEN = re.compile(
    r"""\s*(?:(?P<word>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<column>`[^`]+`)|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<name>[^\W\d][\w.]*)|(?P<sign><=|>=|!=|==|[=<>(),*/+-]))"""
)
ColumnValues = Mapping[str, np.ndarray]
"""Column -> its values: (n,) float64, or objects (str or None) for words."""
Kinds = Mapping[str, str]
"""Column -> "number", "date" or "word"."""


@dataclass(frozen=True)
class Formula:
    """A formula with what it comes to.

    Args:
        text: as it was written.
        kind: "number", "date", "word" or "truth".
        columns: those it needs.
        of: rows -> (n,) values.
    """

    text: str
    kind: str
    columns: frozenset[str]
    of: Callable[[ColumnValues], np.ndarray] = field(repr=False, compare=False)


def parse(text: str, kinds: Kinds, where: str = "rule") -> Formula:
    """A formula over columns of these kinds.

    Raises:
        DataError: what is not understood, with its place and what could be meant.
    """
    return _Reader(text, kinds, where).whole()


# ---- what can be called ----------------------------------------------------------------------------------------------


def _part(name: str) -> Callable[..., np.ndarray]:
    def of(days: np.ndarray) -> np.ndarray:
        known, codes = np.unique(days, return_inverse=True)
        parts = [np.nan if np.isnan(day) else _moment(day, name) for day in known.tolist()]
        found: np.ndarray = np.array(parts, dtype=np.float64)[codes]
        return found

    return of


def _moment(day: float, name: str) -> float:
    moment = datetime.fromtimestamp(round(day * 86400, 3), UTC)
    return float(moment.isoweekday() if name == "weekday" else getattr(moment, name))


def _clock(minutes: np.ndarray) -> np.ndarray:
    minutes = np.mod(minutes, 1440)
    found: np.ndarray = np.floor(minutes / 60) * 100 + np.mod(minutes, 60)
    return found


NUMBER = ("number",)
FUNCTIONS: dict[str, tuple[tuple[str, ...], str, Callable[..., np.ndarray]]] = {
    **{name: (("date",), "number", _part(name)) for name in ("year", "month", "day", "hour", "minute", "weekday")},
    "minutes": (NUMBER, "number", lambda x: np.floor(x / 100) * 60 + np.mod(x, 100)),
    "hhmm": (NUMBER, "number", _clock),
    "abs": (NUMBER, "number", np.abs),
    "round": (NUMBER, "number", np.round),
    "floor": (NUMBER, "number", np.floor),
    "mod": (("number", "number"), "number", np.mod),
    "min": (("number", "number"), "number", np.minimum),
    "max": (("number", "number"), "number", np.maximum),
}
"""Name -> kinds of what stands in its brackets, kind of what comes out, how. ``minutes`` reads a time of day like 1745 as minutes
since midnight, ``hhmm`` writes minutes as one; Monday is ``weekday`` 1."""


# ---- comparisons and truths --------------------------------------------------------------------------------------------


def _truth(holds: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    return np.where(unknown, np.nan, holds.astype(np.float64))


def _gaps(values: np.ndarray) -> np.ndarray:
    """Where a value is a gap: bool (n,)."""
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    return np.isnan(values)


def _compared(sign: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unknown = _gaps(a) | _gaps(b)
    if a.dtype == object:
        same = np.array([x == y for x, y in zip(a, b)], dtype=bool)
        return _truth(same if sign == "=" else ~same, unknown)
    with np.errstate(invalid="ignore"):
        same = np.isclose(a, b, rtol=SHARP, atol=SHARP)
        holds = {
            "=": same,
            "!=": ~same,
            "<": (a < b) & ~same,
            "<=": (a < b) | same,
            ">": (a > b) & ~same,
            ">=": (a > b) | same,
        }
    return _truth(holds[sign], unknown)


def _and(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kleene's: false where one is false, else unknown where one is unknown."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _or(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1 - _and(1 - a, 1 - b)


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = a / b
    return np.where(np.isfinite(found), found, np.nan)


# ---- reading -----------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads one formula from left to right; each method reads what binds as tightly as its name says."""

    def __init__(self, text: str, kinds: Kinds, where: str):
        self.text, self.kinds, self.where, self.depth = text, kinds, where, 0
        if len(text) > LONGEST:
            raise DataError(f"{where}: a formula of {len(text)} characters, at most {LONGEST}")
        self.tokens, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.wrong(f"cannot read {text[at:].strip()[:20]!r}")
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind]))
            at = match.end()
        self.at = 0

    def wrong(self, why: str) -> DataError:
        return DataError(f"{self.where} {self.text!r}: {why}")

    def whole(self) -> Formula:
        found = self.loose()
        if self.at < len(self.tokens):
            raise self.wrong(f"{self.tokens[self.at][1]!r} is one too many")
        return found

    def next(self, *words: str) -> str | None:
        """The next token if it is one of these, which is then behind us."""
        kind, word = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        if kind in ("sign", "name") and word.lower() in words:
            self.at += 1
            return word.lower()
        return None

    def must(self, word: str) -> None:
        if self.next(word) is None:
            here = self.tokens[self.at][1] if self.at < len(self.tokens) else "its end"
            raise self.wrong(f"{word!r} should stand before {here!r}")

    def made(self, kind: str, of: Callable[..., np.ndarray], *parts: Formula) -> Formula:
        columns = frozenset().union(*(part.columns for part in parts))
        return Formula(self.text, kind, columns, lambda rows: of(*(part.of(rows) for part in parts)))

    def wants(self, part: Formula, *kinds: str) -> None:
        if part.kind not in kinds:
            raise self.wrong(f"a {' or '.join(kinds)} is wanted where a {part.kind} stands")

    def joined(self, tighter: Callable[[], Formula], signs: Mapping[str, Callable[..., np.ndarray]]) -> Formula:
        """Truths or numbers with signs between them, from left to right."""
        found = tighter()
        while sign := self.next(*signs):
            other = tighter()
            found = self.made(self.sum_of(sign, found, other), signs[sign], found, other)
        return found

    def sum_of(self, sign: str, a: Formula, b: Formula) -> str:
        """The kind of two things with a sign between them."""
        if sign in ("and", "or"):
            self.wants(a, "truth")
            self.wants(b, "truth")
            return "truth"
        kinds = (a.kind, b.kind)
        if sign == "-" and kinds == ("date", "date"):
            return "number"  # days
        if (sign in "+-" and kinds == ("date", "number")) or (sign == "+" and kinds == ("number", "date")):
            return "date"
        self.wants(a, "number")
        self.wants(b, "number")
        return "number"

    def loose(self) -> Formula:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.wrong(f"more than {DEEPEST} brackets in each other")
        found = self.joined(lambda: self.joined(self.negated, {"and": _and}), {"or": _or})
        self.depth -= 1
        return found

    def negated(self) -> Formula:
        turns = 0
        while self.next("not"):
            turns += 1
        found = self.comparison()
        if not turns:
            return found
        self.wants(found, "truth")
        return self.made("truth", lambda a: 1 - a, found) if turns % 2 else found

    def comparison(self) -> Formula:
        found = self.tested(self.sum())
        while sign := self.next("=", "==", "!=", "<", "<=", ">", ">="):
            other, sign = self.tested(self.sum()), "=" if sign == "==" else sign
            if found.kind != other.kind:
                raise self.wrong(f"a {found.kind} is compared with a {other.kind}")
            if sign not in ("=", "!="):
                self.wants(found, "number", "date")
            found = self.made("truth", lambda a, b, sign=sign: _compared(sign, a, b), found, other)
        return found

    def tested(self, found: Formula) -> Formula:
        """What is followed by `is missing` or `is not missing`."""
        while self.next("is"):
            negative = self.next("not") is not None
            self.must("missing")
            found = self.made("truth", lambda a, n=negative: (_gaps(a) != n).astype(np.float64), found)
        return found

    def sum(self) -> Formula:
        return self.joined(self.product, {"+": np.add, "-": np.subtract})

    def product(self) -> Formula:
        return self.joined(self.signed, {"*": np.multiply, "/": _divided})

    def signed(self) -> Formula:
        turns = 0
        while sign := self.next("-", "+"):
            turns += sign == "-"
        found = self.single()
        if not turns:
            return found
        self.wants(found, "number")
        return self.made("number", np.negative, found) if turns % 2 else found

    def single(self) -> Formula:
        if self.next("("):
            found = self.loose()
            self.must(")")
            return found
        kind, word = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        self.at += 1
        if kind == "number":
            value = float(word)
            return Formula(self.text, "number", frozenset(), lambda rows: _filled(rows, value))
        if kind == "word":
            text = word[1:-1].replace(word[0] * 2, word[0])
            return Formula(self.text, "word", frozenset(), lambda rows: _filled(rows, text))
        if kind == "name" and self.next("("):
            return self.called(word.lower())
        if kind in ("name", "column"):
            return self.column(word.strip("`"))
        raise self.wrong("ends in the middle" if not word else f"{word!r} stands where a column or a number should")

    def column(self, name: str) -> Formula:
        if name not in self.kinds:
            near = difflib.get_close_matches(name, self.kinds, 1)
            raise self.wrong(f"there is no column {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return Formula(self.text, self.kinds[name], frozenset([name]), lambda rows: rows[name])

    def called(self, name: str) -> Formula:
        if name not in FUNCTIONS:
            raise self.wrong(
                f"there is no function {name!r}; they are {', '.join(FUNCTIONS)}, and lookup alone in a rule"
            )
        wanted, kind, of = FUNCTIONS[name]
        parts = [self.loose()]
        while self.next(","):
            parts.append(self.loose())
        self.must(")")
        if len(parts) != len(wanted):
            raise self.wrong(f"{name} takes {len(wanted)}, not {len(parts)}")
        for part, each in zip(parts, wanted):
            self.wants(part, each)
        return self.made(kind, of, *parts)


def _filled(rows: ColumnValues, value: float | str) -> np.ndarray:
    """One value for every row."""
    n = len(next(iter(rows.values())))
    if isinstance(value, str):
        words = np.empty(n, dtype=object)
        words[:] = value
        return words
    return np.full(n, value)
