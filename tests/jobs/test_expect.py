"""What a plan says of what is to come is so: the disk that a run takes, and what its held-out losses mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sfumato.data import Items
from sfumato.diffusion import Denoiser, Gaussian, Linear, Masked
from sfumato.diffusion.exact import GaussianData
from sfumato.jobs import expect
from sfumato.networks import MLP
from sfumato.training.loader import bunched
from sfumato.training.objective import Task
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run
from sfumato.training.watch import held_out_loss

from .small import sfumato, write_pictures

SPREADS = torch.tensor([3.0, 0.5, 0.1, 1.0])


def normal(n: int, seed: int, turn: torch.Tensor | None = None) -> torch.Tensor:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) * SPREADS
    return x if turn is None else x @ turn


def task_for(train: torch.Tensor, held: torch.Tensor, process: Gaussian) -> Task:
    return Task(MLP(dim=train[0].numel(), width=8, depth=1), process, Items({"x": train}), Items({"x": held}))


@pytest.mark.parametrize("process", [
    Gaussian(Linear(), predicts="velocity"), Gaussian(Linear(), predicts="data", loss_in="velocity"), Gaussian(predicts="noise"),
], ids=["velocity", "data", "noise"])  # fmt: skip
def test_of_normal_data_the_linear_model_is_the_exact_one(process: Gaussian):
    """In any rotation, and whatever is answered: its loss is that of the denoiser that knows the law of the data."""
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(9)))
    held = normal(32, 1)

    class Known(Denoiser):
        def answer(self, x_t, t, s=None, *, given=None, **condition):
            ends = GaussianData(torch.zeros(4), SPREADS**2, process=process)(x_t, t)
            return process.target(ends.x, ends.z, t)

    task = task_for(normal(512, 0), held, process)
    assert task.held_out is not None
    exact = held_out_loss(task, Known(task.network, process), bunched(task.held_out, 32))
    found = expect.losses(task)
    assert found is not None
    assert found[1] == pytest.approx(exact, rel=0.05)
    assert found[0] > 1.2 * found[1]  # one spread for all numbers is worse than that of each
    turned = expect.losses(task_for(normal(512, 0, turn), normal(32, 1, turn), process))
    assert turned is not None
    assert turned[1] == pytest.approx(exact, rel=0.15)  # other noise meets the items


def test_few_items_of_many_numbers_are_judged_as_unseen_ones():
    """Axes are fitted to one half and their variances are those of the other: data without any structure look like none."""
    x = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    found = expect.losses(
        task_for(x, x[:8] * 0 + torch.randn(8, 300, generator=torch.Generator().manual_seed(1)), Gaussian())
    )
    assert found is not None
    assert found[1] == pytest.approx(found[0], rel=0.1)
    made = [torch.randn(40, 300, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    known = [expect.linear_denoiser(Gaussian(), each) for each in made]
    # 1 + 1 / 20, for the mean of half the items is not that of all; each is within 0.15 of that
    assert sum(float(each.variances.mean()) for each in known) / 10 == pytest.approx(1.05, abs=0.1)
    assert sum(each.rest for each in known) / 10 == pytest.approx(1.05, abs=0.1)


def test_of_other_worlds_nothing_is_said():
    task = Task(MLP(dim=4, width=8, depth=1), Masked(5), Items({"x": torch.zeros(9, 4, dtype=torch.long)}))
    assert expect.losses(task) is None


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_disk_that_is_planned_is_the_disk_that_is_taken(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_pictures(tmp_path / "photos", 40)
    words = ["--side", 8, "--network.width", 64, "--network.depth", 2, "--batch", 8, "--steps", 8, "--previews", 0, "--snapshots",
             4, "--save-seconds", 1e-9, "--optim.kind", kind]  # fmt: skip
    assert sfumato("train", tmp_path / "photos", *words, "--out", tmp_path / "run") == 0
    err = capsys.readouterr().err
    told = re.search(
        r"^disk +about ([\d.]+) (MB|kB): 2 checkpoints, 4 snapshots, the data; .* free$", err, re.MULTILINE
    )
    assert told is not None
    there = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert float(told[1]) * {"MB": 1e6, "kB": 1e3}[told[2]] == pytest.approx(there, rel=0.05)


def test_too_little_disk_is_said_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil

    run, network = Run(tmp_path / "run"), MLP(dim=4, width=64, depth=2)
    run.create()
    usage = shutil.disk_usage(tmp_path)
    assert "TOO LITTLE" not in expect.disk(network, TrainOptions(optim=OptimOptions()), run, 60)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    said = expect.disk(network, TrainOptions(), run, 1000)
    assert "200 kB free, TOO LITTLE: up to " in said
    assert "--keep 1, --snapshots 0, or another --out" in said


def test_too_few_items_and_larger_pictures_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_pictures(tmp_path / "photos", 12, side=40)
    small = ["--network.width", 16, "--network.depth", 1, "--batch", 4, "--steps", 2]
    assert sfumato("inspect", tmp_path / "photos", "--side", 8, *small) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "few only 11 items to learn from" in out
    assert "yours are of 40 pixels (median), learned at 8; --side 16: a step costs about the same" in out
    assert sfumato("inspect", tmp_path / "photos", "--side", 24, *small) == 0
    assert "yours are of" not in capsys.readouterr().out
