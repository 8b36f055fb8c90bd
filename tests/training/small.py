"""A tiny training job, runs of it that die at chosen moments, and what two runs must have in common bit for bit."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # optimisers and the log import these two late: here once, rather than in every child
import torch.utils.tensorboard
from torch import Tensor

from sfumato import networks
from sfumato.data import ArrayDataset, Statistics
from sfumato.diffusion import Adaptive, Gaussian, Linear, key, tree
from sfumato.training import checkpoint, loop, whole
from sfumato.training.objective import Objective, Task
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

OPTIONS = TrainOptions(
    steps=10,
    batch=8,
    previews=0,
    snapshots=0,
    precision="fp32",
    compile="off",
    save_seconds=1e-9,
    keep=3,
    threads=1,
)
"""A checkpoint after every step."""


def pictures(count: int = 40, side: int = 8, seed: int = 3) -> np.ndarray:
    """Different smooth pictures, uint8 (count, 3, side, side)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 2, 2))
    return np.kron(coarse, np.ones((1, 1, side // 2, side // 2))).astype(np.uint8)


def small_task(adaptive: bool = False, uncertainty: bool = False, seed: int = 0, **other: Any) -> Task:
    """Pictures of three classes and a small transformer."""
    x, labels = pictures(), np.arange(40) % 3
    statistics = Statistics.of(x)
    names = [f"{i:02d}.png" for i in range(len(x))]
    train, held_out = (ArrayDataset(x, statistics, labels, names, part) for part in (np.arange(32), np.arange(32, 40)))
    torch.manual_seed(key("weights", seed))
    network = networks.choose((3, 8, 8), count=32, classes=3, width=32, depth=2, patch=4)
    process = Gaussian(Linear(), "data", "velocity")
    given: dict[str, Any] = {"times": Adaptive()} if adaptive else {}
    given["hidden"] = {("label",): 0.1}
    return Task(network, process, train, held_out, uncertainty=uncertainty, **{**given, **other})


def made(folder: Path) -> Run:
    """An empty run directory."""
    run = Run(folder)
    run.create()
    return run


@contextmanager
def noted(run: Run) -> Iterator[None]:
    """Write down every piece that is trained on: step, data, times, noise and loss, to the last bit."""
    draw, kind = loop._draw, loop.Objective
    now: dict[str, Any] = {}

    class Noted(Objective):
        def forward(self, *rows: Any) -> Any:
            value, losses, means = super().forward(*rows)
            if now:
                line = {**now, "loss": float(value.detach()).hex()}
                with (run.path / "trace.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                now.clear()
            return value, losses, means

    def drawn(task: Any, options: Any, step: int, offset: int, batch: Any, *rest: Any) -> Any:
        found = draw(task, options, step, offset, batch, *rest)
        now.update(step=step, place=offset, items=batch.indices)
        now.update({f"label {name}": value.tolist() for name, value in found.condition.items()})
        for name in ("x", "t", "z"):
            now[name] = [float(value.double().sum()).hex() for value in tree.leaves(getattr(found, name))]
        return found

    loop._draw, loop.Objective = drawn, Noted
    try:
        yield
    finally:
        loop._draw, loop.Objective = draw, kind


def trace(run: Run) -> dict[tuple[int, int], dict[str, Any]]:
    """What was trained on, by step and piece. What was done again after a kill must have been done the same way."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for line in (run.path / "trace.jsonl").read_text().splitlines():
        record = json.loads(line)
        earlier = found.setdefault((record["step"], record["place"]), record)
        assert earlier == record
    return found


def child(work: Callable[[], None], still: int = 0) -> int:
    """Do work in a process of its own; returns its exit status (negative: the signal that ended it). ``still``: seconds after
    which it says where it is, and is ended by SIGALRM."""
    pid = os.fork()
    if pid == 0:
        code = 1
        if still:
            faulthandler.dump_traceback_later(still - 5, exit=False)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(still)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and under nohup
        try:
            work()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except loop.Stopped as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def processes(work: Callable[[], None], world: int) -> list[int]:
    """Do work in so many processes that know of each other; returns their exit statuses, the first one's first. Raises OSError
    where there are no local sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def rank(number: int) -> Callable[[], None]:
        def ranked() -> None:
            place = {"RANK": number, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({word: str(value) for word, value in place.items()} if world > 1 else {})
            work()

        return ranked

    def all_of_them() -> list[int]:
        others = []
        for number in range(1, world):
            if (pid := os.fork()) == 0:
                os._exit(child(rank(number), STILL) & 255)
            others.append(pid)
        return [child(rank(0), STILL), *(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in others)]

    found = all_of_them()
    if found[0] == -signal.SIGALRM:
        warnings.warn(
            f"{world} processes stood still for {STILL} s (see where above) and were begun again", stacklevel=2
        )
        return all_of_them()
    return found


STILL = 240
"""Seconds after which processes that know of each other are taken to stand still: forked while threads of others run (of a
store, of a pool), one may wait for ever for a lock that nobody holds. It says where, and ends."""


def train_in_child(
    run: Run, options: TrainOptions, task: Callable[[], Task] = small_task, before: Callable[[], None] = lambda: None
) -> int:
    """Train in a process of its own; ``before`` is called there first, to plant what will happen to it."""

    def work() -> None:
        with (run.path / "stderr.txt").open("a") as file, redirect_stderr(file), noted(run):
            before()
            loop.train(task(), run, options)

    return child(work)


def after_save(step: int, number: int = signal.SIGKILL, times: int = 1) -> Callable[[], None]:
    """Plant a signal that comes as soon as the checkpoint of ``step`` is there."""

    def plant() -> None:
        save = loop._save

        def saved(run: Any, at: int, *rest: Any) -> None:
            save(run, at, *rest)
            rest[1].wait()  # for the thread that writes it
            if at == step:
                for _ in range(times):
                    os.kill(os.getpid(), number)

        loop._save = saved

    return plant


def at_point(count: int) -> Callable[[], None]:
    """Plant a SIGKILL at the ``count``-th point that the saving of checkpoints passes."""

    def plant() -> None:
        passed = iter(range(1, count + 1))

        def reached(point: str) -> None:
            if next(passed, count) == count:
                os.kill(os.getpid(), signal.SIGKILL)

        whole.reached = reached

    return plant


def state(run: Run) -> dict[str, Tensor]:
    """Everything in the newest checkpoint, and the files a user takes away, as named tensors."""
    path, complaints = checkpoint.newest(run.checkpoints)
    assert path is not None
    assert not complaints
    found = checkpoint.load(path)
    tensors = {f"{group}/{name}": value for group, named in found.tensors.items() for name, value in named.items()}
    tensors["step"] = torch.tensor(found.step)
    tensors["meta"] = torch.tensor(list(json.dumps(found.meta, sort_keys=True).encode()))
    tensors |= {f"model/{name}": value for name, value in checkpoint.read_tensors(run.model).items()}
    tensors["walk"] = torch.tensor(list(run.walk.read_bytes()))
    return tensors


def differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names that do not hold the same bits in both."""
    assert a.keys() == b.keys()
    return [name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])]


def assert_same(run: Run, straight: Run) -> None:
    """Both runs end with the same bits everywhere and saw the same data, times, noise and losses."""
    different = differences(state(run), state(straight))
    assert not different, different
    assert trace(run) == trace(straight)


def options(**changes: Any) -> TrainOptions:
    """The small options with changes."""
    return dataclasses.replace(OPTIONS, **changes)


slow = pytest.mark.slow
