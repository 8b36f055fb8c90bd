"""Equilibrium matching: the ideal field of one point by quadrature, descent with its stopping rule, and a learned field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.equilibrium import Descended, Equilibrium, descend, descent, field, residual
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.guidance import clip, guide, inpaint
from sfumato.diffusion.loss import loss
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.quadrature import gauss_legendre
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler, sample
from sfumato.diffusion.schedule import Linear
from sfumato.diffusion.solvers import heun
from sfumato.metrics.distances import sliced_wasserstein
from sfumato.networks import MLP
from tests.laws.worlds import F64, normal, scalar

PROCESSES = (Equilibrium(), Equilibrium(cut=1.0), Equilibrium(cut=0.05, scale=1.0))
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["paper", "linear", "short"])
PRECISE: dict[str, Any] = {"step": 0.02, "tol": 1e-10, "most": 3000}


def spread_of(*values: Tensor) -> float:
    return max(float(value.abs().max()) for value in values)


# ---- the laws of processes -------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn, low: float = 1e-3) -> tuple[Tensor, Tensor, Tensor]:
    """x, z (B, ...) and a time of shape (), (B,) or (B, L)."""
    shape = draw(st.sampled_from([(3, 4), (2, 3, 4, 5), (3, 5, 2)]))
    x, z = normal(2, *shape, seed=draw(st.integers(0, 10**6)))
    axes = draw(st.integers(0, 2 if len(shape) == 3 else 1))
    count = math.prod(shape[:axes])
    t = torch.tensor(draw(st.lists(st.floats(low, 1.0), min_size=count, max_size=count)), dtype=F64)
    return x, z, t.reshape(shape[:axes])


def test_law_1_ends() -> None:
    process, (x, z) = Equilibrium(), normal(2, 5, 3)
    assert torch.equal(process.interpolate(x, z, scalar(0.0)), x)
    assert torch.equal(process.interpolate(x, z, scalar(1.0)), process.start(z))


@every_process
@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=cases())
def test_law_2_targets_are_inverted(process: Equilibrium, case: tuple[Tensor, Tensor, Tensor]) -> None:
    x, z, t = case
    ends = process.endpoints(process.target(x, z, t), process.interpolate(x, z, t), t)
    assert spread_of(ends.x - x, ends.z - z) < 1e-13


@every_process
@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=cases(low=0.0))
def test_law_3_any_answer_explains_x_t(process: Equilibrium, case: tuple[Tensor, Tensor, Tensor]) -> None:
    """At t = 0 too, where the answer says nothing of the noise."""
    x_t, answer, t = case
    ends = process.endpoints(answer, x_t, t)
    assert spread_of(process.interpolate(*ends, t) - x_t) < 2e-15 * max(1, spread_of(*ends))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=cases(), later=st.floats(0, 1), eta=st.floats(0.01, 1))
def test_law_4_steps_stay_on_the_line(case: tuple[Tensor, Tensor, Tensor], later: float, eta: float) -> None:
    process, (x, z, t) = Equilibrium(), case
    x_t, s = process.interpolate(x, z, t), t * later
    assert torch.equal(process.step(Endpoints(x, z), x_t, t, s), process.interpolate(x, z, s))
    assert spread_of(process.interpolate(x, process.noise_given(x, x_t, t), t) - x_t) < 1e-14
    with pytest.raises(ValueError, match="carries no fresh noise"):
        process.step(Endpoints(x, z), x_t, t, s, eta)


@every_process
@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=cases())
def test_law_6_it_is_flow_matching_slowed_near_the_data(
    process: Equilibrium, case: tuple[Tensor, Tensor, Tensor]
) -> None:
    """c(t) times a velocity means what the velocity means in flow matching; c is constant up to the cut and 0 at data."""
    x_t, velocity, t = case
    flow = Gaussian(Linear(), "velocity").endpoints(velocity, x_t, t)
    pull = process.target(torch.zeros_like(x_t), torch.ones_like(x_t), t)
    ends = process.endpoints(pull * velocity, x_t, t)
    assert spread_of(ends.x - flow.x, ends.z - flow.z) < 1e-13
    assert float(process.strength(scalar(process.cut))) == pytest.approx(process.scale)
    assert float(process.strength(scalar(1.0))) == process.scale
    assert float(process.strength(scalar(process.cut / 4))) == pytest.approx(process.scale / 4)
    assert float(process.strength(scalar(0.0))) == 0


def test_the_network_is_not_told_the_time() -> None:
    seen = []

    def network(shown: Tensor, level: Tensor) -> Tensor:
        seen.append((shown, level))
        return shown.sin()

    denoiser, x = Denoiser(network, Equilibrium()), normal(4, 5, 3)
    answers = [denoiser.answer(x, t) for t in (scalar(0.0), scalar(0.7), torch.rand(4, dtype=F64), torch.rand(4, 5))]
    for answer, (shown, level) in zip(answers, seen, strict=True):
        assert torch.equal(answer, answers[0])
        assert torch.equal(shown, x)
        assert level.shape == (4,)
        assert (level == 0).all()


def test_the_loss_is_least_at_the_mean_target() -> None:
    """Per sample (B,), 0 for the target itself, and over many times and noises least for the conditional mean."""
    process, (x, z) = Equilibrium(), normal(2, 6, 3, 2)
    t = torch.linspace(0, 1, 6, dtype=F64)
    target = process.target(x, z, t)
    assert torch.equal(process.loss(target, x, z, t), torch.zeros(6, dtype=F64))
    assert torch.allclose(process.loss(target + 2, x, z, t), torch.full((6,), 4.0, dtype=F64))
    mean = target.mean(0, keepdim=True).expand_as(target)
    off = [float(process.loss(mean + by, x, z, t).mean()) for by in (-1e-3, 0.0, 1e-3)]
    assert off[1] < off[0]
    assert off[1] < off[2]


# ---- data that is one point: the ideal field in closed form ----------------------------------------------------------


@dataclass(frozen=True)
class OnePoint:
    """The ideal network for data that is always ``mean`` (D,): E[target | x_t = y] for uniform t, by quadrature.

    Given t, x_t is normal around (1 - t) mean with deviation t, and z is what remains of it. Gauss-Legendre nodes in
    log t, below the cut and above it.
    """

    mean: Tensor
    process: Equilibrium = Equilibrium()

    def __call__(self, y: Tensor, level: Tensor) -> Tensor:
        ends = [math.log(1e-9), math.log(self.process.cut), 0.0]
        pieces = [(low, high - low, *gauss_legendre(n)) for low, high, n in zip(ends, ends[1:], (300, 100))]
        t = torch.cat([low + width * nodes for low, width, nodes, _ in pieces]).exp()
        weight = torch.cat([width * weights for _, width, _, weights in pieces])
        z = (y[:, None] - (1 - t[:, None]) * self.mean) / t[:, None]  # (B, T, D)
        likelihood = -(z**2).sum(-1) / 2 + (1 - y.shape[1]) * t.log() + weight.log()  # with dt = t d log t
        share = likelihood.softmax(1)[..., None]
        target = self.process.target(self.mean.expand_as(z).flatten(0, 1), z.flatten(0, 1), t.repeat(len(y)))
        return (share * target.reshape(z.shape)).sum(1)

    @property
    def denoiser(self) -> Denoiser:
        return Denoiser(self, self.process)


MEANS = (torch.zeros(1, dtype=F64), torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([0.3, 2.0, -1.0], dtype=F64))
every_mean = pytest.mark.parametrize("mean", MEANS, ids=["1d", "2d", "3d"])


def test_the_field_of_one_point_in_the_plane_has_a_closed_form() -> None:
    """Two dimensions, the point at 0: with s = 1 / t the mean of 1 / max(t, cut) is a ratio of normal integrals."""
    process = Equilibrium()
    r, top = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 4.0], dtype=F64), 1 / process.cut
    tail = [(math.pi / 2) ** 0.5 / r * torch.special.erfc(r * s / 2**0.5) for s in (1.0, top)]
    inside = (torch.exp(-(r**2) / 2) - torch.exp(-((r * top) ** 2) / 2)) / r**2
    wanted = process.scale * r * (inside + top * tail[1]) / tail[0]
    y = r[:, None] * torch.tensor([0.6, -0.8], dtype=F64)
    found = field(OnePoint(torch.zeros(2, dtype=F64)).denoiser, y)
    assert torch.allclose(found, wanted[:, None] * y / r[:, None], rtol=1e-10)


@every_mean
def test_the_field_of_one_point_points_to_it_and_vanishes_there(mean: Tensor) -> None:
    """f = k (y - mean) with k from scale (far away, all noise) to scale / cut (close by)."""
    process, away = Equilibrium(), normal(60, len(mean)) * torch.logspace(-4, 1, 60, dtype=F64)[:, None]
    f = field(OnePoint(mean).denoiser, mean + away)
    k = (f * away).sum(1) / (away**2).sum(1)
    assert spread_of(f - k[:, None] * away) < 1e-10 * process.scale / process.cut
    assert (k > process.scale * (1 - 1e-9)).all()
    assert (k < process.scale / process.cut * (1 + 1e-9)).all()
    near = residual(OnePoint(mean).denoiser, mean + torch.tensor([[1e-2], [1e-4], [0.0]], dtype=F64))
    assert near[0] > near[1] > near[2]
    assert near[2] < 1e-12


@every_mean
def test_descent_arrives_from_anywhere_at_the_rate_that_the_field_allows(mean: Tensor) -> None:
    """Without momentum every step shortens the way by 1 - step k, so at least by 1 - step scale."""
    z, step = 3 * normal(7, len(mean), seed=1), 0.02
    first = (z - mean).norm(dim=1)
    states = list(descent(OnePoint(mean).denoiser, z, step=step, momentum=0.0, tol=1e-9, most=400))
    shrink, size = 1 - step * Equilibrium().scale, first
    for before, state in pairwise(states):
        now = (state.x - mean).norm(dim=1)
        assert (now <= size * torch.where(before.residual < 1e-9, 1.0, shrink) * (1 + 1e-9)).all()
        size = now
    assert (states[-1].residual < 1e-9).all()
    assert spread_of(states[-1].x - mean) < 1e-9
    bound = torch.log(20 * first / 1e-9) / -math.log(shrink)
    assert (states[-1].steps <= bound + 2).all()


@every_mean
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.6])
def test_a_larger_tolerance_stops_earlier_on_the_same_way(mean: Tensor, momentum: float) -> None:
    z, before = 2 * normal(5, len(mean)), torch.full((5,), 10**6)
    path = [s.x for s in descent(OnePoint(mean).denoiser, z, step=0.02, momentum=momentum, tol=1e-12, most=500)]
    for tol in (1e-8, 1e-4, 1e-2, 1.0):
        end = descend(OnePoint(mean).denoiser, z, step=0.02, momentum=momentum, tol=tol, most=500)
        assert (end.residual < tol).all()
        assert (end.steps < before).all()
        assert torch.allclose(end.residual, residual(OnePoint(mean).denoiser, end.x), rtol=1e-9)
        assert spread_of(end.x - mean) <= tol * len(mean) ** 0.5 / Equilibrium().scale  # |f| >= scale |y - mean|
        assert all(torch.equal(end.x[i], path[int(end.steps[i]) - 1][i]) for i in range(5))
        before = end.steps


def test_momentum_saves_steps() -> None:
    one, z = OnePoint(MEANS[2]).denoiser, normal(6, 3)
    steps = [descend(one, z, step=0.01, momentum=m, tol=1e-6, most=2000).steps for m in (0.0, 0.3, 0.6)]
    assert (steps[0] > steps[1]).all()
    assert (steps[1] > steps[2]).all()


def test_momentum_is_nesterovs() -> None:
    """On a linear field f = a y the points looked at obey y'' = (1 - step a)((1 + m) y' - m y)."""
    a, step, m = torch.tensor([1.0, 3.0, 7.0], dtype=F64), 0.05, 0.4
    denoiser = Denoiser(lambda shown, level: a * shown, Equilibrium())
    path = [state.x for state in descent(denoiser, normal(2, 3), step=step, momentum=m, tol=1e-9, most=20)]
    assert spread_of(path[1] - ((1 - step * a) * (1 + m) - m) * path[0]) < 1e-14
    for one, two, three in zip(path, path[1:], path[2:]):
        assert spread_of(three - (1 - step * a) * ((1 + m) * two - m * one)) < 1e-14


def test_ordinary_solvers_know_the_time_and_reach_the_point_exactly() -> None:
    """With the field that does know its time, c(t) times the velocity, one Euler step is exact, like every other."""
    process, z, mean = Equilibrium(), normal(4, 2), MEANS[1]

    class Knowing:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x_t: Tensor, t: Tensor, s: Any = None, **condition: Any) -> Endpoints:
            z = process.noise_given(mean.expand_as(x_t), x_t, t)
            return process.endpoints(process.target(mean, z, t), x_t, t)

    for solver in (Euler(), heun()):
        for steps in (1, 5):
            assert spread_of(sample(Knowing(), z, uniform(process.schedule, steps), solver) - mean) < 1e-12


