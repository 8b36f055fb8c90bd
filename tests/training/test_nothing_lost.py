"""Faults from outside while a run trains: each is said in a line, what was done is saved, and nothing else changes."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sfumato import networks
from sfumato.training import checkpoint, loop, memory, saving, watch
from sfumato.training.careful import Careful
from sfumato.training.loader import LoaderDied
from sfumato.training.memory import Shortage, is_short, parts
from sfumato.training.optim import OptimOptions
from sfumato.training.pace import Pace
from sfumato.training.saving import Saver
from sfumato.training.spikes import WARM, Spikes
from sfumato.training.telling import tell

from .small import assert_same, child, differences, made, noted, options, small_task, state, trace, train_in_child

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory):
    """Ten steps without a fault."""
    run = made(tmp_path_factory.mktemp("straight"))
    assert train_in_child(run, options()) == 0
    return run


FULL = OSError(errno.ENOSPC, "No space left on device")


def full(*_, **__):
    raise FULL


# ---- signals and pipes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_a_scheduler_are_heard_as_term_is(number: int, straight, tmp_path: Path):
    run = made(tmp_path)

    def plant() -> None:
        draw = loop._draw

        def drawn(task, how, step, *rest):
            if step == 3:
                signal.raise_signal(number)
            return draw(task, how, step, *rest)

        loop._draw = drawn

    assert train_in_child(run, options(save_seconds=3600), before=plant) == 128 + number
    assert checkpoint.newest(run.checkpoints)[0].name == "step-00000004"
    assert train_in_child(run, options(save_seconds=3600)) == 0
    assert_same(run, straight)


@pytest.fixture
def heard() -> Iterator[None]:
    """A closed terminal is heard of, whoever began the tests: under nohup it is ignored, and stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard")
def test_the_message_says_what_is_saved_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    draw = loop._draw
    monkeypatch.setattr(loop, "_draw", lambda task, how, step, *rest: (
        signal.raise_signal(signal.SIGHUP) if step == 2 else None, draw(task, how, step, *rest))[1])  # fmt: skip
    with pytest.raises(
        loop.Stopped, match="by SIGHUP after step 3 of 10, which is saved: go on by calling it again"
    ) as stopped:
        loop.train(small_task(), made(tmp_path), options())
    assert stopped.value.code == 129
    run = made(tmp_path / "known")
    run.config.write_text("")
    with pytest.raises(loop.Stopped, match=f"go on with `sfumato resume {run.path}`"):
        loop.train(small_task(), run, options())
    # where the disk was full it must not say that this step is safe
    monkeypatch.setattr(Saver, "_write", lambda *_: None)
    with pytest.raises(loop.Stopped, match="after step 3 of 10, the last one saved is 0: "):
        loop.train(small_task(), made(tmp_path / "full"), options())


def test_what_is_ignored_stays_ignored(tmp_path: Path):
    def work() -> None:  # as under nohup
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        draw = loop._draw

        def drawn(*rest):
            os.kill(os.getpid(), signal.SIGHUP)
            return draw(*rest)

        loop._draw = drawn
        loop.train(small_task(), made(tmp_path), options(steps=2))

    assert child(work) == 0


@pytest.mark.parametrize("gone", ["a pipe that nobody reads", "closed", "none at all"])
def test_a_run_whose_messages_nobody_can_read_goes_on(gone: str, straight, tmp_path: Path):
    run = made(tmp_path)

    def work() -> None:
        if gone == "closed":
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            sys.stderr.close()
        elif gone == "none at all":
            sys.stderr = None
        else:
            reads, writes = os.pipe()
            os.close(reads)
            sys.stderr = os.fdopen(writes, "w", buffering=1)
        with noted(run):
            loop.train(small_task(), run, options(previews=2))
        os._exit(0)

    assert child(work) == 0
    assert_same(run, straight)


# ---- disks and pictures --------------------------------------------------------------------------------------------------


