"""Every field's run is served: at once, by one server, each drawn as `sfumato sample` draws it, in the field's own files."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from sfumato.cli import main
from sfumato.jobs import find
from tests.serving.fields import FIELDS
from tests.serving.small import Server, served

SEED = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fields")
    found = {}
    for name, each in FIELDS.items():
        try:
            found[name] = each.run(name, folder)
        except pytest.skip.Exception:  # a package of its extra is not there
            continue
    return found


@pytest.fixture(scope="module")
def server(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(list(runs.values()), tmp_path_factory.mktemp("served")) as found:
        yield found
        assert found.end() == 0, found.log.read_text()[-2000:]


@pytest.fixture(scope="module")
def jobs(runs: dict[str, Path], server: Server) -> dict[str, dict[str, Any]]:
    """A request of each field, all at the same time."""

    def one(name: str) -> tuple[str, dict[str, Any]]:
        each = FIELDS[name]
        body = {"run": f"run-{name}", "n": each.n, "seed": SEED, "query": dict(each.query), "walk": dict(each.walk)}
        return name, server.ask("POST", "/v1/samples", body, {"Prefer": "wait=120"}, timeout=150)[1]

    with ThreadPoolExecutor(len(runs)) as pool:
        return dict(pool.map(one, runs))


def numbers(name: str, raw: bytes) -> np.ndarray:
    """All numbers of a file, words left out: two files of one thing differ in what they say of its making."""
    if name.endswith(".png"):
        return np.asarray(Image.open(io.BytesIO(raw))).astype(float)
    if name.endswith(".npy"):
        return np.asarray(np.load(io.BytesIO(raw), allow_pickle=False), dtype=float)
    if name.endswith(".nc"):
        h5netcdf = pytest.importorskip("h5netcdf")
        with h5netcdf.File(io.BytesIO(raw), "r") as file:
            return np.concatenate([np.asarray(file[key][...], float).ravel() for key in sorted(file.variables)])
    if name.endswith(".mp4"):
        av = pytest.importorskip("av")
        with av.open(io.BytesIO(raw)) as film:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]).astype(float)
    if name.endswith(".py"):
        return np.frombuffer(raw, np.uint8).astype(float)
    lines = [line for line in raw.decode().splitlines() if "sfumato" not in line and '"weights"' not in line]
    return np.array([float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", "\n".join(lines))])


def files(server: Server, job: dict[str, Any], suffix: str) -> dict[str, bytes]:
    """The files of a request, by name."""
    return {name: server.ask("GET", f"{thing['url']}?file={name}")[1]
            for thing in job["things"] for name in thing["files"] if name.endswith(suffix)}  # fmt: skip


def test_no_field_is_left_out():
    assert set(FIELDS) == set(find.names())


def test_docking_says_which_words_of_a_query_are_files(tmp_path: Path):
    pytest.importorskip("rdkit")
    docking = find.kind("docking")
    recipe, ask = docking(data=tmp_path), docking.Ask
    assert list(recipe.named_files(ask(ligand=("CCO", "C/C=C\\C", "Brc1ccccc1")))) == []
    assert list(recipe.named_files(ask(ligand=("CCO", "a.sdf", "/b/c.MOL2")))) == [
        ("ligand", "a.sdf"),
        ("ligand", "/b/c.MOL2"),
    ]
    table = tmp_path / "many.csv"
    table.write_text("ligand_description,protein_path\nCCO,\nd.mol,e.pdb\n")
    assert [(name, Path(file).name) for name, file in recipe.named_files(ask(csv=table))] == [
        ("csv", "e.pdb"),
        ("csv", "d.mol"),
    ]
    assert list(recipe.named_files(ask(ligand=("CCO",), protein=tmp_path / "own.pdb", pocket_residues=("all",)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_field_is_served_as_it_draws_offline(
    name: str, runs: dict[str, Path], server: Server, jobs: dict[str, dict[str, Any]], tmp_path: Path
):
    if name not in runs:
        pytest.skip(f"needs the extra sfumato[{name}]")
    each, job = FIELDS[name], jobs[name]
    assert job.get("state") == "done", job
    out = tmp_path / (f"samples{each.suffix}" if find.kind(name).single else "samples")
    words = ["sample", str(runs[name]), "-n", str(each.n), "--seed", str(SEED), *each.flags(), "--out", str(out)]
    assert main(words) == 0
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()} if out.is_dir() else {
        f"samples{each.suffix}": out.read_bytes()}  # fmt: skip
    wanted = {key: raw for key, raw in wanted.items() if key.endswith(each.suffix) and not key.startswith("grid")}
    mine = files(server, job, each.suffix)
    assert sorted(mine) == sorted(wanted)
    for key, raw in wanted.items():
        got, right = numbers(key, mine[key]), numbers(key, raw)
        assert got.shape == right.shape, key
        within = 1 if key.endswith(".png") else 2e-3 * max(1.0, float(np.nanmax(np.abs(right))))
        assert np.allclose(got, right, rtol=0, atol=within, equal_nan=True), (key, np.nanmax(np.abs(got - right)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIELDS))
def test_what_a_field_draws_can_be_looked_at(name: str, runs: dict[str, Path], server: Server, jobs: dict[str, Any]):
    """A picture, a table or a text for a person, not a file to be saved alone."""
    if name not in runs:
        pytest.skip(f"needs the extra sfumato[{name}]")
    for thing in jobs[name]["things"]:
        kind = thing["view_type"] or thing["type"]
        assert kind.startswith(("image/", "text/", "video/")), thing
        status, raw, headers = server.ask("GET", thing["view"] or thing["url"])
        assert status == 200
        assert headers["content-type"].startswith(kind.split(";")[0])
        assert len(raw) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["captions", "images", "policy", "text"])
def test_a_thing_is_made_again_in_its_bits_from_its_making(name: str, runs: dict[str, Path], server: Server):
    if name not in runs:
        pytest.skip(f"needs the extra sfumato[{name}]")
    each = FIELDS[name]
    body = {"run": f"run-{name}", "n": 2, "seed": 8, "query": dict(each.query), "walk": dict(each.walk), "exact": True}
    thing = server.draw(**body)["things"][1]
    right = server.ask("GET", thing["url"])[1]
    making = json.dumps(thing["making"]).encode()
    status, job, _ = server.ask("POST", "/v1/remake", raw=making, headers={"X-File-Name": "making.json"})
    assert status == 202, job
    job = server.until(job["id"], "done", "failed")
    assert [again["number"] for again in job["things"]] == [1]
    assert server.ask("GET", job["things"][0]["url"])[1] == right


@pytest.mark.slow
def test_a_thing_that_is_a_folder_comes_as_one_file(runs: dict[str, Path], server: Server, jobs: Any, tmp_path: Path):
    zarr = pytest.importorskip("zarr")
    each = FIELDS["weather"]
    body = {"run": "run-weather", "n": each.n, "seed": SEED, "query": dict(each.query), "walk": dict(each.walk)}
    job = server.draw(**body, format=".zarr")
    (thing,) = job["things"]
    assert thing["file"] == "samples.zarr.zip"
    assert thing["making"]["suffix"] == ".zarr"
    (tmp_path / "it.zip").write_bytes(server.ask("GET", thing["url"])[1])
    store = zarr.open_group(zarr.storage.ZipStore(tmp_path / "it.zip", mode="r"), mode="r", zarr_format=2)
    (tmp_path / "it.nc").write_bytes(server.ask("GET", jobs["weather"]["things"][0]["url"])[1])
    h5netcdf = pytest.importorskip("h5netcdf")
    with h5netcdf.File(tmp_path / "it.nc", "r") as file:
        for name in ("msl", "z"):
            assert np.allclose(store[name][...], file[name][...], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "query"), [
    ("docking", {"ligand": ["{secret}.sdf"]}), ("docking", {"ligand": ["CCO", "{secret}.mol2"]}),
    ("docking", {"csv": "ligand_description,protein_path\nCCO,{secret}.pdb\n"}),
    ("docking", {"csv": "ligand_description\n{secret}.sdf\n"}),
])  # fmt: skip
def test_no_word_of_a_query_opens_a_file_of_the_server(
    name: str, query: dict[str, Any], runs: dict[str, Path], server: Server, tmp_path: Path
):
    import base64

    if name not in runs:
        pytest.skip(f"needs the extra sfumato[{name}]")
    (tmp_path / "hidden.sdf").write_text("canary\n")
    os.link(tmp_path / "hidden.sdf", tmp_path / "hidden.pdb")
    os.link(tmp_path / "hidden.sdf", tmp_path / "hidden.mol2")
    secret = str(tmp_path / "hidden")
    said = {
        key: [each.format(secret=secret) for each in value] if isinstance(value, list)
        else {"name": "many.csv", "base64": base64.b64encode(value.format(secret=secret).encode()).decode()}
        for key, value in query.items()
    }  # fmt: skip
    body = {"run": f"run-{name}", "query": said, "walk": {"steps": 1}}
    status, problem, _ = server.ask("POST", "/v1/samples", body, {"Prefer": "wait=60"})
    assert status == 422, problem
    assert "is not read here" in problem["detail"], problem
    assert problem["field"].startswith("query.")
    assert str(server.log.parent) not in problem["detail"]
