"""Where numbers came from, and by what they are known again: their name, size, and a hash of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfumato.data.errors import DataError, shown

WHOLE = 1 << 30
"""Bytes up to which every number is hashed; of larger arrays, blocks that are spread evenly."""
BLOCKS, BLOCK_BYTES = 1024, 1 << 16


def content_hash(x: np.ndarray, whole: int = WHOLE) -> str:
    """32 digits for the numbers of `x` (N, ...), their type and shape, whatever file they are in.

    Of more than `whole` bytes only 1024 blocks of about 64 kB are read, the first and the last items among them.
    """
    digest = hashlib.blake2b(f"{x.dtype.str} {x.shape}".encode(), digest_size=16)
    item = max(1, x.nbytes // max(1, len(x)))
    if x.nbytes <= whole:
        size = max(1, (16 << 20) // item)
        starts: Sequence[int] = range(0, len(x), size)
    else:
        size = max(1, BLOCK_BYTES // item)
        starts = sorted({int(start) for start in np.linspace(0, len(x) - size, BLOCKS)})
    for start in starts:
        digest.update(np.ascontiguousarray(x[start : start + size]).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Source:
    """An array that a run learned from.

    path: where it stood, absolute. beside: the same, from the run's folder. size: bytes of its numbers. hash: `content_hash`.
    """

    path: str
    beside: str
    size: int
    hash: str

    @classmethod
    def of(cls, path: Path, x: np.ndarray, run: Path) -> Source:
        """That of the numbers `x` of the file `path`, for a run in the folder `run`."""
        full = path.resolve()
        return cls(str(full), os.path.relpath(full, run.resolve()), int(x.nbytes), content_hash(x))

    @classmethod
    def read(cls, stored: Mapping[str, str]) -> Source | None:
        """From plain words; None where there are none. Raises DataError where they are damaged."""
        if not stored:
            return None
        try:
            return cls(stored["path"], stored["beside"], int(stored["size"]), stored["hash"])
        except (KeyError, ValueError) as error:
            raise DataError(f"source in data.json: is damaged ({error!r}); train again") from error

    def plain(self) -> dict[str, str]:
        """As words, for data.json."""
        return {"path": self.path, "beside": self.beside, "size": str(self.size), "hash": self.hash}

    def places(self, written: Path, run: Path) -> list[Path]:
        """The files it may stand in now: where it stood, as the user wrote it, beside the run; those that are there."""
        found = [path for path in (Path(self.path), written, run / self.beside) if path.is_file()]
        return list(dict.fromkeys(path.resolve() for path in found))

    def words(self) -> str:
        """For the plan."""
        how = "all of it" if self.size <= WHOLE else f"{BLOCKS} blocks of it"
        return f"{shown(Path(self.path).name)}, {amount(self.size)}, known again by a hash of {how} ({self.hash[:12]})"


def amount(size: int) -> str:
    """A number of bytes for people."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
