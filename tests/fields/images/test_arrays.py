"""Arrays end to end: their units, layout, labels and content are decided once, said, kept, undone in samples and checked."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import ArrayDataset, DataError
from sfumato.fields.images.data import Reading, opened, prepared
from sfumato.fields.images.facts import PictureFacts
from sfumato.fields.images.measure import bins, chosen, fair, restored, said, strange
from sfumato.fields.images.reading import read_pictures
from sfumato.jobs.config import read_config
from sfumato.metrics.table import Row
from sfumato.training.run import Run, RunError
from tests.jobs.small import sfumato, write_pictures
from tests.training.small import pictures

TINY = ["--steps", "4", "--batch", "8", "--previews", "0", "--snapshots", "0", "--threads", "1", "--network.width", "32",
        "--network.depth", "2"]  # fmt: skip


def made(folder: Path, x: np.ndarray, reading: Reading = Reading(), **more: np.ndarray) -> tuple[Run, Path]:
    """A run in which this array was prepared."""
    path = folder / ("a.npz" if more else "a.npy")
    np.savez(path, x=x, **more) if more else np.save(path, x)
    run = Run(folder / "run")
    run.create()
    prepared(run, path, None, reading, 0.3)
    return run, path


BYTES = pictures(40, 12)
RNG = np.random.default_rng(0)
CASES: dict[str, np.ndarray] = {
    "bytes CHW": BYTES, "bytes HWC": BYTES.transpose(0, 2, 3, 1), "bytes HW": BYTES[:, 0],
    "grey HWC": BYTES[:, :1].transpose(0, 2, 3, 1),
    "0 to 1": (BYTES / 255).astype("f4"), "-1 to 1": (BYTES / 127.5 - 1).astype("f2"), "0 to 255": BYTES.astype("f8"),
    "u16": BYTES.astype("u2") * 257, "kelvin": (250 + 60 * (BYTES[:, :1] / 255)).astype("f4"), "mask": BYTES[:, :1] > 80,
    "square floats": (BYTES[:, 0] / 255).astype("f4"), "clips": RNG.integers(0, 256, (40, 3, 12, 12, 3), dtype=np.uint8),
    "weather": np.stack([RNG.normal(mean, spread, (40, 8, 8)) for mean, spread in ((280, 30), (0, 1e-3), (1e5, 1e4))], 1),
    "RGBA": RNG.integers(0, 256, (40, 8, 8, 4), dtype=np.uint8), "byte table": RNG.integers(0, 255, (40, 10)).astype("u1"),
    "unlike columns": (RNG.normal(size=(40, 2)) * [10_000, 1] + [0, 3]).astype("f4"),
    "whole numbers": np.stack([RNG.integers(-9, 9, 40), RNG.integers(10**6, 10**9, 40), np.full(40, 7)], 1),
    "sequences": (RNG.normal(size=(40, 20, 3)) * [1, 1e4, 1e-4]).astype(">f4"),
    "flags in pictures": np.concatenate([BYTES[:, :2], BYTES[:, 2:] // 128], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_learned_comes_back_in_its_own_units_type_and_layout(name: str, tmp_path: Path):
    """The training items, standardised and given back as samples are, are the rows of the file: nothing is lost or shifted."""
    x = CASES[name]
    run, path = made(tmp_path, x)
    facts = PictureFacts.read(run)
    train, held_out = opened(run, path, facts)
    assert len(train) + len(held_out) == 40
    batch = train.batch(np.arange(len(train)))["x"]
    if facts.each:  # every channel has its own scale
        channels = np.moveaxis(batch, 2 if batch.ndim in (3, 5) else 1, 0)
        spreads = channels.reshape(len(channels), -1).std(1, dtype=np.float64)
        assert all(spread == pytest.approx(1, abs=1e-4) or spread == 0 for spread in spreads)
    back = facts.items(batch)
    rows = x[train.indices]
    assert back[0].dtype == x.dtype
    assert back[0].shape == x.shape[1:]
    if x.dtype.kind == "f":
        scale = np.abs(x).reshape(40, -1).max() if not facts.each else np.asarray(facts.spreads).max()
        assert np.abs(np.stack(back).astype("f8") - rows).max() <= (2e-3 if x.dtype == "f2" else 1e-5) * scale
    else:
        off = np.abs(np.stack(back).astype("f8") - rows.astype("f8")).max()
        assert off <= 1e-6 * float(x.max()), off  # float32 holds seven digits; bytes and 16 bits come back exactly
        assert x.max() > 10**6 or off == 0
    seen = np.stack(facts.seen(back)) if facts.pictures else None
    assert (seen is not None) == (name not in ("clips", "byte table", "unlike columns", "whole numbers", "sequences"))
    assert facts.exact == (
        name in ("bytes CHW", "bytes HWC", "bytes HW", "grey HWC", "flags in pictures")
    )  # else .npy beside
    if seen is not None:  # drawn from black to white, whatever the numbers
        assert seen.dtype == np.uint8
        assert seen.min() < 40
        assert seen.max() > 200 or name == "flags in pictures"
    if name in ("0 to 1", "-1 to 1", "0 to 255", "u16", "bytes HWC"):  # all are the same pictures
        assert np.abs(seen.astype(int) - BYTES[train.indices].transpose(0, 2, 3, 1)).max() <= 1


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("clips", "sequences")])
def test_another_file_is_read_with_the_same_decision(name: str, tmp_path: Path):
    """The same numbers in another type of number, and in a folder of files as samples are written, are the same data."""
    x = CASES[name]
    run, path = made(tmp_path, x)
    facts = PictureFacts.read(run)
    same = read_pictures(path, facts, 0.01, "a").numpy()
    assert abs(float(same.mean())) < 0.5
    np.save(tmp_path / "other.npy", x.astype("f8"))
    np.testing.assert_allclose(read_pictures(tmp_path / "other.npy", facts, 0.01, "a").numpy(), same, atol=1e-5)
    (tmp_path / "s").mkdir()
    for i, item in enumerate(x[:5]):
        np.save(tmp_path / "s" / f"{i:04d}.npy", item)
    if not facts.exact:
        np.testing.assert_allclose(read_pictures(tmp_path / "s", facts, 0.01, "a").numpy(), same[:5], atol=1e-6)
    np.save(tmp_path / "more.npy", np.concatenate([x, x], -1))
    with pytest.raises(RunError, match=r"more\.npy: holds items of shape .* this run learned those of shape"):
        read_pictures(tmp_path / "more.npy", facts, 0.01, "a")


@pytest.mark.parametrize("name", ["0 to 1", "u16", "kelvin", "bytes HWC"])
def test_pictures_beside_an_array_have_its_black_and_white(name: str, tmp_path: Path):
    x = CASES[name]
    run, path = made(tmp_path, x)
    facts = PictureFacts.read(run)
    (tmp_path / "folder").mkdir()
    for i, picture in enumerate(facts.seen(list(x[:6]))):
        Image.fromarray(picture).save(tmp_path / "folder" / f"{i}.png")
    found = read_pictures(tmp_path / "folder", facts, 0.01, "a").numpy()
    wanted = read_pictures(path, facts, 0.01, "a").numpy()[:6]
    level = 1 / 255 * (facts.white[0] - facts.black[0]) / (facts.spread * (127.5 if facts.bytes else 1))
    assert np.abs(found - wanted).max() <= 0.51 * level  # half a level of grey


def test_pictures_are_shown_to_networks_from_black_to_white(tmp_path: Path):
    run, path = made(tmp_path, CASES["kelvin"])
    facts = PictureFacts.read(run)
    shown = restored(facts, read_pictures(path, facts, 0.01, "a"))
    assert float(shown.min()) == pytest.approx(-1, abs=1e-2)
    assert float(shown.max()) == pytest.approx(1, abs=0.1)


def test_a_density_is_per_unit_of_each_column(tmp_path: Path):
    run, _ = made(tmp_path, CASES["unlike columns"])
    width, unit = bins(PictureFacts.read(run))
    assert width is None
    assert unit == pytest.approx((np.log2(10_000) + np.log2(1)) / 2, abs=0.5)
    (tmp_path / "b").mkdir()
    run, _ = made(tmp_path / "b", BYTES)
    facts = PictureFacts.read(run)
    assert bins(facts) == (2 / 255 / facts.spread, 0.0)
    (tmp_path / "c").mkdir()
    run, _ = made(tmp_path / "c", CASES["byte table"])  # of bytes in columns a density, per byte
    width, unit = bins(PictureFacts.read(run))
    assert width is None
    assert unit == pytest.approx(np.log2(255 / np.sqrt(12)), abs=0.3)


def test_the_scale_and_the_range_can_be_asked_for(tmp_path: Path):
    run, _ = made(tmp_path, CASES["unlike columns"], Reading(scale="all"))
    facts = PictureFacts.read(run)
    assert not facts.each
    assert any("lost in noise: --scale each" in line for line in facts.values())
    (tmp_path / "b").mkdir()
    run, _ = made(tmp_path / "b", CASES["kelvin"], Reading(drawn=(273.15, 300.0)))
    facts = PictureFacts.read(run)
    assert (facts.black, facts.white) == ((273.15,), (300.0,))
    (tmp_path / "c").mkdir()
    run, _ = made(tmp_path / "c", BYTES[:, 0], Reading(layout="LD"))
    assert PictureFacts.read(run).shape == (12, 12)


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "classes"), [
    (np.arange(40) % 2 * 4 + 3, ("3", "7")), (np.arange(40) % 3 - 3, ("-3", "-2", "-1")),
    (np.arange(40) % 2 + 2_000_000, ("2000000", "2000001")),
    (np.where(np.arange(40) % 2, 2**63 + 5, 9).astype("u8"), ("9", "9223372036854775813")),
    (np.where(np.arange(40) % 2, "näh", "cat"), ("cat", "näh")), (np.where(np.arange(40) % 2, b"b", b"a"), ("a", "b")),
    (np.arange(40) % 2 > 0, ("False", "True")), ((np.arange(40) % 2 * 10)[:, None], ("0", "10")),
    (np.arange(40) % 3 * 5, ("0", "5", "10")),
])  # fmt: skip
def test_the_distinct_labels_are_the_classes_by_name(labels: np.ndarray, classes: tuple[str, ...], tmp_path: Path):
    run, path = made(tmp_path, RNG.normal(size=(40, 6)), Reading(labelled=True), labels=labels)
    facts = PictureFacts.read(run)
    assert facts.classes == classes
    train, held_out = opened(run, path, facts)
    for part in (train, held_out):
        numbers = part.batch(np.arange(len(part)))["label"]
        given = labels.reshape(-1)[part.indices]
        named = [value.decode() if isinstance(value, bytes) else str(value) for value in given.tolist()]
        assert [classes[number] for number in numbers] == named


def test_labels_that_are_not_asked_for_are_said_and_asked_for_must_be_there(tmp_path: Path):
    x = RNG.normal(size=(40, 6))
    run, _ = made(tmp_path, x, labels=np.arange(40) % 3, weights=np.ones(40))
    facts = PictureFacts.read(run)
    assert facts.classes == ()
    assert "labels of 3 classes are there and not used (--labels learns them)" in facts.said
    assert "other arrays in the file are not used: weights" in facts.said
    assert set(facts.said) < set(facts.words())
    for more in ({}, {"other": np.ones(3)}):
        folder = tmp_path / f"b{len(more)}"
        folder.mkdir()
        with pytest.raises(DataError, match=r"has no labels; give a \.npz with x and labels"):
            made(folder, x, Reading(labelled=True), **more)


def test_every_class_is_trained_on(tmp_path: Path):
    """Of classes with one item each some would be held out whole, never seen, and sampled in turn all the same."""
    labels = np.concatenate([np.arange(20), np.full(20, 20)])
    run, path = made(tmp_path, RNG.normal(size=(40, 6)), Reading(labelled=True), labels=labels)
    facts = PictureFacts.read(run)
    train, held_out = opened(run, path, facts)
    assert set(train.batch(np.arange(len(train)))["label"]) == set(range(21))
    assert len(held_out) == facts.held > 0
    assert any("hardly any has a second one" in line for line in facts.words())


def test_names_in_the_file_are_those_of_the_items(tmp_path: Path):
    names = [f"scan {i}" for i in range(40)]
    run, path = made(tmp_path, RNG.normal(size=(40, 6)), names=np.array(names))
    train, _ = opened(run, path, PictureFacts.read(run))
    assert train.name(3) == f"scan {train.indices[3]}"
    np.savez(path, x=RNG.normal(size=(40, 6)), names=np.array(["only", "two"]))  # names of something else
    prepared(run, path, None, Reading(), 0.3)
    facts = PictureFacts.read(run)
    assert opened(run, path, facts)[0].name(0).startswith("a.npz[")
    assert "other arrays in the file are not used: names" in facts.said


# ---- content ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_changed_array_is_refused_and_the_old_one_taken_back(kind: str, tmp_path: Path):
    more = {"labels": np.arange(40)} if kind == "npz" else {}
    x = RNG.normal(size=(40, 6))
    run, path = made(tmp_path, x, **more)
    facts = PictureFacts.read(run)
    before = path.read_bytes()
    first = opened(run, path, facts)[0].batch(np.arange(5))["x"]
    changed = x.copy()
    changed[17, 3] += 1e-9
    np.savez(path, x=changed, **more) if more else np.save(path, changed)
    with pytest.raises(DataError, match=rf"{path.name}: its numbers are not those that .*run learned from"):
        opened(run, path, facts)
    path.write_bytes(before)
    assert np.array_equal(opened(run, path, facts)[0].batch(np.arange(5))["x"], first)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: file not found; put back the array"):
        opened(run, path, facts)


@pytest.mark.parametrize("change", ["cut short", "written anew", "gone"])
def test_an_array_that_changes_under_a_run_is_named_before_it_is_read(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A map of a file that was cut short would end the process without a word, one written anew give other numbers."""
    path, real, calls = tmp_path / "a.npy", ArrayDataset.batch, []
    np.save(path, RNG.normal(size=(400, 600)))

    def batch(self: ArrayDataset, indices: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(1)
        if len(calls) == 30:
            if change == "gone":
                path.unlink()
            elif change == "cut short":
                os.truncate(path, 4096)
            else:
                time_before = path.stat().st_mtime_ns
                np.save(path, RNG.normal(size=(400, 600)))
                os.utime(path, ns=(time_before + 10**9,) * 2)
        return real(self, indices)

    monkeypatch.setattr(ArrayDataset, "batch", batch)
    words = [*TINY, "--steps", 60, "--held-out", 0.1, "--out", tmp_path / "run"]
    assert sfumato("train", path, *words) == 1
    said = capsys.readouterr().err
    assert f"{path}: {'is gone' if change == 'gone' else 'has changed since it was opened'}" in said
    assert "which is saved" in said


def test_a_run_is_resumed_and_measured_from_any_folder_and_only_on_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "shelf").mkdir()
    monkeypatch.chdir(tmp_path / "shelf")
    np.save("a.npy", pictures(60, 8).transpose(0, 2, 3, 1) / 255)
    assert sfumato("train", "a.npy", *TINY, "--held-out", 0.4, "--out", "run") == 0
    assert "data: a.npy" in Path("run/config.yaml").read_text()  # as it was written
    plan = capsys.readouterr().err
    for words in ("8x8 pictures", "layout HWC: channels last", "units float64, as in the file, from 0 to 1; ",
                  "0 drawn black, 1 white", "3 channels, all standardised alike", "known again by a hash"):  # fmt: skip
        assert words in plan
    monkeypatch.chdir(tmp_path)
    assert sfumato("sample", "shelf/run", "-n", 2, "--steps", 2, "--out", "s") == 0
    assert sorted(path.name for path in Path("s").iterdir()) == [
        "0000.npy", "0000.png", "0001.npy", "0001.png", "grid.png", "samples.json"
    ]  # fmt: skip
    assert np.load("s/0000.npy").shape == (8, 8, 3)
    assert np.load("s/0000.npy").dtype == np.float64
    assert sfumato("evaluate", "shelf/run", "--quick", "-n", 12, "--steps", 2) == 0
    np.save("shelf/a.npy", 1 - np.load("shelf/a.npy"))
    capsys.readouterr()
    assert sfumato("evaluate", "shelf/run", "--quick", "-n", 12, "--steps", 2) == 1
    assert f"{tmp_path}/shelf/a.npy: its numbers are not those that shelf/run learned from" in capsys.readouterr().err
    assert sfumato("resume", "shelf/run") == 1
    assert "its numbers are not those" in capsys.readouterr().err


