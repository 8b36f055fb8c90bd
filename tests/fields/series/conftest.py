"""A run of walks whose law is known, trained a step: its forecasts are those of the ridge and the law of what that leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.jobs.model import Model, load
from tests.fields.series import worlds


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("series")
    values = worlds.walks(50, 240)
    data = worlds.wide(place / "walks.csv", worlds.days(240), {f"w{i}": row for i, row in enumerate(values)})
    words = ["--horizon", "8", "--past", "24", "--season", "1", "--steps", "1", "--out", str(place / "run")]
    assert main(["train", "series", str(data), *worlds.TRAIN, *words]) == 0
    return place / "run"


@pytest.fixture(scope="session")
def model(run: Path) -> Model:
    return load(run)
