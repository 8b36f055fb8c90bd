"""Demonstrations in files come back as they were written, and damaged files are named. Real data where present."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.data import DataError
from sfumato.fields.policy.demonstrations import lerobot
from sfumato.fields.policy.demonstrations.episodes import Demonstrations, Ranges, Windows, split_episodes
from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations, open_lerobot
from sfumato.fields.policy.demonstrations.lerobot_writer import save_lerobot
from sfumato.fields.policy.demonstrations.replay import open_episodes, open_replay, save_episodes, store_pictures

PUSHT = Path(__file__).parents[5] / "shared" / "data" / "pusht" / "pusht_cchi_v7_replay.zarr"
LENGTHS = [5, 3, 9, 1]
STEPS = sum(LENGTHS)


def pictures(height: int = 32, width: int = 48) -> np.ndarray:
    """Each step is of a brightness of its own, far enough apart for any video compression."""
    levels = np.linspace(20, 235, STEPS).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (STEPS, height, width, 3)).copy()


def example(**changes: Any) -> Demonstrations:
    chance = np.random.default_rng(0)
    made = Demonstrations(
        actions=chance.normal(size=(STEPS, 2)).astype(np.float32),
        ends=np.cumsum(LENGTHS),
        observations={
            "state": chance.normal(size=(STEPS, 4)),
            "keypoint": chance.normal(size=(STEPS, 3, 2)).astype(np.float32),
            "grip": np.arange(STEPS)[:, None],
            "eye": pictures(),
        },
        fps=10.0,
        tasks=("push the T", "grüße"),
        task=np.repeat([1, 0, 0, 1], LENGTHS),
    )
    return replace(made, **changes)


def same(a: Demonstrations, b: Demonstrations, leave: tuple[str, ...] = ()) -> None:
    assert a.observations.keys() == b.observations.keys()
    assert (a.fps, a.tasks) == (b.fps, b.tasks)
    np.testing.assert_array_equal(a.ends, b.ends)
    pairs = [(x, b.observations[key]) for key, x in a.observations.items() if key not in leave]
    for x, y in [(a.actions, b.actions), *pairs]:
        assert (x.dtype, tuple(x.shape)) == (y.dtype, tuple(y.shape))
        np.testing.assert_array_equal(x[:], y[:])
    assert (a.task is None) == (b.task is None)
    if a.task is not None:
        np.testing.assert_array_equal(a.task, b.task)


def refused(call: Callable[[], Any], match: str, path: Path | None = None) -> None:
    with pytest.raises(DataError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert path is None or str(path) in str(caught.value)


# .npz


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans(), st.sampled_from(["f4", "f8", "i4", "u1"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_npz_round_trip(tmp_path: Path, lengths: list[int], told: bool, kind: str) -> None:
    count = sum(lengths)
    made = Demonstrations(
        actions=np.arange(2 * count, dtype=kind).reshape(count, 2),
        ends=np.cumsum(lengths),
        observations={"state": np.linspace(0, 1, count)[:, None], "action": np.zeros((count, 1), dtype=kind)},
        fps=12.5 if told else None,
        tasks=("ab\nc",) if told else (),
        task=np.zeros(count, dtype=int) if told else None,
    )
    save_episodes(made, tmp_path / "a.npz")
    same(made, open_episodes(tmp_path / "a.npz"))
    assert os.listdir(tmp_path) == ["a.npz"]


def test_npz_of_others_and_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, action=np.zeros((4, 1)), episode_ends=np.array([4]), state=np.ones((4, 2)))
    assert list(open_episodes(path).observations) == ["state"]
    refused(lambda: open_episodes(path, limit=10), "more than the limit", path)
    np.savez(path, action=np.zeros((4, 1)), state=np.ones((4, 2)))
    refused(lambda: open_episodes(path), "has no array episode_ends, only action, state", path)
    np.savez(path, action=np.array([[{}]]), episode_ends=np.array([1]))
    refused(lambda: open_episodes(path), "Python objects", path)
    np.savez(path, action=np.zeros((1, 1)), episode_ends=np.array([1]), tasks=np.arange(9, dtype=np.uint8))
    refused(lambda: open_episodes(path), "not the bytes of a JSON list", path)
    np.savez(path, action=np.zeros((1, 1)), episode_ends=np.array([1]), fps=np.zeros(2))
    refused(lambda: open_episodes(path), "expected one number", path)
    save_episodes(example(), path)
    path.write_bytes(path.read_bytes()[:-50])
    refused(lambda: open_episodes(path), "cannot be read as an .npz file", path)
    refused(lambda: open_episodes(tmp_path / "b.npz"), "file not found")
    refused(lambda: save_episodes(example(), path / "below.npz"), "cannot be written")


# zarr


def store(path: Path, made: Demonstrations, version: int, zipped: bool = False, **options: Any) -> Path:
    zarr = pytest.importorskip("zarr")
    target = zarr.storage.ZipStore(path, mode="w") if zipped else zarr.storage.LocalStore(path)
    arrays = {"data/action": made.actions, "meta/episode_ends": made.ends}
    arrays |= {f"data/{key}": np.asarray(x[:]) for key, x in made.observations.items()}
    zarr.create_group(target, zarr_format=version)
    for key, values in arrays.items():
        chunks = (4, *values.shape[1:])
        zarr.create_array(target, name=key, data=values, chunks=chunks, zarr_format=version, **options)
    target.close()
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("zipped", [False, True])
def test_replay_buffers_come_back(tmp_path: Path, version: int, zipped: bool) -> None:
    made = example(fps=None, tasks=(), task=None)
    path = store(tmp_path / ("a.zarr.zip" if zipped else "a.zarr"), made, version, zipped)
    opened = open_replay(path)
    same(made, opened)
    order = np.array([12, 0, 17, 3, 3])
    for source in (opened, pickle.loads(pickle.dumps(opened)), store_pictures(opened, tmp_path / "kept")):
        np.testing.assert_array_equal(source.observations["eye"][order], made.observations["eye"][order])
    assert os.listdir(tmp_path / "kept") == ["eye.npy"]
    assert isinstance(store_pictures(opened, tmp_path / "kept").observations["eye"], np.memmap)
    assert list(open_replay(path, names=["grip"]).observations) == ["grip"]
    refused(
        lambda: open_replay(path, names=["nose"]), "has no array data/nose; it has eye, grip, keypoint, state", path
    )
    refused(lambda: open_replay(path, limit=100), "more than the limit", path)


def test_shards_and_other_compressors_come_back(tmp_path: Path) -> None:
    made = example(fps=None, tasks=(), task=None)
    codecs = pytest.importorskip("zarr.codecs")
    zarr = pytest.importorskip("zarr")
    path = store(tmp_path / "a.zarr", made, 3, compressors=[codecs.GzipCodec(), codecs.Crc32cCodec()])
    shutil.rmtree(path / "data" / "action")
    zarr.create_array(path, name="data/action", data=made.actions, chunks=(2, 2), shards=(8, 2))
    same(made, open_replay(path))


def test_pictures_stored_as_floating_point_numbers_are_bytes(tmp_path: Path) -> None:
    made = example(fps=None, tasks=(), task=None)
    eye = pictures().astype(np.float32)
    path = store(tmp_path / "a.zarr", replace(made, observations={"eye": eye}), 2)
    opened = open_replay(path).observations["eye"]
    assert opened.dtype == np.uint8
    np.testing.assert_array_equal(opened[:], pictures())
    path = store(tmp_path / "b.zarr", replace(made, observations={"eye": eye / 255}), 2)
    refused(
        lambda: open_replay(path).observations["eye"][:1], r"\[data/eye\]: pictures are float32 from .*; expected", path
    )


def rewrite(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        file = path / "data" / "action" / ".zarray"
        stored = json.loads(file.read_text())
        change(stored)
        file.write_text(json.dumps(stored))

    return apply


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: shutil.rmtree(path / "data" / "action"), r"\[data/action\]: missing"),
        (lambda path: shutil.rmtree(path / "meta"), r"\[meta/episode_ends\]: missing"),
        (lambda path: (path / "data" / "action" / "1.0").unlink(), r"\[data/action\]: 1 of its 5 pieces are missing"),
        (
            lambda path: (path / "data" / "action" / "1.0").write_bytes(b"\2\1\x93\4no"),
            "cannot be read as a zarr array",
        ),
        (lambda path: (path / "data" / "action" / ".zarray").write_bytes(b"{"), "cannot be read as a zarr array"),
        (lambda path: shutil.rmtree(path), "not found; expected a zarr replay buffer"),
        (rewrite(lambda stored: stored.update(filters=[{"id": "pickle"}])), "is packed by 'pickle'; expected one of"),
        (rewrite(lambda stored: stored.update(compressor={"id": "pickle"})), "is packed by 'pickle'"),
        (rewrite(lambda stored: stored.update(dtype="|O")), "Python objects could run code"),
        (rewrite(lambda stored: stored.update(dtype=[["a", "<f4"]])), "not numbers"),
        (rewrite(lambda stored: stored.update(dtype="<U4")), "expected whole or floating"),
        (rewrite(lambda stored: stored.update(shape=[10**12, 2])), "unpacks to 8e\\+03 GB, more than the limit"),
        (rewrite(lambda stored: stored.update(chunks=[10**12, 2])), "store smaller pieces"),
        (rewrite(lambda stored: stored.update(chunks=[4])), "in pieces of"),
        (rewrite(lambda stored: stored.pop("shape")), "cannot be read as a zarr array"),
    ],
)
def test_damaged_replay_buffers_are_named(tmp_path: Path, damage: Callable[[Path], Any], match: str) -> None:
    path = store(tmp_path / "a.zarr", example(fps=None, tasks=(), task=None), 2)
    damage(path)
    refused(lambda: open_replay(path), match, path)


def test_a_pickle_in_a_zarr_file_of_version_3_or_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", example(fps=None, tasks=(), task=None), 3)
    file = path / "data" / "state" / "zarr.json"
    stored = json.loads(file.read_text())
    stored["codecs"] = [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "numcodecs.pickle"}]}}]
    file.write_text(json.dumps(stored))
    refused(lambda: open_replay(path), r"\[data/state\]: is packed by 'pickle'", path)
    open_replay(path, names=["grip"])
    shutil.make_archive(str(tmp_path / "b"), "zip", path)
    refused(lambda: open_replay(tmp_path / "b.zip"), r"\[data/state\]: is packed by 'pickle'")
    (tmp_path / "c.zip").write_bytes(b"PK\3\4 is no zip")
    refused(lambda: open_replay(tmp_path / "c.zip"), "cannot be read as a zarr store", tmp_path / "c.zip")


def test_wrong_numbers_in_a_replay_buffer_are_named(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    path = store(tmp_path / "a.zarr", example(fps=None, tasks=(), task=None), 2)
    group = zarr.open_group(path, mode="r+", zarr_format=2)
    group["data/action"][9, 1] = np.nan
    refused(lambda: open_replay(path), r"\[action\]: episode 2, step 1 has NaN", path)
    group["data/action"][9, 1] = 0
    group["meta/episode_ends"][3] = 40
    refused(lambda: open_replay(path), "last episode ends at step 40 but there are 18 steps", path)


# LeRobot


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as a LeRobot dataset with several data files and videos."""
    pytest.importorskip("pyarrow")
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("lerobot") / "set"
    save_lerobot(example(), root, data_mb=1e-4, video_mb=1e-4)
    return root


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "set"))


