"""Simulators as users write them, good and bad."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

NUMBER = 1


def batch(x: np.ndarray) -> np.ndarray:
    return 3.0 - x[:, 0] - 0.5 * np.abs(x[:, 1])


def one(x: np.ndarray) -> dict:
    return {"robustness": batch(x[None])[0], "trajectory": np.cumsum(x)[:, None]}


def dying(x: np.ndarray) -> float:
    """Its process dies at some disturbances, once or always; notes when."""
    folder = Path(os.environ["DYING"])
    before = len(list(folder.glob(f"{x[0]:.0f}-*")))
    if x[0] == 2000.0 or (x[0] == 1000.0 and not before):
        (folder / f"{x[0]:.0f}-{before}").touch()
        os._exit(3)
    return float(batch(x[None])[0])


def wrong_shape(x: np.ndarray) -> np.ndarray:
    return x[:, :1]


def words(x: np.ndarray) -> str:
    return "all fine"


def no_robustness(x: np.ndarray) -> dict:
    return {"path": x}


def short_path(x: np.ndarray) -> dict:
    return {"robustness": batch(x), "trajectory": x[:2]}


def changing(x: np.ndarray) -> np.ndarray:
    x *= 2
    return batch(x)


def raising(x: np.ndarray) -> np.ndarray:
    raise ZeroDivisionError("no way")


def floor(x: np.ndarray) -> np.ndarray:
    """Falls towards 1, and no further: it cannot fail."""
    return 1.0 + 1 / (1 + np.exp(x[:, 0]))


def plateau(x: np.ndarray) -> np.ndarray:
    """The same from some point on."""
    return np.maximum(1.0, 2.0 - x[:, 0])
