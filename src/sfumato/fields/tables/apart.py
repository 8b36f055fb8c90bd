"""Columns that may be drawn in one call: those that have least to do with each other.

Columns drawn by one call of the network do not know of each other. What that costs is at most the information that they have in
common, which is a number for each pair, found once from the training rows. So where fewer calls are asked for than columns
are there, each call draws a group of columns whose pairs have as little in common as can be found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIZES = (2, 3, 4, 6, 8)
"""Columns of a group; for more in a call those of the greatest."""
MOST_ROWS, MOST_COLUMNS = 20_000, 256
"""Rows that the information is found from; columns beyond which it is not looked for."""


def groups(states: np.ndarray, sizes: Sequence[int], context: Sequence[int] = ()) -> tuple[tuple[int, ...], ...]:
    """For each of :data:`SIZES` the group of every column, (C,): the number of its first column.

    Args:
        states: int64 (n, C), of training rows.
        sizes: number of states of each column.
        context: columns that are always given, each a group by itself.
    """
    columns = [c for c in range(len(sizes)) if c not in set(context)]
    if not 2 <= len(columns) <= MOST_COLUMNS or len(states) < 2:
        return ()
    shared, found = information(states[:MOST_ROWS, columns], [sizes[c] for c in columns]), []
    for size in SIZES:
        own = np.arange(len(sizes))
        group = parted(shared, size)
        for each in range(int(group.max()) + 1):
            members = np.array(columns)[group == each]
            own[members] = members.min()
        found.append(tuple(own.tolist()))
    return tuple(found)


def information(states: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """What each pair of columns has in common, (C, C), in nats: their mutual information, less what it is by chance (Miller
    1955); 0 on the diagonal."""
    count = len(sizes)
    found = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            counts = np.bincount(states[:, i] * sizes[j] + states[:, j], minlength=sizes[i] * sizes[j])
            joint = counts.reshape(sizes[i], sizes[j]) / len(states)
            a, b = joint.sum(1), joint.sum(0)
            here = joint > 0
            chance = ((a > 0).sum() - 1) * ((b > 0).sum() - 1) / (2 * len(states))
            found[i, j] = found[j, i] = (joint[here] * np.log(joint[here] / np.outer(a, b)[here])).sum() - chance
    return found


def parted(shared: np.ndarray, size: int) -> np.ndarray:
    """The columns in groups of so many, (C,), the last of which may be smaller: columns change places as long as the sum of what
    pairs within the groups share falls."""
    count = len(shared)
    group = np.arange(count) // size
    cost = np.stack([shared[:, group == each].sum(1) for each in range(int(group.max()) + 1)], 1)  # (C, groups)
    every, moved = np.arange(count), True
    while moved:
        moved = False
        for i in range(count):
            own = group[i]
            gain = cost[i, group] + cost[:, own] - 2 * shared[i] - cost[i, own] - cost[every, group]
            gain[group == own] = 0.0
            j = int(gain.argmin())
            if gain[j] < -1e-9:
                change = shared[:, j] - shared[:, i]
                cost[:, own] += change
                cost[:, group[j]] -= change
                group[i], group[j], moved = group[j], own, True
    return group
