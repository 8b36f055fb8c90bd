"""Recordings of robots, whole and as the command reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.broken import encoded
from tests.fuzz.kind import only, touched

# ---- demonstrations -----------------------------------------------------------------------------------------------------


def demonstrations(eye: bool = True) -> Any:
    from sfumato.fields.policy.demonstrations.episodes import Demonstrations

    rng, lengths = np.random.default_rng(0), [3, 4, 2]
    seen = {"state": rng.normal(size=(9, 3)).astype(np.float32)}
    if eye:
        seen["eye"] = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    return Demonstrations(
        actions=rng.normal(size=(9, 2)).astype(np.float32), ends=np.cumsum(lengths), observations=seen, fps=10.0,
        tasks=("push", "grüße"), task=np.repeat([1, 0, 1], lengths),
    )  # fmt: skip


def make_episodes(place: Path) -> None:
    from sfumato.fields.policy.demonstrations.replay import save_episodes

    save_episodes(demonstrations(), place / "a.npz")


def make_zarr(version: int, zipped: bool = False) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        import zarr

        made, path = demonstrations(), place / ("store.zip" if zipped else "store.zarr")
        target = zarr.storage.ZipStore(path, mode="w") if zipped else zarr.storage.LocalStore(path)
        arrays = {"data/action": made.actions, "meta/episode_ends": made.ends}
        arrays |= {f"data/{key}": np.asarray(x[:]) for key, x in made.observations.items()}
        zarr.create_group(target, zarr_format=version)
        for key, values in arrays.items():
            zarr.create_array(target, name=key, data=values, chunks=(4, *values.shape[1:]), zarr_format=version)
        target.close()

    return make


def make_lerobot(place: Path) -> None:
    from sfumato.fields.policy.demonstrations.lerobot_writer import save_lerobot

    save_lerobot(demonstrations(), place / "set")


def make_lerobot_pictures(place: Path) -> None:
    """The same, with the pictures inside the data file and not in a film."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    make_lerobot(place)
    name, file = "observation.eye", place / "set" / "data" / "chunk-000" / "file-000.parquet"
    cells = [{"bytes": encoded(Image.fromarray(x), "PNG"), "path": None} for x in demonstrations().observations["eye"]]
    pq.write_table(pq.read_table(file).append_column(name, pa.array(cells)), file)
    info = place / "set" / "meta" / "info.json"
    stored = json.loads(info.read_text())
    stored["features"][name]["dtype"] = "image"
    info.write_text(json.dumps(stored))
    shutil.rmtree(place / "set" / "videos")


def read_demonstrations(place: Path) -> None:
    """Open, measure, cut into windows and unpack, as `sfumato train policy`."""
    from sfumato.fields.policy.demonstrations.episodes import Ranges, Windows, split_episodes
    from sfumato.fields.policy.demonstrations.lerobot import open_demonstrations
    from sfumato.fields.policy.demonstrations.replay import store_pictures

    made = open_demonstrations(only(place))
    touched(made.observations.values())
    ranges = Ranges.of(made)
    split_episodes(made, 0.3)
    made = store_pictures(made, place / "cache")
    windows = Windows(made, 2, 8, 4, ranges)
    windows.batch(np.array([0]))
