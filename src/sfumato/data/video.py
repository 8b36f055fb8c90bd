"""Pictures of demonstrations in video files: the very frame of each step, decoded when asked for, and the writing."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfumato.data.errors import DataError, one_line, shown
from sfumato.data.picture import MAX_PIXELS
from sfumato.errors import needed

KEPT_BYTES = 64 << 20
KEPT_FILES = 4
_SOON = 16


@dataclass(frozen=True, eq=False)
class VideoPictures:
    """The pictures of N steps, uint8 (N, H, W, 3): step i is the frame of `files[file[i]]` at `seconds[i]`.

    `file` (N,) int64, `seconds` (N,) float64. The frame nearest to that time is taken and must lie within half a step,
    1 / (2 fps). Decoded frames are kept, 64 MB in all in each process.
    """

    files: tuple[Path, ...]
    file: np.ndarray
    seconds: np.ndarray
    fps: float
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.size[0] * self.size[1] > MAX_PIXELS:
            raise DataError(f"pictures of {self.size[1]}x{self.size[0]} pixels; expected 1 to {MAX_PIXELS} in all")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.file), *self.size, 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows of a slice or a flat array of numbers. Raises DataError naming the file and the time."""
        rows = np.arange(len(self))[index]
        flat, out = rows.reshape(-1), np.empty((rows.size, *self.size, 3), dtype=np.uint8)
        # In the order of the video, so that neighbours are decoded in one go
        for place in np.lexsort((self.seconds[flat], self.file[flat])):
            path, seconds = self.files[self.file[flat[place]]], float(self.seconds[flat[place]])
            out[place] = _of_size(_CACHE.frame(path, seconds, self.fps), self.size, shown(path))
        return out.reshape(*rows.shape, *self.size, 3)


def _of_size(picture: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    if picture.shape[:2] != size:
        raise DataError(
            f"{name}: has a picture of {picture.shape[1]}x{picture.shape[0]} pixels; "
            f"expected {size[1]}x{size[0]} as meta/info.json says"
        )
    return picture


@dataclass(frozen=True, eq=False)
class PackedPictures:
    """The pictures of N steps, uint8 (N, H, W, 3), each a PNG or JPEG file in `packed[i]`, decoded when asked for."""

    packed: tuple[bytes, ...]
    size: tuple[int, int]
    source: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.packed), *self.size, 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Rows of a slice or a flat array of numbers. Raises DataError naming the step."""
        rows = np.arange(len(self))[index]
        pictures = [self._decoded(int(row)) for row in rows.reshape(-1)]
        return np.array(pictures, dtype=np.uint8).reshape(*rows.shape, *self.size, 3)

    def _decoded(self, row: int) -> np.ndarray:
        name = f"{self.source}, step {row}"
        try:
            with Image.open(io.BytesIO(self.packed[row]), formats=("PNG", "JPEG")) as image:
                _of_size(np.empty((image.height, image.width, 0)), self.size, name)
                return np.asarray(image.convert("RGB"))
        except DataError:
            raise
        except Exception as error:  # decoders meet hostile bytes and raise almost anything
            raise DataError(f"{name}: cannot be decoded ({one_line(error)}); expected PNG or JPEG bytes") from error


class _Video:
    """One open file and the frame where its decoder stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = needed("av").open(str(path))
        if not self.container.streams.video:
            raise DataError(f"{shown(path)}: holds no video stream; expected an mp4 file of pictures")
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = (
            1  # threads would outlive a fork, and processes decode side by side already
        )
        if self.stream.width * self.stream.height > MAX_PIXELS:
            raise DataError(f"{shown(path)}: frames of {self.stream.width}x{self.stream.height} pixels are too large")
        self.now: Any = None
        self.frames: Iterator[Any] = iter(())

    def seek(self, seconds: float) -> Any:
        """The frame nearest to a time, or None."""
        base, rate = self.stream.time_base, float(self.stream.average_rate or 30)
        if self.now is None or not 0 <= seconds - self.now.time <= _SOON / rate:
            self.container.seek(max(0, int(seconds / base)), stream=self.stream)
            self.frames, self.now = self.container.decode(self.stream), None
        best = self.now
        while self.now is None or self.now.time < seconds:
            frame = next(self.frames, None)
            if frame is None:
                break
            if frame.pts is None:
                continue
            self.now = frame
            if best is None or abs(frame.time - seconds) < abs(best.time - seconds):
                best = frame
        return best

    def close(self) -> None:
        self.container.close()


