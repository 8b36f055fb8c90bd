"""The command and the functions are one thing: the same bytes, the same messages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sfumato
from sfumato.errors import Wrong
from sfumato.fields.images.measure import Measure
from sfumato.fields.images.recipe import Images, PictureAsk
from sfumato.jobs.model import options
from sfumato.jobs.walk import Drawing, Walk
from sfumato.networks.options import NetworkOptions
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

from .small import sfumato as command
from .small import write_data

RUNS = Path(__file__).parents[1] / "runs" / "a3fdda3"
WORDS = ["--network.width", "16", "--network.depth", "1", "--batch", "8", "--steps", "6", "--previews", "0", "--snapshots", "0",
         "--held-out", "0.4", "--threads", "1", "--optim.lr", "0.002"]  # fmt: skip
KEYWORDS: dict[str, Any] = {
    "network": {"width": 16, "depth": 1}, "batch": 8, "steps": 6, "previews": 0, "snapshots": 0, "held_out": 0.4, "threads": 1,
    "optim": OptimOptions(lr=0.002), "labels": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run by the command and by the function."""
    folder = tmp_path_factory.mktemp("both")
    words = write_data("vectors", folder)
    assert command("train", *words, *WORDS, "--out", folder / "said") == 0
    run = sfumato.train(words[0], out=folder / "called", **KEYWORDS)
    assert run.path == folder / "called"
    return folder / "said", run.path


def same(one: Path, other: Path, *names: str) -> None:
    """Files of two runs that hold the same bytes, or tensors: the order of a safetensors file's own header is left to chance."""
    for name in names:
        if name.endswith(".safetensors"):
            first, second = (load_file(folder / name) for folder in (one, other))
            assert first.keys() == second.keys()
            assert [key for key in first if not torch.equal(first[key], second[key])] == [], name
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_training_gives_the_same_bytes(both):
    same(*both, "config.yaml", "model.safetensors", "data.json", "walk.json")


def test_a_recipe_and_its_options_as_objects_are_the_same_too(both, tmp_path: Path):
    data = both[0].parent / "vectors.npz"
    recipe = Images(data, labels=True, held_out=0.4, network=NetworkOptions(width=16, depth=1))
    how = TrainOptions(batch=8, steps=6, previews=0, snapshots=0, threads=1, optim=OptimOptions(lr=0.002))
    same(both[0], sfumato.train(recipe, how, out=tmp_path / "run").path, "config.yaml", "model.safetensors")


def test_resuming_is_the_same(both, capsys: pytest.CaptureFixture[str]):
    assert sfumato.resume(both[1]).path == both[1]
    assert "finished: all 6 steps are done" in capsys.readouterr().err


def test_samples_are_the_same_pictures(tmp_path: Path):
    run = shutil.copytree(RUNS / "classes", tmp_path / "run")
    words = ["-n", 5, "--seed", 3, "--label", "green", "--steps", 4, "--w", 2]
    assert command("sample", run, *words, "--out", tmp_path / "s") == 0
    things = sfumato.load(run).sample(5, seed=3, label="green", steps=4, w=2.0)
    for i, thing in enumerate(things):
        with Image.open(tmp_path / "s" / f"{i:04d}.png") as picture:
            assert np.array_equal(np.asarray(picture), thing)
    model, ask = sfumato.load(run, steps=4, w=2.0, seed=3), PictureAsk("green")
    queries, making = model.recipe.queries(model, ask, 5), model.making(ask, ".png")
    written = list(model.recipe.write(model, queries, enumerate(things), tmp_path, making))
    assert len(written) == 5
    for path in written:
        assert path.read_bytes() == (tmp_path / "s" / path.name).read_bytes()


def test_reports_are_the_same_text(both, capsys: pytest.CaptureFixture[str]):
    words = ["--quick", "--steps", 2, "-n", 20, "--label", "1", "--w", 1.0]
    assert command("evaluate", both[0], *words) == 0
    said = capsys.readouterr().out.rstrip("\n")
    called = sfumato.evaluate(both[1], quick=True, steps=2, n=20, label="1", w=1.0)
    assert called.replace(str(both[1]), str(both[0])) == said
    objects = sfumato.evaluate(both[1], Measure(n=20, quick=True), PictureAsk("1"), steps=2, w=1.0)
    assert objects == called
    same(*both, "metrics.json")


