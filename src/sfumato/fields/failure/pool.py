"""One disturbance at a time, in processes of their own: answers in the order in which they come.

What a call answers is a function of its disturbance, so the number of processes and their order change nothing. A process that
dies takes one call with it, which is made once more; dies it again, or raises twice, the call has no answer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from sfumato.errors import DataError, Wrong, one_line
from sfumato.fields.failure.answers import checked
from sfumato.fields.failure.data import Answers
from sfumato.fields.failure.systems import System
from sfumato.training.telling import tell

TRIES = 2
"""Times that a call is made before it has no answer."""


def alone(system: System, physical: np.ndarray) -> Answers:
    """One disturbance (*shape) through a simulator of single ones: answers of one row. Raises DataError for what is no answer."""
    given = physical.copy()
    answer = system.run(given)
    if not np.array_equal(given, physical):
        raise DataError(f"{system.name}: changes the disturbance that it is given; let it work on a copy")
    if not isinstance(answer, dict):
        answer = {"robustness": answer}
    rows = {
        name: None if value is None else np.asarray(value, dtype=np.float64)[None] for name, value in answer.items()
    }
    return checked(rows, 1, system.name)


def one_by_one(system: System, physical: np.ndarray, workers: int) -> Iterator[tuple[np.ndarray, Answers]]:
    """Disturbances (B, *shape) one at a time: (row, answers of one row). With one worker in this process."""
    if workers <= 1 or len(physical) < 2:
        for i, each in enumerate(physical):
            yield np.array([i]), _tried(system, each, i)
        return
    yield from _dealt(system, physical, min(workers, len(physical)))


def _tried(system: System, each: np.ndarray, number: int) -> Answers:
    for attempt in range(TRIES):
        try:
            return alone(system, each)
        except (DataError, Wrong):
            raise
        except Exception as error:
            if attempt + 1 == TRIES:
                tell(
                    f"warning: {system.name}: no answer to disturbance {number} ({type(error).__name__}: {one_line(error)})"
                )
    return Answers(np.array([np.nan]))


def _serve(pipe: Any, system: System) -> None:
    """A process that answers until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            number, each = pipe.recv()
            try:
                pipe.send((number, alone(system, each), None))
            except (DataError, Wrong) as error:
                pipe.send((number, None, (True, str(error))))
            except Exception as error:
                pipe.send((number, None, (False, f"{type(error).__name__}: {one_line(error)}")))
    except (EOFError, OSError):
        pass


class _Hands:
    """The processes at work, each with the number of the call that it is about."""

    def __init__(self, system: System, count: int) -> None:
        self.context, self.system = multiprocessing.get_context("spawn"), system
        self.busy: dict[Any, tuple[Any, int]] = {}
        self.free: list[tuple[Any, Any]] = [self.start() for _ in range(count)]

    def start(self) -> tuple[Any, Any]:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.system), daemon=True)
        before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        os.environ.update(dict.fromkeys(before, "1"))  # a process has one core
        try:
            process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        theirs.close()
        return ours, process

    def close(self) -> None:
        for pipe, process in [*self.free, *((pipe, process) for pipe, (process, _) in self.busy.items())]:
            pipe.close()
            process.terminate()
            process.join(10)


def _dealt(system: System, physical: np.ndarray, workers: int) -> Iterator[tuple[np.ndarray, Answers]]:
    todo, tries = deque(range(len(physical))), [0] * len(physical)
    hands = _Hands(system, workers)
    try:
        while todo or hands.busy:
            while todo and hands.free:
                pipe, process = hands.free.pop()
                number = todo.popleft()
                tries[number] += 1
                pipe.send((number, physical[number]))
                hands.busy[pipe] = process, number
            ready: Any
            for ready in wait(list(hands.busy)):
                process, number = hands.busy.pop(ready)
                try:
                    _, answers, wrong = ready.recv()
                    hands.free.append((ready, process))
                except (EOFError, OSError):
                    process.join(5)
                    answers, wrong = None, (False, f"its process ended by itself (exit code {process.exitcode})")
                    hands.free.append(hands.start())
                if answers is not None:
                    yield np.array([number]), answers
                elif wrong is not None and wrong[0]:
                    raise DataError(wrong[1])
                elif tries[number] < TRIES:
                    todo.append(number)
                else:
                    tell(f"warning: {system.name}: no answer to disturbance {number} ({wrong[1] if wrong else ''})")
                    yield np.array([number]), Answers(np.array([np.nan]))
    finally:
        hands.close()
