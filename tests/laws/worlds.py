"""The schedules, answers and small guessers that the laws are tried on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.schedule import (
    EDM,
    VE,
    VP,
    Cosine,
    Linear,
    LogLinear,
    Schedule,
    Shifted,
    Sigmoid,
    Table,
    ZeroTerminal,
)

F64 = torch.float64
BETAS = tuple(torch.linspace(1e-4, 0.02, 1000, dtype=F64).tolist())
SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "cosine_offset": Cosine(0.008),
    "vp": VP(),
    "ve": VE(),
    "edm": EDM(),
    "loglinear": LogLinear(),
    "sigmoid": Sigmoid(),
    "table": Table(BETAS),
    "shifted_linear": Shifted(Linear(), 3.0),
    "shifted_vp": Shifted(VP(), 2.0),
    "zero_terminal": ZeroTerminal(VP()),
}
ANSWERS = ("data", "noise", "v", "velocity", "score")
HELD = 5e-3
"""Below this alpha the noise and score answers are not inverted: they say nothing about the data there."""


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


class Told:
    """A guess of the tests, which says in ``guess(x_t, t, s, **condition)`` what it guesses. What it is given of the
    conditions are the conditions themselves."""

    def given(self, **condition: Any) -> dict[str, Any]:
        return condition

    def __call__(self, x_t: Any, t: Any, s: Any = None, *, given: Any = None, **condition: Any) -> Endpoints:
        found: Endpoints = self.guess(x_t, t, s, **{**(given or {}), **condition})  # type: ignore[attr-defined]
        return found


@dataclass(frozen=True)
class Constant(Told):
    """Guesses the same endpoints everywhere."""

    x: Tensor
    z: Tensor
    process: Gaussian

    def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        return Endpoints(self.x, self.z)


def walk(solver: Any, guess: Any, x_t: Tensor, times: Iterable[Tensor], rng: Any = None) -> Tensor:
    """A solver's walk from any point, not only from pure noise."""
    times = list(times)
    memory = solver.prepare(torch.stack(times))
    for t, s in pairwise(times):
        x_t, memory = solver.step(guess, x_t, t, s, memory, rng)
    return x_t
