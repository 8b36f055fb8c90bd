"""Makes picture files: good ones, broken ones of every kind, and awkward ones that a person would call good."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def good(folder: Path, count: int, seed: int = 0, side: int = 24) -> list[Path]:
    """`count` different whole pictures (PNG and JPEG in turn)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(seed), []
    for i in range(count):
        pixels = rng.integers(0, 256, (side + i % 3, side, 3), dtype=np.uint8)
        paths.append(folder / f"good{i:03d}.{'png' if i % 2 else 'jpg'}")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def png(
    width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 2, interlaced: int = 0, extra: bytes = b""
) -> bytes:
    """A PNG of which every byte is ours: `data` are the compressed rows, whether or not they fit the header."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def interlaced(side: int) -> bytes:
    """The rows of an interlaced RGB picture of one grey, pass by pass."""
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(
        (b"\0" + b"\x80" * 3 * len(range(x, side, dx))) * len(range(y, side, dy)) for x, y, dx, dy in starts
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A whole, valid 1-bit PNG of side x side pixels in about side^2 / 8000 bytes."""
    return png(side, side, zlib.compress(bytes((1 + (side + 7) // 8) * side), 9), depth=1, colour=0)


def tiff(values: np.ndarray, *, bits: int, photometric: int = 1, data: bytes | None = None) -> bytes:
    """An uncompressed one-channel TIFF with any depth and meaning of zero."""
    data = values.tobytes() if data is None else data
    height, width = values.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(side: int = 64) -> Image.Image:
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def break_all(folder: Path) -> dict[str, str]:
    """One file of each broken kind; returns {file name: words its complaint must contain}."""
    folder.mkdir(parents=True, exist_ok=True)
    image = photo()
    whole_png, idat = encoded(image, "PNG"), encoded(image, "PNG").index(b"IDAT")
    rows, passes = (b"\0" + b"\xff" * 192) * 63, interlaced(65)[: -(1 + 3 * 65)]
    nan = np.full((8, 8), 0.5, np.float32)
    nan[3, 4] = np.nan
    wide = np.linspace(-3, 900, 64, dtype=np.float32).reshape(8, 8)
    kinds: dict[str, tuple[bytes, str]] = {
        "truncated.jpg": (encoded(image, "JPEG")[:-900], "truncated"),
        "truncated.png": (whole_png[: len(whole_png) // 2], "Truncated"),
        "truncated.webp": (encoded(image, "WEBP")[:-200], "damaged"),
        "truncated.bmp": (encoded(image, "BMP")[:-200], "truncated"),
        "truncated.gif": (encoded(image, "GIF")[:1500], "truncated"),
        "truncated.tif": (tiff(np.zeros((64, 64), np.uint8), bits=8, data=bytes(64)), "damaged"),
        "truncated.ppm": (encoded(image, "PPM")[:-200], "truncated"),
        "endless.png": (whole_png[:-12], "damaged"),
        "flipped-pixels.png": (flipped(whole_png, idat + 2000), "checksum"),
        "flipped-checksum.png": (flipped(whole_png, len(whole_png) - 14), "checksum"),
        "flipped-header.png": (flipped(whole_png, 18), "PNG"),
        "few-rows.png": (png(64, 64, zlib.compress(rows)), "truncated"),
        "few-passes.png": (png(65, 65, zlib.compress(passes), interlaced=1), "truncated"),
        "empty.png": (b"", "empty file"),
        "text.png": (b"I was a picture once\n", "I was a pict"),
        "page.jpg": (b"<!DOCTYPE html><title>404</title>", "it is a web page"),
        "paper.png": (b"%PDF-1.4\n1 0 obj <<>> endobj\n%%EOF\n", "it is a PDF"),
        "phone.jpg": (b"\x00\x00\x00\x18ftypheic" + bytes(40), "it is a HEIC or AVIF picture"),
        "clip.png": (b"\x00\x00\x00\x18ftypisom" + bytes(40), "it is a film"),
        "pickle.png": (b"\x80\x04\x95\x0c\x00\x00\x00", "begins with"),
        "encapsulated.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "%!PS-Adobe-3"),
        "claims-12000.png": (png(12000, 12000, zlib.compress(b"0123456789")), "too many pixels"),
        "bomb-13000.png": (bomb(13000), "too many pixels"),
        "bomb-15000.png": (bomb(15000), "too many pixels"),
        "float-range.tif": (encoded(Image.fromarray(wide), "TIFF"), "-3 to 900"),
        "float-nan.tif": (encoded(Image.fromarray(nan), "TIFF"), "NaN"),
        "int-range.tif": (encoded(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "70000"),
    }  # fmt: skip
    for name, (data, _) in kinds.items():
        (folder / name).write_bytes(data)
    reasons = {name: reason for name, (_, reason) in kinds.items()}
    (folder / "link-to-nothing.png").symlink_to(folder / "no-such-file")
    os.mkfifo(folder / "pipe.png")
    return reasons | {"link-to-nothing.png": "not found", "pipe.png": "regular"}


# What the awkward files show, by hand: name -> (height, width, {(row, column): colour}, what was handled)
Facts = tuple[int, int, dict[tuple[int, int], tuple[int, int, int]], set[str]]
RED, GREEN, BLUE, BLACK, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (128, 128, 128)
WHITE = (255, 255, 255)


def awkward(folder: Path) -> dict[str, Facts]:
    """One file of each kind that Pillow alone would show wrongly; returns what each shows over white."""
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Facts] = {}

    def add(name: str, data: bytes, height: int, width: int, colours: dict, *handled: str) -> None:
        (folder / name).write_bytes(data)
        facts[name] = height, width, colours, set(handled)

    # Stored 96 wide and 64 high, red at the top left; orientation 6 turns it clockwise, so red goes to the top right
    corner = Image.new("RGB", (96, 64), BLUE)
    ImageDraw.Draw(corner).rectangle((0, 0, 15, 15), fill=RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, options in {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}.items():
        name = f"turned.{kind.lower()}"
        add(name, encoded(corner, kind, exif=exif, **options), 96, 64, {(0, 63): RED, (0, 0): BLUE}, "rotated by EXIF")
    upright = Image.Exif()
    upright[0x0112] = 1
    add("upright.png", encoded(corner, "PNG", exif=upright), 64, 96, {(0, 0): RED})

    hidden = Image.new("RGBA", (8, 6), (*RED, 255))
    hidden.paste((*BLUE, 0), (0, 0, 4, 6))
    hidden.putpixel((7, 5), (0, 0, 0, 51))  # a fifth of black over white: 204
    shows = {(0, 0): WHITE, (0, 7): RED, (5, 7): (204, 204, 204)}
    add("alpha.png", encoded(hidden, "PNG"), 6, 8, shows, "alpha composited")
    add("opaque.png", encoded(Image.new("RGBA", (8, 6), (*GREEN, 255)), "PNG"), 6, 8, {(0, 0): GREEN})
    grey_alpha = Image.new("LA", (5, 5), (128, 255))
    grey_alpha.putpixel((0, 0), (0, 0))
    add("grey-alpha.png", encoded(grey_alpha, "PNG"), 5, 5, {(0, 0): WHITE, (1, 1): GREY}, "alpha composited", "grey")

    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putpixel((0, 0), 0)
    add("palette.png", encoded(palette, "PNG"), 4, 6, {(0, 0): RED, (1, 1): GREEN}, "palette")
    shows = {(0, 0): WHITE, (1, 1): GREEN}
    add("palette-clear.png", encoded(palette, "PNG", transparency=0), 4, 6, shows, "palette", "alpha composited")
    rows = zlib.compress((b"\0" + bytes([*BLUE, *RED])) * 2)
    key = chunk(b"tRNS", struct.pack(">HHH", *BLUE))
    add("colour-key.png", png(2, 2, rows, extra=key), 2, 2, {(0, 0): WHITE, (0, 1): RED}, "alpha composited")

    laced = png(65, 65, zlib.compress(interlaced(65)), interlaced=1)
    add("interlaced.png", laced, 65, 65, {(64, 64): GREY, (63, 64): GREY})
    black = png(65, 65, zlib.compress(bytes(len(interlaced(65)))), interlaced=1)
    add("interlaced-black.png", black, 65, 65, {(64, 64): BLACK})
    for colour, mode in {"grey": "L", "alpha": "RGBA"}.items():
        bottom = Image.new(mode, (13, 11), 0)  # ends in zeros, as a picture cut short would
        handled = ("grey",) if mode == "L" else ("alpha composited",)
        add(
            f"zeros-{colour}.png", encoded(bottom, "PNG"), 11, 13, {(10, 12): BLACK if mode == "L" else WHITE}, *handled
        )

    bits = Image.new("1", (9, 9), 0)
    bits.putpixel((3, 2), 1)
    add("bits.png", encoded(bits, "PNG"), 9, 9, {(2, 3): WHITE, (0, 0): BLACK}, "grey")
    add("grey.jpg", encoded(Image.new("L", (8, 8), 128), "JPEG"), 8, 8, {(4, 4): GREY}, "grey")
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    add("ink.jpg", encoded(ink, "JPEG", quality=100), 16, 16, {(8, 8): RED}, "CMYK converted")

    ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    ends = {(0, 0): BLACK, (63, 63): WHITE}
    add("deep.png", encoded(Image.fromarray(ramp), "PNG"), 64, 64, ends, "16-bit scaled", "grey")
    add("deep.tif", encoded(Image.fromarray(ramp), "TIFF"), 64, 64, ends, "16-bit scaled", "grey")
    pgm = b"P5 64 64 65535\n" + ramp.astype(">u2").tobytes()
    add("deep.pgm", pgm, 64, 64, ends, "16-bit scaled", "grey")
    inverse = {(0, 0): WHITE, (63, 63): BLACK}
    add("deep-inverse.tif", tiff(ramp, bits=16, photometric=0), 64, 64, inverse, "16-bit scaled", "grey")
    twelve = bytes([0x00, 0x0F, 0xFF]) * 4  # two samples in three bytes: 0 and 4095
    add("twelve.tif", tiff(np.zeros((4, 2)), bits=12, data=twelve), 4, 2, {(0, 0): BLACK, (3, 1): WHITE},
        "16-bit scaled", "grey")  # fmt: skip
    deep_rgb = b"".join(b"\0" + struct.pack(">HHH", 65535, 0, 32768) for _ in range(3))
    rgb48 = png(1, 3, zlib.compress(deep_rgb), depth=16)
    add("deep-colour.png", rgb48, 3, 1, {(0, 0): (255, 0, 128)}, "16-bit scaled")
    rows = zlib.compress(b"\0" + struct.pack(">HH", 258, 65535))
    keyed = png(2, 1, rows, depth=16, colour=0, extra=chunk(b"tRNS", struct.pack(">H", 65535)))
    add("deep-key.png", keyed, 1, 2, {(0, 0): (1, 1, 1), (0, 1): WHITE}, "16-bit scaled", "grey", "alpha composited")

    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    ends = {(0, 0): BLACK, (15, 15): WHITE, (8, 0): GREY}
    add("unit.tif", encoded(Image.fromarray(unit), "TIFF"), 16, 16, ends, "float scaled", "grey")
    add("bytes.tif", encoded(Image.fromarray(unit * 255), "TIFF"), 16, 16, ends, "float scaled", "grey")

    frames = [Image.new("RGB", (10, 10), colour) for colour in (RED, GREEN, BLUE)]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        extra = ("palette",) if kind == "GIF" else ()
        add(f"moving.{kind.lower()}", data, 10, 10, {(5, 5): RED}, "animated, first frame", *extra)
    add("WIDE.JPEG", encoded(Image.new("RGB", (200, 16), WHITE), "JPEG"), 16, 200, {(0, 0): WHITE})
    add("liar.jpg", encoded(Image.new("RGB", (7, 7), GREEN), "PNG"), 7, 7, {(3, 3): GREEN})
    add(os.fsdecode(b"caf\xe9.png"), encoded(Image.new("RGB", (3, 3), BLUE), "PNG"), 3, 3, {(1, 1): BLUE})
    add("two\nlines.png", encoded(Image.new("RGB", (3, 3), RED), "PNG"), 3, 3, {(1, 1): RED})
    return facts
