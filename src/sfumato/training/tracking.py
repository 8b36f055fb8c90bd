"""Numbers for somebody else's tracker. It may raise, hang or fall behind: training neither stops nor waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

WAITING = 1000
"""Sets of numbers that wait for a tracker at most; all are in log.jsonl anyway."""
PATIENCE = 5.0
"""Seconds that the end of a training waits for a tracker."""


class Tracker(Protocol):
    """What TensorBoard's SummaryWriter is, of others as much as we use."""

    def add_scalar(self, name: str, value: float, step: int, /) -> Any: ...

    def close(self) -> Any: ...


class Apart:
    """A tracker in a thread of its own, behind a queue that is never waited for.

    Args:
        make: makes the tracker, in that thread.
        fail: told, in the thread of the training, what went wrong: the tracker's exception, or a TimeoutError where it does not
            keep up or does not end.
    """

    def __init__(self, make: Callable[[], Tracker], fail: Callable[[Exception], None], patience: float = PATIENCE):
        self.make, self.fail, self.patience = make, fail, patience
        self.waiting: queue.Queue[tuple[Mapping[str, float], int] | None] = queue.Queue(WAITING)
        self.error: Exception | None = None
        self.dead = False
        # a daemon: one that hangs for ever must not keep the process
        self.thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self.thread.start()

    def __call__(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step, for later. Returns at once."""
        if self._failed():
            return
        try:
            self.waiting.put_nowait((dict(values), step))
        except queue.Full:
            self.dead = True
            self.fail(TimeoutError(f"it does not keep up: step {step} and those after it are in log.jsonl alone"))

    def close(self) -> None:
        """Let it write what waits, for so many seconds at most."""
        if not self._failed():
            try:
                self.waiting.put(None, timeout=self.patience)
                self.thread.join(self.patience)
            except queue.Full:
                pass
            if not self._failed() and self.thread.is_alive():
                self.fail(
                    TimeoutError(f"it does not end in {self.patience:g} s and is left; all numbers are in log.jsonl")
                )
        self.dead = True

    def _failed(self) -> bool:
        if self.error is not None and not self.dead:
            self.dead = True
            self.fail(self.error)
        return self.dead

    def _work(self) -> None:
        try:
            tracker = self.make()
            while (item := self.waiting.get()) is not None:
                values, step = item
                for name, value in values.items():
                    tracker.add_scalar(name, value, step)
            tracker.close()
        except Exception as error:  # somebody else's code: anything may come
            self.error = error
