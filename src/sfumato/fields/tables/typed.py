"""Reading files that know their types: parquet and JSON lines."""

from __future__ import annotations

import importlib
import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import decoding, one_line, shown
from sfumato.errors import DataError, install
from sfumato.fields.tables.table import MOST_COLUMNS, Column, Format, Table

MOST_CELLS = 500_000_000  # of a parquet file, from its header


def arrow(module: str = "pyarrow") -> Any:
    """pyarrow or one of its parts. Raises DataError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"parquet files need pyarrow: {install('tables')}") from None


def read_parquet(path: Path) -> Table:
    pa, pq = arrow(), arrow("pyarrow.parquet")
    with decoding(path, "save it again"):
        file = pq.ParquetFile(path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        if len(schema) > MOST_COLUMNS or rows * len(schema) > MOST_CELLS:
            raise DataError(f"{shown(path)}: {rows} rows of {len(schema)} columns, at most {MOST_CELLS} cells are read")
        columns = [_arrow_column(pa, path, field, file.read([field.name])[field.name]) for field in schema]
    return Table(tuple(columns), Format(suffix=".parquet"))


def _arrow_column(pa: Any, path: Path, field: Any, values: Any) -> Column:
    types, kind = pa.types, field.type
    if types.is_dictionary(kind):
        kind = kind.value_type
        values = values.cast(kind)
    allowed = (
        types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_date, types.is_timestamp,
        types.is_string, types.is_large_string, types.is_null,
    )  # fmt: skip
    if not any(allows(kind) for allows in allowed):
        raise DataError(
            f"{shown(path)}: column {shown(field.name)!r} holds {kind}; a table holds numbers, words, booleans and dates"
        )
    if types.is_timestamp(kind):
        values = values.cast(pa.timestamp("us"))  # wall clock of UTC where there is a zone
    coded = values.combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    words = coded.dictionary.cast(pa.string()).to_pylist()
    codes = np.asarray(coded.indices.fill_null(len(words)), dtype=np.int32)
    if coded.null_count:
        words = [*words, None]
    return Column(field.name, tuple(words), codes, str(field.type if types.is_dictionary(field.type) else kind))


class _Number(str):
    """A JSON number, as it is spelt."""


def read_lines(path: Path) -> Table:
    known: dict[str, dict[Any, int]] = {}
    codes: dict[str, array[int]] = {}
    types: dict[str, str] = {}
    rows = 0
    with path.open("rb") as file:
        for line, raw in enumerate(iter(lambda: file.readline(1 << 24), b""), 1):
            if not raw.strip():
                continue
            for name, value in _object(path, line, raw).items():
                if name not in codes:
                    if len(codes) == MOST_COLUMNS:
                        raise DataError(f"{shown(path)}, line {line}: more than {MOST_COLUMNS} names")
                    known[name], codes[name] = {None: 0}, array("i", bytes(4 * rows))
                if value is not None:
                    word, kind = _spelt(path, line, name, value)
                    if types.setdefault(name, kind) != kind:
                        raise DataError(
                            f"{shown(path)}, line {line}: {shown(name)!r} is a {kind} here and a {types[name]} above"
                        )
                    value = word
                codes[name].append(known[name].setdefault(value, len(known[name])))
            rows += 1
            for column in codes.values():
                if len(column) < rows:
                    column.append(0)
    columns = (
        _used(Column(name, tuple(known[name]), np.array(column, dtype=np.int32), types.get(name, "string")))
        for name, column in codes.items()
    )
    if not codes:
        raise DataError(f"{shown(path)}: has no rows; give a table with some")
    return Table(tuple(columns), Format(suffix=".jsonl"))


def _used(column: Column) -> Column:
    """Without the null if no row has it."""
    if column.counts()[0]:
        return column
    return replace(column, words=column.words[1:], codes=column.codes - 1)


def _object(path: Path, line: int, raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown(path)}, line {line}: not JSON ({one_line(error)})") from None
    if (
        b"\\u" in raw or b"\xed" in raw
    ):  # so can JSON spell what is no text, and json reads halves of characters as bytes
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{shown(path)}, line {line}: is no text ({one_line(error)})") from None
    if not isinstance(row, dict):
        raise DataError(f'{shown(path)}, line {line}: must be an object, as in {{"age": 31}}')
    return row


def _spelt(path: Path, line: int, name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return ("true" if value else "false"), "boolean"
    if isinstance(value, _Number):
        return str(value), "number"
    if isinstance(value, str):
        return value, "string"
    raise DataError(f"{shown(path)}, line {line}: {shown(name)!r} is nested; a table has one value in a cell")
