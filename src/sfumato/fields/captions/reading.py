"""Captioned pictures from disk: which picture has which captions, and what has none of either.

Captions stand in NAME.txt or NAME.caption beside NAME.png (several lines are several captions), in a table, beside the
pictures in .tar files, or in the names of files or folders where that is asked for. Nothing is executed or unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.data import listings
from sfumato.data.errors import DataError, shown
from sfumato.data.pictures import find
from sfumato.data.wording import Heard, cleaned, of_file, of_name
from sfumato.errors import shortened
from sfumato.fields.captions import shards
from sfumato.fields.captions.options import Kind
from sfumato.fields.captions.shards import PACKED
from sfumato.fields.captions.weighing import taking_turns, weighed

BESIDE = (".txt", ".caption")
TABLES = tuple(f"metadata{suffix}" for suffix in listings.SUFFIXES)


@dataclass(frozen=True)
class Asked:
    """Where captions are to be found. picture, caption: the columns of a table, the latter with weights where it has any."""

    kind: Kind = "auto"
    picture: str | None = None
    caption: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Listing:
    """Pictures and the captions of each, in a fixed order; a caption of "" says nothing, on purpose.

    how: where the captions stand, in words. said: what is to be said of them.
    """

    files: tuple[Path, ...]
    captions: tuple[tuple[str, ...], ...]
    how: str
    said: tuple[str, ...] = ()


def listed(data: Path, asked: Asked, room: Path) -> Listing:
    """Which pictures have which captions. ``room``: a folder for pictures that are packed into a table.

    Raises DataError where there are no captioned pictures, or something in a table or caption cannot be read.
    """
    heard = Heard()
    if data.suffix.lower() == shards.SUFFIX and not data.is_dir():
        found = _shards([data], data, asked, room, heard)
    elif data.is_file() or data.suffix.lower() in listings.SUFFIXES:
        if asked.kind not in ("auto", "table"):
            raise DataError(f"{shown(data)}: is a table; captions from {asked.kind} need a folder of pictures")
        found = _table(data, asked, room, heard)
    elif not data.is_dir():
        raise DataError(f"{shown(data)}: no such folder or table; expected captioned pictures")
    else:
        found = _folder(data, asked, room, heard)
    return Listing(found.files, found.captions, found.how, (*found.said, *heard.lines()))


def _folder(data: Path, asked: Asked, room: Path, heard: Heard) -> Listing:
    table = next((data / name for name in TABLES if (data / name).is_file()), None)
    if asked.kind in ("auto", "table") and table is not None:
        found = _table(table, asked, room, heard)
        named = set(found.files)
        others = [path for path in find(data)[0] if path not in named]
        said = _count(f"in {shown(data)} that {table.name} does not name, left out", others, data)
        return Listing(found.files, found.captions, found.how, (*found.said, *said))
    packed = sorted(data.glob(f"*{shards.SUFFIX}")) if asked.kind == "auto" and not asked.picture else []
    paths, complaints, ignored = find(data)
    if packed and not paths:
        return _shards(packed, data, asked, room, heard)
    if asked.kind == "table" or asked.picture or asked.caption:
        raise DataError(f"{shown(data)}: holds no table ({', '.join(TABLES)}); give the table itself, or its name")
    if not paths and not complaints:
        raise DataError(f"{shown(data)}: no pictures in it or its sub-folders")
    if asked.kind == "names":
        return _named(paths, [of_name(path.stem) for path in paths], data, "the names of the files", heard)
    if asked.kind == "folders":
        return _named(paths, [of_name(path.parent.name) for path in paths], data, "the names of the folders", heard)
    return _beside(paths, data, sum(ignored[suffix] for suffix in BESIDE), heard)


def _named(paths: Sequence[Path], words: Sequence[str], data: Path, how: str, heard: Heard) -> Listing:
    for path, text in zip(paths, words):
        if not text:
            heard.note("pictures whose name says nothing: learned from without words", str(path))
    return Listing(tuple(paths), tuple((cleaned(text, str(path), heard),) for path, text in zip(paths, words)), how)


def _beside(paths: Sequence[Path], data: Path, texts: int, heard: Heard) -> Listing:
    files, captions, bare, used = [], [], [], 0
    for path in paths:
        beside = [file for file in (path.with_suffix(suffix) for suffix in BESIDE) if file.is_file()]
        if not beside:
            bare.append(path)
            continue
        used += len(beside)
        lines = tuple(dict.fromkeys(line for file in beside for line in of_file(file, heard)))
        if not lines:
            heard.note("captions that are empty: their pictures are learned from without words", str(beside[0]))
        files.append(path)
        captions.append(lines or ("",))
    if not files:
        raise DataError(
            f"{shown(data)}: {len(paths)} pictures and no captions; expected NAME.txt beside NAME.png, or a table "
            "metadata.csv, .jsonl or .parquet with columns file_name and text; or --captions names, --captions folders"
        )
    said = _count("without a caption file, left out", bare, data)
    if texts > used:
        stems = {path.with_suffix("") for path in paths}
        alone = [
            each for suffix in BESIDE for each in sorted(data.rglob(f"*{suffix}")) if each.with_suffix("") not in stems
        ]
        said += _count("without a picture, left out", alone, data, "caption files")
    return Listing(tuple(files), tuple(captions), "caption files beside the pictures", tuple(said))


def _count(what: str, paths: Sequence[Path], data: Path, things: str = "pictures") -> list[str]:
    """How many there are, and the first three names; nothing where there are none."""
    if not paths:
        return []
    names = ", ".join(_brief(path.relative_to(data) if path.is_relative_to(data) else path) for path in paths[:3])
    return [f"{len(paths)} {things} {what}: {names}{' ...' * (len(paths) > 3)}"]


def _brief(path: Path) -> str:
    """A name that may be anything, for a message."""
    return shortened(shown(path), 4 * listings.NAME)


def _is_there(path: Path) -> bool:
    """Whether a path is that of a file; none whose name is too long for one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _table(path: Path, asked: Asked, room: Path, heard: Heard) -> Listing:
    names, rows = listings.opened(path, heard)
    wanted, weights = weighed(asked.caption)
    picture, words = listings.columns(path, names, asked.picture, wanted)
    found: dict[Path, dict[str, float]] = {}
    missing: list[Path] = []
    for number, (where, row) in enumerate(rows((picture, *words))):
        if number >= listings.MOST_ROWS:
            raise DataError(f"{shown(path)}: more than {listings.MOST_ROWS:,} rows; give a part of it")
        file = _picture(row.get(picture), path, where, room / f"{number:09d}")
        if not _is_there(file):
            missing.append(file)
            continue
        if file in found:
            heard.note("rows name a picture again; its captions are alternatives", where)
        own = found.setdefault(file, {})
        if not _hear(own, ((row.get(name), name) for name in words), weights, path, where, heard):
            heard.note("rows whose caption is empty: their pictures are learned from without words", where)
    said = _count(f"that {path.name} names are not there, left out", missing, path.parent)
    if not found:
        raise DataError(
            f"{shown(path)}: none of its {len(missing)} rows names a picture that is there; {picture!r} is read from "
            f"{shown(path.parent)}" + (f", the first is {_brief(missing[0])}" if missing else "")
        )
    captions = tuple(taking_turns(texts) or ("",) for texts in found.values())
    columns = " and ".join(map(shown, words))
    return Listing(tuple(found), captions, f"{columns} of {path.name}", tuple(said))


