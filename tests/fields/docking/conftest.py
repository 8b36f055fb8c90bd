"""A small run of docking: a made receptor with a dozen poses, trained a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.jobs.model import Model, load
from tests.fields.docking import worlds


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.folder(tmp_path_factory.mktemp("docking") / "site")


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docking_run") / "run"
    words = ["--previews", "0", "--steps", "2", "--held-out", "0.3", "--out", str(out)]
    assert main(["train", "docking", str(data), *worlds.TRAIN, *words]) == 0
    return out


@pytest.fixture(scope="session")
def model(run: Path) -> Model:
    return load(run)
