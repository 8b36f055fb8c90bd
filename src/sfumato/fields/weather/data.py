"""Fields made ready in a run: cache/fields.npy, float32 (time, channel, row, column) in the units of the input, once for all.

    raw fields --standard--> frames (mean 0, spread 1, 0 where there is no value) --Windows--> {"x", "state", "clock", "weight"}

What is learned is the change over one step, divided by the spread of that change in the times learned from (Price et al. 2023,
GenCast, arXiv 2312.15796, learn the next state as such a normalised residual).
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.arrays import kept_array, kept_arrays
from sfumato.data.writing import appearing
from sfumato.errors import DataError, Wrong, shown
from sfumato.fields.weather.facts import WeatherFacts
from sfumato.fields.weather.grid import clock, moment, said
from sfumato.fields.weather.mean import Mean, fitted
from sfumato.fields.weather.source import Source, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sfumato.training.run import Run

REMEDY = "train again from the fields"
GRAVITY = 9.80665


@dataclass(frozen=True)
class Wanted:
    """What is asked of the data: the options of the recipe that bear on it."""

    variables: tuple[str, ...] | None
    levels: tuple[float, ...] | None
    step: float | None
    until: str | None
    held_until: str | None
    held_out: float
    mean: str = "none"


def places(times: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Where these moments stand among rising times, -1 where they do not: (N,) int64."""
    at = np.searchsorted(times, seconds).clip(max=len(times) - 1)
    return np.where(times[at] == seconds, at, -1)


def step_of(times: np.ndarray, hours: float | None, where: str) -> tuple[int, int]:
    """The step in seconds, the usual one of the data unless given in hours, and how many steps in the data are longer than their
    usual one. Raises DataError, Wrong."""
    if len(times) < 2:
        raise DataError(f"{where}: holds one time; expected two steps and more")
    steps = Counter(np.diff(times).tolist())
    usual = steps.most_common(1)[0][0]
    gaps = sum(count for step, count in steps.items() if step > usual)
    if hours is None:
        return usual, gaps
    step = round(hours * 3600)
    if step < usual or step % usual:
        raise Wrong(f"step = {hours:g}: must be a multiple of the {usual / 3600:g} h between the times of {where}")
    return step, gaps


def prepare(run: Run, source: Path, wanted: Wanted, tell: Callable[[str], None]) -> WeatherFacts:
    """Fields into the run. Raises DataError, Wrong."""
    found = opened(source, wanted.variables, wanted.levels)
    where, times = shown(source), found.times
    step, gaps = step_of(times, wanted.step, where)
    until, held_until = _parts(times, wanted)
    hidden = _gather(run, found, tell)
    frames = kept_array(run.cache / "fields.npy", REMEDY)
    facts = _facts(found, frames, times, hidden, step=step, until=until, held_until=held_until, gaps=gaps)
    for channel, mean, high in zip(found.channels, facts.mean, facts.high):
        _doubt(found, channel.name, channel.level, channel.units, mean, high)
    maps = (
        np.stack([_standard_map(each) for each in found.maps.values()])
        if found.maps
        else np.zeros((0, *found.grid.shape))
    )
    np.savez(run.cache / "beside.npz", times=times, hidden=hidden, maps=maps.astype(np.float32))
    store = Store(facts, frames, times, hidden, maps)
    learned, held = store.windows(facts.first, until), store.windows(until, held_until)
    for part, name in ((learned, "learn from"), (held, "hold out")):
        if not len(part):
            raise DataError(
                f"{where}: no three times in a row, {step / 3600:g} h apart, are left to {name} "
                f"({said(times[0])} to {said(times[-1])}, cut at {said(until)}); give another --until, --step or more data"
            )
    if gaps:
        at = int(np.flatnonzero(np.diff(times) > np.median(np.diff(times)))[0])
        tell(
            f"gap       after {said(times[at])}, {gaps} in all: no step across one is learned from, {len(learned):,} are "
            f"left, and "
            f"{len(held):,} held out"
        )
    facts = replace(facts, count=len(learned), held=len(held))
    if wanted.mean != "none":
        facts = replace(facts, residual=fitted(run, learned, wanted.mean))
    facts.write(run)
    return facts