def test_only_the_weights_need_a_disk(straight, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    """Previews, events, snapshots, log and walk.json may all fail: warned once each, and the weights are the same."""
    run = made(tmp_path)

    class Sheet:
        save = full

    monkeypatch.setattr(watch, "write_text", full)
    monkeypatch.setattr(loop, "write_snapshot", full)
    monkeypatch.setattr(torch.utils.tensorboard.SummaryWriter, "add_scalar", full)
    with noted(run):
        loop.train(small_task(preview=lambda guess: Sheet()), run, options(previews=5, snapshots=5))
    said = capsys.readouterr().err
    for what in ("the preview", "the snapshot", "TensorBoard", "walk.json"):
        assert said.count(f"warning: {what} failed (") == 1
    assert "No space left on device" in said
    run.walk.write_text(straight.walk.read_text())
    assert_same(run, straight)


@pytest.mark.parametrize("fault", ["the folder is gone", "a field's own code fails"])
def test_a_preview_that_fails_ends_no_run(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, seen = made(tmp_path), []

    class Sheet:
        def save(self, path: Path) -> None:
            path.write_bytes(b"sheet")

    def preview(guess):
        seen.append(guess)
        if fault.startswith("a field"):
            raise ZeroDivisionError("no room for columns")
        run.samples.rmdir() if len(seen) == 1 else None
        return Sheet()

    loop.train(small_task(preview=preview), run, options(previews=2))
    assert run.model.is_file()
    assert len(seen) == 2
    if fault.startswith("a field"):
        assert capsys.readouterr().err.count("the preview failed (ZeroDivisionError: no room for columns)") == 1
    else:
        assert len(list(run.samples.iterdir())) == 2


def test_careful_says_a_thing_once_and_lets_bugs_pass():
    said: list[str] = []
    careful = Careful(said.append)
    for _ in range(3):
        with careful("the log"):
            raise FULL
    assert len(said) == 1
    with pytest.raises(KeyError), careful("the log"):
        raise KeyError("a bug")


# ---- whatever else ends the loop -----------------------------------------------------------------------------------------


class Broken:
    """A data set of which batch number ``at`` does ``what`` instead."""

    def __init__(self, inner, at: int, what):
        self.inner, self.at, self.what, self.calls = inner, at, what, 0

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def buckets(self):
        return self.inner.buckets

    def batch(self, indices):
        self.calls += 1
        if self.calls > self.at:
            self.what()
        return self.inner.batch(indices)

    def name(self, index: int) -> str:
        return self.inner.name(index)


def broken(at: int, what):
    task = small_task()
    object.__setattr__(task, "train", Broken(task.train, at, what))
    return task


def vanished():
    raise OSError(errno.EIO, "Input/output error")


def test_an_error_saves_what_was_done(straight, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made(tmp_path)
    with pytest.raises(OSError, match="Input/output error"), noted(run):
        loop.train(broken(6, vanished), run, options(save_seconds=3600))
    assert "stopped by [Errno 5] Input/output error after step 6 of 10, which is saved" in capsys.readouterr().err
    assert train_in_child(run, options(save_seconds=3600)) == 0
    assert_same(run, straight)


def test_an_error_in_the_middle_of_an_update_saves_nothing(straight, tmp_path: Path, monkeypatch):
    run, update = made(tmp_path), loop.PowerEMA.update

    def failing(self, parameters, step, previous):
        if step == 5:  # the weights are of step 5 already, the averages of step 4
            raise OSError(errno.EIO, "Input/output error")
        update(self, parameters, step, previous)

    monkeypatch.setattr(loop.PowerEMA, "update", failing)
    with pytest.raises(OSError, match="Input/output"), noted(run):
        loop.train(small_task(), run, options(save_seconds=3600))
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000000"]


def test_a_killed_loading_process_saves_first_and_is_one_line(straight, tmp_path: Path):
    run = made(tmp_path)

    def work() -> None:
        with pytest.raises(LoaderDied) as caught, noted(run):
            loop.train(
                broken(4, lambda: os.kill(os.getpid(), signal.SIGKILL)), run, options(workers=1, save_seconds=3600)
            )
        text = str(caught.value)
        assert "a process that loads data died (" in text
        assert "which is saved: go on" in text
        assert "\n" not in text

    assert child(work) == 0
    assert checkpoint.load(checkpoint.newest(run.checkpoints)[0]).step > 0
    assert train_in_child(run, options(save_seconds=3600)) == 0
    assert_same(run, straight)


# ---- memory --------------------------------------------------------------------------------------------------------------


def test_what_is_a_shortage_of_memory():
    real = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(real)):
        assert is_short(error)
    for error in (RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), KeyboardInterrupt()):
        assert not is_short(error)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_short(caught.value)


def small_memory(monkeypatch, most: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
    """Only ``most`` rows at once fit; returns the sizes that were tried."""
    tried: list[int] = []
    forward = loop.Objective.forward

    def bounded(self, x, *rest):
        tried.append(len(x))
        if len(x) > most:
            raise error("out of memory")
        return forward(self, x, *rest)

    monkeypatch.setattr(loop.Objective, "forward", bounded)
    return tried


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_too_little_memory_cuts_the_batch_and_keeps_it(adaptive: bool, error, tmp_path: Path, monkeypatch, capsys):
    plain = lambda how, model, extra: torch.optim.SGD([*model.parameters(), *extra], lr=1.0)  # noqa: E731
    monkeypatch.setattr(loop.optim, "build", plain)
    how = options(optim=OptimOptions(lr=0.02, clip=math.inf), steps=4)
    whole, cut = made(tmp_path / "whole"), made(tmp_path / "cut")
    with noted(whole):
        loop.train(small_task(adaptive, uncertainty=True), whole, how)
    tried = small_memory(monkeypatch, 3, error)
    with noted(cut):
        loop.train(small_task(adaptive, uncertainty=True), cut, how)
    assert tried[:3] == [8, 4, 2]
    assert set(tried[3:]) == {2}  # found once, not at every step
    assert "step 0: out of memory; from here on 2 sample(s) at a time instead of 8" in capsys.readouterr().err
    a, b = state(whole), state(cut)
    assert a["network/blocks.0.attention.qkv.weight"].abs().sum() > 0
    for name in a:
        if name.startswith(("network/", "ema/", "learned/")):
            torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-5)
    assert [p["items"] for _, p in sorted(trace(whole).items())] == [p["items"] for _, p in sorted(trace(cut).items())]


def test_copies_stay_with_their_row_in_a_part():
    task = small_task(copies=3)
    batch = loop.batches(task.train, 4, 0, 0, 1, range(4))
    rows = loop._draw(task, options(batch=4), 0, 0, next(batch), torch.device("cpu"))
    cut = list(parts(rows, 3, 3))
    assert [len(part.x) for part, _ in cut] == [3, 3, 6]
    assert sum(share for _, share in cut) == pytest.approx(1)
    assert torch.equal(torch.cat([part.z for part, _ in cut]), rows.z)
    assert torch.equal(torch.cat([part.condition["label"] for part, _ in cut]), rows.condition["label"])
    assert [g.initial_seed() for part, _ in cut for g in part.rng.generators] == [
        g.initial_seed() for g in rows.rng.generators
    ]


def test_where_one_sample_does_not_fit_it_says_so_and_ends(tmp_path: Path, monkeypatch):
    tried = small_memory(monkeypatch, 0)
    with pytest.raises(
        Shortage, match=r"step 0: out of memory even with one sample .* GB .* --network.width"
    ) as caught:
        loop.train(small_task(), made(tmp_path), options())
    assert tried == [8, 4, 2, 1]
    assert "\n" not in str(caught.value)


def test_another_error_is_not_taken_for_a_shortage(tmp_path: Path, monkeypatch):
    tried = small_memory(monkeypatch, 0, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        loop.train(small_task(), made(tmp_path), options())
    assert tried == [8]


def test_a_held_out_loss_without_memory_is_left_out(tmp_path: Path, monkeypatch, capsys):
    def short(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(watch, "held_out_loss", short)
    run = made(tmp_path)
    loop.train(small_task(), run, options(previews=2))
    assert capsys.readouterr().err.count("the held-out loss failed") == 1
    assert run.model.is_file()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_what_a_run_takes_on_the_disk_is_known_before(kind, tmp_path: Path):
    """Whole checkpoints and snapshots, to the headers of their files."""
    size = lambda folder: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())  # noqa: E731
    task = small_task()
    task = dataclasses.replace(
        task, network=networks.choose((3, 8, 8), count=32, classes=3, width=96, depth=2, patch=4)
    )
    how, run = options(steps=6, optim=OptimOptions(kind=kind), snapshots=3, keep=2), made(tmp_path)
    first, later = memory.state(task.network, how)
    loop.train(task, run, how)
    checkpoints = sorted(run.checkpoints.iterdir())
    assert len(checkpoints) == 2
    assert all(size(path) == pytest.approx(later, rel=0.06) for path in checkpoints)
    planned = memory.stored(task.network, how, saves=6)  # one more checkpoint is there for a moment
    assert size(run.checkpoints) + later + size(run.snapshots) + run.model.stat().st_size == pytest.approx(
        planned, rel=0.06
    )
    short = made(tmp_path / "short")
    loop.train(task, short, dataclasses.replace(how, save_seconds=3600, snapshots=0))
    assert size(short.checkpoints) == pytest.approx(first + later, rel=0.06)
    assert size(short.checkpoints) + short.model.stat().st_size == pytest.approx(
        memory.stored(task.network, dataclasses.replace(how, snapshots=0), saves=0.1), rel=0.06
    )


# ---- saving beside the training ------------------------------------------------------------------------------------------


def groups(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"network": {"a": torch.full((1000,), value)}}


def test_what_is_saved_is_the_state_of_its_step_and_never_are_two_in_flight(tmp_path: Path, monkeypatch):
    begun, go, now, most = threading.Event(), threading.Event(), [0], [0]
    save = checkpoint.save

    def slow(*arguments):
        now[0] += 1
        most[0] = max(most[0], now[0])
        begun.set()
        assert go.wait(20)
        save(*arguments)
        now[0] -= 1

    monkeypatch.setattr(checkpoint, "save", slow)
    live = groups(1.0)
    with Saver(tmp_path, 3, tell) as saver:
        saver.save(1, live, {})
        assert begun.wait(20)
        assert saver.busy  # it did not wait for the disk
        saver.settle()  # nor does the next update
        assert saver.busy
        live["network"]["a"].fill_(2.0)
        go.set()
        saver.save(2, live, {})
        saver.settle()
        live["network"]["a"].fill_(3.0)
        saver.save(3, live, {}, now=True)
    assert most == [1]
    for step in (1, 2, 3):
        assert float(checkpoint.load(tmp_path / f"step-{step:08d}").tensors["network"]["a"][0]) == step


def test_the_update_waits_for_the_copy_and_the_gradient_does_not(tmp_path: Path, monkeypatch):
    """The loop takes the copy of a step's state while it works out the next gradient, and changes nothing before it is whole."""
    copy, update, pieces = saving._copy, loop._update, loop._pieces
    seen: list[str] = []
    inside, over = threading.Event(), threading.Event()

    def copied(every, copies):
        if threading.current_thread() is not threading.main_thread():
            assert inside.wait(20)  # until the next step works on its gradient
            over.wait(0.2)  # an update that does not wait is over by then
        copy(every, copies)
        seen.append("copied")

    def gradient(state, module, step, rows):
        found = pieces(state, module, step, rows)
        seen.append(f"gradient {step}")
        inside.set() if step == 3 else None
        return found

    def updated(state, *rest):
        seen.append(f"update {state.step}")
        update(state, *rest)
        over.set() if state.step == 3 else None

    monkeypatch.setattr(saving, "_copy", copied)
    monkeypatch.setattr(loop, "_update", updated)
    monkeypatch.setattr(loop, "_pieces", gradient)
    steps = itertools.count(1)
    monkeypatch.setattr(loop, "_save_due", lambda options, saved: next(steps) == 3)
    loop.train(small_task(), made(tmp_path), options(steps=5))
    at = seen.index("gradient 3")
    assert seen[at : at + 3] == ["gradient 3", "copied", "update 3"]


class Restless(torch.nn.Module):
    """A network that counts its calls and, if told to, changes its own weights in them."""

    def __init__(self, inner, own: bool):
        super().__init__()
        self.inner, self.own = inner, own
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *rows, **condition):
        if self.training:
            self.calls += 1
            if self.own:
                with torch.no_grad():
                    next(self.inner.parameters()).mul_(0.999)
        return self.inner(*rows, **condition)


@pytest.mark.parametrize("own", [False, True])
def test_what_a_network_changes_when_it_is_called_is_saved_as_it_was(own: bool, tmp_path: Path, monkeypatch, capsys):
    """The copy comes late here, after the next forward pass: still no checkpoint may mix two moments."""
    copy, forward, called = saving._copy, loop.Objective.forward, threading.Event()

    def late(every, copies):
        if threading.current_thread() is not threading.main_thread():
            called.wait(20)
        copy(every, copies)

    def noting(self, *rows):
        found = forward(self, *rows)
        called.set()
        return found

    def task():
        made_of = small_task()
        return dataclasses.replace(made_of, network=Restless(made_of.network, own))

    monkeypatch.setattr(loop.Objective, "forward", noting)
    monkeypatch.setattr(loop, "_save_due", lambda options, saved: called.clear() is None)
    monkeypatch.setattr(saving, "_copy", late)
    run, how = made(tmp_path), options(steps=4, keep=9)
    loop.train(task(), run, how)
    said = capsys.readouterr().err
    steps = [step for step, _ in checkpoint.older(run.checkpoints, 4)]
    assert steps == ([3, 2, 0, 4] if own else [3, 2, 1, 0, 4])  # the one that was mixed is not there
    assert said.count("step 1 was not saved: the network changes its own weights when it is called") == own
    for step in steps:
        assert checkpoint.load(run.checkpoints / f"step-{step:08d}").tensors["network"]["calls"] == step
    end = state(run)
    assert end["model/calls"] == 4  # what is counted goes with the averaged weights, too
    again = made(tmp_path / "again")
    shutil.copytree(run.checkpoints / "step-00000002", again.checkpoints / "step-00000002")
    loop.train(task(), again, how)
    assert differences(end, state(again)) == []


def test_what_goes_wrong_in_the_thread_comes_out(tmp_path: Path, monkeypatch):
    def bug(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(checkpoint, "save", bug)
    saver = Saver(tmp_path, 3, tell)
    saver.save(1, groups(1.0), {})
    with pytest.raises(ZeroDivisionError):
        saver.wait()
    saver.wait()  # once
    saver.save(2, groups(1.0), {})
    while saver.busy:
        time.sleep(0.001)
    with pytest.raises(ZeroDivisionError):  # at the next update, and not only where the next save begins
        saver.settle()


def test_without_room_for_a_second_state_it_is_written_at_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sfumato.training.saving.free", lambda: 100.0)
    threads: list[str] = []
    monkeypatch.setattr(checkpoint, "save", lambda *_: threads.append(threading.current_thread().name))
    Saver(tmp_path, 3, tell).save(1, groups(1.0), {})
    assert threads == [threading.main_thread().name]
    assert memory.free() is None or memory.free() > 1e6


# ---- spikes --------------------------------------------------------------------------------------------------------------


def test_a_spike_is_told_from_the_noise_of_the_loss():
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0)).mul(0.3).exp().tolist()
    spikes = Spikes()
    assert not any(spikes.see(loss) for loss in noise)
    usual = spikes.usual
    assert 0.8 < usual < 1.2
    assert spikes.see(30 * usual)
    assert spikes.usual == usual  # a spike is no part of what is usual
    early = Spikes()
    assert not any(early.see(loss) for loss in [1.0] * (WARM - 1) + [1e6])
    assert Spikes(**json.loads(json.dumps(spikes.state()))) == spikes


