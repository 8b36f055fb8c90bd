"""Writes demonstrations as a LeRobot dataset of format 3.0, which `lerobot` and LeRobot read."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.errors import DataError, shown
from sfumato.data.video import VideoWriter
from sfumato.errors import needed
from sfumato.fields.policy.demonstrations.episodes import ACTION, OBSERVATION, Demonstrations, Frames, is_picture
from sfumato.fields.policy.demonstrations.lerobot import DATA_PATH, EPISODES_PATH, VERSION, VIDEO_PATH

FILES_PER_CHUNK = 1000
_OWN = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass
class _Place:
    """The numbered file that is being filled."""

    chunk: int = 0
    file: int = 0

    def next(self) -> None:
        self.file += 1
        if self.file == FILES_PER_CHUNK:
            self.chunk, self.file = self.chunk + 1, 0

    def of(self, template: str, key: str = "") -> str:
        return template.format(chunk_index=self.chunk, file_index=self.file, video_key=key)


@dataclass
class _Moments:
    """Least, greatest, mean and spread of rows, episode by episode, and of all episodes."""

    episodes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, rows: np.ndarray, axes: tuple[int, ...], unit: float) -> None:
        values = rows.astype(np.float64) / unit
        keep = len(axes) > 1  # LeRobot keeps the axes of pictures, (channels, 1, 1)
        self.episodes.append(
            {
                "min": values.min(axis=axes, keepdims=keep),
                "max": values.max(axis=axes, keepdims=keep),
                "mean": values.mean(axis=axes, keepdims=keep),
                "std": values.std(axis=axes, keepdims=keep),
                "count": np.array([len(rows)]),
            }
        )
        if keep:
            self.episodes[-1] |= {key: self.episodes[-1][key][0] for key in ("min", "max", "mean", "std")}

    def whole(self) -> dict[str, Any]:
        part = {key: np.stack([episode[key] for episode in self.episodes]) for key in self.episodes[0]}
        weight = part["count"].reshape(-1, *([1] * (part["mean"].ndim - 1))) / part["count"].sum()
        mean = (weight * part["mean"]).sum(axis=0)
        spread = np.sqrt((weight * (part["std"] ** 2 + (part["mean"] - mean) ** 2)).sum(axis=0))
        low, high = part["min"].min(axis=0), part["max"].max(axis=0)
        return {"min": low, "max": high, "mean": mean, "std": spread, "count": part["count"].sum(axis=0)}


def save_lerobot(
    demonstrations: Demonstrations,
    root: str | os.PathLike[str],
    *,
    robot_type: str | None = None,
    quality: int = 18,
    data_mb: float = 100,
    video_mb: float = 200,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a new LeRobot dataset: state vectors and actions exactly, pictures as video of `quality` (0 best, 51 worst).

    A file is closed when it has grown beyond `data_mb` or `video_mb` megabytes. Without tasks there is one, the empty
    text. `progress(done, total)` is called after each episode. The folder appears only when it is complete.
    Raises DataError when it exists already, when the steps per second are not known or a name can't be a LeRobot one,
    and when it can't be written; ValueError for another quality.
    """
    root, name = Path(root), shown(demonstrations.source)
    if not 0 <= quality <= 51:
        raise ValueError(f"a video quality of {quality}; expected 0 (best) to 51 (worst)")
    if root.exists():
        raise DataError(f"{shown(root)}: exists already; give the name of a new folder")
    if demonstrations.fps is None:
        raise DataError(f"{name}: the steps per second are not known; LeRobot needs them, as Demonstrations(fps=...)")
    for key in demonstrations.observations:
        if not key or "/" in key or not key.isprintable():
            raise DataError(f"{name}: the observation {shown(key)!r} can't be stored; a name has no / in it")
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _Writer(demonstrations, partial, robot_type, quality, data_mb, video_mb).write(progress)
        os.replace(partial, root)
    except OSError as error:
        raise DataError(f"{shown(root)}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Writer:
    def __init__(
        self, source: Demonstrations, root: Path, robot: str | None, quality: int, data_mb: float, video_mb: float
    ) -> None:
        self.source, self.root, self.robot, self.quality = source, root, robot, quality
        self.data_mb, self.video_mb = data_mb, video_mb
        self.fps = float(source.fps or 0)
        columns = {key if key == OBSERVATION else f"{OBSERVATION}.{key}": x for key, x in source.observations.items()}
        self.videos: dict[str, Frames] = {key: x for key, x in columns.items() if is_picture(x)}
        self.numbers: dict[str, Frames] = {key: x for key, x in columns.items() if not is_picture(x)}
        self.numbers[ACTION] = source.actions
        self.moments = {key: _Moments() for key in (*self.numbers, *self.videos, *_OWN)}
        self.episodes: list[dict[str, Any]] = []

    def write(self, progress: Callable[[int, int], None] | None) -> None:
        self.episodes = [
            {
                "episode_index": number,
                "tasks": self._tasks_of(number),
                "length": int(self.source.lengths[number]),
                "dataset_from_index": int(self.source.starts[number]),
                "dataset_to_index": int(self.source.ends[number]),
            }
            for number in range(self.source.episodes)
        ]
        passes = 1 + len(self.videos)
        total, done = passes * self.source.episodes, 0

        def tick() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done // passes, total // passes)

        self._write_data(tick)
        formats = {key: self._write_video(key, tick) for key in self.videos}
        self._write_meta(formats)

    def _tasks_of(self, number: int) -> list[str]:
        if self.source.task is None:
            return [""]
        return [self.source.tasks[place] for place in np.unique(self.source.task[self.source.episode(number)])]

    def _write_data(self, tick: Callable[[], None]) -> None:
        parquet, place, writer, size = needed("pyarrow.parquet"), _Place(), None, 0.0
        try:
            for number, episode in enumerate(self.episodes):
                if writer is not None and size >= self.data_mb * 2**20:
                    writer.close()
                    writer, size = None, 0.0
                    place.next()
                table = self._table(number)
                if writer is None:
                    path = self.root / place.of(DATA_PATH)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = parquet.ParquetWriter(path, table.schema, compression="snappy")
                writer.write_table(table)  # one row group per episode, as LeRobot does
                size += table.nbytes
                episode |= {"data/chunk_index": place.chunk, "data/file_index": place.file}
                tick()
        finally:
            if writer is not None:
                writer.close()

    def _table(self, number: int) -> Any:
        arrow, span = needed("pyarrow"), self.source.episode(number)
        length = span.stop - span.start
        task = np.zeros(length, dtype=np.int64) if self.source.task is None else self.source.task[span]
        own = {
            "timestamp": (np.arange(length) / self.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(span.start, span.stop),
            "task_index": task,
        }
        columns = {}
        for key, frames in {**self.numbers, **own}.items():
            rows = np.ascontiguousarray(frames[span] if key in self.numbers else frames)
            rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
            self.moments[key].add(rows if rows.ndim > 1 else rows[:, None], (0,), 1)
            shape = rows.shape[1:] if rows.shape[1:] != (1,) else ()
            column = arrow.array(rows.reshape(-1))
            for side in reversed(shape):
                column = arrow.FixedSizeListArray.from_arrays(column, side)
            columns[key] = column
        return arrow.table(columns)

    def _write_video(self, key: str, tick: Callable[[], None]) -> dict[str, Any]:
        frames, place, writer = self.videos[key], _Place(), None
        last = tuple(frames.shape)[-1] in (1, 3)
        height, width = tuple(frames.shape)[1:3] if last else tuple(frames.shape)[2:4]
        try:
            for number, episode in enumerate(self.episodes):
                if writer is not None and writer.bytes >= self.video_mb * 2**20:
                    writer.close()
                    writer = None
                    place.next()
                if writer is None:
                    writer = VideoWriter(
                        self.root / place.of(VIDEO_PATH, key), self.fps, (int(height), int(width)), self.quality
                    )
                pictures = np.asarray(frames[self.source.episode(number)])
                pictures = pictures if last else np.moveaxis(pictures, 1, -1)
                pictures = np.broadcast_to(pictures, (*pictures.shape[:-1], 3))
                self.moments[key].add(np.moveaxis(pictures, -1, 1), (0, 2, 3), 255)
                begin = writer.count / self.fps
                for picture in pictures:
                    writer.add(picture)
                episode |= {
                    f"videos/{key}/chunk_index": place.chunk,
                    f"videos/{key}/file_index": place.file,
                    f"videos/{key}/from_timestamp": begin,
                    f"videos/{key}/to_timestamp": writer.count / self.fps,
                }
                tick()
            assert writer is not None
            pix_fmt = writer.pix_fmt
        finally:
            if writer is not None:
                writer.close()
        return {
            "dtype": "video",
            "shape": [int(height), int(width), 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": int(height),
                "video.width": int(width),
                "video.codec": "h264",
                "video.pix_fmt": pix_fmt,
                "video.is_depth_map": False,
                "video.fps": self._rate(),
                "video.channels": 3,
                "has_audio": False,
            },
        }

    def _rate(self) -> float | int:
        return int(self.fps) if self.fps == math.floor(self.fps) else self.fps

    def _write_meta(self, videos: dict[str, Any]) -> None:
        arrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
        meta, place = self.root / "meta", _Place()
        for number, episode in enumerate(self.episodes):
            episode |= {"meta/episodes/chunk_index": place.chunk, "meta/episodes/file_index": place.file}
            for key, moments in self.moments.items():
                episode |= {f"stats/{key}/{what}": v.tolist() for what, v in moments.episodes[number].items()}
        path = self.root / place.of(EPISODES_PATH)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(self.episodes), path)

        tasks = list(self.source.tasks) if self.source.task is not None else [""]
        table = arrow.table({"task_index": np.arange(len(tasks)), "task": arrow.array(tasks, arrow.string())})
        # LeRobot reads this with pandas, which must know that the text is the index
        column = {
            "name": "task",
            "field_name": "task",
            "pandas_type": "unicode",
            "numpy_type": "object",
            "metadata": None,
        }
        number_column = column | {
            "name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",
        }  # fmt: skip
        pandas = {"index_columns": ["task"], "column_indexes": [], "columns": [number_column, column]}
        parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), meta / "tasks.parquet")

        stats = {
            key: {what: values.tolist() for what, values in moments.whole().items()}
            for key, moments in self.moments.items()
        }
        own = {key: {"dtype": kind, "shape": [1], "names": None} for key, kind in _OWN.items()}
        numbers = {
            key: {"dtype": str(np.dtype(x.dtype).newbyteorder("=")), "shape": list(x.shape[1:]) or [1], "names": None}
            for key, x in self.numbers.items()
        }
        info = {
            "codebase_version": VERSION,
            "robot_type": self.robot,
            "total_episodes": self.source.episodes,
            "total_frames": self.source.steps,
            "total_tasks": len(tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": math.ceil(self.data_mb),
            "video_files_size_in_mb": math.ceil(self.video_mb),
            "fps": self._rate(),
            "splits": {"train": f"0:{self.source.episodes}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if videos else None,
            "features": {**numbers, **videos, **own},
        }
        for name, content in (("info.json", info), ("stats.json", stats)):
            (meta / name).write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
