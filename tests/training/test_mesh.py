"""Copies, parts and strips: the same loss and gradients in every layout, checkpoints that any number of processes reads."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.data import Items, Part
from sfumato.diffusion import Gaussian, Linear, LogitNormal, PerFrame
from sfumato.errors import Wrong
from sfumato.networks import DiT, UNet
from sfumato.networks.attention import SelfAttention, rotary_angles, rotary_turns
from sfumato.networks.strips import Strip
from sfumato.training import checkpoint, loop, shards
from sfumato.training.mesh import Mesh
from sfumato.training.objective import Task
from sfumato.training.options import ParallelOptions, TrainOptions
from sfumato.training.parallel import Runtime, launched
from sfumato.training.run import Run, RunError

from .layouts import ONE, Layout, apart, descents, double, worst
from .small import made, options, processes, slow, small_task
from .test_processes import TASKS
from .worlds import CLASSES, COUNT, WORLDS

CPU = torch.device("cpu")
QUICK = ("plain", "uncertainty", "transport", "self-conditioned", "lagrangian, guided")
LAYOUTS = [Layout(2), Layout(1, 2), Layout(4), Layout(1, 4), Layout(2, 2), Layout(accumulate=4), Layout(2, accumulate=2),
           Layout(1, 2, accumulate=2), Layout(2, 2, accumulate=2)]  # fmt: skip
"""Copies and parts in 1, 2 and 4 processes, and pieces x processes whose product is 4."""


@pytest.fixture(autouse=True)
def _local_sockets():
    import socket

    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
    except OSError:
        pytest.skip("no local sockets here")


# ---- how processes are laid out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "world", "mesh"),
    [
        ((None, 1, 1), 4, (4, 1, 1)),
        ((None, -1, 1), 4, (1, 4, 1)),
        ((None, 2, 1), 8, (4, 2, 1)),
        ((2, -1, 2), 16, (2, 4, 2)),
        ((None, 1, 2), 4, (2, 1, 2)),
        ((2, 2, 1), 1, (1, 1, 1)),
    ],
)
def test_what_is_left_open_fills_the_processes(asked: tuple[int | None, int, int], world: int, mesh: tuple[int, ...]):
    found = Mesh.of(ParallelOptions(*asked), world)
    assert (found.replicate, found.shard, found.context) == mesh
    assert found.size == world


def test_a_mesh_that_is_not_the_world_is_refused_with_every_number():
    with pytest.raises(Wrong, match="replicate 2 x shard 3 x context 2 = 12, but 8 processes were started"):
        Mesh.of(ParallelOptions(2, 3, 2), 8)
    with pytest.raises(Wrong, match=r"shard 3 x context 1 = 3, but 4"):
        Mesh.of(ParallelOptions(None, 3), 4)
    for wrong in ({"replicate": 0}, {"shard": 0}, {"shard": -2}, {"context": 0}):
        with pytest.raises(Wrong, match=f"{next(iter(wrong))}.*must be"):
            ParallelOptions(**wrong)


@pytest.mark.parametrize("mesh", [Mesh(4), Mesh(1, 4), Mesh(2, 2), Mesh(2, 1, 2), Mesh(1, 2, 2), Mesh(1, 1, 4)])
def test_every_place_of_a_batch_is_learned_once_and_alike_in_a_strip_group(mesh: Mesh):
    shares = [list(Runtime(rank, 4, CPU, mesh).share(12)) for rank in range(4)]
    assert [shares[rank] for rank in range(4)] == [shares[rank - rank % mesh.context] for rank in range(4)]
    assert sorted(place for share in shares[:: mesh.context] for place in share) == list(range(12))


def test_a_batch_that_cannot_be_shared_out_is_refused_with_the_nearest():
    with pytest.raises(Wrong, match="a batch of 10 cannot be shared evenly among 4 processes; the nearest is 8 or 12"):
        Runtime(0, 4, CPU, Mesh(4)).share(10)
    assert list(Runtime(3, 4, CPU, Mesh(2, 1, 2)).share(10)) == [5, 6, 7, 8, 9]


# ---- loss and gradients --------------------------------------------------------------------------------------------------


def assert_alike(names: tuple[str, ...], folder: Path, layouts: list[Layout]) -> None:
    found = descents({name: TASKS[name] for name in names}, [ONE, *layouts], folder)
    for name in names:
        for layout in layouts:
            if name == "transport" and layout.accumulate > 1:
                continue  # noise is dealt out within a piece
            off = apart(found[ONE.name, name], found[layout.name, name])
            # rounding, magnified by differences of two answers: .9e-6 and 8.6e-6 by AVX-512, 1.2e-6 by plain kernels; in 64
            # bits it is 1e-15 (below)
            assert worst(off, True) < 3e-6, (name, layout, off)
            assert worst(off, False) < 3e-5, (name, layout, off)


def test_copies_parts_and_pieces_give_one_loss_and_gradient(tmp_path: Path):
    assert_alike(QUICK, tmp_path, LAYOUTS)


@slow
def test_every_criterion_in_every_layout(tmp_path: Path):
    assert_alike(tuple(TASKS), tmp_path, LAYOUTS)


def test_in_64_bits_all_but_the_last_digits(tmp_path: Path):
    tasks = {name: lambda name=name: double(TASKS[name]()) for name in ("plain", "uncertainty")}  # type: ignore[misc]
    layouts = [Layout(2), Layout(1, 4), Layout(2, 2), Layout(2, 2, accumulate=2)]
    found = descents(tasks, [ONE, *layouts], tmp_path)
    for layout in layouts:
        for name in tasks:
            off = apart(found[ONE.name, name], found[layout.name, name])
            exact = {n: v for n, v in off.items() if n.startswith("network.")}  # levels and sums of losses have 32 bits
            assert max(exact.values()) < 1e-12, (name, layout, off)


# ---- strips --------------------------------------------------------------------------------------------------------------


def stirred(kind: type[nn.Module], **options: object) -> nn.Module:
    """A network whose weights say something: a fresh one's last layers are zero."""
    torch.manual_seed(7)
    network = kind(**options)
    with torch.no_grad():
        for value in network.parameters():
            value += 0.1 * torch.randn(value.shape)
    return network