# ---- threads -------------------------------------------------------------------------------------------------------------


class Machine:
    """A clock, and steps whose seconds depend on the threads that torch was told to use."""

    def __init__(self, monkeypatch, seconds):
        self.time, self.threads, self.seconds = 0.0, 2, seconds
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", self.set)

    def set(self, n: int) -> None:
        self.threads = n

    def steps(self, pace: Pace, count: int) -> float:
        begin = self.time
        for _ in range(count):
            pace.begin()
            self.time += self.seconds[self.threads]
            pace.end()
        return self.time - begin


def test_threads_follow_the_machine_and_cost_little(monkeypatch):
    said: list[str] = []
    machine = Machine(monkeypatch, {1: 0.0043, 2: 0.0028})
    pace = Pace(True, said.append, clock=lambda: machine.time, most=2)
    idle = machine.steps(pace, 40_000)
    assert (machine.threads, said) == (2, [])
    assert idle < 1.05 * 40_000 * 0.0028
    machine.seconds = {1: 0.0043, 2: 0.0430}  # a busy neighbour: two threads wait for each other
    busy = machine.steps(pace, 40_000)
    assert machine.threads == 1
    assert said == ["threads: 1 instead of 2, which are faster now (0.0043 s a step, not 0.043)"]
    assert busy < 2 * 40_000 * 0.0043
    machine.seconds = {1: 0.0043, 2: 0.0028}
    machine.steps(pace, 40_000)
    assert machine.threads == 2
    assert len(said) == 2


def test_threads_that_were_asked_for_are_left_alone(monkeypatch):
    machine = Machine(monkeypatch, {1: 0.001, 2: 1.0})
    machine.steps(Pace(False, pytest.fail, clock=lambda: machine.time), 1000)
    assert machine.threads == 2
