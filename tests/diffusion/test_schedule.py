"""Schedules: published formulas in independent form, rates against finite differences, inverses, precision."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.schedule import (
    EDM,
    VE,
    VP,
    Cosine,
    Linear,
    LogLinear,
    Schedule,
    Shifted,
    Sigmoid,
    Table,
    ZeroTerminal,
)
from tests.laws.worlds import BETAS, F64, SCHEDULES, scalar

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
INSIDE = torch.linspace(0.0105, 0.9895, 90, dtype=F64)  # no knot of the table
PRESERVING = {"cosine", "cosine_offset", "vp", "loglinear", "sigmoid", "table", "shifted_vp", "zero_terminal"}


# ---- what holds for all ----------------------------------------------------------------------------------------------


@every_schedule
def test_truth_3_rates_are_finite_differences(schedule: Schedule) -> None:
    h = 1e-5
    for rate, f in zip(schedule.rates(INSIDE), (schedule.alpha, schedule.sigma), strict=True):
        difference = (f(INSIDE + h) - f(INSIDE - h)) / (2 * h)
        assert (rate - difference).abs().max() < 2e-6 * max(1, float(f(INSIDE).abs().max()))


@every_schedule
def test_rates_of_any_shape_and_inside_a_graph(schedule: Schedule) -> None:
    t = INSIDE[:12].reshape(3, 4)
    whole = schedule.rates(t)
    assert whole[0].shape == (3, 4)
    for rates, flat in zip(whole, schedule.rates(t.flatten()), strict=True):
        assert torch.equal(rates.flatten(), flat)
    assert schedule.rates(scalar(0.3))[1].shape == ()


@every_schedule
def test_truth_3_log_snr_falls(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 2001, dtype=F64)
    logsnr = schedule.logsnr(t)
    assert (logsnr[1:] < logsnr[:-1]).all()
    angle = schedule.angle(t)
    assert (angle[1:] > angle[:-1]).all()
    assert angle.min() >= 0
    assert angle.max() <= math.pi / 2 + 1e-15


@every_schedule
@settings(max_examples=12, deadline=None, derandomize=True)
@given(time=st.floats(0.001, 0.999))
def test_truth_3_inverses(schedule: Schedule, time: float) -> None:
    t = scalar(time)
    assert abs(schedule.at_angle(schedule.angle(t)) - t) < 1e-11
    assert abs(schedule.time(schedule.logsnr(t)) - t) < 1e-11


@every_schedule
def test_inverses_hold_at_the_ends(schedule: Schedule) -> None:
    for end in (0.0, 1.0):
        assert abs(schedule.at_angle(schedule.angle(scalar(end))) - end) < 1e-7


@every_schedule
def test_inverses_carry_derivatives(schedule: Schedule) -> None:
    t = INSIDE[::9].clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.at_angle(schedule.angle(t)).sum(), t)
    assert (slope - 1).abs().max() < 1e-5


def test_bisection_agrees_with_closed_forms() -> None:
    angles = torch.linspace(0.05, 1.5, 40, dtype=F64)
    for schedule in (Linear(), Cosine(), VP(), LogLinear(), Cosine(0.008), Sigmoid()):
        assert (Schedule.at_angle(schedule, angles) - schedule.at_angle(angles)).abs().max() < 1e-12


@pytest.mark.parametrize("schedule", [Linear(), VE(), EDM()], ids=lambda schedule: type(schedule).__name__)
def test_the_derivative_of_bisection_is_that_of_the_closed_form(schedule: Schedule) -> None:
    """On schedules off the unit circle: there the angle's rate has the squared radius below it."""
    angles = schedule.angle(INSIDE).detach()
    given, own = angles.clone().requires_grad_(), angles.clone().requires_grad_()
    (by_bisection,) = torch.autograd.grad(Schedule.at_angle(schedule, given).sum(), given)
    (by_formula,) = torch.autograd.grad(schedule.at_angle(own).sum(), own)
    assert torch.allclose(by_bisection, by_formula, rtol=1e-6)


