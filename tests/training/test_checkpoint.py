"""Checkpoints under kill -9, full disks, damaged files; optimiser state bit for bit."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.training import checkpoint, whole
from sfumato.training.checkpoint import (
    CheckpointError,
    load,
    newest,
    save,
    save_weights,
    verify,
)
from sfumato.training.optim import Composite, OptimOptions, build
from sfumato.training.optimizer_state import flatten_optimizer, restore_optimizer

POINTS = (
    "after_file:weights",
    "after_file:optimizer",
    "after_file:meta",
    "before_rename",
    "after_rename",
    "before_delete",
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def content(step: int, numbers: int = 200_000) -> dict[str, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(step)
    return {
        "weights": {"a": torch.randn(numbers, generator=rng), "b": torch.randn(7, 3, generator=rng)},
        "optimizer": {
            "state.0.exp_avg": torch.randn(numbers, generator=rng),
            "state.0.step": torch.tensor(float(step)),
        },
    }


def same(left: dict[str, dict[str, Tensor]], right: dict[str, dict[str, Tensor]]) -> bool:
    return left.keys() == right.keys() and all(
        left[group].keys() == right[group].keys()
        and all(torch.equal(left[group][name], right[group][name]) for name in left[group])
        for group in left
    )


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("step-")]


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork of this process and return its pid; the child can only end by exiting or being killed."""
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)  # the parent's threads did not come along
            work()
            os._exit(0)
        except BaseException:
            os._exit(17)
    return pid


