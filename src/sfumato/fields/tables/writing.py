"""Writing tables as they were read: the same columns, order, types, spelling of gaps, separators and quotes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from sfumato.data.errors import one_line, shown
from sfumato.errors import DataError
from sfumato.fields.tables.reading import SUFFIXES, read_table
from sfumato.fields.tables.sqlite import SUFFIXES as DATABASES
from sfumato.fields.tables.sqlite import affinity, write_database
from sfumato.fields.tables.table import NUMBER, SQL, Column, Format, Table
from sfumato.fields.tables.typed import arrow
from sfumato.jobs.making import KEY

Row = tuple[str | None, ...]
BLOCK = 10_000  # rows that are written at a time


def write_table(table: Table, path: Path, making: str = "") -> Path:
    """A table into a .csv, .tsv, .parquet, .jsonl or SQLite file; see :func:`write_rows`."""
    types = [column.type for column in table.columns]
    return write_rows(table.rows(), path, table.names, types, table.format, making)


def write_rows(
    rows: Iterable[Row],
    path: Path,
    names: Sequence[str],
    types: Sequence[str],
    format: Format = Format(),
    making: str = "",
) -> Path:
    """Rows into a file whose suffix says how, a block at a time; ``types`` are those of :class:`~reading.Column`.

    A CSV is spelt as ``format`` says if that is a CSV's, and plainly otherwise. What made the rows stands in the metadata of a
    parquet file; beside others it is a file of its own.

    Raises:
        DataError: another suffix, or a file that cannot be written.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix in DATABASES:
        cells = zip(*rows, strict=True)
        columns = [Column.of(name, own, type) for name, own, type in zip(names, cells, types, strict=True)]
        return write_database(path, {path.stem: Table(tuple(columns))})
    if suffix not in SUFFIXES:
        raise DataError(f"{shown(path)}: rows are written to files that end in {', '.join(SUFFIXES)} or {DATABASES[0]}")
    try:
        if suffix == ".parquet":
            _write_parquet(rows, path, names, types, making)
        else:
            writer = _write_lines if suffix == ".jsonl" else _write_csv
            writer(rows, path, names, types, _spelt(format, suffix))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be written ({one_line(error)})") from error
    return path


def add_rows(
    above: Path,
    rows: Iterable[Row],
    path: Path,
    names: Sequence[str],
    types: Sequence[str],
    format: Format,
    making: str = "",
) -> Path:
    """Rows below those of a file, in another one: a CSV file stands above them to the byte, any other to the cell. Raises
    DataError."""
    found = read_table(above)
    same = above.suffix.lower() == path.suffix.lower() and path.suffix.lower() in (".csv", ".tsv")
    if not same or found.format.encoding == "utf-16":
        return write_rows(chain(found.rows(), rows), path, names, types, found.format if same else format, making)
    plain = "utf-8" if found.format.encoding == "utf-8-sig" else found.format.encoding
    write_rows(rows, path, names, types, replace(found.format, header=False, encoding=plain))
    try:
        raw, new = above.read_bytes(), path.read_bytes()
        end = b"" if raw.endswith((b"\n", b"\r")) else found.format.newline.encode()
        path.write_bytes(raw + end + new)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be written ({one_line(error)})") from error
    return path


def _spelt(format: Format, suffix: str) -> Format:
    plain = Format(suffix=suffix, separator="\t" if suffix == ".tsv" else ",")
    return replace(format, suffix=suffix) if format.suffix in (".csv", ".tsv") else plain


