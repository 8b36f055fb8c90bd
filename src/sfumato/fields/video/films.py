"""Films from disk, frame by frame with its time: files, moving pictures, folders of numbered pictures, arrays.

Frames are known by their time stamps, never counted: rates vary, and films begin late. They come as a viewer would show them:
turned, pixels square, 8 bits a colour. Sound is left out. A film is read from its start to its end, one frame in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sfumato.data.arrays import open_array
from sfumato.data.errors import DataError, one_line, shown
from sfumato.data.picture import MAX_PIXELS, decode, quiet
from sfumato.errors import decoding, needed

FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MOVING = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG"}
ARRAYS = (".npz", ".npy")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
MOST_FRAMES = 200_000
MOST_PIXELS = 20_000_000_000
"""Of all frames of one film together: more is another kind of data, or a file that lies."""
USUAL_RATE = 10.0
"""Frames a second of what says nothing of time: folders and arrays."""
REMEDY = "copy it again, or leave it out"


class Frame(NamedTuple):
    """When, in seconds from the start of the file, and what is seen, bytes (H, W, 3)."""

    seconds: float
    pixels: np.ndarray


@dataclass(frozen=True)
class Film:
    """One film on disk: a file, a folder of pictures, or row ``part`` of an array of films."""

    path: Path
    part: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return shown(self.path) if self.part is None else f"{shown(self.path)}[{self.part}]"


@dataclass(frozen=True)
class About:
    """What a film says of itself before it is decoded: sides of a frame as displayed, frames a second (None: nothing)."""

    height: int
    width: int
    rate: float | None


class BrokenOff(DataError):
    """A film that ends before its end: what came before was read."""


def about(film: Film) -> About:
    """Sides and rate of a film, without decoding more than a frame. Raises DataError."""
    first = None
    if film.path.suffix.lower() in FILMS and not film.path.is_dir():
        with _opened(film.path) as (container, stream):
            rate = stream.average_rate or stream.guessed_rate
            if not rate or not 0 < float(rate) < 1e5:
                raise DataError(f"{film.name}: says no rate of frames ({rate}); give --fps")
            for frame in container.decode(stream):
                pixels = _pixels(frame, stream)
                return About(pixels.shape[0], pixels.shape[1], float(rate))
            raise DataError(f"{film.name}: holds no frame; {REMEDY}")
    times = []
    for frame in frames(film):
        first = frame if first is None else first
        times.append(frame.seconds)
        if len(times) > 3:
            break
    if first is None:
        raise DataError(f"{film.name}: holds no frame; {REMEDY}")
    rate = None if _timeless(film.path) or len(times) < 2 else (len(times) - 1) / max(1e-3, times[-1] - times[0])
    return About(first.pixels.shape[0], first.pixels.shape[1], rate)


def _timeless(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in ARRAYS


def frames(film: Film, strict: bool = False) -> Iterator[Frame]:
    """The frames of a film in their order. Raises DataError; BrokenOff, behind the frames before the break, unless ``strict``."""
    suffix = film.path.suffix.lower()
    if film.path.is_dir():
        found = _folder(film.path)
    elif suffix in ARRAYS:
        found = _array(film)
    elif suffix in MOVING:
        found = _moving(film.path, MOVING[suffix])
    elif suffix in FILMS:
        found = _container(film.path)
    else:
        raise DataError(
            f"{film.name}: is no film; expected {', '.join((*FILMS, *MOVING, *ARRAYS))}, or a folder of pictures"
        )
    count = pixels = 0
    for frame in found:
        count += 1
        pixels += frame.pixels.shape[0] * frame.pixels.shape[1]
        if count > MOST_FRAMES or pixels > MOST_PIXELS:
            raise DataError(
                f"{film.name}: more than {MOST_FRAMES:,} frames, or {MOST_PIXELS / 1e9:g} thousand million pixels in all; cut "
                "it into parts"
            )
        yield frame
    if not count:
        raise DataError(f"{film.name}: holds no frame; {REMEDY}")


# ---- containers ------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its stream of pictures. Raises DataError."""
    av = needed("av", "video")
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such film")
    with decoding(path, REMEDY):
        container = av.open(str(path))
    try:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise DataError(f"{shown(path)}: holds no pictures ({kinds}); leave it out")
        stream = container.streams.video[0]
        if not stream.width or not stream.height or stream.width * stream.height > MAX_PIXELS:
            raise DataError(
                f"{shown(path)}: frames of {stream.width}x{stream.height} pixels; 1 to {MAX_PIXELS:,} are read"
            )
        stream.codec_context.thread_count = 1  # threads would outlive a fork
        yield container, stream
    finally:
        container.close()


def _container(path: Path) -> Iterator[Frame]:
    with _opened(path) as (container, stream):
        decoded, last, begun = container.decode(stream), -1.0, False
        length = container.duration / 1e6 if container.duration else 0.0  # in microseconds, where it is known
        while True:
            try:
                frame = next(decoded, None)
                pixels = None if frame is None or frame.pts is None else _pixels(frame, stream)
            except Exception as error:  # a damaged stream may raise almost anything
                kind = BrokenOff if begun else DataError
                raise kind(
                    f"{shown(path)}: breaks off behind {max(last, 0):.2f} s ({one_line(error)}); {REMEDY}"
                ) from error
            if frame is None:
                break
            if pixels is None or frame.time <= last:
                continue
            begun, last = True, float(frame.time)
            yield Frame(last, pixels)
    if begun and length and last < 0.9 * length - 1:
        raise BrokenOff(f"{shown(path)}: says {length:.2f} s and breaks off behind {last:.2f} s; {REMEDY}")