# ---- the stopping rule -----------------------------------------------------------------------------------------------


def bent(shown: Tensor, level: Tensor, push: Tensor | None = None) -> Tensor:
    """A field with a zero in every row, of row-wise operations only, so that batches are bit-equal to rows alone."""
    centre = torch.zeros_like(shown) if push is None else push
    away = shown - centre
    return 3 * away * (2 + torch.sin(3 * away.square().sum(-1, keepdim=True)))


def test_a_row_alone_is_itself_in_a_batch() -> None:
    denoiser, z = Denoiser(bent, Equilibrium()), normal(6, 3) * torch.logspace(-3, 1, 6, dtype=F64)[:, None]
    push = 0.1 * normal(6, 3, seed=2)
    few: dict[str, Any] = {"step": 0.05, "tol": 0.3, "most": 8}
    whole = descend(denoiser, z, push=push, **few)
    assert len(whole.steps.unique()) > 1
    assert whole.steps.dtype == torch.int64
    for i in range(6):
        alone = descend(denoiser, z[i : i + 1], push=push[i : i + 1], **few)
        for part, row in zip(alone, whole, strict=True):
            torch.testing.assert_close(part[0], row[i], rtol=1e-10, atol=1e-10)


def test_a_sample_that_has_arrived_stands_still() -> None:
    denoiser, z = Denoiser(bent, Equilibrium()), normal(6, 3) * torch.logspace(-3, 1, 6, dtype=F64)[:, None]
    states = list(descent(denoiser, z, step=0.05, tol=1e-3, most=200))
    assert torch.equal(states[0].x, z)
    assert (states[0].steps == 1).all()
    for state in states:
        assert torch.allclose(state.residual, residual(denoiser, state.x), rtol=1e-12)
    for one, two in pairwise(states):
        arrived = one.residual < 1e-3
        for before, after in zip(one, two, strict=True):
            assert torch.equal(before[arrived], after[arrived])
        assert torch.equal(two.steps, one.steps + ~arrived)
    assert (states[-1].residual < 1e-3).all()
    assert len(states) == int(states[-1].steps.max())
    again = descend(denoiser, states[-1].x, step=0.05, tol=1e-3, most=200)
    assert torch.equal(again.x, states[-1].x)
    assert (again.steps == 1).all()


