"""Which axis of an array's items is which: recognised once for a data set, or asked, and put back in samples.

A layout is a word of letters, one an axis: C channels, H and W the height and width of pictures, T the frames of clips, L
the steps of sequences, D the numbers of vectors or steps. Networks take D, LD, CHW and TCHW.
"""

from __future__ import annotations

import numpy as np

from sfumato.data.errors import DataError

LAYOUTS = ("D", "LD", "DL", "HW", "CHW", "HWC", "THW", "TCHW", "THWC")
FEW = 4  # channels of pictures at most, by which they are told from heights and widths
LEAST = 8  # pixels of a side from which items of two axes are taken for grey pictures,
LONGEST = 8  # and how many times longer one side may be, of bytes


def recognised(shape: tuple[int, ...], kind: np.dtype, asked: str = "auto", name: str = "array") -> str:
    """The layout of items of this `shape` and type: that `asked` for, or the one that their sizes speak for; "" where no
    network takes so many axes.

    Raises DataError where two are as likely, or the one asked for has another number of axes.
    """
    if asked != "auto":
        if len(asked) != len(shape):
            raise DataError(
                f"{name}: items of shape {shape} have {len(shape)} axes, and layout {asked} has {len(asked)}"
            )
        return asked
    if len(shape) == 1:
        return "D"
    if len(shape) == 2:
        return "HW" if _grey(shape, kind) else "LD"
    if len(shape) not in (3, 4):
        return ""
    frames, last = ("T", shape[1:]) if len(shape) == 4 else ("", shape)
    return frames + ("HWC" if _channels_last(last, f"{name}: items of shape {shape}", frames) else "CHW")


def _grey(shape: tuple[int, ...], kind: np.dtype) -> bool:
    """Whether (a, b) are the sides of a grey picture: numbers of cameras, or a square."""
    low, high = sorted(shape)
    of_cameras = kind == np.uint8 or kind == np.uint16 or kind.kind == "b"
    return low >= LEAST and (low == high or (of_cameras and high <= LONGEST * low))


def _channels_last(shape: tuple[int, ...], name: str, frames: str) -> bool:
    first, middle, last = shape
    if (first <= FEW) != (last <= FEW):
        return last <= FEW
    if first == middle != last:  # the two equal sides are height and width, as of latents (32, 32, 8)
        return last < first or first <= FEW
    if first > FEW or first != middle == last:
        return False
    raise DataError(f"{name} may be {frames}CHW or {frames}HWC; say which with --layout")


def _wanted(layout: str) -> str:
    return next(
        word for word in ("D", "LD", "CHW", "TCHW") if set(layout) <= set(word) and ("H" in layout) == ("H" in word)
    )


def canonical(x: np.ndarray, layout: str) -> np.ndarray:
    """Items (N, ...) of a layout as those that networks take, (N, D), (N, L, D), (N, C, H, W) or (N, T, C, H, W): a view."""
    if not layout:
        return x
    wanted, have = _wanted(layout), layout
    if "C" in wanted and "C" not in have:
        x, have = x[..., None], have + "C"
    return x.transpose(0, *(1 + have.index(letter) for letter in wanted))


def original(x: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `canonical`: a view."""
    if not layout:
        return x
    wanted = _wanted(layout)
    have = layout + "C" * ("C" in wanted and "C" not in layout)
    x = x.transpose(0, *(1 + wanted.index(letter) for letter in have))
    return x[..., 0] if have != layout else x


def words(layout: str) -> str:
    """A layout in words."""
    said = {
        "D": "vectors", "LD": "sequences, numbers of a step last", "DL": "sequences, steps last", "HW": "grey pictures",
        "CHW": "channels first", "HWC": "channels last", "THW": "grey clips", "TCHW": "clips, channels before height",
        "THWC": "clips, channels last",
    }  # fmt: skip
    return said.get(layout, "as they are")


def hint(layout: str) -> str:
    """What else it might have been, for people."""
    return " (pictures? --layout HW)" if layout == "LD" else " (sequences? --layout LD)" if layout == "HW" else ""
