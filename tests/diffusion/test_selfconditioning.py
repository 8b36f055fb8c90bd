"""Self-conditioning: an option of the same loss and the same sampler, with no gradient through the first guess."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.loss import loss
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.product import Clean, Product
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler, sample
from sfumato.diffusion.schedule import Cosine, Linear
from sfumato.diffusion.selfconditioning import SelfConditioned, remember, zeros
from sfumato.diffusion.solvers import ab, heun

F64 = torch.float64
PROCESS = Gaussian(Linear(), "data", "velocity")
T = torch.linspace(0.1, 0.9, 8, dtype=F64)


def streams(name: str = "rows", rows: int = 8) -> Streams:
    return Streams(key(name), range(rows))


def x(rows: int = 8) -> Tensor:
    return torch.randn(rows, 3, dtype=F64, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Answers a shown + b previous; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=F64))
        self.b = nn.Parameter(torch.tensor(0.3, dtype=F64))
        self.told: list[tuple[Tensor, bool]] = []

    def forward(self, shown: Tensor, level: Tensor, previous: Tensor) -> Tensor:
        self.told.append((previous, torch.is_grad_enabled()))
        answer: Tensor = self.a * shown + self.b * previous
        return answer


def test_at_share_0_it_is_plain_training_with_zeros() -> None:
    net = Net()
    found = loss(SelfConditioned(Denoiser(net, PROCESS), 0.0, streams()), x(), T, streams("noise"))
    wanted = loss(Denoiser(net, PROCESS), x(), T, streams("noise"), previous=torch.zeros(8, 3, dtype=F64))
    assert torch.equal(found, wanted)
    assert len(net.told) == 2  # one call each


def test_at_share_1_every_row_sees_the_guess_of_a_first_pass() -> None:
    net = Net()
    denoiser = Denoiser(net, PROCESS)
    found = loss(SelfConditioned(denoiser, 1.0, streams()), x(), T, streams("noise"))
    x_t = PROCESS.interpolate(x(), PROCESS.prior(x(), streams("noise")), T)
    guess = denoiser(x_t, T, previous=zeros(x_t)).x.detach()
    assert torch.equal(found, loss(denoiser, x(), T, streams("noise"), previous=guess))


def test_no_gradient_flows_through_the_first_pass() -> None:
    """By the chain rule written out: the guess is a constant, so d answer / d a is what is shown and d / d b the guess."""
    net = Net()
    denoiser = Denoiser(net, PROCESS)
    x_t = x().requires_grad_()
    answer = SelfConditioned(denoiser, 1.0, streams()).answer(x_t, T)
    (first, first_graph), (second, second_graph) = net.told
    assert (first == 0).all()
    assert (first_graph, second_graph) == (False, True)
    assert not second.requires_grad
    shown = PROCESS.precondition(x_t, T)[0]
    a, b, point = torch.autograd.grad(answer.sum(), (net.a, net.b, x_t), retain_graph=True)
    assert torch.allclose(a, shown.sum(), rtol=1e-12)
    assert torch.allclose(b, second.sum(), rtol=1e-12)
    (wanted,) = torch.autograd.grad((net.a * PROCESS.precondition(x_t, T)[0]).sum(), x_t)
    assert torch.allclose(point, wanted, rtol=1e-12)


def test_rows_are_drawn_from_the_given_streams() -> None:
    """Row i sees its guess or not, whatever the batch; about a share of many rows do; another key, other rows."""

    def seen(rows: Any, name: str = "rows", share: float = 0.5) -> list[bool]:
        net, rng = Net(), Streams(key(name), rows)
        SelfConditioned(Denoiser(net, PROCESS), share, rng).answer(
            torch.ones(len(rows), 3, dtype=F64), torch.tensor(0.5)
        )
        return (net.told[-1][0] != 0).any(1).tolist()

    whole = seen(range(400))
    assert seen(range(400)) == whole
    assert seen(range(400), "others") != whole
    assert [seen([i])[0] for i in range(40)] == whole[:40]
    assert abs(sum(whole) / 400 - 0.5) < 0.1
    assert abs(sum(seen(range(400), share=0.2)) / 400 - 0.2) < 0.08


@pytest.mark.parametrize("solver", [Euler(), Euler(1.0), heun(), ab(2)], ids=["euler", "ancestral", "heun", "ab2"])
def test_sampling_passes_the_last_guess_on(solver: Any) -> None:
    net = Net()
    guesses = []

    class Watching:
        process = PROCESS

        def __call__(self, x_t: Tensor, t: Tensor, s: Any = None, **condition: Any) -> Any:
            ends = Denoiser(net, PROCESS)(x_t, t, s, **condition)
            guesses.append(ends.x)
            return ends

    sample(Watching(), x(), uniform(Linear(), 6), remember(solver), streams())
    previous = [previous for previous, _ in net.told]
    assert (previous[0] == 0).all()
    assert len(previous) >= 6
    for one, two in zip(guesses, previous[1:]):
        assert torch.equal(one, two)


def test_a_network_that_ignores_its_past_is_sampled_as_ever() -> None:
    net = Net()
    net.b.data.zero_()
    z, times = x(), uniform(Linear(), 7)
    for solver in (Euler(), Euler(0.5), heun(), ab(3)):
        found = sample(Denoiser(net, PROCESS), z, times, remember(solver), streams())
        plain = Denoiser(lambda shown, level: net.a * shown, PROCESS)
        assert torch.equal(found, sample(plain, z, times, solver, streams()))
        assert remember(solver).order == solver.order


def test_two_samplings_share_nothing() -> None:
    """No hidden state: the same solver object twice gives the same twice."""
    solver, denoiser = remember(Euler()), Denoiser(Net(), PROCESS)
    first = sample(denoiser, x(), uniform(Linear(), 5), solver)
    assert torch.equal(sample(denoiser, x(), uniform(Linear(), 5), solver), first)


def test_products_and_conditions() -> None:
    process = Product(a=Gaussian(Linear(), "data"), inner=Product(b=Gaussian(Cosine(), "v"), label=Clean()))
    given = []

    def network(shown: Any, level: Any, previous: Any, push: Tensor) -> Any:
        given.append(previous)
        b = shown["inner"]["b"]
        return {"a": shown["a"] + push, "inner": {"b": b * previous["inner"]["b"].cos()}}

    whole = {"a": x(), "inner": {"b": 2 * x(), "label": torch.arange(8)}}
    found = loss(
        SelfConditioned(Denoiser(network, process), 0.5, streams()),
        whole,
        T,
        streams("noise"),
        push=torch.ones((), dtype=F64),
    )
    assert found.shape == (8,)
    rows = (given[-1]["a"] != 0).any(1)
    assert torch.equal(rows, (given[-1]["inner"]["b"] != 0).any(1))
    assert 0 < rows.sum() < 8
    z = process.prior(whole, streams("noise"))
    end = sample(Denoiser(network, process), z, uniform(Linear(), 4), remember(Euler()), push=torch.ones((), dtype=F64))
    assert torch.equal(end["inner"]["label"], whole["inner"]["label"])


def test_the_blank_must_fit_the_guess() -> None:
    """Where a guess of the data is shaped otherwise than the data (probabilities of tokens), the user says so."""

    class Wide(Gaussian):
        def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Any = None) -> Any:
            ends = super().endpoints(answer, x_t, t, rng)
            return ends._replace(x=ends.x[..., None].expand(*ends.x.shape, 5))

    def network(shown: Tensor, level: Tensor, previous: Tensor) -> Tensor:
        return shown

    denoiser = Denoiser(network, Wide(Linear(), "data"))
    with pytest.raises(ValueError, match=r"shape \(8, 3, 5\) and of shape \(8, 3\) .* pass blank="):
        SelfConditioned(denoiser, 1.0, streams()).answer(x(), T)
    fits = SelfConditioned(denoiser, 1.0, streams(), blank=lambda x_t: x_t.new_zeros(*x_t.shape, 5))
    assert fits.answer(x(), T).shape == (8, 3)
    with pytest.raises(ValueError, match=r"must be 0 to 1, got 1\.5"):
        SelfConditioned(denoiser, 1.5)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, shown: Tensor, level: Tensor, previous: Tensor) -> Tensor:
        answer: Tensor = self.layers(torch.cat([shown, previous, level[:, None] / 4], 1))
        return answer


@pytest.mark.trained
def test_a_small_network_learns_with_it() -> None:
    """Two points, at -1 with probability 0.3 and at 1 with 0.7: samples land on them in these shares."""
    torch.manual_seed(0)
    net, process = Small(), Gaussian(Cosine(), "data")
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(600):
        points = (torch.rand(256, 1, generator=rng) < 0.7).float() * 2 - 1
        t = torch.rand(256, generator=rng)
        optimiser.zero_grad()
        loss(SelfConditioned(Denoiser(net, process), 0.5, rng), points, t, rng).mean().backward()
        optimiser.step()
    z = torch.randn(2000, 1, generator=rng)
    found = sample(Denoiser(net, process), z, uniform(Cosine(), 30), remember(Euler()))
    assert (found.abs() - 1).abs().median() < 0.05
    assert float((found > 0).float().mean()) == pytest.approx(0.7, abs=0.06)
