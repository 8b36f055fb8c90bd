"""Learning in the space of an autoencoder: what is kept in the run, what comes out, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.errors import DataError
from sfumato.fields.images.measure import Measure
from sfumato.fields.images.measure import evaluate as measured
from sfumato.jobs import latents
from sfumato.jobs.config import read_config
from sfumato.jobs.model import load
from sfumato.training.loader import fetch
from sfumato.training.run import Run, RunError
from tests.fields.autoencoder.small import TRAIN as CODER
from tests.fields.autoencoder.small import pictures

TRAIN = ["--side", "16", "--batch", "8", "--threads", "1", "--previews", "1", "--precision", "fp32", "--snapshots", "0",
         "--network.width", "16", "--network.depth", "1", "--held-out", "0.25", "--steps", "6"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, and a run that learned by it."""
    place = tmp_path_factory.mktemp("latents")
    data = pictures(place / "pictures", 80)
    assert main(["train", "autoencoder", str(data), *CODER, "--steps", "40", "--out", str(place / "coder")]) == 0
    words = ["train", str(data), *TRAIN, "--latent", str(place / "coder"), "--out", str(place / "run")]
    assert main(words) == 0
    return place


def test_codes_are_standard_in_each_channel_and_say_what_the_coder_says(place: Path) -> None:
    model = load(place / "run")
    data = model.recipe.open(model.run)
    assert model.facts.shape == (3, 16, 16)
    assert model.facts.learned == (4, 4, 4) == tuple(data.train.batch(np.array([0]))["x"].shape[1:])
    x = fetch(data.train, range(len(data.train))).x.double()
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.02
    # the held-out pictures, coded here by the autoencoder itself
    coder, real = load(place / "coder"), model.recipe.seen(model.run).held_out.batch(np.arange(8))["x"]
    pixels = torch.from_numpy(real) * model.facts.spread + model.facts.mean
    with torch.no_grad():
        answer = coder.denoiser.network(pixels)
    space = model.facts.space
    codes = torch.from_numpy(data.held_out.batch(np.arange(8))["x"])
    raw = codes * torch.tensor(space.spreads).reshape(-1, 1, 1) + torch.tensor(space.means).reshape(-1, 1, 1)
    torch.testing.assert_close(raw, answer["code"], rtol=2e-3, atol=2e-3)  # kept as float16
    seen = model.recipe.decoded(model, codes) * model.facts.spread + model.facts.mean
    torch.testing.assert_close(seen, answer["x"].clamp(-1, 1), rtol=0, atol=2e-2)


def test_a_run_needs_nothing_of_its_autoencoder(place: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(place / "run", tmp_path / "elsewhere" / "run")
    assert not (tmp_path / "coder").exists()
    moved = place / "coder-moved"
    (place / "coder").rename(moved)
    try:
        assert main(["sample", str(alone), "-n", "2", "--out", str(tmp_path / "out")]) == 0
        assert main(["resume", str(alone), "--steps", "7"]) == 0
    finally:
        moved.rename(place / "coder")
    first = load(place / "run").sample(2, seed=0)
    assert [picture.shape for picture in first] == [(16, 16, 3)] * 2
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2


def test_a_flow_map_of_codes_draws_pictures(place: Path, tmp_path: Path) -> None:
    words = ["distill", str(place / "run"), "--steps", "2", "--threads", "1", "--previews", "0", "--snapshots", "0"]
    assert main([*words, "--out", str(tmp_path / "map")]) == 0
    assert (tmp_path / "map" / latents.FILE).is_file()
    assert (tmp_path / "map" / "steps.png").is_file()
    shown = load(tmp_path / "map").sample(1)
    assert shown[0].shape == (16, 16, 3)


def test_pictures_are_measured_against_pictures(place: Path) -> None:
    model = load(place / "run")
    report = measured(model, Measure(n=12, quick=True), model.recipe.Ask())
    assert "likelihood: not measured (it would be that of codes)" in report.notes
    real = model.recipe.seen(model.run).held_out.batch(np.arange(4))["x"]
    assert real.shape[1:] == (3, 16, 16)
    spread, mean = model.facts.spread, model.facts.mean
    bytes_ = (real * spread + mean + 1) * 127.5
    assert np.abs(bytes_ - np.rint(bytes_)).max() < 1e-2  # as they are in the files, not as the autoencoder has them


def test_other_things_than_autoencoders_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, grey = place / "pictures", tmp_path / "grey.npy"
    np.save(grey, np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8))
    for source, subject, wrong in (
        (place / "run", data, "is a run of another kind"),
        (tmp_path / "nothing", data, "is no run; `sfumato train autoencoder PICTURES` makes one"),
        (place / "coder", grey, "codes colour pictures"),
    ):
        side = [] if subject == grey else TRAIN[:2]
        words = ["train", str(subject), *side, *TRAIN[2:], "--latent", str(source), "--out", str(tmp_path / "out")]
        assert main(words) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert wrong in said[-1], said
        assert not (tmp_path / "out").exists()
    words = [
        "train",
        str(data),
        "--side",
        "18",
        *TRAIN[2:],
        "--latent",
        str(place / "coder"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 1
    assert "multiples of 4" in capsys.readouterr().err


def test_what_was_tampered_with_is_found(place: Path, tmp_path: Path) -> None:
    run = shutil.copytree(place / "run", tmp_path / "run")
    other = shutil.copytree(place / "coder", tmp_path / "coder")
    assert main(["resume", str(other), "--steps", "41"]) == 0
    shutil.copyfile(other / "model.safetensors", run / latents.FILE)
    with pytest.raises(RunError, match="is not the autoencoder that"):
        load(run).sample(1)
    (run / latents.FILE).unlink()
    with pytest.raises(RunError, match="is missing"):
        load(run).sample(1)
    stored = json.loads((run / "data.json").read_text())
    for wrong in ({"spreads": [0.0] * 4}, {"means": [0.0]}, {"factor": "many"}):
        with pytest.raises(DataError, match=r"latent in data\.json"):
            latents.Latent.read({**stored["latent"], **wrong})
    assert latents.Latent.read(None) is None
    assert read_config(Run(run)).recipe.latent is not None
