"""Documents from disk: a folder of text or code, one file, or rows of a table of texts, with a line about all that is left out.

Nothing is executed or unpickled, and no file is decoded before its size is known to be within bounds.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.data.errors import DataError, one_line, shortened, shown

_KNOWN = """
.py .pyi .js .mjs .ts .tsx .jsx .c .h .cc .cpp .cxx .hpp .rs .go .java .kt .scala .swift .rb .php .pl .lua .r .jl .sh .bash
.sql .cs .m .mm .f90 .f .hs .ml .ex .erl .clj .lisp .el .vim .tex .bib .md .rst .txt .html .css .scss .xml .svg .json .yaml
.yml .toml .ini .cfg .csv .tsv .fasta .fa
"""
SUFFIXES = frozenset(_KNOWN.split())
TABLES = (".jsonl", ".parquet")
SKIPPED = ("__pycache__", "node_modules", "site-packages", "dist-packages")
"""Folders of other people's or of generated files, left out unless the data are inside one; hidden ones always are."""
PIECES = 40  # parts of a single document, so that some can be held out
_HEAD = 8192

Say = Callable[[str], None]


class Document(NamedTuple):
    """One text: its name for messages, and its bytes, which are UTF-8. The first `given` of them are a prompt: in sight, and
    not learned."""

    name: str
    text: bytes
    given: int = 0

    @property
    def key(self) -> bytes:
        """A hash of the content: copies have the same."""
        return blake2b(self.text, digest_size=16).digest()


@dataclass(frozen=True)
class Limits:
    """What a text may be at most: bytes of one document, bytes of all."""

    document: int = 4 << 20
    total: int = 1 << 30


@dataclass(frozen=True)
class Wanted:
    """What of a path is read: files of these `suffixes` (none: those of SUFFIXES and TABLES), not below folders named in SKIPPED
    or `skip`; of rows the text in `column`, after what is given in `prompts`, if anything; nothing beyond `limits`."""

    suffixes: Sequence[str] = ()
    skip: Sequence[str] = ()
    column: str = "text"
    prompts: str | None = None
    limits: Limits = Limits()


@dataclass
class Skipped:
    """What was left out and why; `first` examples of each reason are said in full, the rest counted."""

    tell: Say
    first: int = 5
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, reason: str, detail: str) -> None:
        """One line about `name`, unless that reason was given often enough."""
        self.reasons[reason] += 1
        if self.reasons[reason] <= self.first:
            self.tell(f"{shown(name)}: {detail}")

    def close(self) -> None:
        """How many more there were of each."""
        for reason, times in sorted(self.reasons.items()):
            if times > self.first:
                self.tell(f"and {times - self.first} more were {reason}")


def read(path: Path, tell: Say, wanted: Wanted = Wanted()) -> list[Document]:
    """What is learned from: the documents at `path` as in `every`; a single one is cut into PIECES at ends of lines."""
    found = every(path, tell, wanted)
    if len(found) == 1 and not found[0].given:
        found = pieces(found[0])
        tell(f"one document: cut into {len(found)} pieces at ends of lines, so that some can be held out")
    return found


def every(path: Path, tell: Say, wanted: Wanted = Wanted()) -> list[Document]:
    """The documents at `path`, in the order of their names, copies dropped; `tell` hears one line about each file left out.

    A folder is searched, but not below hidden folders; a file is read whatever its suffix. Rows of .jsonl and .parquet are
    documents. Raises DataError where nothing is left, or more than `wanted.limits.total` bytes.
    """
    skipped = Skipped(tell)
    documents: dict[bytes, Document] = {}
    total = 0
    for document in _documents(path, skipped, wanted):
        if document.key in documents:
            skipped.add(document.name, "copies", f"the same as {shown(documents[document.key].name)}; left out")
            continue
        total += len(document.text)
        if total > wanted.limits.total:
            raise DataError(
                f"{shown(path)}: holds more than {wanted.limits.total / 1e6:,.0f} MB of text; choose a part of it by "
                "--suffixes or --skip, or raise --limit-mb"
            )
        documents[document.key] = document
    skipped.close()
    if not documents:
        raise DataError(f"{shown(path)}: no text is left; every file found was left out, see above")
    return list(documents.values())


def _documents(path: Path, skipped: Skipped, wanted: Wanted) -> Iterator[Document]:
    if path.is_file():
        yield from _of_file(path, path.name, skipped, wanted)
        return
    if not path.is_dir():
        raise DataError(
            f"{shown(path)}: there is no such file or folder; expected a folder of text or code, or one file"
        )
    suffixes = {each if each.startswith(".") else f".{each}" for each in wanted.suffixes} or {*SUFFIXES, *TABLES}
    seen: Counter[str] = Counter()
    taken = 0
    for file in _walk(path, frozenset({*SKIPPED, *wanted.skip})):
        seen[file.suffix.lower() or "(none)"] += 1
        if file.suffix.lower() in suffixes:
            taken += 1
            yield from _of_file(file, file.relative_to(path).as_posix(), skipped, wanted)
    if not taken:
        there = ", ".join(f"{shown(suffix)} ({number})" for suffix, number in seen.most_common(6)) or "no files"
        raise DataError(
            f"{shown(path)}: no file has one of the suffixes {' '.join(sorted(suffixes)[:12])}{' ...' * (len(suffixes) > 12)}; "
            f"found {there}. Choose with --suffixes"
        )


