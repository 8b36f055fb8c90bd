"""Robot demonstrations: what was seen and done at each step, in episodes, cut into windows for a policy to learn.

episode    | o o o o o o o o o o |      one row per step: observations and the action taken on them
window     [o o]                        `observed` steps seen, the last of them is now
           [a a a a a a a a]            `horizon` actions predicted, from the first observed step on
             [A A A A]                  `acted` of them are carried out, from now on

Windows, padding and the range of the numbers follow Diffusion Policy (Chi et al. 2023, arXiv 2303.04137, sections
3.1 to 3.3 and appendix A.1).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from sfumato.data.dataset import split
from sfumato.data.errors import DataError, shown
from sfumato.data.sheet import pixels

ACTION = "action"
OBSERVATION = "observation"
_BLOCK_BYTES = 16 << 20


class Frames(Protocol):
    """Numbered rows that need not be in memory: an array, a memory map, or pictures decoded when asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any:
        """A slice or a flat array of row numbers -> those rows as an array."""
        ...


def is_picture(frames: Frames) -> bool:
    """Whether these rows are pictures: bytes of shape (N, H, W, C) or (N, C, H, W) with C of 1 or 3."""
    shape = tuple(frames.shape)
    return frames.dtype == np.uint8 and len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3))


def _blocks(frames: Frames) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, rows) a few megabytes at a time."""
    size = max(1, _BLOCK_BYTES // (8 * max(1, math.prod(frames.shape[1:]))))
    for start in range(0, len(frames), size):
        yield start, np.asarray(frames[start : start + size])


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Episodes of N steps in all, one after the other in every array.

    `actions` are numbers (N, A). `observations` are arrays of N rows by name: numbers of any shape (state vectors), or
    pictures (bytes, see `is_picture`), in memory, memory-mapped or decoded when asked for. `ends` (E,) int64 is the
    step after the last one of each episode. `fps` is steps per second, where known. `task` (N,) int64 is the place in
    `tasks` of what the robot was told to do. `source` is a name for messages.
    Raises DataError naming the array, and for NaN or infinity the episode and its step.
    """

    actions: np.ndarray
    ends: np.ndarray
    observations: Mapping[str, Frames] = field(default_factory=dict)
    fps: float | None = None
    tasks: tuple[str, ...] = ()
    task: np.ndarray | None = None
    source: str = "demonstrations"

    def __post_init__(self) -> None:
        actions, name = np.asanyarray(self.actions), shown(self.source)
        if actions.ndim != 2 or 0 in actions.shape:
            raise DataError(f"{name}[{ACTION}]: has shape {actions.shape}; expected (steps, coordinates), one or more")
        object.__setattr__(self, "actions", actions)
        object.__setattr__(self, "ends", _checked_ends(self.ends, len(actions), name))
        object.__setattr__(self, "observations", dict(self.observations))
        for key, frames in [(ACTION, actions), *self.observations.items()]:
            self._check(key, frames)
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise DataError(f"{name}: has {self.fps:g} steps per second; expected a positive number")
        if self.task is not None:
            task = np.asarray(self.task)
            if task.shape != (len(actions),) or task.dtype.kind not in "iu":
                raise DataError(
                    f"{name}[task]: has shape {task.shape} and type {task.dtype}; "
                    f"expected {len(actions)} integers, one per step"
                )
            bad = (task < 0) | (task >= len(self.tasks))
            if bad.any():
                raise DataError(
                    f"{name}[task]: {self.where(int(np.argmax(bad)))} has task {task[bad][0]}; "
                    f"expected 0 to {len(self.tasks) - 1}, a place in the list of tasks"
                )
            object.__setattr__(self, "task", task.astype(np.int64))

    def _check(self, key: str, frames: Frames) -> None:
        name = f"{shown(self.source)}[{shown(key)}]"
        if len(frames.shape) < 1 or len(frames) != self.steps:
            raise DataError(f"{name}: has {len(frames)} rows but there are {self.steps} actions; expected one per step")
        if frames.dtype.kind not in "fiub" or frames.dtype.itemsize > 8:
            raise DataError(f"{name}: holds {frames.dtype}; expected whole or floating-point numbers up to 64 bits")
        if 0 in frames.shape:
            raise DataError(f"{name}: has shape {tuple(frames.shape)}, which holds no numbers")
        if frames.dtype.kind != "f":
            return
        for start, block in _blocks(frames):
            good = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
            if not good.all():
                where = self.where(start + int(np.argmin(good)))
                raise DataError(f"{name}: {where} has NaN or infinity; every number must be finite")

    @property
    def steps(self) -> int:
        """N, the number of steps of all episodes."""
        return len(self.actions)

    @property
    def episodes(self) -> int:
        """E, the number of episodes."""
        return len(self.ends)

    @cached_property
    def starts(self) -> np.ndarray:
        """The first step of each episode, (E,) int64."""
        return np.concatenate([np.zeros(1, dtype=np.int64), self.ends[:-1]])

    @property
    def lengths(self) -> np.ndarray:
        """The number of steps of each episode, (E,) int64."""
        return self.ends - self.starts

    def episode(self, number: int) -> slice:
        """The steps of one episode. Raises IndexError when there is no such episode."""
        if not 0 <= number < self.episodes:
            raise IndexError(f"episode {number} of {self.episodes}")
        return slice(int(self.starts[number]), int(self.ends[number]))

    def where(self, step: int) -> str:
        """A step of the whole in words: "episode 3, step 17", both counted from 0."""
        number = int(np.searchsorted(self.ends, step, side="right"))
        return f"episode {number}, step {step - int(self.starts[number])}"


