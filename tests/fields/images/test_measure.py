"""`sfumato evaluate` end to end: real pictures are at the floor, noise is far from it, copies are found out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import ArrayDataset
from sfumato.data import measure as measure_data
from sfumato.diffusion import Blanks
from sfumato.fields.images.measure import Measure, as_held_out, restored
from sfumato.fields.images.recipe import PictureAsk
from sfumato.jobs import plots
from sfumato.jobs.evaluate import evaluate, shuffled, stacked
from sfumato.jobs.model import load
from sfumato.jobs.recipe import Data
from sfumato.jobs.walk import Walk
from sfumato.metrics import features, inception
from sfumato.metrics import table as evaluation_table
from sfumato.metrics.inception import InceptionV3
from tests.jobs.small import SMALL, sfumato, write_data
from tests.metrics.test_words import matched

CLOTHES = Path(__file__).parents[4] / "shared" / "data" / "clothing64"


def report(run: Path, data: Path | None = None, samples: Path | None = None, **more) -> str:
    """What `sfumato evaluate --steps 2` prints."""
    return evaluate(load(run, Walk(steps=2)), Measure(data, samples=samples, **more))


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a third of real photographs (barely trained: its samples do not matter), and the other two thirds."""
    if not CLOTHES.is_dir():
        pytest.skip(f"needs the photographs in {CLOTHES}")
    folder = tmp_path_factory.mktemp("clothes")
    files = sorted(path for path in CLOTHES.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:720]]
    for i, path in enumerate(chosen):
        place = folder / ("train" if i < 400 else "one" if i < 560 else "other")
        place.mkdir(exist_ok=True)
        shutil.copyfile(path, place / f"{i:04d}{path.suffix}")
    small = ["0.05" if word == "0.4" else word for word in SMALL]
    assert sfumato("train", folder / "train", "--side", 16, *small, "--out", folder / "run") == 0
    return folder


def measured(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def metrics(run: Path) -> dict[str, dict[str, float]]:
    return measured(run)["metrics"]


def test_one_half_of_real_pictures_against_the_other_gives_the_floor(clothes: Path):
    text = report(clothes / "run", clothes / "one", clothes / "other")
    found = metrics(clothes / "run")
    for name, row in found.items():
        # Value and floor are two draws from the same: each scatters by about the half-width of the interval.
        assert abs(row["value"] - row["floor"]) <= 3 * (row["high"] - row["low"]), (name, row)
        assert row["n"] == 160, name
    assert abs(found["classifier_accuracy"]["value"] - 0.5) < 0.1
    assert found["frechet_infinity"]["low"] <= 0.3 * found["frechet_distance"]["floor"]
    assert "at the floor: 160 samples cannot be told from real held-out items" in text
    assert "MEMORISED" not in text


def test_noise_is_far_from_the_floor(clothes: Path, tmp_path: Path):
    rng = np.random.default_rng(1)
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    text = report(clothes / "run", clothes / "one", tmp_path)
    found = metrics(clothes / "run")
    for name in ("frechet_distance", "sliced_wasserstein", "frechet_infinity"):
        assert found[name]["low"] > 20 * abs(found[name]["floor"]), (name, found[name])
    assert found["kernel_distance"]["low"] > 1000 * abs(found["kernel_distance"]["floor"])
    assert found["classifier_accuracy"]["low"] > 0.95
    assert found["precision"]["high"] < 0.1
    assert "at the floor" not in text
    assert "MEMORISED" not in text


def test_training_pictures_are_flagged_as_memorised(clothes: Path, tmp_path: Path):
    for path in sorted((clothes / "train").iterdir())[:100]:
        shutil.copyfile(path, tmp_path / path.name)
    text = report(clothes / "run", clothes / "one", tmp_path)
    found = metrics(clothes / "run")
    assert found["copied"]["value"] > 0.9  # the run held out 5% of its folder
    assert found["memorisation_ratio"]["high"] < 0.2
    assert any(line.startswith(("MEMORISED: 9", "MEMORISED: 100%")) for line in text.splitlines())
    assert any("MEMORISED" in remark for remark in measured(clothes / "run")["remarks"])
    assert "MEMORISED" in (clothes / "run" / "README.md").read_text()


def test_a_second_call_works_out_nothing_about_real_data(clothes: Path, monkeypatch: pytest.MonkeyPatch):
    report(clothes / "run", clothes / "one", clothes / "other")
    first = metrics(clothes / "run")
    before = sorted((clothes / "run" / "cache" / "reference").iterdir())
    seen: list[int] = []
    inner = features._responses
    monkeypatch.setattr(features, "_responses", lambda x, *rest: seen.append(len(x)) or inner(x, *rest))
    for name in ("kernel_within", "classifier_test", "frechet_infinity"):
        self = getattr(evaluation_table, name)
        monkeypatch.setattr(
            evaluation_table, name, lambda *a, own=self, name=name, **k: calls.append(name) or own(*a, **k)
        )
    calls: list[str] = []
    report(clothes / "run", clothes / "one", clothes / "other")
    assert seen == [160]  # the samples
    assert sorted(calls) == sorted(
        2 * ["classifier_test", "frechet_infinity"]
    )  # of the samples in two spaces, not of floors
    assert metrics(clothes / "run") == first
    assert sorted((clothes / "run" / "cache" / "reference").iterdir()) == before
    report(clothes / "run", clothes / "other", clothes / "one")  # other data: other statistics
    assert metrics(clothes / "run")["frechet_distance"]["value"] == pytest.approx(first["frechet_distance"]["floor"])
    assert metrics(clothes / "run")["frechet_distance"]["floor"] == pytest.approx(first["frechet_distance"]["value"])


# ---- the model itself ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A finished tiny run for a kind of data."""
    found: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind)
            assert sfumato("train", *write_data(kind, folder), *SMALL, "--out", folder / "run") == 0
            found[kind] = folder / "run"
        return found[kind]

    return make


