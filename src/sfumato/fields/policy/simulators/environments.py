"""Simulators for a policy to act in: any gymnasium environment by its id, with Push-T and Meta-World among them.

    gym_pusht/PushT-v0     push the T onto its mark (Chi et al. 2023, arXiv 2303.04137; `gym-pusht`)
    metaworld/TASK         one of 50 tasks of a robot arm, as metaworld/push-v3 (Yu et al. 2019, arXiv 1910.10897)
    any other id           as registered with gymnasium, by MODULE if it is MODULE:ID; its actions must be numbers

All are in the extra "robot". On Debian `gym-pusht` wants the packages libgl1 and libglib2.0-0, and pictures of Meta-World
without a screen want libosmesa6.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sfumato.data.errors import DataError, one_line, shown
from sfumato.errors import Wrong, install
from sfumato.fields.policy.demonstrations.episodes import is_picture
from sfumato.fields.policy.simulators.world import (
    META_WORLD,
    PICTURE,
    PUSH_T,
    STATE,
    Act,
    Observations,
    Step,
    World,
    package,
    told,
)  # fmt: skip

MAX_SIDE = 2048
# Push-T: the outline of the T around its origin, and the x, y and angle of the mark where it belongs
TEE = np.array([[-60, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]], dtype=np.float64)
MARK = np.array([256, 256, np.pi / 4])
# The nine points of the T that recordings hold as "keypoint", in the frame of the T: the median over the 25,650 steps of
# `pusht_cchi_v7_replay`, from which 99 % of them differ by less than 0.04 pixels
KEYPOINTS = np.array(
    [
        [9.26979, 90.04097],
        [-60.98347, -1.18673],
        [60.91276, -1.39336],
        [-0.27050, 25.54363],
        [-14.06493, 122.81585],
        [39.00274, 32.85740],
        [-39.96641, 32.72966],
        [-16.82434, 62.86318],
        [23.54146, -1.70029],
    ]
)


def make(
    id: str,
    *,
    limit: int | None = None,
    picture: int | None = None,
    side: int = 256,
    camera: str = "corner2",
) -> Environment:
    """An environment by its id.

    Args:
        limit: steps after which an episode is over; None takes the environment's own (Push-T 300, Meta-World 500).
        picture: side in pixels of the observation "img", which is there only if this is given.
        side: side in pixels of what `render` gives, where the simulator leaves it open.
        camera: of Meta-World: corner, corner2, corner3, corner4, topview, behindGripper or gripperPOV.

    Raises DataError when a package is missing, when there is no such environment, and when its actions or observations
    are not numbers; ValueError for an impossible size or limit.
    """
    for name, value, most in (("limit", limit, None), ("picture", picture, MAX_SIDE), ("side", side, MAX_SIDE)):
        if value is not None and not 1 <= value <= (most or value):
            raise Wrong(f"{name} = {value}: must be from 1{f' to {most}' if most else ' up'}")
    if id.startswith(META_WORLD):
        from sfumato.fields.policy.simulators.meta_world import MetaWorld

        world: World = MetaWorld(id.removeprefix(META_WORLD), limit, picture, side, camera)
    else:
        world = (_PushT if id == PUSH_T else _Gymnasium)(id, limit, picture, side)
    return Environment(id, world)


class Environment:
    """One simulator and where it stands. Observations are arrays by name, the reward is what the environment pays.

    `task` is the short name of what is to be done, `fps` the steps per second (None where not told), `limit` the steps
    of an episode at most, `low` and `high` the bounds of the A numbers of an action, which may be infinite.
    An episode is a function of the seed and the actions alone, whatever was done before.
    """

    def __init__(self, id: str, world: World) -> None:
        if world.limit is None:
            raise DataError(f"{shown(id)}: has no limit of steps of its own; give one")
        self.id, self.task, self.limit, self._world = id, id.removeprefix(META_WORLD), world.limit, world
        self.fps, self.low, self.high = world.fps, world.low, world.high
        self._seed, self._steps = 0, 0

    def reset(self, seed: int, state: Sequence[float] | np.ndarray | None = None) -> Observations:
        """The first observations of the episode of a seed, or of one that begins in a given state (Push-T alone).

        Raises DataError when the simulator fails or can't be placed.
        """
        self._seed, self._steps = seed, 0
        where = f"{shown(self.id)}, seed {seed}"
        given = None if state is None else np.asarray(state, dtype=np.float64)
        return self._checked(told(where, self._world.reset, seed, given), where)

    def step(self, action: np.ndarray) -> Step:
        """Carries out one action (A,), moved into its bounds. Raises DataError when it is not finite or the simulator fails."""
        where = f"{shown(self.id)}, seed {self._seed}, step {self._steps}"
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.low.shape:
            raise DataError(f"{where}: has an action of shape {action.shape}; expected {self.low.shape}")
        if not np.isfinite(action).all():
            raise DataError(f"{where}: has an action with NaN or infinity; the policy failed")
        raw = told(where, self._world.step, np.clip(action, self.low, self.high))
        self._steps += 1
        if not math.isfinite(raw.reward):
            raise DataError(f"{where}: pays a reward of {raw.reward}; expected a finite number")
        done = raw.done or self._steps >= self.limit
        return raw._replace(observations=self._checked(raw.observations, where), done=done)

    def _checked(self, observations: Observations, where: str) -> Observations:
        for name, value in observations.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise DataError(f"{where}: observes {shown(name)} with NaN or infinity; expected finite numbers")
        return observations

    def render(self) -> np.ndarray:
        """What a person would see now, uint8 (H, W, 3). Raises DataError when it can't be drawn here."""
        return told(f"{shown(self.id)}, as a picture", self._world.render)

    def expert(self) -> Act:
        """A scripted policy, observations -> action. Raises DataError where there is none."""
        return self._world.expert()

    def place_of(self, actions: np.ndarray) -> np.ndarray:
        """Where in the picture actions (..., A) lead, (..., 2): from the left and from the top, both in [0, 1].

        Raises DataError where actions are no places in the picture.
        """
        return self._world.place_of(actions)

    def close(self) -> None:
        """Lets the simulator go."""
        self._world.close()


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    if picture.shape[:2] == (side, side):
        return np.ascontiguousarray(picture)
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX))


