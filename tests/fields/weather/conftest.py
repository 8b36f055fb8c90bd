"""A run of weather whose law is known, trained a step: what it forecasts is asked of the exact denoiser."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.jobs.model import Model, load
from tests.fields.weather import worlds


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weather")
    data = worlds.netcdf(place / "fields.nc", worlds.fields(1500), worlds.times(1500))
    words = ["--previews", "0", "--steps", "1", "--held-out", "0.2", "--out", str(place / "run")]
    assert main(["train", "weather", str(data), *worlds.TRAIN, *words]) == 0
    return place / "run"


@pytest.fixture(scope="session")
def model(run: Path) -> Model:
    """With steps enough that what the solver leaves is little."""
    return worlds.knowing(load(run), solver=worlds.CALIBRATED, batch=256, steps=60)
