"""Markov moves that leave the prior, cut off at a level of robustness, unchanged: pCN, and proposals of a network.

pCN (Neal 1999; Cotter et al. 2013, arXiv 1202.0709; subset simulation of Au and Beck 2001 in the form of Papaioannou et al.
2015): x' = sqrt(1 - b^2) x + b e, which leaves the standard normal unchanged, taken where r(x') <= level. A proposal of a
network is taken with chance min(1, w' / w) of the weights of its path and of the present one (`chain`), where r(x') <= level; the
chance is drawn first, so that the simulator is not asked about what would be refused anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.fields.failure.chain import Chain, normals, uniforms
from sfumato.fields.failure.data import Calls
from sfumato.fields.failure.metric import Metric

Words = Sequence[str | int]


@dataclass(frozen=True)
class Population:
    """Disturbances x (N, n), standard normal, and their robustness (N,)."""

    x: np.ndarray
    r: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def of(self, rows: np.ndarray | slice) -> Population:
        """Some of them."""
        return Population(self.x[rows], self.r[rows])

    @classmethod
    def joined(cls, parts: Sequence[Population]) -> Population:
        """One after the other."""
        return cls(np.concatenate([p.x for p in parts]), np.concatenate([p.r for p in parts]))


def pcn(
    now: Population, level: float, b: float, metric: Metric, calls: Calls, words: Words, purpose: str
) -> tuple[Population, np.ndarray]:
    """One move of every row, of size b where robustness cares most; the rows after it, and which were taken (N,) bool."""
    count, n = now.x.shape
    x = metric.moved(now.x, normals((*words, "pcn"), count, n), b)
    r = calls.ask(x, purpose).robustness
    taken = r <= level
    return Population(np.where(taken[:, None], x, now.x), np.where(taken, r, now.r)), taken


def guided(
    now: Population, level: float, chain: Chain, begin: int, calls: Calls, words: Words, purpose: str
) -> tuple[Population, np.ndarray, int]:
    """One proposal of the network for every row: noised up to the angle of step ``begin`` (0: pure noise), and walked down.
    The rows after it, which were taken, and how many the simulator was asked."""
    y, here = chain.up((*words, "up"), now.x, begin)
    x, log_w = chain.down((*words, "down"), y, begin)
    likely = np.log(np.maximum(uniforms((*words, "chance"), len(now)), 1e-300)) < log_w - here
    asked = np.flatnonzero(likely)
    r = np.full(len(now), np.inf)
    if len(asked):
        r[asked] = calls.ask(x[asked], purpose).robustness
    taken = r <= level
    return Population(np.where(taken[:, None], x, now.x), np.where(taken, r, now.r)), taken, len(asked)


def begun(begin: int, taken: float, steps: int) -> int:
    """Where the network's proposals begin after a share ``taken`` of them was accepted: nearer to noise where many were. Few are
    wanted, for what its weight refuses costs no call, and what comes from far mixes most."""
    return min(steps - 2, max(0, begin + (3 if taken < 0.05 else 1 if taken < 0.12 else -2 if taken > 0.2 else 0)))


def drawn_again(now: Population, count: int, words: Words) -> Population:
    """``count`` rows of a population, each as often as any other but for one: systematic resampling of a random order."""
    u = uniforms((*words, "order"), len(now))
    start = float(uniforms((*words, "start"), 1)[0])
    places = np.floor((start + np.arange(count)) * len(now) / count).astype(int).clip(0, len(now) - 1)
    return now.of(np.argsort(u, kind="stable")[places])


def tuned(b: float, taken: float, wanted: float = 0.3) -> float:
    """The size of pCN's moves after a share ``taken`` of them was accepted."""
    return float(min(0.95, max(0.02, b * math.exp(2.0 * (taken - wanted)))))
