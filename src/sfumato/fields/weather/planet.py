"""Weather of a made-up planet: eddies in a channel of the middle latitudes, by their equation of motion.

Vorticity q = (laplace - 1 / radius^2) psi of an equivalent-barotropic flow on a beta-plane, periodic around the planet,
is carried by the flow that it makes, stirred at some scales, and damped,

    dq/dt + J(psi, q) + beta dpsi/dx = stirring - drag q - viscosity laplace^4 q,

solved by Fourier series (2/3 of the waves are kept, Orszag 1971) and the classical Runge-Kutta method. The stirring is a
function of the seed, so the same days come again; it is what makes a perfect forecast uncertain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sfumato.errors import needed
from sfumato.fields.weather.files import EXTRA

STEPS = 12
"""Steps of the equation in a day."""
WARM = 120
"""Days before the first that is kept: the eddies grow out of nothing."""
BEGIN = 946_728_000
"""2000-01-01 12:00 UTC."""


@dataclass(frozen=True)
class Planet:
    """rows x columns cells, of which the middle half of the rows is given out; lengths in units of the domain's height
    over 2 pi, times in days."""

    rows: int = 24
    columns: int = 32
    beta: float = 1.2
    radius: float = 0.5
    drag: float = 0.08
    viscosity: float = 2e-8
    stirring: float = 1.1
    waves: tuple[float, float] = (2.5, 4.5)

    def days(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Streamfunction and vorticity at noon of each day, (rows, columns) float64."""
        rng, shape, step = np.random.default_rng(seed), (self.rows, self.columns), 1 / STEPS
        square = self._waves[0] ** 2 + self._waves[1] ** 2
        ring = self._keep & (square >= self.waves[0] ** 2) & (square <= self.waves[1] ** 2)
        q = np.zeros(square.shape, dtype=complex)
        for day in range(count + WARM):
            for _ in range(STEPS):
                q = self._stepped(q, step)
                q = q + ring * np.fft.rfft2(rng.normal(size=shape)) * self.stirring * np.sqrt(step)
            if day >= WARM:
                yield np.fft.irfft2(-q / (square + self.radius**-2), shape), np.fft.irfft2(q, shape)

    def moved(self, q: np.ndarray, days: int) -> np.ndarray:
        """Vorticity (rows, columns) so many days on, without stirring."""
        waves = self._keep * np.fft.rfft2(q)
        for _ in range(days * STEPS):
            waves = self._stepped(waves, 1 / STEPS)
        return np.fft.irfft2(waves, q.shape)

    @cached_property
    def _waves(self) -> tuple[np.ndarray, np.ndarray]:
        """Wavenumbers along columns and rows of each number of a series."""
        apart = 2 * np.pi / self.rows
        kx, ky = np.meshgrid(
            2 * np.pi * np.fft.rfftfreq(self.columns, apart), 2 * np.pi * np.fft.fftfreq(self.rows, apart)
        )
        return kx, ky

    @cached_property
    def _keep(self) -> np.ndarray:
        kx, ky = (np.abs(each) for each in self._waves)
        return (kx <= 2 / 3 * kx.max()) & (ky <= 2 / 3 * ky.max())

    def _stepped(self, q: np.ndarray, step: float) -> np.ndarray:
        one = self._tendency(q)
        two = self._tendency(q + step / 2 * one)
        three = self._tendency(q + step / 2 * two)
        return q + step / 6 * (one + 2 * two + 2 * three + self._tendency(q + step * three))

    def _tendency(self, q: np.ndarray) -> np.ndarray:
        """dq/dt, as a series."""
        (kx, ky), shape = self._waves, (self.rows, self.columns)
        square = kx**2 + ky**2
        psi = -q / (square + self.radius**-2)
        u, v, qx, qy = (
            np.fft.irfft2(each, shape) for each in (-1j * ky * psi, 1j * kx * psi, 1j * kx * q, 1j * ky * q)
        )
        carried = self._keep * (np.fft.rfft2(u * qx + v * qy) + self.beta * 1j * kx * psi)
        return np.asarray(-carried - (self.drag + self.viscosity * square**4) * q)

    def write(self, path: Path, count: int, seed: int) -> Path:
        """Days as CF NetCDF: ``psi`` and ``vorticity`` of a band around the planet in the middle latitudes."""
        h5netcdf = needed("h5netcdf", EXTRA)
        band = slice(self.rows // 4, self.rows // 4 + self.rows // 2)
        made = [(psi[band], q[band]) for psi, q in self.days(count, seed)]
        fields = np.stack([np.stack(day) for day in made]).astype("f4")
        height = self.rows // 2
        latitude = 45.0 + 5.0 * ((height - 1) / 2 - np.arange(height))
        told = {
            "time": (BEGIN / 86400 + np.arange(count), "days since 1970-01-01"),
            "latitude": (latitude, "degrees_north"),
            "longitude": (np.arange(self.columns) * 360 / self.columns, "degrees_east"),
        }
        with h5netcdf.File(path, "w") as file:
            file.dimensions = {name: len(values) for name, (values, _) in told.items()}
            for name, (values, units) in told.items():
                file.create_variable(name, (name,), data=values).attrs["units"] = units
            for place, (name, long_name) in enumerate(
                (("psi", "streamfunction"), ("vorticity", "potential vorticity"))
            ):
                variable = file.create_variable(name, tuple(told), data=fields[:, place])
                variable.attrs["long_name"], variable.attrs["units"] = long_name, "1"
        return path
