"""Structures of molecules in files: mmCIF and PDB, plain or gzipped, to flat arrays of atoms and back, by gemmi.

Names, numbers and chains are kept as the file has them: author numbering with its insertion codes beside the file's own (label)
numbering. Of alternate locations the likeliest is kept, of equals the first; of several models the first; and it is said.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import DataError, decoding, shown
from sfumato.data.writing import appearing
from sfumato.errors import needed

SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")
LARGEST = 512 << 20
"""Bytes of text, unpacked, that a file may have."""
REMEDY = "give mmCIF or PDB as the PDB writes them"


@dataclass(frozen=True)
class Residue:
    """One residue or ligand. number, insertion, chain: the author's; label, label_chain: the file's own (0 and "" where it has
    none); hetero: not of the polymer's standard parts, as the file says."""

    name: str
    number: int
    insertion: str = ""
    chain: str = "A"
    label: int = 0
    label_chain: str = ""
    hetero: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.number}{self.insertion} of chain {self.chain}"


@dataclass(frozen=True, eq=False)
class Atoms:
    """The atoms of one model: coords (N, 3) float32 in Angstrom, names and elements (N,), ``residue`` (N,) int64 the place of
    each in ``residues``, ``factors`` (N,) float32 its B-factor. ``told``: what of the file was left out; ``alternates``: of how
    many atoms or residues other locations."""

    coords: np.ndarray
    names: tuple[str, ...]
    elements: tuple[str, ...]
    residue: np.ndarray
    residues: tuple[Residue, ...]
    factors: np.ndarray
    told: tuple[str, ...] = ()
    alternates: int = 0

    def __len__(self) -> int:
        return len(self.coords)

    def chains(self) -> tuple[str, ...]:
        """The author's names of the chains, in order."""
        return tuple(dict.fromkeys(residue.chain for residue in self.residues))


def is_structure(path: Path) -> bool:
    """Whether a file is named like one of mmCIF or PDB."""
    name = path.name.lower()
    return name.removesuffix(".gz").endswith(SUFFIXES)


def text_of(path: str | os.PathLike[str], limit: int = LARGEST) -> str:
    """The text of a file, unpacked where it is gzipped, of at most ``limit`` bytes. Raises DataError."""
    path = Path(path)
    if path.name.lower().endswith(".bcif"):
        raise DataError(f"{shown(path)}: BinaryCIF is not read; {REMEDY}")
    with decoding(path, REMEDY), path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        raw = gzip.GzipFile(fileobj=file).read(limit + 1) if packed else file.read(limit + 1)
    if len(raw) > limit:
        raise DataError(f"{shown(path)}: more than {limit >> 20} MB of text; give one structure a file")
    return str(raw.decode("utf-8", "replace"))


def read_structure(path: str | os.PathLike[str], limit: int = LARGEST, extra: str = "protein") -> Atoms:
    """The atoms of the first model of a file. ``extra`` is what brings gemmi. Raises DataError for one that is missing, damaged,
    too large or without atoms, or that has a coordinate which is no number (the residue is named)."""
    gemmi, path = needed("gemmi", extra), Path(path)
    text = text_of(path, limit)
    with decoding(path, REMEDY):
        labelled = not path.name.lower().removesuffix(".gz").endswith((".pdb", ".ent"))
        found = _of_blocks(gemmi, gemmi.cif.read_string(text)) if labelled else gemmi.read_pdb_string(text)
        atoms = _flat(found, labelled)
    if not len(atoms):
        raise DataError(f"{shown(path)}: holds no atom; {REMEDY}")
    if (bad := np.flatnonzero(~np.isfinite(atoms.coords).all(1))).size:
        at = int(bad[0])
        raise DataError(
            f"{shown(path)}: atom {atoms.names[at]} of {atoms.residues[int(atoms.residue[at])]} has a coordinate that is no "
            "number; leave the atom out, or give its coordinates"
        )
    return atoms


def _of_blocks(gemmi: Any, document: Any) -> Any:
    """The first block of a CIF document that has atoms; one without any where there is none."""
    for block in document:
        if block.find_loop("_atom_site.Cartn_x") or block.find_value("_atom_site.Cartn_x"):
            return gemmi.make_structure_from_block(block)
    return gemmi.Structure()


