"""Bytes as the network takes them, and back: one mean and spread for all numbers, or, where the camera stands still, the mean
frame and the spread around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.arrays import kept_array
from sfumato.data.errors import DataError

if TYPE_CHECKING:
    from sfumato.fields.video.facts import ClipFacts

BACKGROUND = "background.npy"
"""Of a run whose camera stands still: the mean frame, float32 (3, H, W), black -1, white 1."""


@dataclass(frozen=True, eq=False)
class Units:
    """mean: a number, or that of each (3, H, W). spread: around it."""

    mean: Any
    spread: float

    @classmethod
    def of(cls, run: Path, facts: ClipFacts) -> Units:
        """Those of a run. Raises DataError where its mean frame is missing or of another size."""
        if not facts.still:
            return cls(np.float32(facts.mean), facts.spread)
        mean = kept_array(run / BACKGROUND, "train again from the data")
        if mean.shape != (3, *facts.size) or mean.dtype != np.float32:
            raise DataError(f"{run / BACKGROUND}: has shape {mean.shape}, expected {(3, *facts.size)}; train again")
        return cls(np.asarray(mean), facts.spread)

    def standard(self, raw: Any) -> Any:
        """Numbers (..., 3, H, W) from -1 to 1, of numpy or torch, in standard units."""
        return (raw - self._like(raw)) / self.spread

    def raw(self, x: Any) -> Any:
        """The inverse of `standard`."""
        return x * self.spread + self._like(x)

    def _like(self, x: Any) -> Any:
        """The mean as ``x`` is: an array, or a tensor where it is."""
        if isinstance(x, np.ndarray):
            return self.mean
        return x.new_tensor(self.mean)

    def bytes(self, x: Any) -> np.ndarray:
        """Standard numbers (..., 3, H, W), of torch, as bytes (..., H, W, 3)."""
        return to_bytes(self.raw(x.float().cpu()))


def to_bytes(raw: Any) -> np.ndarray:
    """Numbers (..., 3, H, W) from -1 (black) to 1 (white), of torch, as bytes (..., H, W, 3)."""
    found = np.asarray(raw.float().cpu().numpy())
    return np.moveaxis(np.clip(np.rint((found + 1) * 127.5), 0, 255).astype(np.uint8), -3, -1)


def from_bytes(pixels: np.ndarray) -> np.ndarray:
    """Bytes (..., H, W, 3) as numbers (..., 3, H, W) from -1 to 1, float32."""
    return np.asarray(np.moveaxis(pixels, -1, -3).astype(np.float32) / np.float32(127.5) - np.float32(1))
