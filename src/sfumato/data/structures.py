"""Proteins from PDB and mmCIF files: residues and their heavy atoms, as arrays; of what is no amino acid (waters, ions, ligands,
sugars) nothing but its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.atoms import SUFFIXES, Atoms, is_structure
from sfumato.data.atoms import read_structure as read_atoms
from sfumato.errors import DataError, needed, shown

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
    """The amino acids of the first model of a PDB or mmCIF file. ``extra`` is what brings gemmi. Raises DataError."""
    if not is_structure(path):
        raise DataError(f"{shown(path)}: must be a PDB or mmCIF file, {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    found = amino_acids(needed("gemmi", extra), read_atoms(path, extra=extra))
    if not len(found):
        raise DataError(f"{shown(path)}: holds no amino acid; a protein is expected")
    return found


def amino_acids(gemmi: Any, read: Atoms) -> Structure:
    """The amino acids among atoms that were read, without hydrogens: residues that gemmi's table knows as such, and what has
    their backbone."""
    heavy = [element not in ("H", "D") for element in read.elements]
    names: list[set[str]] = [set() for _ in read.residues]
    for name, place, own in zip(read.names, read.residue.tolist(), heavy):
        if own:
            names[place].add(name)
    table = {name: gemmi.find_tabulated_residue(name).is_amino_acid() for name in {each.name for each in read.residues}}
    taken = [bool(own) and (table[each.name] or {"N", "CA", "C"} <= own) for each, own in zip(read.residues, names)]
    left = dict.fromkeys(each.name for each, own, real in zip(read.residues, names, taken) if own and not real)
    kept = np.array(heavy, dtype=bool) & np.array(taken, dtype=bool)[read.residue]
    number = np.cumsum(taken) - 1
    residues = [each for each, own in zip(read.residues, taken) if own]
    return Structure(
        np.array([each.name for each in residues], dtype=str), np.array([each.chain for each in residues], dtype=str),
        np.array([f"{each.number}{each.insertion}" for each in residues], dtype=str), np.array(read.names, dtype=str)[kept],
        np.char.upper(np.array(read.elements, dtype=str))[kept], read.coords[kept].astype(np.float64),
        number[read.residue[kept]], read.alternates, tuple(left),
    )  # fmt: skip


def nearest(structure: Structure, point: Sequence[float]) -> tuple[str, float]:
    """The residue with the atom nearest to a point, as people write it, and how far that is."""
    far = np.linalg.norm(structure.places - np.asarray(point), axis=1)
    at = int(far.argmin())
    return structure.label(int(structure.residue[at])), float(far[at])