def _parts(times: np.ndarray, wanted: Wanted) -> tuple[int, int]:
    """Before which time is learned, and before which held out. Raises Wrong."""
    cut = times[min(len(times) - 1, round(len(times) * (1 - wanted.held_out)))]
    until = int(cut) if wanted.until is None else moment("until", wanted.until)
    end = int(times[-1]) + 1 if wanted.held_until is None else moment("held_until", wanted.held_until)
    if not times[0] < until <= times[-1]:
        raise Wrong(f"until = {wanted.until!r}: must lie within the data, {said(times[0])} to {said(times[-1])}")
    if end <= until:
        raise Wrong(f"held_until = {wanted.held_until!r}: must be after {said(until)}, until when is learned")
    return until, end


def _gather(run: Run, found: Source, tell: Callable[[str], None]) -> np.ndarray:
    """All fields into cache/fields.npy, block by block; where there is no value, (C, rows, columns) bool. Raises DataError for
    values that are missing now and then."""
    from sfumato.training.progress import Watch

    shape = (len(found.times), len(found.channels), *found.grid.shape)
    size, free = 4 * int(np.prod(shape, dtype=np.float64)), shutil.disk_usage(run.cache).free
    if size > 0.9 * free:
        raise DataError(
            f"{shown(found.path)}: takes {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free in {shown(run.path)}; choose with "
            "--variables and --levels, or give another --out"
        )
    hidden: np.ndarray | None = None
    with Watch("read fields", shape[0], unit="times") as watch, appearing(run.cache / "fields.npy") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for start in range(0, shape[0], found.block):
            values = found.read(start, start + found.block)
            gone = ~np.isfinite(values)
            hidden = gone[0] if hidden is None else hidden
            odd = (gone != hidden).reshape(*gone.shape[:2], -1).sum(2)
            if odd.any():
                at, c = (int(i) for i in np.argwhere(odd)[0])
                raise DataError(
                    f"{shown(found.path)}: {found.channels[c].label} at {said(found.times[start + at])} lacks {odd[at, c]} "
                    "value(s) that are there at the first time, or the other way round; fill them, leave the variable out with "
                    "--variables, or take the time out"
                )
            file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
            watch.show(min(start + found.block, shape[0]))
    assert hidden is not None
    if empty := [channel.label for channel, gone in zip(found.channels, hidden) if gone.all()]:
        raise DataError(f"{shown(found.path)}: {empty[0]} holds no value at all; leave it out with --variables")
    return hidden