def test_too_few_steps_are_told_not_raised() -> None:
    denoiser, z = Denoiser(bent, Equilibrium()), torch.cat([normal(2, 3), torch.zeros(1, 3, dtype=F64)])
    end = descend(denoiser, z, step=0.01, tol=1e-6, most=7)
    assert end.steps.tolist() == [7, 7, 1]
    assert (end.residual < 1e-6).tolist() == [False, False, True]
    exploded = descend(denoiser, z, step=1e200, tol=1e-6, most=7)
    assert (exploded.residual < 1e-6).tolist() == [False, False, True]
    assert exploded.steps.tolist() == [7, 7, 1]
    assert torch.equal(exploded.x, z)  # the best of the points seen
    assert torch.equal(exploded.residual, residual(denoiser, z))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(step=st.floats(0.01, 0.8), momentum=st.floats(0, 0.9), seed=st.integers(0, 100))
def test_more_calls_never_raise_a_residual(step: float, momentum: float, seed: int) -> None:
    """Whatever the step, even one at which the descent jumps about: what comes back is the best point seen."""
    denoiser, z = Denoiser(bent, Equilibrium()), normal(5, 3, seed=seed)
    before = torch.full((5,), math.inf, dtype=F64)
    for most in (1, 2, 5, 11, 30):
        end = descend(denoiser, z, step=step, momentum=momentum, tol=1e-3, most=most)
        assert (end.residual <= before).all()
        assert torch.allclose(end.residual, residual(denoiser, end.x), rtol=1e-12)
        assert (end.steps <= most).all()
        before = end.residual


