"""Poses moved to where known poses have atoms like theirs and where the protein leaves room: descent on a potential, no network.

    U = -sum_i ln(VOLUME p_i(r_i)) + CLASH sum (NEAREST - distance to the receptor's atoms)_+^2

over centre, turn and torsions, so that bonds, angles and stereo stay. p is the density of :mod:`~sfumato.fields.docking.kin`,
smoothed by ever less. From poses that were drawn it is their last polish; from places at random, and smoothed by more at first,
a search of its own: a baseline that needs known poses and no training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion import SO3
from sfumato.fields.docking.asking import Case
from sfumato.fields.docking.kin import looked
from sfumato.fields.docking.pose import centroid, turned

NEAREST, CLASH = 3.0, 0.5
"""A that heavy atoms keep from the receptor's, and the weight (1 / A^2) of what is nearer."""
REACH = 14.0
"""A about the site in which the receptor's atoms are looked at."""
RATE, DECAY = 0.15, (0.9, 0.99)
"""Of Adam (Kingma 2015): about the A, and the radians, of a step; of the means of slopes and of their squares."""
SEARCH, WIDE, FINE = 60, 2.0, 0.4
"""Steps of a search, and A by which the density is smoothed at first and at last."""
LOTS, LOOSE = 13, 0.5
"""Random numbers that a search begins with, and A about the middle of a known pose."""


def settled(case: Case, places: np.ndarray, steps: int, wide: float = 1.0) -> np.ndarray:
    """Poses (P, N, 3) in the receptor's frame after so many steps downhill, each by itself; ``wide``: A of smoothing at first."""
    if steps < 1 or not len(places):
        return places
    start = torch.as_tensor(places - case.site.centre, dtype=torch.float32)
    P, m = len(start), len(case.joints)
    axes, moved = case.joints.axes.expand(P, -1, -1), case.joints.moved.expand(P, -1, -1)
    there = torch.ones(start.shape[:2], dtype=torch.bool)
    known, weight = (torch.from_numpy(each).expand(P, *each.shape) for each in (case.kin.places, case.kin.weight))
    atoms = case.site.structure.places - case.site.centre
    walls = torch.as_tensor(atoms[np.linalg.norm(atoms, axis=1) < REACH], dtype=torch.float32)
    parts = [torch.zeros(P, 1, 3), torch.zeros(P, 1, 3), torch.zeros(P, m, 1)]

    def pose(step: Tensor, turn: Tensor, torsions: Tensor) -> Tensor:
        body = turned(start, axes, moved, torsions[..., 0])
        middle = centroid(body, there)
        R = SO3().exp(torch.eye(3).expand(P, 3, 3), turn[:, 0])
        return (body - middle) @ R.transpose(1, 2) + middle + step

    def potential(*parts: Tensor, tau: float) -> Tensor:
        here = pose(*parts)
        density, _ = looked(here, known, weight, (tau,))
        return CLASH * (NEAREST - torch.cdist(here, walls)).clamp_min(0).square().sum() - density.sum()

    taus = np.geomspace(wide, min(FINE, wide), steps)
    return np.asarray(pose(*downhill(potential, parts, taus)).double().numpy() + case.site.centre)


def downhill(potential: Callable[..., Tensor], parts: list[Tensor], taus: np.ndarray) -> list[Tensor]:
    """Parts (P, k, d) after a step of descent for each smoothing. Adam, with one size for each vector (d) and not for each of its
    coordinates, so that a turned world has the turned steps."""
    mean, size = [torch.zeros_like(part) for part in parts], [torch.zeros_like(part[..., :1]) for part in parts]
    for k, tau in enumerate(taus.tolist(), 1):
        with torch.enable_grad():
            own = [part.detach().requires_grad_() for part in parts]
            slopes = torch.autograd.grad(potential(*own, tau=tau), own, allow_unused=True)
        for i, (part, slope) in enumerate(zip(parts, slopes)):
            if slope is None:
                continue
            mean[i] = DECAY[0] * mean[i] + (1 - DECAY[0]) * slope
            size[i] = DECAY[1] * size[i] + (1 - DECAY[1]) * slope.square().sum(-1, keepdim=True)
            width = (size[i] / (1 - DECAY[1] ** k)).sqrt().clamp_min(1e-6)
            parts[i] = part - RATE * mean[i] / (1 - DECAY[0] ** k) / width
    return parts


def searched(case: Case, which: Sequence[int], lots: np.ndarray) -> np.ndarray:
    """Poses (P, N, 3) in the receptor's frame: conformers ``which`` (P,), turned at random about the middles of known poses (of
    none: about the site's), settled. ``lots`` (P, LOTS) standard normal numbers decide about each."""
    middles = np.array([each.places.mean(0) for each in case.others if each.places is not None] or [case.site.centre])
    share = torch.special.ndtr(torch.from_numpy(lots[:, 0])).numpy()
    at = middles[(share * len(middles)).astype(int).clip(0, len(middles) - 1)] + LOOSE * lots[:, 1:4]
    turns, _ = np.linalg.qr(lots[:, 4:].reshape(-1, 3, 3))
    turns *= np.linalg.det(turns)[:, None, None]
    start = case.conformers[list(which)].double().numpy() @ turns + at[:, None]
    return settled(case, start, SEARCH, WIDE)
