"""Arrays on disk: `.npy` (memory-mapped) and `.npz`, checked before anything is trained on them."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from sfumato.data.errors import DataError, decoding, one_line, shown
from sfumato.data.statistics import measure

LABEL_KEYS = ("label", "labels", "y")
NAMES = "names"
OTHERS = (*LABEL_KEYS, NAMES, "vectors")
MEMBER_LIMIT = 16 << 30
WORD_BYTES = 4096
"""Of one word of an array of words, at most."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """`x` of shape (N, ...) with N >= 2, of the type it has on disk; `labels` (N,) int64, places in `classes`, or None.

    `classes` are the distinct labels by name, whole numbers in their order. `names` are those of the items, if they have
    any. `ignored` are other arrays of the file. `ArrayDataset` turns any type of x into float32; uint8 means picture bytes.
    """

    x: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()


def open_array(path: str | os.PathLike[str], *, limit: int = MEMBER_LIMIT, checked: bool = True) -> Arrays:
    """Opens `.npy` (memory-mapped, no labels) or `.npz` (key "x" or the only array; labels "label", "labels" or "y", whole
    numbers or words; names of the items "names").

    `limit` bounds the bytes of one `.npz` array, which must be held in memory; it is read from the headers before any
    data are. Nothing is ever unpickled. Raises DataError when the file is missing, damaged or of another kind, when
    `x` is not numbers of shape (N, ...) with N >= 2, when the labels are not N whole numbers or words, and, unless it was
    `checked` before, when x holds NaN or infinity (naming the first such item) or is constant.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(6)
        if head.startswith(b"\x93NUMPY"):
            arrays = Arrays(_map(path))
        elif head.startswith(b"PK"):
            arrays = _unzip(path, limit)
        else:
            raise DataError(f"{shown(path)}: not a .npy or .npz file (begins with {head!r}); save it with numpy.save")
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: file not found; expected a .npy or .npz file") from None
    except Exception as error:  # a damaged header may raise almost anything
        raise DataError(f"{shown(path)}: cannot be read ({one_line(error)}); save it again with numpy.save") from error
    if checked:
        measure(arrays.x, name=os.fspath(path))
    return arrays


def kept_array(path: str | os.PathLike[str], remedy: str = "save it again with numpy.save") -> np.ndarray:
    """A .npy of numbers of any shape, memory-mapped: what a run keeps, or one sample.

    Raises DataError where it is missing or damaged, or holds anything else.
    """
    path = Path(path)
    with decoding(path, remedy), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of headers that are spelt as they once were
        with path.open("rb") as file:
            _header(file, shown(path))
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def kept_arrays(path: str | os.PathLike[str], remedy: str, limit: int = MEMBER_LIMIT) -> dict[str, np.ndarray]:
    """All arrays of a .npz, numbers of any shape, by name. Raises DataError where it is missing or damaged, or holds anything
    else, or one of them unpacks to more than ``limit`` bytes."""
    path = Path(path)
    with decoding(path, remedy), zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): member(archive, info, path, limit) for info in archive.infolist()}