def _write_csv(rows: Iterable[Row], path: Path, names: Sequence[str], types: Sequence[str], format: Format) -> None:
    quoting: Any = {"need": csv.QUOTE_MINIMAL, "all": csv.QUOTE_ALL, "words": csv.QUOTE_NONNUMERIC}[format.quoting]
    with path.open("w", encoding=format.encoding, newline="") as file:
        lines = _Spaced(file, format.separator) if format.space else file
        writer = csv.writer(
            lines, delimiter=format.separator, quotechar=format.quote, quoting=quoting, lineterminator=format.newline
        )
        if format.header:
            writer.writerow(names)
        plain = format.quoting == "words"
        for row in rows:
            cells = ["" if cell is None else cell for cell in row]
            if any(map(is_formula, cells)):
                join = format.separator + " " * format.space
                file.write(join.join(spelt_cell(cell, format) for cell in cells) + format.newline)
                continue
            writer.writerow(
                [_Bare(cell) if plain and NUMBER.fullmatch(cell.replace(",", ".", 1)) else cell for cell in cells]
            )


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would take a cell for something to be worked out."""
    return (
        cell[:1] in ("=", "@", "+", "-", "\t", "\r") and cell != "-" and not NUMBER.fullmatch(cell.replace(",", ".", 1))
    )


def spelt_cell(cell: str, format: Format, quoted: bool = False) -> str:
    """A cell as a CSV file spells it; in quotes if it must be, is ``quoted``, or would be worked out by a spreadsheet."""
    quote = format.quote
    needs = any(character in cell for character in (format.separator, quote, "\r", "\n")) or is_formula(cell)
    number = NUMBER.fullmatch(cell.replace(",", ".", 1)) is not None
    if needs or quoted or format.quoting == "all" or (format.quoting == "words" and not number):
        return f"{quote}{cell.replace(quote, quote * 2)}{quote}"
    return cell


class _Bare(float):
    """A number that the csv module leaves without quotes, spelt as it was."""

    word: str

    def __new__(cls, word: str) -> _Bare:
        made = super().__new__(cls, word.replace(",", ".", 1))
        made.word = word
        return made

    def __repr__(self) -> str:
        return self.word

    __str__ = __repr__


@dataclass
class _Spaced:
    """A file in which a blank follows each separator outside quotes."""

    file: Any
    separator: str
    quoted: bool = field(default=False)

    def write(self, line: str) -> None:
        parts = []
        for character in line:
            self.quoted ^= character == '"'
            parts.append(character + " " if character == self.separator and not self.quoted else character)
        self.file.write("".join(parts))


def _write_lines(rows: Iterable[Row], path: Path, names: Sequence[str], types: Sequence[str], format: Format) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            cells = (
                f"{json.dumps(name, ensure_ascii=False)}: {_json(cell, type)}"
                for name, cell, type in zip(names, row, types)
            )
            file.write("{" + ", ".join(cells) + "}\n")


def _json(cell: str | None, type: str) -> str:
    if cell is None or (cell == "" and type == "text"):
        return "null"
    if type in ("number", "boolean", "bool"):
        return cell
    if type.startswith(SQL) and affinity(type.removeprefix(SQL)) == "TEXT":
        return json.dumps(cell, ensure_ascii=False)
    number = NUMBER.fullmatch(cell) and not cell.lstrip("-").startswith(("+", ".", "00")) and not cell.endswith(".")
    plain = number and type not in ("string", "large_string") and "nan" not in cell
    return cell if plain else json.dumps(cell, ensure_ascii=False)


def _write_parquet(rows: Iterable[Row], path: Path, names: Sequence[str], types: Sequence[str], making: str) -> None:
    pa, pq = arrow(), arrow("pyarrow.parquet")
    schema = pa.schema([pa.field(name, arrow_type(type)) for name, type in zip(names, types)])
    schema = schema.with_metadata({KEY: making}) if making else schema
    with pq.ParquetWriter(path, schema) as writer:
        for block in _blocks(rows):
            columns = [_arrow_column(pa, cells, field.type) for cells, field in zip(zip(*block, strict=True), schema)]
            writer.write_table(pa.table(columns, schema=schema))


def _blocks(rows: Iterable[Row]) -> Iterable[list[Row]]:
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def arrow_type(type: str) -> Any:
    """The arrow type that a column's type names; of CSV and JSON what fits their words."""
    pa = arrow()
    if type.startswith(SQL):
        return {"INTEGER": pa.int64(), "REAL": pa.float64()}.get(affinity(type.removeprefix(SQL)), pa.string())
    if match := re.fullmatch(r"timestamp\[(\w+)(?:, tz=(.+))?\]", type):
        return pa.timestamp(match[1], tz=match[2])
    if match := re.fullmatch(r"(decimal\d+)\((\d+), (-?\d+)\)", type):
        return getattr(pa, match[1])(int(match[2]), int(match[3]))
    if match := re.fullmatch(r"dictionary<values=([^,]+), indices=(\w+), ordered=(\d)>", type):
        return pa.dictionary(arrow_type(match[2]), arrow_type(match[1]), match[3] == "1")
    known = {"text": "string", "number": "double", "boolean": "bool"}
    plain = {"halffloat": "float16", "float": "float32", "double": "float64"}
    name = known.get(type, type)
    if match := re.fullmatch(r"date(32|64)\[\w+\]", name):
        return getattr(pa, f"date{match[1]}")()
    return getattr(pa, {**plain, "bool": "bool_", "null": "null"}.get(name, name))()


def _arrow_column(pa: Any, cells: Sequence[str | None], type: Any) -> Any:
    words = pa.array(cells, pa.string())
    inner = type.value_type if pa.types.is_dictionary(type) else type
    if pa.types.is_timestamp(inner) and inner.tz is not None:
        words = words.cast(pa.timestamp("us")).cast(pa.timestamp(inner.unit)).cast(inner)  # the words are UTC's
    elif pa.types.is_timestamp(inner):
        words = words.cast(pa.timestamp("us")).cast(inner)
    elif pa.types.is_floating(inner):
        words = words.cast(pa.float64()).cast(inner, safe=False)
    else:
        words = words.cast(inner)
    return words.dictionary_encode().cast(type) if pa.types.is_dictionary(type) else words


@dataclass(frozen=True)
class Sheet:
    """A few rows to look at: a CSV file."""

    rows: tuple[dict[str, str | None], ...]
    suffix: str = ".csv"

    def save(self, path: Path, /) -> None:
        names = list(self.rows[0]) if self.rows else []
        write_rows((tuple(row.values()) for row in self.rows), path, names, ["text"] * len(names))