def sequences(**more: object) -> Task:
    """Sequences with padding of weight 0, a time for each element and words to attend to."""
    generator = torch.Generator().manual_seed(1)
    x, words = torch.randn(COUNT, 8, 2, generator=generator), torch.randn(COUNT, 3, 5, generator=generator)
    lengths = 3 + torch.arange(COUNT) % 6
    weight = (torch.arange(8)[None, :, None] < lengths[:, None, None]).float().expand(-1, -1, 2).contiguous()
    network = stirred(DiT, channels=2, dims=1, width=32, depth=3, heads=4, patch=1, classes=CLASSES, context_dim=5)
    items = Items({"x": x, "weight": weight, "label": torch.arange(COUNT) % CLASSES, "context": words})
    return Task(network, Gaussian(Linear(), "data", "velocity"), items, **{"times": PerFrame(LogitNormal()), **more})


def clips() -> Task:
    """Clips of two frames, whose times are cut with the tokens or spread out over them."""
    x = torch.randn(COUNT, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    network = stirred(DiT, channels=3, dims=3, width=32, depth=3, heads=4, patch=2, loops=(2, 2))
    return Task(network, Gaussian(Linear(), "data", "velocity"), Items({"x": x}), times=PerFrame(LogitNormal()))


def writing() -> Task:
    from sfumato.diffusion import Masked
    from sfumato.fields.text.network import TokenTransformer

    tokens = torch.randint(0, 5, (COUNT, 8), generator=torch.Generator().manual_seed(3))
    return Task(stirred(TokenTransformer, answers=5, width=32, depth=2, heads=4), Masked(5), Items({"x": tokens}))


STRIPS = {
    "sequences": sequences,
    "clips": clips,
    "writing": writing,
    "one time": lambda: sequences(times=LogitNormal()),
}


def test_a_step_in_strips_is_the_step_of_one_process(tmp_path: Path):
    """Times for each element, padding, words, labels: all that is cut along with the tokens, and all that is not."""
    layouts = [Layout(1, 1, 2), Layout(1, 1, 4), Layout(2, 1, 2), Layout(1, 2, 2)]
    found = descents(STRIPS, [ONE, *layouts], tmp_path)
    for name in STRIPS:
        assert float(found[ONE.name, name]["norm"]) > 1e-3
        for layout in layouts:
            off = apart(found[ONE.name, name], found[layout.name, name])
            assert worst(off, True) < 1e-6, (name, layout, off)
            assert worst(off, False) < 1e-5, (name, layout, off)


def summed(x: Tensor | None) -> Tensor:
    """The sum over processes."""
    assert x is not None
    x = x.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(x)
    return x


def test_attention_in_strips_and_its_gradients(tmp_path: Path):
    """By an all-to-all no sum is taken in another order."""

    def attention() -> tuple[SelfAttention, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        x, slope = (torch.randn(2, 8, 16, generator=generator) for _ in range(2))
        return SelfAttention(16, 4), x.requires_grad_(), slope, rotary_turns(rotary_angles((8,), 4), torch.float32)

    def work() -> None:
        with launched("cpu") as runtime:
            layer, x, slope, turns = attention()
            strip = Strip(runtime.rank, runtime.world, None)
            layer.of_strip(strip)
            rows = strip.rows(8)
            mine = x.detach()[:, rows].requires_grad_()
            answer = layer(mine, turns[:, rows])
            (answer * slope[:, rows]).sum().backward()
            grads = {name: summed(value.grad) for name, value in layer.named_parameters()}
            found = {"answer": strip.gathered(answer.detach()), "x": strip.gathered(mine.grad), **grads}
            if runtime.first:
                shards_of = tmp_path / f"{runtime.world}.safetensors"
                checkpoint.save_weights(shards_of, found)

    layer, x, slope, turns = attention()
    answer = layer(x, turns)
    (answer * slope).sum().backward()
    dense = {"answer": answer.detach(), "x": x.grad, **{name: value.grad for name, value in layer.named_parameters()}}
    for world in (2, 4):
        assert processes(work, world) == [0] * world
        found = checkpoint.read_tensors(tmp_path / f"{world}.safetensors")
        for name, value in dense.items():
            assert value is not None
            assert float((found[name] - value).abs().max()) < 1e-6 * float(value.abs().max()) + 1e-9, (world, name)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda: UNet(channels=3, width=8, multipliers=[1]), "UNet cannot share out its tokens"),
        (lambda: DiT(channels=2, dims=1, width=24, depth=2, heads=3), "3 heads cannot be shared out evenly among 2"),
        (lambda: DiT(channels=2, dims=1, width=32, depth=4, heads=2, routing=0.5), "leave routing out"),
    ],
)
def test_what_cannot_be_cut_into_strips_is_refused(network: object, said: str, monkeypatch: pytest.MonkeyPatch):
    from sfumato.training import sharding

    monkeypatch.setattr(sharding.dist, "new_group", lambda ranks: ranks)
    with pytest.raises(Wrong, match=f"parallel.context = 2: .*{said}"):
        sharding.strips(network(), Mesh(1, 1, 2), 0)  # type: ignore[operator]


