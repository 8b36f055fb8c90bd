"""Receptors from PDB and mmCIF: the same from both, the likeliest of alternate locations, and what is not read is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

gemmi = pytest.importorskip("gemmi")

from sfumato.data.structures import SIDE_ATOMS, nearest, read_structure  # noqa: E402
from sfumato.errors import DataError  # noqa: E402
from tests.fields.docking import worlds  # noqa: E402


def line(
    k: int, name: str, residue: str, number: str, x: float, element: str = "C", alt: str = " ", occ: float = 1.0
) -> str:
    kind = "ATOM  " if residue != "HOH" else "HETATM"
    return f"{kind}{k:>5}  {name:<3}{alt}{residue:>3} A{number:>5}   {x:8.3f}   0.000   0.000{occ:6.2f} 20.00           {element}"


def test_pdb_and_mmcif_say_the_same(tmp_path: Path) -> None:
    pdb = worlds.receptor(tmp_path / "a.pdb")
    read = gemmi.read_structure(str(pdb))
    read.setup_entities()
    read.make_mmcif_document().write_file(str(tmp_path / "a.cif"))
    one, other = read_structure(pdb, "docking"), read_structure(tmp_path / "a.cif", "docking")
    for name in ("names", "chains", "numbers", "atoms", "elements", "residue"):
        assert (getattr(one, name) == getattr(other, name)).all(), name
    assert np.allclose(one.places, other.places)
    assert len(one) == 40
    (tmp_path / "b.pdb.gz").write_bytes(gzip.compress(pdb.read_bytes()))
    assert np.array_equal(read_structure(tmp_path / "b.pdb.gz", "docking").places, one.places)


def test_alternates_waters_and_insertion_codes(tmp_path: Path) -> None:
    lines = [
        line(1, "N", "ALA", "1 ", 0, "N"),
        line(2, "CA", "ALA", "1 ", 1, alt="A", occ=0.3),
        line(3, "CA", "ALA", "1 ", 2, alt="B", occ=0.7),
        line(4, "C", "ALA", "1 ", 3),
        line(5, "N", "GLY", "1A", 4, "N"),
        line(6, "CA", "GLY", "1A", 5),
        line(7, "C", "GLY", "1A", 6),
        line(8, "H", "GLY", "1A", 7, "H"),
        line(9, "O", "HOH", "9 ", 9, "O"),
    ]
    (tmp_path / "b.pdb").write_text("\n".join([*lines, "END", ""]))
    found = read_structure(tmp_path / "b.pdb", "docking")
    assert found.places[found.atoms == "CA"][0, 0] == 2  # the likelier
    assert found.alternates == 1
    assert found.left == ("HOH",)
    assert "H" not in found.elements
    assert found.numbers.tolist() == ["1", "1A"]
    assert found.found("A:1A") == 1
    assert found.label(1) == "GLY A:1A"
    assert found.incomplete() == [0, 1]  # both lack an O
    assert nearest(found, (5.1, 0, 0)) == ("GLY A:1A", pytest.approx(0.1))
    ca, side = found.anchors()
    assert np.allclose(ca, side)  # no side chain
    with pytest.raises(DataError, match="A 1 to 1A"):
        found.found("B:7")


def test_what_is_no_structure_is_named(tmp_path: Path) -> None:
    for name, text in (("a.pdb", "nothing"), ("b.cif", "data_\nloop_\n"), ("c.txt", ""), ("d.pdb", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError) as error:
            read_structure(tmp_path / name, "docking")
        assert name in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        read_structure(tmp_path / "none.pdb", "docking")


def test_side_chains_have_the_atoms_that_chemistry_knows() -> None:
    from rdkit import Chem

    for name, count in SIDE_ATOMS.items():
        letter = gemmi.find_tabulated_residue(name).one_letter_code
        assert Chem.MolFromSequence(letter).GetNumAtoms() == 5 + count  # N, CA, C, O and the end's OXT
