"""What all simulators share: what is seen and done in them, how they are called, and how their packages are found."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from sfumato.data.errors import DataError, one_line
from sfumato.errors import install

PUSH_T = "gym_pusht/PushT-v0"
META_WORLD = "metaworld/"
STATE, PICTURE = "state", "img"

Observations = dict[str, np.ndarray]
Act = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Step(NamedTuple):
    """What one action led to. `success` is None where the environment does not tell."""

    observations: Observations
    reward: float
    done: bool
    success: bool | None


class World(Protocol):
    """A kind of simulator behind an `Environment`."""

    fps: float | None
    limit: int | None
    low: np.ndarray
    high: np.ndarray

    def reset(self, seed: int, state: np.ndarray | None) -> Observations: ...
    def step(self, action: np.ndarray) -> Step: ...
    def render(self) -> np.ndarray: ...
    def expert(self) -> Act: ...
    def place_of(self, actions: np.ndarray) -> np.ndarray: ...
    def close(self) -> None: ...


def told(where: str, call: Callable[..., Any], *given: Any) -> Any:
    """Calls into a simulator; whatever it raises becomes one line that says where it was."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*given)
    except DataError:
        raise
    except Exception as error:  # a simulator may raise anything
        raise DataError(f"{where}: the simulator failed ({one_line(error)})") from error


def package(module: str) -> Any:
    """An imported package of the extra "policy". Raises DataError saying what to install."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).split(".")[0]
        raise DataError(f"the package {missing} is not installed; {install('policy')}") from None
    except ImportError as error:
        raise DataError(
            f"the package {module.split('.')[0]} can't be loaded ({one_line(error)}); on Debian: "
            "apt install libgl1 libglib2.0-0 libosmesa6"
        ) from error
