"""Macromolecules from PDB and mmCIF files: residues and their heavy atoms, as arrays. Read by gemmi (MPL-2.0), when first needed.

Of several models the first counts, of alternate locations the one with the highest occupancy, and of what is no amino acid
(waters, ions, ligands, sugars) nothing but its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import DataError, decoding, needed, shown

SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
LARGEST = 2**28
"""Bytes of a file that is read."""
RESIDUES = ("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE", "LEU", "LYS", "MET", "PHE", "PRO", "SER",
            "THR", "TRP", "TYR", "VAL")  # fmt: skip
"""The twenty, in the order of their numbers; 20 stands for any other."""
BACKBONE = ("N", "CA", "C", "O")
SIDE_ATOMS = dict(zip(RESIDUES, (1, 7, 4, 4, 2, 5, 5, 0, 6, 4, 4, 5, 4, 7, 3, 2, 3, 10, 8, 3), strict=True))
"""Heavy atoms of each side chain."""


@dataclass(frozen=True, eq=False)
class Structure:
    """Residues, and their heavy atoms.

    names (R,), chains (R,), numbers (R,): "ALA", "A", "41" (with an insertion code "41A"). atoms (A,): "CA"; elements (A,): "C";
    places (A, 3) float64 in A; residue (A,): the residue that each atom is of. alternates: atoms that had other locations.
    left: names of what is not read, each once.
    """

    names: np.ndarray
    chains: np.ndarray
    numbers: np.ndarray
    atoms: np.ndarray
    elements: np.ndarray
    places: np.ndarray
    residue: np.ndarray
    alternates: int = 0
    left: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def label(self, residue: int) -> str:
        """A residue as people write it: "HIS A:41"."""
        return f"{self.names[residue]} {self.chains[residue]}:{self.numbers[residue]}"

    def kinds(self) -> np.ndarray:
        """Number of each residue's kind, (R,) int64, 0 to 20."""
        known = {name: i for i, name in enumerate(RESIDUES)}
        return np.array([known.get(str(name), len(RESIDUES)) for name in self.names], dtype=np.int64)

    def anchors(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each residue the place of its CA (of what has none, its mean) and the mean of its side chain (of what has none, the
        CA), (R, 3) each."""
        ca, side = np.zeros((len(self), 3)), np.zeros((len(self), 3))
        backbone = np.isin(self.atoms, BACKBONE)
        starts = np.searchsorted(self.residue, np.arange(len(self) + 1))
        for i, (begin, end) in enumerate(pairwise(starts.tolist())):
            own, names = self.places[begin:end], self.atoms[begin:end]
            at = np.flatnonzero(names == "CA")
            ca[i] = own[at[0]] if len(at) else own.mean(0)
            rest = own[~backbone[begin:end]]
            side[i] = rest.mean(0) if len(rest) else ca[i]
        return ca, side

    def incomplete(self) -> list[int]:
        """Residues of the twenty kinds that lack heavy atoms."""
        count = np.bincount(self.residue, minlength=len(self))
        return [i for i, name in enumerate(self.names) if count[i] < 4 + SIDE_ATOMS.get(str(name), -4)]

    def found(self, text: str) -> int:
        """The number of the residue that is written "A:41", or "41" where that is one alone. Raises DataError."""
        chain, colon, number = text.rpartition(":")
        fits = (self.numbers == number.strip()) & ((self.chains == chain.strip()) | (not colon))
        if fits.sum() != 1:
            there = ", ".join(f"{c} {self._range(c)}" for c in dict.fromkeys(self.chains.tolist()))
            what = "stands for several residues" if fits.any() else "is no residue"
            raise DataError(f"residue {text!r}: {what}; the chains are {there}; write CHAIN:NUMBER")
        return int(np.flatnonzero(fits)[0])

    def _range(self, chain: Any) -> str:
        own = self.numbers[self.chains == chain]
        return f"{own[0]} to {own[-1]}"


def read_structure(path: Path, extra: str) -> Structure:
    """The first model of a PDB or mmCIF file. ``extra`` is what brings gemmi. Raises DataError."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{shown(path)}: must be a PDB or mmCIF file, {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{shown(path)}: has {path.stat().st_size:,} bytes; at most {LARGEST:,} are read")
    gemmi = needed("gemmi", extra)
    with decoding(path, "give a whole PDB or mmCIF file"):
        read = gemmi.read_structure(str(path))
        read.setup_entities()
        found = _taken(gemmi, read[0]) if len(read) else None
    if found is None or not len(found):
        raise DataError(f"{shown(path)}: holds no amino acid; a protein is expected")
    if not np.isfinite(found.places).all():
        raise DataError(f"{shown(path)}: has coordinates that are no numbers; restore it from a copy")
    return found


def _taken(gemmi: Any, model: Any) -> Structure:
    names: list[str] = []
    chains: list[str] = []
    numbers: list[str] = []
    rows: list[tuple[Any, ...]] = []
    left: dict[str, None] = {}
    twice = 0
    for chain in model:
        for residue in chain:
            kind = gemmi.find_tabulated_residue(residue.name)
            if not kind.is_amino_acid() and not {"N", "CA", "C"} <= {atom.name for atom in residue}:
                left[residue.name] = None
                continue
            best: dict[str, Any] = {}
            for atom in residue:
                if atom.element.is_hydrogen:
                    continue
                other = best.get(atom.name)
                twice += other is not None
                if other is None or atom.occ > other.occ:
                    best[atom.name] = atom
            if not best:
                continue
            rows += [(a.name, a.element.name.upper(), a.pos.x, a.pos.y, a.pos.z, len(names)) for a in best.values()]
            names.append(residue.name)
            chains.append(chain.name)
            numbers.append(str(residue.seqid).strip())
    return Structure(
        np.array(names, dtype=str), np.array(chains, dtype=str), np.array(numbers, dtype=str),
        np.array([row[0] for row in rows], dtype=str), np.array([row[1] for row in rows], dtype=str),
        np.array([row[2:5] for row in rows], dtype=np.float64).reshape(-1, 3), np.array([row[5] for row in rows], dtype=np.int64),
        twice, tuple(left),
    )  # fmt: skip


def nearest(structure: Structure, point: Sequence[float]) -> tuple[str, float]:
    """The residue with the atom nearest to a point, as people write it, and how far that is."""
    far = np.linalg.norm(structure.places - np.asarray(point), axis=1)
    at = int(far.argmin())
    return structure.label(int(structure.residue[at])), float(far[at])