def test_tokens_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="9 tokens cannot be shared out evenly among 2 processes"):
        Strip(0, 2, None).rows(9)


# ---- checkpoints in parts ------------------------------------------------------------------------------------------------


def uneven() -> Task:
    """Networks with rows that no number of processes divides, a buffer, and a weight of levels that is learned, too."""
    task = WORLDS["Gaussian"].task(uncertainty=True)
    task.network.register_buffer("seen", torch.arange(3.0))
    return task


def wait_for(folder: Path, state: loop.State, step: int) -> None:
    tensors, places = state.parts()
    if state.runtime.together is None:
        checkpoint.save(folder, step, tensors, state.meta())
    else:
        checkpoint.save_parts(folder, step, tensors, places or {}, state.meta(), 2, state.runtime.together)


def same(a: checkpoint.Checkpoint, b: checkpoint.Checkpoint) -> bool:
    meta = [{name: value for name, value in c.meta.items() if name != "threads"} for c in (a, b)]
    bits = all(
        a.tensors[group].keys() == b.tensors[group].keys()
        and all(torch.equal(value, b.tensors[group][name]) for name, value in named.items())
        for group, named in a.tensors.items()
    )
    return bits and a.tensors.keys() == b.tensors.keys() and meta[0] == meta[1]


def reread(source: Path, world: int, tmp: Path, **asked: int) -> None:
    """Read the checkpoint of step 1 in ``source`` by so many processes and write it again, in ``tmp``."""

    def work() -> None:
        with launched("cpu") as runtime:
            how = options(batch=12, seed=5, parallel=ParallelOptions(**asked))
            state, _ = loop._begun(uneven(), how, runtime.arranged(how.parallel))
            state.step = state.restore(state.read(source / "step-00000001"))
            wait_for(tmp, state, 1)
            (tmp / f"wrote {runtime.rank}").write_text(str(sum(map(len, state.parts()[0].values()))))

    assert processes(work, world) == [0] * world


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a run of one step in one process."""
    run = made(tmp_path_factory.mktemp("one"))
    loop.train(uneven(), run, options(steps=1, batch=12, seed=5))
    return run.checkpoints


def test_any_number_of_processes_reads_what_any_other_wrote(one_step: Path, tmp_path: Path):
    """From one process to 2, 3 and 4, from each of these to another, and merged by one: never a bit lost."""
    first = checkpoint.load(one_step / "step-00000001")
    assert len(first.tensors["optimizer"]) > 10
    for chain in ((2, 3, 4, 1), (4, 3, 2, 4), (3, 1)):
        source = one_step
        for world in chain:
            folder = tmp_path / f"{chain} {source.name} {world}"
            reread(source, world, folder, shard=-1)
            assert same(first, checkpoint.load(folder / "step-00000001")), (chain, world)
            files = {path.name for path in (folder / "step-00000001").iterdir()}
            assert (f"network@{world - 1}-of-{world}.safetensors" in files) == (world > 1)
            source = folder


def test_copies_of_parts_are_written_once(one_step: Path, tmp_path: Path):
    reread(one_step, 4, tmp_path, replicate=2, shard=2)
    assert same(checkpoint.load(one_step / "step-00000001"), checkpoint.load(tmp_path / "step-00000001"))
    files = sorted(path.name for path in (tmp_path / "step-00000001").iterdir())
    assert [name for name in files if name.startswith("ema")] == [f"ema@{k}-of-2.safetensors" for k in range(2)]
    assert [(tmp_path / f"wrote {rank}").read_text() != "0" for rank in range(4)] == [True, True, False, False]


def parted(folder: Path) -> Path:
    """A checkpoint in two parts, by hand."""
    step = folder / "step-00000004"
    step.mkdir(parents=True)
    x = torch.arange(12.0).reshape(6, 2)
    body: dict[str, object] = {"format": checkpoint.PARTS, "step": 4}
    files = {}
    for k, rows in enumerate((slice(0, 4), slice(4, 6))):
        file = step / shards.file_of("network", k, 2)
        whole = {} if k else {"count": torch.tensor(3)}
        places = {"x": shards.Place(rows.start, (6, 2))}
        checkpoint.whole.write_tensors(file, {"x": x[rows], **whole}, shards.header(places))
        files[file.name] = checkpoint._seal(file)
    (step / "meta.json").write_text("{}")
    files["meta.json"] = checkpoint._seal(step / "meta.json")
    (step / "manifest.json").write_text(checkpoint._manifest({**body, "files": files}))
    return step


def test_rows_of_parts_are_read_alone(tmp_path: Path):
    step = parted(tmp_path)
    whole = checkpoint.load(step).tensors["network"]
    assert torch.equal(whole["x"], torch.arange(12.0).reshape(6, 2))
    assert int(whole["count"]) == 3
    assert checkpoint.shapes(step) == {"network": {"count": (), "x": (6, 2)}}
    for rows in ((0, 6), (1, 5), (3, 4), (5, 6), (4, 4), (6, 6)):
        found = checkpoint.load(step, part=lambda group, name, shape: rows if shape else None)  # noqa: B023
        assert torch.equal(found.tensors["network"]["x"], whole["x"][slice(*rows)])


def spoil(step: Path, how: str) -> None:
    part = step / "network@1-of-2.safetensors"
    content = bytearray(part.read_bytes())
    if how == "missing":
        part.unlink()
        return
    if how == "bit":
        content[-3] ^= 16
    elif how == "header":
        content = content[:20]
    part.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["bit", "missing", "header"])
def test_a_damaged_part_is_named_and_the_older_one_taken(how: str, tmp_path: Path):
    checkpoint.save(tmp_path, 3, {"network": {"x": torch.zeros(2)}}, {})
    step = parted(tmp_path)
    assert checkpoint.newest(tmp_path) == (step, [])
    spoil(step, how)
    found, (complaint,) = checkpoint.newest(tmp_path)
    assert found == tmp_path / "step-00000003"
    assert "network@1-of-2.safetensors" in complaint
    with pytest.raises(checkpoint.CheckpointError, match=r"step-00000004: network@1-of-2"):
        checkpoint.load(step)


@pytest.mark.parametrize(
    ("first", "shape", "said"),
    [(3, (6, 2), "missing"), (5, (6, 2), "missing"), (4, (7, 2), "different shapes"), (4, (6, 3), "different shapes")],
)
def test_pieces_that_make_no_whole_are_refused(first: int, shape: tuple[int, int], said: str, tmp_path: Path):
    """A header that lies is found even where its file is sealed."""
    step = parted(tmp_path)
    file = step / "network@1-of-2.safetensors"
    checkpoint.whole.write_tensors(file, {"x": torch.zeros(2, 2)}, shards.header({"x": shards.Place(first, shape)}))
    body = json.loads((step / "manifest.json").read_text())
    del body["checksum"]
    body["files"][file.name] = checkpoint._seal(file)
    (step / "manifest.json").write_text(checkpoint._manifest(body))
    with pytest.raises(checkpoint.CheckpointError, match=said):
        checkpoint.load(step)


def test_a_part_that_cannot_be_written_ends_the_save_for_all(one_step: Path, tmp_path: Path):
    """The second process fails at its part: nobody waits, nothing is left, and the older one stays."""

    def work() -> None:
        with launched("cpu") as runtime:
            how = options(batch=12, seed=5, parallel=ParallelOptions(shard=2))
            state, _ = loop._begun(uneven(), how, runtime.arranged(how.parallel))
            wait_for(tmp_path, state, 1)
            if runtime.rank == 1:
                checkpoint.whole.reached = lambda point: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            try:
                wait_for(tmp_path, state, 2)
            except checkpoint.CheckpointError as error:
                (tmp_path / f"said {runtime.rank}").write_text(str(error))

    assert processes(work, 2) == [0, 0]
    assert "another process" in (tmp_path / "said 0").read_text()
    assert "No space left" in (tmp_path / "said 1").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["said 0", "said 1", "step-00000001"]
    checkpoint.verify(tmp_path / "step-00000001")


# ---- runs ----------------------------------------------------------------------------------------------------------------


def trained(run: Run, steps: int, world: int, **asked: int) -> None:
    """Train the small run, on so many processes, to its ``steps``-th step; the rate does not depend on how many there are."""
    how = options(steps=steps, keep=100, snapshots=1, previews=1, parallel=ParallelOptions(**asked))
    flat = dataclasses.replace(how.optim, warmup=0, decay=0.0, lr=1e-3)

    def work() -> None:
        loop.train(small_task(), run, dataclasses.replace(how, optim=flat))

    assert processes(work, world) == [0] * world


def back_to(run: Run, step: int, folder: Path) -> Run:
    """A copy of a run as it was after a step."""
    import shutil

    shutil.copytree(run.path, folder)
    checkpoint.forget(folder / "checkpoints", step)
    (folder / "model.safetensors").unlink(missing_ok=True)
    return Run(folder)


def newest(run: Run) -> checkpoint.Checkpoint:
    path, complaints = checkpoint.newest(run.checkpoints)
    assert path is not None
    assert not complaints
    return checkpoint.load(path)


@pytest.mark.parametrize(
    ("world", "asked"), [(2, {"shard": 2}), pytest.param(4, {"replicate": 2, "shard": 2}, marks=slow)]
)
def test_a_run_in_parts_that_was_interrupted_is_the_unbroken_one_to_the_bit(
    world: int, asked: dict[str, int], tmp_path: Path
):
    straight = made(tmp_path / "straight")
    trained(straight, 6, world, **asked)
    again = back_to(straight, 3, tmp_path / "again")
    trained(again, 6, world, **asked)
    assert same(newest(straight), newest(again))
    one, two = (checkpoint.read_tensors(run.model) for run in (straight, again))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    looks = [[r["held_out"] for r in run.records() if "held_out" in r] for run in (straight, again)]
    assert looks[0] == looks[1][-1:]


@slow
def test_a_run_goes_on_from_2_to_4_to_1_to_2_processes(tmp_path: Path):
    """Weights to rounding as in one process all along; and the same way walked twice, the same bits."""
    straight = made(tmp_path / "straight")
    trained(straight, 8, 1)
    ends = []
    for name in ("once", "twice"):
        run = made(tmp_path / name)
        for steps, world, asked in (
            (2, 2, {"shard": 2}),
            (4, 4, {"replicate": 2, "shard": 2}),
            (6, 1, {}),
            (8, 2, {"shard": -1}),
        ):
            trained(run, steps, world, **asked)
        ends.append(newest(run))
    assert same(*ends)
    wanted = newest(straight)
    for name, value in wanted.tensors["network"].items():
        torch.testing.assert_close(ends[0].tensors["network"][name], value, rtol=1e-3, atol=2e-5)
    losses = [[r["loss"] for r in run.records() if "lr" in r] for run in (straight, Run(tmp_path / "once"))]
    assert losses[0][-1] == pytest.approx(losses[1][-1], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: dataclasses.replace(options(), seed=7), "seed was 0 and is 7"),
        (lambda: dataclasses.replace(options(), batch=16), "batch was 8 and is 16"),
        (lambda: None, r"data.items was 32 and is 31"),
    ],
)
def test_a_process_that_would_train_another_run_is_refused(
    change: Callable[[], TrainOptions | None], said: str, tmp_path: Path
):
    """Before the first step, with what differs; nobody waits for the others."""
    run = made(tmp_path)

    def work() -> None:
        how, task = options(steps=2), small_task()
        if os.environ.get("RANK") == "1":
            other = change()
            how = how if other is None else dataclasses.replace(other, steps=2)
            if other is None:
                task = dataclasses.replace(task, train=Part(task.train, np.arange(31)))
        try:
            loop.train(task, run, how)
        except RunError as error:
            (tmp_path / "said").write_text(str(error))
            raise SystemExit(3) from error
        except SystemExit as error:  # it leaves by itself, not because the other one is gone
            raise SystemExit(5) from error

    assert processes(work, 2) == [5, 3]
    assert re.search(f"process 1 would train another run than the first.*{said}", (tmp_path / "said").read_text())
    assert not list(tmp_path.glob("checkpoints/*"))


def test_slopes_of_strips_are_joined_however_they_lie_in_memory(tmp_path: Path):
    """A gradient that is not contiguous, as after a transposed product: torch's own autograd gather was wrong there."""

    def work() -> None:
        with launched("cpu") as runtime:
            strip = Strip(runtime.rank, runtime.world, None)
            x = torch.arange(24.0).reshape(2, 4, 3).requires_grad_()
            slope = torch.arange(24.0).reshape(2, 3, 4).transpose(1, 2)
            assert not slope.is_contiguous()
            (strip.join(strip.cut(x) * 2) * slope).sum().backward()
            assert torch.equal(summed(x.grad) / 2, 2 * slope)  # type: ignore[arg-type]
            y = torch.arange(32.0).reshape(1, 4, 4, 2).requires_grad_()
            turned = torch.arange(32.0).reshape(1, 2, 4, 4).permute(0, 3, 2, 1)
            (strip.join(strip.to_tokens(strip.to_heads(strip.cut(y)))) * turned).sum().backward()
            assert torch.equal(summed(y.grad) / 2, turned)  # type: ignore[arg-type]

    assert processes(work, 2) == [0, 0]