class _Cache:
    """Open files and decoded frames of this process, the least used dropped first."""

    def __init__(self) -> None:
        self.lock, self.process = threading.Lock(), os.getpid()
        self.videos: OrderedDict[tuple[str, int, int], _Video] = OrderedDict()
        self.frames: OrderedDict[tuple[str, int, int, float], np.ndarray] = OrderedDict()
        self.bytes = 0

    def frame(self, path: Path, seconds: float, fps: float) -> np.ndarray:
        if self.process != os.getpid():
            # After a fork the open files and the lock belong to the parent: closing a decoder here could wait for ever
            _INHERITED.append(self.videos)
            self.__init__()  # type: ignore[misc]
        with self.lock, _decoding(path):
            status = path.stat()
            video_key = (os.fspath(path), status.st_mtime_ns, status.st_size)
            key = (*video_key, round(seconds, 6))
            if key not in self.frames:
                self._add(key, self._decode(video_key, path, seconds, fps))
            self.frames.move_to_end(key)
            return self.frames[key]

    def _decode(self, key: tuple[str, int, int], path: Path, seconds: float, fps: float) -> np.ndarray:
        if key not in self.videos:
            self.videos[key] = _Video(path)
            if len(self.videos) > KEPT_FILES:
                self.videos.popitem(last=False)[1].close()
        self.videos.move_to_end(key)
        try:
            found = self.videos[key].seek(seconds)
            if found is None or abs(found.time - seconds) > 0.5 / fps:
                nearest = "no frame at all" if found is None else f"its nearest frame is at {found.time:.4f} s"
                raise DataError(
                    f"{shown(path)}: has no frame at {seconds:.4f} s ({nearest}); expected one within {0.5 / fps:.4f} s"
                )
            picture: np.ndarray = found.to_ndarray(format="rgb24")
        except BaseException:
            self.videos.pop(key).close()  # a decoder that failed stands anywhere
            raise
        return picture

    def _add(self, key: tuple[str, int, int, float], picture: np.ndarray) -> None:
        self.frames[key] = picture
        self.bytes += picture.nbytes
        while self.bytes > KEPT_BYTES and len(self.frames) > 1:
            self.bytes -= self.frames.popitem(last=False)[1].nbytes


_CACHE = _Cache()
_INHERITED: list[Any] = []


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: video file not found; copy it again") from None
    except Exception as error:  # a damaged video may raise almost anything
        raise DataError(f"{shown(path)}: cannot be decoded ({one_line(error)}); copy it again") from error


class VideoWriter:
    """Writes bytes (H, W, 3) as the frames of an mp4 file, one after the other, 1 / fps apart; frame 0 is at 0 s.

    `count` frames of `bytes` bytes in all have been written so far; none is held back.

    H.264 with a whole picture every second frame, so that any frame is decoded quickly (LeRobot's choice too). The
    picture is stored with half the resolution in colour where both sides are even, and with all of it elsewhere.
    `quality` is x264's constant rate factor: 0 best, 18 hardly visible, 51 worst.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int], quality: int = 18) -> None:
        av = needed("av")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.count, self.bytes, self._av = 0, 0, av
        self.pix_fmt = "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"
        self._container = av.open(str(path), "w")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream(
            "libx264", rate=rate, options={"crf": str(quality), "g": "2", "bf": "0", "tune": "zerolatency"}
        )
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = self.pix_fmt
        self._stream.codec_context.time_base = 1 / rate

    def add(self, picture: np.ndarray) -> None:
        """The next frame."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self.count
        self.count += 1
        packets = self._stream.encode(frame)
        self.bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)

    def close(self) -> None:
        """Finishes the file, which can't be read before."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
