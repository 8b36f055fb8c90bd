"""The learning rate as a function, and who is updated by what."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sfumato.training.optim import (
    Composite,
    OptimOptions,
    build,
    clip,
    default_lr,
    hidden_matrices,
    learning_rate,
    peak_lr,
)

options = st.builds(OptimOptions, warmup=st.integers(0, 500), decay=st.floats(0, 1))


@given(options, st.integers(1, 3000), st.floats(1e-6, 1))
def test_learning_rate_rises_stays_and_falls(options: OptimOptions, steps: int, lr: float) -> None:
    rates = [learning_rate(options, step, steps, lr) for step in range(steps + 1)]
    assert all(0 < rate <= lr for rate in rates[:-1])
    assert rates[-1] == 0
    peak = rates.index(max(rates))
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))
    # No jumps: neither faster than the warm-up nor than the decay (but for the end of a run without decay).
    warmup = min(options.warmup, steps // 10)
    steepest = lr * max(1 / (warmup + 1), 1 / max(options.decay * steps, 1))
    assert all(abs(a - b) <= steepest * (1 + 1e-9) for a, b in pairwise(rates[:-1]))
    assert sum(rate == lr for rate in rates[:-1]) >= steps - warmup - options.decay * steps - 2


@given(options, st.integers(1, 100_000), st.floats(0, 1), st.floats(1e-6, 1))
def test_learning_rate_is_proportional_to_the_peak(options: OptimOptions, steps: int, share: float, lr: float) -> None:
    step = int(share * steps)
    one = learning_rate(options, step, steps, 1.0)
    assert learning_rate(options, step, steps, lr) == pytest.approx(lr * one)


def test_learning_rate_by_hand() -> None:
    shape = OptimOptions(warmup=9, decay=0.5)
    assert [learning_rate(shape, step, 100, 1.0) for step in (0, 4, 9, 50, 75, 99, 100, 170)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0, 0.5, 0.02, 0.0, 0.0]
    )
    with pytest.raises(ValueError, match="steps"):
        learning_rate(shape, 0, 0, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "sgd"),
        ("lr", 0.0),
        ("lr", math.nan),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -1.0),
        ("warmup", -1),
        ("decay", 1.1),
        ("clip", 0.0),
        ("momentum", 1.0),
    ],
)
def test_bad_options_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} = .*must be"):
        OptimOptions(**{name: value})


def test_default_rate_falls_with_size() -> None:
    assert [default_lr(n) for n in (1, 10**6, 10**6 + 1, 10**7, 10**8, 10**9)] == [2e-3, 2e-3, 1e-3, 1e-3, 3e-4, 1e-4]
    model = nn.Linear(10, 10)
    assert peak_lr(OptimOptions(), model) == 2e-3
    assert peak_lr(OptimOptions(lr=0.5), model) == 0.5
    assert build(OptimOptions(), model).param_groups[0]["lr"] == 2e-3


def test_options_do_not_import_torch() -> None:
    code = "import sys, sfumato.training.optim as o; o.OptimOptions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.offsets = nn.Parameter(torch.zeros(6, width))
        self.gate = nn.Linear(width, 1)


class Transformer(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(4, width)
        self.labels = nn.Embedding(5, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.mix = nn.Conv1d(width, width, 3)
        self.head = nn.Linear(width, 4)
        self.frozen = nn.Linear(width, width).requires_grad_(False)


class Wrapper(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.module = network


HIDDEN = {f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("qkv", "out")}


def test_muon_gets_only_hidden_matrices() -> None:
    model = Transformer()
    assert set(hidden_matrices(model)) == HIDDEN
    assert set(hidden_matrices(Wrapper(Wrapper(model)))) == {f"module.module.{name}" for name in HIDDEN}
    optimizer = build(OptimOptions(kind="muon"), model)
    assert isinstance(optimizer, Composite)
    muon, adamw = optimizer.optimizers
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {name for group in muon.param_groups for name in group["param_names"]} == HIDDEN
    assert {group["adjust_lr_fn"] for group in muon.param_groups} == {"match_rms_adamw"}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for group in adamw.param_groups for name in group["param_names"]} == trained - HIDDEN


def test_nameless_networks_lose_their_first_and_last_matrix() -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 2))
    assert set(hidden_matrices(model)) == {"2.weight"}
    assert hidden_matrices(nn.Linear(3, 3)) == {}
    assert isinstance(build(OptimOptions(kind="muon"), nn.Linear(3, 3)), torch.optim.AdamW)


def test_a_matrix_tied_to_an_embedding_is_one() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 5), nn.Linear(8, 8), nn.Linear(8, 8))
    model.append(nn.Embedding(5, 8))
    model[1].weight = model[4].weight
    assert set(hidden_matrices(model)) == {"2.weight"}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_decay_spares_biases_norms_embeddings_and_extras(kind: str) -> None:
    model, extra = Transformer(), nn.Parameter(torch.ones(4, 4))
    optimizer = build(OptimOptions(kind=kind, weight_decay=0.5), model, [extra])
    decayed = {name for group in optimizer.param_groups if group["weight_decay"] for name in group["param_names"]}
    gates = {"blocks.0.gate.weight", "blocks.1.gate.weight"}
    assert decayed == HIDDEN | gates | {"enter.weight", "mix.weight", "head.weight"}
    everyone = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(everyone) == len(set(everyone))
    assert id(extra) in everyone


def test_extras_inside_the_model_are_taken_once_and_by_adamw() -> None:
    model = Transformer()
    optimizer = build(OptimOptions(kind="muon"), model, [model.blocks[0].qkv.weight])  # type: ignore[union-attr]
    assert isinstance(optimizer, Composite)
    assert any(p is model.blocks[0].qkv.weight for g in optimizer.optimizers[1].param_groups for p in g["params"])  # type: ignore[union-attr]


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        build(OptimOptions(), nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.trained
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_learns(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    optimizer = build(OptimOptions(kind=kind, lr=5e-3), model)
    x = torch.randn(256, 4)
    y = x.prod(1, keepdim=True)
    first = last = 0.0
    for step in range(150):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        clip(model.parameters(), 1.0)
        optimizer.step()
        first, last = (loss.item(), 0.0) if step == 0 else (first, loss.item())
    assert last < 0.3 * first


def test_composite_state_dict_goes_both_ways() -> None:
    torch.manual_seed(0)
    one, two = Transformer(), Transformer()
    optimizers = [build(OptimOptions(kind="muon"), model) for model in (one, two)]
    for parameter in one.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    optimizers[0].step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    left, right = (optimizer.state_dict() for optimizer in optimizers)
    assert left["param_groups"] == right["param_groups"]
    assert left["state"].keys() == right["state"].keys() == set(range(len(left["state"])))
    for index, state in left["state"].items():
        assert all(torch.equal(value, right["state"][index][key]) for key, value in state.items())
    with pytest.raises(ValueError, match="groups"):
        optimizers[1].load_state_dict({"state": {}, "param_groups": [{"params": [0]}]})
    optimizers[0].zero_grad()
    assert all(parameter.grad is None for parameter in one.parameters())
    assert optimizers[0].step(lambda: 3.0) == 3.0


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_clip_bounds_the_norm_and_keeps_the_direction(size: float, limit: float) -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))]
    gradient = torch.tensor([1.0, -2, 3, 4, 5, -6, 7])
    gradient *= size / gradient.norm()
    parameters[0].grad, parameters[1].grad = gradient[:3].clone(), gradient[3:].reshape(2, 2).clone()
    norm = clip(parameters, limit)
    assert norm.shape == ()
    assert norm.item() == pytest.approx(size, rel=1e-5)
    after = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    assert torch.allclose(after, gradient * min(1, limit / size), rtol=1e-3)


def test_clip_without_limit_changes_nothing() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3.0, 4.0, 0.0])
    assert clip([parameter], math.inf) == 5
    assert parameter.grad.tolist() == [3, 4, 0]
    parameter.grad[0] = math.nan
    assert not clip([parameter], 1.0).isfinite()