@dataclass(frozen=True, eq=False)
class Steady:
    """An array that is a map of a user's file, whose rows are given only while that file is as it was: of one that was cut short
    meanwhile not an error would come but the end of the process, of one that was written anew other numbers. What is asked is
    its size and its time, at every batch.
    """

    x: np.ndarray
    path: Path
    state: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows. Raises DataError where the file has changed since it was opened, or is gone."""
        try:
            same = _state(self.path) == self.state
        except OSError as error:
            raise DataError(f"{shown(self.path)}: is gone ({error.strerror}); put it back") from error
        if not same:
            raise DataError(f"{shown(self.path)}: has changed since it was opened; put the old file back")
        rows: np.ndarray = self.x[index]
        return rows


def steady(x: np.ndarray) -> np.ndarray | Steady:
    """An array, or where it is a map of a file, one that looks after this file."""
    name = getattr(x, "filename", None)
    return x if name is None else Steady(x, Path(name), _state(Path(name)))


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _header(file: IO[bytes], name: str, words: bool = False) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, type, bytes of the header) of the .npy data at the start of `file`; refuses what is not numbers (or words)."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise DataError(f"{name}: .npy version {version} is for named fields; expected plain numbers")
    found = None
    with suppress(MemoryError):  # what Python says of signs within signs
        found = read(file)
    if found is None:
        raise DataError(f"{name}: has a header of signs within signs; expected that of plain numbers")
    shape, _, kind = found
    if kind.hasobject:
        raise DataError(f"{name}: holds Python objects, which could run code when loaded; save plain numbers instead")
    if words and kind.kind in "US" and 0 < kind.itemsize <= WORD_BYTES:
        return shape, kind, file.tell()
    if kind.kind not in "fiub" or kind.itemsize > 8:
        raise DataError(f"{name}: holds numbers of type {kind}; expected whole or floating-point numbers up to 64 bits")
    return shape, kind, file.tell()


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if not shape or shape[0] < 2 or 0 in shape:
        raise DataError(f"{name}: has shape {shape}; expected (N, ...) with N >= 2 items along the first axis")


def _map(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        shape, kind, start = _header(file, shown(path))
    _check_shape(shape, shown(path))
    need, have = start + math.prod(shape) * kind.itemsize, path.stat().st_size
    if have < need:
        raise DataError(f"{shown(path)}: truncated, {have} bytes where its header asks for {need}; copy it again")
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _unzip(path: Path, limit: int) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        label_keys = [key for key in LABEL_KEYS if key in members]
        others = [key for key in members if key not in OTHERS] or [key for key in members if key not in LABEL_KEYS]
        key = "x" if "x" in members else others[0] if len(others) == 1 else None
        if key is None or len(label_keys) > 1:
            raise DataError(
                f"{shown(path)}: holds the arrays {', '.join(map(shown, members)) or '(none)'}; "
                f"expected one called x, and at most one of {', '.join(LABEL_KEYS)}"
            )
        x = member(archive, members[key], path, limit)
        _check_shape(x.shape, f"{shown(path)}[{shown(key)}]")
        found = member(archive, members[label_keys[0]], path, limit, words=True) if label_keys else None
        names = _names(archive, members[NAMES], path, limit, len(x)) if NAMES in members and key != NAMES else None
    used = {key, *label_keys, *([NAMES] if names is not None else [])}
    labels, classes = (None, ()) if found is None else _classes(found, len(x), f"{shown(path)}[{label_keys[0]}]")
    return Arrays(x, labels, classes, names, tuple(shown(name) for name in members if name not in used))


def _classes(labels: np.ndarray, count: int, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as places (N,) int64 in the distinct values, and those by name."""
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iubUS":
        raise DataError(
            f"{name}: labels have shape {labels.shape} and type {labels.dtype}; "
            f"expected {count} integers or words, one per item"
        )
    values, places = np.unique(labels, return_inverse=True)
    return places.reshape(-1).astype(np.int64), tuple(_words(values, name))


def _names(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, limit: int, count: int
) -> tuple[str, ...] | None:
    """The names of items, where the array so called holds a word for each; else it is something else, and left alone."""
    name = f"{shown(path)}[{NAMES}]"
    with archive.open(info) as file:
        try:
            shape, kind, _ = _header(file, name, words=True)
        except (DataError, ValueError):
            return None
    if shape != (count,) or kind.kind not in "US":
        return None
    return tuple(_words(member(archive, info, path, limit, words=True), name))


def _words(values: np.ndarray, name: str) -> list[str]:
    """Values as words that can be printed. Raises DataError for bytes that are no UTF-8."""
    try:
        found = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: holds bytes that are no UTF-8 ({one_line(error)}); save words as text") from error
    return [shown(str(value)) for value in found.tolist()]


def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, limit: int, words: bool = False) -> np.ndarray:
    """One array of a `.npz`, of ``limit`` bytes at most: numbers, or ``words`` too. Raises DataError, before anything is
    allocated that lies."""
    name = f"{shown(path)}[{shown(info.filename.removesuffix('.npy'))}]"
    if info.file_size > limit:
        raise DataError(
            f"{name}: unpacks to {info.file_size / 1e9:.3g} GB, more than the limit of {limit / 1e9:.3g} GB; "
            "save it as .npy, which need not fit into memory"
        )
    with archive.open(info) as file:
        shape, kind, start = _header(file, name, words)
    # The array is allocated from its own header, so the two sizes must agree before anything is
    need = start + math.prod(shape) * kind.itemsize
    if need != info.file_size:
        raise DataError(f"{name}: damaged, {info.file_size} bytes where its header asks for {need}; save it again")
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array
