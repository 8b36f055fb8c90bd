"""Reading tables: what a file is and how it is spelt is found by looking, and said where a person might mean something else."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import one_line, shown
from sfumato.errors import DataError
from sfumato.fields.tables.kinds import GAPS
from sfumato.fields.tables.sqlite import SUFFIXES as DATABASES
from sfumato.fields.tables.sqlite import read_one
from sfumato.fields.tables.table import MOST_COLUMNS, NUMBER, Column, Format, Say, Table
from sfumato.fields.tables.typed import read_lines, read_parquet

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
MOST_BYTES = 4 << 30  # of a file
LOOKED_AT = 200  # lines from which the spelling of a CSV file is found


def read_table(
    path: Path, tell: Say = lambda line: None, like: Format | None = None, table: str | None = None
) -> Table:
    """The table in a .csv, .tsv, .parquet or .jsonl file, or one of a SQLite file.

    Args:
        tell: is told what was found where a person might have meant something else.
        like: the spelling, instead of looking for it (CSV).
        table: its name (SQLite), where the file holds several.

    Raises:
        DataError: a file that is missing, of another kind, too large, damaged, without rows or with two columns of one
            name; a line with another number of cells; nested values.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in DATABASES:
        return read_one(path, table)
    if table is not None:
        raise DataError(
            f"{shown(path)}: --table {table} names a table of a SQLite file, and this is none: leave it out"
        )
    if suffix not in SUFFIXES:
        ends = f"{', '.join(SUFFIXES)} or {DATABASES[0]}"
        raise DataError(f"{shown(path)}: a table is a file that ends in {ends}, or a folder of linked ones")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file; give a table (.csv, .tsv, .jsonl, .parquet)")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{shown(path)}: {path.stat().st_size >> 30} GiB, at most {MOST_BYTES >> 30} are read")
    reader = {".parquet": read_parquet, ".jsonl": read_lines}.get(suffix)
    try:
        found = reader(path) if reader else _read_csv(path, tell, like)
    except UnicodeError as error:  # only a file that begins as UTF-16 is not decoded as a whole beforehand
        raise DataError(
            f"{shown(path)}: is not the text that its first bytes promise ({one_line(error)}); save it as UTF-8"
        ) from None
    twice = next((name for name, count in Counter(found.names).items() if count > 1), None)
    if twice is not None:
        first, second = [i + 1 for i, name in enumerate(found.names) if name == twice][:2]
        raise DataError(
            f"{shown(path)}: columns {first} and {second}, two columns are called {shown(twice)!r}: give each its own name"
        )
    if not len(found):
        raise DataError(f"{shown(path)}: has no rows; give a table with a line of names and rows below it")
    if reader is None:
        _look(path, found, tell)
    return found


def _look(path: Path, table: Table, tell: Say) -> None:
    """A second line of names is refused, and cells that a spreadsheet would work out are said.

    Raises:
        DataError: the first row is words where all others are numbers.
    """
    if len(table) < 5:
        return
    heads = [column for column in table.columns if _headed(column)]
    firsts = [column.words[column.codes[0]] or "" for column in table.columns]
    if heads and table.format.header and not any(_is_number(cell) for cell in firsts):
        word, name = shown(str(heads[0].words[heads[0].codes[0]])), shown(heads[0].name)
        raise DataError(
            f"{shown(path)}: the row below the names holds {word!r} in the column {name!r}, where all others are numbers: a "
            "second line of names? delete it"
        )
    for column in table.columns:
        odd = next((word for word in column.words if word and word[0] in "=@"), None)
        if odd is not None:
            what = f"column {shown(column.name)!r} holds {shown(odd)[:20]!r}"
            tell(f"{what}, which a spreadsheet would work out: it is text here, and written in quotes")


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell.strip().replace(",", ".", 1)) is not None


def _headed(column: Column) -> bool:
    """Whether the first cell alone is a word, and all others are numbers or empty, some of them different numbers."""
    word, counts = column.words[column.codes[0]], column.counts()
    if not word or word.strip() in GAPS or _is_number(word) or counts[column.codes[0]] != 1:
        return False
    rest = [each for each in column.words if each is not word and each is not None and each.strip() not in GAPS]
    return len(rest) > 1 and all(map(_is_number, rest))


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
                        f"{shown(path)}, line {reader.line_num}: {len(row)} cells where {len(names)} columns are named; give "
                        "every row as many (quote cells that hold the separator)"
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
