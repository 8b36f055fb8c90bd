"""The edges of a run: signals in any phase, loading that fails, few items, changed options, odd folders."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.data import DataError, Items
from sfumato.diffusion import Gaussian, Linear
from sfumato.training import checkpoint, loader, loop, watch
from sfumato.training.loader import LoaderDied
from sfumato.training.objective import Task
from sfumato.training.optim import OptimOptions

from .small import assert_same, child, made, noted, options, small_task, state, trace, train_in_child
from .worlds import WORLDS

pytestmark = pytest.mark.usefixtures("quick_disk")

# ---- signals -------------------------------------------------------------------------------------------------------------


class Sheet:
    def save(self, path: Path) -> None:
        path.write_bytes(b"sheet")


def looking() -> Task:
    return small_task(preview=lambda guess: Sheet())


def once(module: object, name: str, number: int, when: Callable[..., bool] = lambda *_: True) -> Callable[[], None]:
    """Plant a signal at the first call of ``module.name`` of which ``when`` is true."""

    def plant() -> None:
        plain, sent = getattr(module, name), []

        def called(*arguments):
            if not sent and when(*arguments):
                sent.append(1)
                signal.raise_signal(number)
            return plain(*arguments)

        setattr(module, name, called)

    return plant


PHASES = {
    "the first gradient": (loop, "_pieces", lambda state, module, step, pieces: True),
    "between two pieces": (loop, "_draw", lambda task, how, step, place, *rest: step == 5 and place > 0),
    "the update": (loop, "_update", lambda state, *rest: state.step == 5),
    "the held-out loss": (watch, "held_out_loss", lambda *rest: True),
    "the preview": (Sheet, "save", lambda *rest: True),
    "a save that is waited for": (checkpoint, "save", lambda folder, step, *rest: step == 0),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory):
    run = made(tmp_path_factory.mktemp("straight"))
    assert train_in_child(run, HOW, looking) == 0
    return run


HOW = options(accumulate=2, previews=2, save_seconds=3600)


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_any_phase_ends_within_a_step_and_costs_nothing(phase: str, straight, tmp_path: Path):
    run = made(tmp_path)
    module, name, when = PHASES[phase]
    number = signal.SIGINT if phase == "the preview" else signal.SIGTERM
    assert train_in_child(run, HOW, looking, once(module, name, number, when)) == 128 + number
    path, complaints = checkpoint.newest(run.checkpoints)
    assert not complaints
    step = {"the first gradient": 1, "a save that is waited for": 1, "the held-out loss": 6, "the preview": 6}.get(
        phase, 6
    )
    assert path.name == f"step-{step:08d}"
    assert train_in_child(run, HOW, looking) == 0
    assert_same(run, straight)


# ---- loading -------------------------------------------------------------------------------------------------------------


class Slow:
    """A data set of which a batch never comes, or is an error that names its file."""

    def __init__(self, inner, hangs: bool):
        self.inner, self.hangs, self.calls, self.buckets = inner, hangs, 0, inner.buckets

    def __len__(self) -> int:
        return len(self.inner)

    def batch(self, indices):
        self.calls += 1
        if self.calls > 4 and self.hangs:
            time.sleep(3600)
        if self.calls > 4:
            raise DataError(f"{self.inner.name(int(indices[0]))}: cannot be decoded; replace or remove it")
        return self.inner.batch(indices)

    def name(self, index: int) -> str:
        return self.inner.name(index)


def slow_task(hangs: bool) -> Task:
    task = small_task()
    return dataclasses.replace(task, train=Slow(task.train, hangs))


def test_a_loading_process_that_hangs_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = made(tmp_path)
    monkeypatch.setattr(loader, "PATIENCE", 2.0)

    def work() -> None:
        with pytest.raises(
            LoaderDied, match=r"has brought nothing for 2 s: it hangs, .* after step 4 of 10, which is saved"
        ):
            loop.train(slow_task(True), run, options(workers=1, save_seconds=3600))

    begin = time.monotonic()
    assert child(work) == 0
    assert time.monotonic() - begin < 300
    assert checkpoint.newest(run.checkpoints)[0].name == "step-00000004"


def test_an_error_of_a_loading_process_names_the_file_in_one_line(tmp_path: Path):
    run = made(tmp_path)

    def work() -> None:
        with pytest.raises(DataError) as caught:
            loop.train(slow_task(False), run, options(workers=1, save_seconds=3600))
        assert str(caught.value).endswith(".png: cannot be decoded; replace or remove it")
        assert "\n" not in str(caught.value)

    assert child(work) == 0
    assert checkpoint.newest(run.checkpoints)[0].name == "step-00000004"


# ---- few items, and none that counts -------------------------------------------------------------------------------------


def few(count: int) -> Task:
    task = small_task()
    rows = task.train.batch(np.arange(count))
    return dataclasses.replace(task, train=Items({name: torch.as_tensor(value) for name, value in rows.items()}))


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (1, 8), (3, 8), (7, 3), (32, 1)])
def test_small_batches_and_smaller_data_are_learned_from(count: int, batch: int, tmp_path: Path):
    """A batch that is larger than the data meets items again, a last one that is short is filled from the next epoch."""
    run, how = made(tmp_path), options(batch=batch, steps=7, save_seconds=3600)
    with noted(run):
        loop.train(few(count), run, how)
    assert all(bool(torch.isfinite(value).all()) for value in state(run).values())
    items = [item for _, piece in sorted(trace(run).items()) for item in piece["items"]]
    assert len(items) == 7 * batch
    for epoch in range(len(items) // count):
        assert sorted(items[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_a_batch_of_which_nothing_counts_changes_nothing(tmp_path: Path):
    """All of it is padding: the loss is 0, no number is lost, and plain descent leaves the weights where they are."""
    world = WORLDS["Gaussian"]
    items = world.items(weight=torch.zeros_like(world.x()))
    task = dataclasses.replace(world.task(), train=items, held_out=None)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    run = made(tmp_path)
    loop.train(task, run, options(steps=2, previews=1, optim=OptimOptions(weight_decay=0.0)))
    records = [record["loss"] for record in run.records() if "loss" in record]
    assert records == [0.0]
    for name, value in checkpoint.load(run.checkpoints / "step-00000002").tensors["network"].items():
        assert torch.equal(value, before[name])


# ---- what was changed in between -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 4}, "batch was 8 and is 4"),
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"optim": OptimOptions(lr=0.5)}, "optim.lr was None and is 0.5"),
        ({"process": Gaussian(Linear(), "noise")}, "process was "),
        ({"torch": "2.99.0"}, "and is 2.99.0"),
        ({"workers": 0, "keep": 5, "save_seconds": 9.0}, None),
    ],
)
def test_going_on_with_something_changed_says_what(change: dict, said: str | None, tmp_path: Path, monkeypatch, capsys):
    run = made(tmp_path)
    loop.train(small_task(), run, options(steps=3))
    process, version = change.pop("process", None), change.pop("torch", None)
    task = small_task() if process is None else dataclasses.replace(small_task(), process=process)
    if version is not None:
        monkeypatch.setattr(torch, "__version__", version)
    capsys.readouterr()
    loop.train(task, run, options(steps=4, **change))
    warned = [line for line in capsys.readouterr().err.splitlines() if "this run was begun otherwise" in line]
    assert len(warned) == (said is not None)
    assert all(said in line for line in warned)


@pytest.mark.parametrize("name", ["with spaces", "ünïcode 漢字 🎨", "-a-hyphen", "a=b,c"])
def test_any_name_of_a_folder_will_do(name: str, tmp_path: Path):
    run = made(tmp_path / name)
    loop.train(small_task(), run, options(steps=2, previews=1, snapshots=1))
    loop.train(small_task(), run, options(steps=3, previews=1, snapshots=1))
    assert checkpoint.load(checkpoint.newest(run.checkpoints)[0]).step == 3
    assert run.model.is_file()


def test_no_loss_is_shown_where_none_was_seen(tmp_path: Path):
    run = made(tmp_path)
    loop.train(small_task(), run, options(steps=3, skip_steps=(1, 2, 3)))
    assert checkpoint.newest(run.checkpoints)[0].name == "step-00000003"
    assert not [record for record in run.records() if "loss" in record]
    assert math.isfinite(float(sum(value.double().sum() for value in checkpoint.read_tensors(run.model).values())))
