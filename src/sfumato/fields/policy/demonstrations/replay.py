"""Demonstrations in files of arrays: the zarr replay buffers of Diffusion Policy, and `.npz`.

A replay buffer is a zarr store (format 2 or 3; a folder or a .zip file) with one array per observation and the actions
below `data/`, steps first, and `meta/episode_ends`.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.arrays import MEMBER_LIMIT, member
from sfumato.data.errors import DataError, shown
from sfumato.data.stores import Members, Meta, opened_array, reading
from sfumato.data.writing import appearing
from sfumato.fields.policy.demonstrations.episodes import ACTION, OBSERVATION, Demonstrations, Frames


def open_replay(
    path: str | os.PathLike[str], *, names: Sequence[str] | None = None, limit: int = MEMBER_LIMIT
) -> Demonstrations:
    """Opens a zarr replay buffer: the array "action" and the observations `names` (all the others by default).

    Arrays of numbers are read into memory, `limit` bytes at most each. Pictures, which are (N, H, W, C) or (N, C, H, W)
    with C of 1 or 3, stay in the store and are decoded when asked for (see `store_pictures`); those that are stored as
    floating-point numbers must be whole from 0 to 255, and are given as bytes.
    Raises DataError when the store or one of its arrays is missing or damaged, is compressed by something that could
    run code, when pieces of the actions are missing, or when the numbers are wrong (see `Demonstrations`).
    """
    path = Path(path)
    members = Members(path, "zarr replay buffer")
    present = [key for key in members.folders("data") if key != ACTION]
    wanted = tuple(present if names is None else names)
    observations: dict[str, Frames] = {}
    for key in wanted:
        if key not in present:
            raise DataError(f"{shown(path)}: has no array data/{shown(key)}; it has {', '.join(map(shown, present))}")
        meta = members.meta(f"data/{key}")
        if len(meta.shape) == 4 and (meta.shape[3] in (1, 3) or meta.shape[1] in (1, 3)):
            observations[key] = ZarrPictures(path, f"data/{key}", meta)
        else:
            array = _read(path, f"data/{key}", meta, limit)
            observations[key] = array[:, None] if array.ndim == 1 else array
    actions = _read(path, f"data/{ACTION}", members.meta(f"data/{ACTION}"), limit, whole=True)
    ends = _read(path, "meta/episode_ends", members.meta("meta/episode_ends"), limit, whole=True)
    return Demonstrations(
        actions=actions[:, None] if actions.ndim == 1 else actions,
        ends=ends,
        observations=observations,
        source=os.fspath(path),
    )


def _read(path: Path, array: str, meta: Meta, limit: int, whole: bool = False) -> np.ndarray:
    name, size = f"{shown(path)}[{shown(array)}]", math.prod(meta.shape) * meta.dtype.itemsize
    if size > limit:
        raise DataError(f"{name}: unpacks to {size / 1e9:.3g} GB, more than the limit of {limit / 1e9:.3g} GB")
    with reading(path, f"a zarr array at {shown(array)}"):
        opened = opened_array(path, array, meta)
        # zarr reads a missing piece as zeros, which a robot would learn to do
        if whole and opened.nchunks_initialized < opened.nchunks:
            raise DataError(
                f"{name}: {opened.nchunks - opened.nchunks_initialized} of its {opened.nchunks} pieces are missing and "
                "would read as 0; copy it again, or store zeros with write_empty_chunks=True"
            )
        values: np.ndarray = np.asarray(opened[...])
    return values


@dataclass(frozen=True, eq=False)
class ZarrPictures:
    """Pictures in a zarr store as rows of bytes, decoded when asked for; the piece decoded last is kept.

    Asking in order is quick, and asking at random decodes a whole piece for each picture: see `store_pictures`.
    """

    path: Path
    array: str
    meta: Meta
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.meta.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.meta.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "array": self.array, "meta": self.meta, "_kept": {}}

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows of a slice or a flat array of numbers, uint8. Raises DataError when they can't be decoded."""
        rows = np.arange(len(self))[index]
        flat, out = rows.reshape(-1), np.empty((rows.size, *self.shape[1:]), dtype=np.uint8)
        pieces = flat // self.meta.chunk[0]
        for piece in np.unique(pieces):
            chosen = pieces == piece
            out[chosen] = self._piece(int(piece))[flat[chosen] - piece * self.meta.chunk[0]]
        return out.reshape(*rows.shape, *self.shape[1:])

    def _piece(self, number: int) -> np.ndarray:
        kept = self._kept.get("piece")
        if kept is not None and kept[0] == number:
            pixels: np.ndarray = kept[1]
            return pixels
        with reading(self.path, f"a zarr array at {shown(self.array)}"):
            if self._kept.get("process") != os.getpid():  # a store opened before a fork is not ours to read
                self._kept.update(process=os.getpid(), opened=opened_array(self.path, self.array, self.meta))
            start = number * self.meta.chunk[0]
            raw = np.asarray(self._kept["opened"][start : start + self.meta.chunk[0]])
        pixels = raw.astype(np.uint8) if raw.dtype.kind == "f" and _whole(raw) else raw
        if pixels.dtype != np.uint8:
            raise DataError(
                f"{shown(self.path)}[{shown(self.array)}]: pictures are {raw.dtype} from {raw.min():g} to "
                f"{raw.max():g}; expected bytes, or whole numbers from 0 to 255"
            )
        self._kept["piece"] = (number, pixels)
        return pixels


