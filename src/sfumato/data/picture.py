"""One picture file -> (H, W, 3) bytes as a viewer would show them, or the reason why not.

Pillow shows a damaged, sideways, transparent, 16-bit or gigantic picture without a word about it. Here each of these
is either put right and named, or refused.
"""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import (
    BmpImagePlugin,  # noqa: F401  (imported so that opening one of these never loads Pillow's forty other formats)
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from sfumato.data.errors import DataError, one_line, shown

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
HANDLED = (
    "rotated by EXIF",
    "alpha composited",
    "palette",
    "16-bit scaled",
    "CMYK converted",
    "grey",
    "animated, first frame",
    "float scaled",
)
MAX_PIXELS = 64_000_000
WHITE = (255, 255, 255)
# The seven passes of an interlaced PNG: first column, first row, column step, row step
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Picture:
    """`pixels` uint8 (H, W, 3) as displayed; `mode` is Pillow's for the file; `handled` is what was put right."""

    pixels: np.ndarray
    mode: str
    handled: tuple[str, ...] = ()


OTHERS: dict[str, Callable[[bytes], bool]] = {
    "a PDF": lambda head: head.startswith(b"%PDF"),
    "a web page": lambda head: head.lstrip().lower().startswith((b"<!doctype html", b"<html")),
    "a drawing in SVG": lambda head: head.lstrip().startswith(b"<svg"),
    "an archive": lambda head: head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf")),
    "a HEIC or AVIF picture": lambda head: head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif"),
    "a film": lambda head: head[4:8] == b"ftyp" or head.startswith(b"\x1aE\xdf\xa3"),
}
"""What else a file may be, whatever its name says: known by its first 32 bytes."""


@dataclass(frozen=True)
class Complaint:
    """A file that is left out, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.reason}"


class _Refusal(Exception):
    """Why this file is not taken; the caller adds which file it was."""


def decode(path: str | os.PathLike[str], *, background: Colour = WHITE, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decodes one picture, whatever its kind, to bytes (H, W, 3).

    Turned as its EXIF says; transparency laid over `background`; 16-bit values scaled by 65535, floats by 1 or 255;
    grey, palette and CMYK converted; the first frame of an animation. Raises DataError (file and reason) for anything
    that is not a whole picture, or whose header asks for more than `max_pixels`, which is checked before decoding.
    """
    with quiet():
        result = attempt(Path(path), background, max_pixels)
    if isinstance(result, Complaint):
        raise DataError(str(result))
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """What Pillow mutters about is refused, put right or counted here; said once, not per file on stderr."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def attempt(path: Path, background: Colour, max_pixels: int) -> Picture | Complaint:
    """As `decode`, but hands the complaint back instead of raising it."""
    try:
        return _read(path, background, max_pixels)
    except _Refusal as refusal:
        reason = str(refusal)
    except FileNotFoundError:
        reason = "file not found (or a link to nothing)"
    except PermissionError:
        reason = "permission denied; make the file readable"
    except Exception as error:  # decoders meet hostile bytes and raise almost anything
        reason = f"damaged or unsupported picture: {one_line(error)}"
        if isinstance(error, OSError) and error.strerror:
            reason = f"cannot be read: {error.strerror.lower()}"
    return Complaint(path, reason)


def _read(path: Path, background: Colour, max_pixels: int) -> Picture:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise _Refusal("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, which fills damage with grey; set it to False")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _Refusal("not a regular file")
    if not status.st_size:
        raise _Refusal("empty file")
    with path.open("rb") as file:
        head = file.read(32)
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            what = next(
                (f"it is {name}" for name, known in OTHERS.items() if known(head)), f"begins with {head[:12]!r}"
            )
            raise _Refusal(f"not a picture in {', '.join(FORMATS)} ({what})") from None
        except Image.DecompressionBombError as error:
            raise _Refusal(f"too many pixels: {one_line(error)}") from None
        width, height = image.size
        if width * height > max_pixels:
            raise _Refusal(f"too many pixels: the header says {width} x {height}, more than {max_pixels} in all")
        if image.format == "PNG":
            # Pillow's load() overlooks wrong checksums of the pixel data and a lost end; verify() does not
            image.verify()
            image = Image.open(file, formats=("PNG",))
            image.load()
            # Rows that are missing stay zero, and nothing is said; so where the end is zero, count the rows' bytes
            end = np.asarray(image.crop((0, max(0, height - 2), width, height)))
            if not end.reshape(len(end), -1).any(axis=1).all():
                _count_rows(file, head)
        return _convert(image, background, deep=image.format == "PNG" and head[24] == 16)


def _count_rows(file: BinaryIO, head: bytes) -> None:
    """Refuses a PNG whose compressed data end before its last row. The file is known to be well formed."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    need = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
    have, inflate, ended = 0, zlib.decompressobj(), False
    file.seek(8)
    while not ended:
        length, kind = struct.unpack(">I4s", file.read(8))
        ended = kind == b"IEND"
        data = file.read(length + 4)[:-4] if kind == b"IDAT" else file.seek(length + 4, os.SEEK_CUR) and b""
        while data and have < need:
            have += len(inflate.decompress(data, 1 << 20))
            data = inflate.unconsumed_tail
    if have < need:
        raise _Refusal(f"truncated: its data end after {have} of {need} bytes")


def _convert(image: ImageFile.ImageFile, background: Colour, deep: bool) -> Picture:
    mode, handled = image.mode, []
    if getattr(image, "is_animated", False):
        handled.append("animated, first frame")
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        handled.append("rotated by EXIF")
    bits, inverted = 16, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,)))
        inverted = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # white is zero
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        grey = _float_bytes(values) if image.mode == "F" else _deep_bytes(values, 4095 if bits == 12 else 65535)
        pixels = np.repeat((255 - grey if inverted else grey)[..., None], 3, axis=2)
        handled.append("float scaled" if image.mode == "F" else "16-bit scaled")
        clear = image.info.get("transparency")
        if isinstance(clear, int) and (values == clear).any():
            pixels[values == clear] = background
            handled.append("alpha composited")
    else:
        pixels, composited = _colour_bytes(image, background)
        handled += ["alpha composited"] * composited + ["16-bit scaled"] * deep
    if mode in ("P", "PA"):
        handled.append("palette")
    elif mode == "CMYK":
        handled.append("CMYK converted")
    elif mode in ("1", "L", "LA", "La", "F") or mode.startswith("I"):
        handled.append("grey")
    return Picture(pixels, mode, tuple(handled))


