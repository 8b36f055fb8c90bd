"""LeRobot datasets, format 3.0, in a local folder (huggingface/lerobot, "LeRobotDataset v3.0").

    meta/info.json                             features, frames per second, how many episodes and steps
    meta/stats.json, meta/tasks.parquet        least, greatest, mean and spread of each feature; what was to be done
    meta/episodes/chunk-000/file-000.parquet   per episode: its length, its files, where it begins in each video
    data/chunk-000/file-000.parquet            per step: state, action, timestamp; many episodes in a file
    videos/KEY/chunk-000/file-000.mp4          many episodes one after the other

Written by `lerobot_writer`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sfumato.data.arrays import MEMBER_LIMIT
from sfumato.data.errors import DataError, one_line, shown
from sfumato.data.picture import MAX_PIXELS
from sfumato.data.stores import MAX_METADATA
from sfumato.data.video import PackedPictures, VideoPictures
from sfumato.errors import needed
from sfumato.fields.policy.demonstrations.episodes import ACTION, OBSERVATION, Demonstrations, Frames
from sfumato.fields.policy.demonstrations.replay import open_episodes, open_replay

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_CONVERT = "convert it to v3.0 with lerobot's convert_dataset_v21_to_v30"


@dataclass(frozen=True)
class _Feature:
    """What info.json says of a column: its type and the shape of one row ((H, W) for pictures)."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Info:
    fps: float
    episodes: int
    steps: int
    features: dict[str, _Feature]
    data_path: str
    video_path: str


def open_lerobot(
    root: str | os.PathLike[str], *, names: Sequence[str] | None = None, limit: int = MEMBER_LIMIT
) -> Demonstrations:
    """Opens a LeRobot dataset of format 3.0: the feature "action" and the observations `names` (all by default).

    A feature "observation.NAME" is the observation NAME. Numbers are read into memory, `limit` bytes at most for each
    feature; videos are decoded when asked for, and so are
    pictures inside the data files. Raises DataError naming the file when one is missing or damaged, when
    the version is another, when episodes of info.json are missing or do not fit their rows, and for a feature that is
    neither numbers nor pictures.
    """
    root = Path(root)
    info = _info(root)
    prefix = f"{OBSERVATION}."
    present = [key.removeprefix(prefix) for key in info.features if key.startswith(prefix)]
    if OBSERVATION in info.features:
        present.append(OBSERVATION)
    wanted = tuple(present if names is None else names)
    strange = next((name for name in wanted if name not in present), None)
    if strange is not None:
        raise DataError(f"{shown(root)}: has no observation {shown(strange)}; it has {', '.join(map(shown, present))}")
    columns = {name: prefix + name if prefix + name in info.features else name for name in wanted}
    videos = [key for key in columns.values() if info.features[key].dtype == "video"]
    episodes = _episodes(root, info, videos)
    rows, packed = _rows(root, info, episodes, [ACTION, *(key for key in columns.values() if key not in videos)], limit)
    observations: dict[str, Frames] = {}
    for name, key in columns.items():
        if key in packed:
            height, width = info.features[key].shape
            observations[name] = PackedPictures(tuple(packed[key]), (height, width), f"{shown(root)}[{shown(key)}]")
        else:
            observations[name] = _video(root, info, key, episodes, rows["timestamp"]) if key in videos else rows[key]
    tasks = _tasks(root)
    told = tasks != ("",)
    return Demonstrations(
        actions=rows[ACTION],
        ends=np.cumsum(episodes["length"]),
        observations=observations,
        fps=info.fps,
        tasks=tasks if told else (),
        task=rows["task_index"] if told else None,
        source=os.fspath(root),
    )


def open_demonstrations(
    path: str | os.PathLike[str], *, names: Sequence[str] | None = None, limit: int = MEMBER_LIMIT
) -> Demonstrations:
    """Opens any of the three: a LeRobot folder, a zarr replay buffer (folder or .zip), or `.npz`, known by its content.

    `names` picks observations. Raises DataError when the file is none of them, and what its own reader raises.
    """
    path = Path(path)
    if (path / "meta" / "info.json").exists():
        return open_lerobot(path, names=names, limit=limit)
    if path.suffix != ".npz":
        return open_replay(path, names=names, limit=limit)
    opened = open_episodes(path, limit=limit)
    if names is None:
        return opened
    strange = next((name for name in names if name not in opened.observations), None)
    if strange is not None:
        have = ", ".join(map(shown, opened.observations)) or "none"
        raise DataError(f"{shown(path)}: has no observation {shown(strange)}; it has {have}")
    return replace(opened, observations={name: opened.observations[name] for name in names})


