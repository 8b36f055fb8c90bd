"""A tracker that raises, hangs or falls behind: the training is the same to the bit, and says once what happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.utils.tensorboard

from sfumato.training import loop, tracking
from sfumato.training.tracking import Apart

from .small import assert_same, made, noted, options, small_task


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = made(tmp_path_factory.mktemp("straight"))
    with noted(run):
        loop.train(small_task(), run, options())
    return run


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a hanging tracker waits for; let go at the end, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


FAULTS = [
    "raises at the start",
    "raises later",
    "raises at the end",
    "hangs at the start",
    "hangs later",
    "hangs at the end",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_tracker_stops_a_training(fault: str, straight, never, tmp_path: Path, monkeypatch, capsys):
    """TensorBoard's own class replaced by one with a fault in its constructor, its writing or its end."""
    how, _, where = fault.partition(" ")
    asked: list[str] = []

    class Tracker:
        def __init__(self, *_: Any) -> None:
            self.do("at the start")

        def add_scalar(self, *_: Any) -> None:
            self.do("later")

        def close(self) -> None:
            self.do("at the end")

        def do(self, now: str) -> None:
            asked.append(now)
            if now == where:
                if how == "raises":
                    raise ConnectionError("the server is down")
                never.wait()

    monkeypatch.setattr(torch.utils.tensorboard, "SummaryWriter", Tracker)
    monkeypatch.setattr(tracking.Apart.__init__, "__defaults__", (0.2,))
    run = made(tmp_path)
    with noted(run):
        loop.train(small_task(), run, options())
    assert_same(run, straight)
    assert where in asked
    said = capsys.readouterr().err
    assert said.count("warning: TensorBoard failed (") == 1
    assert ("the server is down" if how == "raises" else "does not end in 0.2 s") in said


def test_what_waits_for_a_tracker_is_bounded(never, monkeypatch):
    monkeypatch.setattr(tracking, "WAITING", 20)
    said: list[Exception] = []
    apart = Apart(lambda: never.wait(), said.append, patience=0.1)  # type: ignore[arg-type,return-value]
    begun = time.process_time()
    for step in range(10_000):
        apart({"loss": 1.0}, step)
    apart.close()
    assert time.process_time() - begun < 5
    assert apart.waiting.qsize() == 20
    assert [str(error) for error in said] == ["it does not keep up: step 20 and those after it are in log.jsonl alone"]


def test_a_sound_tracker_gets_everything_in_order():
    class Tracker:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, int]] = []

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.seen.append((name, value, step))

        def close(self) -> None:
            self.seen.append(("closed", 0.0, -1))

    tracker, said = Tracker(), []
    apart = Apart(lambda: tracker, said.append)
    for step in range(50):
        apart({"loss": step / 7, "lr": 0.1}, step)
    apart.close()
    wanted = [pair for step in range(50) for pair in (("loss", step / 7, step), ("lr", 0.1, step))]
    assert tracker.seen == [*wanted, ("closed", 0.0, -1)]
    assert said == []
