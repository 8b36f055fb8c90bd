r"""Noise that knows no direction and no pole: a Gaussian process on the sphere, drawn on a grid of latitude and longitude.

White noise by cell is finer near the poles, where cells crowd. What GenCast (Price et al. 2023, arXiv 2312.15796) draws
instead has spherical harmonics as independent parts, all of equal variance up to the degree L that the grid resolves:

    z(p) = sqrt(4 pi) / (L + 1) sum_lm a_lm Y_lm(p),     E z(p) z(q) = sum_l (2l + 1) P_l(cos g) / (L + 1)^2,

g the angle between p and q: variance 1 at every point, by the addition theorem. On a grid that is fewer numbers than
cells. What a field has beyond degree L, such noise would leave bare: a network would see it through any noise, and sampling could
never make it. So a share ``white`` of the variance is white by cell; the variance stays 1, and no part of a field is
without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sfumato.diffusion import Gaussian
from sfumato.diffusion.rng import Rng, normal_like


@lru_cache(maxsize=8)
def legendre(latitude: tuple[float, ...], degree: int) -> Tensor:
    """Normalised associated Legendre functions at latitudes in degrees: (m, l, rows) float64, 0 where l < m; with cosine
    and sine of m times the longitude, and a factor of sqrt(2) where m > 0, their squares sum over m to (2l + 1) / 4 pi."""
    x = torch.deg2rad(torch.tensor(latitude, dtype=torch.float64)).sin()
    found = torch.zeros(degree + 1, degree + 1, len(latitude), dtype=torch.float64)
    diagonal = torch.full_like(x, math.sqrt(1 / (4 * math.pi)))
    for m in range(degree + 1):
        if m:
            diagonal = diagonal * math.sqrt((2 * m + 1) / (2 * m)) * (1 - x**2).clamp_min(0).sqrt()
        found[m, m] = diagonal
        if m < degree:
            found[m, m + 1] = math.sqrt(2 * m + 3) * x * diagonal
        for n in range(m + 2, degree + 1):
            a, b = math.sqrt((4 * n**2 - 1) / (n**2 - m**2)), math.sqrt(((n - 1) ** 2 - m**2) / (4 * (n - 1) ** 2 - 1))
            found[m, n] = a * (x * found[m, n - 1] - b * found[m, n - 2])
    return found


def resolved(latitude: tuple[float, ...], columns: int) -> int:
    """The degree up to which a global grid, rows from pole to pole, resolves harmonics."""
    step = abs(latitude[0] - latitude[-1]) / (len(latitude) - 1)
    return max(1, min((columns - 1) // 2, round(180 / step) - 1))


@dataclass(frozen=True)
class SphereGaussian(Gaussian):
    """A Gaussian process of fields (B, ..., rows, columns) on a globe, whose noise is isotropic, but for the share ``white``."""

    latitude: tuple[float, ...] = ()
    columns: int = 0
    white: float = 0.05

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        if tuple(x.shape[-2:]) != (len(self.latitude), self.columns):
            raise ValueError(f"x has shape {tuple(x.shape)}, for a grid of {len(self.latitude)} x {self.columns}")
        degree, kind = resolved(self.latitude, self.columns), torch.float32
        blank = torch.zeros((*x.shape[:-2], 2, degree + 1, degree + 1), dtype=kind, device=x.device)
        table = legendre(self.latitude, degree).to(x.device, kind)
        parts = torch.einsum("...kml,mlr->...krm", normal_like(blank, rng), table)
        half = parts / math.sqrt(2)
        half[..., 0] = parts[..., 0]
        spectrum = torch.complex(half[..., 0, :, :], -half[..., 1, :, :])
        spectrum[..., 0] = half[..., 0, :, 0]
        whole = torch.fft.irfft(self.columns * spectrum, n=self.columns, dim=-1)
        whole = whole * math.sqrt((1 - self.white) * 4 * math.pi) / (degree + 1)
        return (whole + math.sqrt(self.white) * normal_like(whole, rng)).to(x.dtype)
