"""A run of a small family of chains, trained a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.jobs.model import Model, load
from tests.fields.protein.folds import family, saved

pytest.importorskip("gemmi")

SMALL = {"width": 16, "depth": 1, "heads": 2, "trunk": 1}
TRAIN = [f"--network.{name}={value}" for name, value in SMALL.items()] + ["--threads=1", "--batch=2", "--previews=0"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("protein")
    data = saved(place / "chains.npz", family(20))
    assert main(["train", "protein", str(data), *TRAIN, "--steps", "2", "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture(scope="session")
def model(run: Path) -> Model:
    return load(run)
