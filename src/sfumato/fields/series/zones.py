"""Zones: from the wall clock to seconds since 1970 and back, over hours that are there twice or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from sfumato.errors import DataError, Wrong, shown

HOUR = 3600


def zone(name: str) -> tzinfo | None:
    """A zone by its name, Europe/Berlin, UTC or +01:00; of "" none. Raises Wrong."""
    if not name:
        return None
    if name in ("UTC", "Z"):
        return UTC
    if name[0] in "+-":
        digits = name[1:].replace(":", "")
        if len(digits) == 4 and digits.isdecimal() and int(digits[:2]) < 24 and int(digits[2:]) < 60:
            sign = -1 if name[0] == "-" else 1
            return timezone(sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:])))
        raise Wrong(f"zone = {name!r}: must be a zone such as Europe/Berlin, UTC or +01:00")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Wrong(f"zone = {name!r}: must be a zone such as Europe/Berlin, UTC or +01:00") from None


def offsets(stamps: np.ndarray, name: str) -> np.ndarray:
    """How far the wall clock is ahead of UTC at stamps (N,) in UTC, in seconds (N,) int64."""
    where = zone(name)
    if where is None or not len(stamps):
        return np.zeros(len(stamps), dtype=np.int64)
    quarters, back = np.unique(stamps // 900, return_inverse=True)  # zones turn at quarters of hours
    known = [datetime.fromtimestamp(int(q) * 900, where).utcoffset() or timedelta() for q in quarters]
    return np.array([int(each.total_seconds()) for each in known], dtype=np.int64)[back]


def wall(stamps: np.ndarray, name: str) -> np.ndarray:
    """Stamps in UTC as the wall clock shows them, (N,) int64."""
    return stamps + offsets(stamps, name)


def utc(walls: np.ndarray, name: str, where: str) -> np.ndarray:
    """What the wall clock shows (N,), in the order of the time, as stamps in UTC: of an hour that comes twice the second is
    the later one. Raises DataError for a time that the clock never showed."""
    told = zone(name)
    if told is None:
        return walls
    made = np.empty(len(walls), dtype=np.int64)
    for i, seconds in enumerate(walls.tolist()):
        shows = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=told)
        stamp = int(shows.timestamp())
        if i and stamp <= made[i - 1]:
            stamp = int(shows.replace(fold=1).timestamp())
        made[i] = stamp
    if len(wrong := np.flatnonzero(wall(made, name) != walls)):
        said = np.datetime_as_string(walls[wrong[0]].astype("datetime64[s]"), "m")
        raise DataError(f"{where}: {said} was never shown by the clocks of {shown(name)} (summer time begins); "
                        "give another --zone, or take it out")  # fmt: skip
    return made


def said(stamps: np.ndarray, name: str, whole_days: bool) -> list[str]:
    """Stamps as ISO: with what the clock is ahead of UTC where there is a zone; of steps of whole days (which are told by the
    wall clock) the date alone."""
    if whole_days:
        exact = bool((stamps % 86_400 == 0).all())
        words: list[str] = np.datetime_as_string(stamps.astype("datetime64[s]"), "D" if exact else "s").tolist()
        return words
    shows: list[str] = np.datetime_as_string(wall(stamps, name).astype("datetime64[s]"), "s").tolist()
    if not name:
        return shows
    ahead = offsets(stamps, name).tolist()
    return [
        f"{text}{'+' if off >= 0 else '-'}{abs(off) // HOUR:02d}:{abs(off) % HOUR // 60:02d}"
        for text, off in zip(shows, ahead)
    ]
