"""Mean, spread and range of numbers, by channel or of all: measured once over a data set, and undone in samples.

Raw units are the numbers of the file; bytes are value / 127.5 - 1 (as pixels: -1 black, 1 white). A channel is a column of
vectors (D,), a number of each step of sequences (L, D), a channel of pictures (C, H, W) and clips (T, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.data.errors import DataError, shown

_BLOCK_BYTES = 16 << 20


def raw_numbers(array: np.ndarray) -> np.ndarray:
    """The numbers an array stands for, as float64: bytes are pixels (value / 127.5 - 1), the rest is taken as is."""
    values = np.asarray(array, dtype=np.float64)
    return values / 127.5 - 1 if array.dtype == np.uint8 else values


def channel_axis(shape: tuple[int, ...]) -> int:
    """Which axis of an item (D,), (L, D), (C, H, W) or (T, C, H, W) is that of its channels."""
    return 1 if len(shape) in (2, 4) else 0


def _blocks(x: Any, indices: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(item numbers, items) a few megabytes at a time, so that a memory-mapped array is never held whole."""
    count = len(x) if indices is None else len(indices)
    size = max(1, _BLOCK_BYTES // (8 * max(1, math.prod(x.shape[1:]))))
    for start in range(0, count, size):
        stop = min(start + size, count)
        if indices is None:
            yield np.arange(start, stop), np.asarray(x[start:stop])
        else:
            yield indices[start:stop], np.asarray(x[indices[start:stop]])


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation over `count` items of shape `shape`, in raw units: a number for all, or one a channel.

    A channel of spread 0 never changes: it is 0 in standard units, and its mean in every sample.
    Raises DataError unless they are finite and some spread is above 0.
    """

    mean: float | tuple[float, ...]
    spread: float | tuple[float, ...]
    count: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        means, spreads = np.atleast_1d(self.mean), np.atleast_1d(self.spread)
        if not (np.isfinite(means).all() and np.isfinite(spreads).all() and (spreads >= 0).all() and spreads.any()):
            raise DataError(
                f"the data have mean {_some(means)} and spread {_some(spreads)}: "
                "there is nothing to learn unless the numbers are finite and differ from each other"
            )
        channels = self.shape[channel_axis(self.shape)] if self.shape else 1
        if {len(means), len(spreads)} - {1, channels}:
            raise DataError(
                f"{len(means)} means and {len(spreads)} spreads for {channels} channels; expected 1 or as many"
            )

    @classmethod
    def of(cls, x: Any, indices: np.ndarray | None = None, name: str = "array") -> Statistics:
        """One mean and spread of all numbers of `x` (N, ...), or of its items `indices`; raises as `measure`."""
        return measure(x, indices, name).all()

    def along(self, values: float | tuple[float, ...]) -> np.ndarray:
        """A number, or one a channel, shaped to be added to items: float64."""
        found = np.asarray(values, dtype=np.float64)
        if found.size == 1:
            return found.reshape(())
        axis = channel_axis(self.shape)
        return found.reshape([-1 if i == axis else 1 for i in range(len(self.shape))])

    def standardise(self, raw: np.ndarray) -> np.ndarray:
        """Raw numbers (uint8 means picture bytes) (..., *shape) -> float32 with mean 0 and spread 1."""
        spread = self.along(self.spread)
        return ((raw_numbers(np.asarray(raw)) - self.along(self.mean)) / np.where(spread > 0, spread, 1)).astype(
            np.float32
        )

    def restore(self, x: np.ndarray, kind: Any = np.float32) -> np.ndarray:
        """The inverse of `standardise`: raw units (pictures: -1 black to 1 white), of the type `kind`."""
        raw = np.asarray(x, dtype=np.float64) * self.along(self.spread) + self.along(self.mean)
        return np.asarray(raw.astype(kind))


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found in `count` items of shape `shape`: mean, spread, least and most of each channel (C,), in raw units."""

    mean: np.ndarray
    spread: np.ndarray
    least: np.ndarray
    most: np.ndarray
    count: int
    shape: tuple[int, ...]

    def all(self) -> Statistics:
        """One mean and spread: channels have equally many numbers, so their means and variances average."""
        mean = float(self.mean.mean())
        spread = math.sqrt(float(np.square(self.spread).mean() + np.square(self.mean - mean).mean()))
        return Statistics(mean, spread, self.count, self.shape)

    def each(self) -> Statistics:
        """A mean and spread of each channel."""
        return Statistics(tuple(self.mean.tolist()), tuple(self.spread.tolist()), self.count, self.shape)

    @property
    def unlike(self) -> float:
        """How many times larger the spread of the widest channel is than that of the narrowest that changes."""
        changing = self.spread[self.spread > 0]
        return float(changing.max() / changing.min()) if len(changing) else 1.0


def measure(x: Any, indices: np.ndarray | None = None, name: str = "array") -> Measured:
    """Looks at `x` of shape (N, ...), or its items `indices`, in one pass of bounded memory.

    Raises DataError naming the first item with NaN or infinity, or when there is nothing to learn: all numbers are equal, or
    no channel changes.
    """
    shape = tuple(int(n) for n in x.shape[1:])
    channels, axis = (shape[channel_axis(shape)], channel_axis(shape) + 1) if shape else (1, 0)
    seen, mean, scatter = 0, np.zeros(channels), np.zeros(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for numbers, block in _blocks(x, indices):
        raw = raw_numbers(block)
        good = np.isfinite(raw.reshape(len(raw), -1)).all(axis=1)
        if not good.all():
            raise DataError(
                f"{shown(name)}[{numbers[np.argmin(good)]}]: contains NaN or infinity; every number must be finite"
            )
        if not raw.size:
            continue
        values = np.moveaxis(raw, axis, 0).reshape(channels, -1)
        # Chan's update: exact to rounding whatever the offset, unlike the mean of squares less the squared mean
        with np.errstate(over="ignore", invalid="ignore"):
            part, count = values.mean(1), values.shape[1]
            total, gap = seen + count, part - mean
            scatter += np.square(values - part[:, None]).sum(1) + gap * gap * (seen * count / total)
            mean += gap * (count / total)
        seen = total
        low, high = np.minimum(low, values.min(1)), np.maximum(high, values.max(1))
    if not seen:
        raise DataError(f"{shown(name)}: holds no numbers (shape {tuple(x.shape)}); at least one item is needed")
    if low.min() == high.max():
        raise DataError(
            f"{shown(name)}: every number is {low[0]:g} (spread 0); there is nothing to learn from it: give numbers that differ"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.where(low == high, 0.0, np.sqrt(scatter / seen))
        whole = np.square(spread).sum() + np.square(mean - mean.mean()).sum()
    if not math.isfinite(whole):
        raise DataError(f"{shown(name)}: its numbers ({low.min():g} to {high.max():g}) are too large; rescale them")
    return Measured(
        np.where(low == high, low, mean), spread, low, high, len(x) if indices is None else len(indices), shape
    )


def _some(values: np.ndarray, most: int = 4) -> str:
    return ", ".join(f"{value:g}" for value in values[:most]) + ", ..." * (len(values) > most)