def _facts(
    found: Source, frames: np.ndarray, times: np.ndarray, hidden: np.ndarray, *, step: int, until: int, held_until: int,
    gaps: int,
) -> WeatherFacts:  # fmt: skip
    """Means and spreads of the times learned from, in float64, in one pass. Raises DataError for a field that never changes."""
    here = np.flatnonzero(times < until)
    next_ = places(times[: len(here)], times[here] + step)
    there = ~hidden
    base = np.array([frames[0, c][there[c]].mean(dtype=np.float64) for c in range(len(hidden))])
    sums, changes = np.zeros((2, len(base))), np.zeros((2, len(base)))
    low, high = np.full(len(base), np.inf), np.full(len(base), -np.inf)
    cells, pairs = there.reshape(len(base), -1).sum(1), 0
    for start in range(0, len(here), found.block):
        own = slice(start, min(start + found.block, len(here)))
        values, after = np.asarray(frames[own]), next_[own]
        moved = np.asarray(frames[after[after >= 0]]) - values[after >= 0]
        pairs += len(moved)
        for c in range(len(base)):
            off, turn = values[:, c, there[c]] - base[c], moved[:, c, there[c]].astype(np.float64)
            sums[:, c] += off.sum(), np.square(off).sum()
            changes[:, c] += turn.sum(), np.square(turn).sum()
            low[c], high[c] = min(low[c], off.min() + base[c]), max(high[c], off.max() + base[c])
    if not pairs:
        raise DataError(
            f"{shown(found.path)}: no two times before {said(until)} are {step / 3600:g} h apart; give another --step"
        )
    mean = sums[0] / (len(here) * cells)
    spread = np.sqrt(np.maximum(sums[1] / (len(here) * cells) - mean**2, 0))
    change = np.sqrt(np.maximum(changes[1] / (pairs * cells) - (changes[0] / (pairs * cells)) ** 2, 0))
    if still := [
        channel.label for channel, s, d in zip(found.channels, spread, change) if not (s > 0 and d > 1e-6 * s)
    ]:
        raise DataError(f"{shown(found.path)}: {still[0]} does not change with time; leave it out with --variables")
    told = found.channels
    return WeatherFacts(
        tuple(c.name for c in told), tuple(c.level for c in told), tuple(c.units for c in told),
        tuple(c.long_name for c in told), tuple(c.standard_name for c in told), tuple((mean + base).tolist()),
        tuple(spread.tolist()), tuple(change.tolist()), tuple(low.tolist()), tuple(high.tolist()), found.grid.north,
        found.grid.east, tuple(found.maps), float(hidden.mean()),
        tuple(channel.label for channel, gone in zip(told, hidden) if gone.any()), step, int(times[0]), until, held_until,
        0, 0, gaps,
    )  # fmt: skip


def _doubt(found: Source, name: str, level: float | None, units: str, mean: float, high: float) -> None:
    """Complain of values that cannot be in the unit that they claim."""
    raw = found.pieces[name][0].raw
    plain = units.replace("**", "").replace("^", "").replace(" ", "").lower()
    if name in ("z", "geopotential") and level is not None and plain in ("m2s-2", "m2/s2"):
        height = 44330 * (1 - (level / 1013.25) ** 0.1903)  # the standard atmosphere
        if height > 500 and mean < 0.3 * GRAVITY * height:
            raise DataError(f"{raw.place}: says {units}, and its mean of {mean:g} at {level:g} hPa is a height in metres; set "
                            "its units to m, or multiply by 9.80665")  # fmt: skip
    if name == "tp" or name.startswith("total_precipitation"):
        if plain in ("mm", "kgm-2", "kg/m2") and high < 0.6:
            raise DataError(f"{raw.place}: says {units}, and the most of it is {high:g}, as in metres; set its units to m, or "
                            "multiply by 1000")  # fmt: skip
        if plain == "m" and high > 3:
            raise DataError(f"{raw.place}: says {units}, and the most of it is {high:g}, as in mm; set its units to mm, or "
                            "divide by 1000")  # fmt: skip
    if plain == "k" and mean < 120:
        raise DataError(
            f"{raw.place}: says {units}, and its mean is {mean:g}, as in degrees Celsius; set its units, or add 273.15"
        )