def test_lerobot_round_trip(written: Path) -> None:
    made, opened = example(), open_lerobot(written)
    same(made, opened, leave=("eye",))
    assert len(list(written.glob("data/*/*"))) > 1
    assert len(list(written.glob("videos/*/*/*"))) > 1
    eye = opened.observations["eye"]
    assert (tuple(eye.shape), eye.dtype) == ((STEPS, 32, 48, 3), np.uint8)
    order = np.random.default_rng(1).permutation(STEPS)
    for seen in (eye[order], pickle.loads(pickle.dumps(eye))[order]):
        # Steps are 12 apart in brightness, so that this tells each frame from its neighbours
        assert np.abs(seen.astype(int) - pictures()[order]).max() <= 4
    assert list(open_lerobot(written, names=["grip"]).observations) == ["grip"]
    assert eye[3].shape == (32, 48, 3)
    item = Windows(opened, names=["eye"])[0]["observation.eye"]
    assert item.shape == (2, 3, 32, 48)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_decodes_too(written: Path, tmp_path: Path) -> None:
    made = example(fps=None, tasks=(), task=None)
    sources = [x.observations["eye"] for x in (open_lerobot(written), open_replay(store(tmp_path / "a.zarr", made, 2)))]
    for eye in sources:
        eye[:6]
    child = os.fork()
    if not child:
        try:
            signal.alarm(30)
            close = all(np.abs(eye[::-1].astype(int) - pictures()[::-1]).max() <= 4 for eye in sources)
            os._exit(0 if close else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(("side", "fps"), [((17, 31), 30.0), ((16, 16), 29.97), ((64, 64), 7.5)])
def test_every_frame_is_found_at_any_size_and_rate(tmp_path: Path, side: tuple[int, int], fps: float) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("av")
    made = example(fps=fps, observations={"eye": np.moveaxis(pictures(*side), -1, 1), "dark": pictures(*side)[..., :1]})
    save_lerobot(made, tmp_path / "set")
    opened = open_lerobot(tmp_path / "set")
    assert opened.fps == fps
    for key in ("eye", "dark"):
        assert np.abs(opened.observations[key][:].astype(int) - pictures(*side)).max() <= 4


def test_the_files_say_what_lerobot_expects(written: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet")
    info, stats = (json.loads((written / "meta" / name).read_text()) for name in ("info.json", "stats.json"))
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 4, STEPS)
    assert info["features"]["observation.state"] == {"dtype": "float64", "shape": [4], "names": None}
    assert info["features"]["observation.eye"]["shape"] == [32, 48, 3]
    columns = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
    assert columns <= info["features"].keys() == stats.keys()
    made = example()
    for key, rows in (("action", made.actions), ("observation.keypoint", made.observations["keypoint"])):
        for what, expected in (
            ("mean", rows.mean(0)),
            ("std", rows.std(0)),
            ("min", rows.min(0)),
            ("max", rows.max(0)),
        ):
            np.testing.assert_allclose(stats[key][what], expected, rtol=1e-5, atol=1e-6)
        assert stats[key]["count"] == [STEPS]
    np.testing.assert_allclose(stats["observation.eye"]["mean"], np.full((3, 1, 1), pictures().mean() / 255), rtol=1e-6)
    table = parquet.read_table(written / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    assert table["dataset_to_index"].to_pylist() == made.ends.tolist()
    assert table["tasks"].to_pylist() == [["grüße"], ["push the T"], ["push the T"], ["grüße"]]
    assert table["stats/action/min"].to_pylist()[3] == made.actions[17].astype(float).tolist()
    rows = parquet.read_table(sorted(written.glob("data/*/*"))[0])
    assert rows["timestamp"].to_pylist()[:5] == [float(np.float32(i / 10)) for i in range(5)]


def test_without_tasks_or_pictures(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    made = example(tasks=(), task=None, observations={"state": np.ones((STEPS, 1), dtype=np.float32)})
    save_lerobot(made, tmp_path / "set")
    same(made, open_lerobot(tmp_path / "set"))
    refused(lambda: save_lerobot(made, tmp_path / "set"), "exists already", tmp_path / "set")
    refused(lambda: save_lerobot(replace(made, fps=None), tmp_path / "b"), "steps per second are not known")
    with pytest.raises(ValueError, match="quality of 52"):
        save_lerobot(made, tmp_path / "b", quality=52)
    named = replace(made, observations={"a/b": made.actions})
    refused(lambda: save_lerobot(named, tmp_path / "b"), "a name has no / in it")
    assert os.listdir(tmp_path) == ["set"]


def info(**changes: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        file = root / "meta" / "info.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


def feature(key: str, **changes: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        file = root / "meta" / "info.json"
        stored = json.loads(file.read_text())
        stored["features"][key] |= changes
        file.write_text(json.dumps(stored))

    return apply


def column(file: str, name: str, change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    """Rewrites one column of a parquet file; None leaves it out."""

    def apply(root: Path) -> None:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        table = parquet.read_table(root / file)
        place, values = table.column_names.index(name), change(table[name].to_pylist())
        table = table.remove_column(place)
        parquet.write_table(table if values is None else table.append_column(name, arrow.array(values)), root / file)

    return apply


def cut(file: str, keep: float = 0.6) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: int(keep * len(content))])

    return apply


IMAGE = {"dtype": "image", "shape": [3, 6, 5], "names": ["channels", "height", "width"]}
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
EYE = "videos/observation.eye/chunk-000/file-000.mp4"


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (info(codebase_version="v2.1"), r"info.json: is of LeRobot format v2.1; convert it to v3.0"),
        (info(codebase_version="v4.0"), r"format v4.0; this reads v3.0"),
        (info(total_episodes=5), r"meta/episodes: episode 4 is missing; meta/info.json says there are 5"),
        (info(total_episodes=3), r"4 episodes are listed; meta/info.json says there are 3"),
        (info(total_episodes=10**15, total_frames=10**15), r"episode 4 is missing"),
        (info(total_frames=20), r"the episodes have 18 steps; meta/info.json says 20"),
        (info(fps=0), "at 0 per second"),
        (info(fps="fast"), "lacks or garbles a field"),
        (info(features=[]), "lacks or garbles a field"),
        (info(features={}), "has no feature action"),
        (info(data_path="../../{chunk_index:03d}"), r"the path .* is not like"),
        (info(data_path="/etc/passwd"), r"the path .* is not like"),
        (info(data_path="data/{chunk_index.__class__}"), r"the path .* is not like"),
        (info(video_path="{video_key}/../../../x"), r"the path .* is not like"),
        (feature("action", shape=[3]), r"\[action\]: 10 numbers for 5 rows; expected shape \(3,\)"),
        (feature("action", shape=[10**12]), "more than the limit"),
        (feature("action", shape=[-1]), "lacks or garbles"),
        (feature("observation.state", dtype="string"), "observation.state is of type string; expected numbers or pic"),
        (feature("observation.state", dtype="image", shape=[3, 4, 4]), r"state\]: row 0 holds no picture; expected"),
        (feature("observation.eye", shape=[32]), "lacks or garbles"),
        (lambda root: (root / "meta" / "info.json").unlink(), "info.json: file not found"),
        (lambda root: (root / "meta" / "info.json").write_text("[" * 100_000), "info.json: cannot be read"),
        (lambda root: (root / "meta" / "info.json").write_text("[]"), "info.json: not the description"),
        (lambda root: (root / "meta" / "tasks.parquet").unlink(), r"tasks.parquet: file not found"),
        (lambda root: (root / EPISODES).unlink(), r"meta/episodes: holds no chunk-000/file-000.parquet"),
        (lambda root: (root / DATA).unlink(), r"file-000.parquet: file not found; it should hold episodes 0 to"),
        (lambda root: (root / EYE).unlink(), r"file-000.mp4: file not found; it should hold the video of episode 0"),
        (cut(DATA), r"data/chunk-000/file-000.parquet: cannot be read as parquet"),
        (cut(EPISODES), r"meta/episodes/chunk-000/file-000.parquet: cannot be read as parquet"),
        (cut("meta/tasks.parquet", 0), r"tasks.parquet: cannot be read as parquet"),
        (column(DATA, "action", lambda rows: None), r"file-000.parquet: has no column action"),
        (column(DATA, "action", lambda rows: [[np.nan] * 2, *rows[1:]]), r"\[action\]: episode 0, step 0 has NaN"),
        (column(DATA, "action", lambda rows: [None, *rows[1:]]), r"\[action\]: 1 values are missing"),
        (column(DATA, "action", lambda rows: [[None, 1.0], *rows[1:]]), r"\[action\]: 1 values are missing"),
        (column(DATA, "action", lambda rows: [[1.0], *rows[1:]]), r"\[action\]: rows are of different lengths"),
        (column(DATA, "action", lambda rows: [["1", "2"]] * len(rows)), r"\[action\]: holds string; expected numbers"),
        (
            column(DATA, "episode_index", lambda rows: [7, *rows[1:]]),
            r"row 0 is step 0 of episode 7; expected step 0 of e",
        ),
        (column(DATA, "frame_index", lambda rows: [*rows[:-1], 0]), r"is step 0 of episode .; expected step"),
        (column(DATA, "task_index", lambda rows: [5, *rows[1:]]), r"episode 0, step 0 has task 5"),
        (column(EPISODES, "length", lambda rows: [0, 8, 9, 1]), r"episode 0 has no steps"),
        (column(EPISODES, "length", lambda rows: [6, 2, 9, 1]), r"has 5 rows; its episodes 0 to 0 have 6 steps"),
        (column(EPISODES, "episode_index", lambda rows: [0, 1, 2, 2]), r"episode 3 is missing"),
        (column(EPISODES, "videos/observation.eye/to_timestamp", lambda rows: [0.1, *rows[1:]]), "is from 0 to 0.1 s"),
        (column("meta/tasks.parquet", "task_index", lambda rows: [0, 2]), "not numbered from 0 to 1"),
        (column("meta/tasks.parquet", "task", lambda rows: None), "expected task_index and a text"),
    ],
)
def test_damaged_lerobot_datasets_are_named(copied: Path, damage: Callable[[Path], Any], match: str) -> None:
    damage(copied)
    refused(lambda: open_lerobot(copied), match, copied)


def test_damaged_videos_are_named_when_they_are_decoded(copied: Path) -> None:
    eye = open_lerobot(copied).observations["eye"]
    good = (copied / EYE).read_bytes()
    (copied / EYE).write_bytes(good[: len(good) // 2])
    refused(lambda: eye[:1], r"file-000.mp4: cannot be decoded", copied)
    (copied / EYE).unlink()
    refused(lambda: eye[:1], r"file-000.mp4: video file not found", copied)
    (copied / EYE).write_bytes(good)
    begin = replace(eye, seconds=eye.seconds + 100)  # type: ignore[type-var]
    refused(
        lambda: begin[:1],
        r"has no frame at 100.0000 s \(its nearest frame is at .* expected one within 0.0500 s",
        copied,
    )
    small = replace(eye, size=(16, 48))  # type: ignore[type-var]
    refused(lambda: small[:1], r"a picture of 48x32 pixels; expected 48x16", copied)
    refused(lambda: replace(eye, size=(10**5, 10**5)), "pictures of 100000x100000")  # type: ignore[type-var]
    assert eye[:1].shape == (1, 32, 48, 3)


def test_pictures_inside_the_data_files_come_back(copied: Path) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    info(features={**json.loads((copied / "meta" / "info.json").read_text())["features"], "observation.in": IMAGE})(
        copied
    )
    for number, file in enumerate(sorted(copied.glob("data/*/*"))):
        table, cells = parquet.read_table(file), []
        for level in pictures()[np.cumsum([0, *LENGTHS])[number] :][: len(table), 0, 0, 0]:
            buffer = io.BytesIO()
            Image.fromarray(np.full((6, 5, 3), level, dtype=np.uint8)).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        parquet.write_table(table.append_column("observation.in", arrow.array(cells)), file)
    seen = open_lerobot(copied, names=["in"]).observations["in"]
    np.testing.assert_array_equal(seen[np.arange(STEPS)[::-1]], pictures(6, 5)[::-1])
    assert seen[3].shape == (6, 5, 3)
    refused(lambda: replace(seen, size=(5, 6))[:1], "step 0: has a picture of 5x6 pixels; expected 6x5")  # type: ignore[type-var]
    seen = replace(seen, packed=(seen.packed[0][:50], b"GIF89a"))  # type: ignore[attr-defined, type-var]
    refused(lambda: seen[:1], r"\[observation.in\], step 0: cannot be decoded", copied)
    refused(lambda: seen[1:], r"\[observation.in\], step 1: cannot be decoded", copied)


def test_a_missing_folder_observation_or_package_is_named(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(lambda: open_lerobot(written / "none"), "no such folder")
    refused(lambda: open_lerobot(written, names=["nose"]), "has no observation nose; it has state, keypoint, grip, eye")
    refused(lambda: open_lerobot(written, limit=100), "more than the limit")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    refused(lambda: lerobot.open_lerobot(written), r"pyarrow is not installed; pip install -e '\.\[policy\]'")


def test_each_kind_is_known_by_its_content(written: Path, tmp_path: Path) -> None:
    made = example(fps=None, tasks=(), task=None)
    save_episodes(made, tmp_path / "a.npz")
    for path in (written, store(tmp_path / "a.zarr", made, 3), tmp_path / "a.npz"):
        assert open_demonstrations(path).observations.keys() == made.observations.keys()
        assert list(open_demonstrations(path, names=["grip"]).observations) == ["grip"]
        refused(lambda path=path: open_demonstrations(path, names=["nose"]), "has no .*nose; it has", path)
    refused(lambda: open_demonstrations(tmp_path), r"\[data/action\]: missing")
    refused(lambda: open_demonstrations(tmp_path / "none"), "not found; expected a zarr replay buffer")


# The real thing


@pytest.mark.skipif(not PUSHT.is_dir(), reason="the Push-T demonstrations are not here")
def test_push_t_is_read_as_published(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    demonstrations = open_replay(PUSHT)
    shapes = {key: tuple(x.shape[1:]) for key, x in demonstrations.observations.items()}
    assert (demonstrations.episodes, demonstrations.steps) == (206, 25_650)
    assert shapes == {"img": (96, 96, 3), "keypoint": (9, 2), "n_contacts": (1,), "state": (5,)}
    assert demonstrations.actions.shape == (25_650, 2)
    train, out = split_episodes(demonstrations, 0.1)
    ranges = Ranges.of(demonstrations, train)
    windows = Windows(demonstrations, ranges=ranges, episodes=train, names=["state", "img"])
    # One window per step less those that reach eight or more steps beyond the end, one more before the start
    assert len(windows) == sum(demonstrations.lengths[train] - 16 + 7 + 1 + 1)
    item = windows[100]
    assert {key: value.shape for key, value in item.items()} == {
        "x": (16, 2),
        "observation.state": (2, 5),
        "observation.img": (2, 3, 96, 96),
    }
    everything = Windows(demonstrations, ranges=ranges, episodes=train, names=["state"]).batch(np.arange(len(windows)))
    assert np.abs(everything["x"]).max() == 1
    assert np.abs(everything["observation.state"]).max() == 1
    assert len(train) + len(out) == 206
