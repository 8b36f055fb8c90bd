"""Forecasts as CF NetCDF: dimensions (init_time, member, lead_time[, level], latitude, longitude), names, units, grid and
orientation those of the input. Each member is written as it comes, so a large forecast need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import DataError, needed
from sfumato.fields.weather.facts import WeatherFacts
from sfumato.fields.weather.files import EXTRA
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
    h5netcdf = needed("h5netcdf", EXTRA)
    made = iter(things)
    first = next(made)  # says how many steps there are
    try:
        with h5netcdf.File(path, "w") as file:
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


def _laid_out(
    file: Any, facts: WeatherFacts, starts: list[int], members: list[int], leads: int, making: Making
) -> dict[str, Any]:
    """Dimensions, coordinates and empty variables, by name."""
    sizes = {"init_time": len(starts), "member": len(members), "lead_time": leads, "latitude": len(facts.north),
             "longitude": len(facts.east)}  # fmt: skip
    levels: dict[tuple[float, ...], str] = {}
    for own in _by_name(facts).values():
        if here := _levels(facts, own):
            levels.setdefault(here, f"level_{len(levels) + 1}" if levels else "level")
    file.dimensions = sizes | {name: len(values) for values, name in levels.items()}
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
        _described(file.create_variable(name, axes, data=values), attributes)
    found = {}
    for name, own in _by_name(facts).items():
        channel, here = facts.channels[own[0]], _levels(facts, own)
        axes = ("init_time", "member", "lead_time", *((levels[here],) if here else ()), "latitude", "longitude")
        chunk = (1, 1, 1, *((len(here),) if here else ()), len(facts.north), len(facts.east))
        made = file.create_variable(name, axes, "f4", fillvalue=np.float32(np.nan), chunks=chunk)
        _described(made, {"units": channel.units, "long_name": channel.long_name, "standard_name": channel.standard_name,
                          "coordinates": "valid_time"})  # fmt: skip
        found[name] = made
    _described(file, {"Conventions": "CF-1.11", "title": "ensemble forecast", "source": "sfumato", KEY: making.text()})
    return found


def _described(thing: Any, attributes: dict[str, str]) -> None:
    for name, value in attributes.items():
        if value:
            thing.attrs[name] = value
