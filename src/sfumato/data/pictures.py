"""A folder of pictures: what is in it, what is broken, and all of it as one array.

folder --scan--> Scan (readable files, complaints, counts) --check_budget--> go on or stop --gather--> one array
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from sfumato.data.errors import DataError, shown
from sfumato.data.picture import (
    HANDLED,
    MAX_PIXELS,
    WHITE,
    Colour,
    Complaint,
    Picture,
    attempt,
    decode,
    fit,
    quiet,
    stretch,
)
from sfumato.data.writing import appearing

__all__ = [
    "HANDLED",
    "Complaint",
    "Picture",
    "Scan",
    "check_budget",
    "decode",
    "find",
    "fit",
    "gather",
    "scan",
    "stretch",
]

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfi", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff",
            ".ppm", ".pgm", ".pbm", ".pnm")  # fmt: skip

REMEDIES = {
    "take pictures out of films first: ffmpeg -i FILM -r 2 pictures/%05d.png": {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"},
    "unpack archives first": {".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"},
    "convert these to .jpg or .png first": {".heic", ".heif", ".avif", ".svg", ".pdf", ".raw", ".cr2", ".nef", ".dng", ".psd"},
    "of an array give the file itself, not the folder": {".npy", ".npz"},
    "give the field that these are of, see sfumato --help": {".csv", ".parquet", ".jsonl", ".txt", ".md", ".py", ".zarr"},
}  # fmt: skip
"""What to do where a folder holds other files alone: words -> suffixes."""

Progress = Callable[[int, int], None]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class Scan:
    """What is in a folder: `files` can all be decoded, `complaints` are about those that cannot.

    `digests` are one key per file, made of the decoded pixels, for `split` and for finding duplicates. `sizes` counts
    (width, height) as displayed, `modes` Pillow's modes, `handled` what was put right (words of `HANDLED`), `ignored`
    other files by suffix. `labels` are the names of the sub-folders right below the root, if asked for. `shapes` are
    (height, width) of each file.
    """

    root: Path
    files: tuple[Path, ...]
    complaints: tuple[Complaint, ...]
    digests: tuple[bytes, ...]
    labels: tuple[str, ...] | None
    sizes: Counter[tuple[int, int]]
    modes: Counter[str]
    handled: Counter[str]
    ignored: Counter[str]
    background: Colour = WHITE
    max_pixels: int = MAX_PIXELS
    shapes: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def duplicates(self) -> tuple[tuple[Path, ...], ...]:
        """Groups of two or more files that show the same pixels."""
        groups: dict[bytes, list[Path]] = {}
        for path, digest in zip(self.files, self.digests):
            groups.setdefault(digest, []).append(path)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The label names, sorted; empty without labels."""
        return tuple(sorted(set(self.labels or ())))

    @cached_property
    def label_numbers(self) -> np.ndarray | None:
        """Per file the place of its label in `classes`, int64 (N,); None without labels."""
        if self.labels is None:
            return None
        place = {name: number for number, name in enumerate(self.classes)}
        return np.array([place[label] for label in self.labels], dtype=np.int64)

    @cached_property
    def median_side(self) -> int:
        """The median of min(width, height) in pixels (the lower one of two); 0 without readable files."""
        sides = sorted(min(size) for size in self.sizes.elements())
        return sides[(len(sides) - 1) // 2] if sides else 0

    @cached_property
    def fingerprint(self) -> str:
        """One word for all the pixels and labels in their order; the same content gives the same word anywhere."""
        digest = hashlib.blake2b(b"".join(self.digests), digest_size=16)
        digest.update(repr(self.labels).encode())
        return digest.hexdigest()


def scan(
    root: str | os.PathLike[str],
    *,
    labels: bool = False,
    background: Colour = WHITE,
    max_pixels: int = MAX_PIXELS,
    workers: int = 0,
    progress: Progress | None = None,
    files: Sequence[Path] | None = None,
) -> Scan:
    """Really decodes every picture in a folder and its sub-folders, in a fixed order, and says what is there.

    Pictures are known by their suffix (`SUFFIXES`, any case). Hidden files are passed over; linked folders are
    followed, each folder once. With `labels` a file's label is its sub-folder right below `root`. `workers` threads
    decode at once; `progress(done, total)` is called after each file. With `files` the folder is not searched: these are
    looked at, in their order, whatever their suffix. Broken files become complaints; raises
    DataError when the folder is missing or has no pictures, or when labels are asked for and a picture has none.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{shown(root)}: {'not a folder' if root.exists() else 'no such folder'}; expected pictures in it"
        )
    paths, complaints, ignored = find(root) if files is None else (list(files), [], Counter[str]())
    if not paths and not complaints:
        others = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in ignored.most_common(5)) or "nothing"
        advice = next(
            (f"; {text}" for text, kinds in REMEDIES.items() if ignored.keys() & kinds), "; give a folder with some"
        )
        raise DataError(
            f"{shown(root)}: no pictures in it or its sub-folders ({' '.join(SUFFIXES)}); found {others}{advice}"
        )
    stray = next((path for path in paths if labels and path.parent == root), None)
    if stray is not None:
        raise DataError(
            f"{shown(stray)}: has no label; with labels each picture must lie in a sub-folder named after it"
        )

    whole: list[Path] = []
    digests: list[bytes] = []
    shapes: list[tuple[int, int]] = []
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    handled: Counter[str] = Counter()

    def inspect(path: Path) -> Complaint | tuple[bytes, tuple[int, int], Picture]:
        picture = attempt(path, background, max_pixels)
        if isinstance(picture, Complaint):
            return picture
        height, width, _ = picture.pixels.shape
        return _digest(picture.pixels), (width, height), Picture(np.empty(0), picture.mode, picture.handled)

    with quiet():
        for done, (path, found) in enumerate(zip(paths, _each(inspect, paths, workers)), start=1):
            if isinstance(found, Complaint):
                complaints.append(found)
            else:
                digest, size, picture = found
                whole.append(path)
                digests.append(digest)
                shapes.append(size[::-1])
                sizes[size] += 1
                modes[picture.mode] += 1
                handled.update(picture.handled)
            if progress is not None:
                progress(done, len(paths))
    return Scan(
        root=root,
        files=tuple(whole),
        complaints=tuple(sorted(complaints, key=lambda complaint: complaint.path.parts)),
        digests=tuple(digests),
        labels=tuple(shown(path.relative_to(root).parts[0]) for path in whole) if labels else None,
        sizes=sizes,
        modes=modes,
        handled=handled,
        ignored=ignored,
        background=background,
        max_pixels=max_pixels,
        shapes=tuple(shapes),
    )


def find(root: Path) -> tuple[list[Path], list[Complaint], Counter[str]]:
    """Candidate files in order, folders that cannot be listed, and the other files counted by suffix."""
    paths, complaints, ignored = [], [], Counter[str]()
    folders, linked, seen = [root], deque[Path](), set()
    while folders or linked:
        folder = folders.pop() if folders else linked.popleft()  # links last: the real path wins
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            complaints.append(Complaint(folder, f"folder cannot be listed: {(error.strerror or 'error').lower()}"))
            continue
        for entry in entries:
            path = folder / entry.name
            suffix = path.suffix.lower()
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(path)
            elif suffix in SUFFIXES:
                paths.append(path)
            else:
                ignored[shown(suffix)] += 1
    return sorted(paths, key=lambda path: path.parts), complaints, ignored


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _each(function: Callable[[_In], _Out], items: Iterable[_In], workers: int) -> Iterator[_Out]:
    """`map`, by `workers` threads when more than one, with few results waiting so that memory stays bounded."""
    if workers <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Out]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _digest(pixels: np.ndarray) -> bytes:
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _grouped(complaints: Iterable[Complaint]) -> Iterator[str]:
    """What is wrong once, behind all files of which it is so."""
    same: dict[str, list[str]] = {}
    for complaint in complaints:
        same.setdefault(complaint.reason.partition(" (begins with")[0], []).append(shown(complaint.path))
    return (f"{', '.join(paths)}: {reason}" for reason, paths in same.items())


def check_budget(scan: Scan, budget: float = 0.01) -> None:
    """Raises DataError, naming up to five files, when more than the share `budget` is broken or nothing is readable."""
    bad, total = len(scan.complaints), len(scan.complaints) + len(scan.files)
    if scan.files and bad <= budget * total:
        return
    named = "; ".join(_grouped(scan.complaints[:5])) + (f"; and {bad - 5} more" if bad > 5 else "")
    advice = "Fix or remove them"
    if scan.files:
        advice += f", or go on without them with --broken-budget {math.ceil(1000 * bad / total) / 1000:g}"
    raise DataError(
        f"{shown(scan.root)}: {bad} of {total} pictures ({bad / max(total, 1):.1%}) cannot be used, "
        f"more than the {budget:.1%} allowed: {named}. {advice}."
    )


def gather(
    scan: Scan,
    side: int | tuple[int, int],
    out: str | os.PathLike[str],
    *,
    which: Sequence[int] | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Decodes and fits every file of a scan into the file `out`: uint8 (N, 3, H, W), returned memory-mapped.

    With a `side` the square in the middle is taken (`fit`), with a (height, width) all of the picture (`stretch`). `which`:
    numbers of the files that are taken, in this order; all unless given. `out` appears only when it is complete. Raises
    DataError naming the file that vanished or changed since the scan, when there is nothing to gather, and when `out` cannot
    be written (saying how much room is needed).
    """
    chosen = range(len(scan.files)) if which is None else which
    out, count = Path(out), len(chosen)
    height, width = (side, side) if isinstance(side, int) else side
    shape = (count, 3, height, width)
    if not count or min(height, width) < 1:
        raise DataError(f"{shown(scan.root)}: nothing to gather ({count} readable pictures, side {side})")
    with appearing(out) as file, quiet():
        need, have = math.prod(shape) + 128, shutil.disk_usage(out.parent).free
        if have < need:
            raise DataError(f"{shown(out)}: needs {need / 1e6:.0f} MB of disk but {have / 1e6:.0f} MB are free")
        items = [(scan.files[i], scan.digests[i]) for i in chosen]
        _write(file, scan, items, shape, isinstance(side, int), workers, progress)
    array: np.ndarray = np.load(out, mmap_mode="r", allow_pickle=False)
    return array


def _write(
    file: BinaryIO, scan: Scan, items: Sequence[tuple[Path, bytes]], shape: tuple[int, int, int, int], crop: bool, workers: int,
    progress: Progress | None,
) -> None:  # fmt: skip
    # Plain writes rather than a memory map: a full disk is then an error with a message, not a killed process
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    load = partial(_load, background=scan.background, max_pixels=scan.max_pixels, shape=shape[2:], crop=crop)
    for done, pixels in enumerate(_each(load, items, workers), start=1):
        file.write(np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes())
        if progress is not None:
            progress(done, shape[0])


def _load(
    item: tuple[Path, bytes], background: Colour, max_pixels: int, shape: tuple[int, int], crop: bool
) -> np.ndarray:
    path, digest = item
    picture = attempt(path, background, max_pixels)
    if isinstance(picture, Complaint):
        raise DataError(f"{picture} (it was readable when the folder was scanned; scan again)")
    if _digest(picture.pixels) != digest:
        raise DataError(f"{shown(path)}: has changed since the folder was scanned; scan again")
    return fit(picture.pixels, shape[0]) if crop else stretch(picture.pixels, *shape)
