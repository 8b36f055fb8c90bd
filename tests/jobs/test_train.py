"""The whole job through the command line: data on disk -> inspect -> train -> resume -> sample -> evaluate."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.jobs.config import read_config
from sfumato.jobs.model import Model, load
from sfumato.jobs.recipe import usual_batch
from sfumato.jobs.train import choose_steps
from sfumato.jobs.walk import Drawing
from sfumato.training import checkpoint, loop
from sfumato.training.run import Run

from .small import SMALL, sfumato, write_data, write_pictures

KINDS = ("pictures", "classes", "array", "vectors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A finished run for each kind of data, trained once; and the words for its data."""
    found: dict[str, tuple[Path, list[str]]] = {}

    def make(kind: str) -> tuple[Path, list[str]]:
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind)
            words = write_data(kind, folder)
            assert sfumato("train", *words, *SMALL, "--out", folder / "run") == 0
            found[kind] = folder / "run", words
        return found[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_every_file(kind: str, trained):
    out, _ = trained(kind)
    files = ["config.yaml", "model.safetensors", "log.jsonl", "README.md", "data.json", "walk.json", "cache/split.npz"]
    assert [name for name in files if not (out / name).is_file()] == []
    assert sorted(path.name for path in (out / "snapshots").iterdir()) == [
        "step-00000005.safetensors",
        "step-00000010.safetensors",
    ]
    for path in (out / "checkpoints").iterdir():
        checkpoint.verify(path)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step-00000000", "step-00000010"}
    previews = sorted(path.name for path in (out / "samples").iterdir())
    assert previews == ([] if kind == "vectors" else ["step-00000005.png", "step-00000010.png"])
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    card = (out / "README.md").read_text()
    assert "- steps: 10 of 10, batch 8" in card
    assert "- held-out loss: " in card
    assert ("- classes: blue, green, red" in card) == (kind == "classes")


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_with_a_finished_run_says_so(kind: str, trained, capsys: pytest.CaptureFixture[str]):
    out, _ = trained(kind)
    weights = (out / "checkpoints" / "step-00000010" / "manifest.json").read_bytes()
    capsys.readouterr()
    assert sfumato("resume", out) == 0
    assert "finished: all 10 steps are done" in capsys.readouterr().err
    assert (out / "checkpoints" / "step-00000010" / "manifest.json").read_bytes() == weights


@pytest.mark.parametrize("kind", KINDS)
def test_samples_become_files(kind: str, trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, _ = trained(kind)
    assert sfumato("sample", out, "-n", 5, "--steps", 4, "--out", tmp_path / "s") == 0
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    if kind == "vectors":
        assert names == [*(f"{i:04d}.npy" for i in range(5)), "samples.json"]
        item = np.load(tmp_path / "s" / "0000.npy")
        assert item.shape == (6,)
        assert np.isfinite(item).all()
    else:
        assert names == [*(f"{i:04d}.png" for i in range(5)), "grid.png", "samples.json"]
        assert Image.open(tmp_path / "s" / "0004.png").size == (8, 8)
        assert capsys.readouterr().out.strip() == str(tmp_path / "s" / "grid.png")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_scored_with_and_without_data(kind: str, trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, _ = trained(kind)
    capsys.readouterr()
    assert sfumato("evaluate", out, "--steps", 3, "--quick") == 0
    table = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["data"] == "held out"
    assert metrics["samples"]["walk"]["steps"] == 3
    assert table.splitlines()[0] in (out / "README.md").read_text()
    assert (out / "report.png").is_file() == (kind != "vectors")
    rng = np.random.default_rng(9)
    if kind == "vectors":
        np.save(tmp_path / "other.npy", rng.normal(3, 2, (20, 6)))
        other = tmp_path / "other.npy"
    else:
        other = tmp_path / "other"
        other.mkdir()
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (10, 14, 3), dtype=np.uint8)).save(other / f"{i}.png")
    assert sfumato("evaluate", out, "--data", other, "-n", 15, "--steps", 3, "--quick") == 0
    assert json.loads((out / "metrics.json").read_text())["data"] == str(other)


@pytest.mark.parametrize("kind", ["pictures", "array"])
def test_pictures_that_were_learned_from_are_no_held_out_ones(kind: str, trained, capsys: pytest.CaptureFixture[str]):
    """Said before anything is drawn."""
    out, words = trained(kind)
    capsys.readouterr()
    assert sfumato("evaluate", out, "--data", words[0], "--steps", 2, "--quick") == 1
    err = capsys.readouterr().err
    assert re.search(
        rf"{re.escape(words[0])}: (5\d|6\d)% of it was learned from; give items that the model has not seen", err
    )
    assert "sample " not in err


def test_scored_samples_do_not_count_the_sheet_beside_them(trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, _ = trained("pictures")
    assert sfumato("sample", out, "-n", 20, "--steps", 3, "--out", tmp_path / "s") == 0
    capsys.readouterr()
    assert sfumato("evaluate", out, "--samples", tmp_path / "s") == 0
    with_sheet = json.loads((out / "metrics.json").read_text())
    (tmp_path / "s" / "grid.png").unlink()
    assert sfumato("evaluate", out, "--samples", tmp_path / "s") == 0
    assert json.loads((out / "metrics.json").read_text()) == with_sheet


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_a_run_can_be_moved_and_sampled_without_its_pictures(tmp_path: Path):
    words = write_data("classes", tmp_path)
    assert sfumato("train", *words, *SMALL, "--out", tmp_path / "run") == 0
    assert sfumato("sample", tmp_path / "run", "-n", 2, "--steps", 3, "--out", tmp_path / "before") == 0
    shutil.rmtree(tmp_path / "photos")
    shutil.move(tmp_path / "run", tmp_path / "moved here")
    assert sfumato("sample", tmp_path / "moved here", "-n", 2, "--steps", 3, "--out", tmp_path / "after") == 0
    for name in ("0000.png", "0001.png", "grid.png"):  # the making inside names another folder
        assert pixels(tmp_path / "before" / name) == pixels(tmp_path / "after" / name)
    assert sfumato("evaluate", tmp_path / "moved here", "--steps", 2, "--quick") == 0
    shutil.rmtree(tmp_path / "moved here" / "cache")  # what is left is the model alone
    assert sfumato("sample", tmp_path / "moved here", "-n", 1, "--steps", 3, "--out", tmp_path / "bare") == 0
    assert pixels(tmp_path / "before" / "0000.png") == pixels(tmp_path / "bare" / "0000.png")


def test_everything_chosen_is_written_down(trained):
    config = read_config(Run(trained("pictures")[0]))
    assert config.recipe.network.kind == "dit"
    assert (config.recipe.network.width, config.recipe.network.depth, config.recipe.network.patch) == (32, 2, 2)
    assert (config.recipe.side, config.training.steps, config.training.batch) == (8, 10, 8)


def test_an_unfinished_run_can_be_sampled_and_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    words = write_data("pictures", tmp_path)
    save = loop._save

    def saved(run, step, *rest):
        save(run, step, *rest)
        rest[1].wait()
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", saved)
        assert sfumato("train", *words, *SMALL, "--save-seconds", 1e-9, "--out", tmp_path / "run") == 130
    assert sfumato("sample", tmp_path / "run", "-n", 1, "--steps", 2, "--out", tmp_path / "s") == 0
    assert "is not finished; taking its average at step 4" in capsys.readouterr().err
    assert sfumato("resume", tmp_path / "run") == 0
    assert "going on after step 4 of 10" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").is_file()


# ---- sample i depends on the seed and i alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "vectors"])
def test_sample_i_is_the_same_file_alone_and_among_others(kind: str, trained, tmp_path: Path):
    out, _ = trained(kind)
    for n in (1, 8, 20):
        assert sfumato("sample", out, "-n", n, "--steps", 4, "--out", tmp_path / str(n)) == 0
    for i in range(8):
        name = f"{i:04d}.{'npy' if kind == 'vectors' else 'png'}"
        files = [(tmp_path / str(n) / name).read_bytes() for n in (1, 8, 20) if i < n]
        assert len(set(files)) == 1
    assert len({path.read_bytes() for path in (tmp_path / "8").glob("0*")}) == 8


def samples(model: Model, numbers: range, seed: int = 0, **asked) -> torch.Tensor:
    """Samples of these numbers in five steps, (n, ...), as the network knows them."""
    model, ask = model.asked(seed, {"steps": 5, **asked})
    queries = model.recipe.queries(model, ask, max(numbers) + 1)
    return torch.cat([drawn.x for drawn in model.draw(queries, numbers)])


def test_sample_i_is_the_same_tensor_in_every_order(trained):
    model = load(trained("classes")[0])
    whole = samples(model, range(8))
    assert torch.equal(samples(model, range(7, -1, -1)), whole.flip(0))
    assert torch.equal(samples(model, range(3, 4)), whole[3:4])
    assert torch.equal(samples(model, range(2, 40))[:6], whole[2:])
    assert not torch.equal(samples(model, range(8), seed=1), whole)


def test_a_class_can_be_asked_for(trained):
    model = load(trained("classes")[0])
    assert model.facts.classes == ("blue", "green", "red")
    green = samples(model, range(6), label="green")
    assert torch.equal(green[[1, 4]], samples(model, range(6))[[1, 4]])  # in turn: 1 and 4 are green anyway
    assert not torch.equal(green[0], samples(model, range(1))[0])


def test_other_averages_are_rebuilt_from_snapshots(trained):
    out, _ = trained("pictures")
    first = load(out).denoiser.network.state_dict()
    second = load(out, drawing=Drawing(ema=0.1)).denoiser.network.state_dict()
    stored = checkpoint.load(out / "checkpoints" / "step-00000010").tensors["ema"]
    for name, value in second.items():
        plain = name.removeprefix("network.")
        if f"0.1/{plain}" in stored:
            assert torch.equal(value, stored[f"0.1/{plain}"])
            assert torch.equal(first[name], stored[f"0.05/{plain}"])
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("words", "message"), [
    (("--solver", "eul"), "solver = 'eul': must be one of euler, "), (("--grid", "fine"), "grid = 'fine': must be one of auto, "),
    (("--label", "pink"), "label = 'pink': must be one of blue, green, red"), (("--steps", "0"), "steps = 0: must be at least 1"),
    (("--batch", "0"), "batch = 0: must be at least 1"), (("-n", "0"), "n = 0: must be at least 1"),
    (("--ema", "0.5"), "ema = 0.5: must be a width between 0 and 0.28"),
    (("--out", "{file}"), "cannot write here (File exists); choose another folder with --out"),
])  # fmt: skip
def test_a_bad_wish_is_one_line(words, message, trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, _ = trained("classes")
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    where = [] if "--out" in words else ["--out", tmp_path / "s"]
    assert sfumato("sample", out, *(word.format(file=tmp_path / "file") for word in words), *where) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "s").exists() or not list((tmp_path / "s").iterdir())


def test_a_run_of_other_shapes_wants_an_array_to_compare_with(
    trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_pictures(tmp_path / "photos", 12)
    capsys.readouterr()
    assert sfumato("evaluate", trained("vectors")[0], "--data", tmp_path / "photos") == 1
    assert "this run learned items of shape (6,) from vectors.npz; give a .npy or .npz file" in capsys.readouterr().err


# ---- choices -------------------------------------------------------------------------------------------------------------


def test_the_batch_suits_the_data():
    assert [usual_batch(count, 16) for count in (1, 5, 60, 64, 128, 10**6)] == [1, 5, 8, 16, 16, 16]
    for count in (1, 2, 7, 31, 32, 500, 10**6):
        for most in (32, 256):
            assert 1 <= usual_batch(count, most) <= min(most, count)


def test_the_steps_fit_into_an_hour():
    assert choose_steps(1000, 10, 1e-6) == 10_000
    assert choose_steps(100_000, 100, 1e-6) == 100_000
    assert choose_steps(100_000, 100, 1.0) == 3600
    assert choose_steps(10, 1, 1e9) == 100


def test_minutes_become_steps_by_the_measured_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sfumato.training import measure

    monkeypatch.setattr(measure, "measure", lambda *_, **__: measure.Cost(seconds=0.5, memory=0.1, threads=1))
    words = write_data("array", tmp_path)
    small = [word for i, word in enumerate(SMALL) if "--steps" not in SMALL[max(0, i - 1) : i + 1]]
    assert sfumato("train", *words, *small, "--minutes", 0.05, "--out", tmp_path / "run") == 0
    assert read_config(Run(tmp_path / "run")).training.steps == 6
