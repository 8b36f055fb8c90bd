"""Reading tables: a file becomes columns of distinct words and a code for each row, and how it was spelt is kept.

    "city,age\\nRome,31\\nRome,\\n"   ->   city: words ("Rome",), codes [0, 0]      age: words ("31", ""), codes [0, 1]

So nothing is decided about a cell here: numbers, dates and gaps are found among the distinct words (``columns.py``), each
looked at once however many rows repeat it. A word of None is a null that the file itself knows (parquet, JSON).
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import one_line, shown
from sfumato.errors import DataError

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
MOST_BYTES = 4 << 30  # of a file
MOST_CELLS = 500_000_000  # of a parquet file, from its header
MOST_COLUMNS = 5000
LOOKED_AT = 200  # lines from which the spelling of a CSV file is found
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
Say = Callable[[str], Any]


@dataclass(frozen=True)
class Format:
    """How a file spells a table; samples are spelt alike.

    Args:
        encoding: of the text, as Python names it ("utf-8-sig" has a byte-order mark).
        separator, quote: one character each.
        quoting: which cells are quoted: those that "need" it, "all", or all "words", which is all but the numbers.
        space: a blank follows each separator.
        header: the first row holds the names.
        newline: how a line ends.
    """

    suffix: str = ".csv"
    encoding: str = "utf-8"
    separator: str = ","
    quote: str = '"'
    quoting: str = "need"
    space: bool = False
    header: bool = True
    newline: str = "\n"

    def words(self) -> str:
        """The format in words, for `inspect`."""
        if self.suffix not in (".csv", ".tsv"):
            return self.suffix[1:]
        names = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
        head = "a header" if self.header else "no header"
        return f"{self.suffix[1:]} with {names[self.separator]}, {head}, {self.encoding}"


@dataclass(frozen=True, eq=False)
class Column:
    """One column: ``words[codes[i]]`` is the cell of row i.

    Args:
        words: the distinct cells; None is the file's own null.
        codes: int32 (rows,).
        type: what the file says of it: "text" (CSV), the arrow type (parquet), "number", "boolean" or "string" (JSON).
    """

    name: str
    words: tuple[str | None, ...]
    codes: np.ndarray
    type: str = "text"

    def counts(self) -> np.ndarray:
        """Rows of each word: int64 (words,)."""
        return np.bincount(self.codes, minlength=len(self.words))

    def cells(self) -> list[str | None]:
        """The cell of each row."""
        return [self.words[code] for code in self.codes.tolist()]

    def take(self, rows: np.ndarray) -> Column:
        return replace(self, codes=self.codes[rows])

    @classmethod
    def of(cls, name: str, cells: Iterable[str | None], type: str = "text") -> Column:
        """From cells, row by row; words are numbered as they first appear."""
        known: dict[str | None, int] = {}
        codes = array("i", (known.setdefault(cell, len(known)) for cell in cells))
        return cls(name, tuple(known), np.frombuffer(codes, dtype=np.int32) if codes else np.zeros(0, np.int32), type)


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length and the spelling of the file they come from."""

    columns: tuple[Column, ...]
    format: Format = Format()

    def __len__(self) -> int:
        return len(self.columns[0].codes)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def take(self, rows: np.ndarray) -> Table:
        return replace(self, columns=tuple(column.take(rows) for column in self.columns))

    def rows(self) -> list[tuple[str | None, ...]]:
        return list(zip(*(column.cells() for column in self.columns), strict=True))

    def keys(self) -> list[bytes]:
        """A key of each row by its content alone, equal for equal rows, whatever the order of the columns."""
        return [key.tobytes() for key in self.hashes()]

    def hashes(self) -> np.ndarray:
        """The same as numbers: uint64 (rows,)."""
        total = np.zeros(len(self), dtype=np.uint64)
        for column in self.columns:
            words = np.array([_hash(column.name, word) for word in column.words], dtype=np.uint64)
            total += words[column.codes]  # a sum of independent hashes: wraps around, does not mind the order
        return total

    def source(self) -> str:
        """Hash of the whole content, row by row: to find that a file changed under a run."""
        names = "\0".join(f"{column.name}\0{column.type}" for column in self.columns)
        return hashlib.blake2b(names.encode() + self.hashes().tobytes(), digest_size=16).hexdigest()


