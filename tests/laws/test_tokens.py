"""The laws for tokens: masks and uniform noise, exactly, on probabilities and tables."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.guidance import guide
from sfumato.diffusion.loss import loss
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import sample, trajectory
from sfumato.diffusion.schedule import VE, VP, Linear, Schedule
from sfumato.diffusion.tokens import UniformTokens, certain, elbo
from sfumato.diffusion.unmasking import Remask
from tests.laws.token_tables import (
    TOKEN_SCHEDULES,
    TableData,
    chain,
    exact_bound,
    generator,
    marginals,
    random_table,
    random_times,
    sampled_law,
    sequences,
    worst_errors,
)
from tests.laws.worlds import F64, scalar

WORLDS = {"Masked": Masked, "UniformTokens": UniformTokens}
every_world = pytest.mark.parametrize("world", WORLDS)
every_schedule = pytest.mark.parametrize("schedule", TOKEN_SCHEDULES.values(), ids=TOKEN_SCHEDULES.keys())
LIMITS = {
    "law 1": 0.0,
    "law 2": 0.0,
    "law 3": 0.0,
    "law 4": 1e-14,
    "law 5": 1.01e-4,  # the resolution of the evenly spread noise, twice one part in 20 000
    "law 6": 1e-14,
    "law 7": 1e-14,
    "law 11": 1e-9,
}
cached_errors = cache(worst_errors)


def table(world: str, schedule: Schedule = Linear(), vocab: int = 3, length: int = 3) -> TableData:
    return TableData(random_table(vocab, length), vocab, length, WORLDS[world](vocab, schedule))


@pytest.mark.parametrize("law", LIMITS)
@every_world
def test_law(world: str, law: str) -> None:
    assert cached_errors(world)[law] <= LIMITS[law]


@every_world
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), size=st.floats(0, 1e4), near=st.sampled_from([1.0, 1e-3, 1e-9, 1e-14, 1e-17, 0.0]))
def test_law_3_any_answer_explains_x_t(world: str, seed: int, size: float, near: float) -> None:
    """Also where the noise is below the resolution of float64, and for large vocabularies."""
    for vocab in (2, 50_000):
        process = WORLDS[world](vocab)
        x_t = torch.randint(vocab + (world == "Masked"), (2, 3), generator=generator(seed))
        answer = size * torch.randn(2, 3, vocab, dtype=F64, generator=generator(seed))
        for t in (scalar(near), near * random_times((2, 3), seed)):
            if world == "Masked":  # no mask is left at t = 0
                x_t = torch.where(t > 1e-15, x_t, x_t.clamp_max(vocab - 1))
            assert torch.equal(process.interpolate(*process.endpoints(answer, x_t, t), t), x_t)


# ---- the posterior ---------------------------------------------------------------------------------------------------


def _kernel(process: Any, when: Tensor, width: int) -> Tensor:
    """q(x_t | x) for each x, from the step out of pure noise with a certain guess: (X, K)."""
    x = torch.arange(process.vocab if isinstance(process, UniformTokens) else process.mask_id)[None]
    ends = Endpoints(certain(x, width).log(), torch.zeros(x.shape, dtype=F64))
    laws = [
        process.transition(ends, torch.full_like(x, start), scalar(1.0), when)[0]
        for start in (range(width) if isinstance(process, UniformTokens) else [process.mask_id])
    ]
    return torch.stack(laws).mean(0)


@every_schedule
@every_world
def test_steps_are_the_reversed_markov_chain(world: str, schedule: Schedule) -> None:
    """q(x_t | x) times the step t -> s is a joint law of (x_s, x_t) whose margin at s is q(x_s | x), and in which x_t
    given x_s does not depend on x any more: that is what makes it the Markov chain's."""
    process, vocab = WORLDS[world](4, schedule), 4
    width = vocab + (world == "Masked")
    s, t = scalar(0.35), scalar(0.8)
    before, after = _kernel(process, t, width), _kernel(process, s, width)
    assert (before.sum(1) - 1).abs().max() < 1e-14
    ups = []
    for x in range(vocab):
        x_t = torch.arange(width)[:, None]
        guess = Endpoints(certain(torch.full_like(x_t, x), width).log(), torch.zeros(x_t.shape, dtype=F64))
        possible = before[x] > 0
        joint = before[x][:, None] * process.transition(guess, x_t, t, s)[:, 0]
        joint = torch.where(possible[:, None], joint, 0.0)
        assert (joint.sum(0) - after[x]).abs().max() < 1e-15
        ups.append(torch.where(after[x] > 0, joint / after[x], torch.nan))
    spread = torch.stack(ups)
    for column in range(width):
        seen = spread[:, :, column]
        seen = seen[~seen.isnan().any(1)]
        assert (seen - seen[0]).abs().max() < 1e-14