def _picture(value: Any, path: Path, where: str, packed: Path) -> Path:
    """The file of a picture that a row names, or that is made of the bytes that it holds."""
    if isinstance(value, dict):
        content = value.get("bytes")
        if isinstance(content, bytes) and content:
            if len(content) > PACKED:
                raise DataError(
                    f"{shown(where)}: a picture of {len(content) >> 20} MB, at most {PACKED >> 20} are read"
                )
            packed.write_bytes(content)
            return packed
        value = value.get("path")
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise DataError(
            f"{shown(path)}: {shown(where)} names no picture ({value!r:.40}); the name of a file is expected"
        )
    return path.parent / value.strip()


def _shards(files: Sequence[Path], data: Path, asked: Asked, room: Path, heard: Heard) -> Listing:
    """Pictures of .tar files with what stands beside them."""
    if asked.kind != "auto" or asked.picture:
        raise DataError(
            f"{shown(data)}: in .tar files captions stand beside the pictures; leave out --captions and --picture-column"
        )
    pictures, captions = list[Path](), list[tuple[str, ...]]()
    bare, alone = list[Path](), list[Path]()
    known: dict[str, None] = {}
    names, weights = weighed(asked.caption)
    for number, file in enumerate(files):
        own = room / str(number)
        own.mkdir()
        for key, pair in shards.pairs(file, own, heard).items():
            where, usual = (
                f"{file.name}: {key}",
                [name for name in (shards.TEXT, *listings.WORDS) if name in pair.fields],
            )
            known |= dict.fromkeys(pair.fields)
            if pair.picture is None or not pair.fields:
                (alone if pair.picture is None else bare).append(Path(key))
                continue
            texts: dict[str, float] = {}
            cells = ((pair.fields.get(name), name) for name in names or usual[:1])
            if not _hear(texts, cells, weights, file, where, heard):
                heard.note("captions that are empty: their pictures are learned from without words", where)
            pictures.append(pair.picture)
            captions.append(taking_turns(texts) or ("",))
    wanting = [name for name in names if name not in known]
    if known and not names and not set(known) & {shards.TEXT, *listings.WORDS}:
        wanting = [listings.WORDS[0]]
    if wanting:
        raise listings.unknown(data, wanting[0], list(known), "--caption-column")
    if not pictures:
        raise DataError(
            f"{shown(data)}: {len(bare)} pictures and {len(alone)} captions, and none of them together; expected KEY.jpg with "
            "KEY.txt or KEY.json"
        )
    said = _count("without a caption, left out", bare, data) + _count(
        "without a picture, left out", alone, data, "captions"
    )
    return Listing(tuple(pictures), tuple(captions), "captions beside the pictures in .tar files", tuple(said))


def _hear(
    own: dict[str, float],
    cells: Iterable[tuple[Any, str]],
    weights: Sequence[float],
    path: Path,
    where: str,
    heard: Heard,
) -> bool:
    """Add the captions in cells (value, name) to a picture's own, text -> weight; several in a cell share its. Whether there were
    any."""
    some = False
    for number, (value, name) in enumerate(cells):
        texts = list(filter(None, _texts(value, path, where, name, heard)))
        for text in texts:
            own[text] = own.get(text, 0.0) + weights[number] / len(texts) if weights else 1.0
        some = some or bool(texts)
    return some


def _texts(value: Any, path: Path, where: str, name: str, heard: Heard) -> list[str]:
    """The captions in a cell: a text, or a list of them; nothing is an empty one."""
    values = value if isinstance(value, list) else [value]
    if not all(each is None or isinstance(each, str) for each in values):
        raise DataError(f"{shown(path)}: {shown(where)}: {name!r} holds {type(values[0]).__name__}, expected text")
    return [cleaned(each or "", where, heard) for each in values]
