"""Sets of points laid on each other, and how far they are apart: the least-squares fit of Kabsch (1976), RMSD, and lDDT.

All take batches: points (..., N, 3), weights (..., N). In float64 whatever comes; gradients flow through RMSD and, where it is
asked for, through the fit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
"""Of lDDT, in Angstrom (Mariani et al. 2013)."""
RADIUS = 15.0


class Motion(NamedTuple):
    """x -> x @ rotation + shift, with a proper rotation (..., 3, 3) and a shift (..., 1, 3)."""

    rotation: Tensor
    shift: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Points (..., N, 3) moved, in their own type."""
        return (points.double() @ self.rotation + self.shift).to(points.dtype)


def _means(points: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(-1, keepdim=True).clamp_min(1e-12)[..., None]
    return (points * weight[..., None]).sum(-2, keepdim=True) / total


def _weights(points: Tensor, weight: Tensor | None) -> Tensor:
    return points.new_ones(points.shape[:-1]) if weight is None else weight.to(points)


def fit(mobile: Tensor, target: Tensor, weight: Tensor | None = None) -> Motion:
    """The proper motion that lays ``mobile`` (..., N, 3) on ``target`` with the least weighted sum of squares (Kabsch 1976; a
    mirror image is never taken, also of points in a plane).

    Raises:
        ValueError: shapes that differ.
    """
    if mobile.shape != target.shape or mobile.shape[-1] != 3:
        raise ValueError(f"points of shape {tuple(mobile.shape)} cannot be laid on {tuple(target.shape)}")
    a, b = mobile.double(), target.double()
    w = _weights(a, weight)
    here, there = _means(a, w), _means(b, w)
    covariance = ((a - here) * w[..., None]).transpose(-1, -2) @ (b - there)
    u, _, vt = torch.linalg.svd(covariance)
    sign = torch.sign(torch.linalg.det(u @ vt))
    flip = torch.stack((torch.ones_like(sign), torch.ones_like(sign), sign), -1)
    rotation = (u * flip[..., None, :]) @ vt
    return Motion(rotation, there - here @ rotation)


def rmsd(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Root of the weighted mean squared distance of points as they lie, (...,) float64."""
    a, b = a.double(), b.double()
    w = _weights(a, weight)
    return (((a - b).square().sum(-1) * w).sum(-1) / w.sum(-1).clamp_min(1e-12)).sqrt()


def fitted_rmsd(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """The RMSD after the best fit, by the singular values alone (Kabsch 1978): (...,) float64, with a gradient.

    n RMSD^2 = |A|^2 + |B|^2 - 2 (s1 + s2 + d s3), d the sign of the determinant.
    """
    a, b = a.double(), b.double()
    w = _weights(a, weight)
    a, b = a - _means(a, w), b - _means(b, w)
    covariance = (a * w[..., None]).transpose(-1, -2) @ b
    values = torch.linalg.svdvals(covariance)
    sign = torch.sign(torch.linalg.det(covariance.detach()))
    overlap = values[..., 0] + values[..., 1] + torch.where(sign < 0, -1.0, 1.0) * values[..., 2]
    squares = ((a.square() + b.square()).sum(-1) * w).sum(-1)
    return ((squares - 2 * overlap).clamp_min(1e-18) / w.sum(-1).clamp_min(1e-12)).sqrt()


def lddt(model: Tensor, truth: Tensor, there: Tensor | None = None, radius: float = RADIUS) -> Tensor:
    """The local distance difference test of each point, (..., N) float64 in 0..1: the share of the distances to points within
    ``radius`` of it in the truth that are kept to within 0.5, 1, 2 and 4 Angstrom, strictly, averaged over these four (Mariani
    et al. 2013). A point without any neighbour scores 0. The same for a mirror image.

    Args:
        there: (..., N) bool, which points count at all.
    """
    model, truth = model.double(), truth.double()
    exact = "donot_use_mm_for_euclid_dist"
    apart, real = (torch.cdist(x, x, compute_mode=exact) for x in (model, truth))
    counts = (real < radius) & ~torch.eye(real.shape[-1], dtype=torch.bool, device=real.device)
    if there is not None:
        counts = counts & there[..., None, :] & there[..., None]
    error = (apart - real).abs()
    kept = torch.stack([error < threshold for threshold in THRESHOLDS]).double().mean(0)
    return (kept * counts).sum(-1) / counts.sum(-1).clamp_min(1)
