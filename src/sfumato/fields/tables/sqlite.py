"""SQLite files: tables with the types, keys and links that they declare, in and out.

A database is opened for reading alone; no view, trigger or function of it is run.
"""

from __future__ import annotations

import re
import sqlite3
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import one_line, shown
from sfumato.errors import DataError
from sfumato.fields.tables.kinds import GAPS
from sfumato.fields.tables.schema import MOST_TABLES, Entry, Link, ordered
from sfumato.fields.tables.table import MOST_COLUMNS, NUMBER, SQL, Column, Format, Table

SUFFIXES = (".sqlite", ".sqlite3", ".db")
MOST_BYTES = 16 << 30
LONGEST = 1 << 24  # bytes of a cell
MOST_CELLS = 500_000_000  # of a table
_HEAD = b"SQLite format 3\0"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, to be read alone. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file; give a SQLite database")
    with path.open("rb") as file:
        if file.read(len(_HEAD)) != _HEAD:
            raise DataError(f"{shown(path)}: is no SQLite database; give one, or a table as .csv or .parquet")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{shown(path)}: {path.stat().st_size >> 30} GiB, at most {MOST_BYTES >> 30} are read")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA query_only = ON")
            yield connection
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeError) as error:
        raise DataError(f"{shown(path)}: cannot be read ({one_line(error)}); save it again") from error


def names_in(path: Path) -> list[str]:
    """The tables of a database, in alphabetical order. Raises DataError."""
    with _opened(path) as database:
        return _names(path, database)


def _names(path: Path, database: sqlite3.Connection) -> list[str]:
    rows = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    )
    found = [str(name) for (name,) in rows]
    if not found:
        raise DataError(f"{shown(path)}: holds no table; give a database with one")
    if len(found) > MOST_TABLES:
        raise DataError(f"{shown(path)}: {len(found)} tables, at most {MOST_TABLES} are read")
    return found


def read_one(path: Path, name: str | None) -> Table:
    """A table of a database; the only one where no name is given. Raises DataError."""
    with _opened(path) as database:
        names = _names(path, database)
        if name is None and len(names) > 1:
            raise DataError(f"{shown(path)}: holds {len(names)} tables; say which with --table: {', '.join(names)}")
        if name is not None and name not in names:
            raise DataError(f"{shown(path)}: holds no table {name!r}; its tables are {', '.join(names)}")
        return _table(path, database, name or names[0])


def read_database(path: Path) -> tuple[dict[str, Table], tuple[Entry, ...]]:
    """Every table, and what the database says of its keys, parents first. Raises DataError."""
    with _opened(path) as database:
        names = _names(path, database)
        tables = {name: _table(path, database, name) for name in names}
        keys = {name: _key(database, name) for name in names}
        entries = [Entry(name, key=keys[name], links=_links(database, name, keys)) for name in names]
    return tables, ordered(entries, shown(path))


def _key(database: sqlite3.Connection, name: str) -> tuple[str, ...]:
    rows = database.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
    return tuple(str(row[1]) for row in sorted(rows, key=lambda row: row[5]) if row[5])


def _links(database: sqlite3.Connection, name: str, keys: Mapping[str, tuple[str, ...]]) -> tuple[Link, ...]:
    parts: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, _, table, column, to, *_ in database.execute(f"PRAGMA foreign_key_list({_quoted(name)})"):
        parts.setdefault(number, []).append((str(table), str(column), to))
    found = []
    for number in sorted(parts, reverse=True):  # SQLite counts them from the last
        table, columns = parts[number][0][0], tuple(column for _, column, _ in parts[number])
        known = next((each for each in keys if each.lower() == table.lower()), None)
        if known is None:  # a link to a table that is not there is none
            continue
        to = tuple(each for _, _, each in parts[number] if each is not None)
        found.append(Link(columns, known, to or keys[known]))
    return tuple(found)


