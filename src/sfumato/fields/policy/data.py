"""Demonstrations made ready in a run, and what is known of them: observations and chunks of actions, in the units of
networks and of robots.

    raw observations, `observed` steps --shown--> {"state", "picture", "task"}       raw actions <--actions-- x

Everything needed for it lies in data.json of a run, so a run acts without its data.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong, decoding
from sfumato.jobs.facts import Facts, read_facts
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sfumato.fields.policy.demonstrations.episodes import Demonstrations, Ranges, Windows

MOST_BYTES = 1 << 30
"""Up to this size all windows are cut once and kept."""


LONGEST = 1 << 16
"""Steps of a window."""


def _place(word: str, size: int) -> bool:
    """Whether a word is the number of one of so many places."""
    return word.isdecimal() and len(word) < 10 and str(int(word)) == word and int(word) < size


@dataclass(frozen=True)
class PolicyFacts(Facts):
    """Which observations a policy sees, in which order, and the ranges that make them and the actions numbers around 0."""

    ranges: Ranges
    states: tuple[str, ...]
    """Observations that are numbers, laid side by side."""
    pictures: tuple[str, ...]
    """Observations that are pictures, all of one shape, a camera each."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of one observation: of numbers as they come, of pictures (C, H, W)."""
    tasks: tuple[str, ...]
    observed: int
    horizon: int
    acted: int
    count: int
    """Windows trained on."""
    fps: float | None = None
    angles: tuple[str, ...] = ()
    """Numbers of states that are angles in radians, as NAME.PLACE: shown as sine and cosine."""
    episodes: int = 0
    """Episodes trained on; 0 in runs that did not write it down yet, as of those held out."""
    held: int = 0
    turning: tuple[int, ...] = field(init=False)
    """The places of the angles in the states laid side by side."""

    def __post_init__(self) -> None:
        sizes = {name: math.prod(self.shapes[name]) for name in self.states}  # as told by a file: they may be anything
        begins = dict(zip(sizes, accumulate(sizes.values(), initial=0)))
        parts = {word: word.rpartition(".")[::2] for word in self.angles}
        wrong = [word for word, (name, place) in parts.items() if not _place(place, sizes.get(name, 0))]
        if wrong or len(set(self.angles)) < len(self.angles):
            known = ", ".join(f"{name}.0 to {name}.{size - 1}" for name, size in sizes.items())
            raise Wrong(f"angles = {wrong or list(self.angles)}: must be different ones of {known or 'no state'}")
        object.__setattr__(self, "turning", tuple(begins[name] + int(place) for name, place in parts.values()))

    @property
    def dim(self) -> int:
        """Numbers in one action."""
        return int(self.ranges.low["action"].shape[0])

    @property
    def state(self) -> int:
        """Numbers in one state, as the network is shown it."""
        return sum(math.prod(self.shapes[name]) for name in self.states) + len(self.angles)

    @property
    def picture(self) -> tuple[int, ...] | None:
        """Shape of one picture, (C, H, W)."""
        return self.shapes[self.pictures[0]] if self.pictures else None

    def write(self, run: Run) -> None:
        """Into data.json of a run."""
        facts = {
            "shape": [self.horizon, self.dim], "tasks": list(self.tasks), "count": self.count, "episodes": self.episodes,
            "held": self.held, "states": list(self.states), "pictures": list(self.pictures),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()}, "observed": self.observed,
            "acted": self.acted, "fps": self.fps, "angles": list(self.angles), "ranges": self.ranges.to_json(),
        }  # fmt: skip
        write_text(run.path / "data.json", json.dumps(facts, indent=1))

    @classmethod
    def read(cls, run: Run) -> PolicyFacts:
        """From data.json of a run. Raises RunError where it is damaged, DataError where a range is."""
        from sfumato.fields.policy.demonstrations.episodes import Ranges

        stored = read_facts(run)
        with decoding(run.path / "data.json", "without it no action can be made: train again", RunError):
            found = cls(
                ranges=Ranges.from_json(stored["ranges"]),
                states=tuple(stored["states"]),
                pictures=tuple(stored["pictures"]),
                shapes={name: tuple(shape) for name, shape in stored["shapes"].items()},
                tasks=tuple(stored["tasks"]),
                observed=int(stored["observed"]),
                horizon=int(stored["shape"][0]),
                acted=int(stored["acted"]),
                count=int(stored["count"]),
                fps=stored["fps"],
                angles=tuple(stored.get("angles", ())),
                episodes=int(stored.get("episodes", 0)),
                held=int(stored.get("held", 0)),
            )
            if not 1 <= found.observed <= found.observed - 1 + found.acted <= found.horizon <= LONGEST:
                raise ValueError(f"{found.observed} steps seen and {found.acted} acted of {found.horizon}")
            missing = [name for name in ("action", *found.states) if name not in found.ranges.low]
        if missing:
            raise RunError(
                f"{run.path / 'data.json'}: has no range of {', '.join(missing)}, which says what the numbers mean: train again"
            )
        return found

    def words(self) -> list[str]:
        """The data in a line."""
        seen = ", ".join(f"{name} {self.shapes[name]}" for name in (*self.states, *self.pictures)) or "the task"
        of = f" of {self.episodes} episodes" if self.episodes else ""
        held = f", {self.held} episodes held out" if self.held else ""
        tasks = f", {len(self.tasks)} tasks" if self.tasks else ""
        angles = f" ({', '.join(self.angles)} as sine and cosine)" if self.angles else ""
        return [
            f"{self.count} windows{of} to learn from{tasks}{held}; sees {seen}{angles} of {self.observed} step(s), "
            f"predicts {self.horizon} actions of {self.dim} numbers, acts on {self.acted}"
        ]

    def values(self) -> list[str]:
        """The range of every number, a line for each name."""
        import numpy as np

        low, high = self.ranges.low, self.ranges.high
        with np.printoptions(precision=4, suppress=True, threshold=12):
            return [f"range     {name}: {low[name]} to {high[name]}" for name in low]

    def observation(self, given: Any, rows: int) -> dict[str, np.ndarray]:
        """Raw observations of one step, by name, as arrays (rows, ...) of the shapes known; pictures become (rows, C, H, W)
        bytes. One array is enough where there is one observation. Raises ValueError for what is missing or misshapen."""
        import numpy as np

        names = (*self.states, *self.pictures)
        if not isinstance(given, Mapping):
            if len(names) != 1:
                raise ValueError(f"this policy sees {', '.join(names)}: give a mapping of these names to arrays")
            given = {names[0]: given}
        found = {}
        for name in names:
            if name not in given:
                raise ValueError(f"observation {name} is missing; this policy sees {', '.join(names)}")
            value, shape = np.asarray(given[name]), self.shapes[name]
            if name in self.pictures:
                if value.dtype != np.uint8:
                    raise ValueError(f"observation {name} holds {value.dtype}, expected bytes from 0 to 255")
                if value.shape[1:] == (*shape[1:], shape[0]):
                    value = np.moveaxis(value, -1, 1)
            elif value.dtype.kind not in "fiub" or not np.isfinite(value).all():
                raise ValueError(f"observation {name} must be finite numbers")
            if value.shape != (rows, *shape):
                raise ValueError(f"observation {name} has shape {value.shape}, expected {(rows, *shape)}")
            found[name] = value
        return found

    def shown(self, seen: Mapping[str, np.ndarray], task: np.ndarray | None = None) -> dict[str, Tensor]:
        """Raw observations of `observed` steps, name -> (rows, observed, ...), and the number of each row's task, (rows,) ->
        the network's inputs."""
        from sfumato.data.sheet import pixels

        normal = {name: self.ranges.normalise(name, seen[name]) for name in self.states}
        return self.joined({**normal, **{name: pixels(seen[name]) for name in self.pictures}}, task)

    def joined(self, seen: Mapping[str, np.ndarray], task: np.ndarray | None = None) -> dict[str, Tensor]:
        """The same for observations in standard units, as `Windows` gives them."""
        import numpy as np
        import torch

        out: dict[str, Tensor] = {}
        if self.states:
            flat = self._side_by_side(seen)
            if self.angles:
                turning, raw = list(self.turning), {name: self.ranges.restore(name, seen[name]) for name in self.states}
                angles = self._side_by_side(raw)[..., turning]
                parts = [np.delete(flat, turning, axis=2), np.sin(angles), np.cos(angles)]
                flat = np.concatenate(parts, axis=2).astype(np.float32)
            out["state"] = torch.from_numpy(flat)
        if self.pictures:
            out["picture"] = torch.from_numpy(np.stack([seen[name] for name in self.pictures], axis=2))
        if self.tasks and task is not None:
            out["task"] = torch.from_numpy(np.asarray(task, dtype=np.int64))
        return out

    def _side_by_side(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """name -> (rows, observed, ...) to (rows, observed, numbers of all states)."""
        import numpy as np

        return np.concatenate([seen[name].reshape(*seen[name].shape[:2], -1) for name in self.states], axis=2)

    def actions(self, x: Tensor) -> np.ndarray:
        """Answers (rows, steps, dim) in standard units -> raw actions, held within what was demonstrated."""
        restored: np.ndarray = self.ranges.restore("action", x.float().clamp(-1, 1).cpu().numpy())
        return restored


@dataclass(frozen=True, eq=False)
class Chunks:
    """Windows as items for training: {"x" (horizon, dim), "state" (observed, S), "picture" (observed, K, C, H, W), "task"}."""

    windows: Windows
    facts: PolicyFacts
    order: np.ndarray
    """Item i is window order[i]."""
    kept: Mapping[str, np.ndarray] | None = None

    @classmethod
    def of(cls, windows: Windows, facts: PolicyFacts, spread: bool = False) -> Chunks:
        """Numbers are cut into windows once, if there is room; pictures are read when asked for. ``spread``: neighbouring
        items come from far apart, so that the first few stand for all."""
        import numpy as np

        count = len(windows)
        step = next(n for n in range(max(1, round(0.618 * count)), count + 2) if math.gcd(n, count) == 1 or count == 0)
        order = np.arange(count, dtype=np.int64) * (step if spread else 1) % max(1, count)
        cut = cls(windows, facts, order)
        size = 4 * count * (facts.horizon * facts.dim + facts.observed * facts.state)
        if facts.pictures or size > MOST_BYTES or not count:
            return cut
        parts = [cut.batch(np.arange(i, min(i + 4096, len(windows)))) for i in range(0, len(windows), 4096)]
        return cls(windows, facts, order, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    @property
    def buckets(self) -> None:
        """All items can stand in one batch."""
        return None

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Items `indices` (B,) at once."""
        if self.kept is not None:
            return {name: value[indices] for name, value in self.kept.items()}
        found = self.windows.batch(self.order[indices])
        seen = {name: found[f"observation.{name}"] for name in (*self.facts.states, *self.facts.pictures)}
        shown = self.facts.joined(seen, found.get("task"))
        return {"x": found["x"], **{name: value.numpy() for name, value in shown.items()}}

    def __len__(self) -> int:
        return len(self.windows)

    def name(self, index: int) -> str:
        return self.windows.name(int(self.order[index]))


def store(demonstrations: Demonstrations, train: np.ndarray, held_out: np.ndarray, run: Run) -> None:
    """Keep in the run the demonstrations, pictures unpacked, and the numbers of the episodes trained on and held out."""
    import numpy as np

    from sfumato.fields.policy.demonstrations.replay import save_episodes, store_pictures
    from sfumato.training.progress import Watch

    seen = demonstrations.observations
    lazy = [name for name, values in seen.items() if not isinstance(values, np.ndarray)]
    if lazy:
        with Watch("unpack pictures", sum(len(seen[name]) for name in lazy), unit="pictures") as watch:
            store_pictures(demonstrations, run.cache, progress=lambda done, total: watch.show(done))
    rest = {name: values for name, values in seen.items() if name not in lazy}
    save_episodes(dataclasses.replace(demonstrations, observations=rest), run.cache / "episodes.npz")
    np.savez(run.cache / "split.npz", train=train, held_out=held_out)


def stored(run: Run, source: Path, facts: PolicyFacts) -> tuple[Demonstrations, np.ndarray, np.ndarray]:
    """What ``store`` kept. Raises DataError."""
    from sfumato.data.arrays import kept_array, kept_arrays
    from sfumato.fields.policy.demonstrations.replay import open_episodes

    remedy = f"train again from {source}"
    kept = open_episodes(run.cache / "episodes.npz")
    parts = kept_arrays(run.cache / "split.npz", remedy)
    with decoding(run.path / "data.json", remedy):
        lazy = [name for name in facts.pictures if name not in kept.observations]
    pictures = {name: kept_array(run.cache / f"{name}.npy", remedy) for name in lazy}
    with decoding(run.cache, remedy):
        whole = dataclasses.replace(kept, observations={**kept.observations, **pictures}, source=str(source))
        return whole, parts["train"], parts["held_out"]


def windows_of(demonstrations: Demonstrations, facts: PolicyFacts, episodes: np.ndarray) -> Windows:
    """The windows of some episodes, in standard units."""
    from sfumato.fields.policy.demonstrations.episodes import Windows

    names = (*facts.states, *facts.pictures)
    return Windows(demonstrations, facts.observed, facts.horizon, facts.acted, facts.ranges, names, episodes)


def opened(run: Run, source: Path, facts: PolicyFacts) -> tuple[Chunks, Chunks]:
    """The prepared windows, to learn from and held out. Raises DataError."""
    whole, train, held_out = stored(run, source, facts)
    with decoding(run.cache, f"train again from {source}"):
        learned, kept = windows_of(whole, facts, train), windows_of(whole, facts, held_out)
    return Chunks.of(learned, facts), Chunks.of(kept, facts, True)


def held_out_of(run: Run, source: Path, facts: PolicyFacts) -> Chunks:
    """The windows that a run held out, alone. Raises DataError."""
    whole, _, held_out = stored(run, source, facts)
    return Chunks.of(windows_of(whole, facts, held_out), facts, spread=True)


def facts_of(
    demonstrations: Demonstrations, train: np.ndarray, held_out: np.ndarray, *, observed: int, horizon: int, acted: int,
    angles: tuple[str, ...] = (),
) -> PolicyFacts:  # fmt: skip
    """What is to be known of these demonstrations; ranges are those of the episodes trained on.

    Raises DataError for pictures of different shapes, Wrong for angles that are not in the states.
    """
    from sfumato.data import DataError
    from sfumato.fields.policy.demonstrations.episodes import Ranges, is_picture

    seen = demonstrations.observations
    pictures = tuple(name for name, values in seen.items() if is_picture(values))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, values in seen.items():
        shape = tuple(int(n) for n in values.shape[1:])
        shapes[name] = (shape[-1], *shape[:-1]) if name in pictures and shape[-1] in (1, 3) else shape
    if len({shapes[name] for name in pictures}) > 1:
        sizes = ", ".join(f"{name} {shapes[name]}" for name in pictures)
        raise DataError(
            f"pictures have different shapes (C, H, W): {sizes}; pick some of one shape with --observations"
        )
    several = demonstrations.task is not None and len(demonstrations.tasks) > 1
    facts = PolicyFacts(
        ranges=Ranges.of(demonstrations, train), states=tuple(name for name in seen if name not in pictures),
        pictures=pictures, shapes=shapes, tasks=demonstrations.tasks if several else (), observed=observed,
        horizon=horizon, acted=acted, count=0, fps=demonstrations.fps, angles=angles, episodes=len(train),
        held=len(held_out),
    )  # fmt: skip
    return dataclasses.replace(facts, count=len(windows_of(demonstrations, facts, train)))


def going_on(facts: PolicyFacts, base: PolicyFacts) -> PolicyFacts:
    """Facts of demonstrations that a policy learns further from: seen and done alike, in its ranges. Raises DataError."""
    from sfumato.data import DataError

    for name in ("states", "pictures", "shapes", "tasks", "dim", "angles"):
        here, there = getattr(facts, name), getattr(base, name)
        if here != there:
            what = "numbers of an action" if name == "dim" else name
            raise DataError(f"{what}: {here or 'none'} in these demonstrations, and the policy knows {there or 'none'}")
    return dataclasses.replace(facts, ranges=base.ranges)


def task_number(facts: PolicyFacts, label: str | None, run: Run) -> int | None:
    """The number of the task of that name; None where none is named. Raises Wrong for one that was not learned."""
    if label is None:
        return None
    if label not in facts.tasks:
        known = f"must be one of {', '.join(facts.tasks)}" if facts.tasks else f"{run.path} was trained without tasks"
        raise Wrong(f"label = {label!r}: {known}")
    return facts.tasks.index(label)
