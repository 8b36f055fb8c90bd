"""Loss spikes: seen by how far the logarithm of the loss lies from its own past."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WARM = 20
"""Steps before anything is called a spike."""
DEVIATIONS, TIMES = 6.0, 3.0
"""A spike is so many deviations above the mean of ln(loss), and so many times its exponential."""
MOST = 20
"""Batches that a run leaves out at most, of those that it was not told to leave out."""


@dataclass
class Spikes:
    """Mean and variance of ln(loss) over about the last hundred steps, spikes left out; part of the state of training, so that
    a run that was interrupted sees the same spikes."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @property
    def usual(self) -> float:
        """The loss that is usual by now."""
        return math.exp(self.mean)

    def strange(self, loss: float) -> bool:
        """Whether this is a spike, or no number."""
        if not math.isfinite(loss):
            return True
        above = self._above(loss)
        return self.count >= WARM and above > math.log(TIMES) and above > DEVIATIONS * math.sqrt(self.variance)

    def _above(self, loss: float) -> float:
        return math.log(max(loss, 1e-30)) - self.mean if loss > 0 else 0.0

    def see(self, loss: float) -> bool:
        """Whether this is a spike; one that is not is taken in."""
        if self.strange(loss):
            return True
        above = self._above(loss)
        self.count += 1
        share = max(1 / self.count, 0.01)
        self.mean += share * above
        self.variance = (1 - share) * (self.variance + share * above**2)
        return False

    def state(self) -> dict[str, Any]:
        """As JSON, which keeps every digit."""
        return {"count": self.count, "mean": self.mean, "variance": self.variance}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.count, self.mean = int(state.get("count", 0)), float(state.get("mean", 0.0))
        self.variance = float(state.get("variance", 0.0))