def _standard_map(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


@dataclass(frozen=True, eq=False)
class Store:
    """The prepared fields of a run: frames (T, C, rows, columns) in the units of the input, on disk."""

    facts: WeatherFacts
    frames: np.ndarray
    times: np.ndarray
    hidden: np.ndarray
    maps: np.ndarray
    mean: Mean | None = None
    """What a regression says of a step, where a run learns what it leaves."""
    folder: Path | None = None
    """The cache of the run that it is of."""
    others: tuple[Any, ...] = ()
    """Networks that members are drawn from in turn, beside that of the run: :class:`~sfumato.fields.weather.several.Other`."""

    @classmethod
    def of(cls, run: Run, facts: WeatherFacts) -> Store:
        """From a run. Raises DataError."""
        kept = kept_arrays(run.cache / "beside.npz", REMEDY)
        frames = kept_array(run.cache / "fields.npy", REMEDY)
        shape = (len(facts.names), len(facts.north), len(facts.east))
        if any(name not in kept for name in ("times", "hidden", "maps")) or frames.shape != (
            len(kept["times"]),
            *shape,
        ):
            raise DataError(f"{shown(run.cache)}: is not what data.json tells of; {REMEDY}")
        mean = Mean.of(run, facts) if facts.residual else None
        return cls(facts, frames, kept["times"], kept["hidden"].astype(bool), kept["maps"], mean, run.cache)

    def standard(self, at: np.ndarray) -> np.ndarray:
        """The fields at these places in time in standard units, (N, C, rows, columns) float32."""
        values = np.asarray(self.frames[at], dtype=np.float32)
        return np.where(self.hidden, 0, (values - _tall(self.facts.mean)) / _tall(self.facts.spread)).astype(np.float32)

    def restored(self, values: Any) -> np.ndarray:
        """Fields (..., C, rows, columns) in standard units -> in those of the input, NaN where there is no value."""
        found = np.asarray(values, dtype=np.float32) * _tall(self.facts.spread) + _tall(self.facts.mean)
        return np.where(self.hidden, np.nan, found).astype(np.float32)

    @cached_property
    def area(self) -> np.ndarray:
        """The weight of each number, (C, rows, columns) float32: the cosine of its latitude, of mean 1, and 0 where there is
        no value."""
        cosine = np.cos(np.deg2rad(self.facts.grid.latitude)).clip(min=0)
        return np.where(self.hidden, 0, (cosine / cosine.mean())[None, :, None]).astype(np.float32)

    def windows(self, since: int, before: int) -> Windows:
        """Steps of which all three times lie in a span."""
        step = self.facts.step
        own = np.flatnonzero((self.times >= since) & (self.times < before))
        told = [places(self.times, self.times[own] + k * step) for k in (-1, 1)]
        fits = (told[0] >= 0) & (told[1] >= 0)
        fits &= (self.times[told[0]] >= since) & (self.times[told[1]] < before)
        return Windows(self, own[fits])

    def starts(self, since: int, before: int, leads: int) -> np.ndarray:
        """The places of times to forecast from whose truth, ``leads`` steps on, lies in a span, as they do themselves."""
        step, own = self.facts.step, np.flatnonzero((self.times >= since) & (self.times < before))
        every = np.stack([places(self.times, self.times[own] + k * step) for k in range(-1, leads + 1)])
        return own[(every >= 0).all(0) & (self.times[every[-1]] < before)]


@dataclass(frozen=True, eq=False)
class Windows:
    """Steps as items: from the frames at a time and one step before it to the change over the next step."""

    store: Store
    at: np.ndarray
    buckets: None = None

    def __len__(self) -> int:
        return len(self.at)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """{"x" (C, rows, columns), "state" (2 C, rows, columns), "clock" (4,), "weight" (C, rows, columns)} of each."""
        store, facts = self.store, self.store.facts
        now = self.at[np.asarray(indices)]
        before, after = (places(store.times, store.times[now] + k * facts.step) for k in (-1, 1))
        moved = np.asarray(store.frames[after]) - np.asarray(store.frames[now])
        x = np.where(store.hidden, 0, moved / _tall(facts.change)).astype(np.float32)
        state = np.concatenate((store.standard(now), store.standard(before)), 1)
        told = clock(store.times[after])
        if store.mean is not None:
            x = store.mean.left(x, store.times[now], state, told)
        weight = np.broadcast_to(store.area, x.shape).copy()
        return {"x": x, "state": state, "clock": told, "weight": weight}

    def name(self, index: int) -> str:
        return said(self.store.times[self.at[index]])


def _tall(values: Any) -> np.ndarray:
    """One number a channel, to stand against fields."""
    return np.asarray(values, dtype=np.float32)[:, None, None]
