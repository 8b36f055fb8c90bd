"""Poses on conformers: what stays, what moves, and that a pose can be read off again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.fields.docking.chemistry import Ligand, from_smiles
from sfumato.fields.docking.pose import (
    UNIT,
    Joints,
    conformers,
    fitted,
    laid,
    matched,
    placed,
    quads_of,
    read_off,
    rmsd,
    rotatable,
    turned,
)
from tests.fields.docking import worlds

MOLECULES = {
    "no torsion": "Cc1ccncc1", "chiral": "C[C@H](N)C(=O)OCC", "rings": "O=C(NC1CCN(C)CC1)c1ccc(-c2ccncc2)cc1",
    "peptide": worlds.PEPTIDE,
}  # fmt: skip


def body(ligand: Ligand, count: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    made, joints = conformers(ligand, count).double(), Joints.of(ligand.mol)
    B = len(made)
    there = torch.ones(B, len(ligand), dtype=torch.bool)
    return made, joints.axes.expand(B, -1, -1), joints.moved.expand(B, -1, -1), there


def drawn(B: int, m: int, seed: int = 0) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(B, 3, 3, generator=chance, dtype=torch.float64))
    return {
        "centre": 3 * torch.randn(B, 3, generator=chance, dtype=torch.float64),
        "turn": turn * torch.linalg.det(turn)[:, None, None],
        "torsions": 2 * math.pi * torch.rand(B, m, generator=chance, dtype=torch.float64) - math.pi,
    }


def stiff(ligand: Ligand, places: Tensor) -> list[Tensor]:
    """What no torsion may change: distances over one and two bonds and in rings, and volumes of stereocentres, signed."""
    apart = torch.cdist(places, places)
    near = torch.from_numpy(np.isin(ligand.bonds, (1, 2, 3, 4, 5)))
    rings = [torch.tensor(ring) for ring in ligand.mol.GetRingInfo().AtomRings()]
    volumes = []
    for atom in ligand.mol.GetAtoms():
        around = [n.GetIdx() for n in atom.GetNeighbors()]
        if len(around) >= 3 and str(atom.GetChiralTag()) != "CHI_UNSPECIFIED":
            a, b, c = (places[:, n] - places[:, atom.GetIdx()] for n in around[:3])
            volumes.append((torch.linalg.cross(a, b) * c).sum(-1))
    return [apart[:, near], *(apart[:, ring][:, :, ring] for ring in rings), *volumes]


@pytest.mark.parametrize("smiles", MOLECULES.values(), ids=MOLECULES)
def test_bonds_angles_rings_and_chirality_are_the_conformers_whatever_x_is(smiles: str) -> None:
    ligand = from_smiles(smiles)
    made, axes, moved, there = body(ligand)
    for seed in range(3):
        pose = placed(made, axes, moved, there, drawn(len(made), axes.shape[1], seed))
        for before, after in zip(stiff(ligand, made), stiff(ligand, pose), strict=True):
            assert torch.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("smiles", MOLECULES.values(), ids=MOLECULES)
def test_a_whole_turn_changes_nothing_and_a_pose_is_read_off_again(smiles: str) -> None:
    made, axes, moved, there = body(from_smiles(smiles))
    x = drawn(len(made), axes.shape[1])
    pose = placed(made, axes, moved, there, x)
    round_ = placed(made, axes, moved, there, {**x, "torsions": x["torsions"] + 2 * math.pi})
    assert torch.allclose(pose, round_, atol=1e-8)
    again = read_off(made, axes, moved, there, x["torsions"], pose)
    for name, value in x.items():
        assert torch.allclose(again[name], value, atol=1e-6), name


def test_torsions_move_nothing_rigidly() -> None:
    made, axes, moved, there = body(from_smiles(MOLECULES["rings"]))
    x = drawn(len(made), axes.shape[1])
    swung = turned(made, axes, moved, x["torsions"])
    lying = laid(swung, made, there)
    assert torch.allclose(
        fitted(lying, made, there), torch.eye(3, dtype=torch.float64).expand(len(made), 3, 3), atol=1e-6
    )
    assert torch.allclose(lying.mean(1), made.mean(1), atol=1e-9)
    assert not torch.allclose(
        fitted(swung, made, there), torch.eye(3, dtype=torch.float64), atol=1e-2
    )  # it was not so before


def test_what_is_padded_moves_nothing_and_is_nowhere() -> None:
    made, axes, moved, there = body(from_smiles(MOLECULES["chiral"]))
    x, (B, N, _), m = drawn(len(made), axes.shape[1]), made.shape, axes.shape[1]
    more = torch.cat((made, torch.randn(B, 5, 3, dtype=torch.float64)), 1)
    wide = torch.cat((axes, torch.zeros(B, 2, 2, dtype=torch.int64)), 1)
    still = torch.zeros(B, m + 2, N + 5, dtype=torch.bool)
    still[:, :m, :N] = moved
    here = torch.cat((there, torch.zeros(B, 5, dtype=torch.bool)), 1)
    padded = placed(more, wide, still, here, {**x, "torsions": torch.cat((x["torsions"], torch.ones(B, 2)), 1)})
    assert torch.allclose(padded[:, :N], placed(made, axes, moved, there, x), atol=1e-9)
    assert not padded[:, N:].any()


def test_a_conformer_is_matched_to_a_pose_that_differs_by_torsions_alone() -> None:
    ligand = from_smiles(MOLECULES["rings"])
    made, axes, moved, there = body(ligand, 1)
    pose = placed(made, axes, moved, there, drawn(1, axes.shape[1], seed=5))[0]
    joints = Joints.of(ligand.mol)
    torsions, left = matched(made.float(), joints, quads_of(ligand.mol, joints), pose, torch.Generator().manual_seed(0))
    assert float(left[0]) < 1e-3
    x = read_off(made, axes, moved, there, torsions.double(), pose[None])
    assert float(rmsd(placed(made, axes, moved, there, x), pose)[0]) < 1e-3


def test_other_conformers_are_matched_better_than_they_lie() -> None:
    ligand = from_smiles(worlds.PEPTIDE)
    pose = torch.from_numpy(worlds.pose_of(ligand, 3))
    made, joints = conformers(ligand, 4), Joints.of(ligand.mol)
    _, left = matched(made, joints, quads_of(ligand.mol, joints), pose, torch.Generator().manual_seed(0))
    there = torch.ones(len(made), len(ligand), dtype=torch.bool)
    lying = rmsd(laid(made.double(), pose.expand(len(made), -1, -1), there), pose)
    assert (left < 0.5 * lying).all()


def test_which_bonds_turn() -> None:
    def turns(smiles: str) -> set[frozenset[int]]:
        return {frozenset(pair) for pair in rotatable(from_smiles(smiles).mol)}

    assert turns("c1ccccc1-c1ccccc1") == {frozenset((5, 6))}
    assert turns("CC(=O)NC") == set()  # an amide, and ends
    assert turns("FC(F)(F)c1ccccc1") == set()  # three equal ends
    assert turns("CCC#CCC") == set()  # nothing beyond a line moves
    assert turns("CCCC") == {frozenset((1, 2))}


def test_units_are_those_that_are_said() -> None:
    made, axes, moved, there = body(from_smiles("Cc1ccncc1"), 1)
    x = {"centre": torch.tensor([[1.0, 0, 0]], dtype=torch.float64), "turn": torch.eye(3, dtype=torch.float64)[None],
         "torsions": torch.zeros(1, 0, dtype=torch.float64)}  # fmt: skip
    assert torch.allclose(
        placed(made, axes, moved, there, x).mean(1), torch.tensor([[UNIT, 0, 0]], dtype=torch.float64), atol=1e-6
    )
