"""Whole samples of everything that is read, and how each is read as the command would."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from tests.data.broken import encoded, interlaced, photo, png
from tests.fuzz.mutate import (
    BYTES,
    JSON,
    TEXT,
    Mutation,
    damaged,
    in_zip,
    npy_header,
    png_chunk,
    tensors_header,
)

RUNS = Path(__file__).parents[1] / "runs" / "a3fdda3"

WAYS: dict[str, tuple[Mutation, ...]] = {
    ".json": JSON, ".zarray": JSON, ".zgroup": JSON, ".zattrs": JSON,
    **dict.fromkeys((".yaml", ".csv", ".tsv", ".txt", ".py", ".jsonl", ".ppm", ".pgm", ".pbm"), TEXT),
}  # fmt: skip
INSIDE: dict[str, Mutation] = {
    ".npz": in_zip, ".zip": in_zip, ".npy": npy_header, ".png": png_chunk, ".safetensors": tensors_header,
}  # fmt: skip
WORDS = {
    ".yaml": (b"!!python/object/apply:os.system", b"&a", b"*a", b"<<: *a", b"null", b"true", b"[]", b"{}", b"2001-01-01",
              b"!!binary", b"? ", b"~", b"1e400", b".nan", b"0x", b"-", b": ", b"# ", b"width", b"images"),
    ".csv": (b'"a,b"', b'""', b"NA", b"1,5", b"2024-02-30", b"1e999", b";", b"|", b"0-0-0"),
    ".tsv": (b'"a\tb"', b"NA", b"31.12.9999", b"\t\t"),
    ".jsonl": (b'{"text": 1}', b"{}", b"[]", b"NaN", b'"\\ud800"', b'{"age": [1]}', b"null"),
    ".json": (b"NaN", b"null", b"-1", b'"', b"|O", b"pickle", b"object", b"__class__"),
    ".zarray": (b"|O", b"pickle", b"<f8", b"null"),
    ".npy": (b"|O",),
    ".ppm": (b"P6", b"P3", b"P7", b"65535", b"99999", b"#"),
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What is read: `make` writes a whole sample into a folder, `read` reads it as the command does.

    targets: the files of it that are damaged. weight: how often. needs: packages without which it is left out. after: what is
    done once a file is damaged, such as to make checksums right. alone: the damaged file is read without the others.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    targets: tuple[str, ...] = ("*",)
    weight: int = 1
    needs: tuple[str, ...] = ()
    after: Callable[[Path, bytes], bytes] = lambda file, data: data
    alone: bool = False

    @property
    def there(self) -> bool:
        """Whether its packages are installed."""
        return all(importlib.util.find_spec(name) for name in self.needs)

    def damaged(self, file: Path, rng: Random) -> bytes:
        """The file's content, damaged in ways that suit it."""
        data, suffix = file.read_bytes(), file.suffix or file.name
        words, inside = WORDS.get(suffix, ()), INSIDE.get(suffix)
        if inside is not None and rng.random() < 0.5:
            out = inside(data, rng, words)
        else:
            out = damaged(data, rng, WAYS.get(suffix, BYTES), words)
        return self.after(file, out)


def only(place: Path) -> Path:
    """The one file of a sample."""
    return next(path for path in sorted(place.iterdir()) if not path.name.startswith("."))


def touched(values: Iterable[Any]) -> None:
    """Look at numbers that may be mapped or decoded when asked for."""
    for value in values:
        np.asarray(value[: min(3, len(value))]).sum()


