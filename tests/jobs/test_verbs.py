"""The verbs of the README in other orders than hers: none spoils what another one needs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sfumato.training import telling

from .small import sfumato, write_data

SHORT = ["--batch", "8", "--steps", "4", "--previews", "0", "--snapshots", "2", "--threads", "1"]
SMALL = [*SHORT, "--network.width", "16", "--network.depth", "1"]
ORDERS = [
    "train evaluate distill sample evaluate-map resume",
    "train sample sample evaluate-samples distill",
    "train distill evaluate sample-map sample sample-map evaluate-map",
    "train resume sample evaluate-samples sample evaluate resume",
    "train sample distill evaluate-samples sample-map like evaluate-samples",
    "inspect train inspect evaluate evaluate distill distill-again",
]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_the_verbs(order: str, tmp_path: Path):
    data = write_data("classes", tmp_path)
    run, out = tmp_path / "run", tmp_path / "samples"
    words = {
        "inspect": ["inspect", *data, *SMALL],
        "train": ["train", *data, *SMALL, "--held-out", "0.4", "--out", run],
        "resume": ["resume", run],
        "sample": ["sample", run, "-n", 14, "--steps", 2, "--out", out],
        "evaluate": ["evaluate", run, "--steps", 2, "--quick"],
        "evaluate-samples": ["evaluate", run, "--samples", out],
        "distill": ["distill", run, *SHORT],
        "distill-again": ["distill", run, *SHORT, "--out", tmp_path / "other"],
        "sample-map": ["sample", tmp_path / "run-map", "-n", 13, "--steps", 1, "--out", out],
        "evaluate-map": ["evaluate", tmp_path / "run-map", "--quick"],
        "like": ["sample", tmp_path / "run-map", "--like", out / "0003.png", "--out", tmp_path / "again"],
    }
    for verb in order.split():
        assert sfumato(*words[verb]) == 0, verb
    last = order.split()[-1]
    if last.startswith("evaluate"):  # and it measured what it was told to
        found = json.loads(((tmp_path / "run-map" if last == "evaluate-map" else run) / "metrics.json").read_text())
        assert found["metrics"]["kernel_distance"]["n"] == (13 if last == "evaluate-samples" else 21)


# ---- all orders ----------------------------------------------------------------------------------------------------------

DEEDS = ("sample", "evaluate", "distill", "resume", "compare")


def started(finished: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A run, whole or interrupted after half of its steps; the words of its data."""
    from sfumato.training import loop

    data = write_data("classes", folder)
    words = ["train", *data, *SMALL, "--held-out", "0.4", "--save-seconds", 1e-9, "--out", folder / "run"]
    save = loop._save

    def saved(run, step, *rest):
        save(run, step, *rest)
        rest[1].wait()
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(loop, "_save", saved)
        assert sfumato(*words) == (0 if finished else 130)
    return data


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
@pytest.mark.parametrize("first", DEEDS)
def test_in_all_orders_a_verb_does_its_work_or_says_in_a_line_what_it_lacks(
    first: str, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Every permutation that begins with ``first``, walked as a tree: a folder is copied where orders part. Paths are relative,
    so that what a verb leaves is read where the next one finds it. Of a run that was interrupted all orders of four: with a
    resume among them it is a finished one, and the fifth verb behind those is looked at there."""
    monkeypatch.setattr(telling, "WIDEST", 120)
    monkeypatch.setattr(
        os, "fsync", lambda _: None
    )  # 65 commands that save: what a disk promises is not looked at here
    (tmp_path / "0").mkdir()
    monkeypatch.chdir(tmp_path / "0")
    data = started(finished, tmp_path / "0", monkeypatch)
    words = {
        "sample": ["sample", "run", "-n", 13, "--steps", 2],
        "evaluate": ["evaluate", "run", "--steps", 2, "--quick"],
        "distill": ["distill", "run", *SHORT],
        "resume": ["resume", "run", "--steps", 6],
        "compare": ["compare", "samples", data[0], "--features", "pca"],
    }
    lacks = {  # what a verb needs of those before it, and the line that says so
        "compare": lambda before: "sample" not in before and "samples: no such folder",
        "distill": lambda before: not finished and "resume" not in before and "run: is not finished",
    }
    count = 0

    def walk(before: tuple[str, ...]) -> None:
        nonlocal count
        here = Path.cwd()
        for verb in [each for each in DEEDS if each not in before] if before else [first]:
            there = tmp_path / "-".join([*before, verb])
            shutil.copytree(here, there)
            monkeypatch.chdir(there)
            capfd.readouterr()
            code = sfumato(*words[verb])
            out, err = capfd.readouterr()
            lines, right = err.splitlines(), lacks.get(verb, lambda _: False)(before)
            assert code == (1 if right else 0), (before, verb, err)
            assert max(map(len, [*out.splitlines(), *lines])) <= 120, (before, verb)
            assert "Traceback" not in err
            assert "Warning" not in err, (before, verb, err)
            if right:
                assert lines[-1].startswith(f"sfumato: {right}"), (before, verb, lines)
                assert verb != "distill" or not (there / "run-map").exists()
            count += 1
            if finished or len(before) < 3:
                walk((*before, verb))
            monkeypatch.chdir(here)
            shutil.rmtree(there)

    walk(())
    assert count == 1 + 4 + 12 + 24 + (24 if finished else 0)


def test_of_several_processes_one_says_where_the_run_is(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    from sfumato.jobs.training_verbs import trained

    for rank, said in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert trained(tmp_path, "trained") == 0
        found = capsys.readouterr()
        assert (f"trained: {tmp_path}" in found.out, "measure" in found.err) == (said, said)
