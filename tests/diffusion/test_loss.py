"""The loss and its three free choices: times, weights, couplings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.diffusion.couplings import assign, independent, optimal_transport
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.loss import loss
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.schedule import VP, Cosine, Linear, LogLinear
from sfumato.diffusion.times import Adaptive, LogitNormal, LogNormal, Uniform, stratified
from sfumato.diffusion.weights import LearnedUncertainty, edm_weight, min_snr, sigmoid_weight
from tests.laws.worlds import ANSWERS, F64, normal

every_answer = pytest.mark.parametrize("predicts", ANSWERS)
every_space = pytest.mark.parametrize("loss_in", ANSWERS)


# ---- the loss --------------------------------------------------------------------------------------------------------


@every_answer
@every_space
def test_a_perfect_network_has_no_loss(predicts: str, loss_in: str) -> None:
    """All data is the same picture: whoever knows it can tell every answer from what a network is shown."""
    x = normal(1, 3, 2, 2).expand(16, 3, 2, 2)

    def network(shown: Tensor, level: Tensor) -> Tensor:
        angle = level.double().exp().atan()[:, None, None, None]
        z = (shown - angle.cos() * x) / angle.sin()
        sigma = angle.sin() / (angle.sin() + angle.cos())  # the straight schedule
        answers = {
            "data": x,
            "noise": z,
            "v": angle.cos() * z - angle.sin() * x,
            "velocity": z - x,
            "score": -z / sigma,
        }
        return answers[predicts]

    process = Gaussian(Linear(), predicts, loss_in)  # type: ignore[arg-type]
    t = torch.linspace(0.05, 0.95, 16, dtype=F64)
    found = loss(Denoiser(network, process), x, t, torch.Generator().manual_seed(0))
    assert found.shape == (16,)
    assert found.max() < 1e-8
    wrong = loss(Denoiser(lambda shown, level: network(shown, level) + 1, process), x, t)
    assert (wrong > 100 * found).all()


@every_answer
@every_space
@pytest.mark.parametrize("schedule", [Linear(), VP(), Cosine()], ids=["linear", "vp", "cosine"])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(axes=st.integers(1, 2), seed=st.integers(0, 10**6))
def test_the_loss_is_the_error_of_the_endpoints(
    schedule: Any, predicts: str, loss_in: str, axes: int, seed: int
) -> None:
    """Whatever is answered: the loss is the squared error of the guessed endpoints as seen in loss_in, times the
    weight. So a change of answer alone leaves the loss of the same guess as it is."""
    x, z, answer = normal(3, 4, 5, 2, seed=seed)
    t = 0.1 + 0.8 * torch.rand(4, 5, dtype=F64, generator=torch.Generator().manual_seed(seed))[(..., 0)[: 3 - axes]]
    t = t if t.ndim == axes else t[:, 0]
    weight = sigmoid_weight(-0.3)
    process = Gaussian(schedule, predicts, loss_in, weight, cap=math.inf)  # type: ignore[arg-type]
    x_t = process.interpolate(x, z, t)
    guess = process.endpoints(answer, x_t, t)
    space = Gaussian(schedule, loss_in)  # type: ignore[arg-type]
    error = (space.target(*guess, t) - space.target(x, z, t)) ** 2
    weights = weight(schedule.logsnr(t))
    wanted = (weights.reshape(*t.shape, *[1] * (3 - t.ndim)) * error).flatten(1).mean(1)
    assert torch.allclose(process.loss(answer, x, z, t), wanted, rtol=1e-9, atol=1e-12)


@every_answer
def test_weights_on_x_are_weights_on_x(predicts: str) -> None:
    """With loss_in="data" a weight from the papers multiplies the squared error of the guessed x, whatever the answer."""
    x, z, answer = normal(3, 6, 3)
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    snr = ((1 - t) / t) ** 2
    papers = {
        "edm": (edm_weight(0.5), ((t / (1 - t)) ** 2 + 0.25) / ((t / (1 - t)) ** 2 * 0.25)),
        "min_snr": (min_snr(5.0), snr.clamp_max(5.0)),
        "sigmoid": (sigmoid_weight(-1.0), snr / (1 + (snr.log() + 1).exp())),  # SNR * sigmoid(-1 - logsnr)
    }
    for rule, wanted in papers.values():
        process = Gaussian(Linear(), predicts, "data", rule, cap=math.inf)  # type: ignore[arg-type]
        guess = process.endpoints(answer, process.interpolate(x, z, t), t).x
        direct = wanted * ((guess - x) ** 2).mean(1)
        assert torch.allclose(process.loss(answer, x, z, t), direct, rtol=1e-10)


def test_edm_weight_is_the_loss_in_v_at_unit_variance() -> None:
    x, z, answer = normal(3, 6, 3)
    t = torch.linspace(0.1, 0.9, 6, dtype=F64)
    one = Gaussian(Linear(), "data", "data", edm_weight()).loss(answer, x, z, t)
    two = Gaussian(Linear(), "data", "v", cap=math.inf).loss(answer, x, z, t)
    assert torch.allclose(one, two, rtol=1e-12)


def test_the_cap_bounds_the_factor() -> None:
    t = torch.tensor([1e-4, 0.02, 0.05, 0.5, 1.0], dtype=F64)
    factor = Gaussian(Linear(), "data", "velocity").loss_weight(t)
    wanted = torch.tensor([400.0, 400.0, 400.0, 4.0, 1.0], dtype=F64)
    assert torch.allclose(factor, wanted, rtol=1e-12)
    assert Gaussian(Linear(), "data", "velocity").loss_weight(torch.zeros(1)).isfinite().all()


def test_a_time_per_token_is_each_token_alone() -> None:
    x, z, answer = normal(3, 2, 4, 3)
    t = torch.rand(2, 4, dtype=F64, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    process = Gaussian(VP(), "data", "velocity")
    parts = [process.loss(answer[:, i], x[:, i], z[:, i], t[:, i]) for i in range(4)]
    assert torch.allclose(process.loss(answer, x, z, t), torch.stack(parts).mean(0), rtol=1e-12)


def test_given_noise_is_used_and_drawn_noise_is_the_rngs() -> None:
    process, x, t = Gaussian(), normal(3, 2), torch.full((3,), 0.5, dtype=F64)
    denoiser = Denoiser(lambda shown, level: torch.zeros_like(shown), process)
    z = normal(3, 2, seed=4)
    assert torch.allclose(loss(denoiser, x, t, z=z), ((z - x) ** 2).mean(1))
    drawn = Streams(key("noise"), range(3)).normal((3, 2), F64)
    assert torch.allclose(loss(denoiser, x, t, Streams(key("noise"), range(3))), ((drawn - x) ** 2).mean(1))


def test_truth_54_misspelt_keywords_raise() -> None:
    denoiser = Denoiser(lambda shown, level, label=None: shown, Gaussian())
    x, t = normal(2, 2), torch.full((2,), 0.5, dtype=F64)
    assert loss(denoiser, x, t, label=torch.zeros(2)).shape == (2,)
    with pytest.raises(TypeError, match="lable"):
        loss(denoiser, x, t, lable=torch.zeros(2))


# ---- times -----------------------------------------------------------------------------------------------------------

EVEN = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000


@pytest.mark.parametrize(
    ("times", "law"),
    [
        (Uniform(0.1, 0.9), scipy.stats.uniform(0.1, 0.8).cdf),
        (Uniform(), scipy.stats.uniform(1e-4, 1 - 1e-4).cdf),
        (LogitNormal(0.8, 0.6), lambda t: scipy.stats.norm(0.8, 0.6).cdf(scipy.special.logit(t))),
        (LogitNormal(), lambda t: scipy.stats.norm().cdf(scipy.special.logit(t))),
        (LogNormal(), lambda t: scipy.stats.norm(-1.2, 1.2).cdf(np.log(t / (1 - t)))),
        (LogNormal(0.4, 2.0), lambda t: scipy.stats.norm(0.4, 2.0).cdf(np.log(t / (1 - t)))),
    ],
    ids=lambda value: str(value) if isinstance(value, (Uniform, LogitNormal, LogNormal)) else "law",
)
def test_quantiles_of_even_numbers_follow_the_law(times: Any, law: Any) -> None:
    """Kolmogorov-Smirnov without chance: the quantiles of even numbers are within 1/20,000 of the distribution."""
    t = times(EVEN, Linear())
    assert scipy.stats.kstest(t.numpy(), law).statistic < 1e-4
    assert (t[1:] >= t[:-1]).all()
    assert times(EVEN[:6].reshape(2, 3), Linear()).shape == (2, 3)


def test_log_normal_times_are_a_law_of_noise_on_any_schedule() -> None:
    for schedule in (VP(), Cosine(), LogLinear(1e-4, 1e4)):
        level = -schedule.logsnr(LogNormal(-1.2, 1.2)(EVEN, schedule)).numpy() / 2
        assert scipy.stats.kstest(level, scipy.stats.norm(-1.2, 1.2).cdf).statistic < 1e-3
    clipped = LogNormal(0.0, 50.0)(EVEN, VP())
    assert clipped.min() >= 0
    assert clipped.max() <= 1
    assert clipped.isfinite().all()


@pytest.mark.parametrize("times", [Uniform(), LogitNormal(), LogNormal(), Adaptive()], ids=lambda t: type(t).__name__)
def test_extreme_numbers_give_times(times: Any) -> None:
    t = times(torch.tensor([0.0, 1e-12, 0.5, 1 - 1e-12, 1.0], dtype=F64), Linear())
    assert t.isfinite().all()
    assert t.min() >= 0
    assert t.max() <= 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(ranks=st.integers(1, 4), accumulation=st.integers(1, 3), batch=st.integers(1, 6), seed=st.integers(0, 999))
def test_truth_52_every_stratum_is_hit_once(ranks: int, accumulation: int, batch: int, seed: int) -> None:
    total = ranks * accumulation * batch
    found = []
    for rank in range(ranks):
        for micro in range(accumulation):
            first = (micro * ranks + rank) * batch
            rows = range(first, first + batch)
            found.append(stratified(Streams(key("times", seed), rows), torch.tensor(rows), total))
    u = torch.cat(found)
    assert ((u >= 0) & (u < 1)).all()
    assert sorted((u * total).floor().int().tolist()) == list(range(total))
    whole = stratified(Streams(key("times", seed), range(total)), torch.arange(total), total)
    assert torch.equal(u.sort().values, whole.sort().values)


def taught(profile: Any, uniform: float = 0.1) -> Adaptive:
    times = Adaptive(low=-4.0, high=3.0, bins=50, uniform=uniform)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        level = -4 + 7 * torch.rand(200, generator=generator)
        times.observe(level, profile(level))
    return times


def profile(level: Tensor) -> Tensor:
    return torch.exp(-((level + 1) ** 2))


@pytest.mark.parametrize("uniform", [0.0, 0.3])
def test_adaptive_learns_a_known_profile(uniform: float) -> None:
    times = taught(profile, uniform)
    middles = -4 + 7 * (torch.arange(50, dtype=F64) + 0.5) / 50
    wanted = profile(middles) / profile(middles).sum() * (1 - uniform) + uniform / 50
    assert float(times.density().sum()) == pytest.approx(1, abs=1e-12)
    assert (times.density() - wanted).abs().max() < 0.03 * wanted.max()


def test_adaptive_draws_from_its_density() -> None:
    times = taught(profile)
    t = times(EVEN, Linear())
    level = (t / (1 - t)).log()
    counts = torch.histc(level, 50, -4.0, 3.0) / len(EVEN)
    assert (counts - times.density()).abs().max() < 2e-4
    assert (t[1:] > t[:-1]).all()
    inside = level[level < -1]  # within a bin levels are even: the distribution function is piecewise straight
    share = float(times.density()[:21].sum() + (3 - 21 * 0.14) / 0.14 * times.density()[21])
    assert len(inside) / len(EVEN) == pytest.approx(share, abs=2e-4)


def test_adaptive_forgets_by_what_it_sees() -> None:
    times = Adaptive(low=0.0, high=1.0, bins=4, momentum=0.9)
    times.observe(torch.tensor([0.1, 0.1, 0.6]), torch.tensor([0.5, 0.0, 7.0]))
    wanted = torch.tensor([0.9**2 + (1 - 0.9**2) * 0.25, 1.0, 0.9 + 0.1 * 1.0, 1.0], dtype=F64)
    assert torch.allclose(times.errors, wanted)
    assert "errors" in times.state_dict()


@pytest.mark.trained
def test_learned_uncertainty_at_its_optimum() -> None:
    """exp(u) becomes the mean loss of the level: descending on it, the value there tends to 1 + log of that loss."""
    torch.manual_seed(0)
    module = LearnedUncertainty()
    assert torch.equal(module(torch.tensor([2.0]), torch.tensor([0.3])), torch.tensor([2.0]))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    level = torch.linspace(-4, 3, 128)
    losses = torch.exp(torch.sin(level) - 1)
    for _ in range(1500):
        optimizer.zero_grad()
        module(losses, level).mean().backward()
        optimizer.step()
    assert (module(losses, level) - (1 + losses.log())).abs().max() < 0.01
    u = module(torch.zeros(128), level)
    assert (u - losses.log()).abs().max() < 0.05


# ---- couplings -------------------------------------------------------------------------------------------------------


def check(cost: Tensor) -> None:
    found = assign(cost)
    assert sorted(found.tolist()) == list(range(len(cost)))
    rows, columns = scipy.optimize.linear_sum_assignment(cost.numpy())
    least, spread = cost.numpy()[rows, columns].sum(), float(cost.max() - cost.min())
    total = float(cost[torch.arange(len(cost)), found].sum())
    assert total <= least + 1e-4 * spread + 1e-12
    assert total >= least - 1e-9 * max(1.0, abs(least))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(n=st.integers(1, 24), seed=st.integers(0, 10**6), kind=st.sampled_from(["random", "ties", "points", "flat"]))
def test_assign_is_least_cost(n: int, seed: int, kind: str) -> None:
    if kind == "points":
        cost = torch.cdist(normal(n, 2, seed=seed), normal(n, 2, seed=seed + 1)) ** 2
    elif kind == "flat":
        cost = torch.full((n, n), 3.0, dtype=F64)
    else:
        cost = torch.rand(n, n, dtype=F64, generator=torch.Generator().manual_seed(seed)) * 100 - 50
        cost = cost.round(decimals=-1) if kind == "ties" else cost
    check(cost)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_assign_refuses_what_has_no_end(wrong: float) -> None:
    x = normal(4, 2)
    x[1, 0] = wrong
    with pytest.raises(ValueError, match="finite"):
        optimal_transport(x, normal(4, 2, seed=1))


def test_assign_a_whole_batch() -> None:
    check(torch.cdist(normal(128, 8), normal(128, 8, seed=1)) ** 2)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(n=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_truth_49_transport_on_a_line_is_sorting(n: int, seed: int) -> None:
    """Up to the declared precision of the total: 1e-4 of the spread of the costs."""
    x, z = normal(n, 1, seed=seed), normal(n, 1, seed=seed + 1)
    dealt = optimal_transport(x, z)
    assert torch.equal(dealt.sort(0).values, z.sort(0).values)
    order = x[:, 0].argsort()
    spread = float((torch.cdist(x, z) ** 2).max())
    best = float(((x[order] - z.sort(0).values) ** 2).sum())
    assert float(((x - dealt) ** 2).sum()) <= best + 1e-4 * spread


def test_transport_straightens_and_keeps_shapes() -> None:
    x, z = normal(32, 3, 2, 2), normal(32, 3, 2, 2, seed=1)
    dealt = optimal_transport(x, z)
    assert dealt.shape == z.shape
    assert ((x - dealt) ** 2).sum() < ((x - z) ** 2).sum()
    assert {tuple(row.flatten().tolist()) for row in dealt} == {tuple(row.flatten().tolist()) for row in z}
    assert independent(x, z) is z


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_transport_keeps_noise_within_its_condition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (48,), generator=generator)
    x, z = normal(48, 2, seed=seed) + labels[:, None], normal(48, 2, seed=seed + 1)
    dealt = optimal_transport(x, z, {"label": labels})
    for label in range(4):
        mine = labels == label
        assert {tuple(row) for row in dealt[mine].tolist()} == {tuple(row) for row in z[mine].tolist()}
        if mine.sum() > 1:
            assert ((x - dealt)[mine] ** 2).sum() <= ((x - z)[mine] ** 2).sum() + 1
    free = optimal_transport(x, z)
    assert ((x - free) ** 2).sum() < ((x - dealt) ** 2).sum()


def test_transport_with_vectors_as_conditions() -> None:
    x, z = normal(40, 2), normal(40, 2, seed=1)
    condition = (torch.arange(40) % 2 * 10.0)[:, None].expand(40, 3)
    dealt = optimal_transport(x, z, {"style": condition})
    assert {tuple(row) for row in dealt[::2].tolist()} == {tuple(row) for row in z[::2].tolist()}


def test_transport_of_one_sample() -> None:
    z = normal(1, 2)
    assert torch.equal(optimal_transport(normal(1, 2, seed=1), z), z)