# ---- pictures and arrays ------------------------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """A small whole picture of each format and of each way that it may be packed."""
    whole, rng = photo(20), np.random.default_rng(1)
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = whole.convert("P", palette=Image.Palette.ADAPTIVE)
    clear = Image.fromarray(rng.integers(0, 256, (18, 20, 4), dtype=np.uint8))
    frames = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for _ in range(3)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    import zlib

    return {
        "a.png": encoded(whole, "PNG"), "b.png": encoded(Image.fromarray(ramp), "PNG"), "c.png": encoded(clear, "PNG"),
        "d.png": encoded(palette, "PNG", transparency=0), "e.png": encoded(whole.convert("1"), "PNG"),
        "f.png": png(65, 65, zlib.compress(interlaced(65)), interlaced=1), "g.png": encoded(frames[0], "PNG", **moving),
        "h.png": encoded(whole, "PNG", exif=exif),
        "a.jpg": encoded(whole, "JPEG"), "b.jpg": encoded(whole, "JPEG", progressive=True, exif=exif),
        "c.jpg": encoded(whole.convert("CMYK"), "JPEG"), "d.jpg": encoded(whole.convert("L"), "JPEG"),
        "a.gif": encoded(palette, "GIF"), "b.gif": encoded(frames[0], "GIF", **moving),
        "a.bmp": encoded(whole, "BMP"), "b.bmp": encoded(palette, "BMP"), "c.bmp": encoded(whole.convert("1"), "BMP"),
        "a.tif": encoded(whole, "TIFF"), "b.tif": encoded(Image.fromarray(ramp), "TIFF", compression="tiff_lzw"),
        "c.tif": encoded(Image.fromarray(rng.random((20, 20)).astype(np.float32)), "TIFF"),
        "d.tif": encoded(whole, "TIFF", compression="tiff_deflate"), "e.tif": encoded(whole, "TIFF", compression="jpeg"),
        "f.tif": encoded(whole.convert("1"), "TIFF", compression="group4"), "g.tif": encoded(frames[0], "TIFF", **moving),
        "a.webp": encoded(whole, "WEBP"), "b.webp": encoded(clear, "WEBP", lossless=True),
        "c.webp": encoded(frames[0], "WEBP", **moving),
        "a.ppm": encoded(whole, "PPM"), "b.ppm": b"P3 2 2 255\n1 2 3 4 5 6 7 8 9 10 11 12\n",
        "a.pgm": b"P5 20 20 65535\n" + ramp.astype(">u2").tobytes(), "b.pgm": b"P2 3 1 9\n1 2 9\n",
        "a.pbm": encoded(whole.convert("1"), "PPM"), "b.pbm": b"P1 3 2\n1 0 1\n0 1 0\n",
    }  # fmt: skip


def make_pictures(place: Path) -> None:
    for name, data in pictures().items():
        (place / name).write_bytes(data)


def read_picture(place: Path) -> None:
    """The one that was damaged: those that were not are links to the sample."""
    from sfumato.data import decode, fit

    fit(decode(changed(place)).pixels, 8)


def changed(place: Path) -> Path:
    """The file that is no link to a whole one."""
    files = [path for path in place.rglob("*") if path.is_file() and path.name != ".noise"]
    return next((path for path in files if path.stat().st_nlink == 1), files[0])


def make_arrays(place: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    np.save(place / "a.npy", x)
    np.save(place / "b.npy", np.asfortranarray(rng.integers(0, 255, (5, 4, 4, 3)).astype(np.uint8)))
    np.save(place / "c.npy", x > 0)
    np.savez(place / "d.npz", x=x, labels=np.arange(6) % 3)
    words = {"label": np.array(list("abcabc")), "names": np.array(list("uvwxyz"))}
    np.savez_compressed(place / "e.npz", only=x.astype(np.float64), **words)
    np.savez(place / "f.npz", x=x, vectors=rng.normal(size=(6, 2)))


def read_arrays(place: Path) -> None:
    from sfumato.data import ArrayDataset, measure, open_array
    from sfumato.data.layout import canonical, recognised
    from sfumato.jobs.foreign import items

    file = changed(place)
    found = open_array(file)
    x = canonical(found.x, recognised(found.x.shape[1:], found.x.dtype, "auto", str(file)))
    measured = measure(x, np.arange(len(x)), str(file))
    ArrayDataset(x, measured.all(), found.labels, found.names or file.name).batch(np.array([0, 1]))
    items(file)


def make_vectors(place: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 2))
    (place / "a.csv").write_text(
        "file,age,size\n" + "".join(f"{i}.png,{a:.3f},{b:.3f}\n" for i, (a, b) in enumerate(rows))
    )
    np.save(place / "b.npy", rows)
    np.savez(place / "c.npz", vectors=rows)


