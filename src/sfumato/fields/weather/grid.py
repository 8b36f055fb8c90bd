"""Axes by name, times and grids: what stands in a file, brought into one order, north first and from west to east.

A grid is regular in latitude and longitude. Inside it is kept as rows from north to south and columns from west to east; what
goes out again is in the order of the input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from sfumato.errors import DataError, Wrong
from sfumato.fields.weather.files import Raw

AXES = {
    "time": ("time", "valid_time"),
    "level": ("level", "pressure_level", "isobaricinhpa", "plev", "lev"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon"),
}
SPOKEN = (
    "time (or valid_time), latitude (or lat), longitude (or lon), and where there are levels level (or pressure_level)"
)
UNITS = {
    "second": 1,
    "sec": 1,
    "s": 1,
    "minute": 60,
    "min": 60,
    "hour": 3600,
    "hr": 3600,
    "h": 3600,
    "day": 86400,
    "d": 86400,
}
CALENDARS = ("", "standard", "gregorian", "proleptic_gregorian")
SINCE = r"\s*([a-z]+?)s?\s+since\s+(-?\d+)-(\d+)-(\d+)(?:[T\s]+(\d+):(\d+)(?::(\d+)(?:\.\d*)?)?)?\s*(Z|UTC)?\s*$"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def axis_of(name: str) -> str | None:
    """Which of our axes a name of a file means: "time", "level", "latitude", "longitude"; None for none of them."""
    return next((axis for axis, names in AXES.items() if name.lower() in names), None)


def times_of(raw: Raw) -> np.ndarray:
    """The times of a coordinate, seconds since 1970-01-01 UTC, (T,) int64. Raises DataError."""
    units, calendar = raw.word("units"), raw.word("calendar").lower()
    told = re.match(SINCE, units)
    if told is None or told[1] not in UNITS:
        raise DataError(f"{raw.place}: has the units {units!r}; expected such as 'hours since 1900-01-01 00:00:00'")
    if calendar not in CALENDARS:
        raise DataError(
            f"{raw.place}: counts in the calendar {calendar!r}; expected that of the world, {', '.join(CALENDARS[1:])}: "
            "convert it, as by xarray's Dataset.convert_calendar"
        )
    year, month, day, hour, minute, second = (int(told[i] or 0) for i in range(2, 8))
    try:
        since = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise DataError(f"{raw.place}: has the units {units!r}, which name no date") from error
    if year < 1583 and calendar != "proleptic_gregorian":
        raise DataError(f"{raw.place}: counts from {units!r}, before the calendar of today; expected a date after 1582")
    counts = raw.values((slice(None),) * len(raw.shape)).reshape(-1)
    seconds = counts * UNITS[told[1]]
    if not np.isfinite(seconds).all() or (np.abs(seconds) > 1e12).any():
        raise DataError(f"{raw.place}: holds times that are none; expected numbers")
    return np.rint(seconds).astype(np.int64) + int((since - EPOCH).total_seconds())


def said(seconds: int) -> str:
    """A time as people write it: 2010-03-01 12:00."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M}"


