"""Distances between two sets of feature vectors: Frechet, kernel (KID) and sliced Wasserstein.

Each is 0 for equal distributions and grows as they part, but what a finite sample *reports* for equal distributions
differs: the Frechet and sliced Wasserstein distances are biased upwards by an amount that shrinks with the number of
samples, so two numbers compare only at equal sample counts; the kernel distance is unbiased.
`sfumato.metrics.table` puts the matching floor beside each.

Each distance comes twice: `frechet_distance(a, b)`, and `frechet_from(b)`, which does the work on `b` once and returns
the distance from it as a function of `a`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.errors import Mendable

Distance = Callable[[Tensor], float]  # (n, d) -> distance from a fixed reference


class MetricError(Mendable, ValueError):
    """A metric was asked of data that cannot carry it; the message says what is wrong and what would be right."""


def checked(x: Tensor, name: str, least: int = 1) -> Tensor:
    """`x` (n, d) as detached float64; MetricError unless it is a finite matrix of at least `least` rows."""
    if not isinstance(x, Tensor):
        raise MetricError(f"{name} must be a tensor of shape (N, d), not {type(x).__name__}")
    if x.dim() != 2 or x.shape[1] == 0:
        raise MetricError(f"{name} must have shape (N, d), one row per sample, not {tuple(x.shape)}")
    if len(x) < least:
        raise MetricError(f"{name} has {len(x)} sample(s), but this needs at least {least}")
    x = x.detach().double()
    bad = int((~torch.isfinite(x)).any(1).sum())
    if bad:
        raise MetricError(f"{name} has NaN or infinity in {bad} of {len(x)} samples")
    return x


def checked_pair(a: Tensor, b: Tensor, least: int = 1, names: tuple[str, str] = ("a", "b")) -> tuple[Tensor, Tensor]:
    """Both sides through `checked`, on the device of `a`; MetricError if they have different numbers of features."""
    a, b = checked(a, names[0], least), checked(b, names[1], least)
    if a.shape[1] != b.shape[1]:
        raise MetricError(f"{names[0]} has {a.shape[1]} features per sample and {names[1]} has {b.shape[1]}")
    return a, b.to(a.device)


def frechet_from(b: Tensor) -> Distance:
    """The Frechet distance from `b` (m, d) as a function of `a` (n, d); see `frechet_distance`."""
    b = checked(b, "b", 2)
    mean = b.mean(0)
    # A triangular root of the covariance, S_b = root^T root, straight from the data: forming S_b would square the
    # condition number, and with fewer samples than features its zero eigenvalues would come out as roots near 1e-8.
    root = torch.linalg.qr(b - mean, mode="r").R / (len(b) - 1) ** 0.5
    spread = float(root.square().sum())

    def distance(a: Tensor) -> float:
        a, _ = checked_pair(a, mean[None], 1)
        a = checked(a, "a", 2)
        own = a.mean(0)
        centred = (a - own) / (len(a) - 1) ** 0.5
        # tr (S_a S_b)^1/2 is the sum of the singular values of A B^T for any roots S_a = A^T A and S_b = B^T B.
        cross = torch.linalg.svdvals(centred @ root.T).sum()
        value = (own - mean).square().sum() + centred.square().sum() + spread - 2 * cross
        return max(0.0, float(value))

    return distance


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to `a` (n, d) and `b` (m, d), in squared feature units; lower is closer.

    `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2)` with unbiased covariances. This is the squared 2-Wasserstein
    distance of the two Gaussians (no root taken), as FID reports it (Heusel et al. 2017, arXiv 1706.08500).

    Biased upwards. For equal normal distributions of covariance `v I` the expectation is, to first order,
    `v d (1/n + 1/m) (1 + (d + 1) / 4)`: the 1 from the means, the rest from the covariances. Compare at equal sample
    counts only.

    Raises MetricError for NaN or infinity, fewer than 2 samples on a side, or unequal feature dimensions.
    """
    a, b = checked_pair(a, b, 2)
    return frechet_from(b)(a)


def kernel_matrix(a: Tensor, b: Tensor, degree: int) -> Tensor:
    """The polynomial kernel `(x . y / d + 1)^degree` between rows: (n, d), (m, d) -> (n, m)."""
    return (a @ b.T / a.shape[1] + 1).pow(degree)