def test_muon_sees_whole_matrices_where_they_lie_in_parts(tmp_path: Path):
    """Its update is of a matrix, not of rows: a step in parts is that of one process."""
    ends = []
    for world, asked in ((1, {}), (2, {"shard": 2})):
        run, task = made(tmp_path / str(world)), clips()
        how = options(steps=1, keep=3, parallel=ParallelOptions(**asked))
        how = dataclasses.replace(how, optim=dataclasses.replace(how.optim, kind="muon", lr=1e-2))
        assert processes(partial(loop.train, task, run, how), world) == [0] * world
        fresh, end = (checkpoint.load(run.checkpoints / f"step-0000000{n}").tensors["network"] for n in range(2))
        ends.append({name: end[name] - fresh[name] for name in end})
    for name in ("blocks.0.attention.qkv.weight", "blocks.1.feed.out.weight", "modulation.weight"):
        one, two = (end[name] for end in ends)
        assert float(one.norm()) > 1e-3
        assert float((two - one).norm()) < 0.2 * float(one.norm()), name  # it multiplies in bfloat16: 0.08 was seen


def test_units_are_compiled_one_by_one(tmp_path: Path):
    """What a compiled network gives is what the plain one does; the compiler only looks here, and changes nothing."""

    def work() -> None:
        with launched("cpu") as runtime:
            kinds = []
            nn.Module.compile = lambda module, *_, **__: kinds.append(type(module).__name__)  # type: ignore[method-assign]
            how = options(parallel=ParallelOptions(shard=2), compile="on")
            loop._begun(small_task(), how, runtime.arranged(how.parallel))
            assert kinds == ["Block", "Block"], kinds

    assert processes(work, 2) == [0, 0]


def test_a_bad_number_in_one_process_is_named_by_it_and_ends_all(tmp_path: Path):
    """Weights in parts are asked for by all processes, whoever has the bad row: nobody waits."""
    run = made(tmp_path)

    def work() -> None:
        draw = loop._draw

        def drawn(task: Task, how: TrainOptions, at: int, *rest: object) -> object:
            found = draw(task, how, at, *rest)  # type: ignore[arg-type]
            last = os.environ["RANK"] == "1"
            return found._replace(x=found.x * float("nan")) if at == 2 and last else found

        loop._draw = drawn  # type: ignore[assignment]
        try:
            loop.train(small_task(), run, options(steps=5, parallel=ParallelOptions(shard=2)))
        except loop.NonFinite as error:
            (tmp_path / f"said {os.environ['RANK']}").write_text(str(error))
            raise SystemExit(4) from error

    assert processes(work, 2) == [4, 4]
    assert "another process met a loss" in (tmp_path / "said 0").read_text()
    assert "first bad value in the data itself; samples: " in (tmp_path / "said 1").read_text()
    assert newest(run).step == 2
