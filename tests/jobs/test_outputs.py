"""Where samples go: nothing of the user's is overwritten, ours are replaced, and each can be drawn again from its file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import DataError
from sfumato.fields.images.recipe import Images
from sfumato.jobs.making import KEY, Making, made
from sfumato.jobs.model import load
from sfumato.jobs.outputs import Place
from sfumato.training.run import RunError
from tests.training.small import child

from .small import sfumato

RUNS = Path(__file__).parents[1] / "runs" / "a3fdda3"
QUICK = ["--steps", "2", "--precision", "fp32"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of pictures of three classes."""
    return Path(shutil.copytree(RUNS / "classes", tmp_path / "classes"))


def contents(folder: Path) -> dict[str, Any]:
    """Every file, link and folder in a folder, and what is in it."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


# ---- whose is what -------------------------------------------------------------------------------------------------------


def test_a_set_of_ours_is_replaced_by_the_next(run: Path, tmp_path: Path):
    out = tmp_path / "s"
    assert sfumato("sample", run, "-n", 5, *QUICK, "--out", out) == 0
    assert sfumato("sample", run, "-n", 2, "--tol", 0.5, "--out", out) == 0
    assert set(contents(out)) == {"0000.png", "0001.png", "calls.json", "grid.png", "samples.json"}
    assert sfumato("sample", run, "-n", 3, "--format", ".npy", *QUICK, "--out", out) == 0
    assert set(contents(out)) == {"0000.npy", "0001.npy", "0002.npy", "grid.png", "samples.json"}


def _theirs(out: Path, name: str) -> None:
    (out / name).write_text("precious")


PLANTED: dict[str, Callable[[Path], object]] = {
    "a note": lambda out: _theirs(out, "notes.txt"),
    "a picture named like ours": lambda out: _theirs(out, "0007.png"),
    "a hidden file": lambda out: _theirs(out, ".keep"),
    "a folder": lambda out: (out / "mine").mkdir(),
    "one of ours, changed": lambda out: _theirs(out, "0000.png"),
    "one of ours, a link now": lambda out: ((out / "0000.png").unlink(), (out / "0000.png").symlink_to(out.parent / "kept")),
    "a link that leads nowhere": lambda out: (out / "0003.png").symlink_to(out.parent / "nothing"),
    "a list of their own": lambda out: _theirs(out, "samples.json"),
    "a list that is a link": lambda out: (
        shutil.move(out / "samples.json", out.parent / "list"), (out / "samples.json").symlink_to(out.parent / "list")
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_not_ours_is_never_touched(what: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "s"
    (tmp_path / "kept").write_text("precious")
    assert sfumato("sample", run, "-n", 2, *QUICK, "--out", out) == 0
    PLANTED[what](out)
    before = contents(tmp_path)
    capsys.readouterr()
    assert sfumato("sample", run, "-n", 4, *QUICK, "--out", out) == 1
    err = capsys.readouterr().err
    assert (
        "was not written by `sfumato sample`, or was changed since; nothing is overwritten, give another --out" in err
    )
    assert err.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("moment", ["while a file is made", "before it is put in its place", "before the list"])
def test_what_a_killed_writer_left_is_ours_and_replaced(moment: str, run: Path, tmp_path: Path, monkeypatch):
    """SIGKILL, so that nothing can be tidied up; what the user put there meanwhile is still theirs."""
    out = tmp_path / "s"

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def plant() -> None:
        save, rename, made_so_far = Images.save, os.rename, []

        def saved(self: Any, thing: Any, path: Path, making: Any) -> Path:
            made_so_far.append(path)
            if moment == "while a file is made" and len(made_so_far) == 3:
                path.write_bytes(b"half a picture")
                die()
            return save(self, thing, path, making)

        def renamed(a: Any, b: Any) -> None:
            die() if moment.startswith("before it") and len(made_so_far) == 3 else None
            rename(a, b)

        Images.save, os.rename = saved, renamed  # type: ignore[method-assign,assignment]
        if moment == "before the list":
            Place.note = die  # type: ignore[method-assign,assignment]
        sfumato("sample", run, "-n", 4, *QUICK, "--out", out)

    assert child(plant) == -signal.SIGKILL
    left = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert left == (
        {"0000.png", "0001.png"} | ({"0002.png", "0003.png", "grid.png"} if moment == "before the list" else set())
    )
    (out / "0007.png").write_text("precious")
    assert sfumato("sample", run, "-n", 2, *QUICK, "--out", out) == 1
    (out / "0007.png").unlink()
    assert sfumato("sample", run, "-n", 2, *QUICK, "--out", out) == 0
    assert set(contents(out)) == {"0000.png", "0001.png", "grid.png", "samples.json"}


def test_two_writers_at_once_are_told_apart(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "s"
    (out / f".writing-{os.getppid()}").mkdir(parents=True)
    assert sfumato("sample", run, "-n", 2, *QUICK, "--out", out) == 1
    assert f"process {os.getppid()} is writing there" in capsys.readouterr().err


def test_what_comes_while_samples_are_drawn_is_not_overwritten(tmp_path: Path):
    place = Place(tmp_path / "s", False)
    place.check()
    (place.desk / "0000.png").write_text("ours")
    (place.path / "0000.png").write_text("theirs")
    with pytest.raises(RunError, match=r"0000\.png: came while the samples were drawn; nothing is overwritten"):
        place.put(place.desk / "0000.png")
    assert (place.path / "0000.png").read_text() == "theirs"


def test_a_folder_with_nothing_but_a_list_of_their_own_is_theirs(run: Path, tmp_path: Path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "samples.json").write_text('{"mine": 1}')
    assert sfumato("sample", run, "-n", 1, *QUICK, "--out", tmp_path / "s") == 1
    assert contents(tmp_path / "s") == {"samples.json": b'{"mine": 1}'}


def test_a_single_file_of_somebody_elses_is_theirs_too(tmp_path: Path):
    place, making = Place(tmp_path / "rows.csv", True), Making("run", "ab", 0)
    (tmp_path / "other.csv").write_text("theirs")  # beside it anything may stand
    place.clear()
    place.path.write_text("1,2")
    place.note([place.path], making)
    place.clear()
    assert not place.path.exists()
    for theirs in (place.path, place.manifest):
        place.manifest.unlink(missing_ok=True)
        theirs.write_text("theirs")
        with pytest.raises(RunError, match=rf"{theirs}: was not written by"):
            place.clear()
        assert theirs.read_text() == "theirs"
        theirs.unlink()


def test_an_interrupted_set_is_known_as_ours(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, save = tmp_path / "s", Images.save

    def interrupted(recipe: Images, thing: Any, path: Path, making: Making) -> Path:
        if path.name == "0002.png":
            raise KeyboardInterrupt
        return save(recipe, thing, path, making)

    with monkeypatch.context() as patch:
        patch.setattr(Images, "save", interrupted)
        assert sfumato("sample", run, "-n", 5, *QUICK, "--out", out) == 130
    assert {"0000.png", "0001.png", "samples.json"} <= set(contents(out))
    assert sfumato("sample", run, "-n", 1, *QUICK, "--out", out) == 0
    assert set(contents(out)) == {"0000.png", "grid.png", "samples.json"}


@pytest.mark.parametrize(
    "wish", [["--w", "9"], ["--label", "pink"], ["--solver", "confidence"], ["--format", ".gif"], ["-n", "0"]]
)
def test_a_wish_that_fails_loses_nothing(wish: list[str], tmp_path: Path):
    """A strength that this map never learned is refused only once it is walked: what was drawn before is still there."""
    run, out = shutil.copytree(RUNS / "classes_map", tmp_path / "map"), tmp_path / "s"
    assert sfumato("sample", run, "-n", 2, *QUICK, "--out", out) == 0
    before = contents(out)
    assert sfumato("sample", run, *(["-n", "3"] if "-n" not in wish else []), *wish, "--out", out) == 1
    assert contents(out) == before


# ---- again ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [[], ["--label", "red", "--w", "2"], ["--seed", "5", "--solver", "churn:churn=2", "--batch", "3"]]
)
def test_a_file_is_drawn_again_to_the_same_bytes(options: list[str], run: Path, tmp_path: Path):
    assert sfumato("sample", run, "-n", 6, *QUICK, *options, "--out", tmp_path / "s") == 0
    for name in ("0000.png", "0004.png"):
        assert sfumato("sample", run, "--like", tmp_path / "s" / name, "--out", tmp_path / "again") == 0
        assert set(contents(tmp_path / "again")) == {name, "samples.json"}
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "s" / name).read_bytes()


def test_what_is_asked_beside_it_comes_first(run: Path, tmp_path: Path):
    assert sfumato("sample", run, "-n", 3, "--seed", 4, *QUICK, "--out", tmp_path / "s") == 0
    like = ["sample", run, "--like", tmp_path / "s" / "0001.png", "--out", tmp_path / "again"]
    for words, asked in (
        (["--seed", 7], {"seed": 7}), (["--label", "red"], {"label": "red"}), (["--w", 3, "--steps", 4], {"w": 3.0, "steps": 4}),
    ):  # fmt: skip
        assert sfumato(*like, *words) == 0
        right = load(run, steps_of(tmp_path / "s" / "0001.png"), drawing_of(tmp_path / "s" / "0001.png"))
        thing = right.sample(2, **{"seed": 4, **asked})[1]
        with Image.open(tmp_path / "again" / "0001.png") as picture:
            assert np.array_equal(np.asarray(picture), thing), words


def steps_of(file: Path) -> Any:
    """The walk that a file says."""
    from sfumato.jobs.walk import Walk

    return Walk(**made(file).walk)


def drawing_of(file: Path) -> Any:
    """The drawing that a file says."""
    from sfumato.jobs.walk import Drawing

    return Drawing(**made(file).drawing)


@pytest.mark.parametrize(("words", "message"), [
    (["--out", "{s}"], "lies in the folder that the new sample would go to; give another --out"),
    (["-n", "3"], "n = 3: must be left out with --like"), (["--format", ".npy"], "format = '.npy': must be left out"),
    (["--walk", "few"], "walk = 'few': must be left out"), (["--label", "pink"], "label = 'pink': must be one of"),
])  # fmt: skip
def test_what_cannot_be_heeded_is_refused(
    words, message, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "s"
    assert sfumato("sample", run, "-n", 2, *QUICK, "--out", out) == 0
    before = contents(out)
    where = [] if "--out" in words else ["--out", tmp_path / "again"]
    capsys.readouterr()
    assert sfumato("sample", run, "--like", out / "0001.png", *(word.format(s=out) for word in words), *where) == 1
    assert message in capsys.readouterr().err
    assert contents(out) == before


def test_other_weights_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sfumato("sample", run, "-n", 1, *QUICK, "--out", tmp_path / "s") == 0
    capsys.readouterr()
    assert sfumato("sample", RUNS / "pictures", "--like", tmp_path / "s" / "0000.png", "--out", tmp_path / "again") == 1
    assert "0000.png: was made of the weights " in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_items_that_are_no_pictures_are_drawn_again_too(tmp_path: Path):
    """Their making stands in the list of the set."""
    run = RUNS / "vectors"
    assert sfumato("sample", run, "-n", 3, *QUICK, "--out", tmp_path / "s") == 0
    assert sfumato("sample", run, "--like", tmp_path / "s" / "0002.npy", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "0002.npy").read_bytes() == (tmp_path / "s" / "0002.npy").read_bytes()
    (tmp_path / "s" / "0009.npy").write_bytes((tmp_path / "s" / "0002.npy").read_bytes())
    with pytest.raises(DataError, match="says nothing of how it was made"):
        made(tmp_path / "s" / "0009.npy")


# ---- making --------------------------------------------------------------------------------------------------------------


def test_a_making_comes_back_from_a_picture_as_it_was(tmp_path: Path):
    making = Making(
        "läufe/a",
        "0123456789abcdef",
        2**70,
        {"label": "grün\n鳥"},
        {"w": 1.5, "tol": None},
        {"seed": 3},
        12,
        "x",
        ".png",
    )
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=making.png())
    assert made(tmp_path / "a.png") == making


def png(*chunks: tuple[bytes, bytes], side: int = 4) -> bytes:
    """A grey picture with other chunks before its pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 5 * 4)
    every = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in every
    )