def kernel_within(x: Tensor, degree: int) -> float:
    """Mean kernel over all ordered pairs of *different* rows of `x` (n, d), in blocks of rows."""
    n = len(x)
    own = (x.square().sum(1) / x.shape[1] + 1).pow(degree).sum()
    total = sum(float(kernel_matrix(rows, x, degree).sum()) for rows in x.split(1024))
    return (total - float(own)) / (n * (n - 1))


def checked_degree(degree: int) -> int:
    """`degree` if it is a whole number of at least 1, else MetricError."""
    if degree < 1 or degree != int(degree):
        raise MetricError(f"degree must be a whole number of at least 1, not {degree}")
    return int(degree)


def kernel_distance(a: Tensor, b: Tensor, degree: int = 3) -> float:
    """Unbiased squared MMD of `a` (n, d) and `b` (m, d) under the kernel `(x . y / d + 1)^degree`; lower is closer.

    With `degree=3` this is the kernel inception distance of Binkowski et al. 2018 (arXiv 1801.01401), over all pairs
    rather than a mean over blocks, and *not* multiplied by 1000. As a U-statistic (Gretton et al. 2012) it has mean
    exactly 0 for equal distributions at any sample count, so it can be negative. The kernel has a scale: features
    should be of order 1 a coordinate.

    Raises MetricError for NaN or infinity, fewer than 2 samples on a side, or unequal feature dimensions.
    """
    degree = checked_degree(degree)
    a, b = checked_pair(a, b, 2)
    between = sum(float(kernel_matrix(rows, b, degree).sum()) for rows in a.split(1024)) / (len(a) * len(b))
    return kernel_within(a, degree) + kernel_within(b, degree) - 2 * between


def _directions(d: int, count: int, seed: int, like: Tensor) -> Tensor:
    """`count` random unit vectors, (count, d), the same on every device."""
    rng = torch.Generator().manual_seed(seed)
    v = torch.randn(count, d, generator=rng, dtype=torch.float64)
    return (v / v.norm(dim=1, keepdim=True)).to(like.device)


def sliced_from(b: Tensor, projections: int = 512, seed: int = 0) -> Distance:
    """The sliced Wasserstein distance from `b` (m, d) as a function of `a` (n, d); see `sliced_wasserstein`.

    Holds the sorted projections of `b`: `projections * m` float64 numbers.
    """
    if projections < 1:
        raise MetricError(f"projections must be at least 1, not {projections}")
    b = checked(b, "b")
    m = len(b)
    axes = _directions(b.shape[1], projections, seed, b)
    reference = [(part @ b.T).sort(1).values for part in axes.split(max(1, 2**24 // m))]

    def distance(a: Tensor) -> float:
        a, _ = checked_pair(a, b[:1])
        n = len(a)
        # Both quantile functions are steps, of width 1/n and 1/m. Counting in units of 1/(nm) keeps the steps exact.
        ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        widths = ((ends - starts).double() / (n * m)).to(a.device)
        left, right = (starts // m).to(a.device), (starts // n).to(a.device)
        chunk = max(1, 2**22 // (n + m))
        total = 0.0
        for block, sorted_block in zip(axes.split(len(reference[0])), reference):
            for part, other in zip(block.split(chunk), sorted_block.split(chunk)):
                own = (part @ a.T).sort(1).values
                total += float(((own[:, left] - other[:, right]).square() @ widths).sum())
        return (total / projections) ** 0.5

    return distance


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 512, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of `a` (n, d) and `b` (m, d), in feature units; lower is closer.

    The root of the mean, over random unit directions, of the squared 1-D 2-Wasserstein distance of the projections
    (Bonneel et al. 2015). The root is taken once, after the mean. Each 1-D distance is exact, for unequal counts too:
    the integral of `(Q_a(u) - Q_b(u))^2` over the merged steps of both empirical quantile functions. A shift by `v`
    gives about `|v| / sqrt(d)`. `seed` fixes the directions, so equal input gives an equal number.

    Biased upwards at finite n and m, falling about as `1/sqrt(n)` in feature units for equal distributions.

    Raises MetricError for NaN or infinity, an empty side, or unequal feature dimensions.
    """
    a, b = checked_pair(a, b)
    return sliced_from(b, projections, seed)(a)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise of each pair of pictures (N, ...) from -1 to 1: 10 log10(4 / mean squared error), in dB, float64 (N,).

    At most 120, of equal pictures."""
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(4e-12))
