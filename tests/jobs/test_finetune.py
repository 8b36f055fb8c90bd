"""A trained run learns further from other data, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sfumato_package
from sfumato.jobs.config import read_config
from sfumato.jobs.model import load, task_of
from sfumato.jobs.tune import BASE, LORA, PRIOR, FinetuneOptions, read_prior
from sfumato.jobs.walk import Drawing
from sfumato.networks import lora
from sfumato.training import checkpoint
from sfumato.training.ema import read_snapshots
from sfumato.training.run import Run
from sfumato.training.watch import Averaged, held_out_loss

from .small import SMALL, sfumato, write_data, write_pictures

SHORT = ["--steps", "6", "--batch", "8", "--previews", "1", "--snapshots", "3", "--kept", "5"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes of pictures."""
    folder = tmp_path_factory.mktemp("base")
    assert sfumato("train", *write_data("classes", folder), *SMALL, "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other pictures, brighter, of two of the classes."""
    folder = tmp_path_factory.mktemp("few")
    rng = np.random.default_rng(1)
    for i in range(48):
        place = folder / ("green", "red")[i % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(150, 256, (12, 12, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tuned(base: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run tuned on these by a change of rank 2."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    assert sfumato("finetune", base, "--data", few, "--lora", 2, "--optim.lr", 0.01, *SHORT, "--out", out) == 0
    return out


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_weights(path)[0]


def test_a_tuned_run_is_a_run_of_its_own(tuned: Path, tmp_path: Path) -> None:
    """It needs nothing of the first one's folder: sampled, evaluated, resumed and distilled as any other."""
    moved = tmp_path / "moved"
    shutil.copytree(tuned, moved)
    assert sfumato("sample", moved, "-n", 3, "--out", tmp_path / "s") == 0
    assert sfumato("evaluate", moved, "--quick", "--data", write_pictures(tmp_path / "p", 30, 3, 8)) == 0
    assert sfumato("distill", moved, "--steps", 2, "--previews", 0, "--out", tmp_path / "map") == 0
    assert sfumato("sample", tmp_path / "map", "-n", 2, "--steps", 1, "--out", tmp_path / "m") == 0
    assert sfumato("resume", moved, "--steps", 8) == 0
    assert sfumato("sample", moved, "-n", 3, "--ema", 0.08, "--out", tmp_path / "e") == 0


def test_units_and_classes_are_those_of_the_first_run(base: Path, tuned: Path) -> None:
    before, after = load(base).facts, load(tuned).facts
    assert (after.mean, after.spread, after.classes) == (before.mean, before.spread, before.classes)
    assert after.count < 48  # what it learned from is the new data
    data = load(tuned).recipe.open(Run(tuned))
    item = data.train.batch(np.arange(len(data.train)))
    assert set(item["label"].tolist()) == {before.classes.index("green"), before.classes.index("red")}
    assert float(np.asarray(item["x"]).mean()) > 0.5  # brighter than what the units were made of


def test_its_weights_are_the_first_ones_and_the_change_in_its_file(tuned: Path, base: Path) -> None:
    _, about = checkpoint.read_weights(tuned / LORA)
    change, first, last = tensors(tuned / LORA), tensors(tuned / BASE), tensors(tuned / "model.safetensors")
    assert all(torch.equal(value, first[name]) for name, value in tensors(base / "model.safetensors").items())
    torch.testing.assert_close(lora.added(first, change, lora.scale_of(about)), last, rtol=1e-5, atol=1e-6)
    assert any(bool(value.any()) for name, value in change.items() if name.endswith("lora_B.weight"))
    assert {len(value) for name, value in change.items() if name.endswith("lora_A.weight")} == {2}
    held = {name.replace("lora_A.", "").replace("lora_B.", "") for name in change}
    assert all(torch.equal(last[name], value) for name, value in first.items() if name not in held)


def test_a_change_added_to_the_first_run_is_the_tuned_one(tuned: Path, base: Path, tmp_path: Path, capfd) -> None:
    first, whole = load(base), load(tuned)
    half, twice = (
        load(base, drawing=Drawing(lora=spelt)) for spelt in ((f"{tuned / LORA}=0.5",), (f"{tuned}=0.5",) * 2)
    )
    for name, value in whole.denoiser.network.network.state_dict().items():
        plain, mid, end = (each.denoiser.network.network.state_dict()[name] for each in (first, half, twice))
        torch.testing.assert_close(end, value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mid, (plain + value) / 2, rtol=1e-5, atol=1e-6)
    assert sfumato("sample", base, "-n", 2, "--lora", tuned, "--out", tmp_path / "a") == 0
    assert sfumato("sample", base, "-n", 2, "--lora", f"{tuned}=x", "--out", tmp_path / "b") == 1
    assert "'x' behind the = must be a number" in "".join(capfd.readouterr())
    assert sfumato("sample", base, "-n", 2, "--lora", base / "model.safetensors", "--out", tmp_path / "b") == 1
    assert "give the lora.safetensors of a run that was tuned" in "".join(capfd.readouterr())


def test_python_does_the_same(tuned: Path, base: Path, few: Path, tmp_path: Path) -> None:
    run = sfumato_package.finetune(
        base, few, tmp_path / "p", lora=2, kept=5, steps=6, batch=8, previews=1, snapshots=3, optim={"lr": 0.01}
    )
    for name, value in tensors(run.model).items():
        torch.testing.assert_close(value, tensors(tuned / "model.safetensors")[name], rtol=1e-4, atol=1e-5)


def test_the_average_with_the_least_held_out_loss_is_taken(tuned: Path) -> None:
    record = next(each for each in Run(tuned).records() if "held_out_best" in each)
    about = checkpoint.read_weights(tuned / "model.safetensors")[1]
    assert record["best_step"] == int(about["step"])
    task = task_of(read_config(Run(tuned)), Run(tuned))  # not trained: what the run began with
    held = Averaged(task, Run(tuned), False, torch.device("cpu"))
    assert record["held_out_before"] == pytest.approx(held_out_loss(held.task, held.denoiser, held.batches), rel=1e-4)
    losses = []
    for each in read_snapshots(tuned / "snapshots"):
        held.network.load_state_dict(dict(each.weights), strict=False)
        losses.append(held_out_loss(held.task, held.denoiser, held.batches))
    assert max(losses) > min(losses)
    assert record["held_out_best"] == pytest.approx(min(losses), rel=1e-5)
    kept = {(each.step, str(each.width)): each.weights for each in read_snapshots(tuned / "snapshots")}
    chosen = lora.merged(dict(kept[int(about["step"]), about["width"]]), 1.0)
    last = tensors(tuned / "model.safetensors")
    for name, value in chosen.items():
        torch.testing.assert_close(last[name], value, rtol=1e-5, atol=1e-6)


def test_samples_of_before_are_kept_beside_the_new_data(tuned: Path, base: Path) -> None:
    kept = read_prior(Run(tuned))
    assert kept is not None
    assert len(kept) == 5
    model, _ = load(base).asked(None, {})
    (part,) = model.draw(model.recipe.queries(model, model.recipe.Ask(), 5), range(5), stream=("prior",))
    found = kept.batch(np.arange(5))
    np.testing.assert_allclose(found["x"], part.x.numpy(), rtol=1e-4, atol=1e-4)
    assert found["label"].tolist() == part.query["label"].tolist()
    task = task_of(read_config(Run(tuned)), Run(tuned))
    names = [task.train.name(i) for i in range(len(task.train))]
    assert sum("samples of before" in name for name in names) >= 5
    assert any("green" in name for name in names)
    assert task.held_out is not None
    assert not any("before" in task.held_out.name(i) for i in range(len(task.held_out)))


def test_all_weights_are_tuned_unless_a_rank_is_given(base: Path, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    assert sfumato("finetune", base, "--data", few, "--prior", 0, *SHORT, "--out", out) == 0
    assert not (out / LORA).exists()
    assert not (out / "cache" / PRIOR).exists()
    first, last = tensors(out / BASE), tensors(out / "model.safetensors")
    moved = [name for name in first if not torch.equal(first[name], last[name])]
    assert any(name.endswith("bias") for name in moved)
    assert any(name.endswith("weight") for name in moved)
    whole = read_config(Run(base)).training.optim.lr
    tuned = read_config(Run(out)).training
    assert tuned.optim.lr is not None
    assert whole is None or tuned.optim.lr == pytest.approx(0.1 * whole)


def test_going_on_is_the_same_as_not_having_stopped(base: Path, few: Path, tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    words = ["--lora", 2, "--optim.lr", 0.01, *SHORT, "--threads", 1]
    assert sfumato("finetune", base, "--data", few, *words, "--out", tmp_path / "whole") == 0
    shutil.copytree(tmp_path / "whole", out)
    for path in (out / "checkpoints").iterdir():
        if path.name > "step-00000000":
            shutil.rmtree(path)
    (out / "model.safetensors").unlink()
    shutil.rmtree(out / "snapshots")
    assert sfumato("resume", out) == 0
    whole, half = (tensors(path / "model.safetensors") for path in (tmp_path / "whole", out))
    for name, value in whole.items():
        torch.testing.assert_close(half[name], value, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_tuned_says_so(base: Path, few: Path, tuned: Path, tmp_path: Path, capfd) -> None:
    def refused(*words: object) -> str:
        assert sfumato("finetune", *words, *SHORT, "--out", tmp_path / "out") == 1
        assert not (tmp_path / "out").exists()
        return "".join(capfd.readouterr())

    other = tmp_path / "other"
    shutil.copytree(few / "green", other / "yellow")
    shutil.copytree(few / "red", other / "red")
    said = refused(base, "--data", other)
    assert "class 'yellow' is none of those that the run knows (" in said
    assert "no such folder" in refused(base, "--data", tmp_path / "nothing")
    assert sfumato("distill", base, "--steps", 2, "--previews", 0, "--out", tmp_path / "map") == 0
    assert "is a flow map; finetune the run that it was made from" in refused(tmp_path / "map", "--data", few)
    with pytest.raises(ValueError, match="lora = 0: must be at least 1"):
        FinetuneOptions(lora=0)
    with pytest.raises(ValueError, match="alpha = 2"):
        FinetuneOptions(alpha=2.0)


def test_a_table_goes_on_in_the_columns_that_it_knows(tmp_path: Path) -> None:
    def write(path: Path, seed: int, low: int) -> Path:
        rng = np.random.default_rng(seed)
        rows = [f"{low + rng.integers(0, 20)},{('a', 'b')[int(rng.integers(0, 2))]}" for _ in range(80)]
        path.write_text("\n".join(["age,kind", *rows]) + "\n")
        return path

    words = ["--batch", 8, "--steps", 8, "--previews", 1, "--snapshots", 2, "--held-out", 0.3]
    assert sfumato("train", "tables", write(tmp_path / "one.csv", 0, 20), *words, "--out", tmp_path / "run") == 0
    more = write(tmp_path / "two.csv", 1, 25)
    assert sfumato("finetune", tmp_path / "run", "--data", more, *SHORT, "--out", tmp_path / "tuned") == 0
    assert sfumato("sample", tmp_path / "tuned", "-n", 5, "--out", tmp_path / "rows.csv") == 0
    assert (tmp_path / "rows.csv").read_text().splitlines()[0] == "age,kind"
    assert json.loads((tmp_path / "tuned" / "data.json").read_text())
