"""Which films there are, and what is said of each: in files beside them, in a table, in names, or by the folder they lie in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.data import listings
from sfumato.data.errors import DataError, shown
from sfumato.data.wording import Heard, cleaned, of_file, of_name
from sfumato.fields.video.films import ARRAYS, FILMS, MOVING, Film, films_of, numbered
from sfumato.fields.video.options import Kind

BESIDE = (".txt", ".caption")
TABLES = tuple(f"metadata{suffix}" for suffix in listings.SUFFIXES)
LEAST = 2
"""Pictures that make a folder a film."""


@dataclass(frozen=True)
class Said:
    """What is said of a film, from ``start`` to ``end`` in seconds."""

    text: str
    start: float = -math.inf
    end: float = math.inf


@dataclass(frozen=True, eq=False)
class Listing:
    """Films and what is said of each, in a fixed order. how: where words stand. said: what is to be said of it."""

    films: tuple[Film, ...]
    captions: tuple[tuple[Said, ...], ...]
    how: str
    said: tuple[str, ...] = ()


def listed(data: Path, kind: Kind) -> Listing:
    """All films of a folder, a table or a file. Raises DataError where there are none, or words cannot be read."""
    heard = Heard()
    if data.is_file() and data.suffix.lower() in listings.SUFFIXES:
        found = _table(data, heard)
    elif data.is_file() and data.suffix.lower() in ARRAYS:
        found = _array(data, kind, heard)
    elif data.is_file():
        found = _plain([data], data.parent, kind, heard)
    elif not data.is_dir():
        raise DataError(f"{shown(data)}: no such film, folder or table")
    else:
        table = next((data / name for name in TABLES if (data / name).is_file()), None)
        if kind in ("auto", "table") and table is not None:
            found = _table(table, heard)
        elif kind == "table":
            raise DataError(f"{shown(data)}: holds no table ({', '.join(TABLES)}); give the table itself")
        else:
            found = _plain(sorted(films_in(data)), data, kind, heard)
    if not found.films:
        raise DataError(
            f"{shown(data)}: no films in it; expected {', '.join((*FILMS, *MOVING, *ARRAYS))}, or folders of numbered pictures"
        )
    return Listing(found.films, found.captions, found.how, (*found.said, *heard.lines()))


def films_in(folder: Path) -> Iterator[Path]:
    """Files that are films, and folders that are one: of numbered pictures and nothing else."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    inside = [entry for entry in entries if entry.is_dir()]
    own = [entry for entry in entries if entry.suffix.lower() in (*FILMS, *MOVING, *ARRAYS) and entry.is_file()]
    if not inside and not own and len(numbered(folder)) >= LEAST:
        yield folder
        return
    yield from own
    for entry in inside:
        yield from films_in(entry)


def _array(path: Path, kind: Kind, heard: Heard) -> Listing:
    x, words = films_of(path)
    films = tuple(Film(path, part) for part in range(len(x)))
    if kind in ("auto", "beside") and words:
        texts = [cleaned(text, str(path), heard) for text in words]
        return Listing(films, tuple((Said(text),) for text in texts), f"the labels of {path.name}")
    return Listing(films, ((Said(""),),) * len(films), "none")


def _plain(paths: Sequence[Path], root: Path, kind: Kind, heard: Heard) -> Listing:
    """Films with what stands beside them, in their names or their folders' names."""
    films: list[Film] = []
    captions: list[tuple[Said, ...]] = []
    beside = {path: lines for path in paths if (lines := _beside(path, heard))}
    parents = {path.parent for path in paths}
    if kind == "auto":
        kind = "beside" if beside else "folders" if len(parents) > 1 and root not in parents else "none"
    bare = 0
    for path in paths:
        if path.suffix.lower() in ARRAYS and not path.is_dir():
            own = _array(path, "beside" if kind == "beside" else "none", heard)
            films += own.films
            captions += own.captions
            continue
        texts: tuple[str, ...] = ("",)
        if kind == "beside":
            texts = beside.get(path, ("",))
            bare += path not in beside
        elif kind in ("names", "folders"):
            texts = (cleaned(of_name(path.stem if kind == "names" else path.parent.name), str(path), heard),)
        films.append(Film(path))
        captions.append(tuple(map(Said, texts)))
    how = {
        "beside": "caption files beside the films",
        "names": "the names of the films",
        "folders": "the names of the folders",
    }
    said = (f"{bare} films without a caption file, learned from without words",) if bare else ()
    return Listing(tuple(films), tuple(captions), how.get(kind, "none"), said)


def _beside(path: Path, heard: Heard) -> tuple[str, ...]:
    """The captions of a film, one a line of NAME.txt."""
    files = [file for file in (path.with_suffix(suffix) for suffix in BESIDE) if file.is_file()]
    return tuple(dict.fromkeys(line for file in files for line in of_file(file, heard)))


def _table(path: Path, heard: Heard) -> Listing:
    names, rows = listings.opened(path, heard)
    column, words = listings.columns(path, names, None, ())
    times = [name for name in ("start", "end") if name in names]
    found: dict[Path, list[Said]] = {}
    missing: list[str] = []
    for number, (where, row) in enumerate(rows((column, *words, *times))):
        if number >= listings.MOST_ROWS:
            raise DataError(f"{shown(path)}: more than {listings.MOST_ROWS:,} rows; give a part of it")
        value = row.get(column)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise DataError(
                f"{shown(path)}: {shown(where)} names no film ({value!r:.40}); the name of a file is expected"
            )
        file = path.parent / value.strip()
        if not file.exists():
            missing.append(value)
            continue
        text = cleaned(str(row.get(words[0]) or ""), where, heard)
        start, end = (_seconds(row.get(name), where, name, path) for name in ("start", "end"))
        start, end = -math.inf if start is None else start, math.inf if end is None else end
        if end <= start:
            raise DataError(
                f"{shown(path)}: {shown(where)} ends at {end:g} s and starts at {start:g} s; the end comes later"
            )
        found.setdefault(file, []).append(Said(text, start, end))
    said = (
        f"{len(missing)} films that {path.name} names are not there, left out: {', '.join(map(shown, missing[:3]))}",
    )
    return Listing(
        tuple(map(Film, found)), tuple(map(tuple, found.values())), f"{shown(words[0])} of {path.name}",
        said if missing else (),
    )  # fmt: skip


def _seconds(value: Any, where: str, name: str, path: Path) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise DataError(f"{shown(path)}: {shown(where)}: {name} is {value!r:.40}, expected seconds")
    return seconds