@pytest.mark.parametrize("kind", ["classes", "vectors"])
def test_everything_is_measured_by_the_command(kind: str, trained, capsys: pytest.CaptureFixture[str]):
    out = trained(kind)
    capsys.readouterr()
    assert sfumato("evaluate", out, "--steps", 2, "--bits", 6) == 0
    text = capsys.readouterr().out
    found, rows = measured(out), metrics(out)
    name = "bits_per_dim" if kind == "classes" else "density_bits"
    for row in (f"{name}_elbo", f"{name}_flow"):
        assert np.isfinite([rows[row][key] for key in ("value", "low", "high")]).all()
        assert rows[row]["low"] < rows[row]["value"] < rows[row]["high"]
        assert rows[row]["floor"] is None
        assert row in text
    assert rows[f"{name}_flow"]["n"] == 6
    assert [point["steps"] for point in found["quality_against_steps"]] == [2, 4, 8, 16, 32]
    assert all(p["low"] <= p["kernel_distance"] <= p["high"] for p in found["quality_against_steps"])
    assert set(found["loss_by_level"]) == {"held out", "training"}
    for row in rows.values():
        assert row["low"] <= row["value"] <= row["high"]
    assert (out / "report.png").is_file() == (kind == "classes")
    if kind == "classes":
        sheet = np.asarray(Image.open(out / "report.png").convert("L"))
        assert (sheet[-400:] < 250).mean() > 0.005  # curves are drawn below the pictures
        assert 0.5 < rows[f"{name}_flow"]["value"] < 9.5  # 8 bits hold any byte


def test_the_density_of_normal_vectors_is_in_their_own_units(trained):
    """A network that has learned nothing yet guesses the mean: its density is then about that of the fitted normal."""
    out = trained("vectors")
    assert sfumato("evaluate", out, "--steps", 2, "--bits", 12) == 0
    entropy = float(np.log2(2 * np.sqrt(2 * np.pi * np.e)))  # of numbers with a standard deviation of 2
    for bound in ("elbo", "flow"):
        assert metrics(out)[f"density_bits_{bound}"]["value"] == pytest.approx(entropy, abs=1.0)


