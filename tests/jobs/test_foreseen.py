"""`sfumato train ... --plan N`: what many processes would hold and do, said by one, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from .small import sfumato, write_data


def test_a_plan_of_many_processes_is_said_and_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = write_data("classes", tmp_path)
    monkeypatch.chdir(tmp_path)
    how = ["--batch", "64", "--network.width", "64", "--network.depth", "2", "--parallel.shard", "4"]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert sfumato("train", *words, *how, "--plan", "8") == 0
    said = capsys.readouterr().out
    assert "processes 8: replicate 2 x shard 4 x context 1; 8 row(s) at a time in each" in said
    assert "units     2 Block of" in said
    assert "memory    " in said
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_plan_that_cannot_be_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = write_data("array", tmp_path)
    assert sfumato("train", *words, "--batch", "64", "--parallel.shard", "3", "--plan", "8") == 1
    assert "replicate 2 x shard 3 x context 1 = 6, but 8 processes were started" in capsys.readouterr().err
    assert sfumato("train", *words, "--batch", "20", "--plan", "8") == 1
    assert "a batch of 20 cannot be shared evenly among 8 processes" in capsys.readouterr().err
    assert sfumato("train", *words, "--plan", "0") == 1
    assert "plan = 0: must be a number of processes" in capsys.readouterr().err
