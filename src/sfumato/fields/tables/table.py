"""A table in memory: columns of distinct words and a code for each row, and how its file was spelt.

    "city,age\\nRome,31\\nRome,\\n"   ->   city: words ("Rome",), codes [0, 0]      age: words ("31", ""), codes [0, 1]

So nothing is decided about a cell here: numbers, dates and gaps are found among the distinct words (``kinds.py``), each
looked at once however many rows repeat it. A word of None is a null that the file itself knows (parquet, JSON).
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError

MOST_COLUMNS = 5000
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
SQL = "sql "
"""Before the type of a column that a database declares."""
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
        type: what the file says of it: "text" (CSV), the arrow type (parquet), "number", "boolean" or "string" (JSON),
            "sql INTEGER" and the like (SQLite).
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
        """Of these rows, with the words that they have."""
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return replace(self, words=tuple(self.words[code] for code in used.tolist()), codes=codes.astype(np.int32))

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


def stacked(tables: Sequence[Table]) -> Table:
    """Tables of the same columns, one below the other (one at least)."""
    columns = []
    for parts in zip(*(table.columns for table in tables), strict=True):
        known: dict[str | None, int] = {}
        codes = []
        for part in parts:
            new = np.array([known.setdefault(word, len(known)) for word in part.words], dtype=np.int32)
            codes.append(new[part.codes] if len(new) else part.codes)
        columns.append(replace(parts[0], words=tuple(known), codes=np.concatenate(codes)))
    return replace(tables[0], columns=tuple(columns))


def without(table: Table, names: Sequence[str]) -> Table:
    """The table without some columns.

    Raises:
        DataError: a column that is not there, or none left.
    """
    for name in names:
        if name not in table.names:
            raise DataError(
                f"--leave-out names {shown(name)!r}, but the columns are {', '.join(map(shown, table.names))}"
            )
    kept = tuple(column for column in table.columns if column.name not in names)
    if not kept:
        raise DataError("--leave-out leaves no column")
    return replace(table, columns=kept)


def _hash(name: str, word: str | None) -> int:
    data = f"{len(name)}:{name}".encode("utf-8", "surrogatepass") + (
        b"\0" if word is None else b"\1" + word.encode("utf-8", "surrogatepass")
    )
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
