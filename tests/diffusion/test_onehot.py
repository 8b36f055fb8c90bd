"""One-hot tokens under Gaussian noise: the same laws and solvers as for tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.exact import finite_data
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.loss import loss
from sfumato.diffusion.onehot import Decoding, OneHot, decoding_error
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import VP, Cosine, Linear, Schedule
from sfumato.diffusion.solvers import SOLVERS
from tests.laws.token_tables import generator, worst_errors

F64 = torch.float64
LIMITS = {
    "law 1": 1e-14,
    "law 2": 1e-11,
    "law 3": 1e-13,
    "law 4": 1e-14,
    "law 5": 5 / 100_000**0.5,  # five standard errors of a mean of 100 000 draws, in units of the noise
    "law 6": 1e-13,
    "law 7": 1e-14,
}


def test_laws() -> None:
    errors = worst_errors("OneHot")
    assert errors.keys() == LIMITS.keys()
    for law, limit in LIMITS.items():
        assert errors[law] <= limit, law


@dataclass(frozen=True)
class Letters:
    """The exact answer for one token drawn from ``law`` (V,): the posterior's logits, from the points' densities."""

    law: Tensor
    process: OneHot

    def answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (
            a[..., None, None, None] for a in (self.process.schedule.alpha(t), self.process.schedule.sigma(t))
        )
        points = self.process.embed(torch.arange(len(self.law))[None], F64)[0]
        away = x_t[..., None, :] - alpha * points
        return self.law.log() - (away**2).sum(-1) / (2 * sigma[..., 0] ** 2).clamp_min(1e-12)

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        return self.process.endpoints(self.answer(x_t, t), x_t, t)


@pytest.mark.parametrize(
    "solver", ["euler", "heun", "ab3", "ab4", "unipc", "dpmpp_2m", "ancestral", "churn", "adaptive"]
)
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), VP()], ids=["linear", "cosine", "vp"])
def test_solvers_walk_as_on_the_points_themselves(solver: str, schedule: Schedule) -> None:
    """The one-hot world against the Gaussian denoiser of a finite set of points: the same path."""
    process = OneHot(4, schedule, scale=2.0)
    data = Letters(torch.full((4,), 0.25, dtype=F64), process)
    points = finite_data(process.embed(torch.arange(4)[None], F64)[0], process=Gaussian(schedule, "data"))
    z, times = torch.randn(9, 1, 4, dtype=F64, generator=generator(0)), uniform(schedule, 12)
    ours = sample(data, z, times, SOLVERS[solver], Streams(key("one"), range(9)))
    theirs = sample(points, z[:, 0], times, SOLVERS[solver], Streams(key("one"), range(9)))
    assert (ours[:, 0] - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("solver", ["euler", "heun", "ab3"])
def test_letters_come_out_as_often_as_they_should(solver: str) -> None:
    law = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=F64)
    process = OneHot(4, Linear(), scale=3.0)
    z = torch.randn(20_000, 1, 4, dtype=F64, generator=generator(1))
    written = sample(Letters(law, process), z, uniform(Linear(), 64), SOLVERS[solver])
    tokens = process.decode(written)
    assert (written - process.embed(tokens, F64)).abs().max() < 1e-6
    seen = torch.bincount(tokens[:, 0], minlength=4) / 20_000
    assert (seen - law).abs().max() < 0.015


def test_exact_answers_have_the_least_loss() -> None:
    """Cross-entropy is least at the posterior: any change of the logits costs, in the mean."""
    law = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=F64)
    process = OneHot(4, scale=2.0)
    x = torch.multinomial(law, 50_000, True, generator=generator(2))[:, None]
    t = torch.tensor(0.6, dtype=F64)
    z = torch.randn(50_000, 1, 4, dtype=F64, generator=generator(3))
    answer = Letters(law, process).answer(process.interpolate(x, z, t), t)
    least = process.loss(answer, x, z, t).mean()
    for other in (answer * 0.7, answer * 1.4, answer + torch.tensor([0.5, 0, 0, 0])):
        assert process.loss(other, x, z, t).mean() > least


def test_trains_with_the_one_loss() -> None:
    process = OneHot(5)
    network = torch.nn.Linear(5, 5)
    x, t = torch.randint(5, (6, 3), generator=generator(4)), torch.rand(6, generator=generator(5))
    value = loss(Denoiser(lambda shown, level: network(shown), process), x, t, Streams(key("o"), range(6)))
    value.sum().backward()
    assert value.shape == (6,)
    assert float(network.weight.grad.abs().sum()) > 0
    vectors = loss(
        Denoiser(lambda shown, level: network(shown), process), process.embed(x), t, Streams(key("o"), range(6))
    )
    assert torch.equal(value, vectors)


def test_bad_input_is_named() -> None:
    process, x = OneHot(5), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        process.prior(x + 5)
    with pytest.raises(ValueError, match="int64"):
        process.prior(x.int())
    with pytest.raises(ValueError, match="5 tokens"):
        process.prior(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="4 logits"):
        process.loss(torch.zeros(2, 3, 4), x, torch.zeros(2, 3, 5), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(2, 3, 'V'\)"):
        process.loss(torch.zeros(2, 5), x, torch.zeros(2, 3, 5), torch.zeros(2))
    with pytest.raises(ValueError, match="scale"):
        OneHot(5, scale=0.0)


# ---- the pace of decoding --------------------------------------------------------------------------------------------


def test_decoding_error_of_two_tokens_is_known() -> None:
    """With V = 2 the other coordinate wins when the difference of two unit normals exceeds the signal."""
    signal = torch.linspace(0, 12, 50, dtype=F64)
    wanted = torch.special.erfc(signal / 2) / 2
    assert ((decoding_error(signal, 2) - wanted) / wanted).abs().max() < 1e-6


@pytest.mark.parametrize("vocab", [2, 27, 5000])
def test_decoding_error_grows_linearly(vocab: int) -> None:
    """Measured on noise: the argmax is wrong at rate t (V - 1) / V."""
    process = OneHot(vocab, Decoding(vocab, 2.0), scale=2.0)
    count = 20_000 if vocab < 1000 else 2000
    x = torch.randint(vocab, (1, count), generator=generator(6))
    z = torch.randn(1, count, vocab, dtype=torch.float32, generator=generator(7))
    for t in (0.02, 0.3, 0.7, 1.0):
        wrong = float((process.decode(process.interpolate(x, z, torch.tensor(t))) != x).float().mean())
        assert abs(wrong - t * (1 - 1 / vocab)) < 5 * (0.25 / count) ** 0.5


@pytest.mark.parametrize("vocab", [2, 27, 50_000])
def test_decoding_is_a_schedule(vocab: int) -> None:
    schedule = Decoding(vocab, 1.5)
    t = torch.linspace(0, 1, 101, dtype=F64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert alpha[0] == 1
    assert alpha[-1] == 0
    assert abs(float(schedule.alpha(torch.tensor(1 - 1e-12, dtype=F64)))) < 1e-6
    assert bool((sigma.diff() > 0).all())
    assert (alpha + sigma - 1).abs().max() < 1e-15
    inner = t[1:-1]
    step = 1e-6
    slope = (schedule.sigma(inner + step) - schedule.sigma(inner - step)) / (2 * step)
    assert (schedule.rates(inner)[1] / slope - 1).abs().max() < 1e-5
    assert (schedule.at_angle(schedule.angle(inner)) - inner).abs().max() < 1e-9


def test_decoding_pace_walks() -> None:
    """Even steps of it end on tokens, with float32 noise."""
    schedule = Decoding(4, 3.0)
    data = Letters(torch.full((4,), 0.25, dtype=F64), OneHot(4, schedule, scale=3.0))
    z = torch.randn(2000, 1, 4, dtype=F64, generator=generator(8))
    for solver in ("euler", "ab3"):
        written = sample(data, z, uniform(schedule, 16), SOLVERS[solver])
        assert torch.equal(data.process.decode(written), data.process.decode(z))  # equal shares: the nearest one wins