class _Gymnasium:
    """Any environment registered with gymnasium."""

    def __init__(self, id: str, limit: int | None, picture: int | None, side: int, **options: Any) -> None:
        gymnasium = package("gymnasium")
        self.id, self.picture, self.side = id, picture, side
        module, _, known = id.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
            spec = gymnasium.spec(known)
        except Exception as error:  # names, versions and modules fail each in their own way
            raise DataError(
                f"{shown(id)}: no such environment ({one_line(error)}); expected {PUSH_T}, {META_WORLD}push-v3 or "
                "another id registered with gymnasium"
            ) from None
        self.limit = limit or spec.max_episode_steps
        try:
            self.env = told(shown(id), lambda: gymnasium.make(
                known, render_mode="rgb_array", max_episode_steps=self.limit, disable_env_checker=True, **options
            ))  # fmt: skip
        except DataError as error:
            raise DataError(f"{error}; {install('policy')}, or install the package of this environment") from error
        space = self.env.action_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise DataError(f"{shown(id)}: has actions {one_line(Exception(space))}; expected a Box of numbers")
        self.low, self.high = (np.asarray(x, dtype=np.float64).reshape(-1) for x in (space.low, space.high))
        self.shape, self.kind = space.shape, space.dtype
        fps = self.env.metadata.get("render_fps")
        self.fps = float(fps) if fps else None

    def reset(self, seed: int, state: np.ndarray | None) -> Observations:
        if state is not None:
            raise DataError(f"{shown(self.id)}: can't begin in a given state; only {PUSH_T} can")
        return self.observed(self.env.reset(seed=seed)[0])

    def step(self, action: np.ndarray) -> Step:
        raw, reward, ended, cut, info = self.env.step(action.reshape(self.shape).astype(self.kind))
        won = info.get("is_success", info.get("success"))
        return Step(self.observed(raw), float(reward), bool(ended or cut), None if won is None else bool(np.all(won)))

    def observed(self, raw: Any) -> Observations:
        """Arrays by name: "state" or "img" where the environment has but one, its own names with dots where it has more."""
        found: Observations = {}

        def add(name: str, value: Any) -> None:
            if isinstance(value, Mapping):
                for key, part in value.items():
                    add(f"{name}.{key}" if name else str(key), part)
                return
            array = np.atleast_1d(np.asarray(value))
            if array.dtype.kind not in "fiub":
                raise DataError(f"{shown(self.id)}: observes {array.dtype}; expected numbers")
            found[name or (PICTURE if is_picture(array[None]) else STATE)] = array.copy()

        add("", raw)
        if self.picture is not None:
            found[PICTURE] = _resized(self.render(), self.picture)
        return found

    def render(self) -> np.ndarray:
        drawn = self.env.render()
        if not isinstance(drawn, np.ndarray) or drawn.ndim != 3:
            raise DataError(f"{shown(self.id)}: draws no pictures; expected the render mode rgb_array")
        return np.asarray(drawn, dtype=np.uint8)

    def expert(self) -> Act:
        raise DataError(f"{shown(self.id)}: has no scripted expert; {META_WORLD}TASK has one")

    def place_of(self, actions: np.ndarray) -> np.ndarray:
        raise DataError(f"{shown(self.id)}: its actions are no places in its picture; only those of {PUSH_T} are")

    def close(self) -> None:
        self.env.close()


