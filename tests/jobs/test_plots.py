"""The pictures of a run: every plot becomes a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.jobs import plots

pytest.importorskip("matplotlib")
LEVELS = [-3.0, 0.0, 3.0]
RECORDS = [
    {"step": 10, "loss": 1.5},
    {"step": 10, "held_out": 1.4, "by_level": [2.0, 1.0, 1.0], "levels": LEVELS},
    {"step": 20, "loss": 0.7},
    {"step": 20, "held_out": 0.9, "by_level": [0.4, 0.5, 0.9], "levels": LEVELS},
]


def assert_drawn(path: Path) -> None:
    pixels = np.asarray(Image.open(path).convert("L"))
    assert min(pixels.shape) > 300
    assert len(np.unique(pixels)) > 20


@pytest.mark.parametrize("count", [1, 2])
def test_the_loss_by_level(count: int, tmp_path: Path):
    plots.by_level([r for r in RECORDS if "by_level" in r][:count], tmp_path / "a.png")
    assert_drawn(tmp_path / "a.png")


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1], RECORDS[1:2]])
def test_the_loss_over_training(records: list, tmp_path: Path):
    plots.training(records, tmp_path / "a.png")
    assert_drawn(tmp_path / "a.png")


def test_the_quality_against_steps(tmp_path: Path):
    curves = {"euler": {2: 1.0, 5: 0.5, 10: 0.3}, "ab3": {2: 0.9, 5: 0.3, 10: -0.01}}
    plots.against_steps(curves, 0.01, "kernel distance", tmp_path / "a.png")
    assert_drawn(tmp_path / "a.png")


def test_what_is_installed_is_known():
    assert plots.available()