def _checked_ends(ends: Any, steps: int, name: str) -> np.ndarray:
    ends = np.asarray(ends)
    if ends.ndim != 1 or not len(ends) or ends.dtype.kind not in "iu":
        raise DataError(f"{name}[episode_ends]: has shape {ends.shape} and type {ends.dtype}; expected a list of steps")
    values = ends.astype(np.int64)
    bad = np.diff(values, prepend=0) <= 0
    if bad.any():
        place = int(np.argmax(bad))
        before = values[place - 1] if place else 0
        raise DataError(
            f"{name}[episode_ends]: episode {place} ends at step {ends[place]}, after one that ends at {before}; "
            "expected increasing numbers, so that every episode has a step"
        )
    if values[-1] != steps:
        raise DataError(
            f"{name}[episode_ends]: the last episode ends at step {values[-1]} but there are {steps} steps; "
            "expected the same number"
        )
    return values


def split_episodes(
    demonstrations: Demonstrations, held_out: float = 0.02, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted episode numbers (train, held out), placed by a hash of their actions (see `sfumato.data.split`).

    A function of content and seed alone: copies of an episode stay together, and more episodes move none.
    """
    keys = []
    for number in range(demonstrations.episodes):
        actions = np.ascontiguousarray(demonstrations.actions[demonstrations.episode(number)], dtype="<f8")
        keys.append(hashlib.blake2b(actions.tobytes(), digest_size=16).digest())
    return split(keys, held_out, seed)


@dataclass(frozen=True, eq=False)
class Ranges:
    """The least and the greatest value of each coordinate, by name: `low[name]`, `high[name]`, float64.

    Normalised numbers are in [-1, 1] where the raw ones are in [low, high]. A coordinate that never changed (its range
    is below a millionth of its size) says nothing: it becomes 0 whatever its value, and is restored to the middle of
    its range, so that noise in a sample can't move what no demonstration moved.
    """

    low: Mapping[str, np.ndarray]
    high: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        low, high = (
            {key: np.asarray(v, dtype=np.float64) for key, v in part.items()} for part in (self.low, self.high)
        )
        if low.keys() != high.keys():
            raise DataError(f"ranges are of {sorted(low)} below and {sorted(high)} above; expected the same names")
        for key in low:
            if (
                low[key].shape != high[key].shape
                or not ((-math.inf < low[key]) & (low[key] <= high[key]) & (high[key] < math.inf)).all()
            ):
                raise DataError(f"the range of {shown(key)} is not finite numbers with low <= high in one shape")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @classmethod
    def of(cls, demonstrations: Demonstrations, episodes: Sequence[int] | np.ndarray | None = None) -> Ranges:
        """Measures actions and state vectors over `episodes` (all of them by default; give the training ones)."""
        numbers = np.arange(demonstrations.episodes) if episodes is None else np.asarray(episodes, dtype=np.int64)
        if not len(numbers):
            raise DataError(f"{shown(demonstrations.source)}: no episode to measure the ranges of; give one or more")
        low, high = {}, {}
        states = {key: x for key, x in demonstrations.observations.items() if not is_picture(x)}
        for key, frames in {ACTION: demonstrations.actions, **states}.items():
            spans = [demonstrations.episode(int(number)) for number in numbers]
            parts = [np.asarray(frames[span], dtype=np.float64) for span in spans]
            low[key] = np.min([part.min(axis=0) for part in parts], axis=0)
            high[key] = np.max([part.max(axis=0) for part in parts], axis=0)
        return cls(low, high)

    def _fitting(self, key: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(middle, half the range, whether it changes) of each coordinate."""
        if key not in self.low:
            raise DataError(
                f"no range of {shown(key)} is known, only of {', '.join(map(shown, self.low)) or 'nothing'}"
            )
        low, high = self.low[key], self.high[key]
        if shape[len(shape) - low.ndim :] != low.shape or len(shape) < low.ndim:
            raise DataError(
                f"{shown(key)} has shape {shape} but its range is of shape {low.shape}; expected (..., shape)"
            )
        moving = high / 2 - low / 2 > np.maximum(5e-7 * np.maximum(np.abs(low), np.abs(high)), 1e-300)
        return low / 2 + high / 2, np.where(moving, high / 2 - low / 2, 1), moving

    def normalise(self, key: str, raw: np.ndarray) -> np.ndarray:
        """Raw numbers (..., *shape of one) of `key` -> float32 in [-1, 1] where they are in range. Raises DataError."""
        middle, half, moving = self._fitting(key, np.shape(raw))
        scaled: np.ndarray = np.where(moving, (np.asarray(raw, dtype=np.float64) - middle) / half, 0)
        return scaled.astype(np.float32)

    def restore(self, key: str, x: np.ndarray) -> np.ndarray:
        """The inverse of `normalise`, as float64; numbers beyond [-1, 1] go on beyond the range. Raises DataError."""
        middle, half, moving = self._fitting(key, np.shape(x))
        raw: np.ndarray = np.where(moving, np.asarray(x, dtype=np.float64) * half, 0) + middle
        return raw

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers that `json` writes and reads back to the last bit."""
        return {key: {"low": self.low[key].tolist(), "high": self.high[key].tolist()} for key in self.low}

    @classmethod
    def from_json(cls, stored: Any) -> Ranges:
        """What `to_json` gave. Raises DataError when it is something else."""
        try:
            low = {str(key): np.asarray(part["low"], dtype=np.float64) for key, part in stored.items()}
            high = {str(key): np.asarray(part["high"], dtype=np.float64) for key, part in stored.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError("the stored ranges are not {name: {low: numbers, high: numbers}}; train again") from None
        return cls(low, high)


@dataclass(frozen=True, eq=False)
class Windows:
    """Item i is one window of `demonstrations`: {"x", "observation.NAME" for each observation, "task"}.

    "x" (horizon, A) are the actions from the first observed step on, normalised, float32: of them `acted` are carried
    out, from x[observed - 1] on. "observation.NAME" (observed, ...) are states, normalised, or pictures as
    (observed, C, H, W) from -1 (black) to 1 (white), float32. "task" is int64, there if the demonstrations have tasks.

    Windows never leave their episode. They begin up to observed - 1 steps before it and end up to acted - 1 steps after
    it, and its first or last step is repeated there. An episode too short for any such window gives one, which begins
    observed - 1 steps before it (Diffusion Policy drops the episode).

    `names` picks observations (all by default), `episodes` picks episodes; with a pick of episodes `ranges` must be
    given, measured on the training ones. Raises ValueError for an impossible number of steps.
    """

    demonstrations: Demonstrations
    observed: int = 2
    horizon: int = 16
    acted: int = 8
    ranges: Ranges | None = None
    names: Sequence[str] | None = None
    episodes: Sequence[int] | np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.observed < 1 or self.acted < 1 or self.observed - 1 + self.acted > self.horizon:
            raise ValueError(
                f"{self.observed} steps observed and {self.acted} acted do not fit a horizon of {self.horizon}: "
                "expected at least 1 each and observed - 1 + acted <= horizon"
            )
        if self.ranges is None and self.episodes is not None:
            raise ValueError("give the ranges measured on the training episodes, as ranges=Ranges.of(..., episodes)")
        known = self.demonstrations.observations
        names = tuple(known if self.names is None else self.names)
        strange = next((name for name in names if name not in known), None)
        if strange is not None:
            raise DataError(
                f"{shown(self.demonstrations.source)}: has no observation {shown(strange)}; "
                f"it has {', '.join(map(shown, known)) or 'none'}"
            )
        total = self.demonstrations.episodes
        chosen = np.arange(total) if self.episodes is None else np.asarray(self.episodes, dtype=np.int64)
        if chosen.ndim != 1 or (len(chosen) and (chosen.min() < 0 or chosen.max() >= total)):
            raise DataError(f"{shown(self.demonstrations.source)}: episodes must be a list of numbers below {total}")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "episodes", chosen)
        if self.ranges is None:
            object.__setattr__(self, "ranges", Ranges.of(self.demonstrations))

    @cached_property
    def _table(self) -> np.ndarray:
        """Per window: its first step (which may lie before its episode), its episode; (2, windows) int64."""
        before, after = self.observed - 1, self.acted - 1
        first, owner = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for number in np.asarray(self.episodes):
            last = max(-before, int(self.demonstrations.lengths[number]) + after - self.horizon)
            first.append(np.arange(-before, last + 1) + self.demonstrations.starts[number])
            owner.append(np.full(last + before + 1, number))
        return np.stack([np.concatenate(first), np.concatenate(owner)])

    def __len__(self) -> int:
        return self._table.shape[1]

    @property
    def buckets(self) -> None:
        """All windows can stand in one batch."""
        return None

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One window, as described above. Raises IndexError when there is no such window."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return {key: value[0] for key, value in self.batch(np.array([index])).items()}

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Windows `indices` (B,) at once: each entry of an item with B in front."""
        demonstrations, ranges = self.demonstrations, self.ranges
        assert ranges is not None
        first, owner = self._table[:, np.asarray(indices, dtype=np.int64)]
        low, high = demonstrations.starts[owner, None], demonstrations.ends[owner, None] - 1
        steps = np.clip(first[:, None] + np.arange(self.horizon), low, high)
        item = {"x": ranges.normalise(ACTION, demonstrations.actions[steps])}
        seen = steps[:, : self.observed]
        rows, place = np.unique(seen, return_inverse=True)
        for name in self.names or ():
            frames = demonstrations.observations[name]
            values = np.asarray(frames[rows])[place.reshape(seen.shape)]
            item[f"{OBSERVATION}.{name}"] = pixels(values) if is_picture(frames) else ranges.normalise(name, values)
        if demonstrations.task is not None:
            item["task"] = demonstrations.task[seen[:, -1]]
        return item

    def name(self, index: int) -> str:
        """Where window `index` comes from: the episode and the step that is now in it."""
        first, owner = self._table[:, index]
        now = min(
            max(first + self.observed - 1, self.demonstrations.starts[owner]), self.demonstrations.ends[owner] - 1
        )
        return f"{shown(self.demonstrations.source)}, {self.demonstrations.where(int(now))}"