class _PushT(_Gymnasium):
    """Push-T with the starts, the observations and the pictures of its recordings.

    A seed gives the start that Diffusion Policy gives it, so episode i of its recordings is that of seed i, and its 50
    test episodes are those of seeds 100000 to 100049. "state" is the agent's x and y, the T's x and y (its own origin,
    in the middle of its upper edge) and the T's angle in [0, 2 pi), in pixels of a 512-pixel picture, y downwards.
    """

    def __init__(self, id: str, limit: int | None, picture: int | None, side: int) -> None:
        package("gym_pusht")
        seen = picture or 96
        super().__init__(id, limit, picture, side, observation_width=seen, observation_height=seen,
                         visualization_width=side, visualization_height=side)  # fmt: skip
        self.base: Any = self.env.unwrapped
        self.polygon = package("shapely").Polygon
        self.mark = self.polygon(_turned(TEE, MARK))
        # Its own sums over a set, whose order, and so the last digit of the reward, differs from process to process
        self.base._get_coverage = self.coverage

    def reset(self, seed: int, state: np.ndarray | None) -> Observations:
        if state is None:
            # The generator of old on purpose: the recordings and the published figures were made with it
            chance = np.random.RandomState(seed % 2**32)
            start = [*chance.randint(50, 450, 2), *chance.randint(100, 400, 2), chance.randn() * 2 * np.pi - np.pi]
            return self.observed(self.env.reset(seed=seed, options={"reset_to_state": start})[0])
        if state.shape != (5,) or not np.isfinite(state).all():
            raise DataError(f"{PUSH_T}: has no state of shape {state.shape}; expected 5 finite numbers")
        self.env.reset(seed=seed)
        self.base._setup()
        self.base.agent.position = tuple(map(float, state[:2]))
        # The angle first: turning moves the origin, as a body turns about its centre of mass
        self.base.block.angle = float(state[4])
        self.base.block.position = tuple(map(float, state[2:4]))
        for body in (self.base.agent, self.base.block):
            self.base.space.reindex_shapes_for_body(body)
        return self.observed(self.base.get_obs())

    def step(self, action: np.ndarray) -> Step:
        # Not as float32, in which gymnasium declares them: recordings replay to the last digit so
        raw, reward, ended, cut, info = self.env.step(action)
        return Step(self.observed(raw), float(reward), bool(ended or cut), bool(info["is_success"]))

    def observed(self, raw: Any) -> Observations:
        found = {STATE: np.array(raw), "keypoint": _turned(KEYPOINTS, raw[2:])}
        return found if self.picture is None else {**found, PICTURE: np.array(self.base._render())}

    def coverage(self) -> float:
        """The share of the mark that the T covers."""
        block = self.base.block
        tee = self.polygon(_turned(TEE, np.array([*block.position, block.angle])))
        return float(tee.intersection(self.mark).area / self.mark.area)

    def place_of(self, actions: np.ndarray) -> np.ndarray:
        return np.asarray(actions, dtype=np.float64)[..., :2] / 512


def _turned(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (N, 2) in the frame of a body whose origin's x, y and angle are `pose` -> in the picture."""
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    out: np.ndarray = points @ np.array([[cosine, sine], [-sine, cosine]]) + pose[:2]
    return out
