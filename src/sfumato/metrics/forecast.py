"""Scores of ensemble forecasts: CRPS, energy and variogram score, Brier score, spread against skill, rank histogram.

A forecast is an ensemble of M members in dimension 0, `forecast` (M, ...), and `truth` (...) is what came. CRPS and the
energy score are *proper*: nobody scores better, on average, than by forecasting the distribution the truth is drawn
from. Spread/skill and the rank histogram do not say how good a forecast is, only whether the truth could be one more
member; climatology passes both.

Where a weight makes sense (the area of a cell on the sphere, see `latitude_weights`) it broadcasts against `truth`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.metrics.distances import MetricError

_BLOCK = 2**22  # most distances between members held at once: 32 MiB


def _finite(x: Tensor, name: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise MetricError(f"{name} must be a tensor, not {type(x).__name__}")
    x = x.detach().double()
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise MetricError(f"{name} has NaN or infinity in {bad} of {x.numel()} values")
    return x


def _checked(forecast: Tensor, truth: Tensor, least: int, why: str = "") -> tuple[Tensor, Tensor]:
    """Both as finite float64 on the device of `forecast`, (M, ...) and (...), with at least `least` members."""
    forecast, truth = _finite(forecast, "forecast"), _finite(truth, "truth")
    if forecast.dim() == 0 or forecast.shape[1:] != truth.shape:
        raise MetricError(
            f"forecast must have shape (members, *truth), but forecast is {tuple(forecast.shape)} "
            f"and truth is {tuple(truth.shape)}"
        )
    if truth.numel() == 0:
        raise MetricError(f"truth has shape {tuple(truth.shape)}: there is nothing to score")
    if len(forecast) < least:
        raise MetricError(f"forecast has {len(forecast)} member(s), but this needs at least {least}{why}")
    return forecast, truth.to(forecast.device)


def _checked_fair(forecast: Tensor, truth: Tensor, fair: bool) -> tuple[Tensor, Tensor, int]:
    """Both sides, and the number of ordered pairs of members by which the sum over pairs is divided."""
    forecast, truth = _checked(forecast, truth, 2 if fair else 1, " (or fair=False)" if fair else "")
    members = len(forecast)
    return forecast, truth, members * (members - 1 if fair else members)


def _weights(weights: Tensor | None, truth: Tensor) -> Tensor:
    """`weights` spread over the shape of `truth`, summing to 1; equal ones for None."""
    if weights is None:
        return torch.full_like(truth, 1 / truth.numel())
    weights = _finite(weights, "weights").to(truth.device)
    try:
        spread = weights.expand(truth.shape)
    except RuntimeError as error:
        raise MetricError(
            f"weights of shape {tuple(weights.shape)} do not broadcast to truth of shape {tuple(truth.shape)}"
        ) from error
    if bool((weights < 0).any()) or not float(spread.sum()) > 0:
        raise MetricError("weights must not be negative, and not all be 0")
    return spread / spread.sum()


def latitude_weights(latitude: Tensor) -> Tensor:
    """The cosine of each `latitude` in degrees, with mean 1: the area of cells on a regular grid. (L,) -> (L,) float64.

    For fields (..., latitude, longitude) give `latitude_weights(latitude)[:, None]`.
    Raises MetricError for NaN, infinity or a latitude beyond 90 degrees.
    """
    latitude = _finite(latitude, "latitude")
    if latitude.numel() == 0 or float(latitude.abs().max()) > 90:
        raise MetricError("latitudes must be between -90 and 90 degrees, and at least one")
    weights = torch.deg2rad(latitude).cos().clamp(min=0)
    if not float(weights.sum()) > 0:
        raise MetricError("all latitudes are poles, where a cell has no area")
    return weights / weights.mean()


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> float:
    """The mean of `values` (...), such as `crps` returns, under `weights` that broadcast to it.

    Raises MetricError for NaN or infinity, no values, or weights that are negative, all 0 or of another shape.
    """
    values = _finite(values, "values")
    if values.numel() == 0:
        raise MetricError("values is empty: there is nothing to average")
    return float((values * _weights(weights, values)).sum())


def crps(forecast: Tensor, truth: Tensor, fair: bool = True) -> Tensor:
    """Continuous ranked probability score at every point, in the data's unit: (M, ...), (...) -> (...) float64.

    `mean |x_i - y| - 1/2 mean |x_i - x_j|`; lower is better, and for one member (`fair=False`) it is the absolute
    error. With `fair=True` the second mean is over pairs of *different* members: the unbiased estimate of the score of
    the distribution the members come from, so ensembles of different sizes compare (Ferro 2014); it can be negative.
    With `fair=False` it is over all pairs: the score of the ensemble as it stands (Hersbach 2000), on average higher by
    `mean |x_i - x_j| / 2M`.

    Members are sorted, so the cost is M log M rather than M^2 (Gneiting & Raftery 2007).
    Raises MetricError for NaN or infinity, shapes that do not match, or fewer than 2 members (`fair=False`: 1).
    """
    forecast, truth, pairs = _checked_fair(forecast, truth, fair)
    # About the truth, lest the sum over sorted members of a field far from 0 (pressure in pascal) cancel.
    off = (forecast - truth).sort(0).values
    members = len(off)
    # Among sorted members, x_i is the larger of i pairs and the smaller of M - 1 - i.
    rank = torch.arange(1 - members, members, 2, dtype=off.dtype, device=off.device)
    between = torch.tensordot(rank, off, dims=([0], [0]))  # the sum of |x_i - x_j| over unordered pairs
    return off.abs().mean(0) - between / max(pairs, 1)


def energy_score(forecast: Tensor, truth: Tensor, fair: bool = True) -> Tensor:
    """Energy score of vectors: (M, B, D), (B, D) -> (B,) float64; lower is better.

    `mean |x_i - y| - 1/2 mean |x_i - x_j|` with Euclidean norms (Gneiting & Raftery 2007, eq. 22): CRPS for D = 1, and
    unlike a mean of CRPS over coordinates it feels how they vary together. `fair` is as in `crps`. The norm weighs
    every coordinate alike: divide by each one's spread first if their units differ.

    Raises MetricError for NaN or infinity, shapes that do not match, or fewer than 2 members (`fair=False`: 1).
    """
    forecast, truth, pairs = _checked_fair(forecast, truth, fair)
    if truth.dim() != 2:
        raise MetricError(f"truth must have shape (B, D), one vector a case, not {tuple(truth.shape)}")
    error = (forecast - truth).norm(dim=2).mean(0)
    between = [
        # The product formula would make the distance of equal members about 1e-8 rather than 0.
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
        for x in forecast.transpose(0, 1).split(max(1, _BLOCK // len(forecast) ** 2))
    ]
    return error - torch.cat(between) / (2 * max(pairs, 1))


class SpreadSkill(NamedTuple):
    """What `spread_skill` returns. `spread` and `skill` are in the data's unit."""

    spread: float
    skill: float
    ratio: float


