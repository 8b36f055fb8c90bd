"""Sequential Monte Carlo: the normalising constant and the steered distribution against closed forms; rare events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.grids import cosine
from sfumato.diffusion.particles import (
    effective_size,
    exceeds,
    guess_spread,
    lineage_error,
    pooled,
    steer,
    systematic,
)
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.product import Clean
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler, sample
from sfumato.diffusion.schedule import VP, Linear
from sfumato.diffusion.solvers import Heun, Renoised, ab
from tests.laws.orders import MEANS, VARIANCES, Impulses, gaussian, moment_error, moments, slope
from tests.laws.product_tables import joint_normal
from tests.laws.worlds import F64, Told, normal, scalar

# ---- drawing in proportion to weights --------------------------------------------------------------------------------

weights = st.lists(st.sampled_from([0.0, 1e-12, 0.1, 1.0, 3.0, 1e6]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=weights, seed=st.integers(0, 10**6))
def test_systematic_drawing_is_even(values: list[float], seed: int) -> None:
    """Row i is drawn floor(B w_i) or ceil(B w_i) times, so never where the weight is zero."""
    weight = torch.tensor(values, dtype=F64)
    rows = systematic(weight.log(), torch.Generator().manual_seed(seed))
    if weight.sum() == 0:
        assert rows.tolist() == list(range(len(values)))
        return
    wanted = weight / weight.sum() * len(values)
    counts = torch.bincount(rows, minlength=len(values))
    assert len(counts) == len(values)
    assert ((counts - wanted).abs() < 1 + 1e-9).all()
    assert (counts[weight == 0] == 0).all()


class Last:
    """The largest number below 1, in place of random ones."""

    def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.full(tuple(shape), 1 - 2**-53, dtype=dtype)


def test_systematic_drawing_survives_rounding() -> None:
    for count in (3, 1000, 99_991):
        log_weights = torch.zeros(count, dtype=F64)
        log_weights[count // 2 :] = -math.inf
        rows = systematic(log_weights, Last())  # type: ignore[arg-type]
        assert int(rows.max()) < count // 2


def test_systematic_drawing_is_unbiased() -> None:
    """The mean count of a row over the uniform number is B w_i: integrate over it by a fine even comb of its values."""

    class Fixed:
        def __init__(self, value: float):
            self.value = value

        def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            return torch.full(tuple(shape), self.value, dtype=dtype)

    log_weights = normal(7, seed=2)
    counts = torch.zeros(7, dtype=F64)
    for i in range(4000):
        counts += torch.bincount(systematic(log_weights, Fixed((i + 0.5) / 4000)), minlength=7)  # type: ignore[arg-type]
    assert (counts / 4000 - 7 * torch.softmax(log_weights, 0)).abs().max() < 1e-3


def test_effective_size_counts_equal_particles() -> None:
    for alive in (1, 3, 8):
        log_weights = torch.full((8,), -math.inf, dtype=F64)
        log_weights[:alive] = 1234.5
        assert float(effective_size(log_weights)) == pytest.approx(alive, rel=1e-12)
    assert float(effective_size(torch.full((8,), -math.inf))) == 0


def test_lineage_error_of_independent_particles_is_that_of_their_mean() -> None:
    """Nobody drawn anew: the standard error of a mean of weights, here of exp(N(0, 1/4)), sqrt((e^(1/4) - 1) / B)."""
    log_weights = 0.5 * normal(100_000, seed=1)
    found = lineage_error(log_weights, torch.arange(100_000))
    assert float(found) == pytest.approx(math.sqrt(math.expm1(0.25) / 100_000), rel=0.02)
    assert float(lineage_error(torch.zeros(8), torch.zeros(8, dtype=torch.long))) == pytest.approx(1, abs=0.1)


# ---- the normalising constant and the steered distribution -----------------------------------------------------------

SCHEDULE = Linear()
STEPS = cosine(SCHEDULE, 40)
TILT = 0.6 * torch.linspace(-1, 1, 12, dtype=F64) / VARIANCES.sqrt()


def linear(x: Tensor, t: Tensor) -> Tensor:
    return x @ TILT


def run(
    seed: int, rows: int, reward: Any = linear, solver: Any = Euler(1.0), times: Tensor = STEPS, **more: Any
) -> Any:
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 12, dtype=F64, generator=rng)
    return steer(gaussian(SCHEDULE), z, times, reward, solver, rng, **more)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_normaliser_of_an_exponential_tilt(threshold: float) -> None:
    """The chain's samples are normal with known moments, so E exp(w.x) and the tilted mean are known exactly. Within
    four standard errors over 12 runs; and steering leaves no other trace: the tilted spread is the untilted one."""
    mean, std = moments(Euler(1.0), SCHEDULE, STEPS)
    wanted = float((TILT * mean).sum() + ((TILT * std) ** 2).sum() / 2)
    runs = [run(seed, 1000, threshold=threshold) for seed in range(12)]
    found, error = pooled([each.log_normalizer for each in runs])
    print(f"threshold {threshold}: relative error {float((found - wanted).exp() - 1):.3f} +- {float(error):.3f}")
    assert abs(float((found - wanted).exp()) - 1) < 4 * float(error)
    assert error < 0.1
    samples = torch.cat([each.samples for each in runs])
    independent = sum(float((each.ancestors.bincount() ** 2).sum()) for each in runs) / len(samples) ** 2
    away = (samples.mean(0) - (mean + std**2 * TILT)) / std
    assert away.abs().max() < 5 * math.sqrt(independent)
    assert (samples.std(0) / std - 1).abs().max() < 5 * math.sqrt(independent)


def test_no_reward_is_plain_sampling() -> None:
    def nothing(x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(len(x))

    for rng in ("streams", "generator"):

        def fresh(kind: str = rng) -> Any:
            return Streams(key("steer"), range(64)) if kind == "streams" else torch.Generator().manual_seed(1)

        z = normal(64, 12)
        steered = steer(gaussian(SCHEDULE), z, STEPS, nothing, rng=fresh(), threshold=0.5)
        plain = sample(gaussian(SCHEDULE), z, STEPS, Euler(1.0), fresh())
        torch.testing.assert_close(steered.samples, plain, rtol=1e-9, atol=1e-9)
        assert steered.ancestors.tolist() == list(range(64))
        assert float(steered.log_normalizer) == 0
        assert steered.effective_size.shape == (41,)
        assert (steered.effective_size - 64).abs().max() < 1e-9
        assert float(steered.error) < 1e-9


def test_a_constant_reward_is_only_a_factor() -> None:
    steered = run(0, 32, lambda x, t: 5.0 * torch.cos(3 * t) * torch.ones(len(x)), threshold=1.0)
    assert float(steered.log_normalizer) == pytest.approx(5.0, abs=1e-12)


def test_rewards_on_the_way_do_not_matter_in_the_end() -> None:
    """The increments telescope: a reward that misleads until t = 0 has the same normaliser, only noisier."""

    def misleading(x: Tensor, t: Tensor) -> Tensor:
        return linear(x, t) if float(t) == 0 else -0.5 * linear(x, t)

    mean, std = moments(Euler(1.0), SCHEDULE, STEPS)
    wanted = float((TILT * mean).sum() + ((TILT * std) ** 2).sum() / 2)
    found, error = pooled([run(seed, 4000, misleading).log_normalizer for seed in range(8)])
    assert abs(float((found - wanted).exp()) - 1) < 4 * float(error) < 1


@pytest.mark.parametrize(("solver", "calls"), [(Euler(1.0), 40), (Heun(), 79), (Renoised(), 78)])
def test_steering_costs_no_further_call(solver: Any, calls: int) -> None:
    """Heun's last step, to pure data, takes one call; Renoised walks there in its first step too."""
    asked = []

    class Counting(Told):
        process = gaussian(SCHEDULE).process

        def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Any:
            asked.append(float(t))
            return gaussian(SCHEDULE)(x_t, t, s)

    steer(Counting(), normal(8, 12), STEPS, linear, solver, torch.Generator().manual_seed(0), threshold=1.0)
    assert len(asked) == calls


