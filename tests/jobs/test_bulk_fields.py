"""Sets in bundles of other fields than pictures: what the bundles hold, one after the other, is what a plain `sample` writes."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fields.series import worlds

from .small import sfumato

pytestmark = pytest.mark.slow
SMALL = ["--previews", 0, "--snapshots", 0, "--threads", 1, "--precision", "fp32"]


def tables(folder: Path) -> list[object]:
    from tests.fields.tables.test_recipe import people

    return ["tables", people(folder, 300), "--steps", 4, "--batch", 32, *SMALL]


def series(folder: Path) -> list[object]:
    values = worlds.walks(6, 240)
    data = worlds.long(folder / "walks.csv", worlds.days(240), {f"w{i}": row for i, row in enumerate(values)})
    return ["series", data, *worlds.TRAIN, "--horizon", 8, "--past", 24, "--season", 1, "--steps", 1]


def text(folder: Path) -> list[object]:
    pytest.importorskip("tokenizers", reason="needs the extra sfumato[text]")
    from tests.fields.text.test_job import TRAIN
    from tests.fields.text.test_job import folder as garden

    return ["text", garden(folder / "garden"), *TRAIN, "--steps", 2]


FIELDS: dict[str, tuple[Callable[[Path], list[object]], list[object], list[object]]] = {
    "tables": (tables, ["-n", 100, "--batch", 32], ["--bundle", 64]),
    "tables as parquet": (tables, ["-n", 100, "--batch", 32, "--format", ".parquet"], ["--bundle", 64]),
    "tables with a condition": (tables, ["-n", 40, "--batch", 8, "--where", "age >= 30"], ["--bundle", 16]),
    "series": (series, ["-n", 9, "--batch", 8], ["--bundle", 16]),
    "text": (text, ["-n", 12, "--batch", 4, "--length", 12], ["--bundle", 8]),
}
"""What is trained, what is drawn of it, and how large a bundle is."""


def rows(path: Path) -> list[tuple[object, ...]]:
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow.parquet", reason="needs the extra sfumato[tables]")
        table = pyarrow.read_table(path)
        return [tuple(row.items()) for row in table.to_pylist()]
    head, *rest = csv.reader(path.open(newline=""))
    return [tuple(zip(head, row)) for row in rest]


def files(path: Path) -> dict[str, bytes]:
    if path.suffix != ".tar":
        return {path.name: path.read_bytes() for path in path.iterdir() if path.stem.split(".")[0].isdecimal()}
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize("name", FIELDS)
def test_bundles_hold_what_a_plain_set_holds(name: str, tmp_path: Path):
    data, how, bundles = FIELDS[name]
    run = tmp_path / "run"
    assert sfumato("train", *data(tmp_path), "--out", run) == 0
    single = not name.startswith("text")
    suffix = ".parquet" if "parquet" in name else ".csv"
    plain = tmp_path / (f"plain{suffix}" if single else "plain")
    assert sfumato("sample", run, *(word for word in how if word not in ("--format", ".parquet")), "--out", plain) == 0
    for shard in ("1/2", "0/2"):
        assert sfumato("sample", run, *how, *bundles, "--shard", shard, "--out", tmp_path / "s") == 0
    made = sorted(path for path in (tmp_path / "s").iterdir() if path.stem.isdecimal())
    assert len(made) > 1
    if single:
        assert [row for path in made for row in rows(path)] == rows(plain)
    else:
        assert {name: data for path in made for name, data in files(path).items()} == files(plain)
    assert (tmp_path / "s" / "ledger.csv").is_file()