@pytest.mark.parametrize("tau", [0.4, 1.7])
def test_the_inverse_of_a_sigmoid_of_any_temperature(tau: float) -> None:
    schedule = Sigmoid(start=-2.0, end=3.0, tau=tau)
    assert (schedule.at_angle(schedule.angle(INSIDE)) - INSIDE).abs().max() < 1e-10


def test_zero_terminal_keeps_its_digits_where_there_is_hardly_noise() -> None:
    """1 - alpha^2 would lose them all: in float32 alpha is 1 there."""
    schedule, t = ZeroTerminal(VP()), torch.tensor([1e-5, 1e-4, 1e-3], dtype=F64)
    exact = schedule.sigma(t)
    assert (schedule.sigma(t.float()).double() / exact - 1).abs().max() < 1e-4


@pytest.mark.parametrize("name", sorted(PRESERVING))
def test_truth_4_variance_preserving(name: str) -> None:
    t = torch.linspace(0, 1, 501, dtype=F64)
    assert (SCHEDULES[name].hypot(t) - 1).abs().max() < 1e-14


@every_schedule
def test_float32_agrees_with_float64(schedule: Schedule) -> None:
    t = torch.linspace(0.001, 0.999, 300, dtype=F64)
    for f in (schedule.alpha, schedule.sigma, schedule.logsnr, schedule.angle):
        narrow, wide = f(t.float()), f(t)
        assert narrow.dtype == torch.float32
        assert ((narrow - wide).abs() / (wide.abs() + 0.02)).max() < 2e-4, f
    assert (schedule.at_angle(schedule.angle(t).float()) - t).abs().max() < 1e-4


# ---- one by one ------------------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_ends_are_numbers_in_every_precision(schedule: Schedule, dtype: torch.dtype) -> None:
    """In float32 pi / 2 lies beyond the quarter circle and a shifted time beyond 1: alpha must not be negative there, or the
    level of noise that a network is told is no number."""
    for worlds in (schedule, Shifted(schedule, 3.0), Shifted(schedule, 0.3)):
        one, zero = torch.ones(3, dtype=dtype), torch.zeros(3, dtype=dtype)
        t = torch.cat([zero, zero.nextafter(one), torch.linspace(0, 1, 1001, dtype=dtype), one.nextafter(zero), one])
        alpha, sigma = worlds.alpha(t), worlds.sigma(t)
        assert bool((alpha >= 0).all() and (sigma >= 0).all())
        assert not bool(worlds.logsnr(t).isnan().any())
        shown, level = Gaussian(worlds, "data").precondition(torch.ones(len(t), 1, dtype=dtype), t)
        assert bool(shown.isfinite().all() and level.isfinite().all())


def test_linear_and_cosine_are_what_they_are_called() -> None:
    t = torch.linspace(0, 1, 11, dtype=F64)
    assert torch.allclose(Linear().alpha(t) + Linear().sigma(t), torch.ones(11, dtype=F64), rtol=0, atol=0)
    assert (Cosine().angle(t) - t * math.pi / 2).abs().max() < 1e-15


@pytest.mark.parametrize("offset", [0.0, 0.008, 0.1])
def test_cosine_is_nichol_and_dhariwal(offset: float) -> None:
    """Their eq. 17: the signal's share of variance is f(t) / f(0), f = cos^2((t + s) / (1 + s) pi / 2)."""
    t = np.linspace(0, 1, 201)
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    found = Cosine(offset)
    kept = torch.tensor(f / f[0], dtype=F64)
    assert (found.alpha(torch.tensor(t)) ** 2 - kept).abs().max() < 1e-14
    assert (found.sigma(torch.tensor(t)) ** 2 - (1 - kept)).abs().max() < 1e-14


def test_vp_is_the_integral_of_its_rate_of_noise() -> None:
    """Song 2021: dx = -beta(t) x / 2 dt + sqrt(beta) dw with beta linear; alpha' / alpha = -beta / 2 and
    d(alpha^2 + sigma^2) = 0."""
    schedule = VP(0.2, 15.0)
    alpha_rate, sigma_rate = schedule.rates(INSIDE)
    beta = 0.2 + INSIDE * 14.8
    assert (alpha_rate / schedule.alpha(INSIDE) + beta / 2).abs().max() < 1e-11
    lost = 2 * (alpha_rate * schedule.alpha(INSIDE) + sigma_rate * schedule.sigma(INSIDE))
    assert lost.abs().max() < 1e-13
    assert schedule.alpha(scalar(0.0)) == 1