def test_quick_leaves_out_what_is_slow_and_says_so(trained, capsys: pytest.CaptureFixture[str]):
    out = trained("classes")
    capsys.readouterr()
    assert sfumato("evaluate", out, "--steps", 2, "--quick") == 0
    assert "likelihood: not measured (--quick)" in capsys.readouterr().out
    assert not [name for name in metrics(out) if name.startswith("bits")]
    assert measured(out)["quality_against_steps"] == []
    assert (out / "report.png").is_file()


@pytest.mark.parametrize("name", ["raw", "pca"])
def test_the_space_can_be_chosen(name: str, trained):
    out = trained("classes")
    assert sfumato("evaluate", out, "--steps", 2, "--quick", "--features", name) == 0
    assert measured(out)["features"] == name


@pytest.mark.parametrize(("kind", "asked", "spaces"), [
    ("classes", "auto", ("patches", "pca")), ("classes", "pca", ("pca", "patches")), ("classes", "raw", ("raw", "pca")),
    ("vectors", "auto", ("pca", "waves")), ("vectors", "waves", ("waves", "pca")),
])  # fmt: skip
def test_a_second_space_by_which_nothing_is_chosen_stands_beside(
    kind: str, asked: str, spaces: tuple[str, str], trained
):
    out = trained(kind)
    text = report(out, quick=True, features=asked)
    found = measured(out)
    assert (found["features"], list(found["beside"])) == (spaces[0], [spaces[1]])
    other = found["beside"][spaces[1]]
    assert set(other["metrics"]) == set(metrics(out))
    assert other["metrics"]["kernel_distance"]["value"] != metrics(out)["kernel_distance"]["value"]
    for row in (*other["metrics"].values(), *metrics(out).values()):
        assert row["low"] <= row["value"] <= row["high"]
    assert f"features: {spaces[1]} (nothing is chosen by it)" in text
    assert any("told from the data in" in line or "ALARM" in line for line in found["remarks"])


def test_samples_made_for_a_frechet_distance_are_an_alarm_of_the_command(tmp_path: Path):
    """Numbers with the very mean and covariance of the training data and of another law: what fits that distance alone."""
    rng = torch.Generator().manual_seed(0)
    np.save(tmp_path / "data.npy", torch.randn(500, 4, generator=rng).numpy() * [1, 5, 20, 100] + 7)
    out = tmp_path / "run"
    assert sfumato("train", tmp_path / "data.npy", *SMALL, "--out", out) == 0
    model = load(out)
    train, held = (
        stacked(part).double() for part in (model.recipe.open(model.run).train, model.recipe.open(model.run).held_out)
    )
    made = matched(torch.rand(len(held), 4, generator=rng, dtype=torch.float64) ** 6, train)
    for name, x in (("fit", made), ("real", held.roll(1, 0))):
        np.save(tmp_path / f"{name}.npy", restored(model.facts, x).numpy())
    text = report(out, samples=tmp_path / "fit.npy", quick=True)
    assert "ALARM: frechet_distance is below the floor" in text
    assert "at the floor:" not in text
    text = report(out, samples=tmp_path / "real.npy", quick=True)
    assert "ALARM" not in text
    assert "the samples are not told from the data in either space" in text


@pytest.mark.parametrize(("words", "message"), [
    (("--features", "nothing"), "features = 'nothing': must be one of auto, patches, pca, raw, waves, imagenet, or a .onnx file"),
    (("--inception", "nowhere.pth"), "nowhere.pth: cannot be read (No such file or directory); give the file of Inception"),
    (("--inception-sha", "12345678"), "inception_sha = '12345678': must be given with inception"),
    (("--bits", "1"), "bits = 1: must be 0, or 2 items or more"),
])  # fmt: skip
def test_a_bad_wish_is_one_line(words, message, trained, capsys: pytest.CaptureFixture[str]):
    out = trained("classes")
    capsys.readouterr()
    assert sfumato("evaluate", out, "--steps", 2, "--quick", *words) == 1
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]


