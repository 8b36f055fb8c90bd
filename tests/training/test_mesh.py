"""Copies, parts and strips: the same loss and gradients in every layout, checkpoints that any number of processes reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.data import Items
from sfumato.diffusion import Gaussian, Linear, LogitNormal, PerFrame
from sfumato.errors import Wrong
from sfumato.networks import DiT, UNet
from sfumato.networks.dit import Block
from sfumato.networks.parts import SelfAttention, rotary_angles, rotary_turns
from sfumato.networks.strips import Strip
from sfumato.training import checkpoint, loop, parallel, shards
from sfumato.training.mesh import Mesh
from sfumato.training.objective import Task
from sfumato.training.options import ParallelOptions, TrainOptions
from sfumato.training.parallel import Runtime, launched
from sfumato.training.run import Run
from sfumato.training.sharding import units

from .layouts import ONE, Layout, apart, descents, double, worst
from .small import assert_same, made, noted, options, processes, slow, small_task
from .test_processes import TASKS
from .worlds import CLASSES, COUNT, WORLDS

CPU = torch.device("cpu")
QUICK = ("plain", "uncertainty", "terms", "transport", "a time a part", "lagrangian, guided")
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
    assert sorted(sum(shares[:: mesh.context], [])) == list(range(12))


def test_a_batch_that_cannot_be_shared_out_is_refused_with_the_nearest():
    with pytest.raises(Wrong, match="a batch of 10 cannot be shared evenly among 4 processes; the nearest is 8 or 12"):
        Runtime(0, 4, CPU, Mesh(4)).share(10)
    assert list(Runtime(3, 4, CPU, Mesh(2, 1, 2)).share(10)) == [5, 6, 7, 8, 9]


# ---- loss and gradients --------------------------------------------------------------------------------------------------


def assert_alike(names: tuple[str, ...], folder: Path, layouts: list[Layout]) -> None:
    found = descents({name: TASKS[name] for name in names}, [ONE, *layouts], folder)
    for name in names:
        for layout in layouts:
            off = apart(found[ONE.name, name], found[layout.name, name])
            assert worst(off, True) < 1e-6, (name, layout, off)
            assert worst(off, False) < 1e-5, (name, layout, off)


def test_copies_parts_and_pieces_give_one_loss_and_gradient(tmp_path: Path):
    assert_alike(("plain", "terms"), tmp_path, LAYOUTS)


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


STRIPS = {"sequences": sequences, "clips": clips, "writing": writing, "one time": lambda: sequences(times=LogitNormal())}


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
            grads = {name: strip.meant(value.grad) * strip.count for name, value in layer.named_parameters()}
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
