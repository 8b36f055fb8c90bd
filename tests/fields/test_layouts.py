"""Every field's network and criterion: one loss and gradient in copies, parts and both, as in one process (law 14)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.cli import _parse
from sfumato.jobs.config import Configuration
from sfumato.jobs.find import names
from sfumato.jobs.model import task_of
from sfumato.training.objective import Task
from sfumato.training.run import Run
from sfumato.training.sharding import units
from tests.training.layouts import ONE, Layout, apart, descents, worst

pytestmark = pytest.mark.slow
LAYOUTS = [Layout(2), Layout(1, 2), Layout(1, 4), Layout(2, 2), Layout(1, 2, accumulate=2)]


def images(folder: Path) -> list[str]:
    from tests.jobs.small import write_data

    return [*write_data("classes", folder), "--network.width", "16", "--network.depth", "2"]


def unet(folder: Path) -> list[str]:
    return [*images(folder), "--network.kind", "unet", "--network.depth", "1"]


def captions(folder: Path) -> list[str]:
    from tests.fields.captions.squares import folder as squares
    from tests.fields.captions.test_job import TRAIN

    return [str(squares(folder / "squares", 32)), *TRAIN, "--network.attention", "joint"]


def docking(folder: Path) -> list[str]:
    from tests.fields.docking import worlds

    return [str(worlds.folder(folder / "site")), *worlds.TRAIN, "--held-out", "0.3"]


def policy(folder: Path) -> list[str]:
    from sfumato.fields.policy.demonstrations.replay import save_episodes
    from tests.fields.policy.reach import QUICK, reaching

    save_episodes(reaching(), folder / "reach.npz")
    return [str(folder / "reach.npz"), *QUICK]


def protein(folder: Path) -> list[str]:
    from tests.fields.protein.conftest import TRAIN
    from tests.fields.protein.folds import family, saved

    return [str(saved(folder / "chains.npz", family(20))), *TRAIN]


def series(folder: Path) -> list[str]:
    from tests.fields.series import worlds

    values = worlds.walks(20, 120)
    data = worlds.wide(folder / "walks.csv", worlds.days(120), {f"w{i}": row for i, row in enumerate(values)})
    return [str(data), *worlds.TRAIN, "--horizon", "8", "--past", "24", "--season", "1"]


def tables(folder: Path) -> list[str]:
    from tests.fields.tables.test_recipe import people

    return [str(people(folder, 200))]


def text(folder: Path) -> list[str]:
    from tests.fields.text.test_job import TRAIN
    from tests.fields.text.test_job import folder as garden

    return [str(garden(folder / "garden")), *TRAIN]


def video(folder: Path) -> list[str]:
    from tests.serving.fields import video as squares

    return squares(folder)


def weather(folder: Path) -> list[str]:
    from tests.fields.weather import worlds

    data = worlds.netcdf(folder / "fields.nc", worlds.fields(60), worlds.times(60))
    return [
        str(data),
        *worlds.TRAIN,
        "--held-out",
        "0.3",
        "--network.dropout",
        "0",
    ]  # whose numbers are each process's own


def autoencoder(folder: Path) -> list[str]:
    from tests.fields.autoencoder.small import TRAIN, pictures

    return [str(pictures(folder / "pictures", 40)), *TRAIN]


def failure(folder: Path) -> list[str]:
    return ["toy2d", "--calls", "2000", "--network.width", "32"]


DATA: dict[str, Callable[[Path], list[str]]] = {
    "images": images, "unet": unet, "captions": captions, "docking": docking, "policy": policy, "protein": protein,
    "series": series, "tables": tables, "text": text, "video": video, "weather": weather, "autoencoder": autoencoder,
    "failure": failure,
}  # fmt: skip


def task(name: str, folder: Path) -> Callable[[], Task]:
    """What a field trains on data of a few items, each time made anew."""
    field = "images" if name == "unet" else name
    folder.mkdir()
    asked = _parse(["train", field, *DATA[name](folder)])
    run = Run(folder / "run")
    run.create()
    recipe = asked.recipe.prepare(run, lambda text: None)
    data = recipe.open(run)
    config = Configuration(recipe, dataclasses.replace(asked.training, precision="fp32"))

    def made() -> Task:
        found = task_of(config, run, data)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # a fresh network's last layers are zero
            for value in found.network.parameters():
                value += 0.05 * torch.randn(value.shape, generator=generator)
        return found

    return made


def test_no_field_is_missing():
    assert set(names()) <= DATA.keys()


@pytest.mark.parametrize("name", DATA)
def test_a_field_learns_alike_in_every_layout(name: str, tmp_path: Path):
    for module in {"captions": ["tokenizers"], "text": ["tokenizers"], "video": ["av", "tokenizers"],
                   "docking": ["rdkit"], "protein": ["gemmi"],
                   "weather": ["h5netcdf"]}.get(name, ()):  # fmt: skip
        pytest.importorskip(module)
    made = task(name, tmp_path / "data")
    assert units(made().network)
    # where batches are of items of one size, each piece is such a batch: two of them are not one that is cut
    layouts = [each for each in LAYOUTS if each.accumulate == 1 or made().train.buckets is None]
    found = descents({name: made}, [ONE, *layouts], tmp_path)
    assert np.isfinite(float(found[ONE.name, name]["loss"]))
    assert float(found[ONE.name, name]["norm"]) > 1e-3
    for layout in layouts:
        off = apart(found[ONE.name, name], found[layout.name, name])
        assert worst(off, True) < 1e-6, (layout, off)
        assert worst(off, False) < 1e-5, (layout, off)
