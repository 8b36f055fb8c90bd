"""The second task, downscaling: fine fields with exact zeros (rain), to be drawn for coarse ones of the same day.

A fine field lies on any cells, evenly spaced or not; of those that have a value each is a number. Of a day

    wet     int64 (cells,), 1 where the amount is above 0
    amount  float32 (cells,), ln(1 + mm) about the mean of the wet, in their spread; it weighs nothing where it is dry
    coarse  float32 (K,), the leading principal components of three coarse frames: a step before, the day's own, a step after
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.arrays import kept_arrays
from sfumato.errors import DataError, shown
from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.facts import WeatherFacts
from sfumato.fields.weather.files import Raw, arrays
from sfumato.fields.weather.grid import axis_of, clock, said, times_of

if TYPE_CHECKING:
    from pathlib import Path

    from sfumato.training.run import Run

FILE, REMEDY = "fine.npz", "train again from the fields"
COMPONENTS = 40
"""Principal components of the coarse frames at most."""
MILLIMETRES = {"mm": 1.0, "mm/day": 1.0, "mmday-1": 1.0, "kgm-2": 1.0, "m": 1000.0, "cm": 10.0, "": 1.0}


@dataclass(frozen=True, eq=False)
class Read:
    """A fine variable as it stands in its file: axes and coordinates beside time, values (T, cells) in mm of the cells that have
    any, and where these stand."""

    raw: Raw
    axes: tuple[str, ...]
    coordinates: tuple[np.ndarray, ...]
    times: np.ndarray
    values: np.ndarray
    where: np.ndarray


def read(file: Path) -> Read:
    """The one variable of time and other axes in a file, rain in mm or m. Raises DataError."""
    every = arrays(file)
    timed = [
        raw for raw in every.values() if len(raw.axes) >= 2 and [axis_of(axis) for axis in raw.axes].count("time") == 1
    ]
    if len(timed) != 1:
        found = ", ".join(raw.name for raw in timed) or "none"
        raise DataError(
            f"{shown(file)}: holds {found} with time and other axes; expected one variable to be drawn: leave others out"
        )
    (raw,) = timed
    at = [axis_of(axis) for axis in raw.axes].index("time")
    when = [other for other in every.values() if axis_of(other.name) == "time" and other.axes == (raw.axes[at],)]
    if not when:
        raise DataError(f"{raw.place}: nothing says what its times are; expected a coordinate called {raw.axes[at]}")
    times = times_of(when[0])
    if (np.diff(times) <= 0).any():
        raise DataError(f"{raw.place}: its times do not rise throughout; sort them and keep each once")
    unit = raw.word("units").replace("**", "").replace("^", "").replace(" ", "").lower()
    if unit not in MILLIMETRES:
        raise DataError(f"{raw.place}: is in {raw.word('units')!r}; expected rain in mm or m: set its units")
    axes = tuple(axis for axis in raw.axes if axis_of(axis) != "time")
    values = np.moveaxis(raw.values((slice(None),) * len(raw.shape)), at, 0).reshape(len(times), -1) * MILLIMETRES[unit]
    where = np.flatnonzero(np.isfinite(values[0]))
    holes = ~np.isfinite(values[:, where])
    if not len(where) or holes.any():
        day = int(np.argwhere(holes)[0][0]) if holes.any() else 0
        raise DataError(f"{raw.place}: lacks values at {said(times[day])} that are there at the first time; fill them, or "
                        "take the "
                        "time out")  # fmt: skip
    if (values[:, where] < 0).any():
        raise DataError(f"{raw.place}: holds {values[:, where].min():g}, below 0; expected amounts, 0 or more")
    sizes = [raw.shape[raw.axes.index(axis)] for axis in axes]
    known = {other.name: other for other in every.values() if len(other.axes) == 1}
    coordinates = tuple(
        known[axis].values((slice(None),)) if axis in known else np.arange(size) for axis, size in zip(axes, sizes)
    )
    return Read(raw, axes, coordinates, times, values[:, where].astype(np.float32), where)


def prepare(run: Run, file: Path, store: Store, tell: Callable[[str], None]) -> WeatherFacts:
    """A fine variable into the run, beside its coarse fields; the facts with what is known of it. Raises DataError."""
    import dataclasses

    found, facts = read(file), store.facts
    # what is stamped with the beginning of a day belongs to the coarse frame of that day
    at = np.searchsorted(store.times, found.times)
    fits = (at < len(store.times)) & (store.times[at.clip(max=len(store.times) - 1)] < found.times + facts.step)
    at, values = at[fits], found.values[fits]
    near = np.stack([places(store.times, store.times[at] + k * facts.step) for k in (-1, 0, 1)])
    whole = (near >= 0).all(0)
    at, values, near = at[whole], values[whole], near[:, whole]
    learned = store.times[at] < facts.until
    held = ~learned & (store.times[at] < facts.held_until)
    if learned.sum() < 2 or not held.any():
        raise DataError(f"{found.raw.place}: {learned.sum()} of its times fall on coarse ones to learn from, and "
                        f"{held.sum()} held out; "
                        "give a file of the same days, or another --until")  # fmt: skip
    wet = np.log1p(values[learned][values[learned] > 0])
    if not len(wet) or wet.std() == 0:
        raise DataError(f"{found.raw.place}: is the same wherever it is above 0; expected amounts of rain")
    tall = frames(store, near)
    centre = tall[learned].mean(0)
    _, sizes, right = np.linalg.svd(tall[learned] - centre, full_matrices=False)
    count = min(COMPONENTS, int((sizes > 1e-6 * sizes[0]).sum()))
    basis = (right[:count].T / (sizes[:count] / np.sqrt(learned.sum()))).astype(np.float32)
    kept: dict[str, Any] = {
        f"axis{place}": np.asarray(own, dtype=np.float64) for place, own in enumerate(found.coordinates)
    }
    np.savez(run.cache / FILE, values=values, at=at, where=found.where, centre=centre, basis=basis, **kept)
    tell(
        f"fine      {found.raw.name}, {values.shape[1]:,} cells with values, {100 * (values == 0).mean():.1f} % of them exactly 0"
    )
    facts = dataclasses.replace(
        facts, count=int(learned.sum()), held=int(held.sum()), fine=found.raw.name, fine_axes=found.axes,
        fine_cells=values.shape[1], fine_coarse=count,
        fine_shape=tuple(len(own) for own in found.coordinates), fine_mean=float(wet.mean()), fine_spread=float(wet.std()),
    )  # fmt: skip
    facts.write(run)
    return facts


def frames(store: Store, near: np.ndarray) -> np.ndarray:
    """Coarse frames at places (3, n), each cell's weighted by the root of its area: (n, 3 C rows columns) float32."""
    root = np.sqrt(store.area)
    return np.concatenate([(store.standard(at) * root).reshape(len(at), -1) for at in near], 1)


