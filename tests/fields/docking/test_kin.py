"""What known poses say about single atoms is a density, its pull is the density's slope, and what is more alike says more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.fields.docking.chemistry import from_smiles
from sfumato.fields.docking.kin import KEPT, TAUS, VOLUME, WIDTH, Kin, looked
from tests.fields.docking import worlds


def kin_of(*smiles: str, ligand: str = "CC(=O)Nc1ccc(OC)cc1") -> Kin:
    """Of a ligand among known poses near the origin."""
    return Kin.of(from_smiles(ligand), [worlds.posed(text, f"k{i}", i) for i, text in enumerate(smiles)], np.zeros(3))


@pytest.mark.parametrize("tau", TAUS)
def test_what_is_known_of_an_atom_is_a_density(tau: float) -> None:
    kin, width = kin_of(*worlds.SMILES[:3]), float(np.hypot(WIDTH, tau))
    known, weight = torch.from_numpy(kin.places[:1]), torch.from_numpy(kin.weight[:1])
    known, weight = known[:, weight[0] > 0], weight[:, weight[0] > 0]
    reach = float(known.abs().max()) + 4.5 * width
    ticks = torch.arange(-reach, reach, width)  # a sum of Gaussians at every width is their integral to 1e-8
    grid = torch.cartesian_prod(ticks, ticks, ticks)[:, None]
    density, _ = looked(grid, known.expand(len(grid), 1, -1, 3), weight.expand(len(grid), 1, -1), (tau,))
    total = float((density.double().exp() - (1 - weight.sum())).sum()) / VOLUME * width**3
    assert total == pytest.approx(float(weight.sum()), rel=1e-3)
    assert 0.05 < total < 1


def test_the_pull_is_the_slope_of_the_density() -> None:
    """variance grad ln p is how far the atom would move on the average (Tweedie's formula)."""
    kin = kin_of(*worlds.SMILES[:6])
    here = torch.randn(4, len(kin.weight), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    here.requires_grad_()
    known, weight = (torch.from_numpy(each).double().expand(4, *each.shape) for each in (kin.places, kin.weight))
    density, way = looked(here, known, weight)
    for k, tau in enumerate(TAUS):
        (slope,) = torch.autograd.grad(density[..., k].sum(), here, retain_graph=True)
        assert torch.allclose((WIDTH**2 + tau**2) * slope, way[..., k, :], atol=1e-9)
    assert way.norm(dim=-1).max() > 0.5


def test_the_more_alike_a_known_pose_and_its_atom_the_more_it_says() -> None:
    near, far = worlds.posed("CC(=O)Nc1ccc(O)cc1", "near", 1), worlds.posed("C1CCNCC1", "far", 2)
    ligand = from_smiles("CC(=O)Nc1ccc(OC)cc1")
    kin = Kin.of(ligand, [far, near], np.zeros(3))
    assert near.places is not None
    own = near.places[:7]  # the acetanilide's atoms are the first of both
    best = kin.places[np.arange(7), kin.weight[:7].argmax(1)]
    assert np.allclose(best, own, atol=1e-4)
    assert (kin.weight.sum(1) <= 1).all()
    assert (np.diff(kin.weight, axis=1) <= 0).all()
    shifted = Kin.of(ligand, [far, near], np.array([1.0, 2.0, 3.0]))
    there = kin.weight > 0
    assert np.allclose((shifted.places + np.array([1.0, 2.0, 3.0]))[there], kin.places[there], atol=1e-4)


def test_where_nothing_is_known_nothing_is_said() -> None:
    kin = kin_of()
    assert not kin.weight.any()
    assert np.allclose(kin.log_density(np.ones((3, len(kin.weight), 3)), 0.7), 0, atol=1e-6)
    _, way = looked(torch.ones(1, 2, 3), torch.zeros(1, 2, KEPT, 3), torch.zeros(1, 2, KEPT))
    assert not way.any()
