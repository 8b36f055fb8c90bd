"""Numbers that stand beside items, as conditions: a table by the names of files, or rows in the order of an array."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfumato.data.arrays import member, open_array
from sfumato.data.errors import DataError, decoding, one_line, shortened, shown

MOST_BYTES = 1 << 30
KEY = "vectors"


@dataclass(frozen=True, eq=False)
class Vectors:
    """Numbers (N, D), float64, one row an item, and the names of their columns."""

    rows: np.ndarray
    names: tuple[str, ...]


def read_vectors(path: Path, names: str | Sequence[str], count: int) -> Vectors:
    """The numbers beside ``count`` items whose files have these ``names`` (one name: the items are rows of an array).

    .csv: a head line, then the item's file in the first column (by its path in the folder) and numbers in the others; a line
    for every item is needed, others are ignored. .npy: (N, D) or (N,), in order. .npz: its array "vectors".

    Raises DataError naming the file, the line or item, what is wrong and what would be right.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npy", ".npz"):
        raise DataError(f"{shown(path)}: numbers beside items come from a .csv, .npy or .npz file")
    if suffix == ".csv":
        if isinstance(names, str):
            raise DataError(
                f"{shown(path)}: names files, and the items of {names} have none; give a .npy of {count} rows"
            )
        return _table(path, names)
    if not isinstance(names, str):
        raise DataError(
            f"{shown(path)}: has no names to find the pictures by; give a .csv whose first column is their file"
        )
    rows = open_array(path).x if suffix == ".npy" else _member(path)
    rows = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    if len(rows) != count:
        raise DataError(f"{shown(path)}: has {len(rows)} rows for {count} items; one for each is expected")
    return _checked(path, rows, tuple(f"number {i + 1}" for i in range(rows.shape[1])))


def _member(path: Path) -> np.ndarray:
    with decoding(path, "save it again with numpy.savez"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if KEY not in members:
            there = ", ".join(shortened(shown(name), 40) for name in [*members][:8]) or "none"
            raise DataError(f'{shown(path)}: has no array "{KEY}"; it has {there}')
        return member(archive, members[KEY], path, MOST_BYTES)


def _table(path: Path, names: Sequence[str]) -> Vectors:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(
                f"{shown(path)}: is larger than {MOST_BYTES >> 20} MB; save the numbers of these items alone"
            )
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            head = next(lines, [])
            known = {
                line[0].removeprefix("./"): _numbers(path, i, line, head) for i, line in enumerate(lines, 2) if line
            }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{shown(path)}: cannot be read ({one_line(error)}); a table in UTF-8 is expected") from error
    if len(head) < 2:
        raise DataError(f"{shown(path)}:1: {len(head)} column(s); a name and a number at least are expected")
    missing = [name for name in names if name not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{shown(path)}: has no line for {shown(missing[0])}{more}; one for each picture is expected")
    return _checked(path, np.array([known[name] for name in names]), tuple(head[1:]))


def _numbers(path: Path, number: int, line: list[str], head: list[str]) -> list[float]:
    if len(line) != len(head):
        raise DataError(f"{shown(path)}:{number}: {len(line)} values under {len(head)} names")
    try:
        return [float(value) for value in line[1:]]
    except ValueError as error:
        raise DataError(f"{shown(path)}:{number}: {one_line(error)}; every value must be a number") from None


def _checked(path: Path, rows: np.ndarray, names: tuple[str, ...]) -> Vectors:
    if not rows.shape[1]:
        raise DataError(f"{shown(path)}: holds no numbers")
    good = np.isfinite(rows).all(1)
    if not good.all():
        raise DataError(f"{shown(path)}: the numbers of item {int(np.argmin(good))} are not finite")
    return Vectors(rows, names)
