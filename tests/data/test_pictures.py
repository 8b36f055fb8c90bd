"""Folders of good, broken and awkward pictures: exactly the broken ones are found, the others show the right pixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from sfumato.data import Complaint, DataError, check_budget, decode, fit, gather, scan, stretch
from sfumato.data.pictures import HANDLED
from tests.data import broken

# A single decode() leaves Pillow's own mutterings alone; that a scan is silent has a test
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, broken.Facts]]:
    """100 good files, every broken kind and every awkward kind, in nested folders."""
    root = tmp_path_factory.mktemp("zoo")
    broken.good(root / "good", 100)
    return root, broken.break_all(root / "deep" / "broken"), broken.awkward(root / "awkward")


@pytest.mark.parametrize("workers", [0, 3])
def test_exactly_the_broken_files_are_found(zoo, workers: int) -> None:
    root, reasons, facts = zoo
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scan(root, workers=workers)
    complaints = {complaint.path.name: complaint.reason for complaint in found.complaints}
    assert set(complaints) == set(reasons)
    for name, words in reasons.items():
        assert words in complaints[name], name
    assert len(found.files) == 100 + len(facts)
    expected = sorted(path for folder in ("awkward", "good") for path in (root / folder).iterdir())
    assert list(found.files) == expected
    handled = Counter(word for *_, words in facts.values() for word in words)
    assert found.handled == handled
    assert set(found.handled) == set(HANDLED)
    sizes = Counter((width, height) for height, width, *_ in facts.values())
    assert found.sizes == sizes + Counter((24, 24 + i % 3) for i in range(100))
    assert found.modes["I;16"] >= 3
    assert found.modes.total() == len(found.files)


def test_scans_by_any_number_of_workers_are_equal(zoo) -> None:
    root, _, _ = zoo
    calls: list[tuple[int, int]] = []
    serial, threaded = scan(root, progress=lambda *at: calls.append(at)), scan(root, workers=4)
    assert serial == threaded
    assert serial.fingerprint == threaded.fingerprint
    assert calls == [(i + 1, len(calls)) for i in range(len(serial.files) + len(serial.complaints))]


def test_awkward_pictures_show_the_right_pixels(zoo) -> None:
    root, _, facts = zoo
    for name, (height, width, colours, handled) in facts.items():
        picture = decode(root / "awkward" / name)
        assert picture.pixels.shape == (height, width, 3), name
        assert picture.pixels.dtype == np.uint8
        assert set(picture.handled) == handled, name
        for place, colour in colours.items():
            assert tuple(picture.pixels[place]) == colour, (name, place)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits_keep_their_levels(zoo, name: str) -> None:
    pixels = decode(zoo[0] / "awkward" / name).pixels
    assert len(np.unique(pixels)) == 256
    exact = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    assert np.abs(pixels[..., 0] - exact).max() <= 0.51


def test_transparency_shows_the_background_asked_for(zoo) -> None:
    green = (0, 255, 0)
    pixels = decode(zoo[0] / "awkward" / "alpha.png", background=green).pixels
    assert tuple(pixels[0, 0]) == green
    assert tuple(pixels[5, 7]) == (0, 204, 0)
    found = scan(zoo[0] / "awkward", background=green)
    kept = {path.name: digest for path, digest in zip(found.files, found.digests)}
    white = scan(zoo[0] / "awkward")
    changed = {path.name for path, digest in zip(white.files, white.digests) if kept[path.name] != digest}
    assert changed == {name for name, facts in zoo[2].items() if "alpha composited" in facts[3]}


def test_pictures_of_known_colours_survive_each_lossless_format(tmp_path: Path) -> None:
    image = broken.photo(17)
    for suffix in ("png", "bmp", "tif", "ppm", "webp"):
        image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        assert np.array_equal(decode(tmp_path / f"a.{suffix}").pixels, np.asarray(image)), suffix


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = np.asarray(broken.photo(8))[:, :6]
    # How a camera stores an upright picture, from the EXIF standard: where its row 0 and column 0 are shown
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "a.png").pixels, upright)


def test_refusals_are_one_line_that_names_the_file(zoo) -> None:
    root, reasons, _ = zoo
    for name, words in reasons.items():
        with pytest.raises(DataError) as caught:
            decode(root / "deep" / "broken" / name)
        assert name in str(caught.value)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_names_that_are_not_text_can_be_printed(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"two\nlines.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    for complaint in scan(tmp_path).complaints:
        str(complaint).encode("utf-8")
        assert "\n" not in str(complaint)
        with pytest.raises(DataError) as caught:
            decode(complaint.path)
        json.dumps(str(caught.value)).encode("utf-8")
        assert str(caught.value).isprintable()


def test_files_that_may_not_be_read_are_complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, opened = broken.good(tmp_path, 3), Path.open

    def refuse(self: Path, *args, **kwargs):
        if self == paths[1]:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)  # not chmod: the tests may run as root
    (complaint,) = scan(tmp_path).complaints
    assert complaint.path == paths[1]
    assert "permission denied" in complaint.reason


BOMBS = """
import resource, sys, warnings
from pathlib import Path
from sfumato.data import DataError, decode
warnings.simplefilter("ignore")
decode(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in sys.argv[2:]:
    try:
        decode(bomb)
        print("decoded", bomb)
    except DataError as error:
        assert "too many pixels" in str(error), error
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_are_refused_without_memory(tmp_path: Path) -> None:
    small = broken.good(tmp_path, 2)[1]
    bombs = [tmp_path / f"{side}.png" for side in (9000, 13000, 15000)]
    for bomb in bombs:
        bomb.write_bytes(broken.bomb(int(bomb.stem)))
        assert bomb.stat().st_size < 40_000
    command = [sys.executable, "-c", BOMBS, str(small), *map(str, bombs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50


def test_the_pixel_limit_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (100, 100)).save(path)
    decode(path, max_pixels=10_000)
    with pytest.raises(DataError, match="100 x 100, more than 9999"):
        decode(path, max_pixels=9_999)
    assert [complaint.path for complaint in scan(tmp_path, max_pixels=9_999).complaints] == [path]


def test_a_long_animation_is_not_read_to_its_end(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (1000, 1000), colour) for colour in (broken.RED, broken.BLUE)]
    data = broken.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    last = data.rindex(b"\x21\xf9")
    path = tmp_path / "long.gif"
    path.write_bytes(data[:last] + data[last:-1] * 200 + b"garbage instead of frames")
    picture = decode(path)
    assert tuple(picture.pixels[500, 500]) == broken.RED
    assert "animated, first frame" in picture.handled


def test_truncated_files_stay_refused_when_pillow_was_told_to_load_them(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(broken.encoded(broken.photo(), "JPEG")[:-900])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LOAD_TRUNCATED_IMAGES"):
        decode(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_damage_of_any_kind_is_a_data_error_or_a_picture(tmp_path: Path, kind: str) -> None:
    whole, path = broken.encoded(broken.photo(20), kind), tmp_path / "a.png"
    rng = np.random.default_rng(3)
    for _ in range(60):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, min(len(data), 200), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            picture = decode(path, max_pixels=100_000)
        except DataError:
            continue
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.ndim == 3


def test_every_flipped_bit_of_a_png_is_found(tmp_path: Path) -> None:
    whole, path = broken.encoded(broken.photo(9), "PNG"), tmp_path / "a.png"
    for place in range(len(whole) - 12):  # the last twelve bytes only mark the end
        path.write_bytes(broken.flipped(whole, place))
        with pytest.raises(DataError):
            decode(path)


def test_folders_without_pictures_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        scan(tmp_path / "nowhere")
    (tmp_path / "notes.TXT").write_text("hello")
    (tmp_path / ".hidden.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"not a folder"):
        scan(tmp_path / "notes.TXT")
    with pytest.raises(DataError, match=r"\.png.*found 1 \.txt"):
        scan(tmp_path)
    (path,) = broken.good(tmp_path, 1)
    found = scan(tmp_path)
    assert found.files == (path,)
    assert found.ignored == {".txt": 1}


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    broken.good(root / "real", 2)
    broken.good(tmp_path / "elsewhere", 3, seed=1)
    (root / "again").symlink_to(root / "real")
    (root / "zagain").symlink_to(root / "real")
    (root / "real" / "up").symlink_to(root)
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    (root / "itself").symlink_to(root / "itself")
    (root / "itself.png").symlink_to(root / "itself.png")
    found = scan(root)
    assert [path.relative_to(root).parts[0] for path in found.files] == ["outside"] * 3 + ["real"] * 2
    assert not found.duplicates
    assert [complaint.path.name for complaint in found.complaints] == ["itself.png"]


def test_labels_are_the_folders_below_the_root(tmp_path: Path) -> None:
    broken.good(tmp_path / "cat" / "more", 1, seed=1)
    broken.good(tmp_path / "ant", 2, seed=2)
    found = scan(tmp_path, labels=True)
    assert found.labels == ("ant", "ant", "cat")
    assert found.classes == ("ant", "cat")
    assert found.label_numbers is not None
    assert found.label_numbers.tolist() == [0, 0, 1]
    assert scan(tmp_path).labels is None
    broken.good(tmp_path, 1, seed=3)
    with pytest.raises(DataError, match=r"good000\.jpg: has no label"):
        scan(tmp_path, labels=True)


def test_duplicates_are_files_that_show_the_same(tmp_path: Path) -> None:
    image = broken.photo(12)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "c.png")
    Image.frombytes("RGB", (6, 24), image.tobytes()).save(tmp_path / "d.png")  # the same bytes in another shape
    found = scan(tmp_path)
    assert [[path.name for path in group] for group in found.duplicates] == [["a.png", "b.bmp"]]
    assert found.median_side == 12


def test_the_budget_counts_files_and_names_them(tmp_path: Path) -> None:
    broken.good(tmp_path, 99)
    (tmp_path / "bad0.png").write_bytes(b"")
    check_budget(scan(tmp_path), 0.01)
    with pytest.raises(DataError, match=r"1 of 100 .*bad0\.png: empty file.*--broken-budget 0\.01"):
        check_budget(scan(tmp_path), 0.0099)
    for i in range(1, 7):
        (tmp_path / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"7 of 106 .*bad4\.png: empty file; and 2 more") as caught:
        check_budget(scan(tmp_path))
    assert "bad5" not in str(caught.value)
    check_budget(scan(tmp_path), float(str(caught.value).rstrip(".").split()[-1]))


def test_a_folder_of_broken_files_never_passes_the_budget(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 1"):
        check_budget(scan(tmp_path), 1.0)


def test_fit_takes_the_middle_and_does_not_alias() -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = (10, 20, 30)  # exactly the middle square
    assert (fit(pixels, 40) == pixels[:, 30:70]).all()
    assert (fit(pixels, 8) == (10, 20, 30)).all()
    assert (fit(pixels.transpose(1, 0, 2), 60) == (10, 20, 30)).all()
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    small = fit(stripes, 32)  # nearest-neighbour would give all black, bilinear without antialiasing some pattern
    assert np.abs(small[:, 2:-2].astype(int) - 127).max() <= 2
    with pytest.raises(DataError, match="uint8"):
        fit(pixels.astype(np.float32), 8)


def test_gather_is_each_picture_fitted_in_order(zoo, tmp_path: Path) -> None:
    found = scan(zoo[0] / "awkward")
    calls: list[tuple[int, int]] = []
    array = gather(found, 16, tmp_path / "new" / "all.npy", progress=lambda *at: calls.append(at))
    assert isinstance(array, np.memmap)
    assert array.shape == (len(found), 3, 16, 16)
    assert array.dtype == np.uint8
    for path, pixels in zip(found.files, array):
        assert np.array_equal(pixels.transpose(1, 2, 0), fit(decode(path).pixels, 16)), path.name
    assert calls[-1] == (len(found), len(found))
    threaded = gather(found, 16, tmp_path / "threaded.npy", workers=3)
    assert np.array_equal(array, threaded)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "threaded.npy"]


def test_gather_names_the_file_that_changed_or_vanished(tmp_path: Path) -> None:
    paths, out = broken.good(tmp_path / "in", 4), tmp_path / "all.npy"
    found = scan(tmp_path / "in")
    gather(found, 8, out)
    before = out.read_bytes()
    kept = paths[2].read_bytes()
    paths[2].write_bytes(paths[0].read_bytes())
    with pytest.raises(DataError, match=r"good002\.jpg: has changed"):
        gather(found, 8, out)
    paths[2].unlink()
    with pytest.raises(DataError, match=r"good002\.jpg: file not found.*scan again"):
        gather(found, 8, out, workers=2)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["all.npy"]
    paths[2].write_bytes(kept)
    gather(found, 8, out)


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.good(tmp_path / "in", 2)
    found = scan(tmp_path / "in")

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full_disk)
        with pytest.raises(DataError, match=r"all\.npy: cannot be written: no space left"):
            gather(found, 8, tmp_path / "all.npy")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(DataError, match=r"needs .* MB of disk"):
        gather(found, 8, tmp_path / "all.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_importing_the_room_brings_no_torch() -> None:
    code = "import sys, sfumato.data; print('torch' in sys.modules, 'PIL.FpxImagePlugin' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_complaint_prints_its_file(tmp_path: Path) -> None:
    assert str(Complaint(tmp_path / "a.png", "empty file")).endswith("a.png: empty file")


def test_given_files_are_looked_at_in_their_order_and_taken_whole(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, :15] = (200, 40, 40)
    for name in ("b", "a.png", "left out.png"):
        Image.fromarray(wide).save(tmp_path / name, "PNG")
    found = scan(tmp_path, files=[tmp_path / "b", tmp_path / "a.png", tmp_path / "gone.png"])
    assert [path.name for path in found.files] == ["b", "a.png"]
    assert found.shapes == ((10, 30), (10, 30))
    assert [complaint.path.name for complaint in found.complaints] == ["gone.png"]
    whole = gather(found, (8, 20), tmp_path / "whole.npy", which=[1])
    assert whole.shape == (1, 3, 8, 20)
    assert (
        np.abs(whole[0, :, :, :8].astype(int) - np.array([200, 40, 40])[:, None, None]).max() <= 2
    )  # the left end is there
    assert int(whole[0, :, :, 12:].max()) <= 2  # and the right one
    square = gather(found, 10, tmp_path / "square.npy")
    assert square.shape == (2, 3, 10, 10)
    assert np.array_equal(square[0], wide[:, 10:20].transpose(2, 0, 1))
    with pytest.raises(DataError, match="cannot stretch uint8"):
        stretch(wide, 0, 8)