def test_inspect_says_the_range_of_each_column_and_warns_of_unlike_scales(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    np.save(tmp_path / "b.npy", np.stack([np.arange(40) % 2, np.arange(40) * 6], 1).astype("u1"))
    assert sfumato("inspect", tmp_path / "b.npy", *TINY) == 0
    assert "          column 1: 0 to 234, mean 1" in capsys.readouterr().out  # bytes as bytes
    np.save(tmp_path / "a.npy", CASES["unlike columns"])
    assert sfumato("inspect", tmp_path / "a.npy", *TINY) == 0
    out = capsys.readouterr().out
    for words in ("  column 0: -", "  column 1: ", "unlike    columns differ in spread by a factor of 1", "layout D: vectors",
                  "each is standardised by itself"):  # fmt: skip
        assert words in out


def test_files_that_are_not_read_are_counted_in_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_pictures(tmp_path / "photos", 20)
    for i, suffix in enumerate((".jfif", ".jpe", ".jif")):
        Image.fromarray(pictures(3, 9)[i].transpose(1, 2, 0)).save(folder / f"x{suffix}", format="JPEG")
    Image.fromarray(pictures(1, 9)[0, 0] > 90).save(folder / "x.pbm", format="PPM")
    Image.fromarray(pictures(1, 9)[0, 0]).save(folder / "x.pnm", format="PPM")
    for name in ("a.avif", "b.avif", "notes.txt", "none"):
        (folder / name).write_bytes(b"x")
    assert sfumato("train", folder, "--side", 8, *TINY, "--out", tmp_path / "run") == 0
    plan = capsys.readouterr().err
    assert "4 files are not read, by their suffix: .avif (2), " in plan
    assert PictureFacts.read(Run(tmp_path / "run")).count + PictureFacts.read(Run(tmp_path / "run")).held == 25


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_a_fair_draw_shows_every_class_as_often():
    import torch

    labels = torch.arange(120) % 10  # drawn in turn: every tenth sample is of one class
    shown = [int(labels[i]) for i in fair(labels, 120, 12)]
    assert set(shown) == set(range(10))
    assert len(set(fair(labels, 120, 12))) == 12
    many = torch.arange(200) % 100
    assert len({int(many[i]) for i in fair(many, 200, 12)}) == 12
    assert sorted(fair(None, 5, 12)) == list(range(5))
    assert sorted(int(labels[i]) for i in fair(labels[:3], 3, 12)) == [0, 1, 2]


def test_held_out_pictures_beside_samples_are_of_their_classes():
    import torch

    fake, labels = torch.arange(60.0)[:, None], torch.arange(60) % 5
    held = {"x": torch.arange(40.0)[:, None], "label": torch.arange(40) % 4}  # none is of class 4
    found = chosen(fake, labels, held, ("a", "b", "c", "d", "e"))
    assert len(found["samples"]) == len(found["real"]) == len(found["names"]) == 12
    for sample, real, name in zip(found["samples"][:, 0], found["real"][:, 0], found["names"]):
        assert "abcde"[int(sample) % 5] == name
        assert name == "e" or "abcd"[int(real) % 4] == name
    assert chosen(fake, None, held, ())["names"] is None


def rows(**changed: tuple[float, float, float, float]) -> list[Row]:
    """Rows at their floors but for those given: value, low, high, floor."""
    usual = {
        "frechet_distance": (1, 0.9, 1.1, 1), "kernel_distance": (0.1, 0.05, 0.15, 0.1),
        "sliced_wasserstein": (1, 0.9, 1.1, 1), "memorisation_ratio": (1, 0.9, 1.1, 1),
        "copied": (0.01, 0, 0.03, 0.01), "classifier_accuracy": (0.5, 0.4, 0.6, 0.5),
    }  # fmt: skip
    better = {"memorisation_ratio": "near 1"}
    return [Row(name, *values, better.get(name, "lower"), 100, 400) for name, values in (usual | changed).items()]  # type: ignore


@pytest.mark.parametrize(("changed", "starts"), [
    ({}, ["at the floor: 100 samples cannot be told"]),
    ({"frechet_distance": (9, 8.5, 9.5, 1)}, ["kernel distance is at the floor, but not frechet_distance"]),
    ({"kernel_distance": (2, 1.9, 2.1, 0.1)}, []),
    ({"copied": (0.6, 0.5, 0.7, 0.01)}, ["MEMORISED: 60% of the samples"]),
    ({"copied": (0.6, 0.5, 0.7, 0.62)}, ["the data repeat themselves: 62% of the held-out items", "at the floor"]),
    ({"frechet_distance": (1.15, 1.05, 1.25, 1)}, ["at the floor"]),  # within what both scatter by
    ({"classifier_accuracy": (0.9, 0.85, 0.95, 0.5)}, []),
])  # fmt: skip
def test_remarks_follow_from_the_whole_row(changed: dict, starts: list[str]):
    found = said(rows(**changed))
    assert len(found) == len(starts), found
    assert all(remark.startswith(start) for remark, start in zip(found, starts))


def test_one_held_out_item_near_a_training_item_is_no_repetition():
    """1 of 19 may be chance; 10 of 100 is none."""
    few = [
        Row(r.metric, r.value, r.low, r.high, 1 / 19 if r.metric == "copied" else r.floor, r.better, 19, 40)
        for r in rows()
    ]
    assert not any("repeat themselves" in remark for remark in said(few))
    assert any("repeat themselves" in remark for remark in said(rows(copied=(0.1, 0.05, 0.2, 0.1))))


def test_numbers_of_other_units_are_told():
    import torch

    x = torch.randn(100, 3)
    assert strange(x, None) == strange(x, Path("a.npy")) == strange(x + 3, Path("a.npy")) == []
    for other in (x * 255, x / 255, x + 273):
        (word,) = strange(other, Path("a.npy"))
        assert word.startswith("OTHER UNITS? a.npy: its numbers have mean ")


def test_things_of_a_model_are_those_of_its_data(tmp_path: Path):
    """`Images.things` alone: what `sample` and the previews share."""
    import torch

    from sfumato.fields.images.recipe import Images

    run, path = made(tmp_path, CASES["byte table"])
    facts = PictureFacts.read(run)
    drawn = SimpleNamespace(x=torch.zeros(2, 10))
    things = Images(path).things(SimpleNamespace(facts=facts), None, drawn)  # type: ignore[arg-type]
    mean = np.rint(CASES["byte table"][opened(run, path, facts)[0].indices].mean(0))
    assert things[0].dtype == np.uint8
    assert np.array_equal(things[0], mean)


def test_items_of_mixed_shapes_in_a_folder_are_refused_by_name(tmp_path: Path):
    from sfumato.jobs.compare import _read

    run, _ = made(tmp_path, RNG.normal(size=(40, 6)))
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for i, width in enumerate((6, 6, 7)):
        np.save(drawn / f"{i:04d}.npy", RNG.normal(size=width))
    with pytest.raises(
        RunError, match=r"0002\.npy: has shape \(7,\) and type float64; finite numbers of shape \(6,\) expected"
    ):
        read_pictures(drawn, PictureFacts.read(run), 0.01, "a.npy")
    with pytest.raises(DataError, match=r"drawn: the arrays in it have different shapes"):
        _read(drawn, 8, 0, None)
    for i, broken in enumerate((np.nan, np.inf)):
        np.save(drawn / "0002.npy", np.full(6, broken))
        with pytest.raises(RunError, match=r"0002\.npy: .*finite numbers"):
            read_pictures(drawn, PictureFacts.read(run), 0.01, f"{i}")


@pytest.mark.parametrize(
    ("asked", "share"), [((), 0.02), (("--method.cover", "0"), 0.0), (("--method.cover", "0.1"), 0.1)]
)
def test_pure_noise_is_trained_where_items_are_no_pictures(tmp_path: Path, asked: tuple[str, ...], share: float):
    """A walk begins there, and without it samples of long trained vectors are off by orders of magnitude."""
    np.savez(tmp_path / "v.npz", x=RNG.normal(size=(40, 6)))
    assert sfumato("train", tmp_path / "v.npz", *TINY, *asked, "--out", tmp_path / "run") == 0
    method = read_config(Run(tmp_path / "run")).recipe.method
    assert method.cover == share
    t = method.distribution().draw((torch.arange(1000) + 0.5) / 1000, None, method.build(), {})
    assert float((t == 1).double().mean()) == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize("file", [False, True])
def test_pictures_have_no_share_at_pure_noise(tmp_path: Path, file: bool):
    where = tmp_path / "p.npy" if file else write_pictures(tmp_path / "p")
    if file:
        np.save(where, BYTES)
    assert sfumato("train", where, *TINY, "--held-out", 0.4, "--out", tmp_path / "r") == 0
    assert read_config(Run(tmp_path / "r")).recipe.method.cover is None
