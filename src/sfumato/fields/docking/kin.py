r"""Where known poses have atoms like each of a ligand's: what all of them together say about where its atoms lie.

    p_i(r) = sum_j w_ij N(r; r_j, WIDTH^2 + tau^2) + w_i / VOLUME,    sum_j w_ij + w_i = 1
    w_ij ~ exp(LEVELS[alike(i, j)] + LIKENESS similarity(ligand of j)) / known poses,   w_i ~ 1

is a density of atom i of the ligand over the atoms j of the known poses, the more so the more alike the two atoms and the two
ligands are, and none of them with the weight w_i. A template is one known pose and all that it says; this is all of them and
what each says of single atoms. tau is how far the density is smoothed. The constants are where it is highest at the crystal's
places of 40 ligands of two targets, each from the known poses of other scaffolds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.fields.docking.chemistry import Ligand, alike, tanimoto

LEVELS = (-3.6, -1.7, 0.6, 2.1, 3.9)
"""Log weight of a known atom by how far it is alike: not at all, itself, all within 1, 2, 3 bonds."""
LIKENESS = 10.0
"""Log weight of a known pose by the Tanimoto similarity of the two ligands."""
WIDTH, VOLUME = 0.5, 2000.0
"""A within which atoms of a kind lie of each other, and A^3 in which an atom lies of which nothing is known."""
KEPT = 128
"""Known atoms that are kept of each atom, the heaviest."""
TAUS = (0.0, 0.7, 1.5, 3.0)
"""A by which the density is smoothed, for a network to see it from near and far."""


@dataclass(frozen=True, eq=False)
class Kin:
    """Of each of N atoms the known atoms that say most: places (N, KEPT, 3) float32 in A, weight (N, KEPT) float32, their sum at
    most 1; what is lacking to 1 is that of no known atom."""

    places: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, ligand: Ligand, known: Sequence[Ligand], centre: np.ndarray) -> Kin:
        """What known poses say about a ligand, about a centre (3,)."""
        N = len(ligand)
        places, weight = np.zeros((N, KEPT, 3), np.float32), np.zeros((N, KEPT), np.float32)
        own = [each for each in known if each.places is not None]
        if not own:
            return cls(places, weight)
        likeness = np.repeat(tanimoto(ligand, own), [len(each) for each in own])
        level = np.concatenate([alike(ligand, each) for each in own], 1)
        heavy = np.exp(np.array(LEVELS)[level] + LIKENESS * likeness) / len(own)
        heavy /= heavy.sum(1, keepdims=True) + 1
        kept = min(KEPT, heavy.shape[1])
        which = np.argsort(-heavy, axis=1, kind="stable")[:, :kept]
        every = np.concatenate([each.places for each in own if each.places is not None]) - centre
        places[:, :kept], weight[:, :kept] = every[which], np.take_along_axis(heavy, which, 1)
        return cls(places, weight)

    def moved(self, by: np.ndarray) -> Kin:
        """The same about another centre, ``by`` (3,) less."""
        return Kin((self.places + by).astype(np.float32), self.weight)

    def log_density(self, places: np.ndarray, tau: float) -> np.ndarray:
        """ln(VOLUME p) of each atom of poses (P, N, 3) about the same centre, (P, N): 0 where nothing is known."""
        here, know, weight = (torch.as_tensor(each, dtype=torch.float32) for each in (places, self.places, self.weight))
        P = len(here)
        found, _ = looked(here, know.expand(P, *know.shape), weight.expand(P, *weight.shape), (tau,))
        return np.asarray(found[..., 0].double().numpy())


def looked(places: Tensor, known: Tensor, weight: Tensor, taus: Sequence[float] = TAUS) -> tuple[Tensor, Tensor]:
    """Atoms (B, N, 3) among known ones (B, N, M, 3) of weight (B, N, M): ln(VOLUME p) for each smoothing (B, N, taus), and where
    the atom would be on the average if it were one of them, seen from it, times the probability that it is (B, N, taus, 3)."""
    way = known - places[:, :, None]
    square, none = way.square().sum(-1), (1 - weight.sum(-1)).clamp_min(1e-6)
    variance = WIDTH**2 + torch.tensor(taus, dtype=square.dtype, device=square.device)[:, None] ** 2
    share = torch.exp(-square[..., None, :] / (2 * variance)) * (
        weight[..., None, :] * VOLUME / (2 * math.pi * variance) ** 1.5
    )
    density = share.sum(-1) + none[..., None]
    return density.log(), (share @ way) / density[..., None]