def ending(pid: int) -> int:
    """0 or the exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ------------------------------------------------------------------------------------------------------- round trips


def test_round_trip_of_every_kind_of_tensor(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    named = {
        "shared": base,
        "the same": base,
        "transposed": base.t(),
        "slice": base[1:2],
        "stepped": base[:, ::2],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "also empty": torch.empty(0, 4),
        "bool": torch.tensor([True, False]),
        "int": torch.arange(5),
        "bf16": torch.randn(3).bfloat16(),
        "f64": torch.randn(3, dtype=torch.float64),
        "conj": torch.view_as_complex(torch.randn(3, 2)).conj(),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
        "trained": nn.Parameter(torch.randn(2, 2)),
    }
    meta = {"seed": 3, "loss": 0.1 + 0.2, "nested": {"a": [1, None, "ü"]}}
    path = save(tmp_path / "with spaces ünïcode" / "checkpoints", 12, {"net": named, "none": {}}, meta)
    assert path.name == "step-00000012"
    back = load(path)
    assert (back.step, back.meta) == (12, meta)
    assert back.tensors["none"] == {}
    assert back.tensors["net"].keys() == named.keys()
    for name, tensor in named.items():
        got = back.tensors["net"][name]
        assert got.dtype == tensor.dtype
        assert got.shape == tensor.shape
        assert torch.equal(torch.nan_to_num(got), torch.nan_to_num(tensor.detach().resolve_conj())), name
    assert torch.signbit(back.tensors["net"]["odd"][2])
    assert (path / "net.safetensors").stat().st_size < 8000  # a slice does not drag its storage along


@settings(max_examples=15, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4),
    meta=st.dictionaries(
        st.text(max_size=5), st.recursive(st.none() | st.floats(allow_nan=False) | st.integers() | st.text(), st.lists)
    ),
)
def test_round_trip_of_arbitrary_trees(tmp_path_factory: pytest.TempPathFactory, shapes: list, meta: dict) -> None:
    folder = tmp_path_factory.mktemp("tree")
    tensors = {"g": {f"t{i}": torch.randn(shape) for i, shape in enumerate(shapes)}}
    back = load(save(folder, 1, tensors, meta))
    assert same(back.tensors, tensors)
    assert back.meta == meta


def test_loaded_tensors_do_not_depend_on_the_files(tmp_path: Path) -> None:
    path = save(tmp_path, 1, content(1), {})
    back = load(path)
    with (path / "weights.safetensors").open("r+b") as file:
        file.seek(-100_000, os.SEEK_END)
        file.write(bytes(100_000))
    assert same(back.tensors, content(1))


def test_files_follow_the_umask(tmp_path: Path) -> None:
    path = save(tmp_path, 1, content(1, 10), {})
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
    assert len(modes) == 1, "some files cannot be read by those who can read the others"


def test_saving_a_step_twice_changes_nothing(tmp_path: Path) -> None:
    first = save(tmp_path, 5, content(5, 10), {"n": 1})
    before = {file.name: file.read_bytes() for file in first.iterdir()}
    assert save(tmp_path, 5, content(6, 10), {"n": 2}) == first
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before


def test_saving_over_a_damaged_step_replaces_it(tmp_path: Path) -> None:
    path = save(tmp_path, 5, content(5, 10), {})
    (path / "weights.safetensors").unlink()
    save(tmp_path, 5, content(5, 10), {})
    assert same(load(path).tensors, content(5, 10))
    assert litter(tmp_path) == []


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keeps_the_newest(tmp_path: Path, keep: int) -> None:
    for step in range(0, 60, 10):
        save(tmp_path, step, content(step, 10), {}, keep)
    assert sorted(os.listdir(tmp_path)) == [f"step-{step:08d}" for step in range(60 - 10 * keep, 60, 10)]


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, content(1, 10), {}, 2)
    (save(tmp_path, 2, content(2, 10), {}, 2) / "manifest.json").unlink()
    save(tmp_path, 3, content(3, 10), {}, 2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000001", "step-00000003"]


def test_going_back_never_deletes_what_was_just_saved_nor_what_is_newer(tmp_path: Path) -> None:
    for step in (10, 40):
        save(tmp_path, step, content(step, 10), {}, 2)
    path = save(tmp_path, 20, content(20, 10), {}, 1)
    assert sorted(os.listdir(tmp_path)) == ["step-00000020", "step-00000040"]
    verify(path)


def test_a_failed_delete_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, content(1, 10), {}, 1)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_discard", refuse)
        path = save(tmp_path, 2, content(2, 10), {}, 1)
    verify(path)
    save(tmp_path, 3, content(3, 10), {}, 1)
    assert os.listdir(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize(
    ("step", "tensors", "meta", "keep"),
    [(-1, {}, {}, 2), (1.5, {}, {}, 2), (1, {}, {}, 0), (1, {"../evil": {}}, {}, 2), (1, {}, {"x": object()}, 2)],
)
def test_arguments_that_could_never_work(tmp_path: Path, step: int, tensors: dict, meta: dict, keep: int) -> None:
    with pytest.raises(ValueError):
        save(tmp_path / "new", step, tensors, meta, keep)
    assert not (tmp_path / "new").exists()


def test_tensors_that_cannot_be_stored_leave_nothing_behind(tmp_path: Path) -> None:
    save(tmp_path, 1, content(1, 10), {})
    for bad in (torch.zeros(2, dtype=torch.complex128), torch.eye(3).to_sparse()):
        with pytest.raises(CheckpointError, match=r"g\.safetensors"):
            save(tmp_path, 2, {"g": {"x": bad}}, {})
    assert os.listdir(tmp_path) == ["step-00000001"]


# -------------------------------------------------------------------------------------------------------------- kills


@needs_fork
@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_kill_at_every_point_of_a_save(tmp_path: Path, point: str, keep: int) -> None:
    for step in range(1, keep + 1):
        save(tmp_path, step, content(step, 1000), {"step": step}, keep)
    new = keep + 1

    def work() -> None:
        def reached(at: str) -> None:
            if at == point:
                os.kill(os.getpid(), signal.SIGKILL)

        whole.reached = reached
        save(tmp_path, new, content(new, 1000), {"step": new}, keep)

    assert ending(in_child(work)) == -signal.SIGKILL
    path, complaints = newest(tmp_path)
    assert path is not None
    assert complaints == []
    back = load(path)
    renamed = point in ("after_rename", "before_delete")
    assert back.step == (new if renamed else new - 1)
    assert back.meta == {"step": back.step}
    assert same(back.tensors, content(back.step, 1000))
    assert bool(litter(tmp_path)) is not renamed

    save(tmp_path, new + 1, content(new + 1, 1000), {}, keep)
    assert litter(tmp_path) == []
    assert len(os.listdir(tmp_path)) == keep


@needs_fork
@pytest.mark.parametrize("keep", [1, 2])
def test_kill_while_an_old_one_is_being_deleted(tmp_path: Path, keep: int) -> None:
    for step in range(1, keep + 1):
        save(tmp_path, step, content(step, 10), {}, keep)

    def work() -> None:
        def half(path: Path, **_: object) -> None:
            if ".old-" in path.name:
                next(iter(path.iterdir())).unlink()
                os.kill(os.getpid(), signal.SIGKILL)

        shutil.rmtree = half  # type: ignore[assignment]
        save(tmp_path, keep + 1, content(keep + 1, 10), {}, keep)

    assert ending(in_child(work)) == -signal.SIGKILL
    path, complaints = newest(tmp_path)
    assert path is not None
    assert path.name == f"step-{keep + 1:08d}"
    assert complaints == []
    save(tmp_path, keep + 2, content(keep + 2, 10), {}, keep)
    assert litter(tmp_path) == []
    assert len(os.listdir(tmp_path)) == keep


@needs_fork
@pytest.mark.parametrize("keep", [1, 2])
def test_kill_at_random_moments(tmp_path: Path, keep: int) -> None:
    big = {step: content(step, 500_000) for step in range(1, 4)}  # 4 MB each
    begin = time.perf_counter()
    save(tmp_path / "timing", 1, big[1], {})
    span = 2.2 * (time.perf_counter() - begin)
    rng = random.Random(keep)
    during = 0
    for trial in range(20):
        folder = tmp_path / str(trial)
        save(folder, 1, big[1], {"step": 1}, keep)
        reader, writer = os.pipe()

        def work(folder: Path = folder, writer: int = writer) -> None:
            os.write(writer, b"\x01")
            for step in (2, 3):
                save(folder, step, big[step], {"step": step}, keep)
                os.write(writer, bytes([step]))

        pid = in_child(work)
        assert os.read(reader, 1) == b"\x01"
        time.sleep(span * (trial + rng.random()) / 20)
        os.kill(pid, signal.SIGKILL)
        ending(pid)
        os.close(writer)
        finished = max(os.read(reader, 10) or b"\x01")
        os.close(reader)
        path, complaints = newest(folder)
        assert path is not None
        assert complaints == []
        back = load(path)
        assert back.step >= finished, "a save that had returned is lost"
        assert same(back.tensors, big[back.step])
        during += bool(litter(folder))
        save(folder, 9, content(9, 10), {}, keep)
        assert litter(folder) == []
        assert len(os.listdir(folder)) == keep
        shutil.rmtree(folder)
    assert during > 0, "no kill fell into a save: the test tests nothing"


def test_litter_of_the_living_stays(tmp_path: Path) -> None:
    alive, dead, own = (tmp_path / f".tmp-7-{pid}" for pid in (os.getppid(), 2**22 + 5, os.getpid()))
    for path in (alive, dead, own):
        path.mkdir()
    save(tmp_path, 1, content(1, 10), {})
    assert litter(tmp_path) == [alive.name]


def test_two_saves_at_once_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner: list[Path] = []

    def reached(point: str) -> None:
        if point == "after_file:weights" and not inner:
            inner.append(tmp_path)
            with pytest.raises(CheckpointError, match="being saved"):
                save(tmp_path, 1, content(1, 10), {})
            inner.append(save(tmp_path, 2, content(2, 10), {}))

    monkeypatch.setattr(whole, "reached", reached)
    path = save(tmp_path, 1, content(1, 10), {})
    verify(path)
    verify(inner[1])
    assert litter(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------- full disks


def test_too_little_space_is_said_before_anything_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1, content(1), {}, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=500_000))
    with pytest.raises(CheckpointError, match=r"need 1\.7 MB, have 0\.5 MB") as caught:
        save(tmp_path, 2, content(2), {}, 1)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert os.listdir(tmp_path) == ["step-00000001"]
    assert same(load(path).tensors, content(1))


@pytest.mark.parametrize("call", range(8))
def test_disk_full_at_each_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    save(tmp_path, 1, content(1, 10), {}, 1)
    calls = 0
    true_sync = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        true_sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        if call < 6:  # two groups, meta, manifest, the folder, its parent
            with pytest.raises(CheckpointError, match=r"No space left on device, need .* MB, have .* MB"):
                save(tmp_path, 2, content(2, 10), {}, 1)
        else:
            save(tmp_path, 2, content(2, 10), {}, 1)
    assert litter(tmp_path) == []
    path, complaints = newest(tmp_path)
    assert path is not None
    assert complaints == []
    if call < 6:
        assert (tmp_path / "step-00000001").exists(), "the old one went although the new one was not safe"
    save(tmp_path, 3, content(3, 10), {}, 1)
    assert os.listdir(tmp_path) == ["step-00000003"]


@needs_fork
def test_file_size_limit(tmp_path: Path) -> None:
    save(tmp_path, 1, content(1), {}, 1)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(tmp_path, 2, content(2), {}, 1)
        except CheckpointError as error:
            if "need 1.7 MB" in str(error) and "\n" not in str(error):
                os._exit(3)

    assert ending(in_child(work)) == 3
    assert os.listdir(tmp_path) == ["step-00000001"]
    verify(tmp_path / "step-00000001")


def test_failed_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, content(1, 10), {}, 1)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save(tmp_path, 2, content(2, 10), {}, 1)
    assert os.listdir(tmp_path) == ["step-00000001"]


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path / "file" / "checkpoints", 1, content(1, 10), {})
    assert "\n" not in str(caught.value)


def test_interruption_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole, "reached", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1, content(1, 10), {})
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------------------- damage

FILES = ("weights.safetensors", "optimizer.safetensors", "meta.json", "manifest.json")


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "flipped": flip,
    "truncated": lambda file, rng: os.truncate(file, rng.randrange(file.stat().st_size)),
    "deleted": lambda file, rng: file.unlink(),
    "zeroed": lambda file, rng: file.write_bytes(bytes(file.stat().st_size)),
    "longer": lambda file, rng: file.write_bytes(file.read_bytes() + b" "),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_named_and_stepped_over(tmp_path: Path, name: str, damage: str) -> None:
    rng = random.Random(name + damage)
    old = save(tmp_path, 1, content(1, 100), {"n": 1})
    path = save(tmp_path, 2, content(2, 100), {"n": 2})
    good = (path / name).read_bytes()
    for _ in range(40 if damage == "flipped" else 2):
        DAMAGES[damage](path / name, rng)
        with pytest.raises(CheckpointError, match=name) as caught:
            verify(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        with pytest.raises(CheckpointError, match=name):
            load(path)
        assert newest(tmp_path) == (old, [str(caught.value)])
        (path / name).write_bytes(good)
    verify(path)


def test_every_single_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"g": {"x": torch.zeros(1)}}, {})
    good = (path / "manifest.json").read_bytes()
    missed = []
    with (path / "manifest.json").open("r+b", buffering=0) as file:
        for bit in range(8 * len(good)):
            place, value = bit // 8, good[bit // 8]
            os.pwrite(file.fileno(), bytes([value ^ 1 << bit % 8]), place)
            try:
                verify(path)
                missed.append(bit)
            except CheckpointError as error:
                if "manifest.json" not in str(error):
                    missed.append(bit)
            os.pwrite(file.fileno(), bytes([value]), place)
    assert missed == []
    verify(path)


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    path = save(tmp_path, 1, content(1, 10), {})
    body = json.loads((path / "manifest.json").read_text())
    body.pop("checksum")
    body["files"]["../other"] = body["files"]["meta.json"]
    (path / "manifest.json").write_text(checkpoint._manifest(body))
    with pytest.raises(CheckpointError, match="manifest"):
        verify(path)


def test_a_newer_format_is_refused_as_such(tmp_path: Path) -> None:
    path = save(tmp_path, 1, content(1, 10), {})
    body = json.loads((path / "manifest.json").read_text())
    body.pop("checksum")
    (path / "manifest.json").write_text(checkpoint._manifest({**body, "format": 3}))
    with pytest.raises(CheckpointError, match="format 3, known are 1 and 2"):
        load(path)


def test_nothing_to_find(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing") == (None, [])
    assert newest(tmp_path) == (None, [])
    (tmp_path / "step-00000003").mkdir()
    path, complaints = newest(tmp_path)
    assert path is None
    assert len(complaints) == 1
    assert "manifest.json is missing" in complaints[0]
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------------- single files


def test_weights_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.zeros(3)}, {"sfumato": "1"})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left"):
            save_weights(path, {"a": torch.ones(3)}, {})
    assert torch.equal(load_file(path)["a"], torch.zeros(3))
    save_weights(path, {"a": torch.ones(3)}, {})
    assert torch.equal(load_file(path)["a"], torch.ones(3))
    assert os.listdir(tmp_path) == ["model.safetensors"]


@needs_fork
def test_weights_file_under_kill(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.zeros(3)}, {})

    def work() -> None:
        whole.reached = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        save_weights(path, {"a": torch.ones(3)}, {})

    assert ending(in_child(work)) == -signal.SIGKILL
    assert torch.equal(load_file(path)["a"], torch.zeros(3))
    save_weights(path, {"a": torch.ones(3)}, {})
    assert os.listdir(tmp_path) == ["model.safetensors"]


# ---------------------------------------------------------------------------------------------------------- optimiser


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.SiLU(),
        nn.Linear(16, 16),
        nn.LayerNorm(16),
        nn.Linear(16, 3),
    )


def train(model: nn.Module, optimizer: object, steps: range) -> None:
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        optimizer.zero_grad()  # type: ignore[attr-defined]
        model(torch.randn(5, 2, 4, 4, generator=rng)).square().mean().backward()
        for group in optimizer.param_groups:  # type: ignore[attr-defined]
            group["lr"] = 1e-2 / (1 + step)
        optimizer.step()  # type: ignore[attr-defined]


MAKERS: dict[str, Callable[[nn.Module], object]] = {
    "adamw": lambda model: build(OptimOptions(weight_decay=0.1), model),
    "muon": lambda model: build(OptimOptions(kind="muon", weight_decay=0.1), model),
    "plain adamw": lambda model: torch.optim.AdamW(model.parameters(), amsgrad=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "nadam": lambda model: torch.optim.NAdam(model.parameters()),
    "tensor lr": lambda model: torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01), foreach=False),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_five_steps_save_load_five_more_equal_ten(tmp_path: Path, kind: str) -> None:
    straight, optimizer = (model := network()), MAKERS[kind](model)
    train(straight, optimizer, range(10))

    first, before = (model := network()), MAKERS[kind](model)
    train(first, before, range(5))
    tensors, meta = flatten_optimizer(before)
    path = save(tmp_path, 5, {"weights": first.state_dict(), "optimizer": tensors}, {"optimizer": meta})

    second, after = (model := network()), MAKERS[kind](model)
    back = load(path)
    second.load_state_dict(back.tensors["weights"])
    restore_optimizer(after, back.tensors["optimizer"], back.meta["optimizer"])
    again, meta_again = flatten_optimizer(after)
    assert meta_again == meta
    assert again.keys() == tensors.keys()
    for name in tensors:
        assert again[name].dtype == tensors[name].dtype
        assert torch.equal(again[name], tensors[name])
        assert again[name].stride() == tensors[name].stride(), "the kernels would take another way"
    assert [type(value) for value in after.param_groups[0].values()] == [  # type: ignore[attr-defined]
        type(value)
        for value in before.param_groups[0].values()  # type: ignore[attr-defined]
    ]
    train(second, after, range(5, 10))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_muon_is_among_the_tested() -> None:
    optimizer = MAKERS["muon"](network())
    assert isinstance(optimizer, Composite)
    assert isinstance(optimizer.optimizers[0], torch.optim.Muon)
    assert sum(len(group["params"]) for group in optimizer.optimizers[0].param_groups) > 0


def test_state_keeps_its_precision_and_is_a_copy() -> None:
    def half() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        return weight, torch.optim.AdamW([weight], foreach=False)

    weight, optimizer = half()
    moments = torch.tensor([1.0000001, 2.0, 3.0])
    optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": moments, "exp_avg_sq": moments.clone()}
    tensors, meta = flatten_optimizer(optimizer)
    other, fresh = half()
    restore_optimizer(fresh, tensors, meta)
    assert fresh.state[other]["exp_avg"].dtype == torch.float32
    moments.zero_()
    assert fresh.state[other]["exp_avg"][0] == 1.0000001192092896


def test_python_steps() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Rprop([weight])
    optimizer.state[weight] = {"step": 7, "prev": torch.ones(3), "none": None}
    tensors, meta = flatten_optimizer(optimizer)
    assert list(tensors) == ["state.0.prev"]
    fresh = torch.optim.Rprop([weight])
    restore_optimizer(fresh, tensors, json.loads(json.dumps(meta)))
    assert fresh.state[weight]["step"] == 7
    assert fresh.state[weight]["none"] is None


def test_another_network_is_refused_and_nothing_changes() -> None:
    def made(*layers: nn.Module) -> torch.optim.Optimizer:
        model = nn.Sequential(*layers)
        optimizer = build(OptimOptions(weight_decay=0.1), model)
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
        assert not isinstance(optimizer, Composite)
        return optimizer

    tensors, meta = flatten_optimizer(made(nn.Linear(3, 4), nn.Linear(4, 5)))
    for other, says in (
        (made(nn.Linear(3, 6), nn.Linear(6, 5)), "0.weight has shape"),
        (made(nn.Linear(3, 4)), "parameters"),
        (made(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 5)), "2.weight stands where 1.weight"),
    ):
        before = {name: tensor.clone() for name, tensor in flatten_optimizer(other)[0].items()}
        with pytest.raises(CheckpointError, match=says):
            restore_optimizer(other, tensors, meta)
        for name, tensor in flatten_optimizer(other)[0].items():
            assert torch.equal(tensor, before[name])
    with pytest.raises(CheckpointError, match="not understood"):
        restore_optimizer(made(nn.Linear(3, 4), nn.Linear(4, 5)), {"state.99.x": torch.ones(1)}, meta)
    with pytest.raises(CheckpointError, match="not understood"):
        restore_optimizer(made(nn.Linear(3, 4), nn.Linear(4, 5)), tensors, {})


def test_the_machine_decides_how_to_compute() -> None:
    weight = nn.Parameter(torch.ones(3))
    tensors, meta = flatten_optimizer(torch.optim.AdamW([weight], lr=0.5, fused=True))
    here = torch.optim.AdamW([weight], lr=0.1, foreach=True)
    restore_optimizer(here, tensors, meta)
    assert here.param_groups[0]["lr"] == 0.5
    assert not here.param_groups[0]["fused"]
    assert here.param_groups[0]["foreach"]


def test_weights_keep_their_text_and_a_number_that_was_changed_is_found(tmp_path: Path) -> None:
    """The file is one that any reader of safetensors takes: only the checksum beside the text tells."""
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.zeros(3), "b": torch.ones(2)}, {"step": "7", "sfumato": "x"})
    tensors, about = checkpoint.read_weights(path)
    assert about == {"step": "7", "sfumato": "x"}
    assert {name: value.tolist() for name, value in tensors.items()} == {"a": [0.0] * 3, "b": [1.0] * 2}
    data = path.read_bytes()
    for changed in (data.replace(b'"7"', b'"8"'), data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(changed)
        assert load_file(path).keys() == {"a", "b"}
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged, its checksum differs; restore it"):
            checkpoint.read_weights(path)


def test_what_is_no_weights_file_is_said_in_words_of_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is not a readable safetensors file \(.*header.*\)"):
        checkpoint.read_tensors(path)


def test_the_text_of_a_checkpoint_that_is_no_json_is_said(tmp_path: Path) -> None:
    """With checksums that are right: a writer that was another program's."""
    path = save(tmp_path, 3, {"network": {"a": torch.zeros(2)}}, {})
    (path / "meta.json").write_text("{")
    body = json.loads((path / "manifest.json").read_text())
    body.pop("checksum")
    body["files"]["meta.json"] = {"size": 1, "sha256": checkpoint._digest(path / "meta.json")}
    (path / "manifest.json").write_text(checkpoint._manifest(body))
    with pytest.raises(CheckpointError, match=r"step-00000003: cannot be read \(.*property name.*\); use an older"):
        checkpoint.load(path)


def test_older_ones_come_newest_first_that_of_the_step_last_and_damaged_ones_not(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, {"network": {"a": torch.full((2,), float(step))}}, {}, keep=9)
    (tmp_path / "step-00000002" / "network.safetensors").write_bytes(b"")
    assert [step for step, _ in checkpoint.older(tmp_path, 4)] == [3, 1, 4]
    assert [step for step, _ in checkpoint.older(tmp_path, 9)] == [5, 4, 3, 1]
    assert list(checkpoint.older(tmp_path / "none", 4)) == []
