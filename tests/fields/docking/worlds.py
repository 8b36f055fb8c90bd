"""Receptors and poses that are made, not measured: a shell of residues around the origin, and ligands in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sfumato.data.structures import RESIDUES
from sfumato.fields.docking.chemistry import Ligand, from_smiles
from sfumato.fields.docking.pose import Joints, conformers, placed
from sfumato.fields.docking.sdf import block

SMILES = (
    "c1ccccc1CC(=O)N", "Cc1ccncc1", "O=C(O)c1ccccc1O", "C[C@H](N)C(=O)OCC", "CC(=O)Nc1ccc(O)cc1", "c1ccc2[nH]ccc2c1",
    "FC(F)(F)c1ccccc1", "CCOC(=O)c1ccoc1", "N#CCCc1ccsc1", "O=S(=O)(N)c1ccc(Cl)cc1", "OCC1CCNCC1", "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
)  # fmt: skip
PEPTIDE = "CC(C)C[C@H](NC(=O)[C@H](CC(N)=O)NC(=O)[C@@H](N)Cc1ccccc1)C(=O)NCCCCN"  # 15 and more torsions
TRAIN = ["--network.width", "24", "--network.depth", "2", "--network.heads", "2", "--batch", "4", "--threads", "1", "--precision",
         "fp32", "--snapshots", "0", "--copies", "2", "--pocket", "16"]  # fmt: skip


def receptor(path: Path, seed: int = 0, count: int = 40, far: float = 9.0) -> Path:
    """A PDB file of residues on a sphere about the origin, numbered from 1, in chain A."""
    chance = np.random.default_rng(seed)
    way = chance.normal(size=(count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    lines, k = [], 0
    for i, u in enumerate(way):
        side = np.cross(u, [0.3, 0.5, 0.8])
        side /= np.linalg.norm(side)
        ca = far * u
        atoms = {
            "N": ca + 1.46 * side,
            "CA": ca,
            "C": ca - 1.52 * side,
            "O": ca - 1.8 * side + 1.1 * u,
            "CB": ca - 1.53 * u,
        }
        for name, place in atoms.items():
            k += 1
            lines.append(
                f"ATOM  {k:>5}  {name:<3} {RESIDUES[(7 * i) % 20]} A{i + 1:>4}    "
                f"{place[0]:8.3f}{place[1]:8.3f}{place[2]:8.3f}  1.00 20.00           {name[0]}"
            )
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def pose_of(ligand: Ligand, seed: int, spread: float = 1.0) -> np.ndarray:
    """A pose: a conformer, its torsions, turn and centre at random, near the origin; (N, 3)."""
    chance = torch.Generator().manual_seed(seed)
    made = conformers(ligand, 1, seed)
    joints = Joints.of(ligand.mol)
    turn, _ = torch.linalg.qr(torch.randn(1, 3, 3, generator=chance))
    turn = turn * torch.linalg.det(turn)[:, None, None]
    x = {"centre": spread * torch.randn(1, 3, generator=chance), "turn": turn,
         "torsions": 6 * torch.rand(1, len(joints), generator=chance)}  # fmt: skip
    there = torch.ones(made.shape[:2], dtype=torch.bool)
    return placed(made, joints.axes[None], joints.moved[None], there, x)[0].double().numpy()


def posed(smiles: str, name: str, seed: int) -> Ligand:
    """A ligand with a pose."""
    ligand = from_smiles(smiles, name)
    return Ligand(name, ligand.mol, pose_of(ligand, seed))


def folder(path: Path, seed: int = 0, smiles: tuple[str, ...] = SMILES) -> Path:
    """One receptor, and poses in its frame."""
    path.mkdir(parents=True)
    receptor(path / "protein.pdb", seed)
    for i, text in enumerate(smiles):
        ligand = posed(text, f"lig{i}", seed + i)
        assert ligand.places is not None
        (path / f"lig{i}.sdf").write_text(block(ligand, ligand.places, {}))
    return path
