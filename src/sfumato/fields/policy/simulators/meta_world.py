"""Meta-World: 50 tasks of a robot arm in MuJoCo, with a scripted expert for each (Yu et al. 2019, arXiv 1910.10897)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from sfumato.data.errors import DataError, shown
from sfumato.fields.policy.simulators.world import (
    META_WORLD,
    PICTURE,
    PUSH_T,
    STATE,
    Act,
    Observations,
    Step,
    package,
    told,
)


class MetaWorld:
    """A task of Meta-World. The goal is part of the observation, and every seed draws new places of object and goal.

    "state" is 39 numbers: the hand's place and opening, the objects' places and turns, the same a step before, the goal.
    """

    def __init__(self, task: str, limit: int | None, picture: int | None, side: int, camera: str) -> None:
        _headless()
        kinds = package("metaworld.env_dict").ALL_V3_ENVIRONMENTS
        if task not in kinds:
            near = ", ".join(difflib.get_close_matches(task, kinds, 3, 0.3)) or "push-v3"
            raise DataError(f"{META_WORLD}{shown(task)}: no such task of {len(kinds)}; did you mean {near}?")
        self.task, self.picture, self.camera = task, picture, camera
        self.env: Any = told(META_WORLD + task, kinds[task])
        # Instead of one of 50 goals drawn beforehand, each reset draws its own from the seed
        self.env._freeze_rand_vec, self.env.seeded_rand_vec = False, True
        self.env._set_task_called, self.env._partially_observable = True, False
        self.env.__dict__.pop("sawyer_observation_space", None)
        self.limit = min(limit or self.env.max_path_length, self.env.max_path_length)
        self.low, self.high = (
            np.asarray(x, dtype=np.float64) for x in (self.env.action_space.low, self.env.action_space.high)
        )
        self.fps: float | None = float(self.env.metadata["render_fps"])
        names = [self.env.model.camera(i).name for i in range(self.env.model.ncam)]
        if camera not in names:
            raise DataError(f"{META_WORLD}{task}: has no camera {shown(camera)}; it has {', '.join(names)}")
        self.eye: _Eye | None = None
        self.side = picture or side

    def reset(self, seed: int, state: np.ndarray | None) -> Observations:
        if state is not None:
            raise DataError(f"{META_WORLD}{self.task}: can't begin in a given state; only {PUSH_T} can")
        self.env.seed(seed)
        return self.observed(self.env.reset()[0])

    def step(self, action: np.ndarray) -> Step:
        raw, reward, ended, cut, info = self.env.step(action.astype(np.float32))
        return Step(self.observed(raw), float(reward), bool(ended or cut), bool(info["success"]))

    def observed(self, raw: np.ndarray) -> Observations:
        found = {STATE: np.array(raw, dtype=np.float64)}
        return found if self.picture is None else {**found, PICTURE: self.render()}

    def render(self) -> np.ndarray:
        self.eye = self.eye or _Eye(self.env.model, self.side)
        seen = self.eye.see(self.env.data, self.camera)
        # Meta-World's cameras in the corners hang upside down
        return np.ascontiguousarray(seen[::-1, ::-1] if self.camera.startswith("corner") else seen)

    def expert(self) -> Act:
        policy = package("metaworld.policies").ENV_POLICY_MAP[self.task]()

        def act(observations: Mapping[str, np.ndarray]) -> np.ndarray:
            asked = told(f"the expert of {self.task}", policy.get_action, observations[STATE])
            return np.clip(asked, self.low, self.high).astype(np.float32)

        return act

    def place_of(self, actions: np.ndarray) -> np.ndarray:
        raise DataError(
            f"{META_WORLD}{self.task}: its actions are no places in its picture; only those of {PUSH_T} are"
        )

    def close(self) -> None:
        if self.eye is not None:
            self.eye.close()
            self.eye = None
        self.env.close()


def _headless() -> None:
    """Lets MuJoCo draw without a screen, by osmesa where that is installed; must come before MuJoCo is imported."""
    from ctypes.util import find_library

    if "MUJOCO_GL" not in os.environ and not os.environ.get("DISPLAY") and find_library("OSMesa"):
        os.environ["MUJOCO_GL"] = "osmesa"


class _Eye:
    """Draws a MuJoCo model, without shadows, which take four fifths of the time where there is no GPU.

    The drawing context is made current for each picture and before it is let go: with several in one process the
    renderers of mujoco and gymnasium draw into each other's.
    """

    def __init__(self, model: Any, side: int) -> None:
        self.mujoco = mujoco = package("mujoco")
        self.model, self.side = model, side
        model.vis.global_.offwidth = model.vis.global_.offheight = side
        if not hasattr(mujoco, "GLContext"):
            raise DataError("MuJoCo can't draw here; on Debian: apt install libosmesa6, and set MUJOCO_GL=osmesa")
        self.gl = mujoco.GLContext(side, side)
        self.gl.make_current()
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self.context)
        self.scene = mujoco.MjvScene(model, maxgeom=2000)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self.where, self.options = mujoco.MjvCamera(), mujoco.MjvOption()

    def see(self, data: Any, camera: str) -> np.ndarray:
        mujoco = self.mujoco
        self.where.type, self.where.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self.model.camera(camera).id
        mujoco.mjv_updateScene(
            self.model, data, self.options, None, self.where, mujoco.mjtCatBit.mjCAT_ALL.value, self.scene
        )
        self.gl.make_current()
        room, out = mujoco.MjrRect(0, 0, self.side, self.side), np.empty((self.side, self.side, 3), dtype=np.uint8)
        mujoco.mjr_render(room, self.scene, self.context)
        mujoco.mjr_readPixels(out, None, room, self.context)
        return out[::-1]  # OpenGL counts rows from below

    def close(self) -> None:
        self.gl.make_current()
        self.context.free()
        self.gl.free()
