"""Numbers in the type of their file, and which of them are drawn black and white."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sfumato.data.statistics import Measured

FILLED = 0.25  # share of a usual range that the numbers fill at least, to be drawn by it
USUAL = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 4095.0), (0.0, 65535.0))
RARE = 1e-3  # share of the numbers at either end that may lie far away,
FAR = 1.0  # in widths of all the others
UNLIKE = 10.0
"""Times that the spread of one channel may exceed another's before they count as of unlike scale."""


def is_drawn(shape: tuple[int, ...], kind: np.dtype) -> bool:
    """Whether items (C, H, W) are drawn: grey, colour, or, of bytes and 16-bit numbers, colour and how opaque they are."""
    opaque = (4,) if kind == np.uint8 or kind == np.uint16 else ()
    return len(shape) == 3 and shape[0] in (1, 3, *opaque)


def numbers_of(raw: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Raw numbers as those of a file of this type: bytes are (raw + 1) * 127.5, whole numbers are rounded, and none leaves
    the range of its type."""
    values = np.asarray(raw, dtype=np.float64)
    if kind == np.uint8:
        values = (values + 1) * 127.5
    if kind.kind == "b":
        return values >= 0.5
    if kind.kind not in "iu":
        most = float(np.finfo(kind).max)
        return np.clip(values, -most, most).astype(kind)
    info = np.iinfo(kind)
    # below the first number past the type: of 64 bits the largest is no float, and would be rounded up past it
    return np.clip(np.rint(values), float(info.min), np.nextafter(float(info.max) + 1, 0)).astype(kind)


def raw_of(numbers: Any, kind: np.dtype) -> np.ndarray:
    """The inverse of `numbers_of`, float64: what numbers of any type mean where those learned were of the type `kind`."""
    values = np.asarray(numbers, dtype=np.float64)
    return values / 127.5 - 1 if kind == np.uint8 else values


def in_file(measured: Measured, kind: np.dtype) -> Measured:
    """What was measured of raw numbers, in those of a file of this type."""
    if kind != np.uint8:
        return measured
    mean, least, most = ((values + 1) * 127.5 for values in (measured.mean, measured.least, measured.most))
    return dataclasses.replace(measured, mean=mean, least=least, most=most, spread=measured.spread * 127.5)


def usual_range(measured: Measured, kind: np.dtype) -> tuple[float, float] | None:
    """The numbers of the file that are black and white by convention, or None: by the type (bool 0 to 1, bytes 0 to 255);
    else the first usual range that the numbers lie in and fill a quarter of."""
    if kind.kind == "b":
        return 0.0, 1.0
    if kind == np.uint8:
        return 0.0, 255.0
    low, high = float(measured.least.min()), float(measured.most.max())
    fits = ((a, b) for a, b in USUAL if a <= low and high <= b and high - low >= FILLED * (b - a))
    return next(fits, None)


def own_range(measured: Measured, some: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The numbers drawn black and white where there is no convention: of each channel where their scales are unlike, else one
    for all. They are the least and the most there are, unless a few lie far away: then the outermost thousandths of ``some``
    items (n, C, H, W), in numbers of the file."""
    columns = np.moveaxis(np.asarray(some, np.float64), 1, 0).reshape(len(measured.least), -1)
    least, most = measured.least, measured.most
    if not apart(measured):
        columns, least, most = columns.reshape(1, -1), least.min(keepdims=True), most.max(keepdims=True)
    low, high = np.quantile(columns, [RARE, 1 - RARE], axis=1)
    wide = high - low
    black = np.where(least >= low - FAR * wide, least, low)
    white = np.where(most <= high + FAR * wide, most, high)
    white = np.where(white > black, white, black + 1)
    return tuple(black.tolist()), tuple(white.tolist())


def by_channel(measured: Measured, usual: bool) -> bool:
    """Whether channels are standardised each by itself: all but pictures of a ``usual`` range, whose channels have one scale
    and change."""
    alike = usual and measured.shape[0] != 4 and bool((measured.spread > 0).all()) and not apart(measured)
    return len(measured.spread) > 1 and not alike


def apart(measured: Measured) -> bool:
    """Whether channels are of unlike scale: one is far wider than another, or far away from the others for its spread."""
    changing = measured.spread > 0
    if changing.sum() < 2:
        return False
    means, spreads = measured.mean[changing], measured.spread[changing]
    return bool(measured.unlike > UNLIKE or np.ptp(means) > UNLIKE * spreads.min())


def to_pixels(numbers: np.ndarray, black: tuple[float, ...], white: tuple[float, ...]) -> np.ndarray:
    """Numbers (N, C, H, W) -> picture bytes (N, H, W, 3 or 4) or (N, H, W), from black to white."""
    low, high = (np.asarray(ends, dtype=np.float64).reshape(-1, 1, 1) for ends in (black, white))
    share = (np.asarray(numbers, dtype=np.float64) - low) / (high - low)
    pixels = np.clip(np.rint(share * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
