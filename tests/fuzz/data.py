"""Pictures, arrays, tables and texts, whole and as the command reads them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.broken import encoded, interlaced, photo, png
from tests.fuzz.kind import changed

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
    from sfumato.fields.tables.data import Facts
    from sfumato.fields.tables.keeping import save_table
    from sfumato.fields.tables.reading import read_table
    from sfumato.fields.tables.rows import parts
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


# ---- captions -----------------------------------------------------------------------------------------------------------

SAID = ("a red hat", "zwei Hüte", "one, two", "")


def make_captions(place: Path) -> None:
    """Pictures with captions beside them, in tables of every kind and in a shard."""
    import io
    import tarfile

    names = [f"{letter}.png" for letter in "abcd"]
    for number, name in enumerate(names):
        Image.fromarray(np.full((8, 8, 3), 60 * number, np.uint8)).save(place / name)
    (place / "a.txt").write_text("\n".join(SAID), encoding="utf-8")
    lines = ["file_name,text", *(f'{name},"{text}"' for name, text in zip(names, SAID))]
    (place / "x.csv").write_text("\n".join(lines), encoding="utf-8")
    rows = [json.dumps({"file_name": name, "text": [text, "more"]}) for name, text in zip(names, SAID)]
    (place / "x.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with tarfile.open(place / "x.tar", "w") as tar:
        for name, text in zip(names, SAID):
            about = json.dumps({"text": text, "n": 1}).encode()
            for member, raw in (
                (name, (place / name).read_bytes()),
                (name[0] + ".txt", text.encode()),
                (name[0] + ".json", about),
            ):
                header = tarfile.TarInfo(member if name != "d.png" else "long/" * 30 + member)
                header.size = len(raw)
                tar.addfile(header, io.BytesIO(raw))
    if importlib.util.find_spec("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        packed = [{"bytes": (place / name).read_bytes(), "path": name} for name in names]
        pq.write_table(pa.table({"image": packed, "text": list(SAID)}), place / "x.parquet")


def read_captions(place: Path) -> None:
    """A table or shard as the data, or the folder with what stands beside its pictures."""
    import tempfile

    from sfumato.fields.captions.reading import Asked, listed

    file = changed(place)
    with tempfile.TemporaryDirectory() as room:
        found = listed(file if file.stem == "x" else place, Asked(), Path(room))
        assert len(found.files) == len(found.captions)
        if file.suffix in (".tar", ".parquet"):
            assert all(Path(room) in path.parents or place in path.parents for path in found.files)
        assert len(found.said) < 60, f"says {len(found.said)} lines"
