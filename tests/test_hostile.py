"""Files made by somebody who means harm: code, paths that lead out, sizes that lie. (Damage by chance: `test_fuzz.py`.)"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import DataError, open_array
from sfumato.errors import Mendable
from sfumato.jobs.making import made
from sfumato.training import checkpoint
from tests.jobs.small import sfumato
from tests.runs.make import HERE, copied


def array(values: object = ((1.0, 2.0), (3.0, 4.0))) -> bytes:
    """The bytes of a .npy."""
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def tensors(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# ---- code (X1) -----------------------------------------------------------------------------------------------------------


class Trap:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


PLACES = {
    "weights": ("run/model.safetensors", "sample"), "configuration": ("run/config.yaml", "sample"),
    "facts": ("run/data.json", "sample"), "walk": ("run/grid.json", "sample"), "split": ("run/cache/split.npz", "resume"),
    "names": ("run/cache/names.json", "resume"), "data": ("data/vectors.npy", "train"), "options": ("options.yaml", "config"),
    "inception": ("a.pth", "inception"), "like": ("a.png", "like"), "network": ("a.onnx", "features"),
    "table": ("a.csv", "tables"), "parquet": ("a.parquet", "tables"), "text": ("a.jsonl", "text"),
    "episodes": ("a.npz", "policy"), "store": ("a.zip", "policy"), "vectors": ("v.npz", "vectors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["pickle", "array of objects", "tag"])
@pytest.mark.parametrize("what", PLACES)
def test_code_in_any_file_is_not_run(
    what: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The verb refuses the file in a line, and the canary that its code would make is not there."""
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    copied(HERE / "a3fdda3" / "vectors", tmp_path / "run")
    copied(HERE / "a3fdda3" / "data", tmp_path / "data")
    objects = io.BytesIO()
    np.save(objects, np.array([Trap(canary), Trap(canary)], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    np.savez(packed, **{name: np.array([Trap(canary)], dtype=object) for name in ("x", "train", "action", "vectors")})
    place, verb = PLACES[what]
    trap = {"pickle": pickle.dumps(Trap(canary)), "tag": f"!!python/object/apply:os.mkdir ['{canary}']\n".encode(),
            "array of objects": packed.getvalue() if place.endswith(("npz", "zip")) else objects.getvalue()}[kind]  # fmt: skip
    (tmp_path / place).write_bytes(trap)
    words = {
        "sample": ["sample", "run", "-n", 1, "--out", "s"], "resume": ["resume", "run", "--steps", 70],
        "train": ["train", place, "--out", "new"], "config": ["train", "data/labelled.npz", "--config", place, "--out", "new"],
        "inception": ["evaluate", "run", "--inception", place], "like": ["sample", "run", "--like", place, "--out", "s"],
        "features": ["evaluate", "run", "--features", place],
        "vectors": ["train", "data/labelled.npz", "--vectors", place, "--out", "new"],
    }.get(verb, ["train", verb, place, "--out", "new"])  # fmt: skip
    assert sfumato(*words) == 1
    assert not canary.exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sfumato: ")
    pickle.loads(pickle.dumps(Trap(canary)))
    assert canary.exists()  # the trap works


# ---- paths that lead out (X3) --------------------------------------------------------------------------------------------

OUT = ("../evil", "../../evil", "/tmp/sfumato-evil", "a/../../evil", "..\\evil", "C:\\evil")


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", OUT)
def test_members_of_archives_are_written_nowhere(name: str, tmp_path: Path):
    """Arrays and recordings are read where they are; a name that leads out is a name, or is refused."""
    from sfumato.fields.policy.demonstrations.replay import open_episodes, store_pictures

    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    with zipfile.ZipFile(inside / "a.npz", "w") as archive:
        archive.writestr(f"{name}.npy", array())
    with zipfile.ZipFile(inside / "b.npz", "w") as archive:
        archive.writestr("action.npy", array(np.zeros((4, 2), np.float32)))
        archive.writestr("episode_ends.npy", array(np.array([4])))
        archive.writestr(f"observation.{name}.npy", array(np.zeros((4, 8, 8, 3), np.uint8)))
    before = everything(tmp_path)
    assert open_array(inside / "a.npz").x.shape == (2, 2)
    found = open_episodes(inside / "b.npz")
    assert list(found.observations) == [name]
    store_pictures(found, inside / "cache")  # they are in memory: there is nothing to unpack
    assert everything(tmp_path) == before
    assert not Path("/tmp/sfumato-evil").exists()


@pytest.mark.parametrize("name", ["../evil", "/tmp/sfumato-evil", "a/../../evil"])
def test_pictures_with_names_that_lead_out_are_not_unpacked(name: str, tmp_path: Path):
    from sfumato.fields.policy.demonstrations.episodes import Demonstrations
    from sfumato.fields.policy.demonstrations.replay import store_pictures

    class Lazy:
        shape, dtype = (4, 8, 8, 3), np.dtype(np.uint8)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: object) -> np.ndarray:
            return np.zeros(self.shape, np.uint8)[index]

    found = Demonstrations(np.zeros((4, 2), np.float32), np.array([4]), {name: Lazy()}, source="a.zarr")
    with pytest.raises(DataError, match=r"a\.zarr: the name .* can't be the name of a file"):
        store_pictures(found, tmp_path / "cache")
    assert everything(tmp_path) <= {"cache"}


def test_a_link_in_an_archive_is_bytes_and_leads_nowhere(tmp_path: Path):
    secret = tmp_path / "secret.npy"
    secret.write_bytes(array())
    link = zipfile.ZipInfo("x.npy")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(link, str(secret))
    with pytest.raises(DataError, match=r"a\.npz"):
        open_array(tmp_path / "a.npz")


def test_a_checkpoint_names_files_of_its_own_alone(tmp_path: Path):
    """A manifest whose checksum is right, of a file elsewhere."""
    import torch

    path = checkpoint.save(tmp_path / "checkpoints", 1, {"network": {"a": torch.ones(2)}}, {})
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((path / "network.safetensors").read_bytes())
    body = json.loads((path / "manifest.json").read_text())
    body.pop("checksum")
    for name in ("../../outside.safetensors", str(outside)):
        body["files"] = {name: {"size": outside.stat().st_size, "sha256": checkpoint._digest(outside)}}
        (path / "manifest.json").write_text(checkpoint._manifest(body))
        with pytest.raises(checkpoint.CheckpointError, match="manifest"):
            checkpoint.load(path)


# ---- sizes that lie (X3, D2) ---------------------------------------------------------------------------------------------

TEN_GB = 10 << 30
LIES: dict[str, bytes] = {
    "header of 10 GB": struct.pack("<Q", TEN_GB) + b"{",
    "tensor of 10 GB": tensors({"a": {"dtype": "F32", "shape": [TEN_GB // 4], "data_offsets": [0, TEN_GB]}}, bytes(64)),
    "shape of 10 GB": tensors({"a": {"dtype": "F32", "shape": [TEN_GB // 4], "data_offsets": [0, 64]}}, bytes(64)),
    "shape that wraps": tensors({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
    "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
}

READ = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from sfumato.errors import Mendable
from sfumato.metrics.weights import fill
from sfumato.training import checkpoint
from sfumato.training.ema import read_snapshots
folder = Path(sys.argv[1])
save_file({"a": torch.ones(4)}, folder / "small.safetensors")
checkpoint.read_weights(folder / "small.safetensors")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(folder.glob("lie-*")):
    (folder / "snapshots").mkdir(exist_ok=True)
    (folder / "snapshots" / "step-00000001.safetensors").write_bytes(path.read_bytes())
    for read in (lambda: checkpoint.read_weights(path), lambda: read_snapshots(folder / "snapshots"),
                 lambda: fill(torch.nn.Linear(2, 2), path, path.read_bytes())):
        try:
            read()
            print("READ", path)
        except Mendable as error:
            assert "safetensors" in str(error) or "snapshot" in str(error), error
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_tensors_that_are_not_there_take_no_memory(tmp_path: Path):
    for i, data in enumerate(LIES.values()):
        (tmp_path / f"lie-{i}.safetensors").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "READ" not in done.stdout
    assert int(done.stdout) < 50


@pytest.mark.parametrize(
    "change", [{"width": 10**9}, {"depth": 10**9}, {"dim": 2**40}, {"classes": 2**31}, {"width": 64}]
)
def test_settings_that_the_weights_do_not_bear_out_build_no_network(change: dict[str, int], tmp_path: Path):
    """A weights file with a right checksum that asks for a network of a terabyte."""
    from sfumato.jobs.model import load

    run = copied(HERE / "a3fdda3" / "vectors", tmp_path / "run")
    weights, about = checkpoint.read_weights(run / "model.safetensors")
    settings = {**json.loads(about["network"]), **change}
    checkpoint.save_weights(run / "model.safetensors", weights, {**about, "network": json.dumps(settings)})
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read"):
        load(run)


def test_a_picture_that_says_how_it_was_made_is_bounded(tmp_path: Path):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    def asked(text: str, zipped: bool = False) -> Callable[[], object]:
        info = PngInfo()
        info.add_itxt("sfumato", text, zip=zipped)
        Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
        return lambda: made(tmp_path / "a.png")

    for text in (
        "[" * 100_000,
        '{"run": 1}',
        "[]",
        '{"seed": 1e999}',
        '{"run": "r", "weights": "", "seed": 0, "number": 1e9}',
    ):
        with pytest.raises(Mendable, match=r"a\.png"):
            asked(text)()
    with pytest.raises(Mendable, match=r"a\.png"):
        asked("x" * 80_000_000, zipped=True)()  # 80 kB in the file
