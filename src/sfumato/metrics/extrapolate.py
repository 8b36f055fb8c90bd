"""The Frechet distance at infinitely many samples, from its trend over fewer and fewer."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.metrics.distances import MetricError, checked_pair, frechet_distance

_PER_FEATURE = 2  # samples in the smallest part, per feature: with fewer the trend bends
_RESAMPLED = 50  # random parts of both sides behind the interval,
_KEEP = 0.8  # and the share of each side in them


class Extrapolated(NamedTuple):
    """What `frechet_infinity` returns, in squared feature units."""

    value: float  # at infinite counts on both sides; unbiased to first order, so it can be negative
    low: float  # 90% interval
    high: float
    plain: float  # the ordinary, biased distance of all samples
    counts: tuple[int, ...]  # samples of `a` in each part, largest first
    distances: tuple[float, ...]  # mean distance at those counts


def frechet_infinity(a: Tensor, b: Tensor, divisions: int = 5, seed: int = 0) -> Extrapolated:
    """Frechet distance of `a` (n, d) and `b` (m, d) extrapolated to infinite n and m.

    The bias of the plain distance is `c_a / n + c_b / m` to first order, so a model can look better by being sampled
    more. Here both sides, shuffled by `seed`, are cut into k = 1 .. `divisions` equal parts, each part of `a` is
    compared with its part of `b`, and the mean over the k parts is drawn against k: a straight line, whose value at
    k = 0 is the answer (Chong & Forsyth 2020, arXiv 1911.07023, who extrapolate the generated side only; as both shrink
    together here, the bias due to a finite reference goes too). Parts share no sample and use all, so nothing is
    thrown away at any k.

    The 90% interval is for fresh samples on both sides. It comes from random parts of 80%, without replacement, scaled
    by how their scatter relates to that of whole sets (Politis & Romano 1994): a bootstrap's duplicates would add a
    bias of the very kind that is being removed. For equal distributions, where the distance varies as 1/n rather than
    1/sqrt(n), it is up to twice as wide as it need be.

    Equal input and seed give an equal result. Raises MetricError for NaN or infinity, unequal feature dimensions, fewer
    than 2 divisions, or fewer than `2.5 * d * divisions` samples on a side (and 5 a division): parts with fewer than 2
    samples per feature, of the 80% of them, do not lie on the line.
    """
    if divisions < 2 or divisions != int(divisions):
        raise MetricError(f"divisions must be a whole number of at least 2, not {divisions}")
    d = checked_pair(a, b)[0].shape[1]
    least = needed(d, divisions)
    a, b = checked_pair(a, b, least)
    rng = torch.Generator().manual_seed(seed)

    def kept(x: Tensor) -> Tensor:
        # In the order of the whole, so that parts keep their members: how rows fell into parts is then no scatter.
        return x[torch.randperm(len(x), generator=rng)[: int(_KEEP * len(x))].sort().values.to(x.device)]

    a, b = (x[torch.randperm(len(x), generator=rng).to(x.device)] for x in (a, b))
    whole = _trend(a, b, divisions)
    value = _at_zero(whole)
    some = torch.tensor([_at_zero(_trend(kept(a), kept(b), divisions)) for _ in range(_RESAMPLED)], dtype=torch.float64)
    # A mean over a share h of the points, drawn without replacement, has variance (1 - h) / h of that over fresh ones.
    root = (some - some.mean()) * math.sqrt(_KEEP / (1 - _KEEP))
    low, high = root.quantile(torch.tensor([0.05, 0.95], dtype=root.dtype)).tolist()
    counts = tuple(len(a) // k for k in range(1, divisions + 1))
    return Extrapolated(value, value - high, value - low, whole[0], counts, tuple(whole))


def needed(d: int, divisions: int = 5) -> int:
    """Samples that `frechet_infinity` needs on each side for `d` features."""
    return math.ceil(max(_PER_FEATURE * d, 4) * divisions / _KEEP)


def axes_for(n: int, d: int, most: int = 64) -> int:
    """Of `d` features, how many `frechet_infinity` can take with `n` samples on each side, at most `most`; 0 for none."""
    while most > 0 and needed(most) > n:
        most -= 1
    return min(d, most)


def _trend(a: Tensor, b: Tensor, divisions: int) -> list[float]:
    """Mean distance of matching parts with both sides cut into 1, 2, ... `divisions` parts."""
    return [
        sum(frechet_distance(p, q) for p, q in zip(a.tensor_split(k), b.tensor_split(k))) / k
        for k in range(1, divisions + 1)
    ]


def _at_zero(distances: list[float]) -> float:
    """The value at k = 0 of the least-squares line through distances at k = 1, 2, ..."""
    y = torch.tensor(distances, dtype=torch.float64)
    k = torch.arange(1, len(y) + 1, dtype=y.dtype)
    centred = k - k.mean()
    slope = (centred @ y) / centred.square().sum()
    return float(y.mean() - slope * k.mean())
