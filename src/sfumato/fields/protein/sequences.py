"""The sequences that are asked for: given as they are, in FASTA, CSV, YAML as of Boltz, or in a structure, or chains of the
run."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.atoms import Residue, is_structure, read_structure
from sfumato.errors import DataError, Wrong, decoding, shown
from sfumato.fields.protein.alphabet import NAMES, encoded
from sfumato.fields.protein.chains import of_structure
from sfumato.fields.protein.regions import carried, digits

if TYPE_CHECKING:
    from sfumato.fields.protein.data import Store
    from sfumato.fields.protein.options import ProteinAsk

LARGEST = 64 << 20
"""Bytes of a file of sequences that are read."""
PER_PAIR = 600
"""Bytes of memory for each pair of residues of a sample, about: biases and shares of attention of all blocks."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One sequence: its name, codes (L,), regions (L,) or None, and what its residues are called in a file. truth (L, 4, 3):
    where it is known."""

    name: str
    codes: np.ndarray
    cdr: np.ndarray | None
    residues: tuple[Residue, ...]
    truth: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.codes)


def numbered(codes: np.ndarray, chain: str) -> tuple[Residue, ...]:
    """Residues 1 to L of a chain."""
    return tuple(Residue(NAMES[int(code)], i + 1, "", chain, i + 1, chain) for i, code in enumerate(codes))


def of_run(store: Store, chain: int) -> Asked:
    """A chain of the run's own data, with its truth."""
    own = store.rows(chain)
    codes = store.codes[own]
    there = store.there[own].all()
    letter = "H" if store.facts.regions else "A"
    return Asked(
        store.names[chain], codes, store.regions(chain), numbered(codes, letter), store.coords[own] if there else None
    )


def asked(store: Store, ask: ProteinAsk, batch: int) -> list[Asked]:
    """What is asked for; by default the first held-out chain. Raises DataError, Wrong."""
    if ask.chain:
        known = {name: i for i, name in enumerate(store.names)}
        if missing := [name for name in ask.chain if name not in known]:
            raise Wrong(
                f"chain = {missing[0]!r}: the run has no chain of that name; it has {', '.join(list(known)[:3])}, ..."
            )
        return [of_run(store, known[name]) for name in ask.chain]
    file = ask.hold or ask.sequences
    if not ask.sequence and file is None:
        return [of_run(store, int(store.part("val").chains[0]))]
    letter = "H" if store.facts.regions else "A"
    found = read(file) if file is not None else [
        _bare(str(i + 1) if len(ask.sequence) > 1 else "sequence", letters, ask.cdr, letter, "sequence")
        for i, letters in enumerate(ask.sequence)
    ]  # fmt: skip
    if twice := [one.name for one in found if sum(other.name == one.name for other in found) > 1]:
        raise DataError(f"{shown(str(file))}: two sequences are called {twice[0]!r}; give each a name of its own")
    for one in found:
        check_length(len(one), batch, one.name)
    if not store.facts.regions:
        return [replace(one, cdr=None) for one in found]
    return [
        one if one.cdr is not None else replace(one, cdr=carried(one.codes, store.known, one.name)) for one in found
    ]


def check_length(length: int, batch: int, name: str) -> None:
    """Complain of a sequence whose pairs of residues would not fit into memory. Raises DataError."""
    free = _free()
    need = PER_PAIR * batch * length**2
    if need > free:
        fits = int((free / (PER_PAIR * batch)) ** 0.5)
        raise DataError(
            f"{name}: {length:,} residues take about {need / 1e9:.1f} GB, {batch} samples at once, and {free / 1e9:.1f} GB are "
            f"free; up to {fits:,} fit, or give a smaller --batch"
        )


