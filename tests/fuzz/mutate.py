"""Damage: a file's bytes, or what a file packs, changed by chance. Everything is a function of the generator's state."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[bytes, Random, Sequence[bytes]], bytes]

EXTREMES = (
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
NUMBERS = (
    b"0", b"-1", b"1", b"2", b"1e308", b"-1e308", b"1e400", b"NaN", b"-Infinity", b"0.5", b"99999999999", b"1" * 5000,
    b"9223372036854775808", b"-9223372036854775809", b"null", b"true", b'""', b"[]", b"{}", b"[[1]]", b'"x"',
)  # fmt: skip
ODD = (
    b"\0",
    b"\xff",
    b"\r",
    b"\n",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"',
    b"'",
    b"\\",
    b"\t",
    b",",
    b"{",
    b"[",
    b"\xc3",
)


def flip(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """A few bits turned."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(out))
        out[place] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """The end lost, or the beginning, or a piece of the middle."""
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice(
        (data[:start], data[:start], data[stop:], data[:start] + data[stop:], data[: -rng.randint(1, 16)])
    )


def swap(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """Two blocks in each other's place."""
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def insert(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """A run of one byte, or a block of the file itself, put in or written over."""
    place, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 7, 64, 4096))
    start = rng.randrange(len(data))
    block = rng.choice((bytes([rng.randrange(256)]) * length, data[start : start + length]))
    return data[:place] + block + data[place + (len(block) if rng.random() < 0.5 else 0) :]


def field(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """A number of 1 to 8 bytes set to an extreme: mostly in the head or the tail, where formats keep their sizes."""
    width, where = rng.choice((1, 2, 4, 4, 8)), rng.random()
    last = max(1, len(data) - width)
    place = rng.randrange(min(64 if where < 0.3 else 512, last)) if where < 0.7 else rng.randrange(last)
    place = max(0, len(data) - rng.randint(1, 128)) if where > 0.9 else place
    value = (rng.choice(EXTREMES) & (1 << 8 * width) - 1).to_bytes(width, rng.choice(("little", "big")))
    return data[:place] + value + data[place + width :]


def word(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """A word of the format, or an odd byte, put in or in the place of a word that stands there."""
    new = rng.choice((*words, *ODD))
    there = [match.span() for match in re.finditer(rb"[A-Za-z_.]{2,}", data[:100_000])]
    if there and rng.random() < 0.6:
        start, stop = rng.choice(there)
        return data[:start] + new + data[stop:]
    place = rng.randrange(len(data) + 1)
    return data[:place] + new + data[place:]


def number(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """A number in the text made another."""
    there = [match.span() for match in re.finditer(rb"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", data[:100_000])]
    if not there:
        return flip(data, rng, words)
    start, stop = rng.choice(there)
    return data[:start] + rng.choice(NUMBERS) + data[stop:]


def line(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """A line lost, doubled, moved, or made endless."""
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    way = rng.randrange(5)
    if way == 0:
        del lines[i]
    elif way == 1:
        lines.insert(i, lines[j])
    elif way == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif way == 3:
        lines[i] = (lines[i] * rng.choice((3, 2000)))[: 1 << 20]
    else:
        lines[i] = rng.choice((b"[", b'{"a":', b"- ", b" ", b"(")) * rng.choice((40, 3000)) + lines[i]
    return b"\n".join(lines)


def node(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """One value of a JSON text made another; the text stays JSON."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return number(data, rng, words)
    spots: list[tuple[dict | list, str | int]] = []
    todo = [tree]
    while todo:
        at = todo.pop()
        keys = list(at) if isinstance(at, dict) else range(min(len(at), 50)) if isinstance(at, list) else ()
        spots += [(at, key) for key in keys]
        todo += [at[key] for key in keys]
    if not spots:
        return number(data, rng, words)
    at, key = rng.choice(spots)
    other, again = rng.choice(spots)
    value = rng.choice((
        None, True, 0, -1, 3, 0.5, 1e308, float("nan"), 2**31, 2**63, 10**30, "", "x", "\udc80", "é", [], {}, [[]], [1, 2],
        {"a": 1}, [0] * 300, "1", rng.choice(words).decode("latin-1") if words else "y", other[again],
    ))  # fmt: skip
    if rng.random() < 0.15 and isinstance(at, dict):
        del at[key]
    else:
        at[key] = value
    try:
        return json.dumps(tree).encode()
    except ValueError:  # a value put inside of itself
        return number(data, rng, words)


BYTES: tuple[Mutation, ...] = (flip, flip, cut, swap, insert, field, field, field)
TEXT: tuple[Mutation, ...] = (flip, cut, swap, insert, word, word, number, number, line)
JSON: tuple[Mutation, ...] = (*TEXT, node, node, node, node)


def damaged(data: bytes, rng: Random, ways: Sequence[Mutation], words: Sequence[bytes] = ()) -> bytes:
    """The bytes after one to four mutations."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            data = rng.choice(ways)(data, rng, words)
    return data


# ---- inside of what packs -------------------------------------------------------------------------------------------------


def in_zip(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """One member of an archive changed, its name or its content; the archive is whole again, with right checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    text = name.endswith((".json", ".zarray", ".zgroup", ".zattrs"))
    if rng.random() < 0.15:
        name = rng.choice(("x.npy", "label.npy", "../../x.npy", "/x.npy", "names.npy", "é\n.npy", members[0][0]))
    else:
        content = damaged(content, rng, JSON if text else (*BYTES, npy_header), words)
    members[at] = name, content
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def npy_header(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """The text in the head of a .npy changed, its length kept right."""
    if not data.startswith(b"\x93NUMPY") or len(data) < 12:
        return field(data, rng, words)
    (length,) = struct.unpack("<H", data[8:10])
    head = damaged(
        data[10 : 10 + length], rng, TEXT, (b"|O", b"<f8", b"<U5", b"|V8", b"<c16", b"<M8[s]", b"(", b"True")
    )[:60000]
    head = head.rstrip(b"\n ") + b"\n" if rng.random() < 0.5 else head
    return data[:8] + struct.pack("<H", len(head)) + head + data[10 + length :]


def png_chunk(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """What a chunk of a PNG holds changed, its length and checksum made right."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return flip(data, rng, words)
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    if kind == b"iTXt" and content:
        key, rest = content[:12], content[12:]
        content = key + damaged(rest, rng, (*JSON, node, node, node), words)
    elif content:
        content = damaged(content, rng, BYTES)
    if rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    chunks[min(at, len(chunks) - 1)] = kind, content
    whole = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return data[:8] + whole


def tensors_header(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """The JSON in the head of a safetensors file changed, its length kept right."""
    if len(data) < 8:
        return data
    (length,) = struct.unpack("<Q", data[:8])
    head = damaged(data[8 : 8 + length], rng, (*JSON, *(node,) * 6), words)
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + data[8 + length :]