def test_single_precision_pictures() -> None:
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16):
        end = descend(Denoiser(lambda shown, level: shown.float(), Equilibrium()), z.to(dtype), step=0.2, tol=0.1)
        assert end.x.dtype == dtype
        assert end.residual.dtype == torch.float32
        assert (end.residual < 0.1).all()


def test_descend_keeps_no_graph_and_descent_does() -> None:
    weight = torch.ones((), dtype=F64, requires_grad=True)
    denoiser = Denoiser(lambda shown, level: weight * shown, Equilibrium())
    assert not descend(denoiser, normal(2, 3), most=3).x.requires_grad
    *_, last = descent(denoiser, normal(2, 3), momentum=0.0, step=0.1, most=3)
    (slope,) = torch.autograd.grad(last.x.sum(), weight)
    assert float(slope) == pytest.approx(float(-0.2 * 0.9 * normal(2, 3).sum()))  # d (1 - w / 10)^2 / dw at w = 1


# ---- conditions and guidance -----------------------------------------------------------------------------------------


def labelled(shown: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
    """A field that vanishes at the label's place, at 0 without one (-1, a whole number hidden)."""
    return 4 * (shown - (0 if label is None else label[:, None].clamp_min(0).to(shown.dtype)))


def test_guidance_extrapolates_the_field() -> None:
    """A field that vanishes at 0 without and at y with a label vanishes at w y with guidance w, one w per row too."""
    denoiser, label, z = Denoiser(labelled, Equilibrium()), torch.tensor([1, 2, 3]), normal(3, 2)
    for w in (0.0, 1.0, 1.5, 3.0, torch.tensor([0.5, 1.0, 4.0], dtype=F64)):
        end = descend(guide(denoiser, w), z, label=label, **PRECISE)
        assert spread_of(end.x - (label * w)[:, None]) < 1e-10
        assert (end.residual < 1e-10).all()
    states: list[Descended] = list(descent(denoiser, z, label=label, **PRECISE))
    assert spread_of(states[-1].x - label[:, None]) < 1e-10


def test_clipped_and_inpainted_guesses_descend_too() -> None:
    denoiser, label, z = Denoiser(labelled, Equilibrium()), torch.tensor([1, 2, 3]), normal(3, 2)
    bounded = descend(clip(denoiser, -1.5, 1.5), z, label=label, **PRECISE).x
    assert spread_of(bounded - label[:, None].clamp(max=1.5)) < 1e-9
    mask = torch.tensor([True, False])
    filled = descend(inpaint(denoiser, torch.full((2,), 7.0, dtype=F64), mask), z, label=label, **PRECISE).x
    assert spread_of(filled - torch.stack([torch.full((3,), 7), label], 1)) < 1e-9


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": 0.0}, "step must be positive"),
        ({"step": -1.0}, "step must be positive"),
        ({"step": math.nan}, "step must be positive"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"tol": -1e-3}, "tol must be positive"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, got 1\.0"),
        ({"momentum": -0.1}, "momentum must be at least 0"),
        ({"most": 0}, "most must be at least 1, got 0"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, Any], message: str) -> None:
    denoiser = Denoiser(bent, Equilibrium())
    with pytest.raises(ValueError, match=message):
        descend(denoiser, normal(2, 3), **wrong)
    with pytest.raises(ValueError, match=message):
        descent(denoiser, normal(2, 3), **wrong)  # at once, not at the first step


