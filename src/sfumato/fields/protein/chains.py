"""Chains of proteins to learn from: a folder of structures, or one .npz of ragged arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfumato.data.atoms import Atoms, Residue, is_structure, read_structure
from sfumato.errors import DataError, decoding, needed, shown
from sfumato.fields.protein.alphabet import ATOMS, LETTERS, encoded
from sfumato.fields.protein.regions import digits

BROKEN = 1.6
"""A C-N bond longer than this, in Angstrom, is a break of the chain."""
SPLITS = ("train", "val", "test", "spare")
REMEDY = "save it again with numpy.savez"


@dataclass(frozen=True, eq=False)
class Chain:
    """One chain: its name, codes (L,) int64, coords (L, 4, 3) float32 of N, CA, C, O in Angstrom, NaN where an atom is missing.

    cdr (L,) int8 or None; split and cluster as the data say, "" and -1 where they do not; residues as its file names them.
    """

    name: str
    codes: np.ndarray
    coords: np.ndarray
    cdr: np.ndarray | None = None
    split: str = ""
    cluster: int = -1
    residues: tuple[Residue, ...] = ()

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def breaks(self) -> np.ndarray:
        """Where the chain is broken: the residues before a C-N bond that is too long, or before atoms that are missing."""
        apart = np.linalg.norm(self.coords[1:, 0] - self.coords[:-1, 2], axis=-1)
        return np.flatnonzero(~(apart <= BROKEN))


# ---- ragged arrays ----------------------------------------------------------------------------------------------------------


def of_arrays(path: Path) -> list[Chain]:
    """The chains of a .npz: coords (sum L, atoms, 3), offsets (n + 1,), seq (n,), and if they are there cdr, split, cluster,
    pdb.
    Raises DataError for arrays that do not fit together, letters that are none, and coordinates that are no numbers."""
    found, where = kept_words(path), shown(path)
    if missing := [name for name in ("coords", "offsets", "seq") if name not in found]:
        raise DataError(
            f"{where}: has no {missing[0]!r}, only {', '.join(sorted(found))}; coords, offsets and seq are needed"
        )
    coords, offsets, letters = found["coords"], found["offsets"], found["seq"]
    count = len(offsets) - 1
    if coords.ndim != 3 or coords.shape[1] < len(ATOMS) or coords.shape[2] != 3:
        raise DataError(f"{where}: coords has shape {coords.shape}; expected (residues, 4, 3): N, CA, C, O in Angstrom")
    if count < 1 or offsets[0] != 0 or offsets[-1] != len(coords) or (np.diff(offsets) < 1).any():
        raise DataError(
            f"{where}: offsets must rise from 0 to {len(coords)}, the residues of coords, one a chain and one more"
        )
    for name in ("seq", "cdr", "split", "cluster", "pdb"):
        if name in found and len(found[name]) != count:
            raise DataError(f"{where}: {name} has {len(found[name])} entries for {count} chains")
    chains = []
    for i in range(count):
        name = f"{found['pdb'][i]}_{i}" if "pdb" in found else str(i)
        own = coords[offsets[i] : offsets[i + 1], : len(ATOMS)].astype(np.float32)
        codes = encoded(str(letters[i]), f"{where}, chain {name}, seq")
        if len(codes) != len(own):
            raise DataError(f"{where}: chain {name} has {len(codes)} letters for {len(own)} residues")
        if (bad := np.argwhere(~np.isfinite(own).all(2))).size:
            residue, atom = (int(value) for value in bad[0])
            raise DataError(
                f"{where}: chain {name}, residue {residue + 1}, atom {ATOMS[atom]} has a coordinate that is no number; leave the "
                "chain out"
            )
        cdr = digits(str(found["cdr"][i]), len(codes), f"{where}, chain {name}") if "cdr" in found else None
        split = str(found["split"][i]) if "split" in found else ""
        if split and split not in SPLITS:
            raise DataError(f"{where}: chain {name} is of the split {split!r}; there are {', '.join(SPLITS)}")
        chains.append(Chain(name, codes, own, cdr, split, int(found["cluster"][i]) if "cluster" in found else -1))
    return chains


def kept_words(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz, numbers and words. Nothing is unpickled. Raises DataError."""
    found = {}
    with decoding(path, REMEDY), np.load(path, allow_pickle=False) as file:
        words = [name for name in file.files if name in ("seq", "cdr", "split", "pdb")]
        for name in words:
            found[name] = file[name]
            if found[name].dtype.kind not in "US" or found[name].ndim != 1:
                raise DataError(f"{name} is {found[name].dtype} of shape {found[name].shape}; expected words (n,)")
            if found[name].dtype.kind == "S":
                found[name] = found[name].astype(str)
        for name in set(file.files) & {"coords", "offsets", "cluster"}:
            found[name] = file[name]
            if found[name].dtype.kind not in "iuf":
                raise DataError(f"{name} is {found[name].dtype}; expected numbers")
    return found


