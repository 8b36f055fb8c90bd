"""Forecasts as CF NetCDF or zarr: dimensions (init_time, member, lead_time[, level], latitude, longitude), names, units, grid and
orientation those of the input. Each member is written as it comes, so a large forecast need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sfumato.errors import DataError, needed
from sfumato.fields.weather.facts import WeatherFacts
from sfumato.fields.weather.files import EXTRA, arrays
from sfumato.jobs.making import KEY, Making


@dataclass(frozen=True, eq=False)
class Forecast:
    """A sample: one member's fields (leads, C, rows, columns) in the units of the input and our order, NaN where there is no
    value; its start (seconds since 1970) and number."""

    facts: WeatherFacts
    values: np.ndarray
    start: int
    member: int


def write(
    facts: WeatherFacts, things: Iterable[Forecast], starts: list[int], members: list[int], path: Path, making: Making
) -> Path:
    """Forecasts into one file, that has a place for each of these starts and members. Raises DataError."""
    made = iter(things)
    first = next(made)  # says how many steps there are
    try:
        with sink(path) as file:
            variables = _laid_out(file, facts, starts, members, len(first.values), making)
            for thing in chain((first,), made):
                values = facts.grid.theirs(thing.values)
                i, m = starts.index(thing.start), members.index(thing.member)
                for name, own in _by_name(facts).items():
                    variables[name][i, m] = values[:, own if _levels(facts, own) else own[0]]
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _by_name(facts: WeatherFacts) -> dict[str, list[int]]:
    """The places of the channels of each variable."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(facts.names):
        found.setdefault(name, []).append(place)
    return found


def _levels(facts: WeatherFacts, own: list[int]) -> tuple[float, ...]:
    """Those of a variable, () for one without."""
    return tuple(level for c in own if (level := facts.levels[c]) is not None)


def read(facts: WeatherFacts, path: Path) -> list[Forecast]:
    """The forecasts from the first start in a file of ours. Raises DataError."""
    every = arrays(path)
    names = _by_name(facts)
    if missing := [name for name in ("init_time", "member", "lead_time", *names) if name not in every]:
        raise DataError(f"{path}: holds no {missing[0]}; expected a forecast of this run")
    start, members = (
        int(every["init_time"].values((slice(0, 1),))[0]),
        every["member"].values((slice(None),)).astype(int),
    )
    found = []
    for m, member in enumerate(members.tolist()):
        values = np.empty((*every["lead_time"].shape, len(facts.names), *facts.grid.shape), dtype=np.float32)
        for name, own in names.items():
            raw = every[name]
            stored = raw.values((slice(0, 1), slice(m, m + 1), *[slice(None)] * (len(raw.shape) - 2)))[0, 0]
            values[:, own] = facts.grid.ours(stored if _levels(facts, own) else stored[:, None])
        found.append(Forecast(facts, values, start, member))
    return found


class Sink(Protocol):
    """A file that is written to."""

    def sized(self, sizes: dict[str, int]) -> None:
        """Say how long each dimension is."""

    def put(self, name: str, axes: tuple[str, ...], values: np.ndarray, attributes: dict[str, str]) -> None:
        """A coordinate."""

    def empty(self, name: str, axes: tuple[str, ...], chunk: tuple[int, ...], attributes: dict[str, str]) -> Any:
        """A variable of float32, NaN until it is written."""

    def described(self, attributes: dict[str, str]) -> None:
        """Attributes of the whole."""


def _said(attributes: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}


@dataclass(frozen=True, eq=False)
class NetCDF:
    """A :class:`Sink` of a NetCDF-4 file."""

    file: Any

    def sized(self, sizes: dict[str, int]) -> None:
        self.file.dimensions = sizes

    def put(self, name: str, axes: tuple[str, ...], values: np.ndarray, attributes: dict[str, str]) -> None:
        self.file.create_variable(name, axes, data=values).attrs.update(_said(attributes))

    def empty(self, name: str, axes: tuple[str, ...], chunk: tuple[int, ...], attributes: dict[str, str]) -> Any:
        made = self.file.create_variable(name, axes, "f4", fillvalue=np.float32(np.nan), chunks=chunk)
        made.attrs.update(_said(attributes))
        return made

    def described(self, attributes: dict[str, str]) -> None:
        self.file.attrs.update(_said(attributes))