def _colour_bytes(image: Image.Image, background: Colour) -> tuple[np.ndarray, bool]:
    """(uint8 (H, W, 3), whether any of the background shows)."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            canvas = Image.new("RGB", image.size, background)
            canvas.paste(image.convert("RGB"), mask=alpha)
            return np.array(canvas), True
    return np.array(image.convert("RGB")), False


def _deep_bytes(values: np.ndarray, full: int) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > full:
        raise _Refusal(f"whole numbers from {low} to {high}; a deep grey picture needs 0 to {full}")
    return ((values.astype(np.uint32) * 255 + full // 2) // full).astype(np.uint8)


def _float_bytes(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise _Refusal("holds NaN or infinity; a floating-point picture needs numbers from 0 to 1 or from 0 to 255")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255:
        raise _Refusal(f"floating-point values from {low:g} to {high:g}; expected 0 to 1 or 0 to 255, so rescale them")
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """The square in the middle of uint8 (H, W, 3), resized without aliasing to (side, side, 3); small ones grow.

    Raises DataError when `pixels` is not such an array or `side` is below 1.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or side < 1:
        raise DataError(f"cannot fit {pixels.dtype} {pixels.shape} to side {side}; expected uint8 (H, W, 3), side >= 1")
    height, width, _ = pixels.shape
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return _resized(pixels[top : top + edge, left : left + edge], side, side)


def stretch(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """All of uint8 (H, W, 3), resized without aliasing to (height, width, 3), whatever that does to its proportions.

    Raises DataError when `pixels` is not such an array or a side is below 1.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or min(height, width) < 1:
        raise DataError(
            f"cannot stretch {pixels.dtype} {pixels.shape} to {height} x {width}; expected uint8 (H, W, 3), sides >= 1"
        )
    return _resized(pixels, height, width)


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return np.array(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    # reducing_gap first averages whole blocks: as good at this gap, and much faster on large photographs
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
