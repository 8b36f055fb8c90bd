"""Many environments side by side, in this process or in several, each carrying out whole chunks of actions.

A chunk at a time, because between two chunks nobody waits: with processes there is one message each way per chunk.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, Protocol

import numpy as np

from sfumato.data.errors import DataError, shown
from sfumato.fields.policy.simulators.environments import Environment
from sfumato.fields.policy.simulators.world import Observations

Make = Callable[[], Environment]


class Job(NamedTuple):
    """An episode to be played: in which environment, from which seed, perhaps from a given state (see `Environment`)."""

    world: str
    seed: int
    state: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return f"{self.world}, seed {self.seed}"


class Played(NamedTuple):
    """What a chunk of S actions led to in R rows. A row that is over repeats its last observations.

    `observations` are (R, S, ...) by name, after each step; `rewards` (R, S) float64 are NaN for steps that were not
    taken; `success` (R, S) float64 is 1 or 0, NaN where not taken or not told; `done` (R,) bool.
    """

    observations: Observations
    rewards: np.ndarray
    success: np.ndarray
    done: np.ndarray


class Crew(Protocol):
    """R environments that act together."""

    def begin(self, jobs: Sequence[Job]) -> Observations:
        """Starts one episode a row; the first observations (R, ...) by name."""

    def act(self, actions: np.ndarray, stop: bool = True) -> Played:
        """Carries out actions (R, S, A) in the rows that are not over; with `stop` a row is over at its first success."""

    def close(self) -> None:
        """Lets all environments go."""


def crew(makes: Mapping[str, Make], workers: int = 1) -> Crew:
    """Environments by name, each made by calling its function, in this process or in `workers` others.

    What is played is the same for any number of workers. With more than one the functions must be such as can be
    pickled, for example `functools.partial(make, "metaworld/push-v3")`. Raises ValueError for no workers at all.
    """
    if workers < 1:
        raise ValueError(f"workers = {workers}: must be from 1 up")
    return _Here(makes) if workers == 1 else _Elsewhere(makes, workers)


def _stacked(parts: Sequence[Observations], jobs: Sequence[Job]) -> Observations:
    first = parts[0]
    for part, job in zip(parts, jobs, strict=True):
        shapes = [{name: value.shape for name, value in x.items()} for x in (first, part)]
        if shapes[0] != shapes[1]:
            raise DataError(f"{job}: observes {shapes[1]}, but {jobs[0]} observes {shapes[0]}; expected the same")
    return {name: np.stack([part[name] for part in parts]) for name in first}


class _Here:
    """All in this process, one after the other."""

    def __init__(self, makes: Mapping[str, Make]) -> None:
        self.makes = dict(makes)
        self.kept: dict[tuple[str, int], Environment] = {}
        self.jobs: list[Job] = []
        self.rows: list[Environment] = []
        self.last: list[Observations] = []
        self.done = np.zeros(0, dtype=bool)

    def begin(self, jobs: Sequence[Job]) -> Observations:
        self.jobs, self.rows, self.last = list(jobs), [], []
        for name in {name for name, _ in self.kept} - {job.world for job in jobs}:
            self._drop(name)
        used: dict[str, int] = {}
        for job in jobs:
            number = used.get(job.world, 0)
            used[job.world] = number + 1
            if (job.world, number) not in self.kept:
                self.kept[job.world, number] = self.makes[job.world]()
            self.rows.append(self.kept[job.world, number])
            self.last.append(self.rows[-1].reset(job.seed, job.state))
        self.done = np.zeros(len(jobs), dtype=bool)
        return _stacked(self.last, self.jobs)

    def _drop(self, name: str) -> None:
        for key in [key for key in self.kept if key[0] == name]:
            self.kept.pop(key).close()

    def act(self, actions: np.ndarray, stop: bool = True) -> Played:
        shape = actions.shape[:2]
        rewards, success = np.full(shape, np.nan), np.full(shape, np.nan)
        seen: list[Observations] = []
        for k in range(shape[1]):
            for row, environment in enumerate(self.rows):
                if self.done[row]:
                    continue
                step = environment.step(actions[row, k])
                self.last[row], rewards[row, k] = step.observations, step.reward
                if step.success is not None:
                    success[row, k] = step.success
                self.done[row] = step.done or (stop and bool(step.success))
            seen.append(_stacked(self.last, self.jobs))
        observations = {name: np.stack([part[name] for part in seen], axis=1) for name in seen[0]}
        return Played(observations, rewards, success, self.done.copy())

    def close(self) -> None:
        for name in {name for name, _ in self.kept}:
            self._drop(name)


def _serve(pipe: Any, makes: Mapping[str, Make]) -> None:
    """A process that does what it is told until the pipe closes. Errors go back as text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    here = _Here(makes)
    try:
        while True:
            name, given = pipe.recv()
            answer: tuple[tuple[bool, str] | None, Any]
            try:
                answer = (None, getattr(here, name)(*given))
            except DataError as error:
                answer = ((True, str(error)), None)
            except Exception:
                answer = ((False, traceback.format_exc()), None)
            pipe.send(answer)
    except (EOFError, OSError):
        pass
    finally:
        here.close()


