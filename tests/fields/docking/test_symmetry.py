"""RMSD that does not tell apart what a molecule does not, beside two programs that are not ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.fields.docking.chemistry import Ligand, from_smiles
from sfumato.fields.docking.pose import Joints, conformers, placed
from sfumato.fields.docking.sdf import posed
from sfumato.fields.docking.symmetry import apart, rmsd, symmetries
from tests.fields.docking import worlds
from tests.fields.docking.test_pose import drawn


def places_of(ligand: Ligand, seed: int = 0) -> np.ndarray:
    return worlds.pose_of(ligand, seed)


@pytest.mark.parametrize(
    ("smiles", "count"),
    [("c1ccccc1", 12), ("Cc1ccccc1", 2), ("CC(=O)[O-]", 2), ("CC(=O)O", 2), ("FC(F)(F)C#N", 6), ("C[N+](=O)[O-]", 2), ("CCO", 1),
     ("C[C@H](N)C(=O)OCC", 1)],
)  # fmt: skip
def test_symmetries_are_counted(smiles: str, count: int) -> None:
    ways = symmetries(from_smiles(smiles).mol)
    assert len(ways) == count
    assert (ways[0] == np.arange(ways.shape[1])).all()
    assert len({tuple(way) for way in ways.tolist()}) == count


def test_a_turned_ring_and_a_flipped_phenyl_have_not_moved() -> None:
    ring = from_smiles("c1ccccc1")
    places = places_of(ring)
    ways = symmetries(ring.mol)
    assert rmsd(places[None, np.roll(np.arange(6), 1)], places, ways)[0] < 1e-9
    phenyl = from_smiles("Cc1ccc(CC)cc1")
    places = places_of(phenyl)
    flipped = places.copy()
    flipped[[2, 3, 7, 8]] = places[[8, 7, 3, 2]]
    assert rmsd(flipped[None], places, symmetries(phenyl.mol))[0] < 1e-9
    assert np.sqrt(np.square(flipped - places).sum(1).mean()) > 1


def test_enantiomers_are_not_the_same() -> None:
    ligand = from_smiles("C[C@H](N)C(=O)OCC")
    places = places_of(ligand)
    mirrored = places * [1, 1, -1]
    u, _, vt = np.linalg.svd((mirrored - mirrored.mean(0)).T @ (places - places.mean(0)))
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    laid = (mirrored - mirrored.mean(0)) @ turn + places.mean(0)
    assert rmsd(laid[None], places, symmetries(ligand.mol))[0] > 0.2


def test_rmsd_is_that_of_two_other_programs() -> None:
    from rdkit.Chem import rdMolAlign

    spyrmsd = pytest.importorskip("spyrmsd.rmsd")
    chance, count = np.random.default_rng(0), 0
    for k, smiles in enumerate((*worlds.SMILES, "OC(=O)c1ccc(cc1)S(=O)(=O)N")):
        ligand = from_smiles(smiles)
        made, joints = conformers(ligand, 1).double(), Joints.of(ligand.mol)
        there = torch.ones(1, len(ligand), dtype=torch.bool)
        adjacency = (ligand.bonds >= 1) & (ligand.bonds <= 4)
        ways, numbers = symmetries(ligand.mol), np.array([a.GetAtomicNum() for a in ligand.mol.GetAtoms()])
        reference = places_of(ligand, k)
        for seed in range(16):
            x = drawn(1, len(joints), seed=100 * k + seed)
            x["centre"] = x["centre"] * 0.3
            pose = placed(made, joints.axes[None], joints.moved[None], there, x)[0].numpy()
            pose = (
                reference[ways[chance.integers(len(ways))]] + 0.3 * chance.normal(size=pose.shape) if seed % 2 else pose
            )
            mine = rmsd(pose[None], reference, ways)[0]
            assert mine == pytest.approx(rdMolAlign.CalcRMS(posed(ligand, pose), posed(ligand, reference)), abs=1e-4)
            assert mine == pytest.approx(
                spyrmsd.symmrmsd(reference, pose, numbers, numbers, adjacency, adjacency), abs=1e-4
            )
            count += 1
    assert count >= 200


def test_distances_of_poses_among_each_other_are_symmetric() -> None:
    ligand = from_smiles("Cc1ccc(CC)cc1")
    poses = np.stack([worlds.pose_of(ligand, seed) for seed in range(4)])
    far = apart(poses, symmetries(ligand.mol))
    assert np.allclose(far, far.T)
    assert np.allclose(np.diag(far), 0)