def test_ve_and_loglinear_have_a_constant_ratio() -> None:
    t = torch.linspace(0, 1, 8, dtype=F64)
    for schedule, low, high in ((VE(0.02, 30.0), 0.02, 30.0), (LogLinear(0.02, 30.0), 0.02, 30.0)):
        ratio = schedule.sigma(t) / schedule.alpha(t)
        wanted = torch.tensor(np.geomspace(low, high, 8))
        assert (ratio / wanted - 1).abs().max() < 1e-13


def test_truth_4_edm_is_the_rho_7_grid() -> None:
    """Karras 2022, eq. 5: sigma_i = (max^(1/7) + i / (N - 1) (min^(1/7) - max^(1/7)))^7."""
    n, low, high = 18, 0.002, 80.0
    sigmas = [(high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(n)]
    found = EDM().sigma(torch.linspace(1, 0, n, dtype=F64))
    assert (found / torch.tensor(sigmas, dtype=F64) - 1).abs().max() < 1e-12
    assert (EDM().alpha(torch.linspace(1, 0, n)) == 1).all()


def test_sigmoid_is_jabri() -> None:
    """Jabri 2022, algorithm 1: gamma = (v_end - sigmoid((t (end - start) + start) / tau)) / (v_end - v_start)."""
    start, end, tau = -3.0, 3.0, 0.9
    t = np.linspace(0, 1, 51)
    v = [1 / (1 + math.exp(-edge / tau)) for edge in (start, end)]
    gamma = (v[1] - 1 / (1 + np.exp(-(t * (end - start) + start) / tau))) / (v[1] - v[0])
    found = Sigmoid(start, end, tau)
    assert (found.alpha(torch.tensor(t)) ** 2 - torch.tensor(gamma)).abs().max() < 1e-14
    assert found.sigma(scalar(0.0)) < 1e-7


def test_table_reproduces_the_cumulative_products() -> None:
    kept, product = [1.0], 1.0
    for beta in np.linspace(1e-4, 0.02, 1000):
        product *= 1 - beta
        kept.append(product)
    t = torch.arange(1001, dtype=F64) / 1000
    table = Table(BETAS)
    assert (table.alpha(t) - torch.tensor(kept).sqrt()).abs().max() < 1e-12
    assert (table.sigma(t) - (1 - torch.tensor(kept)).sqrt()).abs().max() < 1e-11
    between = table.alpha(torch.tensor([0.4995], dtype=F64))  # the logarithm is straight between knots
    assert float(between) == pytest.approx((kept[499] * kept[500]) ** 0.25, rel=1e-12)


def test_table_tends_to_vp() -> None:
    """DDPM's betas are 1/1000 of VP's rate; their limit is VP up to 1/1000."""
    t = torch.linspace(0.01, 1, 100, dtype=F64)
    assert (Table(BETAS).alpha(t) - VP().alpha(t)).abs().max() < 2e-3


@pytest.mark.parametrize("betas", [(), (0.1, 1.0), (0.0, 0.1), (0.1, -0.1), (math.nan,)])
def test_table_wants_betas(betas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Table(betas)


@pytest.mark.parametrize("base", [Linear(), VP(), Cosine(), EDM(), Cosine(0.008)], ids=str)
@pytest.mark.parametrize("k", [0.3, 1.0, 3.0])
def test_truth_5_shift(base: Schedule, k: float) -> None:
    """Wherever the base reaches far enough: k times more noise for the signal. At its end EDM's walk is cut short."""
    t = torch.linspace(0.02, 0.7, 40, dtype=F64) if isinstance(base, EDM) and k < 1 else INSIDE * 0.7 + 0.2
    found, wanted = Shifted(base, k).logsnr(t), base.logsnr(t) - 2 * math.log(k)
    inside = wanted > base.logsnr(scalar(1.0))
    assert inside.sum() > 20
    assert (found - wanted)[inside].abs().max() < 1e-8


def test_truth_5_shift_warps_the_straight_line() -> None:
    """SD3 (Esser 2024, eq. 23): t becomes k t / (1 + (k - 1) t)."""
    t = torch.linspace(0, 1, 21, dtype=F64)
    for k in (0.5, 3.0):
        assert (Shifted(Linear(), k).sigma(t) - k * t / (1 + (k - 1) * t)).abs().max() < 1e-15
    twice = Shifted(Shifted(Linear(), 3.0), 2.0)
    assert (twice.sigma(t) - Shifted(Linear(), 6.0).sigma(t)).abs().max() < 1e-12


def test_shift_stays_on_the_path() -> None:
    t, base, shifted = INSIDE, Linear(), Shifted(Linear(), 3.0)
    assert (shifted.alpha(t) + shifted.sigma(t) - 1).abs().max() < 1e-15
    assert (Shifted(VP(), 2.0).hypot(t) - 1).abs().max() < 1e-14
    # derivatives pass through the inverse: along the path they are the base's, at another pace
    (a, b), (c, d) = shifted.rates(t), base.rates(t)
    assert (a + b).abs().max() < 1e-13
    assert (c + d).abs().max() == 0
    assert (b - 3 / (1 + 2 * t) ** 2).abs().max() < 1e-12


def test_derivatives_pass_through_shifts_of_schedules_without_a_formula() -> None:
    """Table and ZeroTerminal invert by bisection; the Newton step carries the derivative."""
    for base in (Table(BETAS), ZeroTerminal(VP())):
        shifted = Shifted(base, 2.0)
        t = torch.linspace(0.1, 0.9, 9, dtype=F64) + 0.00037
        t.requires_grad_()
        (slope,) = torch.autograd.grad(shifted.logsnr(t).sum(), t)
        (wanted,) = torch.autograd.grad(base.logsnr(t).sum(), t)
        assert (slope / wanted - 1).abs().max() < 2e-3


def test_zero_terminal_ends_without_signal() -> None:
    """Lin 2023, algorithm 1: sqrt(alpha_bar) shifted so that the last is zero and scaled so that the first stays."""
    schedule, t = ZeroTerminal(VP()), torch.linspace(0, 1, 101, dtype=F64)
    kept = VP().alpha(t)
    wanted = (kept - kept[-1]) * kept[0] / (kept[0] - kept[-1])
    assert (schedule.alpha(t) - wanted).abs().max() < 1e-15
    assert schedule.alpha(t)[-1] == 0
    assert float(schedule.sigma(t)[-1]) == pytest.approx(1, abs=1e-14)  # a root, rounded by each processor its own way
    assert schedule.alpha(t)[0] == 1
    assert schedule.sigma(t)[0] == 0
    tiny = torch.tensor([1e-9], dtype=F64)  # no cancellation near the data
    assert float(schedule.sigma(tiny) / VP().sigma(tiny)) == pytest.approx((1 / (1 - float(kept[-1]))) ** 0.5, rel=1e-6)
    late = ZeroTerminal(LogLinear())  # a schedule that starts with some noise keeps it
    assert late.sigma(scalar(0.0)) == pytest.approx(float(LogLinear().sigma(scalar(0.0))), rel=1e-9)
    assert late.alpha(scalar(1.0)) == 0


@every_schedule
def test_schedules_are_values(schedule: Any) -> None:
    assert schedule == type(schedule)(**vars(schedule))
    assert hash(schedule) == hash(type(schedule)(**vars(schedule)))


def test_rates_are_asked_for_by_many_threads_at_once() -> None:
    """torch has one level of forward differentiation for all threads of a process."""
    schedule = VP()
    right = schedule.rates(INSIDE)

    def one(number: int) -> float:
        found = schedule.rates(INSIDE)
        return max(float((a - b).abs().max()) for a, b in zip(found, right, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(one, range(400))) == 0
