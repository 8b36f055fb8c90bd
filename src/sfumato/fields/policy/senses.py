"""What a policy sees of its demonstrations, and what it may trust of that when it acts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from sfumato.fields.policy.data import PolicyFacts
    from sfumato.fields.policy.demonstrations.episodes import Demonstrations, Frames

BOOKS = frozenset({
    "timestamp", "time", "times", "index", "frame_index", "episode_index", "task_index", "reward", "rewards", "return", "done",
    "dones", "terminal", "terminals", "terminated", "truncated", "timeout", "timeouts", "success", "is_first", "is_last",
    "is_terminal",
})  # fmt: skip
"""Names of what recordings keep beside the senses: a policy that saw them would copy the clock or the verdict."""
SIDE = 8
"""Two axes of this many numbers and more are a camera's."""
LIMIT = 10.0
"""Half ranges from the middle of what was demonstrated: a network goes on sensibly a little beyond its range, and knows nothing
at five times its width."""


def is_book(name: str) -> bool:
    """Whether a name is that of book-keeping: ``done``, ``next.reward``, ``episode/timestamp``."""
    return name.lower().replace("/", ".").rpartition(".")[2] in BOOKS


def chosen(source: Path, observations: Sequence[str] | None) -> tuple[Demonstrations, tuple[str, ...]]:
    """Demonstrations with what a policy sees of them, in order: the names given, or "state" if there is one, or else all
    numbers, or else all pictures. And the names that are left out as book-keeping. Raises DataError."""
    from sfumato.data import DataError, shown
    from sfumato.fields.policy.demonstrations.episodes import is_picture
    from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations

    every = open_demonstrations(source, names=observations)
    names = tuple(every.observations)
    left: tuple[str, ...] = ()
    if observations is None:
        left = tuple(name for name in names if is_book(name))
        names = tuple(name for name in names if name not in left)
        numbers = tuple(name for name in names if not is_picture(every.observations[name]))
        names = ("state",) if "state" in numbers else numbers or names
    if not names and (every.task is None or len(every.tasks) < 2):
        aside = f" but {', '.join(map(shown, left))}" if left else ""
        raise DataError(
            f"{shown(source)}: has actions but no observations{aside}; a policy must see something: give some"
        )
    for name in names:
        if wrong := misplaced(every.observations[name]):
            raise DataError(f"{shown(source)}[{shown(name)}]: {wrong}")
    return dataclasses.replace(every, observations={name: every.observations[name] for name in names}), left


def misplaced(frames: Frames) -> str:
    """What is wrong with rows that look like pictures and are none that a policy sees; nothing where they are sound."""
    from sfumato.fields.policy.demonstrations.episodes import is_picture

    shape = tuple(frames.shape[1:])
    if is_picture(frames) or len(shape) < 2 or sum(side >= SIDE for side in shape) < 2:
        return ""
    if frames.dtype.kind == "f":
        mend = "give pictures as bytes (N, H, W, 3), depth scaled to bytes (N, H, W, 1)"
    elif len(shape) == 2:
        mend = "give grey pictures as bytes (N, H, W, 1)"
    else:
        mend = "give colour as bytes (N, H, W, 3), and a fourth channel under a name of its own (N, H, W, 1)"
    flat = "if they are numbers, give them flat, (N, numbers)"
    return f"looks like pictures of shape {shape} and type {frames.dtype}, which no network here sees; {mend}; {flat}"


def held(facts: PolicyFacts, given: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Observations (rows, ...) by name, held within LIMIT half ranges of what was demonstrated; and of each row what lies
    beyond that, in words ("" where nothing does). Angles, which come round again, may go on; pictures are bytes anyway."""
    import numpy as np

    rows = len(next(iter(given.values()))) if given else 0
    found, beyond = dict(given), [""] * rows
    for name in facts.states:
        value, (low, high) = given[name], (facts.ranges.low[name], facts.ranges.high[name])
        turning = np.array([f"{name}.{place}" in facts.angles for place in range(low.size)], bool).reshape(low.shape)
        half = np.maximum(high / 2 - low / 2, np.finfo(np.float64).tiny)
        moving = half > 5e-7 * np.maximum(np.abs(low), np.abs(high))  # what never changed is shown as 0 whatever it is
        wide = np.where(turning, 1e4, LIMIT) * half
        middle = low / 2 + high / 2
        edges = np.where(moving, middle - wide, -np.inf), np.where(moving, middle + wide, np.inf)
        inside = np.clip(value.astype(np.float64), *edges)
        far = (inside != value.astype(np.float64)).reshape(rows, -1)
        if far.any():
            found[name] = inside
        for row in np.flatnonzero(far.any(1)):
            place = int(np.argmax(far[row]))
            number, least, most = (float(x.reshape(-1)[place]) for x in (value[row], low, high))
            where = f"{name}.{place}" if low.size > 1 else name
            beyond[row] = beyond[row] or f"{where} is {number:.4g}, demonstrated from {least:.4g} to {most:.4g}"
    return found, beyond
