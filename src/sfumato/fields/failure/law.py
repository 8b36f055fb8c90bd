"""The law of disturbances: what the simulator is given, as a function of standard normal numbers.

The model and all estimators see x, standard normal and independent. The simulator is given physical = F^-1(Phi(x)), number by
number, F the law of each. Needs no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.errors import Wrong

STANDARD = "normal(0,1)"
_SHAPE = re.compile(r"\s*([a-z]+)\s*\(([^()]*)\)\s*")


def _phi(x: np.ndarray) -> np.ndarray:
    """The standard normal distribution function."""
    import torch

    return torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _normal(x: np.ndarray, mean: float, spread: float) -> np.ndarray:
    return x if (mean, spread) == (0.0, 1.0) else mean + spread * x


def _lognormal(x: np.ndarray, mean: float, spread: float) -> np.ndarray:
    return np.exp(mean + spread * x)


def _uniform(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * _phi(x)


def _triangular(x: np.ndarray, low: float, top: float, high: float) -> np.ndarray:
    u, cut, upper = _phi(x), (top - low) / (high - low), _phi(-x)
    left, right = low + np.sqrt(u * (high - low) * (top - low)), high - np.sqrt(upper * (high - low) * (high - top))
    return np.where(u < cut, left, right)


_KINDS: dict[str, tuple[Callable[..., np.ndarray], int, Callable[..., bool], str]] = {
    "normal": (_normal, 2, lambda m, s: s > 0, "a mean and a spread above 0"),
    "lognormal": (_lognormal, 2, lambda m, s: s > 0, "the mean and the spread, above 0, of the logarithm"),
    "uniform": (_uniform, 2, lambda a, b: a < b, "two ends that rise"),
    "triangular": (_triangular, 3, lambda a, c, b: a <= c <= b and a < b, "low, top and high, which rise"),
}


@dataclass(frozen=True)
class One:
    """The law of one number: its kind and parameters. Raises Wrong for those that cannot be."""

    kind: str
    parameters: tuple[float, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Standard normal numbers as physical ones."""
        return _KINDS[self.kind][0](x, *self.parameters)

    @classmethod
    def spelt(cls, text: str) -> One:
        """What "uniform(-1,1)" stands for. Raises Wrong."""
        found = _SHAPE.fullmatch(text)
        if found is None or found[1] not in _KINDS:
            raise Wrong(
                f"law = {text!r}: must be one of {', '.join(f'{k}(...)' for k in _KINDS)}, such as uniform(-1,1)"
            )
        kind = found[1]
        _, count, fits, right = _KINDS[kind]
        try:
            values = tuple(float(each) for each in found[2].split(","))
        except ValueError:
            values = ()
        if len(values) != count or not all(map(math.isfinite, values)) or not fits(*values):
            raise Wrong(f"law = {text!r}: {kind} takes {right}")
        return cls(kind, values)


@dataclass(frozen=True)
class Law:
    """The laws of all numbers of a disturbance: one for all, one for each channel (the last axis), or one for each number."""

    shape: tuple[int, ...]
    each: tuple[One, ...]

    @classmethod
    def of(cls, shape: Sequence[int], spelt: Sequence[str]) -> Law:
        """Raises Wrong for a number of laws that fits nothing."""
        shape, laws = tuple(shape), tuple(One.spelt(text) for text in spelt or (STANDARD,))
        n = math.prod(shape)
        if len(laws) not in {1, shape[-1], n}:
            raise Wrong(f"law: {len(laws)} are given for a disturbance of shape {shape}; give 1, {shape[-1]} or {n}")
        return cls(shape, laws)

    @property
    def n(self) -> int:
        """Numbers of a disturbance."""
        return math.prod(self.shape)

    def physical(self, x: np.ndarray) -> np.ndarray:
        """x (B, n) standard normal -> what the simulator is given, (B, *shape) float64."""
        x = np.array(x, dtype=np.float64).reshape(len(x), -1, len(self.each))
        if set(self.each) != {One("normal", (0.0, 1.0))}:
            x = np.stack([law(x[:, :, i]) for i, law in enumerate(self.each)], -1)
        return x.reshape(len(x), *self.shape)
