"""Sizes of pictures: buckets of about the same area, of several proportions, whose sides are multiples of the patch.

A picture goes to the bucket nearest to its own proportions, whole: it is resized, never cut. Buckets that too few pictures
go to are given up, so that every batch can be of one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]
AREA = 0.05
"""How far, as a share, the area of a bucket may be from that of the square."""
WIDEST = 4.0
MOST = 27
LEAST = 16
"""Pictures of a bucket, and buckets, at most and at least."""


def sizes(side: int, patch: int) -> list[Size]:
    """(height, width) of all buckets, the square first. ``side`` is a multiple of the patch."""
    multiples = range(patch, int(side * WIDEST**0.5 * (1 + AREA)) + 1, patch)
    found = {
        (height, width)
        for height in multiples
        for width in multiples
        if abs(height * width / side**2 - 1) <= AREA and max(height, width) <= WIDEST * min(height, width)
    }
    return sorted(found, key=lambda size: (size != (side, side), abs(math.log(size[0] / size[1])), size))


def nearest(shapes: Sequence[Size], among: Sequence[Size]) -> np.ndarray:
    """For each picture (height, width) the number of the size whose proportions are nearest, (N,)."""
    proportions = np.array([math.log(height / width) for height, width in among])
    order = np.argsort(proportions, kind="stable")
    between = (proportions[order][1:] + proportions[order][:-1]) / 2
    wanted = [math.log(height / width) for height, width in shapes]
    return np.asarray(order[np.searchsorted(between, wanted)])


def buckets(shapes: Sequence[Size], side: int, patch: int, least: int = LEAST) -> tuple[list[Size], list[int]]:
    """The sizes that are used, the commonest first, and the number of that of each picture (height, width).

    None has fewer than ``least`` pictures, but the only one; there are at most `MOST`.
    """
    kept = sizes(side, patch)
    kinds = Counter(shapes)
    different, times = list(kinds), np.array(list(kinds.values()))
    while True:
        count = np.bincount(nearest(different, kept), weights=times, minlength=len(kept))
        used = sorted(np.flatnonzero(count).tolist(), key=lambda i: (-count[i], i))
        fewest = used[-1]
        if len(used) == 1 or (count[fewest] >= least and len(used) <= MOST):
            break
        kept = [kept[i] for i in sorted(used) if i != fewest]
    chosen = [kept[i] for i in used]
    place = dict(zip(different, nearest(different, chosen).tolist()))
    return chosen, [place[shape] for shape in shapes]