def spread_skill(forecast: Tensor, truth: Tensor, weights: Tensor | None = None) -> SpreadSkill:
    """Does the ensemble know how wrong it is? (M, ...), (...) -> spread, skill and their ratio, near 1 if it does.

    * `skill`: root mean squared error of the ensemble mean, lower is better.
    * `spread`: root of the mean variance of the members (divided by M - 1).
    * `ratio`: `sqrt((M + 1) / M) spread / skill`. The mean of M members is itself uncertain by `1/M` of their variance,
      hence the factor (Fortin et al. 2014): with it the ratio of a calibrated ensemble is 1 at any M. Below 1 the
      ensemble is too sure of itself.

    Roots are taken once, after the mean over all points. Raises MetricError for NaN or infinity, shapes that do not
    match, fewer than 2 members, weights that are negative or all 0, or a forecast without error.
    """
    forecast, truth = _checked(forecast, truth, 2)
    share = _weights(weights, truth)
    members = len(forecast)
    skill = math.sqrt(float(((forecast - truth).mean(0).square() * share).sum()))
    spread = math.sqrt(float((forecast.var(0) * share).sum()))
    if skill == 0:
        raise MetricError("the ensemble mean equals the truth everywhere, so spread/skill has no value: is it a copy?")
    return SpreadSkill(spread, skill, math.sqrt((members + 1) / members) * spread / skill)


