"""Clips as files: MP4 and WebM to keep, GIF to look at, numbered PNG and .npz without a loss; each with its making inside."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.errors import DataError, one_line, shown
from sfumato.errors import needed

if TYPE_CHECKING:
    from sfumato.fields.video.shown import Shown
    from sfumato.jobs.making import Making

FORMATS = (".mp4", ".webm", ".gif", ".png", ".npz")
CODECS = {
    ".mp4": ("libx264", {"crf": "12", "preset": "medium"}),
    ".webm": ("libvpx-vp9", {"crf": "12", "b:v": "0", "deadline": "good", "cpu-used": "4"}),
}
"""Constant quality: of 48-pixel sprites 12 keeps over 38 dB."""


def write(thing: Shown, path: Path, making: Making) -> Iterator[Path]:
    """One clip as a file of the suffix, or, of .png, as a file for each frame, NAME-000.png. Yields each once it is whole."""
    suffix = path.suffix.lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix in CODECS:
        film(thing.frames, thing.rate, path, making.text())
        yield path
    elif suffix == ".gif":
        gif(thing.frames, thing.rate, path, making.text())
        yield path
    elif suffix == ".npz":
        np.savez_compressed(path, x=thing.frames, fps=np.float64(thing.rate), sfumato=np.array(making.text()))
        yield path
    else:
        yield from stills(thing.frames, path, making)


def film(
    frames: np.ndarray, rate: float, path: Path, comment: str = "", codec: tuple[str, dict[str, str]] | None = None
) -> None:
    """Bytes (F, H, W, 3) as a film of 4:2:0 colour; an odd side gets one more row or column of its edge. Frame k is at k / rate
    seconds. Raises DataError where the codec fails."""
    av = needed("av", "video")
    name, options = codec or CODECS[path.suffix.lower()]
    height, width = frames.shape[1:3]
    pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    even = np.pad(frames, pad, mode="edge") if height % 2 or width % 2 else frames
    paced = Fraction(rate).limit_denominator(1001)
    try:
        with av.open(str(path), "w", options={"movflags": "use_metadata_tags"} if path.suffix == ".mp4" else {}) as out:
            out.metadata["comment"] = comment
            stream: Any = out.add_stream(name, rate=paced, options=options)
            stream.height, stream.width = even.shape[1:3]
            stream.pix_fmt = "yuv420p" if name != "ffv1" else "bgr0"
            stream.codec_context.time_base = 1 / paced
            for number, pixels in enumerate(even):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame.pts, frame.time_base = number, 1 / paced
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        path.unlink(missing_ok=True)
        raise DataError(
            f"{shown(path)}: cannot be written ({one_line(error)}); try another --format, such as .gif"
        ) from error


def gif(frames: np.ndarray, rate: float, path: Path, comment: str = "") -> None:
    """A moving picture with one palette for all frames; its delays are whole hundredths of a second, whose sum is right."""
    from PIL import Image as pil

    count, height, width = frames.shape[:3]
    palette = pil.fromarray(frames.reshape(count * height, width, 3)).quantize(256, dither=pil.Dither.NONE)
    images = [pil.fromarray(each).quantize(palette=palette, dither=pil.Dither.NONE) for each in frames]
    ends = [round(100 * (k + 1) / rate) for k in range(count)]
    delays = [10 * max(1, end - start) for start, end in zip([0, *ends], ends)]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=delays, loop=0, optimize=False, disposal=1,
        comment=comment.encode("utf-8"),
    )  # fmt: skip


def stills(frames: np.ndarray, path: Path, making: Making) -> Iterator[Path]:
    """Numbered pictures, without a loss."""
    from PIL import Image as pil

    for number, pixels in enumerate(frames):
        file = path.with_name(f"{path.stem}-{number:03d}.png")
        pil.fromarray(pixels).save(file, pnginfo=making.png())
        yield file
