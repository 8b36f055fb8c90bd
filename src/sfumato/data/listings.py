"""Tables of captions: .csv, .tsv, .jsonl and .parquet files of which one column names pictures and others say what is seen."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sfumato.data.errors import DataError, one_line, shown
from sfumato.data.wording import Heard, decoded
from sfumato.errors import decoding, shortened

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PICTURES = ("file_name", "filename", "file", "path", "image", "picture", "image_path", "img")
WORDS = ("text", "caption", "captions", "prompt", "description")
MOST_BYTES = 2 << 30
"""Of a table that is text."""
MOST_ROWS = 10_000_000
REMEDY = "write it anew"
NAME = 60
"""Characters of a name, of a column or a file, that a message repeats."""

Row = Mapping[str, Any]
Rows = Callable[[Sequence[str]], Iterator[tuple[str, Row]]]
"""Names of columns that are wanted -> (place for messages, values by name) of each row."""


def opened(path: Path, heard: Heard) -> tuple[list[str], Rows]:
    """The columns of a table, and what reads its rows. Raises DataError, on the way too."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{shown(path)}: a table of captions ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    if suffix == ".parquet":
        return _parquet(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise DataError(
            f"{shown(path)}: {size / 1e9:.1f} GB of text; at most {MOST_BYTES / 1e9:.1f} are read, use .parquet"
        )
    text = decoded(path.read_bytes(), str(path), heard)
    return _lines(path, text) if suffix == ".jsonl" else _csv(path, text)


def _csv(path: Path, text: str) -> tuple[list[str], Rows]:
    first = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)

    def lines() -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise DataError(f"{shown(path)}, line {reader.line_num}: {one_line(error)}") from None

    every = lines()
    names = [name.strip() for name in next(every, [])]
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise DataError(
            f"{shown(path)}: its first line must name two columns or more, each once, such as file_name,text; it is "
            f"{shown(first.strip()[:80])!r}"
        )

    def found() -> Iterator[tuple[str, Row]]:
        for row in every:
            if not row:  # an empty line, which ends many files
                continue
            where = f"{path.name}, line {reader.line_num}"
            if len(row) != len(names):
                raise DataError(
                    f"{shown(path)}, line {reader.line_num}: {len(row)} cells where {len(names)} columns are named; text "
                    f"with {separator!r} in it stands in double quotes"
                )
            yield where, dict(zip(names, row))

    return names, lambda wanted: found()


def _lines(path: Path, text: str) -> tuple[list[str], Rows]:
    def found() -> Iterator[tuple[str, Row]]:
        for number, line in enumerate(io.StringIO(text), 1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{shown(path)}, line {number}: is no JSON ({one_line(error)})") from None
            if not isinstance(row, dict):
                raise DataError(f"{shown(path)}, line {number}: must be names and values, such as "
                                '{"file_name": "a.png", "text": "a red hat"}')  # fmt: skip
            yield where, row

    every = found()
    head = list(islice(every, 1))
    if not head:
        raise DataError(f"{shown(path)}: is empty")
    return list(head[0][1]), lambda wanted: chain(head, every)


def _parquet(path: Path) -> tuple[list[str], Rows]:
    try:
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(f"{shown(path)}: .parquet needs pyarrow: pip install pyarrow") from None
    with decoding(path, REMEDY):
        table = pyarrow.parquet.ParquetFile(path)
        count, names = table.metadata.num_rows, list(table.schema_arrow.names)
    if count > MOST_ROWS:
        raise DataError(f"{shown(path)}: {count:,} rows, at most {MOST_ROWS:,} are read")

    def found(wanted: Sequence[str]) -> Iterator[tuple[str, Row]]:
        number = 0
        with decoding(path, f"it is damaged behind row {number}; {REMEDY}"):
            batches = table.iter_batches(batch_size=64, columns=list(wanted))
        while True:
            with decoding(path, f"it is damaged behind row {number}; {REMEDY}"):
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            if batch is None:
                return
            for row in rows:
                yield f"{path.name}[{number}]", row
                number += 1

    return names, found


def unknown(path: Path, name: str, names: Sequence[str], option: str) -> DataError:
    """What is said of a column that is not among those that there are."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    has = ", ".join(shortened(shown(each), NAME) for each in names[:20])
    return DataError(f"{shown(path)}: has no column {name!r} (it has {has}); choose with {option}{hint}")


def columns(path: Path, names: Sequence[str], picture: str | None, words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The column that names pictures and those that say what is seen: what was asked for, or the first of the usual names.

    Raises DataError for a column that is not there, and says which are.
    """

    def known(name: str, option: str) -> str:
        if name in names:
            return name
        raise unknown(path, name, names, option)

    low = {name.lower(): name for name in reversed(names)}
    found = (
        known(picture, "--picture-column") if picture else next((low[name] for name in PICTURES if name in low), None)
    )
    if found is None:
        known(PICTURES[0], "--picture-column")
    texts = (
        tuple(known(name, "--caption-column") for name in words)
        or tuple(low[name] for name in WORDS if name in low)[:1]
    )
    if not texts:
        known(WORDS[0], "--caption-column")
    assert found is not None
    return found, texts