# ---- rare events -----------------------------------------------------------------------------------------------------

DIRECTION = torch.linspace(1, 2, 12, dtype=F64) * torch.tensor([1.0, -1.0] * 6, dtype=F64)
DIRECTION = DIRECTION / (DIRECTION**2 * VARIANCES).sum().sqrt()
LEVEL = float((DIRECTION * MEANS).sum()) + 3.719016485455709
TRUE = 1e-4
"""P(score > LEVEL) of the data: the score is normal with deviation 1."""


def tail_of_the_chain(solver: Any, times: Tensor) -> float:
    mean, std = moments(solver, SCHEDULE, times)
    away = (LEVEL - (DIRECTION * mean).sum()) / ((DIRECTION * std) ** 2).sum().sqrt()
    return float(torch.special.ndtr(-away))


def score(x: Tensor) -> Tensor:
    return x @ DIRECTION


def test_a_tail_of_1e_4_within_5_percent_over_20_seeds() -> None:
    """Against the tail of the data itself, discretisation included; and the error bars are honest: the spread over the
    seeds explains the deviation, and the error that each run reports of itself is that spread, or somewhat more."""
    times, solver = cosine(SCHEDULE, 60), Renoised()
    discretised = tail_of_the_chain(solver, times)
    assert abs(discretised / TRUE - 1) < 0.02
    reward = exceeds(score, LEVEL, guess_spread(SCHEDULE))
    runs = [run(seed, 4000, reward, solver, times) for seed in range(20)]
    found, error = pooled([each.log_normalizer for each in runs])
    single = float(torch.stack([(each.log_normalizer - found).exp() for each in runs]).std())
    reported = float(torch.stack([each.error for each in runs]).mean())
    plain = math.sqrt((1 - TRUE) / (TRUE * 4000))
    print(
        f"P {float(found.exp()):.3e} +- {float(error):.1%} (chain {discretised:.3e}); one run {single:.1%}, "
        f"reported {reported:.1%}, plain Monte Carlo {plain:.0%}"
    )
    assert abs(float(found.exp()) / TRUE - 1) < 0.05
    assert abs(float(found.exp()) / discretised - 1) < 3 * float(error)
    assert 0.8 * single < reported < 2 * single
    assert plain / single > 10
    assert all((score(each.samples) > LEVEL).all() for each in runs)


