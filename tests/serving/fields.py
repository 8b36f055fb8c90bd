"""A run of every field, trained a few steps on the small data of the field's own tests, and a query that each is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli import main

QUICK = ["--previews", "0", "--threads", "1"]


@dataclass(frozen=True)
class Served:
    """How a run of a field is made, and what it is asked for.

    make: data and options, in a folder. needs: packages of its extra. n, query, walk: of a request; ``flags`` says the query
    to the command. suffix: of the files that are compared. view: whether the field draws one for the page.
    """

    make: Callable[[Path], list[str]]
    needs: tuple[str, ...] = ()
    n: int = 2
    query: Mapping[str, Any] = field(default_factory=dict)
    walk: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ".png"
    view: bool = True

    def run(self, name: str, folder: Path) -> Path:
        """The run, in the folder."""
        for package in self.needs:
            pytest.importorskip(package)
        out = folder / f"run-{name}"
        words = ["train", name, *self.make(folder), *QUICK, "--out", str(out)]
        assert main([word for word in words if word]) == 0
        return out

    def flags(self) -> list[str]:
        """The query and the walk as words of the command."""
        words = []
        for key, value in {**self.query, **self.walk}.items():
            each = value if isinstance(value, list) else [value]
            words += [f"--{key.replace('_', '-')}", *map(str, each)]
        return words


def autoencoder(folder: Path) -> list[str]:
    from tests.fields.autoencoder.small import TRAIN, pictures

    return [str(pictures(folder / "coded", 12)), *TRAIN, "--steps", "2"]


def captions(folder: Path) -> list[str]:
    from tests.fields.captions.squares import folder as squares

    data = squares(folder / "squares", 32)
    return [str(data), "--vocab", "280", "--side", "16", "--held-out", "0.25", "--network.width", "32", "--network.depth", "1",
            "--network.text-depth", "1", "--batch", "8", "--precision", "fp32", "--steps", "2"]  # fmt: skip


def docking(folder: Path) -> list[str]:
    from tests.fields.docking import worlds

    return [str(worlds.folder(folder / "site")), *worlds.TRAIN, "--steps", "2", "--held-out", "0.3"]


def failure(folder: Path) -> list[str]:
    return ["toy2d", "--calls", "2000", "--steps", "4", "--batch", "64", "--campaign.walk", "4", "--campaign.samples", "10",
            "--network.width", "16", "--network.depth", "1"]  # fmt: skip


def images(folder: Path) -> list[str]:
    from tests.jobs.small import SMALL, write_pictures

    data = write_pictures(folder / "photos", classes=3)
    return [str(data), "--side", "8", "--labels", *SMALL, "--steps", "2"]


def policy(folder: Path) -> list[str]:
    from sfumato.fields.policy.demonstrations.replay import save_episodes
    from tests.fields.policy.reach import QUICK as SHORT
    from tests.fields.policy.reach import reaching

    save_episodes(reaching(tasks=True), folder / "reach.npz")
    return [str(folder / "reach.npz"), *SHORT, "--steps", "2"]


def protein(folder: Path) -> list[str]:
    from tests.fields.protein.folds import family, saved

    small = [f"--network.{name}={value}" for name, value in {"width": 16, "depth": 1, "heads": 2, "trunk": 1}.items()]
    return [str(saved(folder / "chains.npz", family(12))), *small, "--batch", "2", "--steps", "2"]


def series(folder: Path) -> list[str]:
    from tests.fields.series import worlds

    values = worlds.walks(6, 150)
    data = worlds.wide(folder / "walks.csv", worlds.days(150), {f"w{i}": row for i, row in enumerate(values)})
    return [str(data), *worlds.TRAIN, "--horizon", "8", "--past", "24", "--season", "1", "--steps", "1"]


def tables(folder: Path) -> list[str]:
    from sfumato.fields.tables.writing import write_table
    from tests.fields.tables.tables import mixed

    return [str(write_table(mixed(200), folder / "people.csv")), "--steps", "5", "--batch", "32"]


def text(folder: Path) -> list[str]:
    for number in range(24):
        (folder / "garden").mkdir(exist_ok=True)
        lines = "".join(f"plant_{(number + j) % 6} = {(number + j) % 6}\n" for j in range(12 + number % 5))
        (folder / "garden" / f"{number:02d}.py").write_text(lines, encoding="utf-8")
    return [str(folder / "garden"), "--vocab", "280", "--window", "32", "--held-out", "0.2", "--network.width", "32",
            "--network.depth", "1", "--batch", "8", "--precision", "fp32", "--steps", "2"]  # fmt: skip


def video(folder: Path) -> list[str]:
    import numpy as np

    from tests.fields.video.made import squares

    x, texts = squares(24, 6)
    np.savez(folder / "squares.npz", x=x, labels=np.array(texts))
    return [str(folder / "squares.npz"), "--vocab", "280", "--side", "16", "--frames", "6", "--held-out", "0.2",
            "--network.width", "32", "--network.depth", "2", "--network.text-depth", "1", "--batch", "8",
            "--precision", "fp32", "--steps", "2"]  # fmt: skip


def weather(folder: Path) -> list[str]:
    from tests.fields.weather import worlds

    data = worlds.netcdf(folder / "fields.nc", worlds.fields(120), worlds.times(120))
    return [str(data), *worlds.TRAIN, "--steps", "1", "--held-out", "0.2"]


FIELDS: dict[str, Served] = {
    "autoencoder": Served(autoencoder),
    "captions": Served(captions, ("tokenizers",), query={"prompt": "a red square"}, walk={"steps": 3, "w": 2.0}),
    "docking": Served(docking, ("rdkit",), query={"ligand": ["Cc1ccncc1"]}, walk={"steps": 3}, suffix=".sdf"),
    "failure": Served(failure, n=5, walk={"steps": 3}, suffix=".csv"),
    "images": Served(images, query={"label": "green"}, walk={"steps": 3, "w": 2.0}),
    "policy": Served(policy, query={"label": "red"}, walk={"steps": 3}, suffix=".npy"),
    "protein": Served(protein, ("gemmi",), walk={"steps": 3}, suffix=".cif"),
    "series": Served(series, ("pyarrow",), query={"series": ["w2"]}, walk={"steps": 3}, suffix=".csv"),
    "tables": Served(tables, n=5, walk={"steps": 3}, suffix=".csv"),
    "text": Served(text, ("tokenizers",), walk={"steps": 3}, suffix=".py"),
    "video": Served(
        video, ("av", "tokenizers"), query={"prompt": "a red square", "frames": 9}, walk={"steps": 3}, suffix=".mp4"
    ),
    "weather": Served(weather, ("h5netcdf",), query={"leads": 2}, walk={"steps": 2}, suffix=".nc"),
}  # fmt: skip
