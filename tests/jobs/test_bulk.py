"""Sets in bundles: the same files for any processes and shares, killed anywhere, and nothing drawn twice but one batch a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.diffusion import Blanks
from sfumato.jobs import bulk as bulk_of
from sfumato.jobs import bulk_drawing, bulk_workers
from sfumato.jobs.bulk import Bulk, Share
from sfumato.jobs.bulk_run import bulk
from sfumato.jobs.making import Making, made
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training import checkpoint, whole
from sfumato.training.leaving import Asked, Stopped
from sfumato.training.run import RunError

from .small import sfumato

RUNS = Path(__file__).parents[1] / "runs" / "a3fdda3"
QUICK = ["--steps", "2", "--precision", "fp32"]
N, SIZE = 90, 32
"""Samples: three bundles, of two batches of 16 each, the last one of a full batch and one of 10."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of pictures of three classes."""
    return Path(shutil.copytree(RUNS / "classes", tmp_path_factory.mktemp("runs") / "classes"))


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return load(run, Walk(steps=2), Drawing(precision="fp32"))


@pytest.fixture(scope="module")
def straight(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a set that one process drew without an end in between."""
    return files(drawn(model, tmp_path_factory.mktemp("straight") / "s"))


def drawn(model: Model, out: Path, **how: Any) -> Path:
    return bulk(model, N, model.recipe.Ask(), out, **{"size": SIZE, **how}).folder


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder of a set but what says when and where it was made."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def other(folder: Path, straight: dict[str, bytes]) -> list[str]:
    """What differs between a folder and the files of a set."""
    here = files(folder)
    return [name for name in {**straight, **here} if here.get(name) != straight.get(name)]


class Died(Exception):
    """What stands for a kill in tests of one process."""


# ---- the same files ------------------------------------------------------------------------------------------------------


def test_a_set_in_bundles_is_the_plain_one_bit_for_bit(run: Path, straight: dict[str, bytes], tmp_path: Path):
    assert sfumato("sample", run, "-n", N, *QUICK, "--out", tmp_path / "plain") == 0
    (tmp_path / "s").mkdir()
    for name, content in straight.items():
        (tmp_path / "s" / Path(name).name).write_bytes(content)
    count = 0
    for tar in sorted((tmp_path / "s").glob("*.tar")):
        with tarfile.open(tar) as opened:
            for member in opened:
                assert opened.extractfile(member).read() == (tmp_path / "plain" / member.name).read_bytes()
                count += 1
    assert count == N
    rows = list(csv.DictReader((tmp_path / "s" / "ledger.csv").open()))
    assert [int(row["number"]) for row in rows] == list(range(N))
    assert [row["file"] for row in rows] == [f"{number // SIZE * SIZE:09d}.tar" for number in range(N)]
    assert {row["calls"] for row in rows} == {"4"}  # two steps, both sides of guidance


def test_shares_in_any_order_make_the_same_files(model: Model, straight: dict[str, bytes], tmp_path: Path):
    for shard in ("2/4", "0/4", "3/4", "1/4"):  # the last one has nothing to do
        assert not (tmp_path / "ledger.csv").exists()
        drawn(model, tmp_path, shard=shard)
    assert other(tmp_path, straight) == []


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_kill_between_batches_costs_one_and_changes_nothing(
    batches: int, model: Model, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    draw = type(model.recipe).draw

    def mortal(self, of, queries, numbers):
        asked.append(next(iter(numbers)))
        if len(asked) == batches + 1:
            raise Died
        return draw(self, of, queries, numbers)

    monkeypatch.setattr(type(model.recipe), "draw", mortal)
    with pytest.raises(Died):
        drawn(model, tmp_path)
    drawn(model, tmp_path)
    begins = [0, 16, 32, 48, 64, 80]
    assert asked == [
        *begins[: batches + 1],
        *begins[batches:],
    ]  # the batch that was on its way is begun twice, no other
    assert other(tmp_path, straight) == []


@pytest.mark.parametrize("point", ["before_rename", "after_rename", "after_ledger"])
@pytest.mark.parametrize("which", [1, 3])
def test_a_kill_at_each_point_of_a_commit_changes_nothing(
    point: str, which: int, model: Model, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def reached(at: str) -> None:
        seen.append(at)
        if seen.count(point) == which and at == point:
            raise Died

    monkeypatch.setattr(whole, "reached", reached)
    with pytest.raises(Died):
        drawn(model, tmp_path)
    drawn(model, tmp_path)
    assert other(tmp_path, straight) == []


TORN = {
    "a bundle cut short": ("000000032.tar", lambda data: data[:-600]),
    "a bundle with one other bit": ("000000032.tar", lambda data: data[:777] + bytes([data[777] ^ 1]) + data[778:]),
    "a bundle gone": ("000000032.tar", None),
    "a ledger cut short": ("ledger/000000032.json", lambda data: data[: len(data) // 2]),
    "a ledger of nonsense": ("ledger/000000032.json", lambda data: b"[" * 100_000),
    "a ledger of another bundle": ("ledger/000000032.json", lambda data: data.replace(b'"first": 32', b'"first": 33')),
    "a ledger gone": ("ledger/000000032.json", None),
}


@pytest.mark.parametrize("name", TORN)
def test_what_is_torn_is_made_again_and_nothing_else(
    name: str, model: Model, straight: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn(model, tmp_path)
    file, tear = TORN[name]
    path = tmp_path / file
    path.unlink() if tear is None else path.write_bytes(tear(path.read_bytes()))
    made_again: list[int] = []
    make = bulk_drawing.Drawer.make
    monkeypatch.setattr(
        bulk_drawing.Drawer, "make", lambda self, place, *look: (made_again.append(place), make(self, place, *look))
    )
    drawn(model, tmp_path)
    assert made_again == [1]
    assert other(tmp_path, straight) == []


def test_a_torn_batch_is_drawn_again(model: Model, straight: dict[str, bytes], tmp_path: Path):
    queries = model.recipe.queries(model, model.recipe.Ask(), N)
    of = bulk_of.begun(model, queries, model.recipe.Ask(), N, tmp_path, size=SIZE)

    def look(done: int, begins: bool) -> None:
        if done == 32:
            raise Died

    with pytest.raises(Died):
        bulk_drawing.Drawer(of, model, queries).make(0, look)
    kept = sorted(of.drawn(of.bundle(0)).iterdir())
    assert [path.name for path in kept] == ["000000.safetensors", "000001.safetensors"]
    data = bytearray(kept[0].read_bytes())
    data[-5] ^= 1
    kept[0].write_bytes(data)
    kept[1].write_bytes(kept[1].read_bytes()[:100])
    drawn(model, tmp_path)
    assert other(tmp_path, straight) == []


def test_samples_of_their_own_calls_are_in_the_ledger(run: Path, tmp_path: Path):
    """Also of those that were kept and not drawn again."""
    model = load(run, Walk(tol=0.003), Drawing(precision="fp32"))
    once = bulk(model, 40, model.recipe.Ask(), tmp_path / "a", size=32)

    def look(done: int, begins: bool) -> None:
        if done == 16 and begins:
            raise Died

    queries = model.recipe.queries(model, model.recipe.Ask(), 40)
    of = bulk_of.begun(model, queries, model.recipe.Ask(), 40, tmp_path / "b", size=32)
    with pytest.raises(Died):
        bulk_drawing.Drawer(of, model, queries).make(0, look)
    bulk(model, 40, model.recipe.Ask(), tmp_path / "b")
    assert other(tmp_path / "a", files(tmp_path / "b")) == []
    calls = once.calls(once.bundle(0))
    assert len(set(calls)) > 1


def test_one_of_a_bundle_is_made_again_from_its_file(run: Path, straight: dict[str, bytes], tmp_path: Path):
    (tmp_path / "b.tar").write_bytes(straight["000000032.tar"])
    with tarfile.open(tmp_path / "b.tar") as tar:
        tar.extract("0050.png", tmp_path, filter="data")
    assert made(tmp_path / "0050.png").number == 50
    assert sfumato("sample", run, "--like", tmp_path / "0050.png", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "0050.png").read_bytes() == (tmp_path / "0050.png").read_bytes()


# ---- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["5/4", "4/4", "-1/4", "1", "1/0", "a/b", "1/4/2", "0/1000000000", "0.5/2", ""])
def test_a_share_that_cannot_be_is_one_line(text: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sfumato("sample", run, "-n", 4, *QUICK, f"--shard={text}", "--out", tmp_path / "s") == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(f"sfumato: shard = {text!r}: must be I/N, where I counts from 0")
    )
    assert not (tmp_path / "s").exists()


def test_shares_hold_every_bundle_once():
    for of in (1, 2, 3, 7, 50):
        held = [k for place in range(of) for k in range(Share(place, of).place, 23, Share(place, of).of)]
        assert sorted(held) == list(range(23))


OTHERS = {
    "another number": (["-n", 91], "n: it has 90, asked is 91"),
    "another seed": (["--seed", 1], "seed: it has 0, asked is 1"),
    "another walk": (["--steps", 3], "walk.steps: it has 2, asked is 3"),
    "another query": (["--label", "red"], "ask.label: it has None, asked is red"),
    "another bundle": (["--bundle", 48], "bundle: it has 32, asked is 48"),
    "another format": (["--format", ".npy"], "suffix: it has .png, asked is .npy"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_set_in_the_same_folder_is_refused(
    name: str, run: Path, model: Model, straight: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    drawn(model, tmp_path)
    capsys.readouterr()
    words, said = OTHERS[name]
    assert sfumato("sample", run, "-n", N, *QUICK, "--shard", "0/1", "--out", tmp_path, *words) == 1
    assert said in capsys.readouterr().err
    assert other(tmp_path, straight) == []


def test_other_weights_are_refused(run: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    drawn(model, tmp_path / "s")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    weights, about = checkpoint.read_weights(other / "model.safetensors")
    checkpoint.save_weights(other / "model.safetensors", {name: value + 1e-3 for name, value in weights.items()}, about)
    assert sfumato("sample", other, "-n", N, *QUICK, "--shard", "0/2", "--out", tmp_path / "s") == 1
    assert "holds another set (weights: it has" in capsys.readouterr().err
    same = Path(shutil.copytree(run, tmp_path / "moved"))  # the same run somewhere else is the same
    assert sfumato("sample", same, "-n", N, *QUICK, "--shard", "0/2", "--out", tmp_path / "s") == 0


def test_what_is_not_ours_is_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "theirs"
    out.mkdir()
    (out / "thesis.tex").write_text("all of it")
    assert sfumato("sample", run, "-n", 4, *QUICK, "--workers", 1, "--out", out) == 1
    assert "thesis.tex: is not of a set in bundles; give another --out" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


BOUNDS = {
    "no batches": (["--bundle", 20], "bundle = 20: must be a multiple of the 16 samples of a batch, as 16 or 32"),
    "too large": (["--bundle", 10**7], "bundle = 10000000: must be from 1 to 1,000,000"),
    "nobody": (["--workers", 0], "workers = 0: must be from 1 to 256"),
    "a crowd": (["--workers", 10**6], "workers = 1000000: must be from 1 to 256"),
    "nothing": (["-n", 0, "--workers", 1], "n = 0: must be at least 1"),
    "beyond numbers": (["-n", 10**10, "--workers", 1], "n = 10000000000: makes 10,000,000,000 samples; at most 1,000,000,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDS)
def test_sizes_are_bounded(name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words, said = BOUNDS[name]
    assert sfumato("sample", run, "-n", 90, *QUICK, "--out", tmp_path / "s", *words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_one_sample_again_is_no_set(run: Path, capsys: pytest.CaptureFixture[str]):
    for words, said in (
        (["--shard", "0/2"], "shard = '0/2'"),
        (["--workers", 2], "workers = 2"),
        (["--ray"], "ray = True"),
    ):
        assert sfumato("sample", run, "--like", "x.png", *words) == 1
        assert f"{said}: must be left out with --like, which is one sample" in capsys.readouterr().err


def test_of_two_that_begin_at_once_one_says_what_the_set_is(tmp_path: Path):
    place = tmp_path / "bulk.json"
    bulk_of._first(place, "one")
    bulk_of._first(place, "two")
    assert place.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["bulk.json"]


# ---- large sets ----------------------------------------------------------------------------------------------------------


def listed(total: int, folder: Path) -> tuple[Bulk, Blanks]:
    making = Making("run", "0" * 16, 7)
    of = Bulk(folder, Path("run"), Walk(), Drawing(), "usual", None, total, total, 1000, making, ".tar")
    return of, Blanks(torch.zeros(3, 8, 8), total)


def test_what_is_left_is_all_numbers_without_those_in_the_ledger(tmp_path: Path):
    of, queries = listed(5500, tmp_path)
    (tmp_path / "ledger").mkdir()
    for k in (1, 4):
        bundle = of.bundle(k)
        of.file(bundle).write_bytes(b"12345")
        told = {
            "first": bundle.first,
            "stop": bundle.stop,
            "file": of.file(bundle).name,
            "bytes": 5,
            "calls": [k] * 1000,
        }
        of.record(bundle).write_text(json.dumps({**told, "sha256": bulk_of.summed(of.file(bundle))}))
    assert list(of.missing()) == [*range(1000), *range(2000, 4000), *range(5000, 5500)]
    assert list(of.left(Share(1, 2))) == [3, 5]
    rows = list(of.rows(queries))
    assert [row[0] for row in rows] == list(range(5500))
    assert rows[1500] == (1500, 7, "", 1500, "000001000.tar", 1)
    assert rows[2500] == (2500, 7, "", 2500, "", None)


def test_listing_is_flat_in_memory(tmp_path: Path):
    """All that grows with the set is a number; ten times as many take no more."""

    def peak(total: int) -> int:
        of, queries = listed(total, tmp_path)
        tracemalloc.start()
        count = sum(1 for _ in of.rows(queries)) + sum(1 for _ in of.missing()) + sum(1 for _ in of.left(Share()))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 2 * total + total // 1000
        return most

    few, many = peak(3000), peak(30_000)
    assert many < few + 20_000


# ---- processes -----------------------------------------------------------------------------------------------------------


class _Dead:
    """A process that has ended, and its pipe, as seen by those who began it."""

    def __init__(self, said: list[tuple[Any, ...]], code: int):
        self.said, self.exitcode = list(said), code

    def poll(self) -> bool:
        return True

    def recv(self) -> tuple[Any, ...]:
        if not self.said:
            raise EOFError
        return self.said.pop(0)

    def send(self, word: Any) -> None:
        raise BrokenPipeError

    def join(self) -> None: ...

    def is_alive(self) -> bool:
        return False


def crew(tmp_path: Path, waiting: list[int]) -> bulk_workers._Crew:
    from collections import deque

    of, _ = listed(5000, tmp_path)
    return bulk_workers._Crew(of, deque(waiting), Asked(), lambda count: None)


def test_a_bundle_over_which_processes_die_is_given_up_and_progress_forgives(tmp_path: Path, monkeypatch):
    team = crew(tmp_path, [])
    monkeypatch.setattr(team, "_begun", lambda place: None)

    def dies(*said: tuple[Any, ...]) -> None:
        dead: Any = _Dead([*said], -9)
        team.workers = [bulk_workers._Worker(dead, dead, 2, 0)]
        team._hear(0, team.workers[0])

    dies(("begins", 16))
    dies(("begins", 16), ("there", 16), ("begins", 16))
    dies(("there", 16), ("begins", 16))
    assert (team.told.deaths, team.told.repeated) == (3, 48)
    assert list(team.waiting) == [2, 2, 2]
    with pytest.raises(RunError, match="3 processes that drew samples 2000 to 2999 died one after the other"):
        dies(("there", 16), ("begins", 16))


def test_what_a_process_raises_comes_out(tmp_path: Path):
    team = crew(tmp_path, [])
    worker: Any = bulk_workers._Worker(None, None, 0)
    with pytest.raises(RuntimeError, match="a bug"):
        team._heard(worker, "failed", "a bug", False)
    from sfumato.errors import Mendable

    with pytest.raises(Mendable, match="too rare"):
        team._heard(worker, "failed", "too rare", True)


def command(run: Path, out: Path, *words: object) -> list[str]:
    every = ["sample", run, "-n", N, *QUICK, "--bundle", SIZE, "--out", out, *words]
    return [sys.executable, "-m", "sfumato", *map(str, every)]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("the children of a process cannot be listed here")
    every = [int(word) for word in path.read_text().split()]
    return [each for each in every if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()]


def begun(run: Path, out: Path) -> subprocess.Popen[str]:
    """Two processes that draw, once a batch is kept."""
    process = subprocess.Popen(command(run, out, "--workers", 2), stderr=subprocess.PIPE, text=True)
    until(lambda: process.poll() is not None or any(out.rglob("*.safetensors")))
    return process


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.mark.slow
def test_a_process_that_is_killed_is_begun_again(run: Path, straight: dict[str, bytes], tmp_path: Path):
    process = begun(run, tmp_path / "s")
    own = children(process.pid) if process.poll() is None else []
    for each in own[:1]:
        os.kill(each, signal.SIGKILL)
    err = process.communicate(timeout=240)[1]
    assert process.returncode == 0, err
    assert other(tmp_path / "s", straight) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_where_the_first_process_ends_all_do_and_the_command_goes_on(
    number: int, run: Path, straight: dict[str, bytes], tmp_path: Path
):
    process = begun(run, tmp_path / "s")
    own = children(process.pid) if process.poll() is None else []
    process.send_signal(number)
    err = process.communicate(timeout=240)[1]
    assert process.returncode in ((0, 143) if number == signal.SIGTERM else (0, -9)), err
    if process.returncode == 143:
        assert "sfumato: stopped by SIGTERM after " in err
        assert "go on by giving the same command again" in err.splitlines()[-1]
    until(lambda: not any(Path(f"/proc/{each}").exists() for each in own))  # none stays behind
    again = subprocess.run(command(run, tmp_path / "s"), capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert other(tmp_path / "s", straight) == []


@pytest.mark.slow
def test_ray_draws_the_same_files(run: Path, straight: dict[str, bytes], tmp_path: Path):
    pytest.importorskip("ray.data", reason="needs the extra sfumato[scale]")
    done = subprocess.run(
        command(run, tmp_path / "s", "--ray", "--workers", 2), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert other(tmp_path / "s", straight) == []


def test_without_ray_it_says_what_brings_it(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sfumato.errors import DataError

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"--ray wants ray, which is not installed; pip install -e '\.\[scale\]'"):
        drawn(model, tmp_path, ray=True)


def test_a_ray_with_holes_is_refused(monkeypatch: pytest.MonkeyPatch):
    from sfumato.errors import DataError
    from sfumato.jobs import bulk_ray

    old: Any = types.ModuleType("ray")
    old.__version__, old.data = "2.53.1", types.ModuleType("ray.data")
    monkeypatch.setitem(sys.modules, "ray", old)
    monkeypatch.setitem(sys.modules, "ray.data", old.data)
    with pytest.raises(DataError, match=r"ray 2\.53\.1 has known holes; install 2\.54 or later"):
        bulk_ray._ray()


def test_what_an_actor_complains_of_is_found_in_what_ray_makes_of_it():
    from sfumato.errors import DataError
    from sfumato.jobs import bulk_ray

    task, around = RuntimeError("of Ray"), RuntimeError("of Ray Data")
    task.cause = DataError("too rare")  # type: ignore[attr-defined]
    around.__cause__ = task
    assert str(bulk_ray._ours(around)) == "too rare"
    assert bulk_ray._ours(RuntimeError("a bug")) is None


def test_a_signal_leaves_after_a_batch_with_its_status(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    draw, count = type(model.recipe).draw, [0]

    def told(self, of, queries, numbers):
        count[0] += 1
        if count[0] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, of, queries, numbers)

    monkeypatch.setattr(type(model.recipe), "draw", told)
    with pytest.raises(
        Stopped, match="SIGTERM after 32 of 90 samples; go on by giving the same command again"
    ) as found:
        drawn(model, tmp_path)
    assert found.value.code == 143
    assert count[0] == 2
    assert len(list((tmp_path / ".drawn").rglob("*.safetensors"))) == 2  # both batches of the first bundle are kept


# ---- fields --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["protein", "docking", "weather", "tables", "series"])
def test_what_belongs_together_is_refused_by_name(name: str):
    from sfumato.errors import Wrong
    from sfumato.jobs import find

    class Facts:
        linked, kind = True, "wide"

    one: Any = dataclasses.make_dataclass("M", ["facts"])(Facts)
    kind = find.kind(name)
    with pytest.raises(Wrong, match="leave out --shard, --workers, --bundle and --ray"):
        kind.bundled(object.__new__(kind), one, one)