class _Elsewhere:
    """Rows dealt to processes in turn. Processes are started afresh, as simulators and torch do not survive a fork."""

    def __init__(self, makes: Mapping[str, Make], workers: int) -> None:
        try:
            ForkingPickler.dumps(dict(makes))
        except Exception as error:
            raise ValueError(
                "environments in several processes need functions that can be pickled, as functools.partial(make, ID); "
                "or take workers = 1"
            ) from error
        context = multiprocessing.get_context("spawn")
        self.jobs: list[Job] = []
        self.pipes, self.processes = [], []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, dict(makes)), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def _ask(self, name: str, given: Sequence[tuple[Any, ...]]) -> list[Any]:
        """One question to each of the first processes, all at once; their answers in order."""
        asked = range(len(given))
        try:
            for i in asked:
                self.pipes[i].send((name, given[i]))
        except OSError:
            pass  # its answer will be missing, which says it better
        answers, complaint = [], None
        for i in asked:
            try:
                wrong, answer = self.pipes[i].recv()
            except (EOFError, OSError):
                self.processes[i].join(5)
                mine = ", ".join(map(str, self.jobs[i :: len(self.pipes)][:3]))
                raise DataError(
                    f"{shown(mine)} ...: the process of the simulator ended by itself (exit code "
                    f"{self.processes[i].exitcode}); perhaps it ran out of memory: take fewer rows or workers = 1"
                ) from None
            complaint = complaint or wrong
            answers.append(answer)
        if complaint is not None:
            raise DataError(complaint[1]) if complaint[0] else RuntimeError(complaint[1])
        return answers

    def begin(self, jobs: Sequence[Job]) -> Observations:
        self.jobs = list(jobs)
        shares = [self.jobs[i :: len(self.pipes)] for i in range(len(self.pipes))]
        return self._dealt(self._ask("begin", [(share,) for share in shares if share]))

    def act(self, actions: np.ndarray, stop: bool = True) -> Played:
        count = min(len(self.pipes), len(self.jobs))
        parts = self._ask("act", [(actions[i :: len(self.pipes)], stop) for i in range(count)])
        return Played(
            self._dealt([part.observations for part in parts]),
            *(self._dealt([{"": part[k]} for part in parts])[""] for k in (1, 2, 3)),
        )

    def _dealt(self, parts: Sequence[Observations]) -> Observations:
        """Rows of all processes, put back into their order."""
        out = {}
        for name, first in parts[0].items():
            if any(part[name].shape[1:] != first.shape[1:] for part in parts):
                raise DataError(f"the observation {shown(name)} has other shapes in other rows; expected the same")
            out[name] = np.empty((len(self.jobs), *first.shape[1:]), dtype=first.dtype)
            for i, part in enumerate(parts):
                out[name][i :: len(self.pipes)] = part[name]
        return out

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.terminate()
