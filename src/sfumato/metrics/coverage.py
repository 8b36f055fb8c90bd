"""Fidelity, diversity and memorisation, from nearest neighbours in feature space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypedDict

import torch
from torch import Tensor

from sfumato.metrics.distances import MetricError, checked_pair

_BLOCK = 2**22  # most distances held at once: 32 MiB


def distance_blocks(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances from consecutive rows of `a` (n, d) to all of `b` (m, d), block by block."""
    # The product formula |x|^2 + |y|^2 - 2xy is fast but makes the distance of equal points about 1e-8, not 0, and
    # breaks ties at random. In few dimensions exactness is cheap.
    mode = "donot_use_mm_for_euclid_dist" if a.shape[1] <= 256 else "use_mm_for_euclid_dist"
    for rows in a.split(max(1, _BLOCK // len(b))):
        yield torch.cdist(rows, b, compute_mode=mode)


def neighbours(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances to and indexes of the `count` nearest *other* rows of `x` (n, d), nearest first: (n, count) each."""
    found, start = [], 0
    for block in distance_blocks(x, x):
        own = torch.arange(len(block), device=x.device)
        block[own, start + own] = torch.inf  # by index, not by distance 0: a duplicate is a neighbour, a point is not
        found.append(block.topk(count, dim=1, largest=False, sorted=True))
        start += len(block)
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to and index of the row of `b` (m, d) nearest to each row of `a` (n, d): (n,) each. A copy gives 0."""
    index = torch.cat([block.argmin(1) for block in distance_blocks(a, b)])
    return (a - b[index]).norm(dim=1), index


def ball_rates(blocks: Iterable[Tensor], real_radius: Tensor, fake_radius: Tensor, k: int) -> dict[str, float]:
    """Precision, recall, density and coverage from fake-to-real distances, given as blocks of rows (fakes)."""
    inside_any, inside_all, start = 0, 0, 0
    recalled = torch.zeros(len(real_radius), dtype=torch.bool, device=real_radius.device)
    covered = torch.zeros_like(recalled)
    for block in blocks:
        inside = block <= real_radius
        inside_any += int(inside.any(1).sum())
        inside_all += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (block <= fake_radius[start : start + len(block), None]).any(0)
        start += len(block)
    return {
        "precision": inside_any / start,
        "recall": float(recalled.double().mean()),
        "density": inside_all / (k * start),
        "coverage": float(covered.double().mean()),
    }


def checked_k(k: int) -> int:
    """`k` if it is at least 1, else MetricError."""
    if k < 1:
        raise MetricError(f"k must be at least 1, not {k}")
    return k


def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage of `fake` (m, d) against `real` (n, d).

    The ball of a point reaches to its k-th nearest other point of the same set, border included. Then

    * precision: the share of fakes inside the ball of some real point (do samples look real?);
    * recall: the share of real points inside the ball of some fake (is everything there?);
    * density: the number of real balls a fake lies in, on average, divided by k; about 1 for equal distributions,
      above 1 where fakes crowd into dense regions;
    * coverage: the share of real points whose own ball holds a fake. Steadier than recall, whose balls grow where
      fakes are outliers.

    Precision and recall are those of Kynkaanniemi et al. 2019 (arXiv 1904.06991), density and coverage those of Naeem
    et al. 2020 (arXiv 2002.09797). For equal distributions none is exactly 1, and all depend on both counts.
    Memory does not grow with n times m.

    Raises MetricError for NaN or infinity, fewer than k + 1 samples on a side, or unequal feature dimensions.
    """
    real, fake = checked_pair(real, fake, checked_k(k) + 1, ("real", "fake"))
    real_radius, fake_radius = (neighbours(x, k)[0][:, -1] for x in (real, fake))
    return ball_rates(distance_blocks(fake, real), real_radius, fake_radius, k)


class Memorisation(TypedDict):
    """What `memorisation` returns."""

    ratio: float
    copied: float
    nearest: Tensor  # (n,) index into train


def memorisation(fake: Tensor, train: Tensor, held_out: Tensor) -> Memorisation:
    """Are the samples copies? From distances to the nearest training point; all arguments (., d).

    * `ratio`: the median over `fake` of that distance divided by its median over `held_out`. About 1 is healthy, near
      0 means copies, well above 1 means samples far from the data.
    * `copied`: the share of `fake` as close to a training point as the closest 1 % of `held_out`; about 0.01 without
      memorisation (Meehan et al. 2020, arXiv 2004.05675, compare the same distances).
    * `nearest`: for each sample the index of its nearest training point, to be looked at side by side.

    `train` should be the whole training set: a copy of a point left out goes unseen.

    Raises MetricError for NaN or infinity, an empty argument, unequal feature dimensions, or a held-out set at least
    half of which is in the training set.
    """
    fake, train = checked_pair(fake, train, names=("fake", "train"))
    held_out, _ = checked_pair(held_out, train, names=("held_out", "train"))
    own, index = nearest(fake, train)
    return {**nearness(own, nearest(held_out.to(train.device), train)[0]), "nearest": index}


class Nearness(TypedDict):
    """The two rates of `memorisation`."""

    ratio: float
    copied: float


def nearness(own: Tensor, usual: Tensor) -> Nearness:
    """`ratio` and `copied` from nearest-training-point distances of samples (n,) and of held-out data (m,)."""
    middle = float(usual.quantile(0.5))
    if middle == 0:
        raise MetricError("half of the held-out samples or more are copies of training samples: split the data anew")
    # "As close as" rather than "closer": if some held-out points are copies themselves, the threshold is 0.
    return {
        "ratio": float(own.quantile(0.5)) / middle,
        "copied": float((own <= usual.quantile(0.01)).double().mean()),
    }