def rank_histogram(
    forecast: Tensor, truth: Tensor, rng: torch.Generator | None, weights: Tensor | None = None
) -> Tensor:
    """How often the truth has rank 0 .. M among the members: (M, ...), (...) -> (M + 1,) float64, summing to 1.

    Flat, each entry near `1 / (M + 1)`, if the truth could be one more member (Hamill 2001). A valley says too little
    spread, a hill too much, a slope a bias. Where members equal the truth (rain: most are 0) its rank is drawn evenly
    from those it could have, from `rng`; otherwise ties would look like a bias.

    Raises MetricError for NaN or infinity, shapes that do not match, no members, or weights that are negative or all 0.
    """
    forecast, truth = _checked(forecast, truth, 1)
    share = _weights(weights, truth)
    below, ties = (forecast < truth).sum(0), (forecast == truth).sum(0)
    device = truth.device if rng is None else rng.device
    u = torch.rand(truth.shape, dtype=truth.dtype, device=device, generator=rng).to(truth.device)
    rank = below + (u * (ties + 1)).long()
    return torch.zeros(len(forecast) + 1, dtype=share.dtype, device=share.device).index_add_(
        0, rank.flatten(), share.flatten()
    )


def variogram_score(forecast: Tensor, truth: Tensor, weights: Tensor, power: float = 0.5, fair: bool = True) -> Tensor:
    """Variogram score of vectors: (M, B, D), (B, D) and weights (D, D) -> (B,) float64; lower is better.

    `sum_ij w_ij (|y_i - y_j|^p - mean_m |x_mi - x_mj|^p)^2` over pairs of coordinates i < j (Scheuerer & Hamill 2015, eq. 6), the
    weights summing to 1 over them: what the energy score hardly feels, whether neighbours vary together as they should. With
    `fair=True` what the mean over few members adds, its own variance, is taken off, so that ensembles of different sizes compare.

    Raises MetricError for NaN or infinity, shapes that do not match, too few members, or weights that are negative or all 0.
    """
    forecast, truth, _ = _checked_fair(forecast, truth, fair)
    size = truth.shape[-1]
    weights = _finite(weights, "weights").to(truth.device)
    if truth.dim() != 2 or size < 2 or weights.shape != (size, size):
        raise MetricError(
            f"truth must have shape (B, D > 1) and weights (D, D), not {tuple(truth.shape)}, {tuple(weights.shape)}"
        )
    first, second = torch.triu_indices(size, size, 1, device=truth.device)
    share = _weights(weights[first, second], truth.new_zeros(len(first)))
    found = []
    for x, y in zip(forecast.transpose(0, 1), truth):
        rough = (x[:, first] - x[:, second]).abs().pow(power)
        error = ((y[first] - y[second]).abs().pow(power) - rough.mean(0)).square()
        found.append(((error - rough.var(0) / len(x) if fair else error) * share).sum())
    return torch.stack(found)


def brier(forecast: Tensor, truth: Tensor, threshold: Tensor, fair: bool = True) -> Tensor:
    """Brier score of "more than ``threshold``" at every point: (M, ...), (...), broadcasting -> (...) float64; lower is better.

    `(share of members above - 1 if the truth is)^2`; with `fair=True` less what few members add to it, `p (1 - p) / (M -
    1)` (Ferro 2014). Raises MetricError for NaN or infinity, shapes that do not match, or fewer than 2 members (`fair=False`: 1).
    """
    forecast, truth, _ = _checked_fair(forecast, truth, fair)
    threshold = _finite(threshold, "threshold").to(truth.device)
    share, came = (forecast > threshold).double().mean(0), (truth > threshold).double()
    return (share - came).square() - (share * (1 - share) / (len(forecast) - 1) if fair else 0.0)