@every_world
def test_guess_given_x_t_is_the_posterior_of_the_table(world: str) -> None:
    """Bayes over the whole table, no rule for single tokens: p(x | x_t) ~ p(x) prod q(x_t | x), then margins."""
    data = table(world)
    process, t = data.process, torch.rand(20, 3, dtype=F64, generator=generator(1))
    rows, width = sequences(3, 3), 3 + (world == "Masked")
    x_t = process.interpolate(rows[:20], process.prior(rows[:20], generator(2)), t)
    kernel = torch.stack([_kernel(process, when, width) for when in t.flatten()]).reshape(20, 3, 3, width)
    for i in range(20):
        likely = data.law.clone()
        for place in range(3):
            likely = likely * kernel[i, place, rows[:, place], x_t[i, place]]
        likely = likely / likely.sum()
        wanted = torch.stack([(likely[:, None] * (rows == token)).sum(0) for token in range(3)], -1)
        assert (data(x_t, t).x[i, :, :3].exp() - wanted).abs().max() < 1e-14


def test_law_6_logits_of_revealed_tokens_are_irrelevant() -> None:
    process, t = Masked(5), scalar(0.5)
    x = torch.randint(5, (6, 8), generator=generator(0))
    z = process.prior(x, generator(1))
    x_t = process.interpolate(x, z, t)
    one, two = torch.randn(2, 6, 8, 6, dtype=F64, generator=generator(2))
    two = torch.where(process.open(x_t)[..., None], one, two)
    assert torch.equal(process.endpoints(one, x_t, t).x, process.endpoints(two, x_t, t).x)
    assert torch.equal(process.loss(one, x, z, t), process.loss(two, x, z, t))


def test_mask_may_be_inside_or_after_the_logits() -> None:
    """A network whose vocabulary counts the mask and one whose does not say the same."""
    logits, x_t = torch.randn(2, 3, 5, dtype=F64, generator=generator(0)), torch.tensor([[5, 1, 5], [0, 5, 2]])
    wide = torch.cat([logits, torch.full((2, 3, 1), 9.0, dtype=F64)], -1)
    process, t = Masked(5), scalar(0.4)
    assert torch.equal(process.endpoints(logits, x_t, t).x, process.endpoints(wide, x_t, t).x)


@every_world
def test_guidance_mixes_logits(world: str) -> None:
    """guide at strength w is the law of logits (1 - w) a + w b, whatever is certain stays certain."""
    process, t, s = WORLDS[world](4), scalar(0.6), scalar(0.3)
    a, b = torch.randn(2, 1, 6, 4, dtype=F64, generator=generator(0))
    x_t = torch.tensor([[0, 1, 2, 3, 1, 0]]) + (world == "Masked")
    denoiser = Denoiser(lambda shown, level, label: a if bool((label < 0).all()) else b, process)
    for w in (0.0, 0.5, 1.0, 3.0):
        law = process.transition(guide(denoiser, w)(x_t, t, label=x_t), x_t, t, s)
        wanted = process.transition(process.endpoints(torch.lerp(a, b, w), x_t, t), x_t, t, s)
        assert (law - wanted).abs().max() < 1e-14


# ---- law 11: the bound -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worse:
    """The exact denoiser with its answers disturbed."""

    data: TableData
    size: float

    @property
    def process(self) -> Any:
        return self.data.process

    @property
    def length(self) -> int:
        return self.data.length

    def answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        answer = self.data.answer(x_t, t)
        seen = (x_t * torch.tensor([1.0, 4.0, 9.0], dtype=F64)).sum(1)
        return answer + self.size * torch.sin(
            seen[:, None, None] + torch.arange(answer[0].numel()).reshape(answer[0].shape)
        )


@every_world
def test_law_11_a_worse_denoiser_has_a_larger_bound(world: str) -> None:
    """Averaged over data the bound exceeds the entropy, by the square of a small disturbance."""
    data = table(world)
    rows = sequences(3, 3)
    entropy = float(torch.special.entr(data.law).sum())
    excess = [float(data.law @ exact_bound(Worse(data, size), rows)) - entropy for size in (0.0, 0.01, 0.1, 1.0)]
    assert abs(excess[0]) < 1e-9
    assert 0 < excess[1] < excess[2] < excess[3]
    assert abs(excess[2] / excess[1] / 100 - 1) < 0.05


