"""Ligands from files and SMILES: read, checked, and described in numbers. Nothing is guessed that the input does not say.

Heavy atoms stay in the order of the input, with its bond orders, charges, isotopes and stereo; explicit hydrogens are set aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import DataError, decoding, needed, one_line, shown

EXTRA = "docking"
SUFFIXES = (".sdf", ".mol", ".sd", ".mol2", ".smi")
LARGEST = 2**28
"""Bytes of a file of ligands."""
LONGEST = 2**20
"""Characters of a record."""
HEAVY = 100
"""Heavy atoms of a ligand at most."""
ALLOWED = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53})
"""Elements of a ligand."""
FORMS = 8
"""Forms of a ligand with open stereo that are offered."""
ELEMENTS = (6, 7, 8, 16, 9, 17, 35, 53, 15, 5)
FEATURES = 32
"""Numbers that describe an atom."""
RADII = 4
"""Neighbourhoods of an atom that are told apart: the atom itself, and all within 1, 2 and 3 bonds."""


def chem() -> Any:
    """`rdkit.Chem`. Raises DataError naming the extra."""
    needed("rdkit", EXTRA)
    from rdkit import Chem

    return Chem


@dataclass(frozen=True, eq=False)
class Ligand:
    """A molecule of heavy atoms, checked; ``places`` (N, 3) float64 where the input had a pose, else None."""

    name: str
    mol: Any
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.mol.GetNumAtoms())

    @cached_property
    def smiles(self) -> str:
        """Canonical, with its stereo."""
        return str(chem().MolToSmiles(self.mol))

    @cached_property
    def key(self) -> str:
        """InChIKey: the same for the same substance."""
        from rdkit import rdBase

        with rdBase.BlockLogs():
            return str(chem().MolToInchiKey(self.mol)) or self.smiles

    @cached_property
    def scaffold(self) -> str:
        """Bemis-Murcko scaffold, as SMILES; what has none is a group of its own."""
        from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

        return str(MurckoScaffoldSmiles(mol=self.mol)) or f"no ring: {self.smiles}"

    @cached_property
    def print(self) -> Any:
        """Morgan fingerprint, radius 2, 2048 bits."""
        from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

        return GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint(self.mol)

    @cached_property
    def atoms(self) -> np.ndarray:
        """What each atom is, (N, FEATURES) float32."""
        return features(self.mol)

    @cached_property
    def bonds(self) -> np.ndarray:
        """How two atoms are joined, (N, N) int64: 0 an atom and itself, 1 single, 2 double, 3 triple, 4 aromatic, 5 two bonds
        apart, 6 three, 7 farther."""
        apart = chem().GetDistanceMatrix(self.mol)
        code = np.select([apart == 0, apart == 1, apart == 2, apart == 3], [0, 1, 5, 6], 7).astype(np.int64)
        for bond in self.mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            code[i, j] = code[j, i] = 4 if bond.GetIsAromatic() else min(3, int(bond.GetBondTypeAsDouble()))
        return code

    @cached_property
    def kinship(self) -> np.ndarray:
        """Names of each atom's neighbourhoods, (RADII, N) int64: equal where all within r bonds is alike."""
        return neighbourhoods(self.mol)


# ---- reading ---------------------------------------------------------------------------------------------------------


def from_smiles(text: str, name: str = "") -> Ligand:
    """A ligand from SMILES. Raises DataError, with the position where it does not parse."""
    from rdkit import rdBase

    text = text.strip()
    with rdBase.CaptureErrorLog() as log:
        mol = chem().MolFromSmiles(text) if text and len(text) < 5000 else None
    if mol is None:
        said = [line.partition("] ")[2] or line for line in log.messages.splitlines()]
        why = next((line for line in said if "position" in line or "valence" in line.lower() or "kekulize" in line), "")
        raise DataError(f"SMILES {text[:200]!r}: does not parse{_where(why)}; write it anew, or give an SDF file")
    return checked(mol, name or text, f"SMILES {text!r}")


def _where(said: str) -> str:
    return f" ({' '.join(said.replace('SMILES Parse Error: ', '').rstrip(':').split())})" if said else ""