def test_a_tail_that_plain_sampling_sees_too() -> None:
    """At one in six: SMC and a plain count agree with the chain's own tail, for the Markov chain of first order."""
    level = float((DIRECTION * MEANS).sum()) + 1.0
    mean, std = moments(Euler(1.0), SCHEDULE, STEPS)
    away = (level - (DIRECTION * mean).sum()) / ((DIRECTION * std) ** 2).sum().sqrt()
    wanted = float(torch.special.ndtr(-away))
    reward = exceeds(score, level, guess_spread(SCHEDULE))
    found, error = pooled([run(seed, 1000, reward).log_normalizer for seed in range(8)])
    assert abs(float(found.exp()) / wanted - 1) < 4 * float(error) < 0.1


def test_an_event_that_never_happens() -> None:
    dead = run(0, 16, exceeds(score, 1e6, guess_spread(SCHEDULE)))
    assert float(dead.log_normalizer) == -math.inf
    assert float(dead.effective_size[-1]) == 0
    assert float(dead.error) == math.inf
    assert dead.samples.isfinite().all()
    mean, error = pooled([dead.log_normalizer] * 2)
    assert float(mean) == -math.inf
    assert float(error) == math.inf


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=["vp", "linear"])
def test_renoised_keeps_the_order_of_its_solver(schedule: Any) -> None:
    """Weak order 2 from Heun, where the Markov chain has 1; exact moments, no Monte Carlo."""
    for solver, order in ((Renoised(), 2), (Renoised(eta=0.5), 2), (Euler(1.0), 1)):
        errors = [moment_error(solver, schedule, cosine(schedule, n)) for n in (128, 512)]
        assert solver.order == order
        assert slope(errors[0], errors[1], 4) == pytest.approx(order, abs=0.35)
    z = normal(5, 12)
    still, heun = (sample(gaussian(schedule), z, cosine(schedule, 20), each) for each in (Renoised(eta=0.0), Heun()))
    assert (still - heun).abs().max() < 1e-12


def test_renoised_adds_the_noise_of_the_markov_chain() -> None:
    """For data that is a point the walk is exact, and at s its noise has unit variance, the same share of it fresh."""
    data, chain = (
        GaussianData(torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64), process=Gaussian(VP())),
        Gaussian(VP()),
    )
    t, s = scalar(0.6), scalar(0.35)
    start = torch.zeros(3, 1, dtype=F64)
    start[1] = chain.schedule.sigma(t)
    moved, _ = Renoised().step(data, start, t, s, None, Impulses())  # type: ignore[arg-type]
    z = torch.zeros(3, 1, dtype=F64)
    z[1] = 1
    wanted = chain.schedule.sigma(s) * chain.renoise(z, t, s, 1.0, Impulses())  # type: ignore[arg-type]
    assert (moved - wanted).abs().max() < 1e-13


# ---- any world -------------------------------------------------------------------------------------------------------


def test_parts_follow_their_particle() -> None:
    """A clean part is drawn anew with the particle: with a reward for it, its share grows by what is known exactly."""
    world = joint_normal(a=Clean(), b=Gaussian(Linear(), "data"))
    seen = []

    def reward(x: dict[str, Tensor], t: Tensor) -> Tensor:
        seen.append(set(x))
        return 2.0 * x["a"][:, 0]

    rng = torch.Generator().manual_seed(3)
    z = {"a": (torch.arange(2000) % 2).double()[:, None].expand(2000, 2), "b": normal(2000, 3)}
    steered = steer(world, z, torch.linspace(1, 0, 5, dtype=F64), reward, rng=rng, threshold=1.0)
    assert float(steered.log_normalizer) == pytest.approx(math.log((1 + math.exp(2)) / 2), abs=1e-9)
    assert float(steered.samples["a"][:, 0].mean()) == pytest.approx(math.exp(2) / (1 + math.exp(2)), abs=2e-3)
    assert torch.equal(steered.samples["a"], z["a"][steered.ancestors])
    assert seen[0] == {"a", "b"}


