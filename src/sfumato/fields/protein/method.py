"""What is minimised: EDM's square, springs and lDDT of the guessed backbone; in the free frame after the truth was laid on
the guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, tree
from sfumato.diffusion.rng import Rng, normal_like, uniform_like
from sfumato.diffusion.tree import Tree
from sfumato.fields.protein.geometry import CA, smooth_lddt, strain
from sfumato.metrics.superpose import fit

FINE = 0.1
"""sigma, in units of the data's spread, at which the springs count half."""


@dataclass(frozen=True)
class BackboneLoss:
    """The criterion of training.

    scale: Angstrom of a unit. springs, lddt: weights of these terms. previous: share of the rows that are told a guess. free:
    items are turned at random, and the truth is laid on the guess before they are compared (weighted fit, no gradient through
    it).
    """

    scale: float
    springs: float = 0.02
    lddt: float = 0.2
    previous: float = 0.5
    free: bool = False

    def __call__(
        self, denoiser: Denoiser, x: Tree, t: Tree, *, rng: Rng, z: Tree, weight: Tree | None, given: Tree,
        condition: Mapping[str, Tree],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The terms of backbones x (B, L, 12), each (B,)."""
        process: Any = denoiser.process
        counts = torch.ones_like(x) if weight is None else weight
        if self.free:
            x = turned(x, rng)
        x_t = process.interpolate(x, z, t)
        previous = self.guessed_before(denoiser, x_t, t, given, rng) if self.previous > 0 else None
        answer = denoiser.answer(x_t, t, given=given, previous=previous)
        guessed = process.endpoints(answer, x_t, t).x
        if self.free:
            x = laid(x, guessed.detach(), counts)
            z = process.noise_given(x, x_t, t)
        found = {"square": process.loss(answer, x, z, t, weight)}
        sigma = process.schedule.angle(t).tan().to(x.dtype)
        backbone, truth = (each.unflatten(-1, (-1, 3)) * self.scale for each in (guessed, x))
        there = counts.unflatten(-1, (-1, 3))[..., 0] > 0
        if self.springs:
            found["springs"] = self.springs * strain(backbone, there) / (1 + (sigma / FINE) ** 2)
        if self.lddt:
            own = backbone[:, :, CA], truth[:, :, CA], there[:, :, CA]
            found["lddt"] = self.lddt * smooth_lddt(*own)
        return found

    @torch.no_grad()
    def guessed_before(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, given: Tree, rng: Rng) -> Tensor:
        """The network's own guesses (B, L, 12) for a share of the rows, zeros for the others: `diffusion.SelfConditioned`,
        but the others are not computed, which on a CPU is a sixth of a step."""
        seen = (uniform_like(x_t, rng, (len(x_t),)) < self.previous).nonzero()[:, 0]
        previous = torch.zeros_like(x_t)
        if self.previous:
            # of one row where there is none: where weights lie in parts, all processes make the same calls
            asked = seen if len(seen) else torch.zeros(1, dtype=torch.int64, device=seen.device)
            guessed = denoiser(x_t[asked], t[asked], given=tree.take(given, asked)).x
            previous[seen] = guessed[: len(seen)]
        return previous


def turned(x: Tensor, rng: Rng) -> Tensor:
    """Backbones (B, L, 12), each turned by a rotation of its own, uniform over all: of the normalised quaternion of normal
    numbers. Centred as they are, they stay centred; padding stays 0."""
    q = normal_like(x.new_empty(len(x), 4, dtype=torch.float64), rng)
    w, a, b, c = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        1 - 2 * (b * b + c * c), 2 * (a * b - c * w), 2 * (a * c + b * w),
        2 * (a * b + c * w), 1 - 2 * (a * a + c * c), 2 * (b * c - a * w),
        2 * (a * c - b * w), 2 * (b * c + a * w), 1 - 2 * (a * a + b * b),
    )  # fmt: skip
    rotation = torch.stack(rows, -1).unflatten(-1, (3, 3)).to(x)
    return (x.unflatten(-1, (-1, 3)).flatten(1, 2) @ rotation).unflatten(1, (x.shape[1], -1)).flatten(2)


def laid(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Backbones (B, L, 12) moved onto others by the best weighted fit; what weighs nothing stays."""
    atoms, other = (each.unflatten(-1, (-1, 3)).flatten(1, 2) for each in (x, target))
    own = weight.unflatten(-1, (-1, 3))[..., 0].flatten(1)
    moved = torch.where(own[..., None] > 0, fit(atoms, other, own)(atoms), atoms)
    return moved.unflatten(1, (x.shape[1], -1)).flatten(2)
