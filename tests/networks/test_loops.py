"""Blocks applied again and again: any number of loops, and more never for the worse."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, Gaussian, LogitNormal, loss
from sfumato.networks import DiT, build, describe, flops
from sfumato.networks.loops import draw_loops, self_distillation, settle

from .test_contract import shaken


def small(loops: Any = (1, 4), **options: Any) -> DiT:
    return DiT(channels=2, width=32, patch=2, loops=loops, **{"depth": 3, **options})


def given(batch: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    return torch.randn(batch, 2, 8, 4, generator=rng), torch.randn(batch, generator=rng)


# ---- the iteration ---------------------------------------------------------------------------------------------------


def matrix(eigenvalues: list[complex], seed: int = 0) -> Tensor:
    """A real matrix with the eigenvalues a +- ib of each a + ib."""
    blocks = [torch.tensor([[e.real, e.imag], [-e.imag, e.real]], dtype=torch.float64) for e in eigenvalues]
    basis = torch.randn(2 * len(blocks), 2 * len(blocks), generator=torch.Generator().manual_seed(seed)).double()
    return basis @ torch.block_diag(*blocks) @ torch.linalg.inv(basis)


def test_linear_layers_sum_a_geometric_series_to_its_limit() -> None:
    a, h0 = matrix([0.5 + 0.3j, -0.6, 0.2j]), torch.randn(6, dtype=torch.float64)
    limit = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - a, h0)
    for loops in (1, 2, 4, 7):
        series = sum(torch.linalg.matrix_power(a, j) @ h0 for j in range(loops + 1))
        torch.testing.assert_close(settle(lambda h: h + a @ h, h0, loops, most=8), series, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(settle(lambda h: h + a @ h, h0, 80, most=80), limit, rtol=1e-8, atol=1e-8)


def test_layers_that_would_run_away_settle_beyond_training() -> None:
    a, h0 = matrix([-1.3, 0.2 + 1.1j, 0.5]), torch.randn(6, dtype=torch.float64)
    limit = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - a, h0)
    away = {n: (settle(lambda h: h + a @ h, h0, n, most=4) - limit).norm() for n in (4, 32, 256, 2048)}
    assert away[2048] < away[256] < away[32] < away[4]
    assert away[2048] < 1e-3 * away[4]
    endless = settle(lambda h: h + a @ h, h0, 256, most=256)
    assert (endless - limit).norm() > 1e10


def test_a_fixed_point_is_left_alone() -> None:
    a, h = matrix([0.5 + 0.3j, -1.6]), torch.randn(4, dtype=torch.float64)
    entry, calls = h - a @ h, 0  # so that h = entry + F(h)

    def layers(now: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return h if calls == 1 else now + a @ now  # the first round goes straight there

    torch.testing.assert_close(settle(layers, entry, 30, most=3), h, rtol=1e-9, atol=1e-9)
    assert calls == 30


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_loop_is_the_plain_network_of_the_same_weights(dims: int) -> None:
    options: dict[str, Any] = {"channels": 2, "dims": dims, "width": 32, "depth": 5, "patch": 2, "context_dim": 3}
    looped = shaken(DiT(**options, loops=(1, 1)))
    plain = DiT(**options)
    plain.load_state_dict(looped.state_dict())
    x = torch.randn({1: (2, 8, 2), 2: (2, 2, 8, 4), 3: (2, 3, 2, 4, 4)}[dims])
    level = torch.randn(x.shape[:2] if dims != 2 else x.shape[:1])
    expected = plain(x, level, level - 1, context=torch.ones(2, 4, 3))
    assert torch.equal(looped(x, level, level - 1, context=torch.ones(2, 4, 3)), expected)
    assert torch.equal(looped(x, level, level - 1, context=torch.ones(2, 4, 3), loops=1), expected)


def test_only_the_middle_blocks_are_repeated() -> None:
    network, calls = shaken(small(depth=4)), []
    for i, block in enumerate(network.blocks):
        block.register_forward_hook(lambda _, inputs, output, i=i: calls.append(i))
    network(*given(), loops=3)
    assert calls == [0, 1, 2, 1, 2, 1, 2, 3]


def test_gentle_blocks_come_to_rest() -> None:
    network, (x, level) = shaken(small(depth=4)).eval(), given()
    with torch.no_grad():
        for part in (network.modulation.weight, network.modulation.bias, *(b.offsets for b in network.blocks)):
            part *= 0.3  # gates small enough for a contraction
        answers = {n: network(x, level, loops=n) for n in (1, 2, 32, 128)}
    assert (answers[2] - answers[1]).abs().max() > 1e-3
    torch.testing.assert_close(answers[128], answers[32], rtol=1e-4, atol=1e-5)


def test_random_in_training_and_most_in_evaluation() -> None:
    network, (x, level) = shaken(small((2, 4))), given()
    each = {n: network(x, level, loops=n) for n in range(1, 6)}
    seen = Counter()
    for seed in range(60):
        torch.manual_seed(seed)
        answer = network(x, level)
        torch.manual_seed(seed)
        assert torch.equal(network(x, level), answer)  # a function of torch's own stream
        seen[next(n for n, expected in each.items() if torch.equal(answer, expected))] += 1
    assert seen.keys() == {2, 3, 4}
    assert min(seen.values()) > 8
    network.eval()
    assert torch.equal(network(x, level), each[4])
    assert torch.equal(network(x, level, loops=1), each[1])
    assert not torch.equal(each[5], each[4])


def test_draws_every_number_alike() -> None:
    torch.manual_seed(0)
    seen = Counter(draw_loops(2, 5) for _ in range(4000))
    assert seen.keys() == {2, 3, 4, 5}
    assert max(abs(count - 1000) for count in seen.values()) < 4 * math.sqrt(4000 * 3 / 16)
    before = torch.get_rng_state()
    assert draw_loops(3, 3) == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loops", [1, 2, 6])
def test_gradient_reaches_every_parameter(loops: int) -> None:
    network, (x, level) = shaken(small(classes=3)), given()
    network(x, level, level - 1, label=torch.tensor([0, 2]), loops=loops).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_options_survive_json() -> None:
    network, (x, level) = shaken(small()), given()
    assert network.options["loops"] == [1, 4]
    twin = build(json.loads(json.dumps(network.options)))
    assert twin.options == network.options
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(x, level, loops=7), network(x, level, loops=7))
    older = {name: value for name, value in small(None).options.items() if name != "loops"}
    assert build(older).options["loops"] is None


def test_counts_and_describes() -> None:
    assert flops(small((1, 4)), (2, 8, 8)) == flops(small(None, depth=6), (2, 8, 8))
    assert describe(small()) == describe(small(None))  # loops add no weights


def test_wrong_loops_say_what_is_needed() -> None:
    for loops in ((0, 3), (3, 2), (1,), (1, 2, 3), (1.0, 2)):
        with pytest.raises(ValueError, match=r"expected two whole numbers.*1 <= least <= most"):
            small(loops)
    with pytest.raises(ValueError, match="depth of 3 or more, not 2"):
        small(depth=2)
    with pytest.raises(ValueError, match=r"loops and routing=0.5 do not go together"):
        small(depth=5, routing=0.5)
    with pytest.raises(ValueError, match="loops is 0, expected 1 or more"):
        small()(*given(), loops=0)
    with pytest.raises(ValueError, match="loops=2, but this network was built with loops=None"):
        small(None)(*given(), loops=2)


def test_bfloat16_autocast_stays_near_float32() -> None:
    network, (x, level) = shaken(small()), given()
    wide = network(x, level, loops=8)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = network(x, level, loops=8)
    assert (narrow - wide).square().mean().sqrt() < 0.05 * wide.square().mean().sqrt()


def test_traces_without_graph_breaks() -> None:
    network, (x, level) = shaken(small()), given()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for loops in (1, 3):
        torch.testing.assert_close(compiled(x, level, loops=loops), network(x, level, loops=loops))
    network.eval()
    torch.testing.assert_close(compiled(x, level), network(x, level))


def test_random_loops_compile_too() -> None:
    network, (x, level) = shaken(small((1, 3))), given()
    compiled = torch.compile(network, backend="eager")
    for seed in range(8):
        torch.manual_seed(seed)
        expected = network(x, level)
        torch.manual_seed(seed)
        torch.testing.assert_close(compiled(x, level), expected)


def test_self_distillation_pulls_few_loops_to_many() -> None:
    network, (x, level) = shaken(small()), given()
    apart = (network(x, level, loops=1) - network(x, level, loops=4)).detach()
    found = self_distillation(network, x, level, few=1, many=4)
    torch.testing.assert_close(found, apart.square().flatten(1).mean(1))
    assert self_distillation(network, x, level, few=2, many=2).max() == 0
    found.sum().backward()
    one = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    goal = network(x, level, loops=4).detach()  # only the side with few loops learns
    (network(x, level, loops=1) - goal).square().flatten(1).mean(1).sum().backward()
    for got, expected in zip(one, [p.grad for p in network.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.trained
@pytest.mark.slow
def test_more_loops_than_in_training_do_no_harm() -> None:
    digits = torch.from_numpy(pytest.importorskip("sklearn.datasets").load_digits().images).float()[:, None]
    digits = ((digits - digits.mean()) / digits.std())[torch.randperm(len(digits), generator=torch.Generator())]
    train, held_out = digits[:1500], digits[1500:]
    torch.manual_seed(0)
    network, process = DiT(channels=1, width=48, depth=3, patch=2, loops=(1, 4)), Gaussian(predicts="v")
    optimizer = torch.optim.AdamW(network.parameters())
    steps, times = 600, LogitNormal()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        optimizer.zero_grad()
        t = times(torch.rand(64), process.schedule).float()
        loss(Denoiser(network, process), train[torch.randint(len(train), (64,))], t).mean().backward()
        optimizer.step()
    network.eval()
    z = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(1))
    t = times((torch.arange(len(z)) + 0.5) / len(z), process.schedule).float()
    with torch.no_grad():
        wrong = {
            n: loss(Denoiser(network, process), held_out, t, z=z, loops=n).mean().item()
            for n in (1, 2, 3, 4, 6, 8, 16, 32, 128)
        }
    assert wrong[4] < wrong[1] < 0.6, wrong  # it has learned, and looping pays
    assert max(wrong[n] for n in (6, 8, 16, 32, 128)) < 1.02 * min(wrong.values()), wrong
