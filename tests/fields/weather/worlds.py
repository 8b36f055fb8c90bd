"""Weather whose law is known, in files of several kinds, and the denoiser that knows it.

Two variables on a small globe, each a linear autoregression in every cell, x' = a x + sqrt(1 - a^2) e in units of its spread;
the second is carried one column to the east at every step. So the exact forecast at lead k is N(a^k x, 1 - a^(2k)), carried by k.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.diffusion import Denoiser, Gaussian
from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.solvers import Churn
from sfumato.jobs.model import Model

A = 0.9
MEAN, SPREAD = {"msl": 101_000.0, "z": 55_000.0}, {"msl": 800.0, "z": 1500.0}
LATITUDE, LONGITUDE = np.arange(75.0, -76.0, -30.0), np.arange(0.0, 360.0, 45.0)
BEGIN, STEP = 946_728_000, 86_400  # 2000-01-01 12:00 UTC, a day
CALIBRATED = "churn:churn=2.5,low=0.75,high=100,inflation=1,middle=true"
TRAIN = ["--network.width", "8", "--network.attention-levels", "0", "--batch", "4", "--threads", "1", "--previews", "1",
         "--precision", "fp32", "--snapshots", "0", "--method.noise", "cells"]  # fmt: skip


def fields(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """name -> (count, rows, columns) float64, north first and from 0 degrees east."""
    rng = np.random.default_rng(seed)
    shape, found = (len(LATITUDE), len(LONGITUDE)), {}
    for name in MEAN:
        x = np.empty((count, *shape))
        x[0] = rng.normal(size=shape)
        for i in range(1, count):
            before = np.roll(x[i - 1], 1, axis=1) if name == "z" else x[i - 1]
            x[i] = A * before + np.sqrt(1 - A**2) * rng.normal(size=shape)
        found[name] = MEAN[name] + SPREAD[name] * x
    return found


def times(count: int) -> np.ndarray:
    return BEGIN + STEP * np.arange(count)


def netcdf(
    path: Path, values: dict[str, np.ndarray], when: np.ndarray, latitude: np.ndarray = LATITUDE,
    longitude: np.ndarray = LONGITUDE, *, order: str = "time latitude longitude", packed: bool = False,
    units: dict[str, str] | None = None, since: str = "hours since 1900-01-01 00:00:00",
) -> Path:  # fmt: skip
    """NetCDF-4, the values (time, latitude, longitude) with their axes in the order wanted."""
    import h5netcdf

    hours = when / 3600 + 613_608  # hours from 1900 to 1970
    told = {"time": (hours, since), "latitude": (latitude, "degrees_north"), "longitude": (longitude, "degrees_east")}
    axes = order.split()
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {name: len(told[name][0]) for name in told}
        for name, (own, unit) in told.items():
            file.create_variable(name, (name,), data=np.asarray(own)).attrs["units"] = unit
        for name, field in values.items():
            turned = field.transpose([("time", "latitude", "longitude").index(axis) for axis in axes])
            if packed:
                low, high = np.nanmin(turned), np.nanmax(turned)
                scale, offset = (high - low) / 60_000, (high + low) / 2
                stored = np.where(np.isnan(turned), -32767, np.rint((turned - offset) / scale)).astype("i2")
                made = file.create_variable(name, tuple(axes), "i2", data=stored, fillvalue=np.int16(-32767))
                made.attrs["scale_factor"], made.attrs["add_offset"] = scale, offset
            else:
                made = file.create_variable(name, tuple(axes), data=turned.astype("f4"))
            made.attrs["units"] = (units or {"msl": "Pa", "z": "m**2 s**-2"}).get(name, "1")
            made.attrs["long_name"] = f"the field {name}"
    return path


def classic(path: Path, values: dict[str, np.ndarray], when: np.ndarray) -> Path:
    """Classic NetCDF with time without a limit."""
    from scipy.io import netcdf_file

    with netcdf_file(path, "w") as file:
        for name, size in (("time", None), ("latitude", len(LATITUDE)), ("longitude", len(LONGITUDE))):
            file.createDimension(name, size)
        told = (("time", when / 3600 + 613_608, "hours since 1900-01-01 00:00:00.0"), ("latitude", LATITUDE, "degrees_north"),
                ("longitude", LONGITUDE, "degrees_east"))  # fmt: skip
        for name, own, unit in told:
            made = file.createVariable(name, "f8", (name,))
            made[:] = own
            made.units = unit
        for name, field in values.items():
            made = file.createVariable(name, "f4", ("time", "latitude", "longitude"))
            made[:] = field
            made.units = "Pa" if name == "msl" else "m**2 s**-2"
    return path


def store(path: Path, values: dict[str, np.ndarray], when: np.ndarray, version: int) -> Path:
    """Zarr as WeatherBench2 has it: long names, longitude before latitude, latitude rising, the second variable on levels."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=version)

    def put(name: str, data: np.ndarray, axes: tuple[str, ...], **attributes: Any) -> None:
        more: dict[str, Any] = {"dimension_names": axes} if version == 3 else {}
        chunks, kept = (min(16, data.shape[0]), *data.shape[1:]), {"write_empty_chunks": True}
        made = group.create_array(name, data=data, chunks=chunks, config=kept, **more)
        made.attrs.update({**({"_ARRAY_DIMENSIONS": list(axes)} if version == 2 else {}), **attributes})

    put("time", (when / 3600).astype("i8"), ("time",), units="hours since 1970-01-01", calendar="proleptic_gregorian")
    put("latitude", LATITUDE[::-1].copy(), ("latitude",), units="degrees_north")
    put("longitude", LONGITUDE, ("longitude",), units="degrees_east")
    put("level", np.array([500, 850]), ("level",), units="hPa")
    turned = {name: field[:, ::-1].transpose(0, 2, 1).astype("f4") for name, field in values.items()}
    put("mean_sea_level_pressure", turned["msl"], ("time", "longitude", "latitude"), units="Pa")
    levels = np.stack([turned["z"], turned["z"] - 41_000], 1)
    put("geopotential", levels, ("time", "level", "longitude", "latitude"), units="m**2 s**-2")
    return path