def _info(root: Path) -> _Info:
    path = root / "meta" / "info.json"
    if not root.is_dir():
        raise DataError(f"{shown(root)}: no such folder; expected a LeRobot dataset")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_METADATA + 1)
        stored = json.loads(text) if len(text) <= MAX_METADATA else None
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: file not found; a LeRobot dataset has it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{shown(path)}: cannot be read ({one_line(error)}); copy it again") from error
    if not isinstance(stored, dict):
        raise DataError(f"{shown(path)}: not the description of a LeRobot dataset; copy it again")
    version = str(stored.get("codebase_version"))
    if version != VERSION:
        remedy = _CONVERT if version.startswith(("v1", "v2")) else "this reads v3.0"
        raise DataError(f"{shown(path)}: is of LeRobot format {shown(version[:20])}; {remedy}")
    try:
        features = {str(key): _feature(part) for key, part in stored["features"].items()}
        info = _Info(
            fps=float(stored["fps"]),
            episodes=int(stored["total_episodes"]),
            steps=int(stored["total_frames"]),
            features=features,
            data_path=str(stored.get("data_path") or DATA_PATH),
            video_path=str(stored.get("video_path") or VIDEO_PATH),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{shown(path)}: lacks or garbles a field ({one_line(error)}); copy it again") from error
    if not (math.isfinite(info.fps) and info.fps > 0) or info.episodes < 1 or info.steps < info.episodes:
        raise DataError(
            f"{shown(path)}: {info.episodes} episodes of {info.steps} steps at {info.fps:g} per second; "
            "expected one episode or more, each of one step or more"
        )
    if ACTION not in features:
        raise DataError(f"{shown(path)}: has no feature {ACTION}, only {', '.join(map(shown, features)) or 'none'}")
    return info


def _feature(part: Any) -> _Feature:
    shape = tuple(int(n) for n in part["shape"])
    if part["dtype"] in ("video", "image"):
        names = part.get("names")
        first = str(names[0]) if isinstance(names, list) and names else ""
        # Both orders of the axes are met in the wild
        if first.startswith("c") or (not first.startswith("h") and shape[0] in (1, 3)):
            shape = shape[1:]
        if len(shape := shape[:2]) != 2:
            raise ValueError(f"shape {part['shape']} of pictures")
        if math.prod(shape) > MAX_PIXELS:
            raise ValueError(f"pictures of {shape[1]}x{shape[0]} pixels; expected {MAX_PIXELS} at most")
    if min(shape, default=0) < 1:
        raise ValueError(f"shape {shape} of a feature")
    return _Feature(str(part["dtype"]), shape)


def _path(root: Path, template: str, chunk: int, file: int, key: str = "") -> Path:
    """Fills a path of info.json, which must stay below `root`."""
    name = template.replace("{chunk_index:03d}", f"{chunk:03d}").replace("{file_index:03d}", f"{file:03d}")
    name = name.replace("{video_key}", key)
    parts = PurePosixPath(name)
    if "{" in name or parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{shown(root)}: the path {shown(template)} of meta/info.json is not like {DATA_PATH}")
    return root / parts


def _parquet(path: Path, columns: Sequence[str] | None, what: str, limit: int) -> Any:
    """The table of a file: those columns of it that it must have, or all."""
    parquet = needed("pyarrow.parquet")
    if not path.is_file():
        raise DataError(f"{shown(path)}: file not found; it should hold {what}")
    try:
        with parquet.ParquetFile(path) as file:
            missing = next((key for key in columns or () if key not in file.schema_arrow.names), None)
            if missing is not None:
                raise DataError(f"{shown(path)}: has no column {shown(missing)}, which should hold {what}")
            # by groups: what a damaged file says of a column aborts the process in pyarrow
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if size > limit:
                raise DataError(
                    f"{shown(path)}: unpacks to {size / 1e9:.3g} GB, more than the limit of {limit / 1e9:.3g} GB"
                )
            return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except DataError:
        raise
    except Exception as error:  # a damaged file may raise almost anything
        raise DataError(f"{shown(path)}: cannot be read as parquet ({one_line(error)}); copy it again") from error


def _column(table: Any, key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """A column as an array (rows, *shape); one number a row where `shape` is ()."""
    name = f"{shown(path)}[{shown(key)}]"
    arrow = needed("pyarrow")
    column = table.column(key).combine_chunks()
    if isinstance(column, arrow.ChunkedArray):
        column = arrow.concat_arrays(column.chunks) if column.num_chunks else arrow.array([], column.type)
    lists = (arrow.types.is_fixed_size_list, arrow.types.is_list, arrow.types.is_large_list)
    axes = 0
    while True:
        if column.null_count:
            raise DataError(f"{name}: {column.null_count} values are missing; expected a number in each place")
        if isinstance(column, arrow.ExtensionArray):
            column = column.storage
        elif any(is_list(column.type) for is_list in lists):
            if (
                not arrow.types.is_fixed_size_list(column.type)
                and len(set(np.diff(column.offsets.to_numpy()).tolist())) > 1
            ):
                raise DataError(f"{name}: rows are of different lengths; expected shape {shape} in each")
            column, axes = column.flatten(), axes + 1
        else:
            break
    kind = column.type
    if not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_boolean(kind)):
        raise DataError(f"{name}: holds {shown(str(kind))[:60]}; expected numbers")
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    if axes != (len(shape) if shape != (1,) else min(axes, 1)) or len(values) != table.num_rows * math.prod(shape):
        raise DataError(f"{name}: {len(values)} numbers for {table.num_rows} rows; expected shape {shape} in each")
    return values.reshape(table.num_rows, *shape)


def _episodes(root: Path, info: _Info, videos: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of meta/episodes, one row per episode in order."""
    keys = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for video in videos:
        keys += [f"videos/{video}/{part}" for part in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise DataError(
            f"{shown(folder)}: holds no chunk-000/file-000.parquet; a LeRobot dataset lists its episodes there"
        )
    parts = []
    for path in files:
        table = _parquet(path, keys, "the list of episodes", MEMBER_LIMIT)
        parts.append([_column(table, key, (), path) for key in keys])
    episodes = {key: np.concatenate(found) for key, found in zip(keys, zip(*parts))}
    order = np.argsort(episodes["episode_index"], kind="stable")
    episodes = {key: values[order] for key, values in episodes.items()}
    numbers = episodes["episode_index"]
    if len(numbers) != info.episodes or not np.array_equal(numbers, np.arange(info.episodes)):
        missing = np.setdiff1d(np.arange(min(info.episodes, len(numbers) + 1)), numbers)
        what = f"episode {missing[0]} is missing" if len(missing) else f"{len(numbers)} episodes are listed"
        raise DataError(f"{shown(folder)}: {what}; meta/info.json says there are {info.episodes}")
    short = episodes["length"] < 1
    if short.any():
        raise DataError(f"{shown(folder)}: episode {np.argmax(short)} has no steps; expected one or more in each")
    if episodes["length"].sum() != info.steps:
        raise DataError(
            f"{shown(folder)}: the episodes have {episodes['length'].sum()} steps; meta/info.json says {info.steps}"
        )
    return episodes


def _rows(
    root: Path, info: _Info, episodes: dict[str, np.ndarray], numbers: Sequence[str], limit: int
) -> tuple[dict[str, np.ndarray], dict[str, list[bytes]]]:
    """The columns of all data files: numbers as arrays of all steps, in order, and pictures as the bytes of each."""
    for key in numbers:
        feature = info.features[key]
        if feature.dtype in ("string", "language"):
            raise DataError(
                f"{shown(root)}: the feature {shown(key)} is of type {feature.dtype}; "
                "expected numbers or pictures, so name the observations without it"
            )
        if feature.dtype != "image" and info.steps * math.prod(feature.shape) * 8 > limit:
            raise DataError(f"{shown(root)}[{shown(key)}]: more than the limit of {limit / 1e9:.3g} GB")
    packed: dict[str, list[bytes]] = {key: [] for key in numbers if info.features[key].dtype == "image"}
    shapes = {key: info.features[key].shape for key in numbers if key not in packed}
    shapes |= dict.fromkeys(("timestamp", "frame_index", "episode_index", "task_index"), ())
    parts: dict[str, list[np.ndarray]] = {key: [] for key in shapes}
    places = np.stack([episodes["data/chunk_index"], episodes["data/file_index"]], axis=1)
    # Episodes in order are also files in order: a file holds a run of them
    changes = np.flatnonzero(np.any(np.diff(places, axis=0), axis=1)) + 1
    for run in np.split(np.arange(info.episodes), changes):
        chunk, file = places[run[0]]
        path = _path(root, info.data_path, int(chunk), int(file))
        table = _parquet(path, [*shapes, *packed], f"episodes {run[0]} to {run[-1]}", limit)
        lengths = episodes["length"][run]
        if table.num_rows != lengths.sum():
            raise DataError(
                f"{shown(path)}: has {table.num_rows} rows; "
                f"its episodes {run[0]} to {run[-1]} have {lengths.sum()} steps as meta/episodes says"
            )
        found = {key: _column(table, key, shape, path) for key, shape in shapes.items()}
        step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        wrong = (found["episode_index"] != np.repeat(run, lengths)) | (found["frame_index"] != step)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{shown(path)}: row {row} is step {found['frame_index'][row]} of episode "
                f"{found['episode_index'][row]}; expected step {step[row]} of episode {np.repeat(run, lengths)[row]}"
            )
        for key in shapes:
            parts[key].append(found[key])
        for key in packed:
            packed[key] += _bytes(table, key, path)
            if sum(map(len, packed[key])) > limit:
                raise DataError(f"{shown(root)}[{shown(key)}]: more than the limit of {limit / 1e9:.3g} GB of pictures")
    return {key: np.concatenate(found) for key, found in parts.items()}, packed


def _bytes(table: Any, key: str, path: Path) -> list[bytes]:
    """A column of picture files, each {"bytes": ..., "path": ...}."""
    cells: list[bytes] = []
    for row, cell in enumerate(table.column(key).to_pylist()):
        content = cell.get("bytes") if isinstance(cell, dict) else None
        if not isinstance(content, bytes):
            raise DataError(
                f"{shown(path)}[{shown(key)}]: row {row} holds no picture; expected the bytes of PNG or JPEG"
            )
        cells.append(content)
    return cells


def _video(root: Path, info: _Info, key: str, episodes: dict[str, np.ndarray], timestamps: np.ndarray) -> VideoPictures:
    (height, width), lengths = info.features[key].shape, episodes["length"]
    files: dict[Path, int] = {}
    places = []
    for number in range(info.episodes):
        chunk, file = (int(episodes[f"videos/{key}/{part}"][number]) for part in ("chunk_index", "file_index"))
        path = _path(root, info.video_path, chunk, file, key)
        if path not in files and not path.is_file():
            raise DataError(f"{shown(path)}: file not found; it should hold the video of episode {number}")
        places.append(files.setdefault(path, len(files)))
    begin, end = (episodes[f"videos/{key}/{part}_timestamp"].astype(np.float64) for part in ("from", "to"))
    good = np.isfinite(begin) & (begin >= 0) & (end - begin >= (lengths - 0.5) / info.fps)
    if not good.all():
        short = int(np.argmin(good))
        raise DataError(
            f"{shown(root)}: the video {shown(key)} of episode {short} is from {begin[short]:g} to {end[short]:g} s; "
            f"expected {lengths[short]} steps of {1 / info.fps:g} s"
        )
    if not np.isfinite(timestamps).all():
        raise DataError(f"{shown(root)}[timestamp]: NaN or infinity; expected seconds from the start of the episode")
    # Counted from the step where the two agree: a timestamp is stored in 32 bits
    step = np.arange(info.steps) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    regular = np.abs(timestamps - step / info.fps) < 1e-3 / info.fps + 1e-6 * step / info.fps
    seconds = np.repeat(begin, lengths) + np.where(regular, step / info.fps, timestamps.astype(np.float64))
    return VideoPictures(tuple(files), np.repeat(np.array(places), lengths), seconds, info.fps, (height, width))


def _tasks(root: Path) -> tuple[str, ...]:
    """What was to be done, by number. The texts are the index of a pandas table, a column of no certain name."""
    path = root / "meta" / "tasks.parquet"
    table = _parquet(path, None, "the list of tasks", MAX_METADATA)
    texts = [key for key in table.column_names if str(table.schema.field(key).type) in ("string", "large_string")]
    if "task_index" not in table.column_names or not texts:
        raise DataError(f"{shown(path)}: has columns {shown(str(table.column_names))}; expected task_index and a text")
    numbers = _column(table, "task_index", (), path)
    words = table.column("task" if "task" in texts else texts[0]).to_pylist()
    if sorted(numbers.tolist()) != list(range(len(numbers))) or None in words:
        raise DataError(f"{shown(path)}: tasks are not numbered from 0 to {len(numbers) - 1}, each with a text")
    return tuple(words[place] for place in np.argsort(numbers))
