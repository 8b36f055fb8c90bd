"""Tables in the cache of a run: as words and codes, and again from there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sfumato.data.arrays import kept_array
from sfumato.data.errors import decoding, shown
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.table import Column, Format, Table
from sfumato.training.run import RunError, write_text


def save_table(table: Table, folder: Path) -> None:
    """The table in a folder, as words and codes."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [{"name": c.name, "type": c.type, "words": list(c.words)} for c in table.columns]
    write_text(folder / "words.json", json.dumps({"format": asdict(table.format), "columns": plain}))
    np.save(folder / "codes.npy", np.stack([column.codes for column in table.columns]))


def load_table(folder: Path, facts: Facts) -> Table:
    """As it was saved. Raises RunError where it is damaged or another one."""
    found = kept_table(folder)
    with decoding(folder, "train again", RunError):
        if found.source() != facts.source:
            raise ValueError("it is not the table that the run began with")
    return found


def kept_table(folder: Path) -> Table:
    """What :func:`save_table` wrote. Raises RunError where it is damaged."""
    codes = kept_array(folder / "codes.npy", "train again")
    with decoding(folder, "train again", RunError):
        plain = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        columns = zip(plain["columns"], codes, strict=True)
        found = tuple(Column(c["name"], tuple(c["words"]), own, c["type"]) for c, own in columns)
        for column in found:
            if not all(word is None or isinstance(word, str) for word in column.words):
                raise ValueError(f"column {shown(str(column.name))!r} holds something else than words")
            if column.codes.size and not 0 <= int(column.codes.min()) <= int(column.codes.max()) < len(column.words):
                raise ValueError(f"column {shown(str(column.name))!r} has codes of no word")
        return Table(found, Format(**plain["format"]))
