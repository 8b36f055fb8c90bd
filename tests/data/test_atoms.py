"""Structures in files: what is read is what is there, what is written is read by others too, and damage is said in a line."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import DataError
from sfumato.data.atoms import Atoms, Residue, read_structure, write_structure

pytest.importorskip("gemmi")

LINE = "ATOM  {:>5} {:<4}{:1}{:<3} {:1}{:>4}{:1}   {:8.3f}{:8.3f}{:8.3f}  1.00{:6.2f}          {:>2}"


def pdb(rows: list[tuple[str, str, str, str, int, str, float]]) -> str:
    """A PDB file of (name, alternate, residue, chain, number, insertion, x), made by hand."""
    lines = [
        LINE.format(i + 1, f" {name}", alternate, residue, chain, number, insertion, x, 2.0, -3.5, 12.5, name[0])
        for i, (name, alternate, residue, chain, number, insertion, x) in enumerate(rows)
    ]
    return "\n".join([*lines, "END", ""])


def some(count: int = 5) -> Atoms:
    """A chain numbered as antibodies are, with insertion codes."""
    numbers = [(100, ""), (100, "A"), (100, "B"), (101, ""), (103, "")][:count]
    residues = tuple(Residue("GLY", n, code, "H", i + 1, "H") for i, (n, code) in enumerate(numbers))
    rng = np.random.default_rng(0)
    coords = rng.normal(0, 30, (4 * count, 3)).round(3).astype(np.float32)
    return Atoms(
        coords, ("N", "CA", "C", "O") * count, ("N", "C", "C", "O") * count, np.arange(count).repeat(4), residues,
        rng.uniform(0, 99, 4 * count).round(2).astype(np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    atoms = some()
    path = write_structure(tmp_path / f"a{suffix}", [(7, atoms)], "q", [("_sfumato.making", '{"seed": "a b"}')])
    again = read_structure(path)
    assert np.array_equal(again.coords, atoms.coords)
    assert np.allclose(again.factors, atoms.factors, atol=0.006)
    assert again.names == atoms.names
    assert again.elements == atoms.elements
    assert [(r.name, r.number, r.insertion, r.chain) for r in again.residues] == [
        (r.name, r.number, r.insertion, r.chain) for r in atoms.residues
    ]
    assert '"seed": "a b"' in path.read_text()
    if suffix == ".cif":
        assert again.residues == atoms.residues


@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
def test_a_second_reader_sees_the_same(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("biotite")
    from biotite.structure.io import pdb as pdb_files
    from biotite.structure.io import pdbx

    atoms = some()
    path = write_structure(tmp_path / f"a{suffix}", [(7, atoms)])
    if suffix == ".cif":
        other = pdbx.get_structure(pdbx.CIFFile.read(path), model=1, extra_fields=["b_factor"])
        assert set(pdbx.CIFFile.read(path).block["atom_site"]["pdbx_PDB_model_num"].as_array(str)) == {"7"}
    else:
        other = pdb_files.PDBFile.read(path).get_structure(model=1, extra_fields=["b_factor"])
        assert "MODEL        7" in path.read_text()
    assert np.array_equal(other.coord, atoms.coords)
    assert list(other.atom_name) == list(atoms.names)
    assert list(other.element) == list(atoms.elements)
    assert list(other.ins_code) == [atoms.residues[i].insertion for i in atoms.residue]
    assert list(other.res_id) == [atoms.residues[i].number for i in atoms.residue]
    assert set(other.chain_id) == {"H"}
    assert np.allclose(other.b_factor, atoms.factors, atol=0.006)


def test_of_equal_alternate_locations_and_of_models_the_first_is_kept_and_said(tmp_path: Path) -> None:
    rows = [("N", "A", "SER", "A", 5, "", 1.0), ("N", "B", "SER", "A", 5, "", 9.0), ("CA", "", "SER", "A", 5, "A", 2.0)]
    one = pdb(rows).replace("END\n", "")
    (tmp_path / "a.pdb").write_text(f"MODEL        1\n{one}ENDMDL\nMODEL        2\n{one}ENDMDL\nEND\n")
    atoms = read_structure(tmp_path / "a.pdb")
    assert atoms.coords[:, 0].tolist() == [1.0, 2.0]
    assert [(r.number, r.insertion) for r in atoms.residues] == [(5, ""), (5, "A")]
    assert any("alternate" in line for line in atoms.told)
    assert any("2 models" in line for line in atoms.told)


def test_gzipped_files_are_read(tmp_path: Path) -> None:
    path = write_structure(tmp_path / "a.cif", [(1, some())])
    packed = tmp_path / "b.cif.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(read_structure(packed).coords, some().coords)
    with pytest.raises(DataError, match="more than 0 MB"):
        read_structure(packed, limit=1000)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.cif", b"data_x\nloop_\n_a.id\n_a.x\n1\n", "a.cif: cannot be read"),
        ("a.cif", b"data_x\n_cell.a 1\n", "a.cif: holds no atom"),
        ("a.pdb", b"", "a.pdb: holds no atom"),
        ("a.bcif", b"\x83", "a.bcif: BinaryCIF is not read"),
        ("a.cif.gz", b"\x1f\x8b\x08\x00", "a.cif.gz: cannot be read"),
        ("gone.cif", None, "gone.cif: cannot be read"),
    ],
)
def test_damage_is_said_in_one_line(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_structure(tmp_path / name)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_coordinate_that_is_no_number_names_its_residue(tmp_path: Path) -> None:
    path = write_structure(tmp_path / "a.cif", [(1, some())])
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("ATOM 6 "))
    words = lines[at].split()
    words[10] = "?"
    path.write_text("\n".join([*lines[:at], " ".join(words), *lines[at + 1 :]]) + "\n")
    with pytest.raises(DataError, match=r"atom CA of GLY 100A of chain H has a coordinate that is no number"):
        read_structure(path)


def test_pdb_refuses_what_it_has_no_room_for(tmp_path: Path) -> None:
    atoms = some()
    wide = dataclasses.replace(atoms, residues=tuple(dataclasses.replace(r, chain="Heavy") for r in atoms.residues))
    with pytest.raises(DataError, match=r"PDB has no room for the chain 'Heavy'; write .cif"):
        write_structure(tmp_path / "a.pdb", [(1, wide)])
    assert read_structure(write_structure(tmp_path / "a.cif", [(1, wide)])).chains() == ("Heavy",)
