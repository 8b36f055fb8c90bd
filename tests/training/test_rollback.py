"""A batch that spoils a run, and the run as if it had never been: to the bit, whatever is killed in between."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfumato.training import checkpoint, loop, skipped
from sfumato.training.objective import Task
from sfumato.training.run import Run, RunError, sealed
from sfumato.training.spikes import MOST, WARM, Spikes

from .small import differences, made, options, processes, slow, small_task, state, trace, train_in_child

pytestmark = pytest.mark.usefixtures("quick_disk")

HOW = options(steps=40, save_seconds=3600)
BAD = 31  # the step that is spoilt, counted from 1 as the log counts


class Counting(torch.nn.Module):
    """A network that counts the batches it is trained with, and knows their mean, as batch normalisation does."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, *levels, **condition):
        if self.training:
            self.calls += 1
            self.mean.lerp_(x.detach().mean(), 0.1)
        return self.inner(x, *levels, **condition)


def counting() -> Task:
    task = small_task()
    return dataclasses.replace(task, network=Counting(task.network))


def saving_at(*steps: int) -> None:
    """Checkpoints at these steps alone, besides the first and the last."""
    after = loop.Desk.after

    def noted_after(self, step, ending, saving):
        after(self, step, ending, ending or step in steps)

    loop.Desk.after = noted_after


def loud(step: int, times: float = 1000.0) -> None:
    """The data of a step are far too large, or no numbers."""
    draw = loop._draw

    def drawn(task, how, at, *rest):
        found = draw(task, how, at, *rest)
        return found._replace(x=found.x * times) if at == step - 1 else found

    loop._draw = drawn


def ruinous(step: int) -> None:
    """The batch of a step looks like any other, but what the weights learn from it ruins them."""
    update = loop._update

    def updated(state, seen, lr):
        update(state, seen, lr)
        if state.step == step - 1:
            with torch.no_grad():
                for value in state.objective.network.parameters():
                    value.mul_(4.0)

    loop._update = updated


