"""What a policy is shown and what it answers: observations and chunks of actions, in the units of networks and of robots.

    raw observations, `observed` steps --Facts.shown--> {"state", "picture", "task"}       raw actions <--Facts.actions-- x

Everything needed for it lies in data.json of a run, so a run acts without its data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong
from sfumato.jobs.facts import read_facts
from sfumato.training.run import Run, RunError, write_text

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from sfumato.fields.policy.demonstrations.episodes import Demonstrations, Ranges, Windows

MOST_BYTES = 1 << 30
"""Up to this size all windows are cut once and kept."""


@dataclass(frozen=True)
class Facts:
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
    turning: tuple[int, ...] = field(init=False)
    """The places of the angles in the states laid side by side."""

    def __post_init__(self) -> None:
        names = [f"{name}.{place}" for name in self.states for place in range(math.prod(self.shapes[name]))]
        wrong = [word for word in self.angles if word not in names]
        if wrong or len(set(self.angles)) < len(self.angles):
            known = ", ".join(f"{name}.0 to {name}.{math.prod(self.shapes[name]) - 1}" for name in self.states)
            raise Wrong(f"angles = {wrong or list(self.angles)}: must be different ones of {known or 'no state'}")
        object.__setattr__(self, "turning", tuple(map(names.index, self.angles)))

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
            "shape": [self.horizon, self.dim], "classes": [], "tasks": list(self.tasks),
            "count": self.count, "states": list(self.states), "pictures": list(self.pictures),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()}, "observed": self.observed,
            "acted": self.acted, "fps": self.fps, "angles": list(self.angles), "ranges": self.ranges.to_json(),
        }  # fmt: skip
        write_text(run.path / "data.json", json.dumps(facts, indent=1))

    @classmethod
    def read(cls, run: Run) -> Facts:
        """From data.json of a run. Raises RunError where it is damaged, DataError where a range is."""
        from sfumato.fields.policy.demonstrations.episodes import Ranges

        stored = read_facts(run)
        try:
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
            )
            missing = [name for name in ("action", *found.states) if name not in found.ranges.low]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{run.path / 'data.json'}: {error!r} is missing or wrong; without it no action can be made: train again"
            ) from error
        if missing:
            raise RunError(
                f"{run.path / 'data.json'}: has no range of {', '.join(missing)}, which says what the numbers mean: train again"
            )
        return found

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
    facts: Facts
    order: np.ndarray
    """Item i is window order[i]."""
    kept: Mapping[str, np.ndarray] | None = None

    @classmethod
    def of(cls, windows: Windows, facts: Facts, spread: bool = False) -> Chunks:
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

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        import numpy as np

        if self.kept is not None:
            return {name: value[index] for name, value in self.kept.items()}
        return {name: value[0] for name, value in self.batch(np.array([index])).items()}

    def name(self, index: int) -> str:
        return self.windows.name(int(self.order[index]))


def facts_of(
    demonstrations: Demonstrations, ranges: Ranges, names: Sequence[str], windows: Windows, angles: tuple[str, ...] = ()
) -> Facts:  # fmt: skip
    """What is to be known of these demonstrations. Raises DataError for pictures of different shapes, ValueError for angles
    that are not in the states."""
    from sfumato.data import DataError
    from sfumato.fields.policy.demonstrations.episodes import is_picture

    shapes: dict[str, tuple[int, ...]] = {}
    pictures = tuple(name for name in names if is_picture(demonstrations.observations[name]))
    for name in names:
        shape = tuple(int(n) for n in demonstrations.observations[name].shape[1:])
        shapes[name] = (shape[-1], *shape[:-1]) if name in pictures and shape[-1] in (1, 3) else shape
    if len({shapes[name] for name in pictures}) > 1:
        sizes = ", ".join(f"{name} {shapes[name]}" for name in pictures)
        raise DataError(
            f"pictures have different shapes (C, H, W): {sizes}; pick some of one shape with --observations"
        )
    several = demonstrations.task is not None and len(demonstrations.tasks) > 1
    return Facts(
        ranges=ranges, states=tuple(name for name in names if name not in pictures), pictures=pictures, shapes=shapes,
        tasks=demonstrations.tasks if several else (), observed=windows.observed, horizon=windows.horizon,
        acted=windows.acted, count=len(windows), fps=demonstrations.fps, angles=angles,
    )  # fmt: skip


# ---- pictures for people -------------------------------------------------------------------------------------------------

INKS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (140, 86, 75), (23, 190, 207))


def fans(
    chunks: Sequence[np.ndarray], truth: Sequence[np.ndarray] | None = None, columns: int | None = None, side: int = 180
) -> Image:
    """Panels of chunks, each (K, horizon, dim) in standard units: two numbers as a path on the plane, others as curves over
    time, all K samples over one another, the demonstrated chunk (horizon, dim) in black."""
    import numpy as np
    from PIL import Image as pil
    from PIL import ImageDraw

    columns = columns or max(1, min(8, round((2 * len(chunks)) ** 0.5)))
    rows, scale = -(-len(chunks) // columns), 2
    sheet = pil.new("RGB", (columns * side * scale, rows * side * scale), "white")
    pen = ImageDraw.Draw(sheet)

    def line(path: np.ndarray, corner: np.ndarray, ink: tuple[int, int, int], width: int) -> None:
        at = [tuple(p) for p in (corner + (np.clip(path, -1.1, 1.1) / 2.3 + 0.5) * side * scale).tolist()]
        pen.line(at, fill=ink, width=width * scale, joint="curve")
        end = at[-1]
        pen.ellipse([end[0] - 2 * scale, end[1] - 2 * scale, end[0] + 2 * scale, end[1] + 2 * scale], fill=ink)

    for i, panel in enumerate(chunks):
        corner = np.array([i % columns, i // columns]) * side * scale
        pen.rectangle([*corner.tolist(), *(corner + side * scale - 1).tolist()], outline=(220, 220, 220))
        dim = panel.shape[-1]
        every = [(chunk, INKS[k % len(INKS)] if dim == 2 else None, 1) for k, chunk in enumerate(panel)]
        every += [] if truth is None else [(truth[i], (0, 0, 0), 2)]
        for chunk, ink, width in every:
            if dim == 2:
                line(chunk, corner, ink or (0, 0, 0), width)
                continue
            time = np.linspace(-1, 1, len(chunk))
            for j in range(dim):
                line(np.stack([time, -chunk[:, j]], 1), corner, ink or INKS[j % len(INKS)], width)
    return sheet.resize((columns * side, rows * side), pil.Resampling.LANCZOS)
