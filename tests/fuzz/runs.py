"""Options, runs and what they keep, networks: whole, and as the command reads them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz.kind import changed

RUNS = Path(__file__).parents[1] / "runs" / "a3fdda3"

# ---- options and runs ---------------------------------------------------------------------------------------------------

OPTIONS = """images:
  data: photos
  side: 16
  labels: true
  held_out: 0.1
  network: {kind: dit, width: 32, depth: 2}
  method:
    process: gaussian
    schedule: linear
training:
  steps: 100
  batch: 8
  ema: [0.1, 0.05]
  optim: {lr: 3e-4}
  precision: auto
"""


def make_options(place: Path) -> None:
    (place / "options.yaml").write_text(OPTIONS)


def read_options(place: Path) -> None:
    from sfumato.cli import _with_config

    _with_config(["train", "--config", str(place / "options.yaml")], None)


def make_run(name: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        shutil.copytree(RUNS / name, place / "run")
        shutil.copytree(RUNS / "data", place / "data")

    return make


def read_run(place: Path) -> None:
    """Load and draw, as `sfumato sample`."""
    from sfumato.jobs.model import load
    from sfumato.jobs.walk import Drawing, Walk

    model = load(place / "run", Walk(steps=2), Drawing())
    model.sample(2, seed=0)


def read_prepared(place: Path) -> None:
    """Open the data, as `sfumato resume`."""
    from sfumato.jobs.config import read_config
    from sfumato.training.run import Run

    run = Run(place / "run")
    here = os.getcwd()
    os.chdir(place)
    try:
        data = read_config(run).recipe.open(run)
        for part in (data.train, data.held_out):
            part.batch(np.arange(min(2, len(part)))), part.name(0)
    finally:
        os.chdir(here)


def read_snapshots(place: Path) -> None:
    from sfumato.training.ema import read_snapshots as read
    from sfumato.training.ema import reconstruct

    reconstruct(read(place / "run" / "snapshots"), 0.12)


def read_log(place: Path) -> None:
    from sfumato.jobs.page import write_page
    from sfumato.training.run import Run

    run = Run(place / "run")
    run.records()
    write_page(run)


def make_log(place: Path) -> None:
    make_run("vectors")(place)
    (place / "run" / "samples").mkdir(exist_ok=True)
    (place / "run" / "metrics.json").write_text(json.dumps({"table": "a  b\n1  2", "remarks": ["good"]}))


def make_samples(place: Path) -> None:
    """A run, and two pictures drawn of it."""
    from sfumato.jobs.model import load
    from sfumato.jobs.sample import sample
    from sfumato.jobs.walk import Walk

    make_run("classes")(place)
    model = load(place / "run", Walk(steps=2))
    sample(model, 2, model.recipe.Ask(), place / "drawn")


def read_samples(place: Path) -> None:
    """One of the pictures drawn again, as `sfumato sample --like`."""
    from sfumato.jobs.outputs import Place
    from sfumato.jobs.sample import again

    file = changed(place)
    again(place / "run", file if file.suffix == ".png" else place / "drawn" / "0001.png", out=place / "again")
    Place(place / "drawn", False).check()


def sealed_weights(file: Path, data: bytes) -> bytes:
    """With the checksum that the content, damaged as it is, should have; the bytes as they are where it has no tensors."""
    from safetensors.torch import load, save

    from sfumato.training.sums import summed

    try:
        tensors = load(data)
        (length,) = struct.unpack("<Q", data[:8])
        about = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        about.pop("sha256", None)
        return bytes(save(tensors, summed(tensors, {str(k): str(v) for k, v in about.items()})))
    except Exception:  # a file that no reader takes needs no checksum
        return data


def sealed_checkpoint(file: Path, data: bytes) -> bytes:
    """The same of a file of a checkpoint, by way of its manifest."""
    from sfumato.training.checkpoint import MANIFEST, _manifest

    manifest = file.with_name(MANIFEST)
    body = json.loads(manifest.read_text())
    body.pop("checksum")
    body["files"][file.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.unlink()
    manifest.write_text(_manifest(body))
    return data


def make_sealed(name: str) -> Callable[[Path], None]:
    """A run whose weights have a checksum, as they have had since."""

    def make(place: Path) -> None:
        make_run(name)(place)
        for file in (place / "run").glob("*.safetensors"):
            file.write_bytes(sealed_weights(file, file.read_bytes()))

    return make


def read_resumed(place: Path) -> None:
    """Resume at the step that it stopped at, as `sfumato resume RUN --steps 11`: everything is put back, nothing learned."""
    from sfumato.cli import _parse

    (place / "run" / "samples").mkdir(exist_ok=True)
    here = os.getcwd()
    os.chdir(place)
    try:
        _parse(["resume", str(place / "run"), "--steps", "11"])()
    finally:
        os.chdir(here)


def make_compared(place: Path) -> None:
    """Samples as files of one item each, beside the data of a run."""
    make_run("vectors")(place)
    (place / "drawn").mkdir()
    for i, row in enumerate(np.random.default_rng(0).normal(3, 2, (3, 5)).astype(np.float32)):
        np.save(place / "drawn" / f"{i:04d}.npy", row)


def read_compared(place: Path) -> None:
    """As `sfumato compare` and as `sfumato evaluate --samples`."""
    from sfumato.fields.images.facts import PictureFacts
    from sfumato.fields.images.reading import read_pictures
    from sfumato.jobs.compare import _read
    from sfumato.training.run import Run

    _read(place / "drawn", 8, 0, None)
    read_pictures(place / "drawn", PictureFacts.read(Run(place / "run")), 0.01, "vectors")


# ---- measuring ----------------------------------------------------------------------------------------------------------


def make_onnx(place: Path) -> None:
    from tests.metrics.test_onnx import graph

    graph(place / "a.onnx")


def read_onnx(place: Path) -> None:
    import torch

    from sfumato.metrics.onnx import load

    load(place / "a.onnx")(torch.zeros(2, 3, 8, 8))


def make_weights(place: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict(), place / "a.safetensors")


def read_weights(place: Path) -> None:
    import torch

    from sfumato.metrics.weights import fill, verified

    file = place / "a.safetensors"
    content, _ = verified(file, hashlib.sha256(file.read_bytes()).hexdigest(), 1 << 20, "again")
    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    fill(network, file, content)


def make_couples(place: Path) -> None:
    import torch

    from sfumato.adapting.reflow import Couples
    from sfumato.diffusion.exact import GaussianData

    Couples.make(place / "couples", GaussianData(torch.zeros(3), torch.ones(3)), (3,), 4, steps=2)


def read_couples(place: Path) -> None:
    from sfumato.adapting.reflow import Couples

    Couples.open(place / "couples").batch(np.array([0, 3]))
