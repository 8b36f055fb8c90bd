"""Noise on the sphere: the same at the poles as at the equator, and of the covariance that it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.diffusion import EDM, Gaussian
from sfumato.diffusion.rng import Streams
from sfumato.errors import Wrong
from sfumato.fields.weather.grid import Grid
from sfumato.fields.weather.options import WeatherMethod
from sfumato.fields.weather.sphere import SphereGaussian, legendre, resolved

COARSE = tuple(np.arange(90.0, -91.0, -10.0).tolist())  # poles and all
FINE = tuple(np.arange(90.0, -91.0, -2.5).tolist())


def drawn(latitude: tuple[float, ...], columns: int, count: int, white: float = 0.0) -> torch.Tensor:
    process = SphereGaussian(EDM(), "v", latitude=latitude, columns=columns, white=white)
    return process.prior(torch.zeros(count, 1, len(latitude), columns), Streams(7, range(count)))[:, 0].double()


def test_harmonics_have_the_sum_of_squares_of_the_addition_theorem() -> None:
    """sum_m |Y_lm|^2 = (2l + 1) / 4 pi at every latitude, to rounding: so the variance is 1 there, on a grid of 2.5
    degrees too."""
    table = legendre(FINE, resolved(FINE, 144))
    degrees = torch.arange(table.shape[1], dtype=torch.float64)
    expected = ((2 * degrees + 1) / (4 * torch.pi))[:, None].expand(-1, len(FINE))
    both = (
        torch.ones(len(table), 1, 1, dtype=torch.float64) + 1
    )  # cosine and sine of the longitude, whose squares sum to 1
    both[0] = 1
    assert torch.allclose((both * table.square()).sum(0), expected, rtol=1e-9)


def test_the_variance_is_one_at_the_poles_and_at_the_equator() -> None:
    count = 4000
    z = drawn(COARSE, 36, count)
    assert float(z[:, 0].var(1).max()) < 1e-8  # a pole is one point, in however many columns
    variance = z.square().mean(0)
    assert float((variance - 1).abs().max()) < 6 * np.sqrt(2 / count)  # 684 cells
    both = drawn(COARSE, 36, count, white=0.05).square().mean(0)
    assert float((both - 1).abs().max()) < 6 * np.sqrt(2 / count)


def test_the_covariance_is_a_function_of_the_angle_alone() -> None:
    count, columns = 6000, 36
    z = drawn(COARSE, columns, count)
    lat, lon = np.meshgrid(np.deg2rad(COARSE), np.arange(columns) * 2 * np.pi / columns, indexing="ij")
    point = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1).reshape(-1, 3)
    degree = resolved(COARSE, columns)
    assert degree == 17
    chosen = np.random.default_rng(0).choice(len(point), 60, replace=False)
    cosine = (point[chosen] @ point[chosen].T).clip(-1, 1)
    each = np.polynomial.legendre.legval(cosine, [(2 * d + 1) / (degree + 1) ** 2 for d in range(degree + 1)])
    found = torch.cov(z.flatten(1)[:, chosen].T).numpy()
    assert np.abs(found - each).max() < 6 * np.sqrt(2 / count)


def test_a_row_is_the_same_in_any_batch_and_its_share_of_white_noise_reaches_every_part() -> None:
    process = SphereGaussian(EDM(), "v", latitude=COARSE, columns=36)
    blank = torch.zeros(3, 2, len(COARSE), 36)
    whole = process.prior(blank, Streams(7, range(3)))
    assert torch.allclose(process.prior(blank[:1], Streams(7, [2]))[0], whole[2], atol=1e-6)
    rough = tuple(np.arange(90.0, -91.0, -30.0).tolist())
    least = [torch.linalg.eigvalsh(torch.cov(drawn(rough, 12, 1500, white).flatten(1).T))[0] for white in (0.0, 0.05)]
    assert float(least[0]) < 1e-6  # isotropic alone: fewer numbers than cells
    assert float(least[1]) > 0.4 * 0.05  # of 84 numbers seen 1500 times, (1 - sqrt(84 / 1500))^2 of it
    with pytest.raises(ValueError, match="grid of 19 x 36"):
        process.prior(torch.zeros(1, 1, 4, 4))


def test_the_globe_has_noise_of_the_sphere_and_a_region_has_not() -> None:
    globe = Grid(COARSE, tuple(np.arange(0.0, 360.0, 10.0).tolist()))
    region, band = Grid((50.0, 40.0, 30.0), (0.0, 10.0, 20.0)), Grid((50.0, 40.0, 30.0), globe.east)
    assert isinstance(WeatherMethod().build(globe), SphereGaussian)
    for method, grid in ((WeatherMethod(), region), (WeatherMethod(), band), (WeatherMethod(noise="cells"), globe)):
        assert type(method.build(grid)) is Gaussian
    with pytest.raises(Wrong, match="must be cells or auto on a region"):
        WeatherMethod(noise="sphere").build(band)


def test_fresh_noise_on_the_way_is_that_of_the_sphere_too() -> None:
    """Half renewed, noise is as isotropic as before: a pole stays one point."""
    process = SphereGaussian(EDM(), "v", latitude=COARSE, columns=36, white=0.0)
    blank = torch.zeros(400, 1, len(COARSE), 36)
    rng = Streams(3, range(400))
    t, s = torch.full((400,), 0.8), torch.full((400,), 0.7)
    z = process.renoise(process.prior(blank, rng), t, s, 1.0, rng)
    assert float(z[:, 0, 0].var(1).max()) < 1e-8
    assert float(z.square().mean()) == pytest.approx(1, abs=0.03)
