"""Sizes of pictures: buckets of about the same area, of several proportions, whose sides are multiples of the patch.

A picture goes to the bucket nearest to its own proportions, whole: it is resized, never cut. Buckets that too few pictures
go to are given up, so that every batch can be of one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Size = tuple[int, int]
AREA = 0.05
"""How far, as a share, the area of a bucket may be from that of the square."""
WIDEST = 4.0
MOST = 27
LEAST = 16
"""Pictures of a bucket, and buckets, at most and at least."""


def sizes(side: int, patch: int) -> list[Size]:
    """(height, width) of all buckets, the square first. ``side`` is a multiple of the patch."""
    found = {(side, side)}
    for height in range(patch, int(side * WIDEST**0.5 * (1 + AREA)) + 1, patch):
        for width in (side * side / height // patch * patch, -(-side * side // (height * patch)) * patch):
            size = (height, int(width))
            if width and abs(height * width / side**2 - 1) <= AREA and max(size) <= WIDEST * min(size):
                found.add(size)
    return sorted(found, key=lambda size: (size != (side, side), abs(math.log(size[0] / size[1])), size))


def nearest(shape: Size, among: Sequence[Size]) -> int:
    """The number of the size whose proportions are nearest to those of a picture (height, width)."""
    wanted = math.log(shape[0] / shape[1])
    return min(range(len(among)), key=lambda i: (abs(math.log(among[i][0] / among[i][1]) - wanted), i))


def buckets(shapes: Sequence[Size], side: int, patch: int, least: int = LEAST) -> tuple[list[Size], list[int]]:
    """The sizes that are used, the commonest first, and the number of that of each picture (height, width).

    None has fewer than ``least`` pictures, but the only one; there are at most `MOST`.
    """
    kept = sizes(side, patch)
    kinds = Counter(shapes)
    while True:
        count: Counter[int] = Counter()
        for shape, times in kinds.items():
            count[nearest(shape, kept)] += times
        used = sorted(count, key=lambda i: (-count[i], i))
        fewest = used[-1]
        if len(used) == 1 or (count[fewest] >= least and len(used) <= MOST):
            break
        kept = [size for i, size in enumerate(kept) if i in count and i != fewest]
    chosen = [kept[i] for i in used]
    place = {shape: nearest(shape, chosen) for shape in kinds}
    return chosen, [place[shape] for shape in shapes]