def from_file(path: Path, posed: bool = False) -> Iterator[Ligand | DataError]:
    """The ligands of a file, one after the other; in the place of one that is not sound, what is wrong with it. ``posed``: they
    are known poses, whose stereo may stay open where atoms lie flat. Raises DataError for a file that cannot be read at all."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{shown(path)}: must be a file of ligands, {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{shown(path)}: has {path.stat().st_size:,} bytes; at most {LARGEST:,} are read")
    chem()
    with decoding(path, "write it anew, as SDF"):
        text = path.read_text(encoding="utf-8", errors="replace")
    many, number = False, 0
    for number, each in enumerate(_records(path, text)):
        many = many or number > 0
        try:
            yield _record(path, number, *each, posed)
        except DataError as error:
            yield error
    if not text.strip():
        raise DataError(f"{shown(path)}: is empty; a ligand is expected")


def _records(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """The kind and text of each record of a file."""
    kind = path.suffix.lower()
    if kind == ".smi":
        yield from (("smi", line) for line in text.splitlines() if line.strip())
    elif kind == ".mol2":
        parts = text.split("@<TRIPOS>MOLECULE")
        yield from (("mol2", "@<TRIPOS>MOLECULE" + part) for part in parts[1:] or [text])
    else:
        parts = text.split("$$$$")
        yield from (("mol", part.removeprefix("\r\n").removeprefix("\n") if i else part) for i, part in enumerate(parts)
                    if part.strip())  # fmt: skip


def _record(path: Path, number: int, kind: str, text: str, posed: bool) -> Ligand:
    from rdkit import rdBase

    Chem = chem()
    where = f"{shown(path)}" + (f" (record {number + 1})" if number else "")
    if kind == "smi":
        smiles, _, name = text.strip().partition(" ")
        try:
            return from_smiles(smiles, name.strip() or f"{path.stem}_{number + 1}")
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    if len(text) > LONGEST:
        raise DataError(f"{where}: has {len(text):,} characters; a ligand has at most {LONGEST:,}")
    with rdBase.BlockLogs(), decoding(where, "write the ligand anew, as SDF with its bonds"):
        if kind == "mol2":
            mol = Chem.MolFromMol2Block(text, sanitize=True, removeHs=False)
        else:
            reader = Chem.SDMolSupplier()
            reader.SetData(text if text.endswith("\n") else text + "\n", sanitize=True, removeHs=False)
            mol = next(iter(reader), None)
    if mol is None:
        raise DataError(f"{where}: {_broken(kind, text)}; write the ligand anew, as SDF with its bonds")
    title = mol.GetProp("_Name").strip() if mol.HasProp("_Name") else ""
    usual = path.stem if not number else f"{path.stem}_{number + 1}"
    return checked(mol, title or usual, where, posed)


def _broken(kind: str, text: str) -> str:
    """What is wrong with a record that does not become a molecule."""
    from rdkit import rdBase

    Chem = chem()
    try:
        with rdBase.BlockLogs():
            raw = (
                Chem.MolFromMol2Block(text, sanitize=False)
                if kind == "mol2"
                else Chem.MolFromMolBlock(text, sanitize=False)
            )
            if raw is None:
                return "holds no molecule"
            Chem.SanitizeMol(raw)
    except Exception as error:
        what = "its aromatic bonds make no sense" if "kekul" in str(error).lower() else one_line(error)
        return f"is no sound molecule ({what})"
    return "holds no molecule"


def checked(mol: Any, name: str, where: str, posed: bool = False) -> Ligand:
    """A molecule as a ligand; ``posed`` as for :func:`from_file`. Raises DataError for what cannot be docked."""
    Chem = chem()
    from rdkit import rdBase

    pieces = Chem.GetMolFrags(mol)
    if len(pieces) > 1:
        said = ", ".join(Chem.MolToSmiles(piece) for piece in Chem.GetMolFrags(mol, asMols=True)[:6])
        raise DataError(f"{where}: has {len(pieces)} pieces ({said}); give the one to dock, without salts and waters")
    strange = sorted({atom.GetSymbol() for atom in mol.GetAtoms() if atom.GetAtomicNum() not in ALLOWED})
    if "*" in strange:
        raise DataError(f"{where}: has an open bond (*); covalent warheads are not docked, give a whole molecule")
    if strange:
        raise DataError(f"{where}: holds {', '.join(strange)}; metals and rare elements are not docked")
    three = mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()
    if three:
        with rdBase.BlockLogs():
            Chem.AssignStereochemistryFrom3D(mol)
    with rdBase.BlockLogs():
        heavy = Chem.RemoveHs(mol)
    if heavy.GetNumAtoms() > HEAVY:
        raise DataError(f"{where}: has {heavy.GetNumAtoms()} heavy atoms; at most {HEAVY} are docked")
    if heavy.GetNumBonds() == 0:
        raise DataError(f"{where}: has no bond; ions and single atoms are not docked")
    if not (posed and three):
        _settled(heavy, where)
    places = np.asarray(heavy.GetConformer().GetPositions(), dtype=np.float64) if three else None
    if places is not None and not (np.isfinite(places).all() and np.abs(places).max() < 1e5):
        raise DataError(f"{where}: has coordinates that are no places; restore it from a copy")
    heavy.RemoveAllConformers()
    heavy.SetProp("_Name", name)
    return Ligand(name, heavy, places)


def _settled(mol: Any, where: str) -> None:
    """Raises DataError, with the forms that it may stand for, where stereo is left open."""
    Chem = chem()
    open_ = [each for each in Chem.FindPotentialStereo(mol) if str(each.specified) == "Unspecified"]
    if not open_:
        return
    from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

    choice = StereoEnumerationOptions(maxIsomers=FORMS, unique=True)
    forms = [Chem.MolToSmiles(form)
             for form in EnumerateStereoisomers(mol, options=choice)]  # fmt: skip
    if len(set(forms)) > 1:
        centres = ", ".join(str(each.centeredOn + 1) for each in open_[:6])
        raise DataError(
            f"{where}: stereo is left open at atom or bond {centres}; choose one of {' , '.join(sorted(set(forms)))}"
        )


# ---- in numbers ------------------------------------------------------------------------------------------------------

_DONOR, _ACCEPTOR = "[#7,#8,#16;!H0]", "[$([#8;!$(O-N=O)]),$([#7;H0;X1,X2;+0]),$([#7;X3;!$(N-*=[O,N,S]);!$(N-a);!a])]"


def patterned(mol: Any, smarts: str) -> np.ndarray:
    """Which atoms begin a match of a pattern, (N,) bool."""
    found = np.zeros(mol.GetNumAtoms(), dtype=bool)
    found[[match[0] for match in mol.GetSubstructMatches(chem().MolFromSmarts(smarts))]] = True
    return found


def features(mol: Any) -> np.ndarray:
    """What each atom is: element, charge, ring, aromatic, degree, hybridisation, hydrogens, donor, acceptor, greasy."""
    rows = []
    donor, acceptor = patterned(mol, _DONOR), patterned(mol, _ACCEPTOR)
    greasy = patterned(mol, "[#6;!$([#6]~[#7,#8]),$([c])]") | patterned(mol, "[F,Cl,Br,I]") | patterned(mol, "[#16;H0]")
    for i, atom in enumerate(mol.GetAtoms()):
        number, charge, hydrogens = atom.GetAtomicNum(), atom.GetFormalCharge(), atom.GetTotalNumHs()
        mixed = str(atom.GetHybridization())
        row = [number == each for each in ELEMENTS] + [number not in ELEMENTS]
        row += [charge < 0, charge == 0, charge > 0, atom.GetIsAromatic(), atom.IsInRing(), atom.IsInRingSize(5)]
        row += [atom.IsInRingSize(6), *(atom.GetDegree() == k for k in (1, 2, 3, 4)), mixed == "SP", mixed == "SP2"]
        row += [mixed == "SP3", *(hydrogens == k for k in (0, 1, 2, 3)), donor[i], acceptor[i], greasy[i]]
        rows.append(row)
    return np.array(rows, dtype=np.float32)


def _word(*parts: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little", signed=True)


def neighbourhoods(mol: Any) -> np.ndarray:
    """Names of what lies within 0, 1, 2, 3 bonds of each atom (Weisfeiler and Leman 1968), (RADII, N) int64."""
    atoms = list(mol.GetAtoms())
    now = [_word(a.GetAtomicNum(), a.GetIsAromatic(), a.GetFormalCharge(), a.IsInRing()) for a in atoms]
    every = [now]
    for _ in range(RADII - 1):
        now = [_word(now[a.GetIdx()], sorted((b.GetBondTypeAsDouble(), now[b.GetOtherAtomIdx(a.GetIdx())])
                                             for b in a.GetBonds())) for a in atoms]  # fmt: skip
        every.append(now)
    return np.array(every, dtype=np.int64)


def alike(a: Ligand, b: Ligand) -> np.ndarray:
    """How far two ligands' atoms are of a kind, (N, M) int64: 0 not at all, r + 1: all within r bonds is the same."""
    return (a.kinship[:, :, None] == b.kinship[:, None, :]).sum(0).astype(np.int64)


def tanimoto(ligand: Ligand, others: list[Ligand]) -> np.ndarray:
    """Similarity of fingerprints to each of the others, (len,) float64."""
    from rdkit.DataStructs import BulkTanimotoSimilarity

    return np.array(BulkTanimotoSimilarity(ligand.print, [each.print for each in others]), dtype=np.float64)
