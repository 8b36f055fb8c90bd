"""Where poses to learn from are found: three layouts, each a list of files.

(a) a folder of folders ``ID/ID_protein.pdb`` (or ``ID_pocket.pdb``) and ``ID/ID_ligand.sdf``, as of PDBBind and PLINDER;
(b) a folder with one receptor and many ``.mol``/``.sdf`` poses in its frame, as XChem gives them;
(c) a table ``id,target,protein,ligand,fold``, paths beside it; the last column may be left out.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.atoms import SUFFIXES, is_structure
from sfumato.errors import DataError, decoding, shown

LIGANDS = (".sdf", ".mol", ".mol2")
COLUMNS = ("id", "target", "protein", "ligand", "fold")
LARGEST = 2**26
"""Bytes of a table."""


@dataclass(frozen=True)
class Complex:
    """A known pose: files of its receptor and its ligand; the target's name; its fold, -1 where none is given."""

    name: str
    target: str
    protein: Path
    ligand: Path
    fold: int = -1


def found(source: Path) -> list[Complex]:
    """The complexes of a folder or table. Raises DataError."""
    if source.is_file():
        return _table(source)
    if not source.is_dir():
        raise DataError(f"{shown(source)}: there is no such folder or table")
    receptors = sorted(path for path in source.iterdir() if is_structure(path) and path.is_file())
    poses = sorted(path for path in source.iterdir() if path.suffix.lower() in LIGANDS and path.is_file())
    if poses:
        if len(receptors) != 1:
            said = "no receptor (PDB or mmCIF)" if not receptors else f"{len(receptors)} receptors"
            raise DataError(
                f"{shown(source)}: holds {len(poses)} poses and {said}; one is expected, in whose frame they lie"
            )
        return [Complex(path.stem, source.resolve().name, receptors[0], path) for path in poses]
    many = [each for folder in sorted(source.iterdir()) if folder.is_dir() and (each := _folder(folder)) is not None]
    if not many:
        raise DataError(
            f"{shown(source)}: holds no complexes; expected are folders ID with ID_protein.pdb and ID_ligand.sdf, or one "
            "receptor with .mol or .sdf poses, or give a table id,target,protein,ligand,fold"
        )
    return many


def _folder(folder: Path) -> Complex | None:
    name = folder.name
    proteins = [folder / f"{name}_{kind}{end}" for kind in ("protein", "pocket", "receptor")
                for end in (*SUFFIXES, *(f"{each}.gz" for each in SUFFIXES))]  # fmt: skip
    ligands = [folder / f"{name}_ligand{end}" for end in LIGANDS]
    protein, ligand = (next((path for path in each if path.is_file()), None) for each in (proteins, ligands))
    return None if protein is None or ligand is None else Complex(name, name, protein, ligand)


def rows_of(file: Path, known: tuple[str, ...], needed: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table whose columns are among ``known``. Raises DataError naming a column that is not."""
    if not file.is_file():
        raise DataError(f"{shown(file)}: there is no such file")
    if file.stat().st_size > LARGEST:
        raise DataError(f"{shown(file)}: has {file.stat().st_size:,} bytes; at most {LARGEST:,} are read")
    with (
        decoding(file, "give a table of comma-separated values"),
        file.open(encoding="utf-8-sig", newline="") as stream,
    ):
        reader = csv.DictReader(stream, strict=True)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    if strange := [name for name in columns if name not in known]:
        raise DataError(f"{shown(file)}: has the column {strange[0]!r}; the columns are {', '.join(known)}")
    if lacking := [name for name in needed if name not in columns]:
        raise DataError(f"{shown(file)}: lacks the column {lacking[0]!r}; the columns are {', '.join(known)}")
    if not rows:
        raise DataError(f"{shown(file)}: has no rows")
    return [{name: (row.get(name) or "").strip() for name in columns} for row in rows]


def _table(file: Path) -> list[Complex]:
    many, names = [], set()
    for i, row in enumerate(rows_of(file, COLUMNS, COLUMNS[:4])):
        where = f"{shown(file)}, row {i + 2}"
        try:
            fold = int(row["fold"]) if row.get("fold") else -1
        except ValueError:
            raise DataError(f"{where}: fold is {row['fold']!r}; must be a whole number") from None
        if not row["id"] or row["id"] in names:
            raise DataError(
                f"{where}: id {row['id']!r} {'comes twice' if row['id'] else 'is empty'}; each row needs its own"
            )
        names.add(row["id"])
        many.append(
            Complex(
                row["id"], row["target"] or row["id"], file.parent / row["protein"], file.parent / row["ligand"], fold
            )
        )
    return many