def _hash(name: str, word: str | None) -> int:
    data = f"{len(name)}:{name}".encode() + (b"\0" if word is None else b"\1" + word.encode("utf-8", "surrogatepass"))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def read_table(path: Path, tell: Say = lambda line: None, like: Format | None = None) -> Table:
    """The table in a .csv, .tsv, .parquet or .jsonl file.

    Args:
        tell: is told what was found where a person might have meant something else.
        like: the spelling, instead of looking for it (CSV).

    Raises:
        DataError: a file that is missing, of another kind, too large, damaged, without rows or with two columns of one
            name; a line with another number of cells; nested values.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{shown(path)}: a table is a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{shown(path)}: {path.stat().st_size >> 30} GiB, at most {MOST_BYTES >> 30} are read")
    reader = {".parquet": _read_parquet, ".jsonl": _read_lines}.get(suffix)
    table = reader(path) if reader else _read_csv(path, tell, like)
    twice = [name for name, count in Counter(table.names).items() if count > 1]
    if twice:
        raise DataError(f"{shown(path)}: two columns are called {shown(twice[0])!r}: give each its own name")
    if not len(table):
        raise DataError(f"{shown(path)}: has no rows")
    return table


# ---- CSV -------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, tell: Say, like: Format | None) -> Table:
    found = like or replace(_sniff(path, tell), suffix=path.suffix.lower())
    codes: list[array[int]] = []
    known: list[dict[str, int]] = []
    names: list[str] = []
    with _text(path, found) as file:
        reader = _reader(file, found)
        try:
            for row in reader:
                if not names:
                    if len(row) > MOST_COLUMNS:
                        raise DataError(f"{shown(path)}: {len(row)} columns, at most {MOST_COLUMNS} are read")
                    names = (
                        [cell.strip() for cell in row] if found.header else [f"column_{i + 1}" for i in range(len(row))]
                    )
                    codes, known = [array("i") for _ in row], [{} for _ in row]
                    if found.header:
                        continue
                if len(row) != len(names):
                    if not row:  # an empty line, which ends many files
                        continue
                    raise DataError(
                        f"{shown(path)}, line {reader.line_num}: {len(row)} cells where {len(names)} columns are named"
                    )
                for cell, column, words in zip(row, codes, known):
                    column.append(words.setdefault(cell, len(words)))
        except csv.Error as error:
            raise DataError(f"{shown(path)}, line {reader.line_num}: {one_line(error)}") from error
    if not names:
        raise DataError(f"{shown(path)}: is empty; a table needs a line of names and rows below it")
    for i, name in enumerate(names):
        if not name:
            names[i] = f"column_{i + 1}"
    return Table(
        tuple(
            Column(name, tuple(words), np.array(column, dtype=np.int32))
            for name, column, words in zip(names, codes, known)
        ),
        found,
    )


def _text(path: Path, found: Format) -> io.TextIOWrapper:
    return path.open(encoding=found.encoding, newline="")


def _reader(lines: Iterable[str], found: Format) -> Any:
    return csv.reader(
        (line.replace("\0", "\N{REPLACEMENT CHARACTER}") for line in lines),
        delimiter=found.separator,
        quotechar=found.quote,
        skipinitialspace=found.space,
        strict=True,
    )


def _sniff(path: Path, tell: Say) -> Format:
    """How a CSV file is spelt, from its bytes and its first lines."""
    encoding = _encoding(path, tell)
    with path.open(encoding=encoding, newline="") as file:
        head = list(islice(_bounded(file, path), LOOKED_AT))
    newline = "\r\n" if head and head[0].endswith("\r\n") else "\n"
    quote = _quote(head)
    best = max((_evenness(head, separator, quote), -i, separator) for i, separator in enumerate(",;\t|"))
    separator = best[2]
    space = len(head) > 0 and all(
        line.count(separator + " ") == line.count(separator) for line in head if separator in line
    )
    space = space and any(separator in line for line in head)
    found = Format(encoding=encoding, separator=separator, quote=quote, space=space, newline=newline)
    first = _first_row(head, found)
    header = not any(NUMBER.fullmatch(cell.strip().replace(",", ".", 1)) for cell in first)
    if not header:
        tell(
            f"{shown(path)}: the first row holds numbers, so the columns have no names: column_1 to column_{len(first)}"
        )
    return replace(found, header=header, quoting=_quoting(head, found))


def _first_row(head: Sequence[str], found: Format) -> list[str]:
    try:
        return next((row for row in _reader(iter(head), found) if row), [])
    except csv.Error:  # the reading itself will say where
        return []


def _bounded(file: io.TextIOWrapper, path: Path, most: int = 1 << 24) -> Iterator[str]:
    while line := file.readline(most):
        if len(line) == most:
            raise DataError(f"{shown(path)}: a line is longer than {most} characters: this is no table")
        yield line


def _encoding(path: Path, tell: Say) -> str:
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "utf-16"
        file.seek(0)
        line = 0
        for line, raw in enumerate(file, 1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                wrong, where = raw[error.start], line
                break
        else:
            return "utf-8-sig" if start.startswith(b"\xef\xbb\xbf") else "utf-8"
        file.seek(0)
        for line, raw in enumerate(file, 1):
            try:
                raw.decode("cp1252")
            except UnicodeDecodeError:
                raise DataError(
                    f"{shown(path)}, line {line}: neither UTF-8 nor Windows-1252 text; save the file as UTF-8"
                ) from None
    tell(f"{shown(path)}, line {where}: byte {wrong:#x} is not UTF-8; read as Windows-1252, and written so too")
    return "cp1252"


def _quote(head: Sequence[str]) -> str:
    """The double quote, unless only single ones stand where a cell begins or ends."""
    edges = Counter(quote for line in head for quote in re.findall(r"(?:^|[,;\t|])\s?(['\"])", line))
    return "'" if edges["'"] > 0 and not edges['"'] and _balanced(head) else '"'


def _balanced(head: Sequence[str]) -> bool:
    return all(line.count("'") % 2 == 0 for line in head)


def _evenness(head: Sequence[str], separator: str, quote: str) -> float:
    """How well a separator cuts all lines into the same number of cells: 0 where it cuts none."""
    try:
        found = Format(separator=separator, quote=quote)
        counts = Counter(len(row) for row in _reader(iter(head), found) if row)
    except csv.Error:
        counts = Counter(line.count(separator) + 1 for line in head)
    cells, lines = counts.most_common(1)[0] if counts else (1, 0)
    return 0.0 if cells == 1 else lines / sum(counts.values())


def _quoting(head: Sequence[str], found: Format) -> str:
    """Which cells are quoted, from the file as it stands: the reader takes the quotes off."""
    quote, bare, words, numbers = re.escape(found.quote), 0, 0, 0
    pattern = re.compile(rf"\s?({quote}(?:[^{quote}]|{quote}{quote})*{quote}|[^{re.escape(found.separator)}\r\n]*)")
    for line in head[1 if found.header else 0 :]:
        for cell in (match.strip() for match in pattern.findall(line) if match.strip()):
            inside = cell.strip(found.quote)
            number = NUMBER.fullmatch(inside.replace(",", ".", 1)) is not None
            if not cell.startswith(found.quote):
                if not number:
                    return "need"
                bare += 1
            elif number:
                numbers += 1
            else:
                words += 1
    if bare == 0 and numbers + words > 0:
        return "all"
    return "words" if words > 0 and numbers == 0 else "need"


# ---- parquet, JSON lines ---------------------------------------------------------------------------------------------


def arrow(module: str = "pyarrow") -> Any:
    """pyarrow or one of its parts. Raises DataError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError("parquet files need pyarrow: pip install 'sfumato[tables]'") from None


def _read_parquet(path: Path) -> Table:
    pa, pq = arrow(), arrow("pyarrow.parquet")
    try:
        file = pq.ParquetFile(path)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        if len(schema) > MOST_COLUMNS or rows * len(schema) > MOST_CELLS:
            raise DataError(f"{shown(path)}: {rows} rows of {len(schema)} columns, at most {MOST_CELLS} cells are read")
        columns = [_arrow_column(pa, path, field, file.read([field.name])[field.name]) for field in schema]
    except pa.ArrowException as error:
        raise DataError(f"{shown(path)}: cannot be read as parquet ({one_line(error)})") from error
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


def _read_lines(path: Path) -> Table:
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
        raise DataError(f"{shown(path)}: has no rows")
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
