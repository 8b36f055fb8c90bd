"""`inspect` finds exactly the broken files; training goes on within the budget and stops beyond it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sfumato.cli import main
from tests.data.broken import break_all

from .small import SMALL, sfumato, write_pictures

QUICK = ["--side", "8", "--network.width", "32", "--network.depth", "2", "--batch", "4", "--steps", "2"]


def test_one_of_each_broken_kind_among_good_ones_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_pictures(tmp_path / "photos", 30)
    reasons = break_all(tmp_path / "photos" / "bad")
    assert main(["inspect", str(tmp_path / "photos"), *QUICK]) == 1
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("  broken: ")]
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        (line,) = [line for line in lines if f"/{name}" in line]
        assert reason in line
    assert f"30 pictures in {tmp_path / 'photos'}, {len(reasons)} broken" in out
    assert "training would stop: " in out
    assert "s a step" in out


def test_a_sound_folder_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_pictures(tmp_path / "photos", 30, classes=3)
    shutil.copy(folder / "red" / "000.png", folder / "red" / "copy.png")
    (folder / "notes.txt").write_text("hello")
    assert sfumato("inspect", folder, "--labels", *QUICK) == 0
    out = capsys.readouterr().out
    for words in ("31 pictures in ", ", 0 broken", "sizes     12x12 (31)", "modes     RGB (31)", "ignored   .txt (1)",
                  "1 pictures appear more than once", "classes   blue, green, red", "network   DiT",
                  "training  2 steps of batch 4", "values    mean "):  # fmt: skip
        assert words in out
    assert "broken:" not in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]  # looking leaves nothing behind


def test_what_is_found_is_written_as_a_page_and_the_next_command_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = write_pictures(tmp_path / "my photos", 30, classes=3)
    page = tmp_path / "look.html"
    assert sfumato("inspect", folder, "--labels", *QUICK, "--out", page) == 0
    err = capsys.readouterr().err
    text = page.read_text()
    assert "<h1>my photos</h1>" in text
    assert text.count("data:image/png;base64,") == 1
    assert "30 pictures in" in text
    assert f"page      {page}" in err
    last = err.splitlines()[-1].removeprefix(
        "train it  sfumato "
    )  # trains what was inspected, options and quotes and all
    words = [" ".join(QUICK[i : i + 2]) for i in range(0, len(QUICK), 2)]
    assert last.startswith(f"train '{folder}' ")
    assert sorted(last.split("' ")[1].replace(" --", "\n--").split("\n")) == sorted(["--labels", *words])
    assert sfumato("inspect", folder, *QUICK, "--out", tmp_path / "look.txt") == 1
    assert "must be a page, a name that ends in .html" in capsys.readouterr().err
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(40, 3)))
    assert (
        sfumato("inspect", tmp_path / "rows.npy", "--steps", 2, "--out", page) == 0
    )  # nothing to be seen: words alone
    assert "<img" not in page.read_text()


@pytest.mark.parametrize("kind", ["array", "vectors"])
def test_arrays_are_described(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from .small import write_data

    small = [word for word in SMALL if word != "--labels"]
    assert sfumato("inspect", *write_data(kind, tmp_path), *small) == 0
    assert "network   " + ("DiT" if kind == "array" else "MLP") in capsys.readouterr().out


def test_one_broken_in_two_hundred_is_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_pictures(tmp_path / "photos", 199)
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:-40])
    assert sfumato("train", folder, *SMALL, "--side", 8, "--out", tmp_path / "run") == 0
    err = capsys.readouterr().err
    assert "1 broken file(s) skipped (0.5%):" in err
    assert f"{folder / 'broken.png'}: " in err
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_more_than_the_budget_stops_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_pictures(tmp_path / "photos", 28)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    assert sfumato("train", folder, *SMALL, "--side", 8, "--out", tmp_path / "run") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"sfumato: {folder}: 2 of 30 pictures (6.7%) cannot be used, more than the 1.0% allowed: ")
    assert f"{folder}/a.png, {folder}/b.png: empty file. Fix" in last  # the same reason once
    assert "--broken-budget 0.067" in last
    assert not (tmp_path / "run" / "config.yaml").exists()
    words = [folder, *SMALL, "--side", 8, "--out", tmp_path / "run", "--broken-budget", "0.067"]
    assert sfumato("train", *words) == 0  # the advice works, and in the same folder


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_that_are_all_the_same_are_too_few(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_pictures(tmp_path / "photos", 1)
    for i in range(1, count):
        shutil.copy(folder / "000.png", folder / f"copy{i}.png")
    assert sfumato("train", folder, *SMALL, "--side", 8, "--out", tmp_path / "run") == 1
    assert f"{count} item(s), all the same; at least two different ones are needed" in capsys.readouterr().err


def test_two_pictures_are_enough(tmp_path: Path):
    folder = write_pictures(tmp_path / "photos", 2)
    assert sfumato("train", folder, *SMALL, "--side", 8, "--out", tmp_path / "run") == 0
