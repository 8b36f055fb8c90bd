"""How the numbers and dates of a column are spelt: words to values, and back to words of the same look.

A value is a float64. A date is a whole number of the column's own units (days, hours, seconds, ...) since its first one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np

from sfumato.fields.tables.table import NUMBER

EXACT = 2**53  # whole numbers beyond it are not all floats
GREATEST = 1e300
NEVER_ROUND = 330  # decimals, more than any float64 has
DAY = 86_400_000_000
UNITS = {
    "day": DAY,
    "hour": DAY // 24,
    "minute": 60_000_000,
    "second": 1_000_000,
    "millisecond": 1000,
    "microsecond": 1,
}
EPOCH = datetime(1970, 1, 1)
_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y%m%d")
_HOURS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f")
FORMATS = (
    *(day for day in _DAYS if day != "%Y%m%d"),  # eight digits are a number
    *(f"{day}{join}{hour}{zone}" for day in _DAYS for join in (" ", "T") for hour in _HOURS for zone in ("", "Z")),
)


class Spelling(Protocol):
    """Words to values and back."""

    def value(self, word: str) -> float: ...

    def word(self, value: float) -> str: ...


def places(word: str) -> int:
    """Digits after the point of a number that is written out: 2 of 1.50, 7 of 3.92e-05, 0 of 1.5e20; at most 330."""
    head, _, power = re.sub("[eE]", "e", word.strip().replace(",", ".")).partition("e")
    return int(min(max(0.0, len(head.partition(".")[2]) - float(power or 0)), NEVER_ROUND))


@dataclass(frozen=True)
class Numbers:
    """Numbers.

    Args:
        decimals: most digits after the point, with powers of ten written out.
        style: "whole"; "fixed", all decimals always; "point", as many as needed but one; "short", as many as needed.
        comma: the decimal point is a comma.
        powers: very large and small numbers have an exponent.
    """

    decimals: int = 0
    style: str = "whole"
    comma: bool = False
    powers: bool = False

    def value(self, word: str) -> float:
        # float does not take all that a word is stripped of for blanks
        return float(word.strip().replace(",", ".") if self.comma else word.strip())

    def word(self, value: float) -> str:
        value = round(float(value), self.decimals) + 0.0  # no -0
        if self.style in ("whole", "fixed"):
            text = f"{value:.{self.decimals}f}"
        elif self.powers:
            text = repr(value) if self.style == "point" else repr(value).removesuffix(".0")
        else:
            text = np.format_float_positional(value, unique=True, trim="0" if self.style == "point" else "-")
        return text.replace(".", ",") if self.comma else text

    @classmethod
    def of(cls, words: Sequence[str]) -> Numbers | None:
        """The spelling that all words share, or None where they are not all numbers (007 and 2^53 + 1 are names)."""
        comma = any("," in word for word in words)
        if not words or (comma and any("." in word for word in words)):
            return None
        bare = [(word.replace(",", ".") if comma else word).strip().lstrip("+-") for word in words]
        if not all(NUMBER.fullmatch(word) for word in bare):
            return None
        if any(len(word) > 1 and word[0] == "0" and word[1].isdigit() for word in bare):
            return None
        if any(float(word) > (EXACT if word.isdigit() else GREATEST) for word in bare):
            return None
        heads = [re.split("[eE]", word) for word in bare]
        powers = any(len(head) > 1 for head in heads)
        tails = [head[0].partition(".")[2] for head in heads]
        decimals = max(map(places, bare))
        if not powers and not any("." in word for word in bare):
            return cls(0, "whole", comma)
        if not powers and all(len(tail) == decimals for tail in tails) and decimals <= 15:
            return cls(decimals, "fixed", comma)
        pointed = all("." in head[0] or len(head) > 1 for head in heads)
        return cls(decimals, "point" if pointed else "short", comma, powers)


@dataclass(frozen=True)
class Dates:
    """Dates and times of day.

    Args:
        format: as `strptime` has it.
        unit: microseconds of one step.
        first: the earliest, in microseconds since 1970.
    """

    format: str
    unit: int = DAY
    first: int = 0

    def value(self, word: str) -> float:
        return (_microseconds(word, self.format) - self.first) / self.unit

    def word(self, value: float) -> str:
        moment = EPOCH + timedelta(microseconds=self.first + round(value) * self.unit)
        # strftime does not pad years on every platform, and dates before 1000 are in no column that dates are read from
        return moment.strftime(self.format)

    @classmethod
    def of(cls, words: Sequence[str]) -> Dates | None:
        """The first format that reads all words and writes them back as they were; None where there is none."""
        for format in FORMATS:
            if reads(words[:1], format) and reads(words, format):
                moments = [_microseconds(word, format) for word in words]
                first = min(moments)
                step = math.gcd(*(moment - first for moment in moments))
                unit = next((unit for unit in UNITS.values() if step % unit == 0), 1)
                return cls(format, unit, first)
        return None


def reads(words: Iterable[str], format: str) -> bool:
    try:
        return all(datetime.strptime(word, format).strftime(format) == word for word in words)
    except ValueError:
        return False


def _microseconds(word: str, format: str) -> int:
    return (datetime.strptime(word, format) - EPOCH) // timedelta(microseconds=1)