def _whole(raw: np.ndarray) -> bool:
    return bool(((raw >= 0) & (raw <= 255) & (raw == np.floor(raw))).all())


def store_pictures(
    demonstrations: Demonstrations,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Demonstrations:
    """Decodes all pictures that are not arrays yet into `folder`/NAME.npy and gives them memory-mapped, once for all.

    A file that is there already is written anew. Raises DataError when a picture can't be decoded or the disk is full.
    """
    folder, observations = Path(folder), dict(demonstrations.observations)
    lazy = {key: frames for key, frames in observations.items() if not isinstance(frames, np.ndarray)}
    total, done = sum(map(len, lazy.values())), 0
    for key, frames in lazy.items():
        if "/" in key or key.startswith("."):
            raise DataError(f"{shown(demonstrations.source)}: the name {shown(key)} can't be the name of a file")
        target = folder / f"{key}.npy"
        step = max(1, (16 << 20) // max(1, math.prod(frames.shape[1:])))
        step = frames.meta.chunk[0] if isinstance(frames, ZarrPictures) else step
        with appearing(target) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": tuple(frames.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(frames), step):
                block = np.ascontiguousarray(frames[start : start + step])
                file.write(block.tobytes())
                done += len(block)
                if progress is not None:
                    progress(done, total)
        observations[key] = np.load(target, mmap_mode="r", allow_pickle=False)
    return replace(demonstrations, observations=observations)


def save_episodes(demonstrations: Demonstrations, path: str | os.PathLike[str]) -> None:
    """Writes `.npz` for `open_episodes`: "action", "episode_ends", "observation.NAME", and "fps", "task", "tasks".

    The file appears only when it is complete. Raises DataError when it cannot be written.
    """
    path = Path(path)
    arrays = {ACTION: demonstrations.actions, "episode_ends": demonstrations.ends}
    arrays |= {f"{OBSERVATION}.{key}": np.asarray(x[:]) for key, x in demonstrations.observations.items()}
    if demonstrations.fps is not None:
        arrays["fps"] = np.array([demonstrations.fps], dtype=np.float64)
    if demonstrations.task is not None:
        arrays["task"] = demonstrations.task
    if demonstrations.tasks:  # as bytes of JSON: numpy's text is not plain numbers
        arrays["tasks"] = np.frombuffer(json.dumps(list(demonstrations.tasks)).encode(), dtype=np.uint8)
    with appearing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def open_episodes(path: str | os.PathLike[str], *, limit: int = MEMBER_LIMIT) -> Demonstrations:
    """Opens `.npz` with "action" (N, A), "episode_ends" (E,) and any observations (N, ...), into memory.

    "observation.NAME" or just "NAME" is an observation; "fps", "task" and "tasks" are as `save_episodes` writes them.
    `limit` bounds the bytes of one array. Nothing is ever unpickled. Raises DataError when the file is missing or
    damaged, lacks an array, or holds what `Demonstrations` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{shown(path)}: file not found; expected .npz with arrays action and episode_ends")
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        arrays = {info.filename.removesuffix(".npy"): member(archive, info, path, limit) for info in archive.infolist()}
    for key in (ACTION, "episode_ends"):
        if key not in arrays:
            have = ", ".join(map(shown, arrays)) or "(none)"
            raise DataError(f"{shown(path)}: has no array {key}, only {have}; expected action and episode_ends")
    actions, ends, task = arrays.pop(ACTION), arrays.pop("episode_ends"), arrays.pop("task", None)
    fps, tasks = arrays.pop("fps", None), arrays.pop("tasks", None)
    words: Any = []
    if tasks is not None:
        try:
            words = json.loads(tasks.tobytes().decode())
        except ValueError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{shown(path)}[tasks]: not the bytes of a JSON list of texts; save it with save_episodes")
    if fps is not None and fps.size != 1:
        raise DataError(f"{shown(path)}[fps]: has shape {fps.shape}; expected one number")
    return Demonstrations(
        actions=actions,
        ends=ends,
        observations={key.removeprefix(f"{OBSERVATION}."): x for key, x in arrays.items()},
        fps=None if fps is None else float(fps.reshape(())),
        tasks=tuple(words),
        task=task,
        source=os.fspath(path),
    )
