"""The whole job of an autoencoder through the command: inspect, train, resume, sample, measure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.fields.autoencoder.measure import evaluate
from sfumato.fields.autoencoder.options import CoderMeasure
from sfumato.jobs.model import load
from sfumato.training.run import Run
from tests.fields.autoencoder.small import TRAIN, pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the mean colour of things, and a little more."""
    place = tmp_path_factory.mktemp("autoencoder")
    data, out = pictures(place / "pictures", 80), place / "run"
    assert main(["train", "autoencoder", str(data), *TRAIN, "--steps", "300", "--out", str(out)]) == 0
    return out


@pytest.mark.trained
def test_it_makes_pictures_again_that_it_never_saw(run: Path) -> None:
    report = evaluate(load(run), CoderMeasure(features="patches"))
    found = {row.metric: row for row in report.rows}
    real = torch.from_numpy(load(run).recipe.open(Run(run)).held_out.batch(np.arange(found["psnr"].n))["x"])
    flat = 10 * torch.log10(4 / (real - real.mean((2, 3), keepdim=True)).square().flatten(1).mean(1)).mean()
    # better than each picture's own mean colour, which says nothing of what is where, by 4 to 5 dB over three seeds
    assert found["psnr"].value > float(flat) + 2
    assert "fewer" in " ".join(report.notes)


def test_samples_are_what_becomes_of_held_out_pictures(run: Path, tmp_path: Path) -> None:
    assert main(["sample", str(run), "-n", "5", "--out", str(tmp_path / "out")]) == 0
    model = load(run)
    held = model.recipe.open(model.run).held_out
    for number in (0, 4):
        with Image.open(tmp_path / "out" / f"{number:04d}.png") as picture:
            both = np.asarray(picture).astype(int)
        real = held.batch(np.array([number % len(held)]))["x"]
        wanted = np.rint((real[0].transpose(1, 2, 0) + 1) * 127.5)
        assert np.array_equal(both[:, :16], wanted)
        with torch.no_grad():
            made = model.denoiser.network(torch.from_numpy(real).to(model.device))["x"][0].cpu().numpy()
        assert np.abs(both[:, 16:] - np.clip((made.transpose(1, 2, 0) + 1) * 127.5, 0, 255)).max() <= 1
    assert (
        main(["sample", str(run), "--like", str(tmp_path / "out" / "0004.png"), "--out", str(tmp_path / "again")]) == 0
    )
    again, first = (tmp_path / place / "0004.png" for place in ("again", "out"))
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(first)))


def test_resume_and_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--features", "patches", "-n", "12"]) == 0
    assert "psnr" in capsys.readouterr().out
    assert json.loads((run / "metrics.json").read_text())["features"] == "patches"
    assert main(["resume", str(run), "--steps", "302"]) == 0
    assert main(["evaluate", str(run), "-n", "3"]) == 1
    assert "too few" in capsys.readouterr().err


def test_what_makes_no_sense_is_said_in_a_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.parent / "pictures"
    for words, wrong in (
        (
            ["train", "autoencoder", str(data), "--side", "18", "--out", str(tmp_path / "a")],
            "not divisible by network.factor = 4",
        ),
        (["train", "autoencoder", str(data), "--network.factor", "3", "--out", str(tmp_path / "b")], "network.factor"),
        (["train", "autoencoder", str(tmp_path / "none"), "--out", str(tmp_path / "c")], "none"),
        (["distill", str(run), "--out", str(tmp_path / "d")], str(run)),
    ):
        assert main(words) != 0, words
        said = capsys.readouterr().err.strip().splitlines()
        assert wrong in said[-1], said
        assert not any("Traceback" in line for line in said)
