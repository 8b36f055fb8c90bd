"""The made-up planet: its waves travel as they must, and the same seed makes the same days."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfumato.fields.weather.planet import Planet
from sfumato.fields.weather.source import opened


def test_a_wave_travels_west_as_rossby_says() -> None:
    """Without stirring or damping a small wave of numbers (k, l) moves at c = -beta / (k^2 + l^2 + radius^-2)."""
    planet = Planet(stirring=0.0, drag=0.0, viscosity=0.0)
    k, l_ = 2 * 0.75, 1.0
    x, y = np.meshgrid(np.arange(32) * 2 * np.pi / 24, np.arange(24) * 2 * np.pi / 24)
    psi = 1e-6 * np.cos(k * x + l_ * y)
    q = -(k**2 + l_**2 + planet.radius**-2) * psi
    speed = -planet.beta / (k**2 + l_**2 + planet.radius**-2)
    moved = planet.moved(q, 2)
    expected = -(k**2 + l_**2 + planet.radius**-2) * 1e-6 * np.cos(k * (x - speed * 2) + l_ * y)
    assert np.abs(moved - expected).max() < 1e-3 * np.abs(expected).max()


def test_days_know_each_other_weeks_do_not_and_the_same_seed_makes_the_same_days() -> None:
    planet = Planet()
    days = np.stack([q for _, q in planet.days(45, 3)])
    assert np.array_equal(days[:2], np.stack([q for _, q in planet.days(2, 3)]))
    assert not np.allclose(days[:2], np.stack([q for _, q in planet.days(2, 4)]))
    assert np.isfinite(days).all()
    off = days - days.mean(0)
    near, far = ((off[k:] * off[:-k]).mean() / np.square(off).mean() for k in (1, 15))
    assert near > 0.8
    assert abs(far) < 0.4


def test_the_planet_is_read_as_any_other_fields(tmp_path: Path) -> None:
    found = opened(Planet().write(tmp_path / "p.nc", 12, 0))
    assert [channel.label for channel in found.channels] == ["psi", "vorticity"]
    assert found.grid.closes
    assert not found.grid.globe
    assert found.grid.shape == (12, 32)
    assert found.read(0, 12).shape == (12, 2, 12, 32)