def read_vectors(place: Path) -> None:
    from sfumato.data.vectors import read_vectors as read

    file = changed(place)
    read(file, [f"{i}.png" for i in range(4)] if file.suffix == ".csv" else "array", 4)


# ---- tables and text ----------------------------------------------------------------------------------------------------


def make_tables(place: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [
        (f"{rng.integers(18, 90)}", "NA" if i % 9 == 0 else f"{rng.normal(100, 30):.2f}", ("red", "green, blue", "é")[i % 3],
         f"2021-{1 + i % 12:02d}-{1 + i % 28:02d}", "true" if i % 2 else "false")
        for i in range(64)
    ]  # fmt: skip
    names = ("age", "income", "colour", "day", "smokes")
    quoted = [[f'"{c}"' if "," in c else c for c in cells] for cells in lines]
    (place / "a.csv").write_text("\n".join(",".join(cells) for cells in (names, *quoted)) + "\n", encoding="utf-8")
    (place / "b.csv").write_bytes("\r\n".join(";".join(c) for c in (names, *lines)).encode("utf-16"))
    (place / "c.csv").write_bytes("\n".join(",".join(c) for c in quoted).encode("cp1252"))
    (place / "d.tsv").write_text("\n".join("\t".join(c) for c in (names, *lines)), encoding="utf-8")
    rows = [
        dict(zip(names, (int(a), float("nan") if b == "NA" else float(b), c, d, e == "true")))
        for a, b, c, d, e in lines
    ]
    (place / "e.jsonl").write_text("\n".join(json.dumps(row).replace("NaN", "null") for row in rows))
    if importlib.util.find_spec("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        typed = pa.table({**{n: [row[n] for row in rows] for n in names},
                          "word": pa.array([row["colour"] for row in rows]).dictionary_encode()})  # fmt: skip
        pq.write_table(typed, place / "f.parquet")
        pq.write_table(typed, place / "g.parquet", compression="none", use_dictionary=False, version="1.0")


def read_tables(place: Path) -> None:
    """As `sfumato train tables`, up to the network."""
    from sfumato.fields.tables.recipe import Tables
    from sfumato.training.run import Run

    run = Run(place / "run")
    run.create()
    Tables(data=changed(place)).prepare(run, lambda line: None)


def make_table_run(place: Path) -> None:
    from sfumato.fields.tables.data import Facts, parts, save_table
    from sfumato.fields.tables.reading import read_table
    from sfumato.training.run import Run

    make_tables(place)
    table = read_table(place / "a.csv")
    for file in place.iterdir():
        file.unlink()
    Facts.of(table, parts(table, 0.1)[0]).save(Run(place))
    save_table(table, place / "cache" / "table")


def read_table_run(place: Path) -> None:
    from sfumato.fields.tables.recipe import Tables
    from sfumato.training.run import Run

    data = Tables(data=place / "a.csv").open(Run(place))
    data.facts.words(), data.facts.values()
    data.train.batch(np.array([0]))


DOCUMENTS = [f"def value_{i}():\n    return {i * i}  # é\n" * (1 + i % 3) for i in range(12)]


def make_texts(place: Path) -> None:
    (place / "a.py").write_text(DOCUMENTS[0], encoding="utf-8")
    (place / "b.txt").write_text("\n".join(DOCUMENTS), encoding="utf-8")
    (place / "c.jsonl").write_text("\n".join(json.dumps({"text": t, "id": i}) for i, t in enumerate(DOCUMENTS)))
    if importlib.util.find_spec("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": DOCUMENTS, "id": list(range(len(DOCUMENTS)))}), place / "d.parquet")


def read_texts(place: Path) -> None:
    """One file as the data, and the folder with it."""
    from sfumato.fields.text.files import read

    told: list[str] = []
    file = changed(place)
    try:
        read(file, told.append)
    finally:
        assert len(told) < 60, f"says {len(told)} lines"
    if file.suffix in (".py", ".txt"):
        read(place, told.append)


def make_text_run(place: Path) -> None:
    from sfumato.fields.text.data import Corpus
    from sfumato.fields.text.files import Document
    from sfumato.training.run import Run

    documents = [Document(f"{i}.py", text.encode()) for i, text in enumerate(DOCUMENTS)]
    corpus = Corpus.of(documents, vocab=300, window=16, held_out=0.3, tell=lambda _: None)
    corpus.save(place / "cache", place)
    corpus.facts.write(Run(place))


