"""Failures as they are kept: disturbances, what they led to, their log-likelihoods and modes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sfumato.fields.failure.modes import Modes


@dataclass(frozen=True)
class Failures:
    """Failing disturbances x (N, n), their robustness (N,), trajectories (N, T, S) where the system tells them, the numbers of
    their calls (N,) and their modes."""

    x: np.ndarray
    robustness: np.ndarray
    trajectory: np.ndarray | None
    call: np.ndarray
    modes: Modes

    def log_likelihood(self) -> np.ndarray:
        """Log-density of each under the prior, in nats: exact."""
        return log_likelihood(self.x)


def log_likelihood(x: np.ndarray) -> np.ndarray:
    """Log-density (N,) of disturbances x (N, n) under the prior."""
    return -0.5 * (x**2).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
