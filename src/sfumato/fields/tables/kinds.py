"""What a column is, found by looking at all its words: numbers, dates, categories, a key, or always the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.spelling import Dates, Numbers, Spelling, reads
from sfumato.fields.tables.table import Column, Say

KINDS = ("number", "category", "date", "key", "constant")
GAPS = (
    "",
    "NA",
    "N/A",
    "n/a",
    "NaN",
    "nan",
    "NAN",
    "NaT",
    "null",
    "NULL",
    "None",
    "none",
    "?",
    "-",
    ".",
    "#N/A",
    "missing",
)
MOST_WORDS = 256  # categories of a column
MIXED = 20  # different numbers from which a few words among them are said to be odd


@dataclass(frozen=True)
class Kind:
    """What a column is and how it is spelt, without looking at how often anything occurs.

    Args:
        type: what the file says of it, see :class:`~reading.Column`.
        kind: "number", "date", "category", "key" (made, not learned) or "constant".
        gaps: the ways in which a cell is empty.
        numbers, dates: the spelling of a number or a date.
        word: the only word of a constant; the pattern of a key, "" for whole numbers.
        next: the first number that a key has not used.
    """

    name: str
    type: str = "text"
    kind: str = "category"
    gaps: tuple[str | None, ...] = ()
    numbers: Numbers | None = None
    dates: Dates | None = None
    word: str | None = None
    next: int = 0

    @property
    def spelling(self) -> Spelling:
        found = self.numbers or self.dates
        assert found is not None
        return found


def find_kind(column: Column, asked: str | None, tell: Say, learned: bool = True) -> Kind:
    """What a column is, by looking at all its words. One that is not learned may have any number of them.

    Raises:
        DataError: a kind that the words do not fit, numbers mixed with many words, or too many different words.
    """
    counts, name = column.counts(), shown(column.name)
    used = [word for word, count in zip(column.words, counts) if count]
    if asked is not None and asked not in KINDS:
        raise DataError(f"column {name!r} cannot be of kind {asked!r}: the kinds are {', '.join(KINDS)}")
    gaps, words = _gaps(used, asked == "category")
    known = Kind(column.name, column.type, gaps=gaps)
    if len(words) + len(gaps) <= 1 or asked == "constant":
        if len(used) > 1:
            raise DataError(f"column {name!r} has {len(used)} different cells: it is no constant")
        return replace(known, kind="constant", gaps=(), word=used[0])
    numbers = Numbers.of(words) if column.type not in ("bool", "boolean", "string", "large_string") else None
    dates = None if numbers or not words else Dates.of(words)
    if asked in ("number", "date"):
        found = numbers if asked == "number" else dates
        if found is None:
            raise DataError(f"column {name!r} is no {asked}: {_odd(column, words, asked)}")
    if learned and asked in (None, "key") and (key := _key(column, words, known, numbers, asked == "key")):
        if asked is None:
            tell(f"column {name!r} is a key: it is made anew for samples, and not learned")
        return key
    if asked == "key":
        raise DataError(
            f"column {name!r} is no key: its cells must all differ, and be whole numbers or digits in one pattern"
        )
    if asked != "category" and numbers:
        return replace(known, kind="number", numbers=numbers)
    if asked != "category" and dates:
        _tell_order(dates, words, name, tell)
        return replace(known, kind="date", dates=dates)
    # a gap in a column of words that is not empty is a word like any other
    gaps = tuple(gap for gap in used if gap in ("", None))
    words = [word for word in used if word not in gaps and word is not None]
    if learned and len(words) > MOST_WORDS:
        raise DataError(_too_many(column, words, name))
    if asked is None and column.type == "text":
        _tell_mixed(column, words, name, tell)
    return replace(known, kind="category", gaps=gaps)


def _gaps(used: Sequence[str | None], strict: bool) -> tuple[tuple[str | None, ...], list[str]]:
    """Cells that are empty, and the others."""
    gaps = tuple(word for word in used if word is None or word == "" or (not strict and word.strip() in GAPS))
    return gaps, [word for word in used if word not in gaps and word is not None]


def _key(column: Column, words: Sequence[str], known: Kind, numbers: Numbers | None, sure: bool) -> Kind | None:
    """The column as a key, if every row has a word of its own that can be counted on."""
    if known.gaps or len(words) != len(column.codes) or len(words) < 2:
        return None
    if numbers and numbers.style == "whole" and not numbers.comma:
        values = sorted(map(int, words))
        if sure or values[-1] - values[0] + 1 == len(values):
            return replace(known, kind="key", word="", next=values[-1] + 1)
        return None
    parts = [re.fullmatch(r"(\D*)(\d+)", word) for word in words]
    if all(parts) and len({(part[1], len(part[2])) for part in parts if part}) == 1:
        first = parts[0]
        assert first is not None
        return replace(
            known,
            kind="key",
            word=f"{first[1]}{'0' * len(first[2])}",
            next=1 + max(int(part[2]) for part in parts if part),
        )
    return None


def key_word(kind: Kind, number: int) -> str:
    """The key of sample ``number``: it goes on where the data stop."""
    count = str(kind.next + number)
    word = kind.word or ""
    zeros = len(word) - len(word.rstrip("0"))
    return word[: len(word) - zeros] + count.rjust(zeros, "0")


def beyond(kind: Kind, column: Column) -> Kind:
    """A key that goes on where those of a column stop; cells of another pattern do not count."""
    word = kind.word or ""
    before = word.rstrip("0")
    used = [re.fullmatch(rf"{re.escape(before)}(\d+)", each) for each in column.words if each is not None]
    return replace(kind, next=max([kind.next, *(int(each[1]) + 1 for each in used if each)]))


def _odd(column: Column, words: Sequence[str], asked: str) -> str:
    """The first cell that is not of the kind asked for."""
    of = Numbers.of if asked == "number" else Dates.of
    odd = next((word for word in words if of([word]) is None), None)
    if odd is None:
        return f"its cells are not spelt alike, {words[0]!r} and {words[-1]!r}"
    row = int(np.flatnonzero(column.codes == column.words.index(odd))[0]) + 1
    return f"row {row} holds {shown(odd)[:40]!r}"


def _too_many(column: Column, words: Sequence[str], name: str) -> str:
    numbers = sum(Numbers.of([word]) is not None for word in words)
    if numbers > 0.5 * len(words):
        return (
            f"column {name!r} mixes numbers and words: {_odd(column, words, 'number')}; mend it, or --leave-out {name}"
        )
    if len(words) == len(column.codes):
        return (
            f"column {name!r} has another word in each of {len(words)} rows: it is a key or text; say --kind {name}:key if it is "
            f"numbers or digits in one pattern, name it as the key of a schema.yaml, or --leave-out {name}"
        )
    return (
        f"column {name!r} has {len(words)} different words, at most {MOST_WORDS} are learned: it looks like text, or like the "
        f"key of another table (schema.yaml); leave it out with --leave-out {name}"
    )


def _tell_mixed(column: Column, words: Sequence[str], name: str, tell: Say) -> None:
    """Numbers with a few words among them are most likely a slip: said, for they are read as categories."""
    odd = [word for word in words if Numbers.of([word]) is None]
    if odd and len(words) - len(odd) >= MIXED and len(odd) <= 0.1 * len(words):
        tell(f"column {name!r} mixes numbers and words ({_odd(column, words, 'number')}); all are read as words")


def _tell_order(dates: Dates, words: Sequence[str], name: str, tell: Say) -> None:
    swapped = dates.format.replace("%d/%m", "%m/%d")
    if swapped != dates.format and Dates.of(words[:1]) and reads(words, swapped):
        tell(f"column {name!r}: dates could be day/month or month/day; read as day/month")


def kinds_asked(asked: Mapping[str, str], names: Sequence[str]) -> None:
    """Complain about a kind for a column that is not there."""
    for name in asked:
        if name not in names:
            raise DataError(f"--kind names {shown(name)!r}, but the columns are {', '.join(map(shown, names))}")
