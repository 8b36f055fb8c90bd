"""Captioned pictures in .tar files, KEY.jpg with KEY.txt or KEY.json beside it, as the WebDataset convention has them.

A key is the name of a member up to the first point behind its last slash. Members are read one after the other; nothing is
unpacked under a name of its own, so none can lie outside the room that it is unpacked into. Only plain .tar files are read:
a compressed one says nothing of its size.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sfumato.data.errors import DataError, one_line, shown
from sfumato.data.wording import FILE_LIMIT, Heard, decoded

SUFFIX = ".tar"
PACKED, MOST = 64 << 20, 10_000_000
"""Bytes of a picture, and keys, at most."""
PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
TEXT, TEXTS = "txt", ("txt", "caption")
HEADER = 1 << 20
"""Bytes of a long name or of other words about a member, at most."""
LONG = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class Member(tarfile.TarInfo):
    """A member whose header may lie about its size."""

    def _block(self, count: int) -> int:  # a negative size would send the reader back, for ever
        if count < 0:
            raise tarfile.ReadError("a member of negative size")
        return super()._block(count)  # type: ignore[misc]

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in LONG and self.size > HEADER:  # it would be read whole
            raise tarfile.ReadError(f"a header of {self.size:,} bytes, at most {HEADER:,} are read")
        return super()._proc_member(tar)  # type: ignore[misc]


@dataclass
class Pair:
    """What belongs to one key: the picture, unpacked, and what is said by name, "txt" of lines of text, others of JSON."""

    picture: Path | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def pairs(path: Path, room: Path, heard: Heard) -> dict[str, Pair]:
    """What belongs to each key of a shard, in their order; pictures are unpacked into ``room`` under numbers.

    Raises DataError for what is no plain .tar file, a damaged one, and a member that is too large.
    """
    found: dict[str, Pair] = {}
    try:
        with tarfile.open(path, "r:", tarinfo=Member) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                _take(tar, member, path, room, found, heard)
            _ended(tar, path, heard)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(
            f"{shown(path)}: cannot be read as a plain .tar file, behind {len(found)} keys ({one_line(error)}); unpack it, or "
            "write it anew, not compressed"
        ) from None
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({one_line(error)})") from None
    return found


def _ended(tar: tarfile.TarFile, path: Path, heard: Heard) -> None:
    """Complain where no end stands behind the last member: the reader takes a damaged header for one. Raises ReadError."""
    stream: Any = tar.fileobj
    stream.seek(tar.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise tarfile.ReadError("a damaged header")
    if len(block) < tarfile.BLOCKSIZE:
        heard.note(".tar files without an end, which may be cut off", path.name)


def _take(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, room: Path, found: dict[str, Pair], heard: Heard
) -> None:  # fmt: skip
    """Put one member where it belongs."""
    name = PurePosixPath(member.name)
    stem, _, ending = name.name.partition(".")
    ending, where = ending.lower(), f"{path.name}: {member.name}"
    if member.isdir():
        return
    if not member.isreg():
        heard.note("members of .tar files that are links or devices, left out", where)
        return
    if ending not in (*PICTURES, *TEXTS, "json") or not stem:
        heard.note("members of .tar files that are neither pictures nor captions, left out", where)
        return
    most = PACKED if ending in PICTURES else FILE_LIMIT
    if member.size > most:
        raise DataError(f"{shown(path)}: {shown(member.name)}: {member.size:,} bytes, at most {most:,} are read")
    stream = tar.extractfile(member)
    assert stream is not None  # it is a file
    raw, own = stream.read(most), found.setdefault(f"{name.parent}/{stem}", Pair())
    if len(found) > MOST:
        raise DataError(f"{shown(path)}: more than {MOST:,} pictures; give a part of them")
    if len(raw) != member.size:
        raise tarfile.ReadError(f"{member.name} ends early")
    if ending in PICTURES:
        if own.picture is not None:
            heard.note("second pictures of a key in a .tar file, left out", where)
            return
        own.picture = room / f"{path.stem}-{len(found):09d}.{ending}"
        own.picture.write_bytes(raw)
    elif ending in TEXTS:
        own.fields.setdefault(TEXT, []).extend(decoded(raw, where, heard).splitlines())
    else:
        own.fields |= _fields(raw, path, member.name, heard)


def _fields(raw: bytes, path: Path, name: str, heard: Heard) -> dict[str, Any]:
    """The names and values of a .json member. Raises DataError."""
    where = f"{shown(path)}: {shown(name)}"
    try:
        found = json.loads(decoded(raw, f"{path.name}: {name}", heard))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is no JSON ({one_line(error)})") from None
    if not isinstance(found, dict):
        raise DataError(f'{where}: must be names and values, such as {{"text": "a red hat"}}')
    return found