def _free() -> float:
    """Bytes of memory that are free, for all that is known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 8e9


# ---- files -------------------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Asked]:
    """The sequences of a file. Raises DataError, which names it and the place in it."""
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    if is_structure(path):
        found = of_structure(read_structure(path), path.name.partition(".")[0])
        if len(found) > 1:
            names = ", ".join(chain.name.rpartition("_")[2] for chain in found)
            raise DataError(
                f"{shown(path)}: has {len(found)} chains ({names}), and a sample is one chain; give a file of one"
            )
        if not found:
            raise DataError(f"{shown(path)}: holds no chain of protein")
        one = found[0]
        truth = None if np.isnan(one.coords).any() else one.coords
        return [Asked(one.name, one.codes, None, one.residues, truth)]
    if path.stat().st_size > LARGEST:
        raise DataError(f"{shown(path)}: more than {LARGEST >> 20} MB; give a shorter list")
    with decoding(path, "save it as text in UTF-8"):
        text = path.read_text(encoding="utf-8")
    readers = {".fasta": _fasta, ".fa": _fasta, ".csv": _csv, ".yaml": _yaml, ".yml": _yaml}
    if path.suffix.lower() not in readers:
        raise DataError(f"{shown(path)}: must be one of {', '.join(readers)}, or a structure")
    found_rows: list[Asked] = readers[path.suffix.lower()](text, shown(path))
    if not found_rows:
        raise DataError(f"{shown(path)}: holds no sequence")
    return found_rows


def _bare(name: str, letters: str, cdr: str | None, chain: str, place: str) -> Asked:
    codes = encoded("".join(letters.split()), place)
    regions = None if cdr is None else digits(cdr.strip(), len(codes), place)
    return Asked(name, codes, regions, numbered(codes, chain))


def _fasta(text: str, where: str) -> list[Asked]:
    found: list[Asked] = []
    for number, part in enumerate(text.lstrip().split(">")):
        if not number:
            if part.strip():
                raise DataError(f"{where}: must begin with a line '>name' before each sequence")
            continue
        head, _, body = part.partition("\n")
        name = (head.split() or [str(number)])[0]
        found.append(_bare(name, body.replace("*", ""), None, "A", f"{where}, {name}"))
    return found


def _csv(text: str, where: str) -> list[Asked]:
    rows = csv.DictReader(text.splitlines())
    columns = rows.fieldnames or []
    if missing := [name for name in ("id", "sequence") if name not in columns]:
        raise DataError(
            f"{where}: has no column {missing[0]!r}; the columns are {', '.join(columns) or 'none'}, wanted id,sequence[,cdr]"
        )
    found = []
    for row in rows:
        place = f"{where}, line {rows.line_num}"
        cdr = row.get("cdr") or None
        found.append(_bare((row["id"] or str(rows.line_num)).strip(), row["sequence"] or "", cdr, "A", place))
    return found


def _yaml(text: str, where: str) -> list[Asked]:
    """As Boltz reads it: sequences: [{protein: {id: H, sequence: ...}}]. Other kinds of molecules are refused by name."""
    import yaml

    with decoding(where, "give YAML as of Boltz: sequences: [{protein: {id: H, sequence: ...}}]"):
        stored: Any = yaml.safe_load(text)
        entries: list[Any] = list(stored["sequences"])
    found = []
    for i, entry in enumerate(entries):
        place = f"{where}, sequences[{i}]"
        if not isinstance(entry, dict) or "protein" not in entry:
            kind = next(iter(entry), "nothing") if isinstance(entry, dict) else type(entry).__name__
            raise DataError(f"{place}: is {kind!r}; this model knows protein alone")
        own = entry["protein"]
        if not isinstance(own, dict) or not isinstance(own.get("sequence"), str):
            raise DataError(f"{place}: protein must have an id and a sequence")
        chain = own.get("id", "A")
        if isinstance(chain, list):
            if len(chain) != 1:
                raise DataError(
                    f"{place}: {len(chain)} chains at once ({', '.join(map(str, chain))}), and a sample is one chain; give one"
                )
            chain = chain[0]
        cdr = own.get("cdr")
        found.append(_bare(str(chain), own["sequence"], None if cdr is None else str(cdr), str(chain), place))
    return found
