"""Films from disk: every frame, at its time, as it is shown; and a line for what cannot be read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="needs the extra sfumato[video]")
pytest.importorskip("sklearn", reason="needs the extra sfumato[video]")

import av

from sfumato.data.errors import DataError
from sfumato.data.video import VideoPictures
from sfumato.fields.video import films
from sfumato.fields.video.digits import digits
from sfumato.fields.video.films import BrokenOff, Film, about, frames, paced
from sfumato.fields.video.shown import Shown
from sfumato.fields.video.writing import CODECS, film, write
from sfumato.jobs.making import Making, made
from tests.fields.video.made import squares

MAKING = Making("run", "0" * 16, 3, number=0)
H264B = ("libx264", {"crf": "12", "bf": "3", "g": "12"})
SHARED = Path(__file__).parents[4] / "shared" / "data" / "video"


def read(path: Path, **more: Any) -> tuple[np.ndarray, list[float]]:
    every = list(frames(Film(path), **more))
    return np.stack([frame.pixels for frame in every]), [frame.seconds for frame in every]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def clip(count: int = 30, side: int = 32) -> np.ndarray:
    """A film whose frames all differ."""
    x = squares(1, count, side)[0][0].astype(int)
    x[:, -4:, :, :] = (np.arange(count) * 8 % 256)[:, None, None, None]
    return x.astype(np.uint8)


def encoded(path: Path, x: np.ndarray, times: list[Fraction], codec: tuple[str, dict[str, str]]) -> Path:
    """A film whose frames are at these seconds."""
    base = Fraction(1, 30000)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec[0], rate=30, options=codec[1])
        stream.height, stream.width, stream.pix_fmt = x.shape[1], x.shape[2], "yuv420p"
        stream.codec_context.time_base = base
        for pixels, at in zip(x, times):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(at / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def at(*values: float) -> list[Fraction]:
    return [Fraction(value).limit_denominator(30000) for value in values]


# ---- there and back --------------------------------------------------------------------------------------------------


def test_without_a_loss_bits_come_back(tmp_path: Path) -> None:
    x = squares(1, 6)[0][0]
    film(x, 10, tmp_path / "a.mkv", codec=("ffv1", {}))
    assert np.array_equal(read(tmp_path / "a.mkv")[0], x)
    *files, _ = [*write(Shown(x, 10.0), tmp_path / "0000.png", MAKING), None]
    assert [file.name for file in files] == [f"0000-{k:03d}.png" for k in range(6)]
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), x)
    assert made(files[2]).seed == 3
    next(iter(write(Shown(x, 10.0), tmp_path / "a.npz", MAKING)))
    assert np.array_equal(np.stack([f.pixels for f in frames(Film(tmp_path / "a.npz", 0))]), x)


@pytest.mark.parametrize("suffix", list(CODECS))
@pytest.mark.parametrize("rate", [10.0, 29.97, 12.5])
def test_films_come_back_nearly_and_at_their_times(suffix: str, rate: float, tmp_path: Path) -> None:
    x = digits(1, 8)[0][0]  # grey: colour is kept at half the resolution
    next(iter(write(Shown(x, rate), tmp_path / f"a{suffix}", MAKING)))
    found, seconds = read(tmp_path / f"a{suffix}")
    assert psnr(found, x) > (38 if suffix == ".mp4" else 30)
    assert np.allclose(seconds, np.arange(8) / rate, atol=2e-3)
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        said = {name.lower(): value for name, value in container.metadata.items()}
    assert '"seed": 3' in said["comment"]


def test_an_odd_side_gets_a_row_of_its_edge(tmp_path: Path) -> None:
    x = clip(4)[:, :31, :29]
    next(iter(write(Shown(x, 10.0), tmp_path / "a.mp4", MAKING)))
    found, _ = read(tmp_path / "a.mp4")
    assert found.shape == (4, 32, 30, 3)
    assert psnr(found[:, :31, :29], x) > 25


def test_moving_pictures_keep_their_time(tmp_path: Path) -> None:
    """Delays of whole hundredths whose sum is right, and the making in the comment."""
    x = clip(10)
    next(iter(write(Shown(x, 30.0), tmp_path / "a.gif", MAKING)))
    found, seconds = read(tmp_path / "a.gif")
    assert len(found) == 10
    assert np.allclose(seconds, np.arange(10) / 30, atol=0.0051)
    with Image.open(tmp_path / "a.gif") as image:
        assert b'"seed": 3' in image.info["comment"]


# ---- the very frame --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "times"),
    [
        ("b.mp4", H264B, at(*(k / 30 for k in range(30)))),
        ("ntsc.mp4", H264B, [Fraction(k * 1001, 30000) for k in range(30)]),
        ("vp9.webm", ("libvpx-vp9", {"crf": "12", "b:v": "0"}), at(*(k / 30 for k in range(30)))),
        ("late.mkv", H264B, at(*(0.5 + k / 30 for k in range(30)))),
        ("uneven.mkv", H264B, at(*np.cumsum([0.02, 0.1, 0.03, 0.25, 0.06] * 6))),
    ],
)
def test_by_seeking_and_from_the_start_the_frame_is_the_same(
    name: str, codec: tuple[str, dict[str, str]], times: list[Fraction], tmp_path: Path
) -> None:
    path = encoded(tmp_path / name, clip(), times, codec)
    found, seconds = read(path)
    assert len(found) == 30
    assert np.allclose(seconds, [float(t) for t in times], atol=2e-3)
    order = np.random.default_rng(0).permutation(30)
    sought = VideoPictures((path,), np.zeros(30, np.int64), np.array(seconds)[order], 100.0, found.shape[1:3])
    assert np.array_equal(sought[:], found[order])


def test_at_a_rate_each_frame_is_the_nearest_in_time(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mkv", clip(), at(*(0.5 + k / 30 for k in range(30))), H264B)
    found, _ = read(path)
    slow = list(paced(frames(Film(path)), 10.0))
    assert len(slow) == 10
    assert all(np.array_equal(frame.pixels, found[3 * k]) for k, frame in enumerate(slow))


def test_a_turned_film_is_turned_and_pixels_are_made_square(tmp_path: Path) -> None:
    wide = clip(3)[:, :16]
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = 16, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(1, 2)
        for pixels in wide:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        out.mux(stream.encode(None))
    assert read(path)[0].shape == (3, 32, 32, 3)


def test_folders_and_arrays_are_films(tmp_path: Path) -> None:
    x = squares(3, 5)[0]
    (tmp_path / "a").mkdir()
    for k, pixels in enumerate(x[1]):
        Image.fromarray(pixels).save(tmp_path / "a" / f"frame_{k + 7:03d}.png")
    np.savez(tmp_path / "x.npz", x=x)
    assert np.array_equal(read(tmp_path / "a")[0], x[1])
    assert np.array_equal(np.stack([f.pixels for f in frames(Film(tmp_path / "x.npz", 2))]), x[2])
    assert about(Film(tmp_path / "a")).rate is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/video")
@pytest.mark.parametrize(("name", "count"), [("box_96x72.mp4", 151), ("cup_96x72.mp4", 81), ("tree_96x72.mp4", 45)])
def test_real_films_have_all_their_frames(name: str, count: int) -> None:
    found, seconds = read(SHARED / name)
    assert found.shape == (count, 72, 96, 3)
    assert np.allclose(np.diff(seconds), 0.1, atol=2e-3)


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def test_a_film_that_breaks_off_gives_what_came_before(tmp_path: Path) -> None:
    whole = encoded(tmp_path / "a.mkv", np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8),
                    at(*(k / 30 for k in range(60))), H264B)  # fmt: skip
    part = tmp_path / "b.mkv"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    kept: list[Any] = []
    with pytest.raises(BrokenOff, match=r"b\.mkv.*breaks off behind"):
        kept.extend(frames(Film(part)))  # what came before the break stays
    assert 5 < len(kept) < 40
    assert np.array_equal(kept[3].pixels, read(whole)[0][3])


def only_sound(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_what_is_no_film_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sound\.mp4: holds no pictures \(audio\)"):
        read(only_sound(tmp_path / "sound.mp4"))
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(DataError, match=r"text\.mp4"):
        read(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.mp4"):
        read(tmp_path / "empty.mp4")
    with pytest.raises(DataError, match="there is no such film"):
        read(tmp_path / "none.mp4")
    with pytest.raises(DataError, match=r"a\.doc: is no film"):
        read(tmp_path / "a.doc")
    np.save(tmp_path / "floats.npy", np.random.default_rng(0).normal(size=(2, 4, 8, 8, 3)).astype(np.float32))
    with pytest.raises(DataError, match=r"floats\.npy: holds float32 .*expected uint8"):
        read(tmp_path / "floats.npy")


def test_a_folder_says_which_picture_is_missing_or_of_another_size(tmp_path: Path) -> None:
    for k in (1, 2, 4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k:03d}.png")
    with pytest.raises(DataError, match="the picture of number 3 is missing, and 4 is there"):
        read(tmp_path)
    Image.new("RGB", (8, 6)).save(tmp_path / "003.png")
    with pytest.raises(DataError, match=r"003\.png: has 8x6 pixels, and 001\.png has 8x8"):
        read(tmp_path)


def test_a_film_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded in frames and in pixels, before memory or the day is gone."""
    images = [Image.new("RGB", (400, 400), (k, 0, 0)) for k in range(0, 200, 5)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=20)
    monkeypatch.setattr(films, "MOST_PIXELS", 10 * 400 * 400)
    with pytest.raises(DataError, match="cut it into parts"):
        read(tmp_path / "a.gif")