@every_schedule
@every_world
def test_law_11_sampled_bound(world: str, schedule: Schedule) -> None:
    """Right within its own error bars, and these as wide as 40 repetitions of it differ."""
    data = table(world, schedule)
    rows = torch.arange(0, 27, 5).repeat_interleave(40)
    mean, error = elbo(data, sequences(3, 3)[rows], draws=256, rng=generator(5))  # type: ignore[arg-type]
    away, declared = mean + data.law[rows].log(), (error**2).mean().sqrt()
    assert abs(float(away.mean())) < 4 * float(declared) / len(rows) ** 0.5
    assert abs(float((away**2).mean().sqrt() / declared) - 1) < 0.2


# ---- sampling a table, exactly ---------------------------------------------------------------------------------------


@every_schedule
@every_world
def test_one_step_is_the_product_of_marginals(world: str, schedule: Schedule) -> None:
    data = table(world, schedule)
    product = torch.ones(27, dtype=F64)
    for place, law in enumerate(marginals(data)):
        product = product * law[sequences(3, 3)[:, place]]
    assert (sampled_law(data, 1) - product).abs().max() < 1e-15


@pytest.mark.parametrize("length", [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("world", "solver"), [("Masked", None), ("Masked", Remask(1.0)), ("UniformTokens", None)], ids=str
)
def test_total_variation_falls_at_first_order(world: str, solver: Remask | None, length: int) -> None:
    data = table(world, length=length)
    away = [float((sampled_law(data, n, solver) - data.law).abs().sum() / 2) for n in (1, 2, 4, 8, 16, 32, 64)]
    assert all(b < a for a, b in itertools.pairwise(away))
    assert away[-1] < 0.05
    assert abs(away[-2] / away[-1] - 2) < 0.15


@every_schedule
@pytest.mark.parametrize("strength", [0.0, 1.0, 10.0, torch.inf])
def test_revealed_share_is_alpha(strength: float, schedule: Schedule) -> None:
    """Exactly, at every time and for every token, and with every table: also when revealed tokens are taken back."""
    data = table("Masked", schedule)
    states = sequences(4, 3)
    for s, law in chain(data, uniform(schedule, 7), states, Remask(strength)):
        there = (law[:, None] * (states < 3)).sum(0)
        wanted = 1.0 if s == 0 else float(schedule.alpha(s))
        assert (there - wanted).abs().max() < 1e-14


def test_masks_fall_and_tokens_stay() -> None:
    data = table("Masked")
    walk = list(
        trajectory(data, torch.zeros(500, 3, dtype=F64), uniform(Linear(), 6), rng=Streams(key("walk"), range(500)))
    )
    assert bool((walk[0] == 3).all())
    assert not bool((walk[-1] == 3).any())
    for before, after in itertools.pairwise(walk):
        assert bool(((before == after) | (before == 3)).all())


def test_uniform_tokens_are_revised() -> None:
    data = table("UniformTokens")
    walk = list(
        trajectory(
            data,
            data.process.prior(torch.zeros(500, 3, dtype=torch.long), generator(0)),
            uniform(Linear(), 24),
            rng=generator(1),
        )
    )
    changes = torch.stack([a != b for a, b in itertools.pairwise(walk)]).sum(0)
    assert int(changes.max()) >= 3


@every_world
def test_samples_follow_the_exact_law(world: str) -> None:
    """The walk with random numbers against the propagated law: chi-square."""
    data, count = table(world), 40_000
    x = torch.zeros(count, 3, dtype=torch.long)
    written = sample(data, data.process.prior(x, generator(3)), uniform(Linear(), 3), rng=generator(4))
    seen = torch.bincount(written @ torch.tensor([9, 3, 1]), minlength=27)
    wanted = sampled_law(data, 3) * count
    assert float(((seen - wanted) ** 2 / wanted).sum()) < chi2.ppf(1 - 1e-6, 26)


# ---- loss and engineering --------------------------------------------------------------------------------------------


@every_world
def test_loss_is_finite_and_gradients_flow(world: str) -> None:
    """From t = 0 to t = 1, float32, bfloat16 answers, all through the one loss of every process."""
    process = WORLDS[world](7)
    weight = torch.zeros(7, dtype=torch.float32, requires_grad=True)
    x = torch.randint(7, (9, 4), generator=generator(0))
    t = torch.tensor([0.0, 1e-30, 1e-12, 1e-6, 0.01, 0.5, 0.999, 1 - 1e-12, 1.0])
    for kind in (torch.float32, torch.bfloat16):
        denoiser = Denoiser(lambda shown, level: weight.to(kind).expand(*shown.shape, 7), process)  # noqa: B023
        value = loss(denoiser, x, t, generator(1))
        assert value.shape == (9,)
        assert bool(value.isfinite().all())
        (gradient,) = torch.autograd.grad(value.sum(), weight)
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().sum()) > 0


