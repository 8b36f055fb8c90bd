"""Comparing two sets without a run: what is told apart, what is not, alarms, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.errors import DataError
from tests.jobs.small import sfumato as command
from tests.jobs.small import write_pictures

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (30, 3, 8, 8)).astype(np.uint8)
RUNS = Path(__file__).parents[1] / "runs" / "a3fdda3"


def normal(n: int, seed: int, scale: tuple[float, ...] = (1.0, 100.0, 1e4)) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor(scale)


def notes(*sets: object) -> str:
    return "\n".join(sfumato.compare(*sets).notes)


def test_two_sets_of_the_same_law_are_not_told_apart_and_others_are():
    real = normal(240, 0)
    assert "not told from B in either space" in notes(normal(120, 1), real)
    assert "told from B in both spaces" in notes(normal(120, 1) * 1.6, real)
    small = normal(120, 1)
    small[:, 0] *= 2.5  # the column of the smallest units counts as much as the others
    assert "told from B in both spaces" in notes(small, real)


def test_copies_are_an_alarm_and_honest_samples_are_none():
    real, held = normal(120, 0), normal(120, 1)
    assert "ALARM" in notes(real + 1e-3 * normal(120, 2), real, held)
    for seed in (3, 4):
        assert "ALARM" not in notes(normal(120, seed), real, held)


def test_what_one_space_misses_the_other_sees():
    rng = torch.Generator().manual_seed(0)
    ring = torch.nn.functional.normalize(torch.randn(400, 2, generator=rng), dim=1) * 2**0.5
    assert "told from B in" in notes(torch.randn(200, 2, generator=rng), ring)


@pytest.mark.parametrize(("a", "b", "message"), [
    (np.zeros((30, 3)), np.zeros((30, 4)), r"A: items have shape \(3,\)"),
    (np.full((30, 3), np.nan), np.eye(30)[:, :3], r"A\[0\]: contains NaN"),
    (np.zeros((30, 2), dtype=object), np.zeros((30, 2)), "A: has type"),
    (RNG.random((30, 3, 8, 8)), BYTES, "the same units"),
    (RNG.random((30, 3, 8, 8)) * 255, BYTES, "the same units"),
    (RNG.random((30, 3)), RNG.random((10, 3)), "B: 10 items are too few"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(a: np.ndarray, b: np.ndarray, message: str):
    with pytest.raises(DataError, match=message):
        sfumato.compare(a, b)


def test_grey_samples_of_a_young_model_are_compared_with_pictures():
    """Bytes are bytes, however few of them occur: a narrow range is no other unit."""
    grey = RNG.integers(170, 178, (30, 3, 8, 8)).astype(np.uint8)
    assert "told from B in both spaces" in notes(grey, BYTES)
    assert "told from B in both spaces" in notes(np.full_like(grey, 200), torch.from_numpy(BYTES))


def test_layouts_of_picture_bytes_are_the_same_pictures():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (60, 3, 8, 8)).astype(np.uint8)
    fake = rng.integers(0, 256, (30, 3, 8, 8)).astype(np.uint8)
    assert str(sfumato.compare(fake, real)) == str(sfumato.compare(np.moveaxis(fake, 1, -1), real))


def test_folders_arrays_and_runs_are_compared_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    real = write_pictures(tmp_path / "real", 60)
    fake = write_pictures(tmp_path / "fake", 30)
    Image.new("RGB", (200, 200)).save(fake / "grid.png")
    (fake / "samples.json").write_text("{}")
    assert command("compare", fake, real, "--out", tmp_path / "found.json") == 0
    out = capsys.readouterr().out
    assert "features: patches" in out
    assert "features: pca" in out
    assert "n = 30 samples against 30 training items" in out  # the sheet of our own samples is no sample
    assert "not the FID of papers" in " ".join(out.split())
    assert set(json.loads((tmp_path / "found.json").read_text())["spaces"]) == {"patches", "pca"}
    np.save(tmp_path / "real.npy", np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8)).astype(np.uint8))
    assert command("compare", RUNS / "classes", tmp_path / "real.npy", "-n", "24", "--features", "pca") == 0
    out = capsys.readouterr().out
    assert "n = 24 samples" in out
    assert "features: patches" not in out
    assert command("compare", fake, tmp_path / "real.npy") == 0  # pictures of a folder at the side of the array


@pytest.mark.parametrize(("b", "more", "message"), [
    ("none", [], "no such folder"), ("few", [], "B: 2 items are too few"), ("real", ["--held-out", "none"], "no such folder"),
    ("real", ["--features", "nothing"], "features = 'nothing'"), ("real", ["--features", "gone.onnx"], "gone.onnx"),
])  # fmt: skip
def test_what_is_missing_is_known_before_a_sample_is_drawn(
    b: str,
    more: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    write_pictures(tmp_path / "real", 60)
    write_pictures(tmp_path / "few", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sfumato.jobs.compare._sampled", lambda *_: pytest.fail("samples were drawn"))
    assert command("compare", RUNS / "classes", b, *more) == 1
    assert message in capsys.readouterr().err