def _pixels(frame: Any, stream: Any) -> np.ndarray:
    """A decoded frame as it is displayed: in 8 bits, turned, its pixels made square by making the shorter side longer."""
    found = np.asarray(frame.to_ndarray(format="rgb24"))
    ratio = stream.sample_aspect_ratio
    if ratio and ratio > 0 and ratio != 1 and 0.1 < float(ratio) < 10:
        height, width = found.shape[:2]
        size = (round(width * float(ratio)), height) if ratio > 1 else (width, round(height / float(ratio)))
        if size[0] * size[1] <= MAX_PIXELS:
            found = np.asarray(Image.fromarray(found).resize(size, Image.Resampling.BILINEAR))
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(found, turns)) if turns else found


# ---- moving pictures, folders, arrays --------------------------------------------------------------------------------


def _moving(path: Path, kind: str) -> Iterator[Frame]:
    """GIF, WebP and APNG, on white; a frame stays for its own time."""
    with quiet(), decoding(path, REMEDY):
        image = Image.open(path, formats=(kind,))
    with quiet(), image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{shown(path)}: frames of {image.width}x{image.height} pixels; 1 to {MAX_PIXELS:,} are read"
            )
        seconds, number = 0.0, 0
        while True:
            try:
                image.seek(number)
                shown_now = image.convert("RGBA")
            except EOFError:
                return
            except Exception as error:
                broken = BrokenOff if number else DataError
                raise broken(
                    f"{shown(path)}: breaks off behind frame {number} ({one_line(error)}); {REMEDY}"
                ) from error
            ground = Image.new("RGBA", shown_now.size, "white")
            ground.alpha_composite(shown_now)
            yield Frame(seconds, np.asarray(ground.convert("RGB")))
            delay = image.info.get("duration", 100)
            seconds += (delay if isinstance(delay, (int, float)) and delay > 0 else 100) / 1000
            number += 1


def _folder(path: Path) -> Iterator[Frame]:
    """Numbered pictures; a number that is missing, or a picture of another size, is named."""
    found = numbered(path)
    if not found:
        raise DataError(f"{shown(path)}: holds no numbered pictures such as 0001.png")
    first, size = min(found), None
    for place, number in enumerate(sorted(found)):
        if number != first + place:
            raise DataError(f"{shown(path)}: the picture of number {first + place} is missing, and {number} is there")
        pixels = decode(found[number]).pixels
        size = pixels.shape if size is None else size
        if pixels.shape != size:
            raise DataError(
                f"{shown(found[number])}: has {pixels.shape[1]}x{pixels.shape[0]} pixels, and {found[first].name} has "
                f"{size[1]}x{size[0]}; pictures of one film have one size"
            )
        yield Frame(place / USUAL_RATE, pixels)


def numbered(path: Path) -> dict[int, Path]:
    """The pictures of a folder by the last number in their names."""
    found: dict[int, Path] = {}
    for file in sorted(path.iterdir()):
        number = re.search(r"(\d{1,9})\D*$", file.stem)
        if file.suffix.lower() in PICTURES and number and file.is_file() and not file.name.startswith("."):
            found.setdefault(int(number[1]), file)
    return found


def _array(film: Film) -> Iterator[Frame]:
    x = films_of(film.path)[0]
    for place, pixels in enumerate(x[film.part or 0]):
        yield Frame(place / USUAL_RATE, np.asarray(pixels))


_LAST: dict[tuple[str, int, int], tuple[np.ndarray, tuple[str, ...]]] = {}


def films_of(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The films of an array file, bytes (N, T, H, W, 3), and what is said of each (the names of its labels), or (). Raises
    DataError. The last file is kept open."""
    if not path.is_file():
        raise DataError(f"{shown(path)}: there is no such file")
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    if key not in _LAST:
        found = open_array(path)
        x = found.x[None] if found.x.ndim == 4 else found.x
        if x.dtype != np.uint8 or x.ndim != 5 or x.shape[-1] != 3 or min(x.shape[2:4]) < 2:
            raise DataError(
                f"{shown(path)}: holds {x.dtype} {tuple(found.x.shape)}; expected uint8 (N, T, H, W, 3), or (T, H, W, 3) of one "
                "film"
            )
        classes = found.classes if found.labels is not None and found.x.ndim == 5 else ()
        said = tuple(str(classes[i]) for i in found.labels) if classes and found.labels is not None else ()
        _LAST.clear()
        _LAST[key] = x, said
    return _LAST[key]


def paced(found: Iterator[Frame], rate: float | None) -> Iterator[Frame]:
    """Frames at so many a second, each the one shown nearest to its time; as they come where rate is None."""
    if rate is None:
        yield from found
        return
    before: Frame | None = None
    start, number = 0.0, 0
    for frame in found:
        if before is None:
            start = frame.seconds
        else:
            while (due := start + number / rate) <= (before.seconds + frame.seconds) / 2:
                yield Frame(due, before.pixels)
                number += 1
        before = frame
    if before is not None:
        while (due := start + number / rate) <= before.seconds + 1e-9:
            yield Frame(due, before.pixels)
            number += 1


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a frame, bytes (H, W, 3), that has the proportions of ``size`` (height, width), at this size."""
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    scale = min(height / size[0], width / size[1])
    rows, columns = size[0] * scale, size[1] * scale
    top, left = (height - rows) / 2, (width - columns) / 2
    kind = Image.Resampling.BOX if scale > 1 else Image.Resampling.BICUBIC
    made = Image.fromarray(pixels).resize((size[1], size[0]), kind, box=(left, top, left + columns, top + rows))
    return np.asarray(made)
