"""Series from files: wide, long and listed tables, arrays, .tsf, each recognised and said.

wide    a time column and a column a series        long    a row a value: id, time, value
list    a JSON object a line: start, freq, target   arrays  .npz of values and offsets
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import DataError, Wrong, decoding, needed, shortened, shown
from sfumato.fields.series import zones
from sfumato.fields.series.lists import read_jsonl, read_npz, read_tsf
from sfumato.fields.series.pieces import Named, Piece, Shape, Source
from sfumato.fields.series.stamps import parse, seems

EXTRA = "series"
TIMES = ("time", "date", "datetime", "timestamp", "ds", "timestamps", "period")
IDS = ("unique_id", "item_id", "series_id", "series_name", "id", "series")
VALUES = ("y", "target", "value", "values", "sales")
MOST_BYTES = 8 << 30


def read(path: Path, named: Named = Named()) -> Source:
    """The series in a file. Raises DataError, Wrong."""
    if path.is_dir():
        raise DataError(f"{shown(path)}: is a folder; give one file, CSV, parquet, JSON lines, .npz or .tsf")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DataError(
            f"{shown(path)}: takes {size / 1e9:.3g} GB, more than {MOST_BYTES >> 30} GB; give part of the series"
        )
    zones.zone(named.zone)
    ends = [each.lower() for each in path.suffixes[-2:]]
    suffix = ends[-2] if len(ends) == 2 and ends[-1] == ".gz" else ends[-1] if ends else ""
    reader = READERS.get(suffix)
    if reader is None:
        raise DataError(f"{shown(path)}: is none of {', '.join(READERS)}; save the series as one of these")
    return reader(path, named)


# ---- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Columns:
    """A table by column: name -> numbers (n,) float64 or words, a list; beside them the zone that stamps came with."""

    path: Path
    every: dict[str, Any]
    headless: bool = False
    zone: str = ""
    first: int = 2
    """The line of the file that the first row stands in."""

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers. Raises DataError, which names the row."""
        column = self.every[name]
        if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
            return np.asarray(column, dtype=np.float64)
        found = np.empty(len(column))
        for row, text in enumerate(column):
            word = "" if text is None else str(text).strip()
            try:
                found[row] = np.nan if word.lower() in ("", "na", "nan", "null", "none", "?") else float(word)
            except ValueError:
                raise DataError(
                    f"{shown(self.path)}: {shown(name)} in line {row + self.first} is {shortened(shown(word), 40)!r}, "
                    f"which is no "
                    "number; write it as 1234.5 (no separators of thousands), or leave it empty"
                ) from None
        return found

    def numeric(self, name: str) -> bool:
        """Whether the first cells that are not empty are numbers."""
        column = self.every[name]
        if isinstance(column, np.ndarray):
            return column.dtype.kind in "fiub"
        some = [str(text).strip() for text in column[:1000] if text is not None and str(text).strip()][:5]
        return all(_number(word) for word in some)


def _number(word: str) -> bool:
    try:
        float(word.replace(",", ""))  # 1,234.5 is meant as one, and complained of where it is read
    except ValueError:
        return word.lower() in ("na", "nan", "null", "none", "?")
    return True


def _csv(path: Path, named: Named) -> Source:
    pa, reader = needed("pyarrow", EXTRA), needed("pyarrow.csv", EXTRA)
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with (
        decoding(path, "save it as UTF-8 text, columns apart by commas"),
        opened(path, "rt", encoding="utf-8-sig", newline="") as file,
    ):
        first, second = file.readline(1 << 20), file.readline(1 << 20)
        if not first.strip():
            raise DataError(f"{shown(path)}: is empty")
        comma = max(",;\t", key=first.count)
        head = next(csv.reader([first], delimiter=comma))
        headless = all(_number(cell.strip()) and cell.strip() for cell in head)
        if headless and not second.strip():
            raise DataError(f"{shown(path)}: holds one line of numbers; a series needs more steps")
    with decoding(path, "every line needs as many columns as the first"):
        table = reader.read_csv(
            path,
            read_options=reader.ReadOptions(autogenerate_column_names=headless),
            parse_options=reader.ParseOptions(delimiter=comma),
            convert_options=reader.ConvertOptions(
                column_types={name: pa.string() for name in head if name in TIMES or name == named.time}
                if not headless
                else None,
                timestamp_parsers=[],
                strings_can_be_null=True,
            ),
        )
    return _columns(path, table, named, headless)


def _parquet(path: Path, named: Named) -> Source:
    needed("pyarrow", EXTRA)
    parquet = needed("pyarrow.parquet", EXTRA)
    with decoding(path, "write it again"):
        table = parquet.read_table(path)
    return _columns(path, table, named, False)


