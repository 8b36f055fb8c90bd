"""A run directory and how it is watched: writable or refused, one trainer at a time, files replaced in one move."""

from __future__ import annotations

import io
import json
import os
import socket
from pathlib import Path

import pytest

from sfumato.training import progress
from sfumato.training import run as module
from sfumato.training.progress import Watch, clock
from sfumato.training.run import Run, RunError, write_text
from sfumato.training.watch import tensorboard


def test_a_folder_is_made_and_left_clean(tmp_path: Path):
    run = Run(tmp_path / "a folder" / "with ünïcode")
    run.create()
    assert {path.name for path in run.path.iterdir()} == {"samples", "cache"}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run: cannot write here \(.+\); choose another folder with --out"):
        Run(tmp_path / "file" / "run").create()

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(RunError, match=r"cannot write here \(Permission denied\)"):
        Run(tmp_path).create()


def test_a_folder_that_is_no_run_says_what_a_run_is(tmp_path: Path):
    with pytest.raises(
        RunError, match=r"not a run \(no config.yaml\); give the folder that `sfumato train --out` made"
    ):
        Run(tmp_path).require()


def test_a_lock_of_the_living_counts_and_one_of_the_dead_does_not(tmp_path: Path):
    run, lock = Run(tmp_path), tmp_path / ".lock"
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    for stale in (str(dead), "", "no number", str(os.getpid())):  # our own number: an earlier life, as in a container
        lock.write_text(stale)
        with run.locked():
            assert lock.read_text() == f"{os.getpid()} {socket.gethostname()}"
        assert [path.name for path in tmp_path.iterdir()] == []
    lock.write_text(str(os.getppid()))
    with (
        pytest.raises(RunError, match=rf"process {os.getppid()} is training in this run; .*delete .*\.lock"),
        run.locked(),
    ):
        pass
    assert lock.read_text() == str(os.getppid())


@pytest.mark.parametrize("whose", ["nobody's", "ours", "the first"])
def test_a_lock_of_another_machine_counts_whatever_runs_here(whose: str, tmp_path: Path):
    """On a shared disk the number of a process says nothing without its machine."""
    pid = {"nobody's": 2**22 - 1, "ours": os.getpid(), "the first": 1}[whose]
    lock = tmp_path / ".lock"
    lock.write_text(f"{pid} another-machine")
    with (
        pytest.raises(RunError, match=rf"process {pid} on another-machine is training .*delete .*\.lock"),
        Run(tmp_path).locked(),
    ):
        pass
    assert lock.read_text() == f"{pid} another-machine"


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_begin_at_once_one_trains(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    if not links:  # a file system without hard links
        monkeypatch.setattr(os, "link", refuse)
    start, said, end = os.pipe(), os.pipe(), os.pipe()

    def try_it() -> None:
        os.close(start[1])
        os.close(end[1])
        os.read(start[0], 1)  # nobody writes: it returns in all at once, where the other side is closed
        try:
            with Run(tmp_path).locked():
                os.write(said[1], b"1")
                os.read(end[0], 1)
        except RunError:
            os.write(said[1], b"0")

    pids = []
    for _ in range(8):
        if (pid := os.fork()) == 0:
            try:
                try_it()
            finally:
                os._exit(0)
        pids.append(pid)
    os.close(start[1])
    answers = b"".join(os.read(said[0], 1) for _ in pids)
    os.close(end[1])
    for pid in pids:
        os.waitpid(pid, 0)
    for handle in (start[0], *said, end[0]):
        os.close(handle)
    assert sorted(answers) == sorted(b"1" + b"0" * 7)


def test_a_lock_goes_when_the_work_fails(tmp_path: Path):
    with pytest.raises(KeyError), Run(tmp_path).locked():
        raise KeyError
    assert not (tmp_path / ".lock").exists()


def test_the_log_survives_half_a_line_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run(tmp_path)
    assert run.records() == []
    run.log({"step": 1})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo\n')
    run.log({"step": 3})
    assert [record["step"] for record in run.records()] == [1, 3]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    run.log({"step": 4})


def test_a_file_is_replaced_in_one_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.json"
    write_text(path, "old")

    def crash(*_):
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", crash)
        with pytest.raises(OSError):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_numbers_go_to_tensorboard_where_it_is_installed(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard(Run(tmp_path)) as write:
        write({"loss": 0.5}, 3)
    found = EventAccumulator(str(tmp_path / "events")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in found] == [(3, 0.5)]
    with tensorboard(Run(tmp_path / "none"), enabled=False) as write:
        write({"loss": 0.5}, 3)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (45, "45 s"), (245, "4:05"), (3723, "1:02:03")])
def test_a_clock_people_can_read(seconds: float, words: str):
    assert clock(seconds) == words


def test_a_pipe_gets_plain_lines_and_no_more_than_it_needs(capsys: pytest.CaptureFixture[str]):
    with Watch("train", 1000, unit="samples", per_step=8) as watch:
        for step in range(1, 1001):
            watch.show(step, "loss 0.5")
        watch.say("a line [not markup]")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1] == "a line [not markup]"
    assert lines[-2].startswith("train 1000/1000  loss 0.5  ")
    assert "samples/s" in lines[-2]
    assert len(lines) < 10
    assert "\x1b" not in err


def test_a_clock_that_goes_back_does_not_stop_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    times = iter([100.0, 100.0, 90.0, 90.0, 90.0])
    with monkeypatch.context() as patch:
        patch.setattr(progress.time, "monotonic", lambda: next(times))
        watch = Watch("train", 2)
        watch.show(1)
        watch.show(2)
    assert "train 2/2" in capsys.readouterr().err


def test_a_silent_watch_says_nothing(capsys: pytest.CaptureFixture[str]):
    with Watch("train", 1, silent=True) as watch:
        watch.show(1)
        watch.say("nothing")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_live_bar(monkeypatch: pytest.MonkeyPatch):
    from rich.console import Console

    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    with Watch("train", 4, unit="samples") as watch:
        watch.show(4, "loss 0.5")
        watch.say("held-out loss 0.4 [not markup]")
    text = screen.getvalue()
    assert "4/4" in text
    assert "loss 0.5" in text
    assert "held-out loss 0.4 [not markup]" in text


def test_the_log_is_json_lines(tmp_path: Path):
    Run(tmp_path).log({"step": 1, "by_level": [0.5, 1.0]})
    record = json.loads((tmp_path / "log.jsonl").read_text())
    assert record["by_level"] == [0.5, 1.0]
    assert record["time"] > 0


def test_processes_that_make_a_folder_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever one of them leaves for a moment, another may take away just then."""
    write = Path.write_bytes

    def taken_away(path: Path, data: bytes) -> int:
        count = write(path, data)
        path.unlink()
        return count

    monkeypatch.setattr(Path, "write_bytes", taken_away)
    Run(tmp_path / "run").create()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["cache", "samples"]
