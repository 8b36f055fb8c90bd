"""Zarr stores (format 2 or 3; a folder or a .zip file): what each array says of itself, checked before zarr reads it."""

from __future__ import annotations

import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import DataError, one_line, shown
from sfumato.errors import needed

MAX_METADATA = 16 << 20
MAX_CHUNK = 1 << 30
MOST_NUMBERS = 1 << 48
# Compressors that only unpack bytes: others, such as "pickle", may run code
CODECS = {"blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4", "shuffle", "delta", "crc32c", "bytes", "transpose"}
CODECS |= {"endian", "sharding_indexed"}


@dataclass(frozen=True)
class Meta:
    """What a zarr array says of itself, checked before zarr is asked to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    format: int


class Members:
    """The small files of a store: which arrays there are, and what each says of itself. ``kind`` is what messages call it."""

    def __init__(self, path: Path, kind: str = "zarr store") -> None:
        self.path, self.kind = path, kind
        if path.is_dir():
            self.names = None
        elif path.is_file():
            with reading(path, "a zarr store (a folder or a .zip file)"), zipfile.ZipFile(path) as archive:
                self.names = {info.filename: info.file_size for info in archive.infolist()}
        else:
            raise DataError(f"{shown(path)}: not found; expected a {kind} (a folder or a .zip file)")

    def folders(self, group: str) -> list[str]:
        """The arrays right below `group` ("" the whole store), sorted."""
        if self.names is None:
            with reading(self.path, "a zarr store"):
                below = self.path / group
                found = {entry.name for entry in os.scandir(below) if entry.is_dir()} if below.is_dir() else set()
        else:
            above = f"{group}/" if group else ""
            parts = [name.removeprefix(above).split("/") for name in self.names if name.startswith(above)]
            found = {part[0] for part in parts if len(part) > 1}
        places = {key: f"{group}/{key}" if group else key for key in found}
        return sorted(
            key for key in found if any(self._exists(f"{places[key]}/{name}") for name in (".zarray", "zarr.json"))
        )

    def _exists(self, name: str) -> bool:
        return (self.path / name).is_file() if self.names is None else name in self.names

    def _text(self, name: str) -> bytes:
        if self.names is None:
            with (self.path / name).open("rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DataError(f"{shown(self.path)}/{shown(name)}: not a regular file")
                text = file.read(MAX_METADATA + 1)
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(name) as file:
                text = file.read(MAX_METADATA + 1)
        if len(text) > MAX_METADATA:
            raise DataError(f"{shown(self.path)}/{shown(name)}: longer than {MAX_METADATA >> 20} MB; expected metadata")
        return text

    def described(self, array: str) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The names of the axes of an array, and its other attributes; no names where it says none. In format 2 what stands
        where nothing was written is ``_FillValue`` among them, unless they say another one or it is 0. Raises DataError."""
        with reading(self.path, f"a zarr array at {shown(array)}"):
            if self._exists(f"{array}/.zarray"):
                stored = json.loads(self._text(f"{array}/.zarray"))
                attributes = json.loads(self._text(f"{array}/.zattrs")) if self._exists(f"{array}/.zattrs") else {}
                axes = attributes.pop("_ARRAY_DIMENSIONS", ())
                if stored.get(
                    "fill_value"
                ):  # in format 2 it is the value of gaps, as NetCDF has it; 0 is zarr's own usual
                    attributes.setdefault("_FillValue", stored["fill_value"])
            else:
                stored = json.loads(self._text(f"{array}/zarr.json"))
                attributes, axes = dict(stored.get("attributes", {})), stored.get("dimension_names") or ()
            return tuple(map(str, axes)), dict(attributes)

    def meta(self, array: str) -> Meta:
        """The shape and type of an array, after a check that reading it runs no code. Raises DataError."""
        name = f"{shown(self.path)}[{shown(array)}]"
        with reading(self.path, f"a zarr array at {shown(array)}"):
            if self._exists(f"{array}/.zarray"):
                stored, version = json.loads(self._text(f"{array}/.zarray")), 2
                codecs = [codec["id"] for codec in [*(stored.get("filters") or []), stored["compressor"]] if codec]
                chunk, kind = stored["chunks"], stored["dtype"]
            elif self._exists(f"{array}/zarr.json"):
                stored, version = json.loads(self._text(f"{array}/zarr.json")), 3
                if stored.get("node_type") != "array":
                    raise DataError(f"{name}: is a group; expected an array of numbers")
                codecs = list(_names_of(stored["codecs"]))
                chunk, kind = stored["chunk_grid"]["configuration"]["chunk_shape"], stored["data_type"]
            else:
                raise DataError(f"{name}: missing (no .zarray or zarr.json there); a {self.kind} has it")
            unknown = next((codec for codec in codecs if codec not in CODECS), None)
            if unknown is not None:
                raise DataError(f"{name}: is packed by {unknown!r:.40}; expected one of {', '.join(sorted(CODECS))}")
            if not isinstance(kind, str) or "O" in kind:
                raise DataError(f"{name}: holds {kind!r:.40}, not numbers; Python objects could run code when loaded")
            dtype = np.dtype(kind)
            if dtype.kind not in "fiub" or dtype.itemsize > 8:
                raise DataError(f"{name}: holds {dtype}; expected whole or floating-point numbers up to 64 bits")
            shape, chunk = (tuple(int(n) for n in numbers) for numbers in (stored["shape"], chunk))
        fits = shape and len(chunk) == len(shape) and min(shape) >= 0 and min(chunk) >= 1
        if not fits or math.prod(shape) > MOST_NUMBERS:
            raise DataError(f"{name}: has shape {shape} in pieces of {chunk}; expected (steps, ...)")
        if math.prod(chunk) * dtype.itemsize > MAX_CHUNK:
            raise DataError(f"{name}: comes in pieces of {chunk}, more than {MAX_CHUNK >> 30} GB; store smaller pieces")
        return Meta(shape, dtype, chunk, version)


def _names_of(codecs: Any) -> Iterator[str]:
    """Every codec named in a version 3 list, those inside shards too."""
    for codec in codecs:
        yield (codec if isinstance(codec, str) else codec["name"]).removeprefix("numcodecs.")
        inner = {} if isinstance(codec, str) else codec.get("configuration", {})
        for key in ("codecs", "index_codecs"):
            yield from _names_of(inner.get(key, []))


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns whatever a damaged file raises into one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a damaged store may raise almost anything
        raise DataError(f"{shown(path)}: cannot be read as {what} ({one_line(error)}); copy it again") from error


def opened_array(path: Path, array: str, meta: Meta, extra: str = "policy") -> Any:
    """A zarr array that was checked, to be read piece by piece; ``extra`` brings the package."""
    zarr, storage = needed("zarr", extra), needed("zarr.storage", extra)
    store = storage.LocalStore(path, read_only=True) if path.is_dir() else storage.ZipStore(path, mode="r")
    return zarr.open_array(store, path=array, mode="r", zarr_format=meta.format)