class Exact(nn.Module):
    """The network that knows the law: v of the posterior mean of a step's change."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.facts, self.options = facts, {"kind": "fields"}
        self.blind = nn.Parameter(torch.zeros(()))  # says which device it is on

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, state: Tensor, clock: Tensor
    ) -> Tensor:
        facts, sigma = self.facts, level.double().exp()[:, None, None]
        answers = []
        for c, name in enumerate(facts.names):
            now = state[:, c].double() * facts.spread[c] + facts.mean[c]
            carried = torch.roll(now, 1, dims=-1) if name == "z" else now
            mean = (MEAN[name] + A * (carried - MEAN[name]) - now) / facts.change[c]
            variance = SPREAD[name] ** 2 * (1 - A**2) / facts.change[c] ** 2
            radius = (1 + sigma**2).sqrt()
            x_t = x[:, c].double() * radius
            guess = (variance * x_t + sigma**2 * mean) / (variance + sigma**2)
            answers.append((-sigma * guess + (x_t - guess) / sigma) / radius)
        return torch.stack(answers, 1).to(x.dtype)


def knowing(model: Model, **walk: Any) -> Model:
    """A model of such weather whose denoiser is exact, walked otherwise where asked."""
    exact = Denoiser(Exact(model.facts), model.process)
    return dataclasses.replace(model, denoiser=exact, walk=dataclasses.replace(model.walk, **walk))


class Linear(nn.Module):
    """The network that knows x' = a x + e, e ~ N(0, q), in standard units, all channels and cells together: a, q (n, n)
    float64."""

    def __init__(self, facts: Any, a: Tensor, q: Tensor) -> None:
        super().__init__()
        self.facts, self.options = facts, {"kind": "fields"}
        self.blind = nn.Parameter(torch.zeros(()))
        self.shape = (len(facts.names), *facts.grid.shape)
        share = torch.tensor([s / d for s, d in zip(facts.spread, facts.change)], dtype=torch.float64)
        scale = share[:, None, None].expand(self.shape).flatten()  # standard units to those of a step's change
        self.move = scale[:, None] * (a - torch.eye(len(a), dtype=torch.float64))
        self.power, self.turn = torch.linalg.eigh(scale[:, None] * q * scale)

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, state: Tensor, clock: Tensor
    ) -> Tensor:
        sigma = level.double().exp()[:, None]
        radius = (1 + sigma**2).sqrt()
        mean = state[:, : self.shape[0]].double().flatten(1) @ self.move.T
        x_t = x.double().flatten(1) * radius
        guess = mean + ((x_t - mean) @ self.turn * (self.power / (self.power + sigma**2))) @ self.turn.T
        return ((-sigma * guess + (x_t - guess) / sigma) / radius).reshape(x.shape).to(x.dtype)


@dataclasses.dataclass(frozen=True)
class Even(Gaussian):
    """A process whose noise is one number everywhere: what a linear walk makes of it is its factor on noise."""

    noise: float = 0.0

    def prior(self, x: Tensor, rng: Any = None) -> Tensor:
        return torch.full_like(x, self.noise)


def spread_by(process: Gaussian, solver: Any, times: Any, power: Tensor) -> Tensor:
    """The variance that a walk leaves of Gaussian numbers of variance ``power`` (n,), as a share of it. With the exact denoiser
    a step is linear in x and in its fresh noise, so a walk of one number says what becomes of the first noise, and of a
    Churn, which remembers nothing of its states, each step by itself what it adds."""
    told = {field.name: getattr(process, field.name) for field in dataclasses.fields(process)}
    still, noisy = (
        GaussianData(torch.zeros_like(power), power, process=Even(**told, noise=noise)) for noise in (0.0, 1.0)
    )
    x = torch.full((1, len(power)), float(process.schedule.sigma(times[0])), dtype=torch.float64)
    added, memory = torch.zeros_like(power), solver.prepare(times)
    for t, s in pairwise(times):
        if isinstance(solver, Churn):
            kept, _ = solver.step(still, torch.ones_like(x), t, s, memory, None)
            fresh, _ = solver.step(noisy, torch.zeros_like(x), t, s, memory, None)
            added = kept[0] ** 2 * added + fresh[0] ** 2
        x, memory = solver.step(still, x, t, s, memory, None)
    return (x[0] ** 2 + added) / power


def lawful(facts: Any) -> tuple[Tensor, Tensor]:
    """A law whose channels and cells move each other: a (n, n) carries east and mixes the channels, q is correlated."""
    channels, rows, columns = len(facts.names), *facts.grid.shape
    carry = torch.roll(torch.eye(columns, dtype=torch.float64), 1, 0)
    mixed = torch.tensor([[0.9, 0.1], [-0.2, 0.8]], dtype=torch.float64)[:channels, :channels]
    along = 0.6 * carry + 0.3 * torch.eye(columns, dtype=torch.float64)
    a = torch.kron(mixed, torch.kron(torch.eye(rows, dtype=torch.float64), along))
    near = [0.6 ** (torch.arange(n)[:, None] - torch.arange(n)).abs().double() for n in (rows, columns)]
    both = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)[:channels, :channels]
    return a, torch.kron(both, torch.kron(*near))
