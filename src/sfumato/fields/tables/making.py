"""Where made rows go: into a file of the run's own kind, below the rows of another, or as several tables into a folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sfumato.errors import Wrong
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.sqlite import SUFFIXES
from sfumato.fields.tables.writing import add_rows, write_rows


def write_made(
    rows: Iterable[tuple[str | None, ...]], out: Path, facts: Facts, above: Path | None, making: str
) -> Path:
    """Rows as the run spells them into a file whose suffix says how; below those of the file ``above``, where there is one.

    Raises:
        DataError: another suffix, or a file that cannot be written.
    """
    kinds = facts.kinds
    names, types = [kind.name for kind in kinds], [kind.type for kind in kinds]
    if out.suffix.lower() == ".jsonl":  # one type in each column, and a gap is null
        types = ["string" if kind.type == "text" and kind.kind != "number" else kind.type for kind in kinds]
        rows = (tuple(None if cell in kind.gaps else cell for cell, kind in zip(row, kinds)) for row in rows)
    if above is not None:
        return add_rows(above, rows, out, names, types, facts.format, making)
    return write_rows(rows, out, names, types, facts.format, making)


def destination(out: Path | None, suffix: str, formats: Sequence[str]) -> tuple[Path, bool, str]:
    """Of linked tables: a folder, or a SQLite file (and whether it is one). Raises Wrong for a file of one table."""
    if out is not None and out.suffix.lower() in SUFFIXES:
        return out, True, ""
    if out is not None and out.suffix.lower() in formats:
        raise Wrong(f"out = {str(out)!r}: must be a folder, or a file that ends with .sqlite: there are several tables")
    return out or Path("samples"), False, suffix
