"""Every call of the simulator, in shards that are written once: calls are the expensive thing, never lost and never repeated.

A campaign asks in an order that is a function of its options, so each disturbance has a number. What was asked and answered
lies in calls/NUMBER-COUNT.npz, put there by one rename. A campaign that goes on asks the same again from the start, and is
answered from the shards as far as they go.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sfumato.errors import DataError, Mendable, decoding
from sfumato.training.run import RunError

_NAME = re.compile(r"(\d{9})-(\d+)\.npz")
NEAR = 1e-3
"""A disturbance that is asked again may differ from the stored one by so much, by another processor's rounding."""
WIDEST = 4096
"""Numbers of a trajectory that are kept of a failure at most."""
SECONDS = 2.0
"""A shard is written once answers are this old."""
ERRORS = 0.01
"""Share of calls without an answer that stops a campaign."""


class Answers(NamedTuple):
    """Of disturbances: robustness (B,), NaN of an error; trajectory (B, T, S), or None where the system tells none."""

    robustness: np.ndarray
    trajectory: np.ndarray | None = None

    def of(self, rows: np.ndarray | slice) -> Answers:
        """Those of some rows."""
        return Answers(self.robustness[rows], None if self.trajectory is None else self.trajectory[rows])


Simulate = Callable[[np.ndarray], Iterable[tuple[np.ndarray, Answers]]]
"""Disturbances x (B, n), standard normal -> parts: rows and their answers, in any order, as they come."""


class Spent(Mendable):
    """No call is left of the budget."""


