"""Noise on a region that is smooth as weather is: neighbouring cells get nearly the same.

White noise by cell hides the fine structure of a smooth field long before its large scales, and the last of it leaves rough
members: what a field has at its shortest waves can be a thousandth of the least noise that a network is trained at, and an answer
that is right to a hundredth leaves ten times too much there. Noise of the covariance

    E z(p) z(q) = exp(-d / reach),     d the length of the chord between p and q in km,

has variance 1 in every cell and its power falls with the wavenumber, though less steeply than that of weather: all scales
drown within a narrower range of noise, and little is left of it where fields have nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sfumato.diffusion import Gaussian
from sfumato.diffusion.rng import Rng, normal_like

EARTH = 6371.0
"""Its mean radius, km."""
MOST_CELLS = 4096
"""Of a grid whose covariance is taken apart: 64 MiB of float32."""


@lru_cache(maxsize=4)
def root(latitude: tuple[float, ...], longitude: tuple[float, ...], reach: float) -> Tensor:
    """The lower triangle whose product with its own transpose is the covariance of the cells, (cells, cells) float32."""
    lat, lon = torch.meshgrid(
        torch.deg2rad(torch.tensor(latitude, dtype=torch.float64)),
        torch.deg2rad(torch.tensor(longitude, dtype=torch.float64)),
        indexing="ij",
    )
    point = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1).reshape(-1, 3)
    chord = EARTH * torch.cdist(point, point, compute_mode="donot_use_mm_for_euclid_dist")
    covariance = torch.exp(-chord / reach)
    return torch.linalg.cholesky(covariance + 1e-9 * torch.eye(len(point), dtype=torch.float64)).float()


@dataclass(frozen=True)
class SmoothGaussian(Gaussian):
    """A Gaussian process of fields (B, ..., rows, columns) on a region, whose noise is correlated over ``reach`` km."""

    latitude: tuple[float, ...] = ()
    longitude: tuple[float, ...] = ()
    reach: float = 1000.0

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        if tuple(x.shape[-2:]) != (len(self.latitude), len(self.longitude)):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, for a grid of {len(self.latitude)} x {len(self.longitude)}"
            )
        half = root(self.latitude, self.longitude, self.reach).to(x.device)
        white = normal_like(x.float(), rng).flatten(-2)
        return (white @ half.T).unflatten(-1, tuple(x.shape[-2:])).to(x.dtype)
