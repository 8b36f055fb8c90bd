"""Backbones as files: one a sample, mmCIF or PDB, confidence in the B-factors, and one table, samples.csv, of all that was
asked."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfumato.data.atoms import Atoms, write_structure
from sfumato.data.writing import appearing
from sfumato.fields.protein.alphabet import ATOMS, ELEMENTS
from sfumato.fields.protein.queries import Fold
from sfumato.jobs.making import Making

if TYPE_CHECKING:
    from sfumato.fields.protein.queries import Sequences

COLUMNS = ("id", "sample", "seed", "rank", "confidence", "h3_confidence", "path", "error")
TABLE = "samples.csv"
FARTHEST = 9999.0
"""Coordinates beyond this have no room in PDB, and are no protein."""


def atoms_of(fold: Fold) -> Atoms:
    """The atoms of a sample, B-factors from 0 to 100 (0 where nothing is known)."""
    length = len(fold.asked)
    sure = fold.confidence if len(fold.confidence) else np.zeros(length)
    return Atoms(
        fold.coords.reshape(-1, 3).astype(np.float32), ATOMS * length, ELEMENTS * length, np.arange(length).repeat(len(ATOMS)),
        fold.asked.residues, np.clip(sure, 0, 100).astype(np.float32).repeat(len(ATOMS)),
    )  # fmt: skip


def save(fold: Fold, path: Path, making: Making) -> Path:
    """One sample as a file; its model has the number of the sample, counted from 1."""
    about = [("_sfumato.making", making.text())]
    return write_structure(
        path, [(fold.number + 1, atoms_of(fold))], "".join(fold.asked.name.split()) or "sample", about
    )


def write(
    queries: Sequences, things: Iterable[tuple[int, Fold]], out: Path, making: Making, suffix: str
) -> Iterator[Path]:
    """Samples as files as they come, 0000.cif, ..., and the table when they end: as many rows as were asked for, those that
    failed or never came with what went wrong."""
    rows: dict[int, dict[str, object]] = {}
    failed: Exception | None = None
    try:
        for number, fold in things:
            path = out / f"{number:04d}{suffix}"
            wild = not fold.error and float(np.abs(fold.coords).max()) > FARTHEST
            error = "coordinates too large for a file" if wild else fold.error
            rows[number] = {
                "id": fold.asked.name, "sample": fold.number, "seed": making.seed, "rank": fold.rank,
                "confidence": _said(fold.mean), "h3_confidence": _said(fold.third), "path": "" if error else path.name,
                "error": error,
            }  # fmt: skip
            if not error:
                yield save(fold, path, making.of(queries, number))
    except Exception as error:  # what is done is told, and then what went wrong
        failed = error
    for number in range(len(queries)):
        one, place = queries.of(number)
        rows.setdefault(number, {"id": one.name, "sample": place, "seed": making.seed, "error": "was not drawn"})
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows[number] for number in sorted(rows))
    with appearing(out / TABLE) as file:
        file.write(text.getvalue().encode())
    yield out / TABLE
    if failed is not None:
        raise failed


def _said(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"