def test_wrong_processes_are_named() -> None:
    for wrong in ({"cut": 0.0}, {"cut": 1.1}, {"scale": 0.0}, {"scale": math.inf}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            Equilibrium(**wrong)
    with pytest.raises(TypeError, match="train with Equilibrium"):
        descend(Denoiser(bent, Gaussian()), normal(2, 3))


# ---- what a time-blind field cannot do -------------------------------------------------------------------------------


def test_dense_data_gathers_in_the_middle() -> None:
    """Normal data in one dimension: at t and at 1 - t x_t is distributed alike, so the field is an average over both,
    and with c that decays towards the data the noise wins: everywhere f points away from the mean, its only zero."""
    process, t = Equilibrium(), torch.linspace(5e-5, 1 - 5e-5, 10_000, dtype=F64)
    y = torch.linspace(0.05, 4, 40, dtype=F64)[:, None]
    variance = (1 - t) ** 2 + t**2
    x, z = (1 - t) / variance * y, t / variance * y  # the means of both ends given x_t = y and t
    share = (-(y**2) / variance / 2 - variance.log() / 2).softmax(1)
    f = (share * process.target(x.flatten(), z.flatten(), t.repeat(40)).reshape(40, -1)).sum(1)
    assert (f > 0).all()


# ---- a learned field -------------------------------------------------------------------------------------------------

POINTS = 1.4 * torch.stack([torch.arange(5.0).mul(0.4 * math.pi).cos(), torch.arange(5.0).mul(0.4 * math.pi).sin()], 1)


@pytest.fixture(scope="module")
def learned() -> Denoiser:
    """Five points on a circle (about unit variance), learned in a few hundred steps."""
    torch.manual_seed(0)
    network: nn.Module = MLP(dim=2, width=48, depth=2)
    denoiser, rng = Denoiser(network, Equilibrium()), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters())
    steps = 600
    for i in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 6e-3 * (1 - i / steps)
        x = POINTS[torch.randint(5, (128,), generator=rng)]
        optimiser.zero_grad()
        loss(denoiser, x, torch.rand(128, generator=rng), rng).mean().backward()
        optimiser.step()
    return denoiser


