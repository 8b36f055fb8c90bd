"""Real complexes, where they are at hand: 54 of 54 targets read, matched, docked and written, their chemistry intact."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from sfumato.cli import main
from sfumato.data.structures import read_structure
from sfumato.fields.docking.chemistry import Ligand, from_file
from sfumato.fields.docking.complexes import found
from sfumato.fields.docking.data import site_around
from sfumato.fields.docking.pose import Joints, conformers, matched, quads_of

SHARED = Path(__file__).parents[4] / "shared" / "data" / "docking_cross"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")]


@pytest.fixture(scope="module")
def complexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cross")
    with zipfile.ZipFile(SHARED / "complexes.zip") as packed:
        packed.extractall(folder)
    return folder


def test_every_complex_is_found_and_its_ligand_lies_in_its_pocket(complexes: Path) -> None:
    many, off = found(complexes), []
    assert len(many) == 54
    for each in many:
        structure = read_structure(each.protein, "docking")
        (ligand,) = from_file(each.ligand, posed=True)
        assert isinstance(ligand, Ligand)
        assert ligand.places is not None
        far = np.linalg.norm(structure.places[:, None] - ligand.places[None], axis=2).min()
        assert 2.4 < far < 3.4
        off.append(np.linalg.norm(site_around(structure, ligand.places) - ligand.places.mean(0)))
    assert np.median(off) < 4  # residues around a ligand tell about where it is,
    assert np.max(off) < 10  # less so on the surface


def test_conformers_of_the_smiles_are_matched_to_most_crystal_poses(complexes: Path) -> None:
    """Every third of them: one of four conformers lies within 1 A of the crystal in most, which rings alone decide."""
    left = []
    for each in found(complexes)[::3]:
        (ligand,) = from_file(each.ligand, posed=True)
        assert isinstance(ligand, Ligand)
        assert ligand.places is not None
        joints = Joints.of(ligand.mol)
        made = conformers(ligand, 4)
        pose = torch.from_numpy(ligand.places)
        left.append(
            float(matched(made, joints, quads_of(ligand.mol, joints), pose, torch.Generator().manual_seed(0))[1].min())
        )
    assert np.mean(np.array(left) < 1) > 0.8
    assert np.median(left) < 0.6


def test_every_complex_is_posed_and_written_as_it_is(complexes: Path, run: Path, tmp_path: Path) -> None:
    many = found(complexes)
    table = tmp_path / "t.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("complex_name", "protein_path", "ligand_description", "protein_sequence"))
        rows.writerows((each.name, each.protein, each.ligand, "") for each in many)
    out = tmp_path / "poses"
    words = [
        "sample",
        str(run),
        "--csv",
        str(table),
        "--pocket-residues",
        "all",
        "-n",
        "2",
        "--steps",
        "1",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    written = list(csv.DictReader((out / "poses.csv").open()))
    assert len(written) == 2 * 54
    for row in written[::2]:
        each = next(one for one in many if one.name == row["complex_name"])
        (ligand,) = from_file(each.ligand, posed=True)
        assert isinstance(ligand, Ligand)
        mols = list(Chem.SDMolSupplier(str(out / row["path"])))
        assert len(mols) == 2
        for mol in mols:
            Chem.AssignStereochemistryFrom3D(mol)
            assert Chem.MolToSmiles(mol) == ligand.smiles
            assert [a.GetAtomicNum() for a in mol.GetAtoms()] == [a.GetAtomicNum() for a in ligand.mol.GetAtoms()]