def moment(option: str, text: str) -> int:
    """The time that somebody wrote, in seconds since 1970-01-01 UTC. Raises Wrong."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise Wrong(f"{option} = {text!r}: must be a date, as 2010-03-01 or 2010-03-01T12:00 (UTC)") from error
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    return int((found - EPOCH).total_seconds())


def clock(seconds: np.ndarray) -> np.ndarray:
    """Sine and cosine of the time of the year and of the day, (N,) int64 -> (N, 4) float32."""
    year = 2 * np.pi * (seconds % 31556952) / 31556952  # the mean year of the calendar; two days of drift at most
    day = 2 * np.pi * (seconds % 86400) / 86400
    return np.stack([np.sin(year), np.cos(year), np.sin(day), np.cos(day)], 1).astype(np.float32)


@dataclass(frozen=True)
class Grid:
    """A regular grid as it was given: degrees north and degrees east of its rows and columns."""

    north: tuple[float, ...]
    east: tuple[float, ...]

    @classmethod
    def of(cls, latitude: Raw, longitude: Raw) -> Grid:
        """From the coordinates of a file. Raises DataError where they are no regular grid."""
        for raw in (latitude, longitude):
            if len(raw.shape) != 1:
                raise DataError(
                    f"{raw.place}: has shape {raw.shape}; expected one number a row of a regular grid: a projected or reduced "
                    "one is brought there as by `cdo remapbil`"
                )
        north, east = (raw.values((slice(None),)) for raw in (latitude, longitude))
        step = np.diff(north)
        if not np.isfinite(north).all() or np.abs(north).max() > 90.001 or len(north) < 2:
            raise DataError(f"{latitude.place}: holds no latitudes; expected two or more between -90 and 90 degrees")
        if not ((step > 0).all() or (step < 0).all()):
            raise DataError(f"{latitude.place}: neither rises nor falls throughout; sort it, as by xarray's sortby")
        if np.abs(step / step.mean() - 1).max() > 0.1:
            raise DataError(
                f"{latitude.place}: has rows {np.abs(step).min():g} to {np.abs(step).max():g} degrees apart; expected even ones: "
                "bring it to a regular grid, as by `cdo remapbil`"
            )
        if not np.isfinite(east).all() or np.abs(east).max() > 540 or len(east) < 2:
            raise DataError(f"{longitude.place}: holds no longitudes; expected two or more, -180 to 180 or 0 to 360")
        turn = np.diff(np.unwrap(east, period=360))
        if not ((turn > 0).all() or (turn < 0).all()) or np.abs(turn / turn.mean() - 1).max() > 0.02:
            raise DataError(
                f"{longitude.place}: has columns {np.abs(turn).min():g} to {np.abs(turn).max():g} degrees apart; expected even "
                "ones, from west to east: sort it, or bring it to a regular grid, as by `cdo remapbil`"
            )
        return cls(tuple(map(float, north)), tuple(map(float, east)))

    @cached_property
    def closes(self) -> bool:
        """Whether the last column is the neighbour of the first: a whole circle."""
        turn = np.diff(np.unwrap(np.asarray(self.east), period=360))
        return bool(abs(len(self.east) * abs(turn.mean()) - 360) < 0.5 * abs(turn.mean()))

    @cached_property
    def globe(self) -> bool:
        """Whether it goes around, and from pole to pole."""
        apart = abs(self.north[0] - self.north[-1]) / (len(self.north) - 1)
        return self.closes and 90 - max(self.north) < 0.75 * apart and 90 + min(self.north) < 0.75 * apart

    @cached_property
    def rows(self) -> np.ndarray:
        """The places of our rows, north first, among those given."""
        return np.argsort(-np.asarray(self.north), kind="stable")

    @cached_property
    def columns(self) -> np.ndarray:
        """The places of our columns among those given: from west to east, a whole circle from 0 degrees on."""
        east = np.asarray(self.east)
        if self.closes:
            return np.argsort(np.mod(np.round(east, 6), 360), kind="stable")
        return np.argsort(np.unwrap(east, period=360), kind="stable")

    @property
    def latitude(self) -> np.ndarray:
        """Of our rows, falling."""
        return np.asarray(self.north)[self.rows]

    @property
    def longitude(self) -> np.ndarray:
        """Of our columns, rising, the middle between -180 and 180 (of a whole circle from 0)."""
        east = np.asarray(self.east)[self.columns]
        if self.closes:
            return np.mod(np.round(east, 6), 360)
        east = np.unwrap(east, period=360)
        return east - 360 * np.floor((east.mean() + 180) / 360)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.north), len(self.east)

    def same(self, other: Grid) -> bool:
        """Whether both have the same cells, in whatever order."""
        if self.shape != other.shape:
            return False
        near = 1e-3 * abs(self.latitude[0] - self.latitude[-1]) / max(1, len(self.north) - 1)
        return bool(
            np.abs(self.latitude - other.latitude).max() < near
            and np.abs(self.longitude - other.longitude).max() < near
        )

    def ours(self, values: np.ndarray) -> np.ndarray:
        """Fields (..., rows, columns) as given -> in our order."""
        return values[..., self.rows, :][..., self.columns]

    def theirs(self, values: np.ndarray) -> np.ndarray:
        """Fields in our order -> as given."""
        return values[..., np.argsort(self.rows), :][..., np.argsort(self.columns)]

    def words(self) -> str:
        """In words."""
        lat, lon = self.latitude, self.longitude
        return (
            f"{len(lat)} x {len(lon)} cells, latitude {lat[0]:g} to {lat[-1]:g}, longitude {lon[0]:g} to {lon[-1]:g}"
            + (", a whole circle" if self.closes else "")
        )