def test_conversion_gives_the_same_bytes(both, tmp_path: Path):
    short = [
        "--steps",
        4,
        "--batch",
        8,
        "--previews",
        0,
        "--snapshots",
        0,
        "--threads",
        1,
        "--kind",
        "semigroup",
        "--w",
        1,
        1,
    ]
    assert command("distill", both[0], *short, "--out", tmp_path / "said") == 0
    run = sfumato.distill(both[1], kind="semigroup", w=(1, 1), steps=4, batch=8, previews=0, snapshots=0, threads=1)
    assert run.path == both[1].with_name("called-map")
    same(tmp_path / "said", run.path, "config.yaml", "model.safetensors", "teacher.safetensors")


def test_what_a_model_was_loaded_with_stands():
    """A wish of one sample is filled up by what the model was loaded with, and then by the usual."""
    model = sfumato.load(RUNS / "vectors", steps=3, solver="euler")
    for asked in ({"eta": 1.0}, {"solver": "heun"}, {"batch": 4}):
        found, _ = model.asked(None, asked)
        assert (found.walk.steps, *(getattr(found.walk, name) for name in asked)) == (3, *asked.values())
    assert model.asked(None, {"tol": 0.1, "solver": "adaptive"})[0].walk.steps is None
    assert model.asked(None, {})[0].walk == model.walk
    assert sfumato.load(RUNS / "vectors").asked(None, {"tol": 0.1})[0].walk.solver == "adaptive"


# ---- messages ------------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("train {d} --steps 0", {"steps": 0}, "steps = 0: must be at least 1"),
    ("train {d} --side 2", {"side": 2}, "side = 2: must be at least 4 pixels"),
    ("train {d} --ema 0.1 0.1", {"ema": (0.1, 0.1)}, "ema = (0.1, 0.1): must be two different widths"),
    ("train {d} --optim.lr -1", {"optim": {"lr": -1.0}}, "lr = -1.0: must be a number above 0"),
    ("train {d} --out {r}", {"out": "{r}"}, "there is a run here already"),
    ("train {d}/none", {"data": "{d}/none"}, "no such folder"),
    ("sample {r} --solver eul", {"solver": "eul"}, "solver = 'eul': must be one of euler, "),
    ("sample {r} --solver heun:eta=1", {"solver": "heun:eta=1"}, "heun has no parameter 'eta'; it has none"),
    (
        "sample {r} --tol 0.1 --steps 3",
        {"tol": 0.1, "steps": 3},
        "tol = 0.1: must be given without steps: it chooses them",
    ),
    ("sample {r} --label pink", {"label": "pink"}, "label = 'pink': must be one of "),
    ("sample {r} --ema 0.5", {"ema": 0.5}, "ema = 0.5: must be a width between 0 and 0.28"),
    ("sample {r} --walk sharp", {"walk": "sharp"}, "walk = 'sharp': must be usual; this field names no other"),
    ("evaluate {r} --bits 1", {"bits": 1}, "bits = 1: must be 0, or 2 items or more"),
    ("evaluate {d}", {}, "not a run (no config.yaml)"),
    ("distill {r} --cost 0", {"cost": 0.0}, "cost = 0.0: must be above 0"),
    ("distill {d}", {}, "not a run (no config.yaml)"),
    ("resume {d}", {}, "not a run (no config.yaml)"),
]


def called(verb: str, place: str, given: dict[str, Any], out: Path) -> None:
    """The function of a verb, with these keywords."""
    if verb == "sample":
        asked = {name: given.pop(name) for name in ("label",) if name in given}
        sfumato.load(place, **given).sample(1, **asked)
    elif verb == "train":
        sfumato.train(given.pop("data", place), **{"out": out, **given})
    else:
        getattr(sfumato, verb)(place, **given)