FAULTS: dict[str, Callable[[], None]] = {
    "strange data": lambda: loud(BAD),
    "no numbers": lambda: loud(BAD, math.nan),
    "ruined weights": lambda: ruinous(BAD),
}


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that leaves the batch out from the start."""
    run = made(tmp_path_factory.mktemp("never"))
    assert train_in_child(run, dataclasses.replace(HOW, skip_steps=(BAD,)), counting) == 0
    return run


def same(run: Run, never: Run) -> None:
    assert differences(state(run), state(never)) == []
    lines = [json.loads(line) for line in (run.path / "trace.jsonl").read_text().splitlines()]
    wanted = trace(never)
    assert all(record in lines for record in wanted.values())  # beside them what was undone, and looks without learning
    assert {line["step"] for line in lines} - {step for step, _ in wanted} == {BAD - 1}


def test_a_step_that_is_left_out_is_not_drawn_and_counts(never: Run):
    seen, end = trace(never), state(never)
    assert sorted(step for step, _ in seen) == [step for step in range(40) if step != BAD - 1]
    assert end["network/calls"] == 39
    assert end["step"] == 40


@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_is_as_if_it_had_never_seen_the_batch(fault: str, never: Run, tmp_path: Path):
    run, how = made(tmp_path), dataclasses.replace(HOW, rollback=True)

    def plant() -> None:
        FAULTS[fault]()
        saving_at(10, 25)

    assert train_in_child(run, how, counting, plant) == 0
    same(run, never)
    assert skipped.read(run) == {BAD}
    (event,) = [record for record in run.records() if "spike" in record]
    assert event["step"] == (BAD if fault != "ruined weights" else BAD + 1)
    assert len(event["items"]) == 8
    assert event["items"][0].endswith(".png")
    said = (run.path / "stderr.txt").read_text()
    if fault == "ruined weights":
        assert f"step {BAD + 1}: back to step 25, and the same steps again without the batch of step {BAD}" in said
        again = [line for line in (run.path / "trace.jsonl").read_text().splitlines() if '"step": 27,' in line]
        assert len(again) == 2
    else:
        assert f"step {BAD}: its batch is left out" in said


def test_without_being_asked_a_spike_is_logged_and_learned_from(tmp_path: Path):
    run = made(tmp_path)
    assert train_in_child(run, HOW, counting, FAULTS["strange data"]) == 0
    (event,) = [record for record in run.records() if "spike" in record]
    assert event["step"] == BAD
    assert event["spike"] > 100 * event["usual"]
    assert event["norm"] > 0
    assert (BAD - 1, 0) in trace(run)
    assert skipped.read(run) == set()
    assert state(run)["network/calls"] == 40


POINTS = ("before it is written down", "written down", "forgotten", "restored", "walking again", "saved again")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_on_the_way_back_changes_nothing(point: str, never: Run, tmp_path: Path):
    """A checkpoint of the ruined weights is there, too, and must not be gone on from."""
    run, how = made(tmp_path), dataclasses.replace(HOW, rollback=True, keep=9)
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731

    def plant() -> None:
        ruinous(BAD)
        saving_at(10, 25, BAD) if point != "saved again" else saving_at(10, 25, 28, BAD)

    def fatal() -> None:
        plant()
        write, forget, restore, draw = skipped.write, checkpoint.forget, loop.State.restore, loop._draw
        seen: list[int] = []

        def drawn(task, how, at, *rest):
            seen.append(at)
            if point == "walking again" and seen.count(27) == 2:
                die()
            if point == "saved again" and seen.count(29) == 2:
                die()
            return draw(task, how, at, *rest)

        def after(call: Callable, kills: bool, first: bool = False) -> Callable:
            def called(*arguments):
                die() if kills and first else None
                found = call(*arguments)
                die() if kills else None
                return found

            return called

        loop._draw = drawn
        skipped.write = after(write, point in POINTS[:2], point == POINTS[0])
        checkpoint.forget = after(forget, point == "forgotten")
        loop.State.restore = after(restore, point == "restored")

    assert train_in_child(run, how, counting, fatal) == -signal.SIGKILL
    assert train_in_child(run, how, counting, plant) == 0
    same(run, never)
    assert skipped.read(run) == {BAD}
    assert f"step-{BAD:08d}" in [path.name for path in run.checkpoints.iterdir()]  # saved anew, of the good weights
    assert BAD in checkpoint.load(run.checkpoints / f"step-{BAD:08d}").meta["skipped"]


@slow
@pytest.mark.parametrize("fault", ["no numbers", "ruined weights"])
def test_two_processes_go_back_together(fault: str, tmp_path: Path):
    runs = {name: made(tmp_path / name) for name in ("never", "back")}
    hows = {"never": dataclasses.replace(HOW, skip_steps=(BAD,)), "back": dataclasses.replace(HOW, rollback=True)}
    for name, run in runs.items():

        def work(name: str = name, run: Run = run) -> None:
            if name == "back":
                FAULTS[fault]()
                saving_at(10, 25)
            loop.train(counting(), run, hows[name])

        try:
            assert processes(work, 2) == [0, 0]
        except OSError:
            pytest.skip("no local sockets here")
    assert differences(state(runs["back"]), state(runs["never"])) == []
    assert skipped.read(runs["back"]) == {BAD}


def test_a_run_that_may_be_rolled_back_is_still_the_same_after_a_break(tmp_path: Path):
    how = options(steps=30, rollback=True, save_seconds=3600)
    runs = [made(tmp_path / name) for name in ("whole", "broken")]
    assert train_in_child(runs[0], how) == 0

    def plant() -> None:
        draw = loop._draw

        def drawn(task, options, step, *rest):
            if step == 17:
                signal.raise_signal(signal.SIGTERM)
            return draw(task, options, step, *rest)

        loop._draw = drawn

    assert train_in_child(runs[1], how, before=plant) == 143
    assert train_in_child(runs[1], how) == 0
    assert differences(state(runs[0]), state(runs[1])) == []


def test_with_no_checkpoint_from_before_it_says_so_and_goes_on(tmp_path: Path):
    run, how = made(tmp_path), dataclasses.replace(HOW, rollback=True, keep=1)

    def plant() -> None:
        ruinous(BAD)
        saving_at(BAD)

    assert train_in_child(run, how, small_task, plant) == 0
    said = (run.path / "stderr.txt").read_text()
    assert f"no checkpoint from before step {BAD} is left to go back to" in said
    assert skipped.read(run) == set()


def test_batches_are_left_out_so_often_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Data that go bad for good: the run must not walk through all of them."""
    draw = loop._draw

    def drawn(task, how, at, *rest):
        found = draw(task, how, at, *rest)
        return found._replace(x=found.x * math.nan) if at >= 5 else found

    monkeypatch.setattr(loop, "_draw", drawn)
    run = made(tmp_path)
    with pytest.raises(loop.NonFinite, match=f"step {5 + MOST}: "):
        loop.train(small_task(), run, dataclasses.replace(HOW, rollback=True))
    assert skipped.read(run) == set(range(6, 6 + MOST))


def test_a_spike_is_told_from_the_noise_of_the_loss_and_from_no_number():
    spikes = Spikes()
    assert spikes.strange(math.nan)
    assert spikes.strange(math.inf)
    for _ in range(WARM):
        assert not spikes.see(1.0)
    before = spikes.state()
    assert spikes.strange(10.0)
    assert not spikes.strange(1.1)
    assert spikes.state() == before


def test_a_damaged_list_is_named(tmp_path: Path):
    run = made(tmp_path)
    (run.path / skipped.FILE).write_text(sealed({"steps": [7]}).replace("7", "8"))
    with pytest.raises(
        RunError, match=r"skipped\.json: cannot be read \(it is damaged, its checksum differs\); restore it"
    ):
        loop.train(small_task(), run, options())


def test_where_every_checkpoint_has_learned_from_it_nothing_is_gone_on_from(tmp_path: Path):
    run = made(tmp_path)
    loop.train(small_task(), run, options(steps=4, keep=1))
    skipped.write(run, {3})
    with pytest.raises(checkpoint.CheckpointError, match=r"every checkpoint has learned from a batch .* \(step 3\)"):
        loop.train(small_task(), run, options(steps=6, keep=1))
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000004"]
