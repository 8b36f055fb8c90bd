"""Mean + residual: what a regression on the two frames says of a step, so that a model learns what that leaves.

The pattern of CorrDiff (Mardani et al. 2023, arXiv 2309.15214), with a mean that is linear (:mod:`~sfumato.data.ridge`)
or of second degree (:mod:`~sfumato.fields.weather.kernel`). What is learned from are residuals of days that the regression was
not fitted to; what is forecast with is the regression on all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.data.arrays import kept_arrays
from sfumato.data.ridge import Design, Ridge, crossed, fits
from sfumato.errors import DataError, shown
from sfumato.fields.weather import kernel
from sfumato.fields.weather.facts import WeatherFacts
from sfumato.fields.weather.grid import clock
from sfumato.fields.weather.kernel import Kernel

if TYPE_CHECKING:
    from sfumato.training.run import Run

FILE = "mean.npz"


def features(state: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Two frames (n, 2 C, rows, columns) in standard units and the clock (n, 4) -> (n, features)."""
    return np.concatenate((state.reshape(len(state), -1), told), 1)


@dataclass(frozen=True, eq=False)
class Mean:
    """The regression of a step's change (C, rows, columns), in spreads of it; what those of other years say of the steps learned
    from, ``crossed`` (n, C, rows, columns), by the time that a step begins at, ``times`` (n,), rising; and the spread of what is
    left, ``residual`` (C,)."""

    regression: Ridge | Kernel
    crossed: np.ndarray
    times: np.ndarray
    residual: tuple[float, ...]

    @classmethod
    def of(cls, run: Run, facts: WeatherFacts) -> Mean:
        """From a run. Raises DataError."""
        kept = kept_arrays(run.cache / FILE, "train again from the fields")
        shape = (len(facts.names), *facts.grid.shape)
        known = "dual" if "dual" in kept else "weights"
        parts = {"dual": {"centre", "scale", "support"}, "weights": {"offset"}}[known]
        if not {known, *parts, "penalty", "crossed", "times"} <= set(kept) or kept["crossed"].shape[1:] != shape:
            raise DataError(f"{shown(run.cache / FILE)}: is not what data.json tells of; train again from the fields")
        penalty = float(kept["penalty"])
        regression = (
            Kernel(kept["centre"], float(kept["scale"]), kept["support"], kept["dual"], penalty)
            if known == "dual"
            else Ridge(kept["weights"], kept["offset"], penalty)
        )
        return cls(regression, kept["crossed"], kept["times"], facts.residual)

    def _tall(self) -> np.ndarray:
        return np.asarray(self.residual, dtype=np.float32)[:, None, None]

    def __call__(self, state: np.ndarray, told: np.ndarray) -> np.ndarray:
        """The change that it expects, (n, C, rows, columns)."""
        return self.regression(features(state, told)).reshape(-1, *self.crossed.shape[1:])

    def left(self, x: np.ndarray, begun: np.ndarray, state: np.ndarray, told: np.ndarray) -> np.ndarray:
        """What is left of changes x (n, C, rows, columns) that begin at these times, of spread 1: of steps learned from by a
        regression that has not seen them."""
        at = np.searchsorted(self.times, begun).clip(max=len(self.times) - 1)
        known = self.times[at] == begun
        expected = np.where(known[:, None, None, None], self.crossed[at], 0)
        if not known.all():
            expected[~known] = self(state[~known], told[~known])
        return ((x - expected) / self._tall()).astype(np.float32)

    def restored(self, x: Tensor, state: Tensor, due: np.ndarray) -> Tensor:
        """The change to these times of which x (n, C, rows, columns) is left; state (n, 2, C, rows, columns)."""
        expected = self(state.flatten(1, 2).numpy(), clock(due))
        return x * torch.from_numpy(self._tall()) + torch.from_numpy(expected)


def fitted(run: Run, windows: Any, kind: str = "ridge") -> tuple[float, ...]:
    """Fit it to the steps learned from and keep it in the run; the spread of what is left of each channel. Raises DataError."""
    item, days = windows.batch(np.arange(1)), len(windows)
    if not fits(days, count := item["state"].size + item["clock"].size, item["x"].size):
        raise DataError(
            f"{shown(run.path)}: a regression of {item['x'].size:,} numbers on {count:,} over {days:,} times is "
            f"too large for --mean {kind}; leave that out, or take fewer --variables"
        )
    if kind == "kernel" and days > kernel.MOST_DAYS:
        raise DataError(
            f"{shown(run.path)}: --mean kernel holds a table of times x times, and {days:,} are more than {kernel.MOST_DAYS:,}; "
            "give --mean ridge, a longer --step or an earlier --until"
        )
    every = windows.batch(np.arange(days))
    known, wanted = features(every["state"], every["clock"]), every["x"].reshape(days, -1)
    if kind == "kernel":
        found, other = kernel.fit(known, wanted)
        kept: dict[str, Any] = {"centre": found.centre, "scale": np.float64(found.scale), "support": found.support,
                                "dual": found.dual, "penalty": np.float64(found.penalty)}  # fmt: skip
    else:
        ridge = Design.of(known).fit(wanted)
        other = crossed(known, [wanted], [ridge.penalty])[0]
        kept = {"weights": ridge.weights, "offset": ridge.offset, "penalty": np.float64(ridge.penalty)}
    other = other.reshape(every["x"].shape)
    np.savez(run.cache / FILE, crossed=other, times=windows.store.times[windows.at], **kept)
    left, weight = np.square(every["x"] - other), every["weight"]
    share = (left * weight).sum((0, 2, 3)) / weight.sum((0, 2, 3))
    return tuple(np.sqrt(np.maximum(share, 1e-12)).tolist())
