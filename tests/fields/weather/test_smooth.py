"""Noise of a region: of variance 1 in every cell, and as much alike as cells are near."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sfumato.diffusion import EDM
from sfumato.diffusion.rng import Streams
from sfumato.errors import Wrong
from sfumato.fields.weather.grid import Grid
from sfumato.fields.weather.options import WeatherMethod
from sfumato.fields.weather.smooth import SmoothGaussian

NORTH, EAST = tuple(np.arange(55.0, 34.0, -2.5).tolist()), tuple(np.arange(-15.0, 6.0, 2.5).tolist())
REGION = Grid(NORTH, EAST)


def drawn(count: int, reach: float) -> torch.Tensor:
    process = WeatherMethod(noise="smooth", reach=reach).build(REGION)
    return process.prior(torch.zeros(count, 1, len(NORTH), len(EAST)), Streams(5, range(count)))[:, 0].double()


@pytest.mark.parametrize("reach", [300.0, 1000.0])
def test_the_covariance_falls_with_the_distance_over_the_earth(reach: float) -> None:
    """Every variance 1; along a meridian a degree is 111.2 km, along a parallel that times the cosine of the latitude."""
    count = 6000
    z = drawn(count, reach)
    within = 6 * math.sqrt(2 / count)
    assert float((z.square().mean(0) - 1).abs().max()) < within
    for i, j, row, column in ((0, 0, 1, 0), (2, 3, 6, 3), (0, 0, 0, 1), (8, 0, 8, 6), (4, 4, 4, 5)):
        north, east = NORTH[i] - NORTH[row], EAST[j] - EAST[column]
        km = 111.2 * math.hypot(north, east * math.cos(math.radians(NORTH[i])))
        found = float((z[:, i, j] * z[:, row, column]).mean())
        assert found == pytest.approx(math.exp(-km / reach), abs=within + 0.01), (i, j, row, column)


def test_little_of_it_is_left_at_the_shortest_waves() -> None:
    """Where smooth fields have nothing; white noise has as much there as anywhere."""
    power = torch.fft.rfft(drawn(500, 1000.0) * torch.hann_window(9).double(), dim=-1).abs().square().mean((0, 1))
    assert float(power[-1]) < 0.05 * float(power[:2].mean())


def test_fresh_noise_is_as_smooth_and_a_row_is_the_same_in_any_batch() -> None:
    process = WeatherMethod(noise="smooth").build(REGION)
    assert isinstance(process, SmoothGaussian)
    blank = torch.zeros(400, 2, len(NORTH), len(EAST))
    rng = Streams(3, range(400))
    first = process.prior(blank, rng)
    assert torch.allclose(process.prior(blank[:1], Streams(3, [7]))[0], first[7], atol=1e-6)
    t, s = torch.full((400,), 0.8), torch.full((400,), 0.7)
    z = process.renoise(first, t, s, 1.0, rng)
    neighbours = (z[..., 1:] * z[..., :-1]).mean(), z.square().mean()
    assert float(neighbours[0] / neighbours[1]) == pytest.approx(0.84, abs=0.03)  # 170 km or so apart
    with pytest.raises(ValueError, match="grid of 9 x 9"):
        process.prior(torch.zeros(1, 1, 4, 4))


def test_a_globe_and_a_large_grid_are_refused_in_a_line() -> None:
    globe = Grid(tuple(np.arange(90.0, -91.0, -10.0).tolist()), tuple(np.arange(0.0, 360.0, 10.0).tolist()))
    large = Grid(tuple(np.arange(60.0, 30.0, -0.25).tolist()), tuple(np.arange(0.0, 30.0, 0.25).tolist()))
    for grid in (globe, large):
        with pytest.raises(Wrong, match="must be auto on a globe or a grid of more than 4096 cells"):
            WeatherMethod(noise="smooth").build(grid)
    with pytest.raises(ValueError, match="above 0 km"):
        WeatherMethod(reach=0.0)
    assert WeatherMethod().most == 88 > WeatherMethod(noise="smooth").most
    assert isinstance(WeatherMethod(noise="smooth").build(REGION).schedule, EDM)
