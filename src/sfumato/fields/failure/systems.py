"""The built-in systems: what a simulator is, and some whose failures are known exactly. Needs numpy alone.

A system is given disturbances (B, *shape) and answers robustness, at or below 0 where it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

Batch = Callable[[np.ndarray], Any]
Symmetry = Literal["none", "negate"]


@dataclass(frozen=True)
class System:
    """A system under test.

    run: disturbances (B, *shape) -> robustness (B,), or {"robustness": (B,), "trajectory": (B, T, S)}.
    shape: of one disturbance. law: of its numbers, spelt. symmetry: "negate" where -x fails as x does.
    single: run takes one disturbance (*shape) at a time.
    """

    name: str
    run: Batch
    shape: tuple[int, ...]
    law: tuple[str, ...] = ()
    symmetry: Symmetry = "none"
    single: bool = False


def toy2d(x: np.ndarray) -> np.ndarray:
    """The example of DiFS (arXiv 2406.14761): failure where |x1| >= 3 and x2 >= 3. p = 2 Phi(-3)^2, two equal modes."""
    return np.maximum(3 - np.abs(x[:, 0]), 3 - x[:, 1])


def halfspace(x: np.ndarray, b: float = 3.719) -> np.ndarray:
    """Failure where the mean of all numbers is at least b of its own deviations: p = Phi(-b)."""
    return b - x.sum(1) / np.sqrt(x.shape[1])


def shell(x: np.ndarray, r: float) -> np.ndarray:
    """Failure at a distance of r or more from the origin: a chi-square tail."""
    return r - np.sqrt((x**2).sum(1))


def orthogonal(x: np.ndarray, k: int, b: float) -> np.ndarray:
    """Failure where any of the first k numbers is b or more: p = 1 - (1 - Phi(-b))^k, k equal modes but for overlaps."""
    return (b - x[:, :k]).min(1)


def linear(x: np.ndarray, a: float = 0.9, c: float = 1.0, h: float = 9.0) -> dict[str, np.ndarray]:
    """y' = a y + c x_k from 0, failure where the last y is h or more: p = Phi(-h / (c sqrt(sum of a^(2 j))))."""
    states = np.zeros((len(x), x.shape[1] + 1))
    for k in range(x.shape[1]):
        states[:, k + 1] = a * states[:, k] + c * x[:, k]
    return {"robustness": h - states[:, -1], "trajectory": states[:, :, None]}


STEPS, LIMIT = 41, 8.0


def pendulum(
    x: np.ndarray, noise: float = 0.14, spread: tuple[float, float] = (np.pi / 64, 0.25)
) -> dict[str, np.ndarray]:
    """The inverted pendulum of "Algorithms for Validation" (Kochenderfer et al.): a controller that is saturated and sees angle
    and rate with noise keeps it upright for 41 steps of 0.05 s; failure where it leans by 45 degrees or more.

    x (B, 84): the first angle and rate, then a pair of noises for each step. At the usual noise and spread p = 5.487e-5.
    """
    x = np.asarray(x, dtype=np.float64)
    theta, omega = x[:, 0] * spread[0], x[:, 1] * spread[1]
    states = np.empty((len(x), STEPS + 1))
    states[:, 0] = theta
    for t in range(STEPS):
        a = -15 * (theta + noise * x[:, 2 + 2 * t]) - 8 * (omega + noise * x[:, 3 + 2 * t])
        a = np.clip(a, -2, 2)
        omega = omega + (15 * np.sin(theta) + 3 * a) * 0.05
        theta = theta + omega * 0.05
        omega = np.clip(omega, -LIMIT, LIMIT)
        states[:, t + 1] = theta
    return {"robustness": (np.pi / 4 - np.abs(states)).min(1), "trajectory": states[:, :, None]}


PENDULUM_SHAPE = (2 + 2 * STEPS,)
BUILT_IN: dict[str, System] = {
    "toy2d": System("toy2d", toy2d, (2,)),
    "pendulum": System("pendulum", pendulum, PENDULUM_SHAPE),
    **{
        f"pendulum:{noise}": System(f"pendulum:{noise}", partial(pendulum, noise=noise), PENDULUM_SHAPE)
        for noise in (0.13, 0.15, 0.17)
    },
    "halfspace": System("halfspace", halfspace, (16,)),
    "linear": System("linear", linear, (20,)),
}
"""By name; pendulum:0.17 has that noise instead of 0.14."""


def named(names: Sequence[str] = tuple(BUILT_IN)) -> str:
    """The names of those that are built in, for messages."""
    return ", ".join(names)
