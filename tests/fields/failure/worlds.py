"""Systems whose failures are known exactly, and the exact answers of a network for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sfumato.fields.failure.data import Answers, Calls

HALF_P = {b: 0.5 * math.erfc(b / math.sqrt(2)) for b in (1.5, 2.0, 2.5, 3.0, 3.719)}


def asks(run: Callable[[np.ndarray], np.ndarray]):
    """A function of disturbances as a campaign asks it."""

    def simulate(x: np.ndarray):
        yield np.arange(len(x)), Answers(run(x))

    return simulate


def calls(tmp_path, run: Callable[[np.ndarray], np.ndarray], most: int = 10**7, name: str = "calls") -> Calls:
    """Calls of a function, in a folder of the test."""
    return Calls.at(tmp_path / name, asks(run), most)


def half(x: np.ndarray, b: float) -> np.ndarray:
    """Failure where the first number is b or more."""
    return b - x[:, 0]


def half_answer(b: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact v of a standard normal whose first number is cut off below b: that of the truncated normal's posterior mean."""

    def answer(y: Tensor, level: Tensor) -> Tensor:
        a = torch.atan(level.double().exp())[:, None]
        cos, sin, first = a.cos(), a.sin(), y[:, :1].double()
        c = (b - cos * first) / sin
        hazard = torch.exp(-0.5 * c**2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(-c))
        known = cos * first + sin * hazard
        return torch.cat([(cos * first - known) / sin, torch.zeros_like(y[:, 1:].double())], 1)

    return answer


def any_answer(n: int, seed: int = 0, size: float = 0.4) -> Callable[[Tensor, Tensor], Tensor]:
    """A network that answers nothing in particular."""
    weight = size * torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def answer(y: Tensor, level: Tensor) -> Tensor:
        return 0.3 * torch.tanh(y.double() @ weight + level.double()[:, None])

    return answer


def no_answer(y: Tensor, level: Tensor) -> Tensor:
    """The network before training: 0."""
    return torch.zeros_like(y)