def read_text_run(place: Path) -> None:
    from sfumato.fields.text.data import Corpus
    from sfumato.fields.text.facts import Facts
    from sfumato.training.run import Run

    facts = Facts.read(Run(place))
    corpus = Corpus.load(facts, place / "cache", place)
    for part in ("train", "held_out"):
        corpus.windows(part).batch([0])
        for _, ids in corpus.texts(part):
            corpus.vocabulary.decode(ids)


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


def all_kinds() -> list[Kind]:
    """Every kind, those whose packages are missing too."""
    run, facts = ("run/config.yaml", "run/data.json", "run/grid.json", "run/model.safetensors"), ("run/data.json",)
    cache = ("run/cache/*", "run/data.json", "run/config.yaml")
    found = [
        Kind("pictures", make_pictures, read_picture, weight=30, alone=True),
        Kind("arrays", make_arrays, read_arrays, weight=12, alone=True),
        Kind("vectors", make_vectors, read_vectors, weight=4, alone=True),
        Kind("tables", make_tables, read_tables, weight=12, alone=True),
        Kind("table run", make_table_run, read_table_run, ("*.*", "cache/table/*"), 5),
        Kind("texts", make_texts, read_texts, weight=5, alone=True),
        Kind("text run", make_text_run, read_text_run, ("*.*", "cache/*"), 4, ("tokenizers",)),
        Kind("options", make_options, read_options, weight=6),
        *(Kind(f"run: {name}", make_run(name), read_run, run, 2) for name in ("classes", "vectors", "policy", "pictures")),
        *(Kind(f"sealed run: {name}", make_sealed(name), read_run, ("run/*.safetensors",), 2, after=sealed_weights)
          for name in ("classes", "classes_map", "policy", "pictures")),
        *(Kind(f"prepared: {name}", make_run(name), read_prepared, (*cache, *facts), 2)
          for name in ("classes", "vectors", "policy", "levels")),
        Kind("prepared: labelled", make_run("labelled"), read_prepared, (*cache, "data/labelled.npz"), 2),
        Kind("flow map", make_run("classes_map"), read_run, ("run/teacher.safetensors", *run), 1),
        Kind("checkpoint", make_run("stopped"), read_run, ("run/checkpoints/*/*",), 2),
        Kind("sealed checkpoint", make_run("stopped"), read_run,
             ("run/checkpoints/*/meta.json", "run/checkpoints/*/*.safetensors"), 2, after=sealed_checkpoint),
        Kind("resume", make_run("stopped"), read_resumed,
             ("run/checkpoints/*/meta.json", "run/checkpoints/*/*.safetensors"), 2, after=sealed_checkpoint),
        Kind("compared", make_compared, read_compared, ("drawn/*",), 2),
        Kind("snapshots", make_run("vectors"), read_snapshots, ("run/snapshots/*",), 3),
        Kind("log", make_log, read_log, ("run/log.jsonl", "run/metrics.json", "run/README.md"), 3),
        Kind("samples", make_samples, read_samples, ("drawn/0001.png", "drawn/samples.json"), 3),
        Kind("episodes", make_episodes, read_demonstrations, weight=4),
        *(Kind(f"zarr {version}", make_zarr(version), read_demonstrations, ("store.zarr/**/*",), 3, ("zarr",))
          for version in (2, 3)),
        Kind("zarr zip", make_zarr(2, True), read_demonstrations, weight=3, needs=("zarr",)),
        Kind("lerobot film", make_lerobot, read_demonstrations, ("set/**/*",), 3, ("pyarrow", "av")),
        Kind("lerobot pictures", make_lerobot_pictures, read_demonstrations, ("set/**/*",), 3, ("pyarrow", "av")),
        Kind("onnx", make_onnx, read_onnx, weight=2, needs=("onnxruntime",)),
        Kind("weights", make_weights, read_weights, weight=2),
        Kind("couples", make_couples, read_couples, ("couples/*",), 2),
    ]  # fmt: skip
    return [kind for kind in found if kind.there]