@dataclass
class Calls:
    """The calls of a campaign in their order. ``ask`` is the one way to the simulator.

    most: calls at most. known: number -> place in the stored rows. made: calls that the simulator was really asked.
    """

    folder: Path
    simulate: Simulate
    most: int
    shards: list[tuple[int, np.ndarray, Answers]] = field(default_factory=list)
    next: int = 0
    made: int = 0
    errors: int = 0
    by: dict[str, int] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, simulate: Simulate, most: int) -> Calls:
        """Those that lie in a folder, ready to be asked from the start. Raises RunError, DataError for what cannot be read."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot write here ({error.strerror}); choose another --out") from error
        return cls(folder, simulate, most, [(start, x, answers) for start, x, answers in stored(folder)])

    @property
    def left(self) -> int:
        """Calls left of the budget."""
        return self.most - self.next

    def ask(self, x: np.ndarray, purpose: str) -> Answers:
        """The robustness of disturbances (B, n), from the shards or the simulator; a shard holds what is new.

        Raises Spent where the budget ends before, RunError where the shards are of another campaign, DataError where more
        than 1 % of all answers are errors.
        """
        if len(x) > self.left:
            raise Spent(f"{len(x)} calls are wanted and {self.left} are left of {self.most}; give more --calls")
        first, count = self.next, len(x)
        robustness, trajectory, there = np.full(count, np.nan), None, np.zeros(count, bool)
        for start, kept, answers in self._within(first, count):
            rows = slice(start - first, start - first + len(kept))
            if kept.shape[1] != x.shape[1] or not np.allclose(kept, x[rows], atol=NEAR):
                raise RunError(
                    f"{self.folder}: call {start} was made with another disturbance: other options, "
                    "or another version; "
                    "give another --out"
                )
            robustness[rows], there[rows] = answers.robustness, True
            trajectory = _placed(trajectory, answers.trajectory, rows, count)
        if not there.all():
            trajectory = self._new(x, first, there, robustness, trajectory)
        self.next, self.by[purpose] = first + count, self.by.get(purpose, 0) + count
        self.errors += int((~np.isfinite(robustness)).sum())
        self._sound(x, robustness, first)
        return Answers(np.where(np.isfinite(robustness), robustness, np.inf), trajectory)

    def _new(
        self, x: np.ndarray, first: int, there: np.ndarray, robustness: np.ndarray, trajectory: np.ndarray | None
    ) -> np.ndarray | None:
        """What the shards do not have, simulated; whatever ends this, what was answered is kept."""
        wanted = np.flatnonzero(~there)
        fresh, begun = np.zeros(len(x), bool), time.monotonic()
        try:
            for rows, answers in self.simulate(x[wanted]):
                places = wanted[rows]
                robustness[places], fresh[places] = answers.robustness, True
                trajectory = _placed(trajectory, answers.trajectory, places, len(x))
                self.made += len(places)
                if time.monotonic() - begun > SECONDS:
                    self._write(x, first, fresh, robustness, trajectory)
                    begun = time.monotonic()
        finally:
            self._write(x, first, fresh, robustness, trajectory)
        return trajectory

    def _write(
        self, x: np.ndarray, first: int, fresh: np.ndarray, robustness: np.ndarray, trajectory: np.ndarray | None
    ) -> None:
        """Shards of the fresh rows, one for each stretch without a gap; they are fresh no more."""
        places = np.flatnonzero(fresh)
        for stretch in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else ():
            rows = slice(int(stretch[0]), int(stretch[-1]) + 1)
            answers = Answers(robustness[rows].copy(), None if trajectory is None else trajectory[rows].copy())
            _save(self.folder, first + rows.start, x[rows], answers)
            self.shards.append((first + rows.start, x[rows].copy(), answers))
        fresh[:] = False

    def _within(self, first: int, count: int) -> Iterator[tuple[int, np.ndarray, Answers]]:
        """The stored rows of these numbers, cut to them."""
        for start, x, answers in self.shards:
            low, high = max(first, start), min(first + count, start + len(x))
            if low < high:
                rows = slice(low - start, high - start)
                yield low, x[rows], answers.of(rows)

    def _sound(self, x: np.ndarray, robustness: np.ndarray, first: int) -> None:
        if self.errors > max(1.0, ERRORS * self.next):
            bad = np.flatnonzero(~np.isfinite(robustness))
            call = first + int(bad[0]) if len(bad) else first
            raise DataError(
                f"{self.folder}: {self.errors} of {self.next} calls gave no number, above "
                f"{ERRORS:.0%} (call {call} for one, "
                f"kept there with its disturbance); make the simulator answer a finite robustness for it"
            )

    def every(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All that was asked so far: x (N, n), robustness (N,), numbers (N,), in order."""
        own = [(start, x, answers.robustness) for start, x, answers in sorted(self.shards, key=lambda s: s[0])]
        numbers = np.concatenate([np.arange(start, start + len(x)) for start, x, _ in own])
        return np.concatenate([x for _, x, _ in own]), np.concatenate([r for _, _, r in own]), numbers

    def found(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The numbers of the calls (N,) that these failing disturbances were, and their trajectories where those are kept; -1
        for one that was not asked."""
        places = {row.tobytes(): i for i, row in reversed(list(enumerate(np.ascontiguousarray(x))))}
        numbers, path = np.full(len(x), -1), None
        same = np.array([places[row.tobytes()] for row in np.ascontiguousarray(x)])
        for start, asked, answers in self.shards:
            for row in np.flatnonzero(answers.robustness <= 0):
                i = places.get(np.ascontiguousarray(asked[row]).tobytes())
                if i is not None and numbers[i] < 0:
                    numbers[i] = start + row
                    if answers.trajectory is not None:
                        path = _placed(path, answers.trajectory[[row]], np.array([i]), len(x))
        return numbers[same], None if path is None else path[same]


def _placed(
    whole: np.ndarray | None, part: np.ndarray | None, rows: slice | np.ndarray, count: int
) -> np.ndarray | None:
    """The trajectories of some rows put in their places; those that are not known are NaN."""
    if part is None:
        return whole
    if whole is None:
        whole = np.full((count, *part.shape[1:]), np.nan)
    whole[rows] = part
    return whole


def _save(folder: Path, start: int, x: np.ndarray, answers: Answers) -> None:
    """One shard; trajectories are kept of failures alone, and of those that are not too long."""
    final = folder / f"{start:09d}-{len(x)}.npz"
    temporary = folder / f".{final.name}.{os.getpid()}"
    found = {"x": x, "robustness": answers.robustness}
    path = answers.trajectory
    if path is not None and path[0].size <= WIDEST:
        failing = np.flatnonzero(answers.robustness <= 0)
        found |= {"failing": failing, "trajectory": path[failing], "shape": np.array(path.shape[1:])}
    try:
        with temporary.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def stored(folder: Path) -> Iterator[tuple[int, np.ndarray, Answers]]:
    """The shards of a folder: the number of the first call, x (B, n) and the answers. Raises DataError."""
    for path in sorted(folder.glob("*.npz")):
        name = _NAME.fullmatch(path.name)
        if name is None:
            continue
        start, count = int(name[1]), int(name[2])
        with decoding(path, "delete it, and its calls are made again"), np.load(path, allow_pickle=False) as file:
            x, robustness = file["x"], file["robustness"]
            if x.ndim != 2 or len(x) != count or robustness.shape != (count,):
                raise DataError(f"{path}: holds {x.shape} and {robustness.shape}; {count} rows are expected")
            trajectory = None
            if "trajectory" in file:
                trajectory = np.full((count, *file["shape"].tolist()), np.nan)
                trajectory[file["failing"]] = file["trajectory"]
        yield start, x, Answers(robustness, trajectory)
