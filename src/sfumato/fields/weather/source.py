"""A folder of fields as one array of channels by time, read lazily: (time, channel, latitude, longitude).

A channel is a variable, at a level where it has levels: msl, z500. A variable may lie in one file or be cut into many by time;
channels are read at the times that all of them have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from sfumato.errors import DataError, Wrong, shown
from sfumato.fields.weather.files import Raw, arrays, sources
from sfumato.fields.weather.grid import SPOKEN, Grid, axis_of, said, times_of

BLOCK = 32 << 20
"""Numbers of a block that is read at once, at most (a time at least)."""


@dataclass(frozen=True)
class Channel:
    """A variable, at a level (hPa) where it has levels, and what it is called in full."""

    name: str
    level: float | None
    units: str = ""
    long_name: str = ""
    standard_name: str = ""

    @property
    def label(self) -> str:
        """As people and metrics call it: msl, z500."""
        return self.name if self.level is None else f"{self.name}{self.level:g}"


@dataclass(frozen=True, eq=False)
class Piece:
    """An array in a file that holds a variable: what each of its axes is, its times, levels and grid."""

    raw: Raw
    axes: tuple[str | None, ...]
    times: np.ndarray
    levels: tuple[float, ...]
    grid: Grid

    def read(self, start: int, stop: int, level: float | None) -> np.ndarray:
        """Its fields from one place in time to before another, in our order: (n, rows, columns) float64. An array without
        time has one."""
        where = []
        for axis in self.axes:
            if axis == "time":
                where.append(slice(start, stop))
            elif axis == "level" and level is not None:
                at = self.levels.index(level)
                where.append(slice(at, at + 1))
            else:
                where.append(slice(None) if axis in ("latitude", "longitude") else slice(0, 1))
        values = self.raw.values(tuple(where))
        order = [self.axes.index(axis) for axis in ("latitude", "longitude")]
        first = [self.axes.index("time")] if "time" in self.axes else []
        rest = [i for i in range(len(self.axes)) if i not in (*first, *order)]
        values = values.transpose(*first, *rest, *order)
        return self.grid.ours(values.reshape(-1, *self.grid.shape))


@dataclass(frozen=True, eq=False)
class Source:
    """The fields of a folder or file.

    maps: variables without time (orography, a land mask), name -> (rows, columns).
    times: seconds since 1970, rising, of which every channel has every one. left: variables that are not read, and why.
    """

    path: Path
    grid: Grid
    channels: tuple[Channel, ...]
    times: np.ndarray
    maps: dict[str, np.ndarray]
    left: tuple[str, ...]
    pieces: dict[str, tuple[Piece, ...]]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Fields at the times of these places, (n, C, rows, columns) float32. Raises DataError."""
        wanted = self.times[start:stop]
        out = np.empty((len(wanted), len(self.channels), *self.grid.shape), dtype=np.float32)
        for c, channel in enumerate(self.channels):
            for piece in self.pieces[channel.name]:
                low, high = np.searchsorted(piece.times, [wanted[0], wanted[-1] + 1])
                there = np.isin(piece.times[low:high], wanted)
                if there.any():
                    values = piece.read(int(low), int(high), channel.level)
                    out[np.searchsorted(wanted, piece.times[low:high][there]), c] = values[there]
        return out

    @property
    def block(self) -> int:
        """Times to read at once."""
        return max(1, BLOCK // (len(self.channels) * math.prod(self.grid.shape)))


def opened(path: Path, variables: Sequence[str] | None = None, levels: Sequence[float] | None = None) -> Source:
    """What a folder or file holds. Raises DataError for what does not fit together, Wrong for a variable or level that is not
    there."""
    found: dict[str, list[Piece]] = {}
    still: dict[str, Piece] = {}
    left: list[str] = []
    files = sources(path)
    first: tuple[Path, Grid] | None = None
    for file in files:
        every = arrays(file)
        names = {axis: raw for raw in every.values() if (axis := axis_of(raw.name)) and len(raw.shape) <= 2}
        for raw in every.values():
            if axis_of(raw.name) or (variables is not None and raw.name not in variables):
                continue
            axes = tuple(axis_of(axis) for axis in raw.axes)
            if not {"latitude", "longitude"} <= set(axes):
                left.append(f"{raw.name} ({', '.join(raw.axes)})" + _unlike(raw, names))
                continue
            piece = _piece(raw, axes, names)
            if first is None:
                first = file, piece.grid
            elif not piece.grid.same(first[1]):
                raise DataError(
                    f"{raw.place}: has another grid ({piece.grid.words()}) than {shown(first[0])} ({first[1].words()}); bring "
                    "both to one, as by `cdo remapbil`, or choose with --variables"
                )
            if "time" in axes:
                found.setdefault(raw.name, []).append(piece)
            else:
                still[raw.name] = piece
    if first is None or not found:
        raise _nothing(path, variables, left)
    missing = [name for name in variables or () if name not in found and name not in still]
    if missing:
        raise Wrong(f"variables: there is no {missing[0]!r} in {shown(path)}; there is {', '.join((*found, *still))}")
    pieces = {name: tuple(sorted(parts, key=lambda piece: piece.times[0])) for name, parts in found.items()}
    for parts in pieces.values():
        _joined(parts)
    channels = tuple(channel for name in (variables or sorted(pieces)) if name in pieces
                     for channel in _channels(pieces[name], levels))  # fmt: skip
    maps = {name: piece.read(0, 1, None)[0] for name, piece in sorted(still.items())}
    if bad := [name for name, values in maps.items() if not np.isfinite(values).all()]:
        raise DataError(f"{still[bad[0]].raw.place}: has gaps, and a map without time must have none; fill them")
    return Source(path, first[1], channels, _common(pieces, path), maps, tuple(left), pieces)


def _unlike(raw: Raw, names: dict[str, Raw]) -> str:
    """What a variable that is not on our kind of grid is on instead, where its coordinates say so."""
    places = [names[axis] for axis in ("latitude", "longitude") if axis in names]
    if len(places) < 2 or not all(set(place.axes) <= set(raw.axes) for place in places):
        return ""
    kind = "a curved or projected grid" if len(places[0].shape) == 2 else "a reduced grid, or scattered points"
    return f", on {kind}: bring it to a regular one, as by `cdo remapbil`"


def _nothing(path: Path, variables: Sequence[str] | None, left: Sequence[str]) -> DataError:
    there = f"; there is {', '.join(left[:6])}" if left else ""
    named = f" called {', '.join(variables)}" if variables else ""
    return DataError(f"{shown(path)}: has no variable{named} with the axes {SPOKEN}{there}")


def _piece(raw: Raw, axes: tuple[str | None, ...], names: dict[str, Raw]) -> Piece:
    """An array with its coordinates. Raises DataError."""
    for axis, name, size in zip(axes, raw.axes, raw.shape):
        if axis is None and size > 1:
            raise DataError(f"{raw.place}: has the axis {name} of {size}; expected {SPOKEN}: take one of it apart, or leave it "
                            "out with --variables")  # fmt: skip
        if axis is not None and axis not in names:
            raise DataError(f"{raw.place}: nothing says where its {axis} is; expected a coordinate called {name}")
        if axis is not None and names[axis].shape[0] != size:
            raise DataError(f"{raw.place}: has {size} along {name}, and its coordinate {names[axis].shape[0]}")
    raw.whole()
    levels: tuple[float, ...] = ()
    if "level" in axes:
        scale = 0.01 if names["level"].word("units").lower() in ("pa", "pascal") else 1.0
        levels = tuple(float(value) for value in names["level"].values((slice(None),)) * scale)
    times = times_of(names["time"]) if "time" in axes else np.zeros(1, dtype=np.int64)
    if len(times) == 0:
        raise DataError(f"{raw.place}: holds no time at all")
    step = np.diff(times)
    if (step <= 0).any():
        at = int(np.flatnonzero(step <= 0)[0])
        what = "comes twice" if step[at] == 0 else "comes before the one before it"
        raise DataError(f"{raw.place}: the time {said(times[at + 1])} {what}; sort the times and keep each once")
    return Piece(raw, axes, times, levels, Grid.of(names["latitude"], names["longitude"]))


def _joined(parts: tuple[Piece, ...]) -> None:
    """Complain where the pieces of a variable do not follow each other, or do not mean the same."""
    for a, b in pairwise(parts):
        if b.times[0] <= a.times[-1]:
            raise DataError(f"{b.raw.place}: begins at {said(b.times[0])}, where {a.raw.place} has not ended "
                            f"({said(a.times[-1])}); keep each time once")  # fmt: skip
        if a.raw.word("units") != b.raw.word("units"):
            raise DataError(f"{b.raw.place}: is in {b.raw.word('units')!r}, and {a.raw.place} in {a.raw.word('units')!r}; "
                            "bring both to one unit")  # fmt: skip
        if a.levels != b.levels:
            raise DataError(f"{b.raw.place}: has other levels than {a.raw.place}; keep those that both have")


def _channels(parts: tuple[Piece, ...], levels: Sequence[float] | None) -> list[Channel]:
    raw, there = parts[0].raw, parts[0].levels
    told = raw.word("units"), raw.word("long_name"), raw.word("standard_name")
    if not there:
        return [Channel(raw.name, None, *told)]
    wanted = there if levels is None else tuple(levels)
    if missing := [level for level in wanted if level not in there]:
        raise Wrong(f"levels: {raw.place} has no level {missing[0]:g}; there are {', '.join(f'{x:g}' for x in there)}")
    return [Channel(raw.name, level, *told) for level in wanted]


def _common(pieces: dict[str, tuple[Piece, ...]], path: Path) -> np.ndarray:
    """The times that every variable has. Raises DataError where there are none."""
    own = {name: np.concatenate([piece.times for piece in parts]) for name, parts in pieces.items()}
    names = list(own)
    common = own[names[0]]
    for name in names[1:]:
        both = np.intersect1d(common, own[name], assume_unique=True)
        if not len(both):
            raise DataError(
                f"{shown(path)}: {name} ({said(own[name][0])}, {said(own[name][-1])}) and {names[0]} "
                f"({said(own[names[0]][0])}, {said(own[names[0]][-1])}) have no time in common; choose with --variables"
            )
        common = both
    return common
