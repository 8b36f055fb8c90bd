"""Arrays on disk: whole ones open as they are, everything else is refused with a reason."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import Arrays, DataError, open_array
from sfumato.data.arrays import kept_array

NUMBERS = np.random.default_rng(0).normal(size=(20, 3, 2)).astype(np.float32)


def refused(path: Path, match: str, **options: int) -> None:
    with pytest.raises(DataError, match=match) as caught:
        open_array(path, **options)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("kind", ["u1", "f2", "f4", "f8", "i2", "i8", "u4", "?", ">f4"])
def test_numbers_of_any_kind_open_unchanged(tmp_path: Path, kind: str) -> None:
    array = (np.arange(24) % 2 if kind == "?" else np.arange(24)).reshape(4, 6).astype(kind)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", anything=array)
    for name in ("a.npy", "a.npz"):
        opened = open_array(tmp_path / name)
        assert isinstance(opened, Arrays)
        assert opened.labels is None
        assert opened.x.dtype == array.dtype
        assert np.array_equal(opened.x, array)
    assert isinstance(open_array(tmp_path / "a.npy").x, np.memmap)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(array))
    assert np.array_equal(open_array(tmp_path / "fortran.npy").x, array)


@pytest.mark.parametrize("key", ["label", "labels", "y"])
def test_labels_of_an_npz(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=NUMBERS, other=np.zeros(3), **{key: np.arange(20, dtype=np.uint8)})
    opened = open_array(path)
    assert np.array_equal(opened.x, NUMBERS)
    assert opened.labels is not None
    assert opened.labels.dtype == np.int64
    assert opened.labels.tolist() == list(range(20))
    np.savez(path, only=NUMBERS, **{key: np.arange(20)[:, None]})
    labels = open_array(path).labels
    assert labels is not None
    assert labels.shape == (20,)
    for wrong in (np.arange(19), np.zeros(20), np.zeros((20, 2), int)):
        np.savez(path, x=NUMBERS, **{key: wrong})
        refused(path, "expected 20 integers")


def test_arrays_that_cannot_be_told_apart_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, train=NUMBERS, test=NUMBERS)
    refused(path, "train, test; expected one called x")
    np.savez(path, label=np.arange(20))
    refused(path, "holds the arrays label; expected one called x")
    np.savez(path, x=NUMBERS, y=np.arange(20), labels=np.arange(20))
    refused(path, "at most one of")


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


def test_objects_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Bomb(), Bomb()], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    refused(tmp_path / "a.npy", "Python objects")
    np.savez(tmp_path / "a.npz", x=objects, allow_pickle=True)
    refused(tmp_path / "a.npz", "Python objects")
    np.savez(tmp_path / "b.npz", x=NUMBERS[:2], y=objects)
    refused(tmp_path / "b.npz", "Python objects")
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "c.npy", "not a .npy or .npz")
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Bomb()))
    refused(tmp_path / "d.npz", "cannot be read")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", ["U3", "S2", "c8", "M8[s]", "V4", [("a", "f4")], np.longdouble])
def test_what_is_not_numbers_is_refused(tmp_path: Path, kind: object) -> None:
    array = np.zeros(4, dtype=kind)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path / "a.npy", "expected whole or floating-point numbers")
    np.savez(tmp_path / "a.npz", x=array)
    refused(tmp_path / "a.npz", "expected whole or floating-point numbers")


@pytest.mark.parametrize("shape", [(), (1, 3), (0, 3), (5, 0)])
def test_shapes_without_two_items_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape))
    refused(tmp_path / "a.npy", "N >= 2")
    np.savez(tmp_path / "a.npz", np.ones(shape))
    refused(tmp_path / "a.npz", "N >= 2")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_bad_values_are_refused(tmp_path: Path, suffix: str) -> None:
    def save(array: np.ndarray) -> Path:
        path = tmp_path / f"a.{suffix}"
        np.save(path, array) if suffix == "npy" else np.savez(path, x=array)
        return path

    bad = NUMBERS.copy()
    bad[13, 2, 1] = np.nan
    refused(save(bad), r"\[13\]: contains NaN")
    refused(save(np.full((4, 3), 0.1)), "spread 0")
    refused(save(np.full((4, 3), 1e300) * np.array([[1], [1], [1], [-1]])), "too large")


def test_a_header_without_end_is_no_lack_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "deep.npy"
    header = b"~" * 9000 + b"1"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    for read in (open_array, kept_array):
        with pytest.raises(DataError, match="signs within signs"):
            read(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, NUMBERS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(path, "truncated, 607 bytes where its header asks for 608")
    for stop in range(0, 128, 9):
        path.write_bytes(whole[:stop])
        refused(path, "")
    path.write_bytes(b"text")
    refused(path, "begins with b'text'")
    refused(tmp_path / "nothing.npy", "file not found")
    refused(tmp_path, "cannot be read")
    path = tmp_path / "a.npz"
    np.savez(path, x=NUMBERS)
    whole = path.read_bytes()
    for place in range(200, 600, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(path, "CRC")
    for stop in (100, 500, len(whole) - 30):
        path.write_bytes(whole[:stop])
        refused(path, "cannot be read")


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_sizes_are_bounded_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((1000, 1000)))
    assert path.stat().st_size < 20_000
    refused(path, "more than the limit", limit=7_000_000)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header((10**6, 10**6)) + bytes(100))
    refused(path, "damaged, 228 bytes where its header asks for")
    (tmp_path / "a.npy").write_bytes(header((10**6, 10**6)) + bytes(100))
    refused(tmp_path / "a.npy", "truncated")
    # A zip that understates its member: the lie is in the central directory
    np.savez_compressed(path, x=NUMBERS)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 200)
    path.write_bytes(data)
    refused(path, "CRC")