def text(words: str) -> tuple[bytes, bytes]:
    return b"iTXt", KEY.encode() + b"\0\0\0\0\0" + words.encode()


BOMB = b"iTXt", KEY.encode() + b"\0\1\0\0\0" + zlib.compress(b"9" * 60_000_000)
HONEST = json.dumps({"run": "a", "weights": "b", "seed": 1, "number": 0})
HOSTILE: dict[str, bytes] = {
    "not JSON": png(text("sfumato was here")), "a list": png(text("[1, 2]")), "a number": png(text("3")), "empty": png(text("")),
    "nothing": png(), "something missing": png(text('{"run": "a"}')), "deep": png(text("[" * 100_000)),
    "a text of 60 MB": png(BOMB), "a long number": png(text('{"seed": ' + "9" * 900_000 + "}")),
    "a seed that is a word": png(text(HONEST.replace("1", '"one"'))), "a true seed": png(text(HONEST.replace("1", "true"))),
    "a walk that is a number": png(text(HONEST[:-1] + ', "walk": 3}')), "number -1": png(text(HONEST.replace("0}", "-1}"))),
    "number 10 billion": png(text(HONEST.replace("0}", "10000000000}"))),
    "a picture of 100000 pixels a side": png(text(HONEST), side=100_000), "a torn one": png(text(HONEST))[:40],
    "no picture": b"GIF89a", "an empty file": b"", "a weight that is a list": png(text(HONEST.replace('"b"', "[]"))),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_picture_is_one_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.png").write_bytes(HOSTILE[what])
    with pytest.raises(DataError, match=r"a.png: says nothing of how it was made"):
        made(tmp_path / "a.png")
    assert sfumato("sample", RUNS / "classes", "--like", tmp_path / "a.png", "--out", tmp_path / "s") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_honest_one_of_the_same_form_is_read(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png(text(HONEST)))
    assert made(tmp_path / "a.png") == Making("a", "b", 1, number=0)


@pytest.mark.parametrize(("changes", "message"), [
    ({"walk": {"steps": 10**9}}, "asks for more than 10,000 steps"), ({"walk": {"batch": 10**8}}, "samples at once"),
    ({"walk": {"solver": "../../x"}}, "a.png: solver = '../../x': must be one of"),
    ({"walk": {"grid": "aqto"}}, "a.png: grid = 'aqto': must be one of"), ({"walk": {"stepps": 3}}, "did you mean 'steps'"),
    ({"ask": {"label": "pink"}}, "label = 'pink': must be one of"), ({"ask": {"path": "/etc"}}, "unknown option 'path'"),
    ({"drawing": {"ema": 5}}, "ema = 5.0: must be a width"), ({"number": None}, "says no number"),
    ({"weights": "00"}, "weights 00"),
])  # fmt: skip
def test_a_making_that_asks_for_nonsense_is_one_line(
    changes, message, run, tmp_path, capsys: pytest.CaptureFixture[str]
):
    assert sfumato("sample", run, "-n", 1, *QUICK, "--out", tmp_path / "s") == 0
    stored = {**json.loads(made(tmp_path / "s" / "0000.png").text()), **changes}
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(stored))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    capsys.readouterr()
    assert sfumato("sample", run, "--like", tmp_path / "a.png", "--out", tmp_path / "again") == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
