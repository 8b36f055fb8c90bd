"""Saves beside the training: the same bytes as one that is waited for, a full disk costs a warning, a kill nothing older."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from sfumato.training import checkpoint, loop
from sfumato.training.run import Run
from sfumato.training.saving import Saver
from sfumato.training.telling import tell

from .small import assert_same, made, options, slow, train_in_child

resource = pytest.importorskip("resource")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def groups(seed: int, size: int = 40) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of every kind that a state holds."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(size, size, generator=rng)
    return {
        "network": {"w": weights, "turned": weights.T, "half": weights[::2].bfloat16(), "none": torch.zeros(0, 3)},
        "optimizer": {"step": torch.tensor(float(seed)), "seen": torch.arange(size), "on": weights > 0},
        "ema": {"w": weights.double()},
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_bytes_are_those_of_a_save_that_is_waited_for(tmp_path: Path):
    with Saver(tmp_path / "beside", 9, tell) as saver:
        for step in range(1, 6):  # the memory of one copy is that of the next
            live = groups(step)
            saver.save(step, live, {"seed": step})
            saver.settle()
            for named in live.values():
                for value in named.values():
                    value.zero_()  # what is changed after that belongs to the next step
    with Saver(tmp_path / "now", 9, tell) as saver:
        for step in range(1, 6):
            saver.save(step, groups(step), {"seed": step}, now=True)
    for step in range(1, 6):
        checkpoint.save(tmp_path / "plain", step, groups(step), {"seed": step}, 9)
    beside = contents(tmp_path / "beside")
    assert len(beside) == 5 * 5
    for name in ("now", "plain"):
        found = contents(tmp_path / name)
        assert found.keys() == beside.keys()
        assert [file for file in found if found[file] != beside[file]] == []


@needs_fork
@slow
def test_a_disk_that_is_full_for_a_while_costs_warnings_alone(tmp_path: Path):
    """No file may grow beyond a part of a checkpoint in steps 4 to 6: their saves fail in the thread that makes them."""
    straight, run = made(tmp_path / "straight"), made(tmp_path / "run")
    assert train_in_child(straight, options()) == 0

    def plant() -> None:
        save, most = loop._save, resource.RLIM_INFINITY

        def limited(of: Run, step: int, *rest: object) -> None:
            short = step in (4, 5, 6)
            saver = rest[1]
            if short:
                saver.wait()  # for that of the step before
                resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, most))
            save(of, step, *rest)
            if short:
                saver.wait()
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
                newest, complaints = checkpoint.newest(of.checkpoints)
                assert (newest.name, complaints) == ("step-00000003", [])
                assert not [path.name for path in of.checkpoints.iterdir() if not path.name.startswith("step-")]

        loop._save = limited

    assert train_in_child(run, options(), before=plant) == 0
    said = (run.path / "stderr.txt").read_text()
    for step in range(1, 11):
        assert said.count(f"warning: step {step} was not saved: ") == (step in (4, 5, 6))
    assert "free some space" in said
    assert_same(run, straight)


@needs_fork
@slow
def test_killed_at_random_while_it_is_written_the_newest_whole_one_loads(tmp_path: Path):
    """One process after the other saves beside its work and is killed; whatever it was doing, what was whole stays whole."""
    drawn, seen = random.Random(5), []
    for turn in range(20):

        def work() -> None:
            begin = checkpoint.newest(tmp_path)[0]
            step = 0 if begin is None else checkpoint.load(begin).step
            with Saver(tmp_path, 2, tell) as saver:
                while True:
                    step += 1
                    saver.save(step, groups(step, 300), {"seed": step})
                    saver.settle()

        pid = os.fork()
        if pid == 0:
            os._exit(child_of(work))
        before, give_up = newest_step(tmp_path), time.monotonic() + 100
        while newest_step(tmp_path) < before + 2 and time.monotonic() < give_up:
            time.sleep(0.001)
        time.sleep(0.03 * drawn.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        newest, _ = checkpoint.newest(tmp_path)
        assert newest is not None, turn
        found = checkpoint.load(newest)
        expected = groups(found.step, 300)
        for group, named in expected.items():
            for name, value in named.items():
                assert torch.equal(found.tensors[group][name], value), (turn, group, name)
        seen.append(found.step)
        complete = [path for path in tmp_path.iterdir() if path.name.startswith("step-")]
        assert 1 <= len(complete) <= 3
    assert seen == sorted(set(seen))


def newest_step(folder: Path) -> int:
    return max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)


def child_of(work: object) -> int:
    """Never comes back but by an error."""
    torch.set_num_threads(1)
    try:
        work()  # type: ignore[operator]
    finally:
        os._exit(1)
