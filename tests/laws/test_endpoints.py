"""Laws 1 to 6: the endpoints, the kernel, and the equality of answers, for every schedule and answer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.diffusion.grids import uniform
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import VP, Linear, LogLinear
from sfumato.diffusion.solvers import SOLVERS
from tests.laws.orders import DETERMINISTIC, Impulses, mixture
from tests.laws.worlds import ANSWERS, F64, HELD, SCHEDULES, Constant, normal, scalar, walk

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
every_answer = pytest.mark.parametrize("predicts", ANSWERS)
SHAPES = ((3, 4), (2, 3, 4, 5), (3, 5, 2))


@st.composite
def cases(draw: st.DrawFn, low: float = 1e-3, high: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """x, z of one of the shapes (B, D), (B, C, H, W), (B, L, D) and a time of shape (), (B,) or (B, L)."""
    shape = draw(st.sampled_from(SHAPES))
    x, z = normal(2, *shape, seed=draw(st.integers(0, 10**6)))
    axes = draw(st.integers(0, 2 if len(shape) == 3 else 1))
    count = int(torch.tensor(shape[:axes]).prod()) if axes else 1
    t = torch.tensor(draw(st.lists(st.floats(low, high), min_size=count, max_size=count)), dtype=F64)
    return x, z, t.reshape(shape[:axes])


def invertible(process: Gaussian, t: Tensor, *answers: str) -> Tensor:
    """The nearest earlier times at which the answers may be inverted (see HELD)."""
    if not {"noise", "score"} & set(answers):
        return t
    latest = process.schedule.at_angle(torch.atan(scalar(0.5 / HELD))).clamp(0, 1)
    return torch.where(process.schedule.alpha(t) > HELD, t, torch.minimum(t, latest))


def spread_of(*values: Tensor) -> float:
    return max(float(value.abs().max()) for value in values)


# ---- law 1 -----------------------------------------------------------------------------------------------------------

SIGMA_AT_0 = {"ve": 0.01, "edm": 0.002, "loglinear": 0.01}
RATIO_AT_1 = {"vp": 7e-3, "ve": 1 / 50, "edm": 1 / 80, "loglinear": 1 / 100, "table": 7e-3, "shifted_vp": 7e-3}


@pytest.mark.parametrize("name", SCHEDULES)
def test_law_1_ends(name: str) -> None:
    process, (x, z) = Gaussian(SCHEDULES[name]), normal(2, 5, 3)
    size = x.abs() + z.abs()
    assert ((process.interpolate(x, z, scalar(0.0)) - x).abs() <= SIGMA_AT_0.get(name, 0.0) * size + 1e-14).all()
    away = (process.interpolate(x, z, scalar(1.0)) - process.start(z)).abs()
    assert (away <= (RATIO_AT_1.get(name, 0.0) + 1e-14) * size * float(SCHEDULES[name].sigma(scalar(1.0)))).all()


@every_schedule
def test_times_per_sample_and_per_token_broadcast(schedule: object) -> None:
    process, (x, z) = Gaussian(schedule), normal(2, 3, 4, 2, 5)  # type: ignore[arg-type]
    t = torch.rand(3, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    whole = process.interpolate(x, z, t)
    for i in range(3):
        for j in range(4):
            assert torch.allclose(whole[i, j], process.interpolate(x[i, j], z[i, j], t[i, j]), rtol=1e-14, atol=1e-15)


# ---- laws 2, 3 and 6 -------------------------------------------------------------------------------------------------


def latest(schedule: object, predicts: str) -> float:
    """Sigmoid's alpha falls like a square root at t = 1: its velocity is infinite there."""
    return 0.999 if predicts == "velocity" and type(schedule).__name__ == "Sigmoid" else 1.0