@dataclass(frozen=True, eq=False)
class Zarr:
    """A :class:`Sink` of a zarr store of format 2, which every reader of zarr opens; a chunk a member and lead."""

    group: Any
    sizes: dict[str, int]

    def sized(self, sizes: dict[str, int]) -> None:
        self.sizes.update(sizes)

    def put(self, name: str, axes: tuple[str, ...], values: np.ndarray, attributes: dict[str, str]) -> None:
        made = self.group.create_array(name, data=values, config={"write_empty_chunks": True})
        made.attrs.update({"_ARRAY_DIMENSIONS": list(axes), **_said(attributes)})

    def empty(self, name: str, axes: tuple[str, ...], chunk: tuple[int, ...], attributes: dict[str, str]) -> Any:
        shape = tuple(self.sizes[axis] for axis in axes)
        made = self.group.create_array(
            name, shape=shape, chunks=chunk, dtype="f4", fill_value=np.nan, config={"write_empty_chunks": True}
        )
        made.attrs.update({"_ARRAY_DIMENSIONS": list(axes), **_said(attributes)})
        return made

    def described(self, attributes: dict[str, str]) -> None:
        self.group.attrs.update(_said(attributes))


def sink(path: Path) -> AbstractContextManager[Sink]:
    """A file to write to, of the kind that its suffix says."""
    return zarr_store(path) if path.suffix == ".zarr" else netcdf(path)


@contextmanager
def netcdf(path: Path) -> Iterator[Sink]:
    """A NetCDF-4 file to write to."""
    with needed("h5netcdf", EXTRA).File(path, "w") as file:
        yield NetCDF(file)


@contextmanager
def zarr_store(path: Path) -> Iterator[Sink]:
    """A zarr store, a folder, to write to; its metadata stand in one file too, when it is whole."""
    zarr = needed("zarr", EXTRA)
    group = zarr.open_group(path, mode="w-", zarr_format=2)
    yield Zarr(group, {})
    zarr.consolidate_metadata(path, zarr_format=2)


def _laid_out(
    file: Sink, facts: WeatherFacts, starts: list[int], members: list[int], leads: int, making: Making
) -> dict[str, Any]:
    """Dimensions, coordinates and empty variables, by name."""
    sizes = {"init_time": len(starts), "member": len(members), "lead_time": leads, "latitude": len(facts.north),
             "longitude": len(facts.east)}  # fmt: skip
    levels: dict[tuple[float, ...], str] = {}
    for own in _by_name(facts).values():
        if here := _levels(facts, own):
            levels.setdefault(here, f"level_{len(levels) + 1}" if levels else "level")
    file.sized(sizes | {name: len(values) for values, name in levels.items()})
    begin, step = np.array(starts, dtype=np.int64), facts.step * np.arange(1, leads + 1, dtype=np.int64)
    since = {"units": "seconds since 1970-01-01 00:00:00", "calendar": "proleptic_gregorian"}
    told: list[tuple[str, tuple[str, ...], np.ndarray, dict[str, str]]] = [
        ("init_time", ("init_time",), begin, {"standard_name": "forecast_reference_time", **since}),
        ("member", ("member",), np.array(members, dtype=np.int32), {"standard_name": "realization", "units": "1"}),
        ("lead_time", ("lead_time",), step / 3600, {"standard_name": "forecast_period", "units": "hours"}),
        ("valid_time", ("init_time", "lead_time"), begin[:, None] + step, {"standard_name": "time", **since}),
        ("latitude", ("latitude",), np.array(facts.north), {"standard_name": "latitude", "units": "degrees_north"}),
        ("longitude", ("longitude",), np.array(facts.east), {"standard_name": "longitude", "units": "degrees_east"}),
        *((name, (name,), np.array(values), {"standard_name": "air_pressure", "units": "hPa", "positive": "down"})
          for values, name in levels.items()),
    ]  # fmt: skip
    for name, axes, values, attributes in told:
        file.put(name, axes, values, attributes)
    found = {}
    for name, own in _by_name(facts).items():
        channel, here = facts.channels[own[0]], _levels(facts, own)
        axes = ("init_time", "member", "lead_time", *((levels[here],) if here else ()), "latitude", "longitude")
        chunk = (1, 1, 1, *((len(here),) if here else ()), len(facts.north), len(facts.east))
        about = {"units": channel.units, "long_name": channel.long_name, "standard_name": channel.standard_name}
        found[name] = file.empty(name, axes, chunk, {**about, "coordinates": "valid_time"})
    file.described({"Conventions": "CF-1.11", "title": "ensemble forecast", "source": "sfumato", KEY: making.text()})
    return found