def _table(path: Path, database: sqlite3.Connection, name: str) -> Table:
    info = database.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
    if len(info) > MOST_COLUMNS:
        raise DataError(f"{shown(path)}: {name} has {len(info)} columns, at most {MOST_COLUMNS} are read")
    columns = [str(row[1]) for row in info]
    codes: list[array[int]] = [array("i") for _ in columns]
    known: list[dict[str | None, int]] = [{} for _ in columns]
    for n, row in enumerate(database.execute(f"SELECT {', '.join(map(_quoted, columns))} FROM {_quoted(name)}"), 1):
        if n * len(columns) > MOST_CELLS:
            raise DataError(f"{shown(path)}: {name} has more than {MOST_CELLS} cells, no more are read")
        for cell, column, words, own in zip(row, columns, known, codes):
            own.append(words.setdefault(_word(path, name, column, n, cell), len(words)))
    if not codes or not codes[0]:
        raise DataError(f"{shown(path)}: the table {name!r} has no rows; fill it, or leave it out of the database")
    return Table(
        tuple(
            Column(column, tuple(words), np.array(own, dtype=np.int32), SQL + str(row[2] or "TEXT"))
            for column, words, own, row in zip(columns, known, codes, info)
        ),
        Format(suffix=".sqlite"),
    )


def _word(path: Path, name: str, column: str, n: int, cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bytes):
        raise DataError(
            f"{shown(path)}: {name}.{column}, row {n}, holds bytes; a table holds numbers, words and dates: leave it out"
        )
    return repr(cell)


# ---- writing -----------------------------------------------------------------------------------------------------------


def affinity(declared: str) -> str:
    """What SQLite makes of a declared type: INTEGER, TEXT, REAL or NUMERIC (sqlite.org/datatype3.html, 3.1)."""
    word = declared.upper()
    if "INT" in word:
        return "INTEGER"
    if any(part in word for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    return "REAL" if any(part in word for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def _declared(column: Column) -> str:
    """The type that a column is declared with: its own, or what fits the words."""
    if column.type.startswith(SQL):
        return column.type.removeprefix(SQL)
    if column.type in ("string", "large_string"):
        return "TEXT"
    words = [word for word in column.words if word is not None and word.strip() not in GAPS]
    if not words or not all(NUMBER.fullmatch(word) and not re.match(r"[+-]?0\d", word) for word in words):
        return "TEXT"
    return "INTEGER" if all(re.fullmatch(r"-?\d{1,18}", word) for word in words) else "REAL"


def _values(column: Column, declared: str) -> list[Any]:
    """The cells as SQLite is to keep them; what is empty in a column of numbers is NULL."""
    kind, own = affinity(declared), column.type.startswith(SQL)
    found: list[Any] = []
    for word in column.words:
        if word is None or (not own and kind != "TEXT" and word.strip() in GAPS):
            found.append(None)
        elif kind == "TEXT" or not NUMBER.fullmatch(word):
            found.append(word)
        else:
            found.append(int(word) if re.fullmatch(r"[+-]?\d{1,18}", word) else float(word))
    return [found[code] for code in column.codes.tolist()]


def write_database(path: Path, tables: Mapping[str, Table], entries: Sequence[Entry] = ()) -> Path:
    """Tables as a new SQLite file, with their keys and links declared. Raises DataError where it cannot be written."""
    known = {entry.name: entry for entry in entries}
    try:
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        try:
            for name, table in tables.items():
                declared = [_declared(column) for column in table.columns]
                connection.execute(_create(name, table, declared, known.get(name, Entry(name))))
                rows = zip(*(_values(column, kind) for column, kind in zip(table.columns, declared)), strict=True)
                connection.executemany(f"INSERT INTO {_quoted(name)} VALUES ({', '.join('?' * len(declared))})", rows)
            connection.commit()
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        raise DataError(f"{shown(path)}: cannot be written ({one_line(error)})") from error
    return path


def _create(name: str, table: Table, declared: Sequence[str], entry: Entry) -> str:
    parts = [
        f"{_quoted(column.name)} {re.sub(r'[^A-Za-z0-9_ (),]', '', kind)}"
        for column, kind in zip(table.columns, declared)
    ]
    there = set(table.names)
    if entry.key and there.issuperset(entry.key):
        parts.append(f"PRIMARY KEY ({', '.join(map(_quoted, entry.key))})")
    for link in entry.links:
        if there.issuperset(link.columns):
            to = ", ".join(map(_quoted, link.to))
            parts.append(
                f"FOREIGN KEY ({', '.join(map(_quoted, link.columns))}) REFERENCES {_quoted(link.table)} ({to})"
            )
    return f"CREATE TABLE {_quoted(name)} ({', '.join(parts)})"
