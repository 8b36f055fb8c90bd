"""What a kind of file is to the fuzzer: how a whole one is made, how it is read, in which ways it is damaged."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.mutate import (
    BYTES,
    JSON,
    TEXT,
    Mutation,
    damaged,
    in_zip,
    npy_header,
    png_chunk,
    tensors_header,
)

WAYS: dict[str, tuple[Mutation, ...]] = {
    ".json": JSON, ".zarray": JSON, ".zgroup": JSON, ".zattrs": JSON,
    **dict.fromkeys((".yaml", ".csv", ".tsv", ".txt", ".py", ".jsonl", ".ppm", ".pgm", ".pbm"), TEXT),
}  # fmt: skip
INSIDE: dict[str, Mutation] = {
    ".npz": in_zip, ".zip": in_zip, ".npy": npy_header, ".png": png_chunk, ".safetensors": tensors_header,
}  # fmt: skip
WORDS = {
    ".yaml": (b"!!python/object/apply:os.system", b"&a", b"*a", b"<<: *a", b"null", b"true", b"[]", b"{}", b"2001-01-01",
              b"!!binary", b"? ", b"~", b"1e400", b".nan", b"0x", b"-", b": ", b"# ", b"width", b"images"),
    ".csv": (b'"a,b"', b'""', b"NA", b"1,5", b"2024-02-30", b"1e999", b";", b"|", b"0-0-0"),
    ".tsv": (b'"a\tb"', b"NA", b"31.12.9999", b"\t\t"),
    ".jsonl": (b'{"text": 1}', b"{}", b"[]", b"NaN", b'"\\ud800"', b'{"age": [1]}', b"null"),
    ".json": (b"NaN", b"null", b"-1", b'"', b"|O", b"pickle", b"object", b"__class__"),
    ".zarray": (b"|O", b"pickle", b"<f8", b"null"),
    ".npy": (b"|O",),
    ".ppm": (b"P6", b"P3", b"P7", b"65535", b"99999", b"#"),
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What is read: `make` writes a whole sample into a folder, `read` reads it as the command does.

    targets: the files of it that are damaged. weight: how often. needs: packages without which it is left out. after: what is
    done once a file is damaged, such as to make checksums right. alone: the damaged file is read without the others.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    targets: tuple[str, ...] = ("*",)
    weight: int = 1
    needs: tuple[str, ...] = ()
    after: Callable[[Path, bytes], bytes] = lambda file, data: data
    alone: bool = False

    @property
    def there(self) -> bool:
        """Whether its packages are installed."""
        return all(importlib.util.find_spec(name) for name in self.needs)

    def damaged(self, file: Path, rng: Random) -> bytes:
        """The file's content, damaged in ways that suit it."""
        data, suffix = file.read_bytes(), file.suffix or file.name
        words, inside = WORDS.get(suffix, ()), INSIDE.get(suffix)
        if inside is not None and rng.random() < 0.5:
            out = inside(data, rng, words)
        else:
            out = damaged(data, rng, WAYS.get(suffix, BYTES), words)
        return self.after(file, out)


def only(place: Path) -> Path:
    """The one file of a sample."""
    return next(path for path in sorted(place.iterdir()) if not path.name.startswith("."))


def touched(values: Iterable[Any]) -> None:
    """Look at numbers that may be mapped or decoded when asked for."""
    for value in values:
        np.asarray(value[: min(3, len(value))]).sum()


def changed(place: Path) -> Path:
    """The file that is no link to a whole one."""
    files = [path for path in place.rglob("*") if path.is_file() and path.name != ".noise"]
    return next((path for path in files if path.stat().st_nlink == 1), files[0])