def test_too_few_samples_are_refused(trained, capsys: pytest.CaptureFixture[str]):
    assert sfumato("evaluate", trained("classes"), "--steps", 2, "-n", 5, "--quick") == 1
    assert "5 samples are too few to be measured: at least 12 are needed" in capsys.readouterr().err


def test_fid_by_the_letter_names_its_weights(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Random weights in a file: the number means nothing, but it is the Frechet distance of their features."""
    out = trained("classes")
    network = InceptionV3().eval()
    monkeypatch.setattr(inception, "load", lambda path, checksum: inception.Inception(network, "ab" * 32))
    text = report(out, quick=True, inception=tmp_path / "w.pth")
    found = measured(out)
    assert found["inception_sha256"] == "ab" * 32
    for name in ("fid", "kid"):
        row = found["metrics"][name]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] == found["n"]
        assert name in text


def test_without_matplotlib_the_report_is_the_pictures(trained, monkeypatch: pytest.MonkeyPatch):
    out = trained("classes")
    monkeypatch.setattr(plots, "available", lambda: False)
    (out / "report.png").unlink(missing_ok=True)
    report(out, quick=True)
    assert Image.open(out / "report.png").size[0] >= 300


def test_a_report_that_cannot_be_drawn_loses_no_number(trained, monkeypatch: pytest.MonkeyPatch, capsys):
    out = trained("classes")
    (out / "report.png").unlink(missing_ok=True)
    (out / "metrics.json").unlink(missing_ok=True)
    monkeypatch.setattr("sfumato.fields.images.measure.report", lambda *_: 1 / 0)
    text = report(out, quick=True)
    assert "kernel_distance" in text
    assert "kernel_distance" in metrics(out)
    assert "report.png" not in text
    assert "warning: report.png could not be made (ZeroDivisionError: division by zero)" in capsys.readouterr().err


def test_a_full_disk_loses_no_number_of_an_evaluation(trained, monkeypatch: pytest.MonkeyPatch, capsys):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    for place in ("report.write_text", "report.card", "report.write_page"):
        monkeypatch.setattr(f"sfumato.jobs.{place}", full)
    monkeypatch.setattr("sfumato.fields.images.measure.report", full)
    text = report(trained("vectors"), quick=True)
    assert "kernel_distance" in text
    assert "look at" not in text
    said = capsys.readouterr().err
    for name in ("metrics.json", "README.md", "report.html"):
        assert f"warning: {name} could not be made ([Errno 28] No space left on device)" in said


def test_items_are_shuffled_with_their_classes():
    x, label = torch.arange(50)[:, None], torch.arange(50)
    found = shuffled({"x": x, "label": label})
    assert torch.equal(found["x"][:, 0], found["label"])
    assert sorted(found["label"].tolist()) == label.tolist()
    assert found["label"].tolist() != label.tolist()


def test_samples_are_measured_for_the_classes_in_the_shares_of_the_data():
    """Of 40 held-out items 30 are of one class; drawn each as often as the other, samples would be of another mixture."""
    label = torch.tensor([0] * 30 + [1] * 10)
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    held_out = ArrayDataset(x, measure_data(x).all(), labels=label.numpy())
    queries = Blanks(torch.zeros(2), 40, {"label": torch.arange(2), "vector": torch.ones(3, 5)})
    found = as_held_out(queries, PictureAsk(), Data(None, held_out, held_out))
    drawn = found.batch(range(40))
    assert drawn["label"].sum() == 10
    assert 0 < drawn["label"][:20].sum() < 10  # in random order, so that fewer have about these shares too
    assert drawn["vector"].shape == (40, 5)
    asked = PictureAsk(label="first")
    assert as_held_out(queries, asked, Data(None, held_out, held_out)) is queries
