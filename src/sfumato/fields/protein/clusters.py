"""Which chains are kin: clusters, and a split of which no cluster lies on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfumato.fields.protein.chains import Chain
from sfumato.fields.protein.regions import triples

ALIKE = 0.5
"""Share of the residues of a third loop that two of equal length have in common in a cluster."""
SHARED = 0.3
"""Share of the triples of letters of the shorter one that two chains without regions have in common in a cluster."""


def clusters(chains: Sequence[Chain]) -> np.ndarray:
    """The number of each chain's cluster, (n,) int64: as the data say; else single linkage, by the third loop (of equal
    length, at least half of its residues equal) where all have regions, and by shared triples of letters where not."""
    if all(chain.cluster >= 0 for chain in chains):
        return np.unique([chain.cluster for chain in chains], return_inverse=True)[1].astype(np.int64)
    if all(chain.cdr is not None for chain in chains):
        return _linked(_loops(chains), len(chains))
    return _linked(_alike(chains), len(chains))


def _loops(chains: Sequence[Chain]) -> list[tuple[int, int]]:
    by_length: dict[int, list[int]] = {}
    third = [chain.codes[chain.cdr == 3] for chain in chains]
    for i, loop in enumerate(third):
        by_length.setdefault(len(loop), []).append(i)
    pairs = []
    for own in by_length.values():
        codes = np.stack([third[i] for i in own])
        for k in range(1, len(own)):
            alike = (codes[:k] == codes[k]).mean(1) >= ALIKE
            pairs += [(own[j], own[k]) for j in np.flatnonzero(alike)]
    return pairs


def _alike(chains: Sequence[Chain]) -> list[tuple[int, int]]:
    """Pairs that share triples, found by the chains that each triple stands in."""
    sets = [np.unique(triples(chain.codes)) if len(chain) > 2 else np.zeros(0, dtype=np.int64) for chain in chains]
    where: dict[int, list[int]] = {}
    pairs = []
    for i, own in enumerate(sets):
        shared = np.zeros(i, dtype=np.int64)
        for triple in own.tolist():
            there = where.setdefault(triple, [])
            shared[there] += 1
            there.append(i)
        least = np.array([min(len(own), len(sets[j])) for j in range(i)])
        pairs += [(int(j), i) for j in np.flatnonzero((shared >= SHARED * least) & (least > 0))]
    return pairs


def _linked(pairs: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    """Single linkage: the connected parts, numbered in the order of their first members."""
    head = list(range(count))

    def top(i: int) -> int:
        while head[i] != i:
            head[i] = head[head[i]]
            i = head[i]
        return i

    for a, b in pairs:
        first, second = sorted((top(a), top(b)))
        head[second] = first
    return np.unique([top(i) for i in range(count)], return_inverse=True)[1].astype(np.int64)


def split(cluster: np.ndarray, held_out: float, test: float, seed: int = 0) -> np.ndarray:
    """ "train", "val" or "test" for each chain, (n,): whole clusters, small ones first to be held out, in an order that
    depends on the number of chains and the seed alone, until the shares are reached."""
    size = np.bincount(cluster)
    order = np.random.default_rng(seed).permutation(len(size))
    order = order[np.argsort(size[order] > max(4, len(cluster) // 20), kind="stable")]
    found = np.full(len(cluster), "train", dtype="U5")
    for name, share in (("val", held_out), ("test", test)):
        wanted, got = max(1, round(share * len(cluster))), 0
        for one in order:
            own = (cluster == one) & (found == "train")
            left = (found == "train").sum() - own.sum()
            if own.any() and got < wanted and left >= 1:
                found[own] = name
                got += int(own.sum())
    return found