@every_answer
@every_schedule
@settings(max_examples=5, deadline=None, derandomize=True)
@given(case=cases())
def test_law_2_targets_are_inverted(schedule: object, predicts: str, case: tuple[Tensor, Tensor, Tensor]) -> None:
    process, (x, z, t) = Gaussian(schedule, predicts), case  # type: ignore[arg-type]
    t = invertible(process, t.clamp_max(latest(schedule, predicts)), predicts)
    x_t = process.interpolate(x, z, t)
    ends = process.endpoints(process.target(x, z, t), x_t, t)
    assert spread_of(ends.x - x, ends.z - z) < 2e-11


@every_answer
@every_schedule
@settings(max_examples=5, deadline=None, derandomize=True)
@given(case=cases(low=1e-6))
def test_law_3_any_answer_explains_x_t(schedule: object, predicts: str, case: tuple[Tensor, Tensor, Tensor]) -> None:
    process, (x_t, answer, t) = Gaussian(schedule, predicts), case  # type: ignore[arg-type]
    t = t.clamp_max(latest(schedule, predicts))
    ends = process.endpoints(answer, x_t, t)
    assert spread_of(process.interpolate(*ends, t) - x_t) < 2e-14 * max(1, spread_of(ends.x, ends.z))


@every_schedule
@settings(max_examples=5, deadline=None, derandomize=True)
@given(case=cases(), one=st.sampled_from(ANSWERS), two=st.sampled_from(ANSWERS))
def test_an_answer_translates_into_any_other(
    schedule: object, case: tuple[Tensor, Tensor, Tensor], one: str, two: str
) -> None:
    first, second = Gaussian(schedule, one), Gaussian(schedule, two)  # type: ignore[arg-type]
    x_t, answer, t = case
    t = invertible(first, t.clamp_max(0.999), one, two).clamp_min(0.01)
    ends = first.endpoints(answer, x_t, t)
    again = second.endpoints(second.target(*ends, t), x_t, t)
    assert spread_of(again.x - ends.x, again.z - ends.z) < 1e-10 * max(1, spread_of(*ends))


@pytest.mark.parametrize("predicts", ["noise", "score"])
def test_answers_that_know_nothing_of_the_data_keep_the_noise(predicts: str) -> None:
    """Where alpha = 0 the guess of x is worth nothing, but law 3 must hold, or every sample would start from the same
    point: z is what remains of x_t."""
    process, x_t = Gaussian(Linear(), predicts), normal(4, 3)  # type: ignore[arg-type]
    one = scalar(1.0)
    ends = process.endpoints(process.target(torch.zeros_like(x_t), x_t, one), x_t, one)
    assert spread_of(ends.z - x_t) < 1e-12
    assert spread_of(ends.x) < 1e-12


# the answers noise and score are not inverted where alpha < HELD, so pure noise is left to the other three
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("schedule", "answers"),
    [(VP(), ANSWERS), (Linear(), ("data", "v", "velocity")), (LogLinear(), ANSWERS)],
    ids=["vp", "linear", "loglinear"],
)
def test_law_6_answers_share_the_path(solver: str, schedule: object, answers: tuple[str, ...]) -> None:
    if solver == "euler_maruyama" and isinstance(schedule, Linear):
        pytest.skip("Euler-Maruyama does not start at pure noise")
    z, ends = normal(6, 1), []
    for answer in answers:
        data = mixture(schedule)  # type: ignore[arg-type]
        data = type(data)(data.weights, data.means, data.deviations, process=Gaussian(schedule, answer))  # type: ignore[arg-type]
        rng = Streams(key("law 6"), range(6))
        ends.append(sample(data, z, uniform(data.process.schedule, 12), SOLVERS[solver], rng))
    assert ends[0].isfinite().all()
    assert len(ends[0].unique()) == 6
    for other in ends[1:]:
        assert spread_of(other - ends[0]) < 1e-8 if solver == "adaptive" else spread_of(other - ends[0]) < 1e-10


# ---- law 4 -----------------------------------------------------------------------------------------------------------


