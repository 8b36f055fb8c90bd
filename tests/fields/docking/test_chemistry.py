"""Ligands in and out: what is kept to the letter, and what is refused in a line that says what would be right."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from sfumato.data.structures import read_structure
from sfumato.errors import DataError
from sfumato.fields.docking.chemistry import Ligand, alike, from_file, from_smiles, tanimoto
from sfumato.fields.docking.measure import same
from sfumato.fields.docking.sdf import block
from tests.fields.docking import worlds

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("CC(=O", "position 3"), ("C(C)(C)(C)(C)C", "valence"), ("CC(=O)[O-].[Na+]", "2 pieces (CC(=O)[O-], [Na+])"),
        ("C[Zn]C", "holds Zn"), ("CC(=O)*", "open bond"), ("[Cl-]", "no bond"), ("C" * 101, "101 heavy atoms"),
        ("CC(F)Cl", "C[C@@H](F)Cl , C[C@H](F)Cl"), ("CC=CC", "C/C=C/C , C/C=C\\C"), ("", "does not parse"),
    ],
)  # fmt: skip
def test_what_cannot_be_docked_is_refused_with_what_would_be_right(smiles: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        from_smiles(smiles)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_broken_are_named(tmp_path: Path) -> None:
    whole = block(from_smiles("CCO"), np.zeros((3, 3)), {})
    broken = {
        "a.sdf": whole.replace("$$$$", "").replace("  1  2  1  0", "  1  9  1  0"), "b.sdf": "", "c.xyz": "3\n",
        "d.mol2": "nothing", "e.sdf": whole.replace("M  END", ""),
    }  # fmt: skip
    for name, text in broken.items():
        (tmp_path / name).write_text(text)
        try:
            found = list(from_file(tmp_path / name))
        except DataError as error:
            found = [error]
        if name == "e.sdf" and isinstance(found[0], Ligand):
            continue  # rdkit mends it
        assert isinstance(found[0], DataError), name
        assert name in str(found[0])
    with pytest.raises(DataError, match="no such file"):
        list(from_file(tmp_path / "none.sdf"))


def test_a_mol2_whose_aromatic_bonds_make_no_sense_is_said_to(tmp_path: Path) -> None:
    lines = ["@<TRIPOS>MOLECULE", "ring", "5 5 0 0 0", "SMALL", "NO_CHARGES", "", "@<TRIPOS>ATOM"]
    lines += [f"{i + 1} C{i + 1} {np.cos(i):.3f} {np.sin(i):.3f} 0.0 C.ar 1 LIG 0.0" for i in range(5)]
    lines += ["@<TRIPOS>BOND", *(f"{i + 1} {i + 1} {(i + 1) % 5 + 1} ar" for i in range(5)), ""]
    (tmp_path / "ring.mol2").write_text("\n".join(lines))
    (found,) = from_file(tmp_path / "ring.mol2")
    assert isinstance(found, DataError)
    assert "ring.mol2" in str(found)
    assert "aromatic" in str(found)


def test_one_bad_record_of_many_costs_that_one(tmp_path: Path) -> None:
    ligands = [from_smiles(smiles, f"m{i}") for i, smiles in enumerate(worlds.SMILES[:3])]
    records = [block(ligand, worlds.pose_of(ligand, 0), {}) for ligand in ligands]
    records[1] = records[1].replace("V2000", "V9000")
    (tmp_path / "many.sdf").write_text("".join(records))
    found = list(from_file(tmp_path / "many.sdf"))
    assert [isinstance(each, Ligand) for each in found] == [True, False, True]
    assert "record 2" in str(found[1])
    assert found[2].name == "m2"


def letters(mol: Chem.Mol) -> tuple[object, ...]:
    """What must not change: atoms in their order with charge and isotope, bonds with their orders, stereo."""
    atoms = [(a.GetAtomicNum(), a.GetFormalCharge(), a.GetIsotope(), a.GetTotalNumHs()) for a in mol.GetAtoms()]
    bonds = sorted((*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), str(b.GetBondType())) for b in mol.GetBonds())
    return tuple(atoms), tuple(bonds), Chem.MolToSmiles(mol)


@pytest.mark.parametrize(
    "smiles",
    [*worlds.SMILES, worlds.PEPTIDE, "C[C@@H](F)Cl", "C/C=C/C(=O)[O-]", "[13CH3]C([NH3+])=O", "C[N+](C)(C)CC(=O)[O-]",
     "[2H]C([2H])([2H])OC", "O=[N+]([O-])c1cc[nH]c1"],
)  # fmt: skip
def test_what_comes_in_goes_out(smiles: str, tmp_path: Path) -> None:
    ligand = from_smiles(smiles, "a name")
    places = worlds.pose_of(ligand, 1)
    (tmp_path / "a.sdf").write_text(block(ligand, places, {"rank": 1, "score": "0.5 and more"}))
    (again,) = from_file(tmp_path / "a.sdf")
    assert isinstance(again, Ligand)
    assert letters(again.mol) == letters(ligand.mol)
    assert again.places is not None
    assert np.allclose(again.places, places, atol=1e-4)
    assert again.name == "a name"
    (read,) = Chem.SDMolSupplier(str(tmp_path / "a.sdf"))
    assert read.GetPropsAsDict()["rank"] == 1
    assert read.GetProp("score") == "0.5 and more"


def test_explicit_hydrogens_are_set_aside_and_the_heavy_ones_keep_their_order(tmp_path: Path) -> None:
    full = Chem.AddHs(Chem.MolFromSmiles("OCC(N)=O"))
    from rdkit.Chem import rdDistGeom

    rdDistGeom.EmbedMolecule(full, randomSeed=1)
    order = [9, 0, 5, 1, 6, 2, 3, 4, 7, 8]
    shuffled = Chem.RenumberAtoms(full, order)
    (tmp_path / "h.sdf").write_text(Chem.MolToMolBlock(shuffled) + "$$$$\n")
    (ligand,) = from_file(tmp_path / "h.sdf")
    assert [a.GetAtomicNum() for a in ligand.mol.GetAtoms()] == [
        full.GetAtomWithIdx(i).GetAtomicNum() for i in order if i < 5
    ]


def test_atoms_of_a_kind_are_known_by_what_is_around_them() -> None:
    a, b = from_smiles("CCO"), from_smiles("CCOC")
    same = alike(a, b)
    assert same.shape == (3, 4)
    assert same[0, 0] == 3  # within two bonds all is the same, three away one is bound further
    assert same[0, 2] == 0
    assert (np.diag(alike(a, a)) == 4).all()
    assert tanimoto(a, [a, b])[0] == 1
    assert tanimoto(a, [a, b])[1] < 1


@pytest.mark.parametrize("suffix", [".sdf", ".pdb"])
def test_damaged_files_are_read_or_refused_in_a_line(suffix: str, tmp_path: Path) -> None:
    """Bytes flipped, cut out, doubled; whatever comes of it, nothing but a line that names the file."""
    if suffix == ".pdb":
        whole = worlds.receptor(tmp_path / "a.pdb").read_bytes()
    else:
        ligand = from_smiles("C[C@H](N)C(=O)OCC", "a")
        whole = block(ligand, worlds.pose_of(ligand, 0), {"rank": 1}).encode() * 3
    chance, file = np.random.default_rng(0), tmp_path / f"damaged{suffix}"
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(int(chance.integers(1, 6))):
            at, how = int(chance.integers(len(damaged))), int(chance.integers(3))
            if how == 0:
                damaged[at] = int(chance.integers(256))
            elif how == 1:
                del damaged[at : at + int(chance.integers(1, 200))]
            else:
                damaged[at:at] = damaged[max(0, at - 50) : at]
        file.write_bytes(bytes(damaged))
        try:
            found = list(from_file(file)) if suffix == ".sdf" else [read_structure(file, "docking")]
        except DataError as error:
            found = [error]
        for each in found:
            if isinstance(each, DataError):
                assert file.name in str(each)
                assert "\n" not in str(each)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_every_ligand_of_the_shared_complexes_is_read_and_written_as_it_is(tmp_path: Path) -> None:
    index = list(csv.DictReader((SHARED / "docking_cross" / "index.csv").open()))
    with zipfile.ZipFile(SHARED / "docking_cross" / "complexes.zip") as packed:
        packed.extractall(tmp_path)
    for row in index:
        (ligand,) = from_file(tmp_path / row["id"] / f"{row['id']}_ligand.sdf", posed=True)
        assert isinstance(ligand, Ligand), ligand
        assert ligand.smiles == Chem.CanonSmiles(row["smiles"])
        assert ligand.places is not None
        (tmp_path / "again.sdf").write_text(block(ligand, ligand.places, {}))
        (again,) = from_file(tmp_path / "again.sdf", posed=True)
        assert letters(again.mol) == letters(ligand.mol)
    assert len(index) == 54


def test_what_is_read_again_is_compared_with_what_was_said() -> None:
    """Another hand, bond or charge is seen; a centre that the input left open is not compared."""
    plain = from_smiles("C[C@H](N)C(=O)OCC")
    places = worlds.pose_of(plain, 0)
    assert same(plain, block(plain, places, {}))
    assert not same(plain, block(plain, places * [1, 1, -1], {}))
    open_ = Ligand("open", Chem.MolFromSmiles("CC(N)C(=O)OCC"))
    assert same(open_, block(plain, places, {}))
    assert same(open_, block(plain, places * [1, 1, -1], {}))
    for other in ("C[C@H](N)C(=C)OCC", "C[C@H]([NH3+])C(=O)OCC", "C[C@H](N)C(=O)OCCC", "C[C@H](O)C(=O)OCC"):
        assert not same(plain, block(Ligand("x", Chem.MolFromSmiles(other)), worlds.pose_of(from_smiles(other), 1), {}))
    double = from_smiles("C/C=C/C(=O)N")
    assert same(double, block(double, worlds.pose_of(double, 0), {}))
    assert not same(double, block(from_smiles("C/C=C\\C(=O)N"), worlds.pose_of(from_smiles("C/C=C\\C(=O)N"), 0), {}))
