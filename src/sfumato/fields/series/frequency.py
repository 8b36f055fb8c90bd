"""Frequencies: the even grid that time stamps stand on, found from them, and continued.

A time stamp is seconds since 1970 on the wall clock of the series' zone where steps are days and longer, else in UTC. A
frequency turns it into a whole number, its place on the grid, and back; nothing else of the field knows a calendar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sfumato.errors import DataError, Wrong

DAY = 86_400
WEEK = 7 * DAY
UNITS = {"s": 1, "min": 60, "h": 3600, "D": DAY, "W": WEEK}
MONTHS = {"M": 1, "Q": 3, "Y": 12}
OTHER = {"T": "min", "H": "h", "S": "s", "d": "D", "w": "W", "A": "Y", "ME": "M", "MS": "M", "QE": "Q", "QS": "Q", "YE": "Y",
         "YS": "Y", "t": "min"}  # fmt: skip
SEASONS = {"h": 24, "D": 7, "B": 5, "W": 1, "M": 12, "Q": 4, "Y": 1}
HORIZONS = {"h": 48, "D": 14, "B": 10, "W": 13, "M": 12, "Q": 8, "Y": 6}


@dataclass(frozen=True)
class Frequency:
    """``count`` seconds ("s"), business days ("B") or months ("M") a step. ``anchor``: of seconds what is left of a stamp modulo
    the step; of months the second of the month that stamps stand at, -1 for those at its last day."""

    unit: Literal["s", "B", "M"]
    count: int
    anchor: int = 0
    turn: int = 0
    """Of months: which of ``count`` it is that stamps stand in, from January 1970."""

    def places(self, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where stamps (N,) int64 stand on the grid (N,) int64, and which of them stand on it exactly (N,) bool."""
        if self.unit == "s":
            off = stamps - self.anchor
            return off // self.count, off % self.count == 0
        days, rest = stamps // DAY, stamps % DAY
        dates = days.astype("datetime64[D]")
        if self.unit == "B":
            found = np.busday_count(np.datetime64(0, "D"), dates)
            return found.astype(np.int64), np.is_busday(dates) & (rest == self.anchor)
        months = dates.astype("datetime64[M]")
        place = (months.astype(np.int64) - self.turn) // self.count
        return place, self.stamps(place) == stamps

    def stamps(self, places: np.ndarray) -> np.ndarray:
        """The stamps (N,) int64 of places on the grid."""
        places = np.asarray(places, dtype=np.int64)
        if self.unit == "s":
            return places * self.count + self.anchor
        if self.unit == "B":
            dates = np.busday_offset(np.datetime64(0, "D"), places, roll="forward")
            return dates.astype("datetime64[D]").astype(np.int64) * DAY + self.anchor
        first = (places * self.count + self.turn).astype("datetime64[M]")
        if self.anchor < 0:
            last = (first + 1).astype("datetime64[D]") - 1
            return np.asarray(last.astype(np.int64) * DAY)
        return np.asarray(first.astype("datetime64[D]").astype(np.int64) * DAY + self.anchor)

    @property
    def name(self) -> str:
        """As pandas and GluonTS spell it: h, 15min, D, B, W, M, Q, Y."""
        if self.unit == "B":
            return "B"
        if self.unit == "M":
            word = next((word for word, months in MONTHS.items() if months == self.count), None)
            return word or f"{self.count}M"
        for word in ("W", "D", "h", "min", "s"):
            if self.count % UNITS[word] == 0:
                times = self.count // UNITS[word]
                return word if times == 1 else f"{times}{word}"
        raise AssertionError

    @property
    def local(self) -> bool:
        """Whether stamps are those of the wall clock: of steps of whole days and longer."""
        return self.unit != "s" or self.count % DAY == 0

    @property
    def season(self) -> int:
        """Steps of the usual season: of the day where steps are shorter, 7 of days, 12 of months, none (1) of weeks."""
        if self.unit == "s" and self.count < DAY:
            return DAY // self.count if DAY % self.count == 0 else 1
        return SEASONS.get(self.name, 1)

    @property
    def horizon(self) -> int:
        """Steps that are usually forecast."""
        return HORIZONS.get(self.name, 48 if self.unit == "s" and self.count < DAY else 12)

    def clock(self, stamps: np.ndarray) -> np.ndarray:
        """Sines and cosines (N, K) float32 of the hour, the weekday and the day of the year, as far as the steps feel them.

        One harmonic each is enough: a linear map of them at the origin is any such wave at any lead."""
        waves = [stamps % (365.2425 * DAY) / (365.2425 * DAY)]
        if self.unit == "B" or (self.unit == "s" and self.count < WEEK):
            waves.append(((stamps // DAY + 3) % 7 + (stamps % DAY) / DAY) / 7)
        if self.unit == "s" and self.count < DAY:
            waves.append(stamps % DAY / DAY)
        told = 2 * np.pi * np.stack(waves, 1)
        return np.concatenate((np.sin(told), np.cos(told)), 1).astype(np.float32)


STEPS = Frequency("s", 1)
"""Series without dates: their stamps are the numbers of their steps."""


def parsed(text: str) -> Frequency:
    """A frequency as it is typed: h, 15min, D, B, W, M, Q, Y. Raises Wrong."""
    found = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(?:-[A-Za-z]+)?\s*", text)
    word = found.group(2) if found else ""
    word = OTHER.get(word, word)
    many = int(found.group(1) or 1) if found and len(found.group(1)) < 10 else 0
    if word == "B" and many == 1:
        return Frequency("B", 1)
    if many and word in MONTHS:
        return Frequency("M", many * MONTHS[word])
    if many and word in UNITS:
        return Frequency("s", many * UNITS[word])
    raise Wrong(f"freq = {text!r}: must be a step such as h, 15min, D, B, W, M, Q or Y")


def found(stamps: np.ndarray, where: str) -> Frequency:
    """The frequency of one series' rising stamps (N,) int64: the step that most neighbours are apart. Raises DataError."""
    steps = np.diff(stamps)
    if not len(steps):
        raise DataError(f"{where}: holds one time stamp; the step cannot be told from it, give --freq")
    values, counts = np.unique(steps, return_counts=True)
    step = int(values[counts.argmax()])
    if step < 28 * DAY and len(steps) > 2 and 3 * counts.max() < len(steps):
        raise DataError(
            f"{where}: its times are irregular, no step is common; give --freq, as h or D, to average within steps"
        )
    if step >= 28 * DAY:
        return _monthly(stamps, step, where)
    if step == DAY and _without_weekends(stamps):
        return Frequency("B", 1, int(stamps[0] % DAY))
    return anchored(Frequency("s", step), stamps)


def anchored(frequency: Frequency, stamps: np.ndarray) -> Frequency:
    """The frequency with the anchor on which most of these stamps stand."""
    if frequency.unit == "s":
        rest, counts = np.unique(stamps % frequency.count, return_counts=True)
        return Frequency("s", frequency.count, int(rest[counts.argmax()]))
    if frequency.unit == "B":
        rest, counts = np.unique(stamps % DAY, return_counts=True)
        return Frequency("B", 1, int(rest[counts.argmax()]))
    dates = (stamps // DAY).astype("datetime64[D]")
    month = dates.astype("datetime64[M]")
    into = stamps - month.astype("datetime64[D]").astype(np.int64) * DAY
    turns, counts = np.unique(month.astype(np.int64) % frequency.count, return_counts=True)
    days, turn = np.unique(into), int(turns[counts.argmax()])
    return Frequency("M", frequency.count, int(days[0]) if len(days) == 1 and days[0] < 28 * DAY else -1, turn)


def _without_weekends(stamps: np.ndarray) -> bool:
    """Whether all stamps are of Monday to Friday, of so many days that this is no chance."""
    return len(stamps) >= 10 and bool(np.is_busday((stamps // DAY).astype("datetime64[D]")).all())


def _monthly(stamps: np.ndarray, step: int, where: str) -> Frequency:
    months = max(1, round(step / (30.436875 * DAY)))
    if not abs(step - months * 30.436875 * DAY) < 3.5 * DAY:
        raise DataError(f"{where}: steps of {step / DAY:g} days are none of days, weeks or months; give --freq")
    return anchored(Frequency("M", months), stamps)
