"""Units: statistics by channel, the types of files, and the numbers that are drawn black and white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import DataError, Statistics, measure
from sfumato.data.source import Source, amount, content_hash
from sfumato.data.units import by_channel, in_file, is_drawn, numbers_of, own_range, raw_of, to_pixels, usual_range

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("shape", "axes"), [
    ((5,), (0,)), ((6, 4), (0, 1)), ((3, 8, 9), (0, 2, 3)), ((7, 3, 8, 9), (0, 1, 3, 4)),
])  # fmt: skip
def test_statistics_are_of_each_channel(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Columns of vectors, numbers of a step, channels of pictures and clips."""
    x = RNG.normal(size=(40, *shape))
    channels = x.shape[({1, 2, 3, 4} - set(axes)).pop()] if len(shape) > 1 else shape[0]
    wide = np.geomspace(1e-3, 1e4, channels).reshape([-1 if i not in axes else 1 for i in range(x.ndim)])
    x = x * wide + 3 * wide[..., ::-1] if len(shape) == 1 else x * wide
    found = measure(x)
    assert found.mean == pytest.approx(x.mean(axes), rel=1e-9, abs=1e-12)
    assert found.spread == pytest.approx(x.std(axes), rel=1e-9)
    assert np.array_equal(found.least, x.min(axes))
    assert np.array_equal(found.most, x.max(axes))
    each = found.each()
    standard = each.standardise(x)
    assert standard.mean(axes, dtype=np.float64) == pytest.approx(np.zeros(channels), abs=1e-5)
    assert standard.std(axes, dtype=np.float64) == pytest.approx(np.ones(channels), abs=1e-5)
    assert np.abs(each.restore(standard, np.float64) - x).max() < 1e-5 * np.abs(x).max()
    assert found.all().mean == pytest.approx(x.mean(), rel=1e-9)
    assert found.all().spread == pytest.approx(x.std(), rel=1e-9)


def test_a_channel_that_never_changes_comes_back_as_it_was() -> None:
    x = RNG.normal(size=(30, 3))
    x[:, 1] = 0.1
    each = measure(x).each()
    assert (each.standardise(x)[:, 1] == 0).all()
    assert (each.restore(RNG.normal(size=(5, 3)), np.float64)[:, 1] == 0.1).all()  # whatever a network says
    with pytest.raises(DataError, match="nothing to learn"):
        measure(np.array([[1.0, 2.0], [1.0, 2.0]])).each()
    with pytest.raises(DataError, match="2 means and 3 spreads for 3 channels"):
        Statistics((0.0, 1.0), (1.0, 1.0, 1.0), 9, (3,))


@given(
    st.sampled_from(["u1", "i1", "u2", "i4", "u8", "i8", "?", "f2", "f4", ">f4", "f8", ">i2"]), st.integers(0, 10**6)
)
def test_numbers_come_back_in_their_own_type(kind: str, seed: int) -> None:
    dtype, rng = np.dtype(kind), np.random.default_rng(seed)
    info = np.iinfo(dtype) if dtype.kind in "iu" else None
    whole = 2**53  # beyond it not every whole number is a float
    x = (rng.integers(max(info.min, -whole), min(info.max, whole), 50) if info else rng.normal(size=50) > 0).astype(
        dtype
    )
    if dtype.kind == "f":
        x = rng.normal(0, 100, 50).astype(dtype)
    back = numbers_of(raw_of(x, dtype), dtype)
    assert back.dtype == dtype
    assert np.array_equal(back, x)
    far = numbers_of(np.array([-1e300, 1e300]), dtype)  # no sample leaves its type, or wraps around in it
    if info:
        assert far[0] == info.min
        assert info.max - 2048 < int(far[1]) <= info.max  # the largest float of 64 bits
    else:
        assert np.isfinite(far.astype(float)).all()
        assert far[0] < far[1]


@pytest.mark.parametrize(("kind", "low", "high", "ends"), [
    ("?", 0, 1, (0, 1)), ("u1", 90, 110, (0, 255)), ("f4", 0, 1, (0, 1)), ("f4", -1, 0.9, (-1, 1)), ("f8", 0, 254, (0, 255)),
    ("u2", 0, 65278, (0, 65535)), ("u2", 3, 4000, (0, 4095)), ("i2", 10, 200, (0, 255)), ("f4", 250, 310, None),
    ("f4", 0, 0.01, None), ("f4", -3, 3, None), ("f4", -2000, 900, None), ("f4", 0, 1e6, None),
])  # fmt: skip
def test_pictures_are_drawn_by_the_range_that_they_fill(kind: str, low: float, high: float, ends: object) -> None:
    x = RNG.uniform(low, high, (30, 1, 8, 8))
    x[0, 0, 0, :2] = low, high
    x = (x > 0.5 if kind == "?" else x).astype(kind)
    measured = in_file(measure(x), x.dtype)
    assert usual_range(measured, x.dtype) == ends
    black, white = ((ends[0],), (ends[1],)) if isinstance(ends, tuple) else own_range(measured, x)
    pixels = to_pixels(x, black, white)
    assert pixels.shape == (30, 8, 8)
    if kind != "u1":  # what there is fills the shades of grey
        assert pixels.min() < 20
        assert pixels.max() > 60
    if ends is None:
        assert (black[0], white[0]) == pytest.approx((low, high), rel=1e-6)


