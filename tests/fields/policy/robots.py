"""A point on a plane that is to be moved to its goal: a gymnasium environment small enough to know by heart.

The goal is drawn from the seed, an action moves the point by at most 0.1 each way, and within 0.06 of the goal it is done.
Variants fail in the ways that simulators fail.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from sfumato.fields.policy.simulators.crew import Job

POINT = "tests.fields.policy.robots:sfumato_tests/Point-v0"
SPEED, NEAR, LIMIT = 0.1, 0.06, 30


class Point(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    fault = ""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-2, 2, (4,))
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), dtype=np.float64)
        self.place, self.goal, self.steps = np.zeros(2), np.zeros(2), 0

    def look(self) -> Any:
        return np.concatenate([self.place, self.goal])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal, self.steps = np.zeros(2), self.np_random.uniform(-1, 1, 2), 0
        return self.look(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 4:
            if self.fault == "raises":
                raise RuntimeError("the spring\nbroke")
            if self.fault == "dies":
                os._exit(7)
            if self.fault == "infinite":
                self.place = np.array([np.nan, 0.0])
                return self.look(), 0.0, False, False, {}
        self.place = self.place + SPEED * np.asarray(action)
        away = float(np.linalg.norm(self.goal - self.place))
        noise = float(np.random.default_rng().random()) if self.fault == "forgets" else 0.0
        won = away < NEAR
        return self.look(), noise - away, won, False, {"is_success": won}

    def render(self) -> np.ndarray:
        picture = np.full((48, 48, 3), 255, dtype=np.uint8)
        for where, colour in ((self.goal, (0, 200, 0)), (self.place, (0, 0, 255))):
            x, y = np.clip((where + 1.5) * 16, 2, 45).astype(int)
            picture[y - 2 : y + 3, x - 2 : x + 3] = colour
        return picture


class Named(Point):
    """The same, seen as a mapping within a mapping."""

    def look(self) -> Any:
        return {"arm": {"place": self.place.copy()}, "goal": self.goal.copy(), "eye": self.render()}


class Fleeting(Point):
    """The same, won at the third step alone, and not over then."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        look, reward, *_ = super().step(action)
        return look, reward, False, False, {"is_success": self.steps == 3}


def _fault(name: str) -> type[Point]:
    return type(name, (Point,), {"fault": name})


gymnasium.register("sfumato_tests/Point-v0", entry_point=Point, max_episode_steps=LIMIT)
gymnasium.register("sfumato_tests/Named-v0", entry_point=Named, max_episode_steps=LIMIT)
gymnasium.register("sfumato_tests/Fleeting-v0", entry_point=Fleeting, max_episode_steps=LIMIT)
gymnasium.register("sfumato_tests/Endless-v0", entry_point=Point)
for _name in ("raises", "dies", "infinite", "forgets"):
    gymnasium.register(f"sfumato_tests/{_name}-v0", entry_point=_fault(_name), max_episode_steps=LIMIT)


class Walker:
    """A session that walks to the goal with steps drawn from each row's seed, and checks what it is told.

    Told the truth, it knows each place: after every step of a chunk the point is where its action brought it.
    """

    def __init__(self, jobs: Sequence[Job], chunk: int = 4, wild: float = 0.5) -> None:
        self.jobs, self.chunk, self.wild = list(jobs), chunk, wild
        self.reset()

    def reset(self, rows: Sequence[int] | None = None) -> None:
        self.calls, self.seen, self.sizes = 0, [], []  # type: ignore[var-annotated]

    def observe(self, observations: Mapping[str, np.ndarray]) -> None:
        assert observations["state"].shape == (len(self.jobs), 4)
        self.seen.append(observations["state"])

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        self.observe(observations)
        if self.calls:
            self.sizes.append(len(self.seen))
            assert len(self.seen) == self.chunk, "every step of a chunk is told once"
            before, goal = self.last[:, :2], self.last[:, 2:]
            for k, seen in enumerate(self.seen):
                moved = before + SPEED * np.clip(self.actions[:, k], -1, 1)
                over = np.linalg.norm(goal - before, axis=1) < NEAR
                right = np.where(over[:, None], before, moved)
                cut = np.array([[job.world == "short"] for job in self.jobs])  # which ends before its goal
                np.testing.assert_allclose(seen[:, :2], np.where(cut, seen[:, :2], right), atol=1e-12)
                before = seen[:, :2]
        self.last, self.seen = np.array(observations["state"]), []
        wind = np.stack(
            [np.random.default_rng((job.seed, self.calls)).normal(size=(self.chunk, 2)) for job in self.jobs]
        )
        way = (self.last[:, 2:] - self.last[:, :2]) / SPEED / self.chunk
        self.calls += 1
        self.actions = way[:, None] + self.wild * wind
        return self.actions


def walking(environment: Any) -> Any:
    """A controller for `record`: straight to the goal, all but for seeds whose goal is to the left of -0.5."""

    def act(seen: Mapping[str, np.ndarray]) -> np.ndarray:
        place, goal = seen["state"][:2], seen["state"][2:]
        return np.zeros(2) if goal[0] < -0.5 else (goal - place) / SPEED

    return act


def stumbling(environment: Any) -> Any:
    """A controller that fails at once."""

    def act(seen: Mapping[str, np.ndarray]) -> np.ndarray:
        raise ArithmeticError("out of ideas")

    return act
