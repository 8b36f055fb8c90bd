"""Gridded fields in files: NetCDF (classic by scipy, NetCDF-4 by h5netcdf) and zarr, opened lazily and read by name.

What is found in a file are arrays with named axes and attributes. Nothing is executed: arrays of Python objects and unknown
compressors are refused, and sizes are bounded before anything is decoded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import DataError, decoding, needed, shown

EXTRA = "weather"
NETCDF = (".nc", ".nc4", ".cdf", ".netcdf")
GRIB = (".grib", ".grb", ".grib2", ".grb2")
CLASSIC, HDF5 = b"CDF", b"\x89HDF\r\n\x1a\n"
AGAIN = "copy or download it again"
MOST_NUMBERS, MOST_PIECE = 1 << 48, 1 << 30


@dataclass(frozen=True, eq=False)
class Raw:
    """An array in a file, as it stands there: packed, in whatever order of axes.

    read: slices, one an axis -> numbers. chunk: its pieces on disk; () for none.
    """

    file: Path
    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    read: Callable[[tuple[slice, ...]], np.ndarray]
    whole: Callable[[], None]
    """Raises DataError where pieces of it are not there."""

    @property
    def place(self) -> str:
        """For messages."""
        return f"{shown(self.file)}[{shown(self.name)}]"

    def word(self, name: str) -> str:
        """An attribute as text, "" where there is none."""
        value = self.attributes.get(name, "")
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return shown(str(value))[:200]

    def number(self, name: str, usual: float) -> float:
        """An attribute as one number. Raises DataError."""
        value = self.attributes.get(name)
        if value is None:
            return usual
        try:
            found = np.asarray(value, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            return usual if name in GAPS else self._odd(name, value)
        return float(found[0]) if found.size == 1 else self._odd(name, value)

    def _odd(self, name: str, value: Any) -> float:
        raise DataError(f"{self.place}: its attribute {name} is {value!r:.40}; expected one number")

    def values(self, where: tuple[slice, ...]) -> np.ndarray:
        """A part unpacked, float64: scale_factor x stored + add_offset, NaN where a gap is stored."""
        with decoding(self.place, AGAIN):
            stored = np.asarray(self.read(where))
        gone = np.zeros(stored.shape, dtype=bool)
        for name in GAPS:
            gap = self.number(name, math.nan)
            if not math.isnan(gap):
                gone |= stored == np.asarray(gap, dtype=np.float64).astype(stored.dtype)
        found = stored.astype(np.float64) * self.number("scale_factor", 1.0) + self.number("add_offset", 0.0)
        found[gone] = np.nan
        return found


GAPS = ("_FillValue", "missing_value")


def sources(path: Path) -> list[Path]:
    """The files that a folder or a file stands for, sorted. Raises DataError where there are none that can be read."""
    if not path.exists():
        raise DataError(f"{shown(path)}: not found; expected a folder or file of NetCDF or zarr")
    if path.is_file() or _is_store(path):
        return [path]
    found, grib = [], []
    for each in sorted(path.iterdir()):
        if each.name.startswith("."):
            continue
        if each.is_dir():
            if _is_store(each):
                found.append(each)
        elif each.suffix.lower() in (*NETCDF, ".zip"):
            found.append(each)
        elif each.suffix.lower() in GRIB:
            grib.append(each)
    if not found and grib:
        raise DataError(f"{shown(grib[0])}: is GRIB, which is not read; bring it into NetCDF, as by `cdo -f nc4 copy`")
    if not found:
        raise DataError(f"{shown(path)}: holds no NetCDF file ({', '.join(NETCDF)}) and no zarr store")
    return found


def _is_store(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in (".zgroup", "zarr.json", ".zmetadata"))


def arrays(file: Path) -> dict[str, Raw]:
    """Every array of numbers in a file, by name. Raises DataError."""
    if file.is_dir() or file.suffix.lower() == ".zip":
        return _zarr(file)
    with decoding(file, AGAIN), file.open("rb") as handle:
        head = handle.read(8)
    if head[:3] == CLASSIC and head[3:4] in (b"\x01", b"\x02"):
        return _classic(file)
    if head == HDF5:
        return _hdf5(file)
    if file.suffix.lower() in GRIB or head[:4] == b"GRIB":
        raise DataError(f"{shown(file)}: is GRIB, which is not read; bring it into NetCDF, as by `cdo -f nc4 copy`")
    raise DataError(f"{shown(file)}: is neither NetCDF nor a zarr store; expected one of them")


# ---- NetCDF ----------------------------------------------------------------------------------------------------------


def _classic(file: Path) -> dict[str, Raw]:
    """Its header lies ahead of the numbers, which are mapped and read when they are asked for."""
    netcdf = needed("scipy.io", EXTRA).netcdf_file
    found = {}
    with decoding(file, AGAIN), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the file stays mapped while a part of it may be asked for, and scipy warns of that
        variables = dict(netcdf(file, "r", mmap=True).variables)
    for name, variable in variables.items():
        kind = variable.data.dtype
        if kind.kind not in "fiu" or not variable.dimensions:
            continue
        axes, shape = tuple(variable.dimensions), tuple(map(int, variable.data.shape))

        def read(where: tuple[slice, ...], data: Any = variable.data) -> np.ndarray:
            return np.array(data[where], dtype=data.dtype.newbyteorder("="))

        found[name] = Raw(file, name, axes, shape, dict(variable._attributes), read, lambda: None)
    return found


def _hdf5(file: Path) -> dict[str, Raw]:
    h5netcdf = needed("h5netcdf", EXTRA)
    found = {}
    with decoding(file, AGAIN), h5netcdf.File(file, "r") as handle:
        for name, variable in handle.variables.items():
            try:
                kind, axes, shape = (
                    np.dtype(variable.dtype),
                    tuple(variable.dimensions),
                    tuple(map(int, variable.shape)),
                )
            except TypeError:
                continue  # texts and made-up types
            if kind.kind not in "fiu" or not axes:
                continue
            if math.prod(shape) > MOST_NUMBERS or math.prod(variable.chunks or (1,)) * kind.itemsize > MOST_PIECE:
                raise DataError(
                    f"{shown(file)}[{shown(name)}]: has shape {shape} in pieces of {variable.chunks}; too large"
                )

            def read(where: tuple[slice, ...], name: str = name) -> np.ndarray:
                with h5netcdf.File(file, "r") as again:
                    return np.asarray(again.variables[name][where])

            attributes = {str(key): value for key, value in variable.attrs.items()}
            found[name] = Raw(file, name, axes, shape, attributes, read, lambda: None)
    return found


# ---- zarr ------------------------------------------------------------------------------------------------------------


def _zarr(store: Path) -> dict[str, Raw]:
    from sfumato.data.stores import Members, Meta, opened_array

    members, found = Members(store), {}
    for name in members.folders(""):
        axes, attributes = members.described(name)
        if not axes:
            continue
        meta = members.meta(name)
        if len(axes) != len(meta.shape):
            raise DataError(f"{shown(store)}[{shown(name)}]: names {len(axes)} axes for the shape {meta.shape}")

        def read(where: tuple[slice, ...], name: str = name, meta: Meta = meta) -> np.ndarray:
            return np.asarray(opened_array(store, name, meta, EXTRA)[where])

        def whole(name: str = name, meta: Meta = meta) -> None:
            with decoding(store, AGAIN):
                array = opened_array(store, name, meta, EXTRA)
                fill = np.asarray(array.fill_value if array.fill_value is not None else 0)
                gone = 0 if fill.dtype.kind == "f" and np.isnan(fill) else array.nchunks - array.nchunks_initialized
            if gone > 0:
                raise DataError(
                    f"{shown(store)}[{shown(name)}]: {gone} of its {array.nchunks} pieces are missing and would read as {fill}; "
                    "copy it again, or write it with write_empty_chunks=True"
                )

        found[name] = Raw(store, name, axes, meta.shape, attributes, read, whole)
    if not found:
        raise DataError(f"{shown(store)}: has no array with names of its axes; expected a store as xarray writes it")
    return found