@every_schedule
@settings(max_examples=5, deadline=None, derandomize=True)
@given(case=cases(), moments=st.lists(st.floats(0, 1), min_size=3, max_size=3, unique=True))
def test_law_4_two_steps_are_one(schedule: object, case: tuple[Tensor, Tensor, Tensor], moments: list[float]) -> None:
    process, (x, z, _) = Gaussian(schedule), case  # type: ignore[arg-type]
    s, r, t = (scalar(value) for value in sorted(moments))
    x_t, ends = process.interpolate(x, z, t), Endpoints(x, z)
    there = process.step(ends, process.step(ends, x_t, t, r), r, s)
    assert torch.equal(there, process.step(ends, x_t, t, s))


@every_schedule
@pytest.mark.parametrize("solver", DETERMINISTIC)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(start=st.floats(0.5, 0.999), steps=st.integers(1, 7), seed=st.integers(0, 10**6), to_data=st.booleans())
def test_law_4_constant_endpoints_are_exact(
    schedule: object, solver: str, start: float, steps: int, seed: int, to_data: bool
) -> None:
    """Truth 20: every order, in one step and in many uneven ones."""
    process, (x, z) = Gaussian(schedule), normal(2, 2, 3, seed=seed)  # type: ignore[arg-type]
    cuts = torch.rand(steps + 1, dtype=F64, generator=torch.Generator().manual_seed(seed)).cumsum(0)
    times = start * (1 - (cuts - cuts[0]) / (cuts[-1] - cuts[0]) * (1.0 if to_data else 0.97))
    x_s = walk(DETERMINISTIC[solver], Constant(x, z, process), process.interpolate(x, z, times[0]), times.unbind())
    wanted = process.interpolate(x, z, times[-1])
    assert spread_of(x_s - wanted) < 1e-10 * spread_of(process.interpolate(x, z, times[0]), wanted)


# ---- law 5 -----------------------------------------------------------------------------------------------------------


@every_schedule
def test_law_5_kernel_by_sampling(schedule: object) -> None:
    process = Gaussian(schedule)  # type: ignore[arg-type]
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=F64).expand(100_000, 3)
    z = process.prior(x, torch.Generator().manual_seed(3))
    for t in (0.1, 0.6, 1.0):
        x_t, time = process.interpolate(x, z, scalar(t)), scalar(t)
        alpha, sigma = process.schedule.alpha(time), process.schedule.sigma(time)
        assert (x_t.mean(0) - alpha * x[0]).abs().max() < 5 * sigma / 100_000**0.5
        assert (x_t.std(0) / sigma - 1).abs().max() < 5 / 200_000**0.5
        assert (torch.cov(x_t.T) / sigma**2 - torch.eye(3)).abs().max() < 5 / 70_000**0.5


@every_schedule
@settings(max_examples=5, deadline=None, derandomize=True)
@given(moments=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2, unique=True), eta=st.floats(0.01, 1))
def test_law_5_renoising_keeps_the_kernel(schedule: object, moments: list[float], eta: float) -> None:
    """Given x, the noise at s has unit variance for every eta (exact: coefficients of unit impulses), and at eta = 1
    what is added on the way up, x_t - alpha_t / alpha_s x_s, is independent of x_s: the Markov chain's kernel."""
    process = Gaussian(schedule)  # type: ignore[arg-type]
    s, t = (scalar(value) for value in sorted(moments))
    z = torch.zeros(3, 1, dtype=F64)
    z[1] = 1
    for share in (eta, 1.0):
        kept, fresh = process.renoise(z, t, s, share, Impulses())[1:, 0]  # type: ignore[arg-type]
        assert abs(kept**2 + fresh**2 - 1) < 1e-14
    alpha_t, alpha_s = process.schedule.alpha(t), process.schedule.alpha(s)
    sigma_t, sigma_s = process.schedule.sigma(t), process.schedule.sigma(s)
    assert abs(kept * sigma_t - alpha_t / alpha_s * sigma_s) < 1e-12 * max(1, float(sigma_t))
