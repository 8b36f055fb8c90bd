"""The loop: a run that is killed, stopped, damaged or cut into pieces ends with the same bits as one that is not."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.adapting.flow_map import Guided
from sfumato.diffusion import Adaptive, LogitNormal, PerPart, optimal_transport
from sfumato.training import checkpoint, loop, whole
from sfumato.training.objective import Task
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError

from .small import (
    after_save,
    assert_same,
    at_point,
    child,
    differences,
    made,
    noted,
    options,
    slow,
    small_task,
    state,
    trace,
    train_in_child,
)
from .test_processes import conversion
from .worlds import WORLDS

pytestmark = pytest.mark.usefixtures("quick_disk")


def learned() -> Task:
    """A task with everything that learns beside the weights, and with dropout."""
    task = small_task(adaptive=True, uncertainty=True)
    task.network.get_submodule("blocks.0.attention.qkv").register_forward_hook(
        lambda module, inputs, output: torch.nn.functional.dropout(output, 0.2, module.training)
    )
    return task


LEARNED = "adaptive times, learned uncertainty, dropout"
KINDS = {
    "plain": (small_task, options()),
    "accumulate": (small_task, options(accumulate=2)),
    LEARNED: (learned, options(accumulate=2)),
    "muon": (small_task, options(optim=OptimOptions(kind="muon", weight_decay=0.1))),
    "transport": (lambda: small_task(coupling=optimal_transport), options()),
    "masked": (lambda: WORLDS["Masked"].task(), options()),
    "product": (lambda: WORLDS["Product with tokens"].task(times=PerPart(LogitNormal(), 0.5), copies=2), options()),
    "conversion": (lambda: conversion("lagrangian", guided=Guided()), options()),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory):
    """Ten steps without a break, made once for each kind."""
    found: dict[str, Run] = {}

    def make(kind: str) -> Run:
        if kind not in found:
            found[kind] = made(tmp_path_factory.mktemp("straight"))
            task, how = KINDS[kind]
            assert train_in_child(found[kind], how, task) == 0
        return found[kind]

    return make


# ---- killed --------------------------------------------------------------------------------------------------------------


RARE = ("accumulate", "transport", "conversion")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=slow if kind in RARE else ()) for kind in KINDS])
def test_five_steps_kill_five_steps_are_ten_steps(kind: str, straight, tmp_path: Path):
    task, how = KINDS[kind]
    run = made(tmp_path)
    assert train_in_child(run, how, task, after_save(5)) == -signal.SIGKILL
    assert checkpoint.load(checkpoint.newest(run.checkpoints)[0]).step == 5
    assert train_in_child(run, how, task) == 0
    assert_same(run, straight(kind))
    assert len(trace(run)) == 10 * how.accumulate


def test_kill_and_go_on_with_any_number_of_loading_processes(straight, tmp_path: Path):
    run = made(tmp_path)
    for workers, stop in ((0, 3), (2, 4), (1, 7)):  # step 4 begins the second epoch
        assert train_in_child(run, options(workers=workers), before=after_save(stop)) == -signal.SIGKILL
    assert train_in_child(run, options(workers=2)) == 0
    assert_same(run, straight("plain"))


@slow
def test_kill_at_the_first_and_the_last_checkpoint(straight, tmp_path: Path):
    run = made(tmp_path)
    for stop in (0, 1, 10):
        assert train_in_child(run, options(), before=after_save(stop)) == -signal.SIGKILL
    assert train_in_child(run, options()) == 0
    assert_same(run, straight("plain"))


@slow
def test_kill_at_random_moments_of_saving(straight, tmp_path: Path):
    points = random.Random(7)
    run, killed = made(tmp_path), 0
    for _ in range(60):
        code = train_in_child(run, options(), before=at_point(points.randint(1, 20)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert killed >= 8
    assert_same(run, straight("plain"))
    assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".tmp")]


@slow
def test_another_seed_is_another_run(straight, tmp_path: Path):
    run = made(tmp_path)
    assert train_in_child(run, options(seed=1)) == 0
    mine, other = trace(run), trace(straight("plain"))
    assert all(mine[at][name] != other[at][name] for at in mine for name in ("items", "x", "t", "z", "loss"))


def test_every_step_has_its_own_data_times_and_noise(straight):
    seen = trace(straight("plain"))
    for name in ("items", "x", "t", "z", "loss"):
        assert len({str(piece[name]) for piece in seen.values()}) == 10
    first = [item for step in range(4) for item in seen[step, 0]["items"]]
    assert sorted(first) == list(range(32))  # an epoch visits everything once


def test_adaptive_times_learn(straight):
    errors = state(straight(LEARNED))["learned/times.errors"]
    assert (errors != 1).sum() >= 20  # 80 times were seen
    assert errors.min() < 1


def test_going_on_with_a_finished_run_says_so_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = made(tmp_path)
    loop.train(small_task(), run, options(steps=2))
    before = state(run)
    capsys.readouterr()
    loop.train(small_task(), run, options(steps=2))
    assert "finished: all 2 steps are done" in capsys.readouterr().err
    assert differences(before, state(run)) == []


# ---- pieces --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_batch_in_pieces_is_the_same_batch(adaptive: bool, tmp_path: Path):
    ends, seen = [], []
    for accumulate in (1, 2, 4):
        run = made(tmp_path / str(accumulate))
        # plain descent is linear in the gradient: AdamW would blow up rounding where a gradient is nearly zero
        plain_descent = pytest.MonkeyPatch()
        plain_descent.setattr(
            loop.optim, "build", lambda options, model, extra: torch.optim.SGD([*model.parameters(), *extra], lr=1.0)
        )
        with plain_descent.context(), noted(run):
            loop.train(
                small_task(adaptive), run, options(accumulate=accumulate, optim=OptimOptions(lr=0.02, clip=math.inf))
            )
        plain_descent.undo()
        ends.append(state(run))
        steps = [[p for at, p in sorted(trace(run).items()) if at[0] == step] for step in range(10)]
        seen.append([[item for piece in pieces for item in piece["items"]] for pieces in steps])
    assert seen[0] == seen[1] == seen[2]
    names = [name for name in ends[0] if name.startswith(("network/", "ema/", "learned/"))]
    assert any(name.startswith("learned/") for name in names) == adaptive
    for other in ends[1:]:
        for name in names:
            torch.testing.assert_close(other[name], ends[0][name], rtol=1e-5, atol=1e-6)
        assert max(float((other[name] - ends[0][name]).abs().max()) for name in names) < 1e-5


# ---- signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=slow)])
def test_a_signal_finishes_the_step_saves_and_leaves(number: int, code: int, workers: int, straight, tmp_path: Path):
    run = made(tmp_path)
    hourly = options(save_seconds=3600, workers=workers)

    def plant() -> None:  # in the middle of step 4, between drawing its data and its loss
        draw = loop._draw

        def drawn(task, options, step, *rest):
            if step == 3:
                signal.raise_signal(number)
            return draw(task, options, step, *rest)

        loop._draw = drawn

    assert train_in_child(run, hourly, before=plant) == code
    path, complaints = checkpoint.newest(run.checkpoints)
    assert path.name == "step-00000004"
    assert not complaints
    assert not (run.path / ".lock").exists()
    assert not run.model.exists()
    assert train_in_child(run, hourly) == 0
    assert_same(run, straight("plain"))


@slow
def test_a_signal_in_the_last_step_lets_the_run_finish(straight, tmp_path: Path):
    run = made(tmp_path)
    assert train_in_child(run, options(), before=after_save(10, signal.SIGTERM)) == 0
    assert_same(run, straight("plain"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_and_leaves_the_older_checkpoint(number: int, straight, tmp_path: Path):
    run = made(tmp_path)

    def plant() -> None:  # the first in step 4, the second while its checkpoint is written
        draw = loop._draw

        def drawn(task, options, step, *rest):
            if step == 3:
                signal.raise_signal(number)
            return draw(task, options, step, *rest)

        def reached(point: str) -> None:
            if point == "after_file:ema" and (run.checkpoints / "step-00000003").exists():
                signal.raise_signal(number)

        loop._draw, whole.reached = drawn, reached

    assert train_in_child(run, options(), before=plant) == 128 + number
    path, complaints = checkpoint.newest(run.checkpoints)
    assert path.name == "step-00000003"
    assert not complaints
    assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".tmp")]
    assert train_in_child(run, options()) == 0
    assert_same(run, straight("plain"))


def test_training_puts_the_signal_handlers_back(tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    loop.train(small_task(), made(tmp_path), options(steps=1))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# ---- numbers that are not finite ----------------------------------------------------------------------------------------


class Bad:
    """A data set whose item ``bad`` holds a NaN."""

    def __init__(self, inner, bad: int):
        self.inner, self.bad = inner, bad

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def buckets(self):
        return self.inner.buckets

    def batch(self, indices: np.ndarray):
        rows = self.inner.batch(indices)
        rows["x"][indices == self.bad, 0, 2, 3] = np.nan
        return rows

    def name(self, index: int) -> str:
        return self.inner.name(index)


def refused(task: Task, run: Run, how: TrainOptions = options()) -> str:
    """Train until NonFinite; the message, after checking that nothing bad reached memory or disk."""
    with pytest.raises(loop.NonFinite) as caught, noted(run):
        loop.train(task, run, how)
    path, complaints = checkpoint.newest(run.checkpoints)
    assert not complaints
    found = checkpoint.load(path)
    memory = task.network.state_dict()
    for name, saved in found.tensors["network"].items():
        assert torch.equal(saved, memory[name])
    for group in found.tensors.values():
        assert all(bool(torch.isfinite(value).all()) for value in group.values())
    assert f"step {found.step}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bad_number_in_the_data_names_step_file_and_time(accumulate: int, straight, tmp_path: Path):
    task = small_task(adaptive=True)
    seen = {at: piece["items"] for at, piece in trace(straight("plain")).items()}
    step, place, item = 2, 5, seen[2, 0][5]
    assert item not in seen[0, 0] + seen[1, 0]
    object.__setattr__(task, "train", Bad(task.train, item))
    run = made(tmp_path)
    message = refused(task, run, options(accumulate=accumulate))
    assert message.startswith(f"step {step}: the loss is not finite; first bad value in the data itself")
    assert f"{item:02d}.png (t = 0." in message
    assert message.count(".png") == 1
    assert f"the batch is in bad-step-{step}.safetensors" in message
    kept = checkpoint.read_tensors(run.path / f"bad-step-{step}.safetensors")
    rows = [i for i, number in enumerate(kept["indices"].tolist()) if number == item]
    assert [i for i in range(len(kept["x"])) if not kept["x"][i].isfinite().all()] == rows
    assert f"(t = {float(kept['t'][rows[0]]):.4f})" in message
    assert kept["condition.label"].shape == (8 // accumulate,)
    assert place < 8
    assert isinstance(task.times, Adaptive)
    assert torch.isfinite(task.times.errors).all()


def test_a_bad_loss_names_the_layer_and_the_files(straight, tmp_path: Path):
    task = small_task()
    name, inner = next((n, m) for n, m in task.network.named_modules() if not list(m.children()) and "blocks.1" in n)
    calls = iter(range(10**6))

    def spoil(module, inputs, output):
        return output * torch.inf if module.training and next(calls) >= 3 else output

    inner.register_forward_hook(spoil)
    message = refused(task, made(tmp_path))
    assert message.startswith(f"step 3: the loss is not finite; first bad value in layer {name} (float32); samples: ")
    files = [f"{i:02d}.png (t = 0." for i in trace(straight("plain"))[3, 0]["items"]]
    assert all(file in message for file in files[:4])
    assert "and 4 more" in message


def test_bad_weights_name_their_layer(tmp_path: Path):
    task, run = small_task(), made(tmp_path)
    loop.train(task, run, options(steps=2))
    name = [n for n, _ in task.network.named_parameters() if n.startswith("blocks.1") and n.endswith(".weight")][-1]
    good = checkpoint.newest(run.checkpoints)[0]
    found = checkpoint.load(good)
    before = {n: p.clone() for n, p in task.network.state_dict().items()}
    found.tensors["network"][name][0, 0] = torch.nan
    checkpoint.save(tmp_path / "bad" / "checkpoints", 2, found.tensors, found.meta)
    spoilt = Run(tmp_path / "bad")
    with pytest.raises(loop.NonFinite, match=rf"^step 2: .* layer {name.rpartition('.')[0]} \(float32\);"):
        loop.train(small_task(), spoilt, options())
    assert all(torch.equal(before[n], p) for n, p in task.network.state_dict().items())
    assert checkpoint.newest(spoilt.checkpoints)[0].name == "step-00000002"


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_bad_gradient_names_its_layer(value: float, tmp_path: Path):
    task = small_task(adaptive=True, uncertainty=True)
    name, weight = next((n, p) for n, p in task.network.named_parameters() if n.startswith("blocks.0") and p.ndim == 2)
    steps = iter(range(10**6))
    weight.register_hook(lambda gradient: gradient * value if next(steps) >= 4 else gradient)
    message = refused(task, made(tmp_path))
    assert message.startswith(f"step 4: the loss is finite but its gradient is not, in layer network.{name}")


def test_a_gradient_that_is_finite_but_too_large_is_called_so(tmp_path: Path):
    task = small_task()
    weight = next(p for n, p in task.network.named_parameters() if n.startswith("blocks.0") and p.ndim == 2)
    weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    message = refused(task, made(tmp_path))
    assert message.startswith("step 0: the gradient is too large, its norm is infinite.")


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_bad_once_is_said_to_have_gone(where: str, accumulate: int, tmp_path: Path):
    """A flipped bit, an overheated card: the same step again is finite, and nothing in it is blamed."""
    task, calls = small_task(), iter(range(10**6))
    worth = 3 * accumulate  # calls before the bad one, in step 3
    name, inner = next((n, m) for n, m in task.network.named_modules() if "blocks.1" in n and not list(m.children()))
    if where == "loss":
        inner.register_forward_hook(
            lambda module, inputs, output: output * torch.nan if module.training and next(calls) == worth else output
        )
    else:
        next(inner.parameters()).register_hook(
            lambda gradient: gradient * torch.nan if next(calls) == worth else gradient
        )
    message = refused(task, made(tmp_path), options(accumulate=accumulate))
    assert message.startswith(
        "step 3: the loss or its gradient was not finite, but that did not happen again on replay"
    )
    assert name not in message
    assert ".png" not in message


def test_the_replay_is_the_step_just_as_it_was(tmp_path: Path):
    """Dropout too, piece by piece: what depends on it must happen again."""
    task, drawn = small_task(), []
    task.network.register_forward_hook(
        lambda module, inputs, output: drawn.append(float(torch.rand(()))) if module.training else None
    )
    weight, steps = next(p for p in task.network.parameters() if p.ndim == 2), iter(range(10**6))
    weight.register_hook(lambda gradient: gradient * torch.nan if next(steps) >= 4 else gradient)
    message = refused(task, made(tmp_path), options(accumulate=2))
    assert message.startswith("step 2: the loss is finite but its gradient is not, in layer network.")
    first, second = drawn[4:6]
    assert drawn[6:] == [first, first, second, second]  # each piece is looked at, then gone through
    assert len(set(drawn[:6])) == 6


# ---- locks, disks, damage -----------------------------------------------------------------------------------------------


def test_two_processes_cannot_train_the_same_run(tmp_path: Path):
    run = made(tmp_path)
    inside = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (run.path / ".lock").write_text(str(inside.pid))
        with pytest.raises(RunError, match=f"process {inside.pid} is training in this run"):
            loop.train(small_task(), run, options(steps=1))
        assert not run.checkpoints.exists()
        assert (run.path / ".lock").read_text() == str(inside.pid)
    finally:
        inside.communicate(b"\n")
    loop.train(small_task(), run, options(steps=1))  # it is dead now: its lock is worth nothing
    assert not (run.path / ".lock").exists()


def test_the_lock_is_held_while_training(tmp_path: Path):
    run, codes = made(tmp_path), []

    def again() -> None:
        with pytest.raises(RunError, match="is training in this run"):
            loop.train(small_task(), run, options())

    def plant() -> None:
        save = loop._save

        def saved(run, at, *rest):
            save(run, at, *rest)
            rest[1].wait()
            if at == 2:
                loop._save = save
                codes.append(child(again))
                assert codes == [0]

        loop._save = saved

    assert train_in_child(run, options(steps=3), before=plant) == 0


def test_a_disk_that_is_full_for_a_while_does_not_end_the_run(straight, tmp_path: Path):
    run = made(tmp_path)

    def plant() -> None:
        save = checkpoint.save

        def saved(folder, step, *rest):
            if step in (4, 5):
                raise checkpoint.CheckpointError("the disk is too full to save, need 9.0 MB, have 1.0 MB")
            return save(folder, step, *rest)

        checkpoint.save = saved

    assert train_in_child(run, options(keep=20), before=plant) == 0
    said = (run.path / "stderr.txt").read_text()
    assert "warning: step 4 was not saved: the disk is too full to save, need 9.0 MB, have 1.0 MB" in said
    assert "warning: step 5 was not saved" in said
    steps = {int(path.name[5:]) for path in run.checkpoints.iterdir()}
    assert steps == set(range(11)) - {4, 5}
    assert_same(run, straight("plain"))


def test_a_disk_that_is_full_from_the_start_stops_before_the_first_step(tmp_path: Path, monkeypatch):
    def full(*_):
        raise checkpoint.CheckpointError("the disk is too full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(checkpoint.CheckpointError, match="too full"):
        loop.train(small_task(), made(tmp_path), options())


@pytest.mark.parametrize(
    "file",
    ["network.safetensors", *(pytest.param(f, marks=slow) for f in ("ema.safetensors", "optimizer.safetensors"))],
)
def test_a_flipped_bit_in_the_newest_checkpoint_goes_back_to_the_one_before(file: str, straight, tmp_path: Path):
    run = made(tmp_path)
    assert train_in_child(run, options(), before=after_save(6)) == -signal.SIGKILL
    victim = run.checkpoints / "step-00000006" / file
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert train_in_child(run, options()) == 0
    said = (run.path / "stderr.txt").read_text()
    assert f"step-00000006: {file} is damaged" in said
    assert "going on after step 5 of 10" in said
    assert_same(run, straight("plain"))


def test_with_every_checkpoint_damaged_nothing_is_trained_over(tmp_path: Path):
    run = made(tmp_path)
    loop.train(small_task(), run, options(steps=2))
    for manifest in run.checkpoints.glob("*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(checkpoint.CheckpointError, match="no whole checkpoint is left"):
        loop.train(small_task(), run, options(steps=2))


# ---- what a run leaves --------------------------------------------------------------------------------------------------


def test_looking_at_a_run_changes_nothing_in_it(straight, tmp_path: Path):
    run = made(tmp_path)
    how = options(previews=5, snapshots=5)
    assert train_in_child(run, how) == 0
    assert_same(run, straight("plain"))
    assert sorted(int(p.stem[5:]) for p in run.snapshots.iterdir()) == [2, 4, 6, 8, 10]
    assert [r["step"] for r in run.records() if "by_level" in r] == [2, 4, 6, 8, 10]


def test_the_log_has_the_loss_that_was_descended_on(straight):
    run = straight("plain")
    record = next(r for r in run.records() if "loss" in r)
    assert record["step"] == 10
    assert record["loss"] == pytest.approx(float.fromhex(trace(run)[9, 0]["loss"]), rel=1e-6)
    assert record["lr"] > 0
    assert record["norm"] > 0


@pytest.mark.parametrize("seen", [1, 3, 8, 10, 400])
def test_previews_are_spread_over_the_run_and_include_its_end(seen: int):
    due = [step for step in range(1, 11) if loop._due(step, 10, seen)]
    assert len(due) == min(seen, 10)
    assert due[-1] == 10


def test_training_learns(tmp_path: Path):
    run = made(tmp_path)
    loop.train(small_task(), run, options(steps=60, batch=16, previews=6, save_seconds=3600))
    held_out = [record["held_out"] for record in run.records() if "held_out" in record]
    assert held_out[-1] < 0.5 * held_out[0]