@pytest.mark.parametrize(("said", "given", "message"), MISTAKES, ids=[said for said, _, _ in MISTAKES])
def test_a_mistake_is_the_same_line(said, given, message, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, data = shutil.copytree(RUNS / "classes", tmp_path / "run"), tmp_path / "data"
    data.mkdir()
    given = {name: value.format(r=run, d=data) if isinstance(value, str) else value for name, value in given.items()}
    words = said.format(r=run, d=data).split()
    try:
        code = command(
            *words, *(["--out", tmp_path / "o"] if words[0] in ("train", "sample") and "--out" not in words else [])
        )
    except SystemExit as error:  # nested options are looked at by the parser, which says the same in a frame
        code = error.code
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert code in (1, 2)
    with pytest.raises(sfumato.errors.Mendable) as caught:
        called(words[0], words[1], given, tmp_path / "o")
    line = " ".join(str(caught.value).split())
    assert message in line
    assert line in err
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("call", "message"), [
    (lambda r: sfumato.train(r, stepps=3), "unknown option 'stepps'; did you mean 'steps'?"),
    (lambda r: sfumato.train(r, sid=3), "unknown option 'sid'; did you mean 'side'?"),
    (lambda r: sfumato.train(r, network={"widht": 3}), "unknown option 'widht'; did you mean 'width'?"),
    (lambda r: sfumato.train(r, steps="many"), "steps = 'many': expected a whole number"),
    (lambda r: sfumato.train(r, TrainOptions(), steps=3), "steps: is given by itself, beside `training`"),
    (lambda r: sfumato.train(Images(Path("x")), labels=True), "labels: give it to the recipe itself"),
    (lambda r: sfumato.load(r, solvre="euler"), "unknown option 'solvre'; did you mean 'solver'?"),
    (lambda r: sfumato.load(r).sample(2, lable="red"), "unknown option 'lable'; did you mean 'label'?"),
    (lambda r: sfumato.load(r).sample(2, stepps=3), "unknown option 'stepps'; did you mean 'steps'?"),
    (lambda r: sfumato.load(r).sample(2, w="strong"), "w = 'strong': expected a number"),
    (lambda r: sfumato.evaluate(r, quik=True), "unknown option 'quik'; did you mean 'quick'?"),
    (lambda r: sfumato.evaluate(r, Measure(), quick=True), "quick: is given by itself, beside Measure"),
    (lambda r: sfumato.evaluate(r, quick="yes"), "quick = 'yes': expected true or false"),
    (lambda r: sfumato.distill(r, knid="semigroup"), "unknown option 'knid'; did you mean 'kind'?"),
    (lambda r: sfumato.distill(r, training=TrainOptions(), steps=3), "steps: is given by itself"),
    (lambda r: sfumato.fit(None, r, stepps=3), "unknown option 'stepps'; did you mean 'steps'?"),
    (lambda r: sfumato.fit(None, r, TrainOptions(), steps=3), "steps: is given by itself"),
])  # fmt: skip
def test_keywords_are_read_strictly(call: Any, message: str):
    with pytest.raises(Wrong) as caught:
        call(RUNS / "classes")
    assert message in str(caught.value)


def test_options_take_the_same_values_as_a_file():
    assert options(TrainOptions, {"optim": {"lr": "3e-4"}, "ema": [0.1, 0.2]}) == TrainOptions(
        optim=OptimOptions(lr=3e-4), ema=(0.1, 0.2)
    )
    assert options(Walk, {"w": 2, "steps": None}) == Walk(w=2.0)
    assert options(Drawing, {"precision": "fp32"}) == Drawing(precision="fp32")
    assert options(Images, {"data": "x", "network": NetworkOptions(width=8)}) == Images(
        Path("x"), network=NetworkOptions(width=8)
    )
    with pytest.raises(Wrong, match=r"^data: is missing$"):
        options(Images, {"labels": True})


def test_names_are_where_they_are_said_to_be():
    for name in (*sfumato._VERBS, *sfumato._TRAINING, "Items", "Gaussian", "generate", "Blanks"):
        assert name in dir(sfumato)
        assert getattr(sfumato, name) is not None
    with pytest.raises(AttributeError, match="module 'sfumato' has no attribute 'trian'"):
        sfumato.trian  # noqa: B018
