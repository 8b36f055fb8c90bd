"""gymnasium environments with a controller as systems under test: --simulator gymnasium:LunarLander-v3.

One episode, always from the same seed, so that it is a function of the disturbance alone: knots (K, channels) of standard normal
numbers, each held for some steps, times a spread, added to what the controller sees or to what it does. Channels are the numbers
of the observation that can be negative (of the lander: place, speed, angle, not the contacts of its legs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.errors import Wrong, needed, one_line
from sfumato.fields.failure.systems import System

if TYPE_CHECKING:
    from sfumato.fields.failure.spec import Spec

LANDER = "LunarLander"
HARD = (1.0, 1.0, 0.8)
"""Sideways speed, fall and tilt, in the environment's units, at which a landing is as bad as a crash."""
NEAR = 0.3
"""Height below which the lander's speed and tilt count."""


@dataclass
class Episode:
    """An episode as a function of its disturbance; made in each process when it is first run.

    judge: what happened, (T, S), and whether the environment said crash -> robustness.
    """

    id: str
    controller: Callable[[Any, np.ndarray], Any]
    where: str
    noise: float
    hold: int
    horizon: int
    channels: tuple[int, ...]
    judge: Callable[[np.ndarray, bool], float]
    made: Any = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "made": None}

    def __call__(self, knots: np.ndarray) -> dict[str, Any]:
        """knots (K, channels) -> robustness, and what the environment was in at each step (horizon + 1, S), NaN after its end."""
        if self.made is None:
            self.made = needed("gymnasium", "failure").make(self.id, max_episode_steps=self.horizon)
        env, disturbance = self.made, self.noise * knots
        seen, _ = env.reset(seed=0)
        states = np.full((self.horizon + 1, len(seen)), np.nan)
        states[0], bad = seen, False
        for step in range(self.horizon):
            now = disturbance[step // self.hold]
            shown = np.array(seen, dtype=np.float64)
            if self.where == "obs":
                shown[list(self.channels)] += now
            action = self.controller(env, shown)
            if self.where == "action":
                space = env.action_space
                action = np.clip(np.asarray(action) + now, space.low, space.high).astype(space.dtype)
            seen, reward, ended, cut, _ = env.step(action)
            states[step + 1] = seen
            if ended or cut:
                bad = bool(ended and reward <= -100)
                break
        return {"robustness": self.judge(states, bad), "trajectory": states}


def landing(states: np.ndarray, crashed: bool) -> float:
    """How well the lander came down: 1 less the worst of its speeds and tilt near the ground, and of how far off it flew; above 0
    where it did not crash, and below where it did."""
    known = states[np.isfinite(states[:, 0])]
    low = known[known[:, 1] < NEAR]
    worst = float(np.abs(known[:, 0]).max())
    if len(low):
        across, fall, tilt = (np.abs(low[:, i]).max() / hard for i, hard in zip((2, 3, 4), HARD, strict=True))
        worst = max(worst, float(across), float(fall), float(tilt))
    return -max(worst, 1e-3) if crashed else 1 / (1 + worst)


def steps(states: np.ndarray, crashed: bool) -> float:
    """Of any other environment: the share of the steps that it held out for, and at or below 0 where it was ended badly."""
    share = float(np.isfinite(states[:, 0]).mean())
    return share - 1.0 if crashed else share


def heuristic(env: Any, seen: np.ndarray) -> Any:
    """The controller that comes with the lander."""
    from gymnasium.envs.box2d.lunar_lander import heuristic as shipped

    return shipped(env.unwrapped, seen)


@dataclass(frozen=True)
class Own:
    """A controller of the user's own, observation -> action, by its name."""

    name: str

    def __call__(self, env: Any, seen: np.ndarray) -> Any:
        from sfumato.jobs.imported import imported

        return imported(self.name, "controller")(seen)


def system(spec: Spec) -> System:
    """The system of a gymnasium environment. Raises Wrong, DataError."""
    gymnasium = needed("gymnasium", "failure")
    id = spec.simulator.partition(":")[2]
    lander = id.startswith(LANDER)
    if lander:
        needed("Box2D", "failure")
    if spec.controller is None and not lander:
        raise Wrong(
            f"controller: must be given for {spec.simulator}, as --controller module:function, observation -> action"
        )
    try:
        env = gymnasium.make(id)
    except Exception as error:
        raise Wrong(
            f"simulator = {spec.simulator!r}: cannot be made ({type(error).__name__}: {one_line(error)})"
        ) from error
    space = env.observation_space if spec.where == "obs" else env.action_space
    if not hasattr(space, "low") or len(space.shape) != 1:
        raise Wrong(
            f"where = {spec.where!r}: the {spec.where} of {id} are no vectors of numbers, {space} cannot be disturbed"
        )
    channels = tuple(np.flatnonzero(space.low < 0).tolist()) if spec.where == "obs" else tuple(range(space.shape[0]))
    env.close()
    controller = heuristic if spec.controller is None else Own(spec.controller)
    judge = landing if lander else steps
    run = Episode(id, controller, spec.where, spec.noise, spec.hold, spec.horizon, channels, judge)
    return System(spec.simulator, run, (-(-spec.horizon // spec.hold), len(channels)), single=True)