@every_world
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_loss_is_never_negative_and_zero_for_certainty(world: str, seed: int) -> None:
    process = WORLDS[world](5)
    x = torch.randint(5, (6, 4), generator=generator(seed))
    z, t = process.prior(x, generator(seed + 1)), torch.rand(6, 4, dtype=F64, generator=generator(seed + 2))
    answer = 5 * torch.randn(6, 4, 5, dtype=F64, generator=generator(seed + 3))
    assert bool((process.loss(answer, x, z, t) >= -1e-12).all())
    assert process.loss(process.target(x, z, t), x, z, t).abs().max() == 0


@every_world
def test_times_per_token_are_tokens_on_their_own(world: str) -> None:
    process = WORLDS[world](5)
    x = torch.randint(5, (3, 4), generator=generator(0))
    z, t = process.prior(x, generator(1)), torch.rand(3, 4, dtype=F64, generator=generator(2))
    answer = torch.randn(3, 4, 5, dtype=F64, generator=generator(3))
    x_t, s = process.interpolate(x, z, t), t / 2
    whole = process.transition(process.endpoints(answer, x_t, t), x_t, t, s)
    losses, told = process.loss(answer, x, z, t), process.precondition(x_t, t)[1]
    assert told.shape == (3, 4)
    for i in range(3):
        alone = 0.0
        for j in range(4):
            one = (slice(i, i + 1), slice(j, j + 1))
            assert torch.equal(process.interpolate(x[one], z[one], t[i, j]), x_t[one])
            law = process.transition(process.endpoints(answer[one], x_t[one], t[i, j]), x_t[one], t[i, j], s[i, j])
            assert (law - whole[one]).abs().max() < 1e-15
            assert process.precondition(x_t[one], t[i, j])[1] == told[i, j]
            alone += float(process.loss(answer[one], x[one], z[one], t[i, j])) / 4
        assert abs(alone - float(losses[i])) < 1e-12 * (1 + alone)


@every_world
def test_noise_level_told_to_the_network(world: str) -> None:
    process, x_t = WORLDS[world](5), torch.zeros(3, 4, dtype=torch.long)
    assert process.precondition(x_t, scalar(0.5))[1].tolist() == [0.0] * 3
    ends = process.precondition(x_t, torch.tensor([0.0, 0.5, 1.0]))[1]
    assert ends.tolist() == [-12.0, 0.0, 7.0]
    assert ends.dtype == torch.float32


@every_world
def test_sample_i_is_the_same_alone(world: str) -> None:
    data = table(world)
    whole_z = data.process.prior(torch.zeros(5, 3, dtype=torch.long), Streams(key("z"), range(5)))
    whole = sample(data, whole_z, uniform(Linear(), 5), rng=Streams(key("s"), range(5)))
    for i in (0, 3):
        z = data.process.prior(torch.zeros(1, 3, dtype=torch.long), Streams(key("z"), [i]))
        assert torch.equal(sample(data, z, uniform(Linear(), 5), rng=Streams(key("s"), [i])), whole[i : i + 1])


@every_world
def test_schedules_must_reach_both_ends(world: str) -> None:
    for schedule in (VP(), VE()):
        with pytest.raises(ValueError, match="ZeroTerminal"):
            WORLDS[world](5, schedule)


def test_bad_input_is_named() -> None:
    x, logits, t = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 5), scalar(0.5)
    masked, both = Masked(5), UniformTokens(5)
    with pytest.raises(ValueError, match="mask token 5"):
        masked.prior(x + 5)
    with pytest.raises(ValueError, match="mask token 5"):
        masked.loss(logits, x + 5, torch.zeros(2, 3), t)
    with pytest.raises(ValueError, match="beyond the 5 logits"):
        masked.loss(logits, x + 6, torch.zeros(2, 3), t)
    with pytest.raises(ValueError, match="mask_id 9"):
        Masked(9).endpoints(logits, x, t)
    with pytest.raises(ValueError, match="negative"):
        Masked(-1)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        both.prior(x + 5)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        both.loss(logits, x - 1, torch.zeros(2, 3), t)
    with pytest.raises(ValueError, match="4 logits per token"):
        both.endpoints(logits[..., :4], x, t)
    with pytest.raises(ValueError, match="at least 2"):
        UniformTokens(1)
    for process in (masked, both):
        with pytest.raises(ValueError, match="int64"):
            process.prior(x.float())
        with pytest.raises(ValueError, match=r"\(2, 3, 'V'\)"):
            process.endpoints(logits[:, :2], x, t)
    with pytest.raises(ValueError, match="even"):
        elbo(Denoiser(lambda shown, level: logits, masked), x, draws=3)