def test_a_number_far_away_does_not_make_all_else_black() -> None:
    x = RNG.normal(290, 10, (50, 1, 16, 16)).astype("f4")
    x[3, 0, 0, 0] = 1e9
    black, white = own_range(measure(x), x)
    assert 300 < white[0] < 350
    assert black[0] == x.min()
    x[3, 0, 0, 0] = 290
    x[:, :, :2, :2] = 380  # what is rare but belongs to the picture is kept
    assert own_range(measure(x), x)[1][0] == 380


def test_channels_of_unlike_scale_are_standardised_and_drawn_by_themselves() -> None:
    weather = (
        RNG.normal(size=(40, 3, 8, 8)) * np.array([30, 1e-3, 1e4])[:, None, None]
        + np.array([280, 0, 1e5])[:, None, None]
    )
    found = measure(weather)
    assert by_channel(found, usual_range(found, weather.dtype) is not None)
    black, white = own_range(found, weather)
    pixels = to_pixels(weather, black, white)
    assert pixels.shape == (40, 8, 8, 3)
    assert (pixels.reshape(-1, 3).std(0) > 20).all()
    photographs = RNG.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    assert not by_channel(measure(photographs), True)
    photographs[:, 2] = RNG.integers(0, 2, (40, 8, 8))  # a mask in the third channel
    assert by_channel(measure(photographs), True)
    assert by_channel(measure(RNG.integers(0, 256, (40, 4, 8, 8), dtype=np.uint8)), True)  # how opaque is no colour
    assert by_channel(measure(RNG.normal(size=(40, 2))), False)
    assert not by_channel(measure(RNG.normal(size=(40, 1, 8, 8))), False)


def test_which_items_are_drawn() -> None:
    for kind, channels in (("u1", (1, 3, 4)), ("u2", (1, 3, 4)), ("f4", (1, 3)), ("?", (1, 3))):
        assert [c for c in range(1, 7) if is_drawn((c, 8, 8), np.dtype(kind))] == list(channels)
    assert not is_drawn((8, 3), np.dtype("u1"))


# ---- content ---------------------------------------------------------------------------------------------------------


def test_the_hash_is_of_the_numbers_and_not_of_the_file(tmp_path: Path) -> None:
    x = RNG.normal(size=(50, 6)).astype("f4")
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", np.asfortranarray(x))
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("a.npy", "b.npy")]
    assert {content_hash(array) for array in (x, *mapped)} == {content_hash(x)}
    changed = x.copy()
    changed[31, 2] = np.nextafter(changed[31, 2], 9)
    others = [changed, x[:-1], x[::-1], x.astype("f8"), x.reshape(50, 2, 3), x.view("i4")]
    assert len({content_hash(other) for other in (x, *others)}) == 7


def test_of_a_large_array_blocks_are_read() -> None:
    x = RNG.integers(0, 256, (40_000, 100), dtype=np.uint8)
    known = content_hash(x, whole=10**6)
    assert known != content_hash(x)
    for place in (0, 39_999):  # the first and the last items are among the blocks
        changed = x.copy()
        changed[place, 7] ^= 1
        assert content_hash(changed, whole=10**6) != known
    assert content_hash(x + np.uint8(1), whole=10**6) != known


def test_a_source_is_found_where_it_stood_or_as_it_was_written_or_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = RNG.normal(size=(9, 2))
    (tmp_path / "here" / "run").mkdir(parents=True)
    np.save(tmp_path / "here" / "a.npy", x)
    monkeypatch.chdir(tmp_path / "here")
    source = Source.of(Path("a.npy"), x, Path("run"))
    assert Source.read(source.plain()) == source
    monkeypatch.chdir(tmp_path)
    assert source.places(Path("a.npy"), tmp_path / "here" / "run") == [tmp_path / "here" / "a.npy"]
    assert source.places(Path("a.npy"), tmp_path / "far" / "run") == [
        tmp_path / "here" / "a.npy"
    ]  # the run alone moved
    (tmp_path / "here").rename(tmp_path / "there")
    assert source.places(Path("a.npy"), Path("there/run")) == [tmp_path / "there" / "a.npy"]
    monkeypatch.chdir("there")
    assert source.places(Path("a.npy"), Path("elsewhere")) == [tmp_path / "there" / "a.npy"]
    assert source.places(Path("b.npy"), Path("elsewhere")) == []
    assert "144 bytes" in source.words()
    with pytest.raises(DataError, match=r"source in data\.json: is damaged"):
        Source.read({"path": "a.npy"})
    assert [amount(size) for size in (5, 46_080, 3 * 10**9)] == ["5 bytes", "46.1 kB", "3 GB"]