@pytest.mark.parametrize("tol", [0.05, 1e-6], ids=["stopping", "never stopping"])
def test_a_learned_field_holds_its_samples_when_given_more_steps(learned: Denoiser, tol: float) -> None:
    """Separate points, whose ideal field vanishes on each of them: four times the steps do no harm, with the stopping
    rule, which ends long before, and without it."""
    z = Streams(key("equilibrium"), range(500)).normal((500, 2))
    data, chance = POINTS.repeat(100, 1), torch.randint(5, (500,), generator=torch.Generator().manual_seed(1))
    noise = sliced_wasserstein(POINTS[chance], data, 64)
    ends = [descend(learned, z, step=0.01, tol=tol, most=most) for most in (60, 240)]
    once, four_times = [sliced_wasserstein(end.x, data, 64) for end in ends]
    far, farther = [float(torch.cdist(end.x, POINTS).amin(1).quantile(0.95)) for end in ends]
    assert four_times <= once * 1.1 + noise / 2
    assert farther <= far * 1.1
    if tol == 0.05:
        assert (ends[1].residual < tol).all()
        assert ends[1].steps.double().mean() < 60
        assert farther < 0.1
        with torch.no_grad():
            assert residual(learned, POINTS).max() < residual(learned, 2 * z).median() / 10
