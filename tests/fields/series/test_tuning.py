"""A run of series goes on with others: as it reads them, from its own ridges, in a run of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.fields.series.data import Store
from sfumato.fields.series.spreading import base_of
from sfumato.jobs.model import load
from sfumato.training import checkpoint
from sfumato.training.run import Run
from tests.fields.series import worlds

HOW = [
    "--steps",
    "6",
    "--batch",
    "16",
    "--threads",
    "1",
    "--precision",
    "fp32",
    "--previews",
    "0",
    "--snapshots",
    "2",
    "--kept",
    "20",
]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other walks, a hundred times as large, fewer and shorter."""
    values = 100 * worlds.walks(5, 150, seed=7)
    place = tmp_path_factory.mktemp("others")
    return worlds.wide(place / "more.csv", worlds.days(150), {f"new{i}": row for i, row in enumerate(values)})


@pytest.fixture(scope="module")
def tuned(run: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "run"
    assert main(["finetune", str(run), "--data", str(others), *HOW, "--optim.lr", "0.01", "--out", str(out)]) == 0
    return out


def test_other_series_are_read_as_the_run_reads_its_own(run: Path, tuned: Path) -> None:
    before, after = load(run).facts, load(tuned).facts
    assert after.names == tuple(f"new{i}" for i in range(5))
    for name in ("horizon", "past", "season", "scale", "own", "clock", "rms", "test", "unit", "count"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.shortest, after.longest, after.taken, before.taken) == (150, 150, True, False)
    kept = [np.load(path / "cache" / "base.npz") for path in (run, tuned)]
    assert all(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0].files)
    # a hundred times as large is the same to it: items are what the ridge of all folds leaves, in units of the window
    data = load(tuned).recipe.open(Run(tuned))
    x = data.train.batch(np.arange(len(data.train)))["x"]
    assert 0.5 < float(np.asarray(x).std()) < 2
    store, base = Store.read(Run(tuned), after), base_of(Run(tuned), after)
    assert all(set(track.fold.tolist()) == {-1} for track in store.tracks)
    assert base.rms == before.rms


def test_it_forecasts_and_is_measured_as_any_run(run: Path, tuned: Path, others: Path, tmp_path: Path) -> None:
    first, last = (checkpoint.read_tensors(path / "model.safetensors") for path in (run, tuned))
    assert any(not torch.equal(first[name], value) for name, value in last.items())
    assert (tuned / "spread.json").is_file()
    assert main(["series", "forecast", str(tuned), "--out", str(tmp_path / "f.csv")]) == 0
    text = (tmp_path / "f.csv").read_text()
    assert "new3" in text
    assert main(["evaluate", str(tuned)]) == 0
    assert main(["distill", str(tuned), "--steps", "1", "--previews", "0", "--out", str(tmp_path / "map")]) == 0


def test_series_of_another_step_are_refused(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = worlds.walks(3, 60)
    hours = [f"2024-01-{1 + k // 24:02d} {k % 24:02d}:00" for k in range(60)]
    data = worlds.wide(tmp_path / "hours.csv", hours, {f"w{i}": row for i, row in enumerate(values)})
    assert main(["finetune", str(run), "--data", str(data), *HOW, "--out", str(tmp_path / "out")]) == 1
    said = "".join(capfd.readouterr())
    assert str(data) in said
    assert not (tmp_path / "out").exists()
