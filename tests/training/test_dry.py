"""A dry run says what a real one holds: parts, units, activations, work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato import networks
from sfumato.data import Items
from sfumato.diffusion import Gaussian, Linear
from sfumato.errors import Wrong
from sfumato.networks import DiT
from sfumato.training import loop
from sfumato.training.dry import Cannot, foresee, fused_attention
from sfumato.training.objective import Task
from sfumato.training.options import ParallelOptions, TrainOptions
from sfumato.training.parallel import Runtime, launched
from sfumato.training.sharding import local

from .small import options, processes


def task(**more: object) -> Task:
    network = DiT(channels=3, width=64, depth=3, heads=2, patch=2, classes=2)
    items = Items({"x": torch.randn(8, 3, 8, 8), "label": torch.arange(8) % 2})
    return Task(network, Gaussian(Linear(), "data", "velocity"), items, **more)  # type: ignore[arg-type]


def asked(batch: int = 256, **parallel: int) -> TrainOptions:
    return options(batch=batch, parallel=ParallelOptions(**parallel))


def test_the_parts_of_128_processes_make_the_whole():
    """Padded by less than a hundredth, every unit in parts, and no process above the plan, which is that of the first."""
    plan = foresee(task(), asked(replicate=16, shard=8), 128)
    assert [(kind, many) for kind, many, _, _ in plan.units] == [("Block", 3)]
    held = [foresee(task(), asked(replicate=16, shard=8), 128, rank).held for rank in range(8)]
    assert max(held) == held[0] == plan.held
    assert sum(held) == plan.parameters
    assert plan.held < 1.05 * plan.parameters / 8  # of so small a network; of a large one 12.502 % were seen
    again = foresee(task(), asked(replicate=16, shard=8), 128, 3 * 8 + 2)
    assert again.held == held[2]  # every copy has the same parts


def test_a_plan_is_what_a_real_process_holds(tmp_path: Path):
    """Weights, gradients, moments and averages of the first of two processes, after a step."""
    how = asked(8, shard=2)

    def work() -> None:
        with launched("cpu") as runtime:
            state, module = loop._begun(task(), how, runtime.arranged(how.parallel))
            _, pieces = next(loop._steps(state.task, how, 0, state.runtime))
            loop._pieces(state, module, 0, pieces)
            state.optimizer.step()
            held = [local(p) for p in state.objective.parameters()]
            held += [local(p.grad) for p in state.objective.parameters() if p.grad is not None]
            held += [local(v) for each in state.optimizer.state.values() for v in each.values() if v.ndim]
            held += list(state.ema.state().values())
            if runtime.first:
                (tmp_path / "bytes").write_text(str(sum(v.numel() * v.element_size() for v in held)))

    assert processes(work, 2) == [0, 0]
    real = int((tmp_path / "bytes").read_text())
    # the second time of flow maps learns nothing: it has no gradient and no moments
    idle = sum(p.numel() for p in task().network.condition.arrival.parameters())
    plan = foresee(task(), how, 2).state
    assert plan - 3 * 4 * idle <= real <= plan


def kept_by(network: nn.Module, *shown: Tensor, **condition: Tensor) -> int:
    """Bytes that a real call keeps for its way back, each memory once, weights aside."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in own:
            kept.setdefault(value.untyped_storage().data_ptr(), value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        network(*shown, **condition)
    return sum(value.numel() * value.element_size() for value in kept.values())


def test_what_is_kept_for_the_way_back_is_what_a_real_call_keeps():
    one = task()
    rows = 8
    plan = foresee(one, asked(rows), 1)
    with torch.no_grad():
        for value in one.network.parameters():
            value += 0.01 * torch.randn_like(value)
    one.network.train()
    real = kept_by(
        one.network, torch.randn(rows, 3, 8, 8), torch.zeros(rows), label=torch.zeros(rows, dtype=torch.int64)
    )
    assert plan.kept == pytest.approx(real, rel=0.15)
    twice = foresee(one, asked(2 * rows), 1)
    assert twice.kept == pytest.approx(2 * plan.kept, rel=1e-6)
    halves = foresee(one, dataclasses.replace(asked(2 * rows), accumulate=2), 1)
    assert halves.kept == plan.kept
    assert halves.flops == pytest.approx(twice.flops)


def test_work_is_three_times_that_of_an_answer():
    one = task()
    plan = foresee(one, asked(16), 1)
    assert plan.flops == pytest.approx(3 * 16 * networks.flops(one.network, (3, 8, 8)), rel=0.05)
    assert foresee(one, asked(16), 4).flops == pytest.approx(plan.flops / 4)


def test_attention_pretended_has_the_shape_and_the_kept_memory_of_a_fused_one():
    q, k, v = (torch.empty(2, 4, n, 8, device="meta", requires_grad=True) for n in (64, 96, 96))
    kept: list[Tensor] = []
    with fused_attention(), torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        answer = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert sum(x.numel() for x in kept) == sum(x.numel() for x in (q, k, v, answer))  # not 64 x 96 of each head
        assert answer.shape == (2, 4, 64, 8)
        answer.sum().backward()
    assert [tuple(x.grad.shape) for x in (q, k, v) if x.grad is not None] == [tuple(x.shape) for x in (q, k, v)]


def test_what_cannot_be_planned_says_why():
    bare = dataclasses.replace(task(), network=nn.Sequential(nn.Linear(2, 2), nn.SiLU()))
    with pytest.raises(Wrong, match=r"Sequential names no units.*made of Sequential \(1\), Linear \(1\), SiLU \(1\)"):
        foresee(bare, asked(shard=8), 8)
    with pytest.raises(Wrong, match="a batch of 256 cannot be shared evenly among 96 processes"):
        foresee(task(), asked(), 96)
    with pytest.raises(Wrong, match="replicate 3 x shard 8 x context 1 = 24, but 32"):
        foresee(task(), asked(replicate=3, shard=8), 32)

    class Looks(DiT):
        def forward(self, x: Tensor, *rest: Tensor, **more: Tensor) -> Tensor:
            return x if bool((x > 0).any()) else -x

    looks = dataclasses.replace(task(), network=Looks(channels=3, width=64, depth=2, heads=2, patch=2))
    with pytest.raises(Cannot, match="Looks cannot be called without numbers"):
        foresee(looks, asked(), 8)


def test_a_dry_run_leaves_the_network_and_torch_as_they_were():
    one = task()
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    attention = torch.nn.functional.scaled_dot_product_attention
    foresee(one, asked(shard=4), 4)
    assert all(torch.equal(value, before[name]) for name, value in one.network.state_dict().items())
    assert torch.nn.functional.scaled_dot_product_attention is attention
    assert not torch.distributed.is_initialized()
    assert Runtime(0, 1, torch.device("cpu")).mesh.size == 1