# ---- structures in files ------------------------------------------------------------------------------------------------------


def of_structure(atoms: Atoms, name: str) -> list[Chain]:
    """The protein chains of a structure: residues with at least one backbone atom, ligands and water left out. Raises DataError
    for a chain of amino acids without the atoms N, CA and C (CA alone, say)."""
    gemmi = needed("gemmi", "protein")
    rows: dict[str, list[tuple[Residue, str, np.ndarray]]] = {}
    starts = np.searchsorted(atoms.residue, np.arange(len(atoms.residues) + 1))
    bare: list[Residue] = []
    for at, residue in enumerate(atoms.residues):
        known = gemmi.find_tabulated_residue(residue.name)
        own = range(starts[at], starts[at + 1])
        names = {atoms.names[i]: i for i in own}
        if not (known.is_amino_acid() or {"N", "CA", "C"} <= names.keys()):
            continue
        if not {"N", "CA", "C"} & names.keys():
            continue
        place = np.full((len(ATOMS), 3), np.nan, dtype=np.float32)
        for column, atom in enumerate(ATOMS):
            if atom in names:
                place[column] = atoms.coords[names[atom]]
        if "N" not in names or "C" not in names:
            bare.append(residue)
        letter = known.one_letter_code.upper().strip() or "X"
        rows.setdefault(residue.chain, []).append((residue, letter if letter in LETTERS else "X", place))
    chains = []
    for chain, own_rows in rows.items():
        coords = np.stack([row[2] for row in own_rows])
        if np.isnan(coords[:, [0, 2]]).all():
            raise DataError(
                f"{shown(name)}: {bare[0]} and all others of its chain have no backbone (N, CA, C, O); give a structure with it"
            )
        codes = encoded("".join(row[1] for row in own_rows), name)
        chains.append(Chain(f"{name}_{chain}", codes, coords, residues=tuple(row[0] for row in own_rows)))
    return chains


def of_folder(path: Path, tell: Callable[[str], None]) -> Iterator[Chain]:
    """The chains of all structures in a folder, searched to any depth. A file that cannot be read is said and left out. Raises
    DataError for a folder without any."""
    files = sorted(each for each in path.rglob("*") if is_structure(each) and each.is_file())
    if not files:
        raise DataError(
            f"{shown(path)}: holds no structure; expected .cif, .cif.gz, .pdb files, or give a .npz of arrays"
        )
    count = 0
    for file in files:
        try:
            atoms = read_structure(file)
            found = of_structure(atoms, file.name.partition(".")[0])
        except DataError as error:
            tell(f"left out  {error}")
            continue
        for line in atoms.told:
            tell(f"note      {shown(file)}: {line}")
        count += len(found)
        yield from found
    if not count:
        raise DataError(
            f"{shown(path)}: none of its {len(files)} structure(s) holds a chain of protein that can be read"
        )


def read_chains(path: Path, tell: Callable[[str], None]) -> list[Chain]:
    """The chains of a folder, of one structure, or of a .npz. Raises DataError."""
    if path.is_dir():
        return list(of_folder(path, tell))
    if is_structure(path):
        atoms = read_structure(path)
        for line in atoms.told:
            tell(f"note      {shown(path)}: {line}")
        return of_structure(atoms, path.name.partition(".")[0])
    if path.suffix == ".npz":
        return of_arrays(path)
    raise DataError(f"{shown(path)}: is no folder of structures, structure or .npz; give one of these")