def test_products_are_steered_with_a_time_for_each_part() -> None:
    """a first, then b given a: E exp(w.b) under the joint normal, by the exact moments of the data to first order."""
    world = joint_normal(a=Gaussian(Linear(), "data"), b=Gaussian(Linear(), "data"))
    fall = torch.linspace(1, 0, 61, dtype=F64)
    times: Any = [{"a": t, "b": scalar(1.0)} for t in fall] + [{"a": scalar(0.0), "b": t} for t in fall[1:]]
    tilt = torch.tensor([0.5, -0.5, 0.5], dtype=F64)
    last = []

    def reward(x: dict[str, Tensor], t: dict[str, Tensor]) -> Tensor:
        last.append({name: float(time) for name, time in t.items()})
        return x["b"] @ tilt

    found = []
    for seed in range(8):
        rng = torch.Generator().manual_seed(seed)
        z = world.process.prior(world.split(torch.zeros(1000, 5, dtype=F64)), rng)
        found.append(steer(world, z, times, reward, rng=rng).log_normalizer)
    wanted = float(world.mean[2:] @ tilt + tilt @ world.covariance[2:, 2:] @ tilt / 2)
    mean, error = pooled(found)
    assert last[120] == {"a": 0.0, "b": 0.0}
    assert abs(float(mean) - wanted) < 4 * float(error) + 0.05


def test_reproducible_and_deterministic() -> None:
    first, second = (steer_with_streams() for _ in range(2))
    assert torch.equal(first.samples, second.samples)
    assert torch.equal(first.log_normalizer, second.log_normalizer)
    assert len(first.ancestors.unique()) < 64


def steer_with_streams() -> Any:
    rng = Streams(key("steer", 1), range(64))
    return steer(gaussian(SCHEDULE), rng.normal((64, 12), F64), STEPS, linear, rng=rng)


def test_an_early_death_is_final() -> None:
    """-inf before the end kills, even if the reward is finite later: nothing is inf - inf."""

    def reward(x: Tensor, t: Tensor) -> Tensor:
        gone = torch.zeros(len(x), dtype=F64)
        if float(t) > 0.5:
            gone[: len(x) // 2] = -math.inf
        return gone

    steered = run(0, 8, reward, threshold=0.0)
    assert float(steered.log_normalizer) == pytest.approx(math.log(0.5))
    assert (steered.ancestors >= 4).all()


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "options"),
    [
        ("threshold is a share", {"threshold": 1.5}),
        ("one number per particle, \\(8,\\), got \\(8, 12\\)", {"reward": lambda x, t: x}),
        ("one number per particle, \\(8,\\), got float", {"reward": lambda x, t: 0.0}),
        ("NaN or \\+inf", {"reward": lambda x, t: torch.full((len(x),), math.nan)}),
        ("NaN or \\+inf", {"reward": lambda x, t: torch.full((len(x),), math.inf)}),
        ("solver with memory: use Euler", {"solver": ab(2)}),
        ("condition 'label' differs between the particles", {"label": torch.arange(8)}),
        ("time differs between the particles", {"times": torch.linspace(1, 0, 5)[:, None] ** torch.linspace(1, 2, 8)}),
    ],
)
def test_what_cannot_be_steered_is_said(says: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=says):
        run(0, 8, **options)


def test_parts_have_the_same_number_of_particles() -> None:
    world = joint_normal(a=Gaussian(Linear(), "data"), b=Gaussian(Linear(), "data"))
    with pytest.raises(ValueError, match=r"same number of rows, got \[3, 4\]"):
        steer(world, {"a": normal(3, 2), "b": normal(4, 3)}, STEPS, linear)


def test_an_error_bar_needs_two_runs() -> None:
    for few in (torch.zeros(1), torch.zeros(()), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="two runs or more"):
            pooled(few)
    mean, error = pooled(torch.tensor([1.0, 3.0], dtype=F64).log())
    assert float(mean) == pytest.approx(math.log(2))
    assert float(error) == pytest.approx(math.sqrt(2) / 2 / math.sqrt(2))
    with pytest.raises(ValueError, match="eta must be 0 to 1"):
        Renoised(eta=1.5)