@dataclass(frozen=True, eq=False)
class FineStore:
    """The fine fields of a run: values (N, cells) mm, at the places ``at`` (N,) in the time of the coarse ones."""

    store: Store
    values: np.ndarray
    at: np.ndarray
    where: np.ndarray
    centre: np.ndarray
    basis: np.ndarray
    coordinates: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, run: Run, store: Store) -> FineStore:
        """From a run. Raises DataError."""
        kept, facts = kept_arrays(run.cache / FILE, REMEDY), store.facts
        names = [f"axis{place}" for place in range(len(facts.fine_axes))]
        if missing := [name for name in ("values", "at", "where", "centre", "basis", *names) if name not in kept]:
            raise DataError(f"{shown(run.cache / FILE)}: lacks {missing[0]}; {REMEDY}")
        return cls(
            store, kept["values"], kept["at"], kept["where"], kept["centre"], kept["basis"],
            tuple(kept[name] for name in names),
        )  # fmt: skip

    @property
    def cells(self) -> int:
        """How many have values."""
        return self.values.shape[1]

    def coarse(self, at: np.ndarray) -> np.ndarray:
        """What the network is told of the coarse frames around the times at these places, (n, K) float32."""
        times, step = self.store.times, self.store.facts.step
        near = np.stack([places(times, times[at] + k * step) for k in (-1, 0, 1)])
        return ((frames(self.store, near) - self.centre) @ self.basis).astype(np.float32)

    def told(self, at: np.ndarray) -> dict[str, np.ndarray]:
        """The conditions of days."""
        return {"coarse": self.coarse(at), "clock": clock(self.store.times[at])}

    def split(self, since: int, before: int) -> FineWindows:
        """Days between two times."""
        times = self.store.times[self.at]
        return FineWindows(self, np.flatnonzero((times >= since) & (times < before)))

    def restored(self, x: Any) -> np.ndarray:
        """Drawn {"wet", "amount"} (b, cells) -> mm."""
        facts = self.store.facts
        amount = np.expm1(np.asarray(x["amount"], dtype=np.float64) * facts.fine_spread + facts.fine_mean)
        most = 4 * float(
            self.values.max()
        )  # a bound against numbers that are none: no cell of the data ever saw a fourth of it
        return np.where(np.asarray(x["wet"]) == 1, amount.clip(0, most), 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class FineWindows:
    """Days as items: rows of a :class:`FineStore`."""

    fine: FineStore
    rows: np.ndarray
    buckets: None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def store(self) -> Store:
        return self.fine.store

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """{"x": {"wet", "amount"}, "weight": {"amount"}, "coarse" (K,), "clock" (4,)} of each."""
        own, facts = self.rows[np.asarray(indices)], self.store.facts
        values = self.fine.values[own]
        wet = values > 0
        amount = np.where(wet, (np.log1p(values) - facts.fine_mean) / facts.fine_spread, 0).astype(np.float32)
        x = {"wet": wet.astype(np.int64), "amount": amount}
        return {"x": x, "weight": {"amount": wet.astype(np.float32)}, **self.fine.told(self.fine.at[own])}

    def name(self, index: int) -> str:
        return said(self.store.times[self.fine.at[self.rows[index]]])