def _walk(folder: Path, skip: frozenset[str]) -> Iterator[Path]:
    """Files below the folder in the order of their paths; links to folders are not followed."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skip and not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root, name)


def _of_file(file: Path, name: str, skipped: Skipped, wanted: Wanted) -> Iterator[Document]:
    suffix = file.suffix.lower()
    try:
        if suffix == ".jsonl":
            rows = _json_lines(file, name, wanted)
        elif suffix == ".parquet":
            rows = _parquet(file, name, wanted)
        else:
            rows = iter([(name, _whole(file, wanted.limits), 0)])
        for row, text, given in rows:
            problem = wrong_with(text, wanted.limits)
            if problem is None and not text[given:].strip():
                problem = "empty", "empty after its prompt; left out"
            if problem is None:
                yield Document(row, text if given else text.removeprefix(b"\xef\xbb\xbf"), given)
            else:
                skipped.add(row, *problem)
    except OSError as error:
        skipped.add(name, "unreadable", f"cannot be read ({one_line(error)}); left out")


def _whole(file: Path, limits: Limits) -> bytes:
    """The file's bytes, of which one more than the limit is read: enough to refuse it."""
    if not file.is_file():  # a pipe or a socket would never end
        raise OSError("not a regular file")
    with file.open("rb") as stream:
        return stream.read(limits.document + 1)


def wrong_with(text: bytes, limits: Limits) -> tuple[str, str] | None:
    """Why a document cannot be used: (kind, what is wrong and what would be right), or None."""
    if not text.strip():
        return "empty", "empty; left out"
    if len(text) > limits.document:
        return "too large", f"more than {limits.document / 1e6:.1f} MB; left out (--document-mb allows more)"
    if b"\0" in text[:_HEAD]:
        return "binary", f"binary (a zero byte at {text.index(0)}); left out"
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return "not UTF-8", f"not UTF-8 (byte 0x{text[error.start]:02x} at {error.start}); left out, save it as UTF-8"
    return None


def _json_lines(file: Path, name: str, wanted: Wanted) -> Iterator[tuple[str, bytes, int]]:
    with file.open("rb") as stream:
        for number in count(1):
            line = stream.readline(6 * wanted.limits.document + 1024)  # a character may be escaped as six
            if not line:
                return
            where = f"{name}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{shown(where)}: is no line of JSON ({one_line(error)})") from None
            for column, option in _asked(wanted):
                if not isinstance(row, dict) or not isinstance(row.get(column), str):
                    there = _listed(row) if isinstance(row, dict) else type(row).__name__
                    raise DataError(
                        f"{shown(where)}: has no text in {column!r} (it holds {there}); choose with {option}"
                        f"{_pair(row, wanted)}"
                    )
            yield where, *_joined(*(row[column] for column, _ in _asked(wanted)))


def _parquet(file: Path, name: str, wanted: Wanted) -> Iterator[tuple[str, bytes, int]]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(f"{shown(name)}: .parquet needs pyarrow: pip install pyarrow") from None
    try:
        table = pyarrow.parquet.ParquetFile(file)
    except Exception as error:  # a damaged file may raise almost anything
        raise DataError(f"{shown(name)}: is no parquet file that can be read ({one_line(error)})") from None
    schema = table.schema_arrow
    kinds = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    for column, option in _asked(wanted):
        index = schema.get_field_index(column)
        if index < 0 or not any(kind(schema.field(index).type) for kind in kinds):
            there = _listed(f"{field.name} ({field.type})" for field in schema)
            raise DataError(
                f"{shown(name)}: has no column of text named {column!r} (it holds {there}); choose with {option}"
                f"{_pair(schema.names, wanted)}"
            )
    # By whole groups, which are in memory one at a time: what a damaged file says of a column aborts the process in pyarrow
    size = max((table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups)), default=0)
    if size > 8 * wanted.limits.total:
        raise DataError(
            f"{shown(name)}: a group of its rows unpacks to {size / 1e6:,.0f} MB, more than 8 times --limit-mb "
            f"{wanted.limits.total / 1e6:,.0f}; write it with smaller row groups"
        )
    number = 0
    try:
        columns = [column for column, _ in _asked(wanted)]
        for batch in table.iter_batches(batch_size=64, columns=columns):
            for row in zip(*(batch.column(column).to_pylist() for column in columns)):
                yield f"{name}[{number}]", *_joined(*(text or "" for text in row))
                number += 1
    except Exception as error:
        raise DataError(f"{shown(name)}: damaged after row {number} ({one_line(error)})") from None


def _asked(wanted: Wanted) -> list[tuple[str, str]]:
    """Column and option of what is asked of a row, in the order in which it stands in the text."""
    before = [] if wanted.prompts is None else [(wanted.prompts, "--prompts")]
    return [*before, (wanted.column, "--column")]


def _pair(names: Any, wanted: Wanted) -> str:
    """A hint for rows that are pairs, where nobody said so."""
    usual = (wanted.column, wanted.prompts) == ("text", None)
    if usual and isinstance(names, (dict, list)) and {"prompt", "completion"} <= {*map(str, names)}:
        return " (of pairs: --prompts prompt --column completion)"
    return ""


def _joined(*parts: str) -> tuple[bytes, int]:
    """The text of a row, (prompt and) text, and how many bytes of it are its prompt."""
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(raw), sum(map(len, raw[:-1]))


def _listed(names: Iterable[str], most: int = 8) -> str:
    """The first few names, in a line."""
    return ", ".join(shortened(shown(name), 40) for name in islice(names, most))


def pieces(document: Document, count: int = PIECES) -> list[Document]:
    """The document cut at ends of lines into up to `count` parts of about the same size; joined they are the document."""
    step = max(1, len(document.text) // count)
    out: list[Document] = []
    start = 0
    while start < len(document.text):
        stop = document.text.find(b"\n", min(start + step, len(document.text))) + 1 or len(document.text)
        out.append(Document(f"{document.name}[bytes {start} to {stop}]", document.text[start:stop]))
        start = stop
    return out