def _columns(path: Path, table: Any, named: Named, headless: bool) -> Source:
    pa = needed("pyarrow", EXTRA)
    every: dict[str, Any] = {}
    zone = ""
    for name, column in zip(table.column_names, table.columns):
        if name in every:
            raise DataError(f"{shown(path)}: has two columns called {shown(name)}; rename one")
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            zone = getattr(kind, "tz", None) or zone
            every[name] = column.cast(pa.timestamp("s"), safe=False).to_numpy().astype("datetime64[s]")
        elif (
            pa.types.is_dictionary(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_null(kind)
        ):
            every[name] = column.to_pylist()
        elif (
            pa.types.is_floating(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
        ):
            every[name] = (
                column.cast(pa.float64()).to_numpy()
                if not pa.types.is_integer(kind) or column.null_count
                else column.to_numpy()
            )
        else:
            every[name] = [str(text) for text in column.to_pylist()]
    if not len(table):
        raise DataError(f"{shown(path)}: has no rows")
    return laid_out(Columns(path, every, headless, zone, 1 if headless else 2), named)


def laid_out(columns: Columns, named: Named) -> Source:
    """The series of a table, long or wide, by the names of its columns. Raises DataError, Wrong."""
    path, names = columns.path, list(columns.every)
    for what, word in (
        ("time", named.time),
        ("ids", named.ids),
        *(("target", each) for each in named.target or ()),
        *(("known", each) for each in named.known),
    ):
        if word is not None and word not in names:
            raise Wrong(
                f"{what} = {word!r}: must be a column of {shown(path)}: {shortened(', '.join(map(shown, names)))}"
            )
    time = named.time or _time_column(columns)
    ids = named.ids or next((name for name in names if name.lower() in IDS and name != time), None)
    rest = [name for name in names if name not in (time, ids, *named.known)]
    numeric = [name for name in rest if columns.numeric(name)]
    if ids is not None:
        value = _value_column(columns, named, numeric, ids)
        unread = tuple(name for name in rest if name != value)
        return _long(columns, named, time, ids, value, unread)
    targets = list(named.target or numeric)
    if not targets:
        raise DataError(f"{shown(path)}: has no column of numbers; name those to learn with --target")
    stamps, zone = _stamps(columns, time, named.zone)
    known = (
        np.stack([columns.numbers(name) for name in named.known], 1)
        if named.known
        else np.zeros((len(columns.every[names[0]]), 0))
    )
    pieces = tuple(Piece(name, stamps, columns.numbers(name), known) for name in targets)
    unread = tuple(name for name in rest if name not in targets)
    return Source(pieces, Shape("wide", time or "", "", "", zone, "", named.known), unread)


def _time_column(columns: Columns) -> str | None:
    """The column of the times: by its name, or the first whose cells are dates."""
    if columns.headless:
        return None
    for name in columns.every:
        if name.lower() in TIMES:
            return name
    for name, column in columns.every.items():
        if isinstance(column, np.ndarray):
            if column.dtype.kind == "M":
                return name
        elif seems(next((text for text in column if text), "")):
            return name
    return None


def _value_column(columns: Columns, named: Named, numeric: Sequence[str], ids: str) -> str:
    if named.target is not None:
        if len(named.target) > 1:
            raise Wrong(
                f"target = {' '.join(named.target)!r}: must be one column in a table with a row a value ({ids})"
            )
        return named.target[0]
    known = [name for name in columns.every if name.lower() in VALUES and name != ids]
    if len(known or numeric) != 1:
        told = ", ".join(map(shown, known or numeric)) or "none"
        raise DataError(
            f"{shown(columns.path)}: the column of the values is not clear ({shortened(told)}); name it with --target"
        )
    return (known or list(numeric))[0]


def _stamps(columns: Columns, time: str | None, zone: str) -> tuple[np.ndarray | None, str]:
    """Stamps of the rows and their zone: in UTC where there is a zone."""
    if time is None:
        return None, ""
    column = columns.every[time]
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        if np.isnat(column).any():
            raise DataError(
                f"{shown(columns.path)}: {shown(time)} is empty in row {int(np.isnat(column).argmax()) + 1}; give a time"
            )
        return column.astype(np.int64), zone or columns.zone
    return parse(column, columns.path, time, columns.first, zone)


def _long(columns: Columns, named: Named, time: str | None, ids: str, value: str, unread: tuple[str, ...]) -> Source:
    words = [
        str(each)
        for each in (columns.every[ids].tolist() if isinstance(columns.every[ids], np.ndarray) else columns.every[ids])
    ]
    names: dict[str, int] = {}
    which = np.array([names.setdefault(word, len(names)) for word in words])
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(names) + 1))
    stamps, zone = _stamps(columns, time, "")
    values = columns.numbers(value)
    known = np.stack([columns.numbers(name) for name in named.known], 1) if named.known else np.zeros((len(values), 0))
    pieces = []
    for i, name in enumerate(names):
        own = order[bounds[i] : bounds[i + 1]]
        pieces.append(Piece(name, None if stamps is None else stamps[own], values[own], known[own]))
    if named.zone and not zone and stamps is not None:
        zone = named.zone
        pieces = [
            Piece(p.name, zones.utc(p.stamps, zone, f"{shown(columns.path)}, {shown(p.name)}"), p.values, p.known)  # type: ignore[arg-type]
            for p in pieces
        ]
    return Source(tuple(pieces), Shape("long", time or "", ids, value, zone, "", named.known), unread)


READERS: dict[str, Callable[[Path, Named], Source]] = {
    ".csv": _csv,
    ".txt": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".npz": read_npz,
    ".tsf": read_tsf,
}