def _flat(found: Any, labelled: bool) -> Atoms:
    coords: list[list[float]] = []
    names: list[str] = []
    elements: list[str] = []
    place: list[int] = []
    factors: list[float] = []
    residues: list[Residue] = []
    alternate, mixed = 0, 0
    taken: set[tuple[str, int, str, str]] = set()
    for chain in found[0] if len(found) else ():
        for residue in chain:
            insertion = residue.seqid.icode.strip()
            key = (chain.name, residue.seqid.num, insertion, residue.subchain)
            if key in taken and any(atom.has_altloc() for atom in residue):  # another kind of residue at the same place
                mixed += 1
                continue
            taken.add(key)
            residues.append(
                Residue(
                    residue.name,
                    residue.seqid.num,
                    insertion,
                    chain.name,
                    residue.label_seq or 0,
                    residue.subchain if labelled else "",
                    residue.het_flag == "H",
                )
            )
            best: dict[str, Any] = {}
            for atom in residue:
                other = best.get(atom.name)
                alternate += other is not None
                if other is None or atom.occ > other.occ:
                    best[atom.name] = atom
            for atom in best.values():
                coords.append(atom.pos.tolist())
                names.append(atom.name)
                elements.append(atom.element.name)
                place.append(len(residues) - 1)
                factors.append(atom.b_iso)
    told = []
    if alternate or mixed:
        told.append(f"alternate locations of {alternate + mixed} atom(s) or residue(s): the likeliest is kept")
    if len(found) > 1:
        told.append(f"{len(found)} models: the first is kept")
    return Atoms(
        np.asarray(coords, dtype=np.float32).reshape(-1, 3), tuple(names), tuple(elements), np.asarray(place, dtype=np.int64),
        tuple(residues), np.asarray(factors, dtype=np.float32), tuple(told), alternate + mixed,
    )  # fmt: skip


def write_structure(
    path: Path, models: Sequence[tuple[int, Atoms]], name: str = "structure", about: Iterable[tuple[str, str]] = ()
) -> Path:
    """Models, each with its number, as one file of mmCIF or PDB, by the suffix of the path: the same atoms in both to the 3
    decimals of PDB, with the author's and the file's own numbers, elements, and B-factors. The file appears when it is whole.

    Args:
        name: of the entry.
        about: more items for mmCIF, name -> text; in PDB they are remarks.

    Raises DataError where it cannot be written, or where PDB has no room for it (more than 99,999 atoms, a name of a chain longer
    than two letters).
    """
    gemmi = needed("gemmi", "protein")
    built = gemmi.Structure()
    built.name = name
    for number, atoms in models:
        built.add_model(_model(gemmi, number, atoms))
    built.setup_entities()
    if path.suffix.lower() in (".pdb", ".ent"):
        most = max((len(atoms) for _, atoms in models), default=0)
        wide = next((chain for _, atoms in models for chain in atoms.chains() if len(chain) > 2), None)
        if most > 99_999 or wide is not None:
            what = f"{most:,} atoms" if wide is None else f"the chain {wide!r}"
            raise DataError(f"{shown(path)}: PDB has no room for {what}; write .cif")
        text = _pdb(built, about)
    else:
        document = built.make_mmcif_document()
        for item, value in about:
            document.sole_block().set_pair(item, gemmi.cif.quote(value))
        text = document.as_string()
    with appearing(path) as file:
        file.write(text.encode("utf-8"))
    return path


def _pdb(built: Any, about: Iterable[tuple[str, str]]) -> str:
    remarks = []
    for item, value in about:
        words = f"{item} {value}"
        remarks += [f"REMARK 999 {words[i : i + 68]}" for i in range(0, len(words), 68)]
    body = built.make_pdb_string()
    if len(built) == 1:  # gemmi numbers models only where there are several
        head, tail = _around_atoms(body)
        body = "\n".join([*head, f"MODEL     {built[0].num:>4}", *tail[0], "ENDMDL", *tail[1]]) + "\n"
    lines = body.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith(("MODEL ", "ATOM ", "HETATM"))), len(lines))
    return "\n".join([*lines[:first], *remarks, *lines[first:]]) + "\n"


def _around_atoms(text: str) -> tuple[list[str], tuple[list[str], list[str]]]:
    """The lines before the atoms, and those of the atoms and after them."""
    lines = text.splitlines()
    kinds = ("ATOM  ", "HETATM", "TER", "ANISOU")
    own = [i for i, line in enumerate(lines) if line.startswith(kinds)]
    first, last = (own[0], own[-1] + 1) if own else (len(lines), len(lines))
    return lines[:first], (lines[first:last], lines[last:])


def _model(gemmi: Any, number: int, atoms: Atoms) -> Any:
    model = gemmi.Model(number)
    order = np.argsort(atoms.residue, kind="stable")
    starts = np.searchsorted(atoms.residue[order], np.arange(len(atoms.residues) + 1))
    chain: Any = None
    for at, residue in enumerate(atoms.residues):
        if chain is None or chain.name != residue.chain:
            chain = gemmi.Chain(residue.chain)
            chain = model.add_chain(chain)
        made = gemmi.Residue()
        made.name, made.seqid = residue.name, gemmi.SeqId(residue.number, residue.insertion or " ")
        made.het_flag = "H" if residue.hetero else "A"
        if residue.label:
            made.label_seq = residue.label
        if residue.label_chain:
            made.subchain = residue.label_chain
        for i in order[starts[at] : starts[at + 1]]:
            atom = gemmi.Atom()
            atom.name, atom.element = atoms.names[i], gemmi.Element(atoms.elements[i])
            atom.pos = gemmi.Position(*(round(float(value), 3) for value in atoms.coords[i]))
            atom.b_iso, atom.occ = float(atoms.factors[i]), 1.0
            made.add_atom(atom)
        chain.add_residue(made)
    return model
