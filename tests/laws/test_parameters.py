"""Every parameter of every solver away from its default: what it does, as a law at two other values or more."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato.diffusion as diffusion
from sfumato.diffusion import (
    EDM,
    SOLVERS,
    VE,
    VP,
    Confidence,
    Descent,
    EntropyBound,
    Gaussian,
    Parts,
    RandomOrder,
    Remask,
    Renoised,
    ab,
    dpmpp_2m,
    dpmpp_2s,
    euler,
    heun,
    sample,
    uniform,
    walk,
)
from sfumato.diffusion.exact import MixtureData
from sfumato.diffusion.sample import Euler, Solver
from sfumato.diffusion.schedule import LogLinear, Schedule
from sfumato.diffusion.solvers import AdaptiveSolver, Churn, Multistep, NotMet, Overstep, PredictorCorrector
from sfumato.diffusion.stretching import Stretch
from tests.laws.orders import Impulses, curve, exact_end, mixture, moment_error, noises, panel, slope, worst_ratio
from tests.laws.worlds import F64, Told, normal, scalar

FINITE: dict[str, Schedule] = {"vp": VP(), "ve": VE(), "edm": EDM(), "loglinear": LogLinear()}


# ---- every solver whose noise is fresh: it is the right noise, whatever the parameters -----------------------------------

FRESH: dict[str, Any] = {
    **{f"euler {eta}": euler(eta) for eta in (0.0, 0.3, 0.8, 1.0)},
    **{f"dpmpp_2m {eta}": dpmpp_2m(eta) for eta in (0.0, 0.3, 0.8, 1.0)},
    **{f"renoised {eta}": Renoised(euler(), eta) for eta in (0.0, 0.3, 0.8, 1.0)},
    **{f"renoised heun {eta}": Renoised(heun(), eta) for eta in (0.4, 0.9)},
    **{f"churn {churn} {low} {high}": Churn(churn, low, high) for churn, low, high in (
        (0.0, 0.05, 50.0), (5.0, 0.0, 1e9), (300.0, 0.05, 50.0), (20.0, 0.5, 3.0), (20.0, 0.05, 0.4), (20.0, 3.0, 50.0))},
    **{f"corrections {strength} {times}": PredictorCorrector(strength, times)
       for strength in (0.0, 0.2, 1.5) for times in (1, 3)},
    **{f"overstep {gamma} {low}": Overstep(gamma, low, 1.0, 1.0) for gamma, low in ((0.0, 0.1), (0.8, 0.1), (0.3, 0.0))},
}  # fmt: skip


def point(schedule: Schedule, x: float = 1.7) -> MixtureData:
    """Data that is one point: the guess is always right."""
    return MixtureData(
        torch.ones(1, dtype=F64), torch.full((1, 1), x, dtype=F64), torch.zeros(1, dtype=F64),
        process=Gaussian(schedule, "data"),
    )  # fmt: skip


def linear_walk(solver: Any, schedule: Schedule, times: Tensor, draws: int = 1) -> list[Tensor]:
    """Every state of walks to the one point: row 0 without any noise, row 1 with a unit of that at the start, rows 2 and on
    with one of a fresh draw each; the state is affine in them."""
    data, one = point(schedule), times[0]
    start = (schedule.alpha(one) * 1.7).repeat(2 + draws * (len(times) - 1), 1)
    start[1] += schedule.sigma(one)
    impulses: Any = Impulses()
    return [x for x, _ in walk(data, None, times, solver, impulses, x_t=start)]


@pytest.mark.parametrize("name", FRESH)
@pytest.mark.parametrize("schedule", FINITE)
def test_delta_data_has_the_kernels_law_at_every_step(name: str, schedule: str) -> None:
    """Where the guess is right, x_s is N(alpha x, sigma^2) for any amount of fresh noise: it replaces what was taken."""
    world, times = FINITE[schedule], uniform(FINITE[schedule], 9) ** 2  # steps of several lengths, the last ones short
    for time, x_s in zip(times, linear_walk(FRESH[name], world, times, draws=3), strict=True):
        spread, wanted = (x_s[1:] - x_s[0]).pow(2).sum().sqrt(), world.sigma(time)
        assert abs(float(x_s[0, 0] - world.alpha(time) * 1.7)) < 1e-9
        assert float(spread) == pytest.approx(float(wanted), rel=1e-9, abs=1e-11)


def kept(solver: Any, schedule: Schedule, times: Tensor) -> list[float]:
    """How much of the noise at the start is left in every state, in units of the noise there."""
    return [float((x[1] - x[0]) / schedule.sigma(t))
            for t, x in zip(times, linear_walk(solver, schedule, times, draws=6), strict=True)]  # fmt: skip


@pytest.mark.parametrize("eta", [0.3, 0.8])
@pytest.mark.parametrize("make", [euler, dpmpp_2m, lambda eta: Renoised(heun(), eta)], ids=["euler", "2m", "renoised"])
def test_eta_is_that_of_ddim(eta: float, make: Any) -> None:
    """Song 2020, eq. 16, from the products of 1 - beta: the deviation of the fresh noise, and of all solvers the same."""
    times = torch.linspace(0.95, 0.15, 6, dtype=F64)
    found = kept(make(eta), VP(), times)
    left = 1.0
    for (t, s), share in zip(pairwise(times), found[1:], strict=True):
        bar_t, bar_s = (math.exp(-0.5 * float(u) ** 2 * 19.9 - 0.1 * float(u)) for u in (t, s))
        deviation = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
        left *= math.sqrt(1 - bar_s - deviation**2) / math.sqrt(1 - bar_s)
        assert share == pytest.approx(left, rel=1e-9)
    assert kept(make(0.0), VP(), times) == pytest.approx([1.0] * 6, rel=1e-9)


@pytest.mark.parametrize("strength", [0.2, 1.0])
@pytest.mark.parametrize("corrections", [1, 2, 5])
def test_corrections_are_langevin_time_per_log_snr(strength: float, corrections: int) -> None:
    """The noise that is left after Langevin time tau is exp(-tau / 2), in however many corrections and steps it was spent."""
    for steps in (3, 9):
        times = torch.linspace(0.9, 0.2, steps + 1, dtype=F64)
        asked: list[float] = []
        found = kept(PredictorCorrector(strength, corrections), VP(), times)
        for time, share in zip(times, found, strict=True):
            walked = float(VP().logsnr(time) - VP().logsnr(times[0]))
            assert share == pytest.approx(math.exp(-strength * walked / 2), rel=1e-9)
        sample(counted(point(VP()), asked), normal(2, 1), torch.cat([times, times.new_zeros(1)]),
               PredictorCorrector(strength, corrections))  # fmt: skip
        assert len(asked) == steps * (1 + corrections) + 1  # none at pure data


def counted(base: Any, asked: list[float]) -> Any:
    """Notes the times at which it is asked, at most over the rows."""

    class Counting(Told):
        process = base.process

        def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Any:
            asked.append(float(t.max()))
            return base(x_t, t)

    return Counting()


# ---- Churn -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("churn", [1.0, 3.5])
@pytest.mark.parametrize("inflation", [1.0, 1.3])
def test_churn_raises_sigma_by_its_share_of_the_walk(churn: float, inflation: float) -> None:
    """On VE, of n steps each raises sigma by churn / n: the noise left of the start is 1 / (1 + churn / n) a step, and the
    fresh noise has the deviation that is missing, times the inflation."""
    n = 10
    times = torch.linspace(0.8, 0.4, n + 1, dtype=F64)
    solver = Churn(churn, 0.0, math.inf, inflation)
    for i, (t, x) in enumerate(zip(times, linear_walk(solver, VE(), times), strict=True)):
        parts = (x[1:, 0] - x[0, 0]) / VE().sigma(t)
        assert float(parts[0]) == pytest.approx((1 + churn / n) ** -i, rel=1e-9)
        fresh = inflation * math.sqrt(1 - (1 + churn / n) ** -2)
        for step in range(i):
            assert float(parts[1 + step]) == pytest.approx(fresh * (1 + churn / n) ** -(i - 1 - step), rel=1e-9)


def test_churn_is_capped_a_step() -> None:
    """However much is asked for, a step raises sigma by a factor of sqrt(2) at most (Karras 2022, alg. 2)."""
    times = torch.linspace(0.8, 0.4, 5, dtype=F64)
    for churn in (10.0, 1e6):
        found = kept(Churn(churn, 0.0, math.inf), VE(), times)
        assert found == pytest.approx([2 ** (-i / 2) for i in range(5)], rel=1e-9)


@pytest.mark.parametrize(("low", "high", "middle"), [(0.3, 2.0, False), (0.05, 0.6, False), (0.3, 2.0, True)])
def test_churn_has_its_range(low: float, high: float, middle: bool) -> None:
    """Steps that begin outside of it are Heun's own, or DPM-Solver++ 2S's, to the last digit or so; inside there is fresh noise
    in each."""
    data, schedule = mixture(VP()), VP()
    times = uniform(schedule, 24)
    states = [
        x
        for x, _ in walk(
            data, normal(4, 1), times, Churn(20.0, low, high, middle=middle), torch.Generator().manual_seed(0)
        )
    ]
    inside = 0
    for (t, s), (x_t, x_s) in zip(pairwise(times), pairwise(states), strict=True):
        plain, _ = (dpmpp_2s() if middle else heun()).step(data, x_t, t, s, None, None)
        ratio = float(schedule.sigma(t) / schedule.alpha(t))
        assert ((x_s - plain).abs().max() > 1e-3) == (low <= ratio <= high and float(s) > 0) or float(s) == 0
        inside += low <= ratio <= high
    assert 3 < inside < 20


@pytest.mark.parametrize("churn", [5.0, 60.0])
def test_churn_of_any_strength_is_of_first_order(churn: float) -> None:
    few, many = (96, 288) if churn < 40 else (160, 480)  # below, steps of so much churn are cut
    coarse, fine = curve(Churn(churn), VP(), "uniform", (few, many))
    assert slope(coarse, fine, many / few) >= 0.85


def test_inflation_is_a_bias_that_stays() -> None:
    """Noise of 2 % too much is not taken back by more steps, and grows with it; without it the error falls."""
    at = {
        inflation: curve(Churn(20.0, inflation=inflation), VP(), "uniform", (64, 512))
        for inflation in (1.0, 1.02, 1.04)
    }
    assert at[1.0][1] < at[1.0][0] / 4
    for inflation in (1.02, 1.04):
        assert at[inflation][1] > 0.5 * at[inflation][0]
    assert 1.5 < (at[1.04][1] - at[1.0][1]) / (at[1.02][1] - at[1.0][1]) < 2.5


# ---- eta, weakly ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.3, 0.8])
@pytest.mark.parametrize("make", [euler, dpmpp_2m], ids=["euler", "dpmpp_2m"])
def test_any_eta_is_of_weak_order_one_and_falls(make: Any, eta: float) -> None:
    counts = (8, 9, 12, 16, 24, 64, 256)
    found = curve(make(eta), VP(), "uniform", counts)
    assert slope(found[-2], found[-1], 4) >= 0.85
    assert worst_ratio(found) <= 1.1


@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_looking_back_pays_with_fresh_noise_too(eta: float) -> None:
    """The second-order walk errs less than Euler's of the same eta, at few steps and at many."""
    for schedule in (VP(), LogLinear()):
        for steps in (12, 48):
            times = uniform(schedule, steps)
            assert moment_error(dpmpp_2m(eta), schedule, times) < 0.85 * moment_error(euler(eta), schedule, times)


@pytest.mark.parametrize("solver", [euler(), heun()], ids=["euler", "heun"])
@pytest.mark.parametrize("eta", [0.4, 0.9])
def test_renoised_has_the_order_of_its_solver(solver: Any, eta: float) -> None:
    renoised = Renoised(solver, eta)
    assert renoised.order == solver.order
    for schedule, grid in ((VP(), "cosine"), (LogLinear(), "uniform")):
        coarse, fine = curve(renoised, schedule, grid, (48, 192))
        assert slope(coarse, fine, 4) >= solver.order - 0.2


def test_limits_of_eta() -> None:
    data, times, z = mixture(VP()), uniform(VP(), 12), normal(4, 1)

    def end(solver: Any) -> Tensor:
        return sample(data, z, times, solver, torch.Generator().manual_seed(3))

    assert (end(Renoised(heun(), 0.0)) - end(heun())).abs().max() < 1e-9
    assert (end(dpmpp_2m(1e-9)) - end(dpmpp_2m())).abs().max() < 1e-6
    assert (end(euler(1e-9)) - end(euler())).abs().max() < 1e-6
    assert (end(Churn(1e-9)) - end(heun())).abs().max() < 1e-3  # deviation goes with the root of the churn
    assert (end(PredictorCorrector(1e-12)) - end(euler())).abs().max() < 1e-4
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="eta must be 0 to 1"):
            Renoised(heun(), wrong)


# ---- the adaptive solver -------------------------------------------------------------------------------------------------


ENDS = torch.tensor([1.0, 0.0], dtype=F64)


@pytest.mark.parametrize("which", ["rtol", "atol"])
def test_each_tolerance_alone_governs_the_error(which: str) -> None:
    """With the other one next to nothing; and with the other one large it costs nothing to ask for less of this one."""
    errors, calls = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        asked: list[float] = []
        solver = AdaptiveSolver(**{"rtol": 1e-10, "atol": 1e-10, which: tolerance})
        end = sample(counted(panel(VP()), asked), noises()[None], ENDS, solver)[0]
        errors.append(float((end - exact_end(VP())).pow(2).mean().sqrt()))
        calls.append(len(asked))
        loose: list[float] = []
        sample(
            counted(panel(VP()), loose),
            noises()[None],
            ENDS,
            AdaptiveSolver(**{"rtol": 1.0, "atol": 1.0, which: tolerance}),
        )
        assert len(loose) < 40
        assert errors[-1] < 3 * tolerance
    assert all(b < a / 2 for a, b in pairwise(errors))
    assert all(b > a for a, b in pairwise(calls))


@pytest.mark.parametrize("finest", [0.05, 0.3])
def test_below_the_finest_angle_there_is_one_euler_step(finest: float) -> None:
    asked: list[float] = []
    data, z = mixture(VP()), normal(3, 1)
    end = sample(counted(data, asked), z, ENDS, AdaptiveSolver(1e-5, 1e-5, finest=finest))
    lowest = torch.tensor(min(asked), dtype=F64)
    assert float(VP().angle(lowest)) == pytest.approx(finest, rel=1e-6)
    above = sample(data, z, torch.stack([ENDS[0], lowest]), AdaptiveSolver(1e-5, 1e-5, finest=1e-4))
    rest = data.process.step(data(above, lowest), above, lowest, scalar(0.0))
    assert (end - rest).abs().max() < 1e-4


@pytest.mark.parametrize("most", [30, 90])
def test_it_gives_up_after_so_many_calls(most: int) -> None:
    asked: list[float] = []
    with pytest.raises(NotMet, match=f"not met in {most} calls"):
        sample(counted(mixture(VP()), asked), normal(3, 1), ENDS, AdaptiveSolver(1e-11, 1e-11, most=most))
    assert most < len(asked) <= most + 4


@pytest.mark.parametrize("schedule", ["ve", "edm", "vp"])
@pytest.mark.parametrize(
    ("gamma", "low", "noise", "step"), [(0.8, 0.3, 1.2, 1.5), (0.0, 0.1, 1.0, 1.7), (0.5, 0.0, 0.9, 0.6)]
)
def test_overstep_goes_so_much_too_far(schedule: str, gamma: float, low: float, noise: float, step: float) -> None:
    """AlphaFold 3, algorithm 18, on data that is one point: in units of sigma / alpha, a deviation d at c becomes, where the
    step ends above ``low``, d + noise sqrt((1 + gamma)^2 - 1) c of fresh, and then moves to the point by step (1 - s / up) of
    itself."""
    world = FINITE[schedule]
    t, s = torch.tensor(0.6, dtype=F64), torch.tensor(0.45, dtype=F64)
    states = linear_walk(Overstep(gamma, low, noise, step), world, torch.stack((t, s)))
    here, there = (float(world.angle(u).tan()) for u in (t, s))
    up = here * (1 + gamma) if there > low else here
    up = min(up, float(world.angle(torch.ones((), dtype=F64)).tan()))
    left = 1 - step * (1 - there / up)
    alpha = float(world.alpha(s))
    assert float(states[1][0, 0]) == pytest.approx(1.7 * alpha, rel=1e-9)
    assert float(states[1][1, 0] - states[1][0, 0]) == pytest.approx(alpha * left * here, rel=1e-6)
    fresh = alpha * left * noise * math.sqrt(max(0.0, up**2 - here**2))
    assert float(states[1][2, 0] - states[1][0, 0]) == pytest.approx(fresh, rel=1e-6, abs=1e-9)


# ---- all of them -----------------------------------------------------------------------------------------------------------

LAWS_HERE: dict[type, set[str]] = {
    Euler: {"eta"},
    diffusion.solvers.DPMpp2M: {"eta"},
    diffusion.solvers.DPMpp2S: set(),
    diffusion.solvers.Heun: set(),
    Multistep: {"order", "corrector"},  # tests/laws/test_solvers.py has every order, with and without
    Churn: {"churn", "low", "high", "inflation", "middle"},
    diffusion.solvers.EulerMaruyama: set(),
    PredictorCorrector: {"strength", "corrections"},
    AdaptiveSolver: {"rtol", "atol", "finest", "most"},
    Renoised: {"solver", "eta"},
    Overstep: {"gamma", "low", "noise", "step_scale"},
    RandomOrder: set(),
    Confidence: {"temperature"},  # of tokens and of descent: tests/laws/test_parameters_beyond.py
    EntropyBound: {"budget"},
    Remask: {"strength"},
    Stretch: {"gaps", "temperature", "warmth", "budget"},  # tests/diffusion/test_gaps.py
    Descent: {"step_size", "momentum", "tol", "most"},
    diffusion.fitted.Fitted: {"angles", "factors"},  # tests/diffusion/test_fitted.py
    Parts: {"solvers"},  # tests/laws/test_worlds.py
    diffusion.selfconditioning.Remember: {"solver", "blank"},  # tests/diffusion/test_selfconditioning.py
}


def solvers_of_the_core() -> set[type]:
    found: set[type] = set()
    for name in dir(diffusion):
        module = getattr(diffusion, name)
        if inspect.ismodule(module):
            found |= {
                kind for kind in vars(module).values()
                if inspect.isclass(kind) and kind is not Solver and Solver in kind.__mro__ and is_dataclass(kind)
            }  # fmt: skip
    return found


def test_no_parameter_is_without_a_law() -> None:
    """A new solver, or a new parameter, belongs here with a law of its own."""
    assert solvers_of_the_core() == set(LAWS_HERE)
    for kind, named in LAWS_HERE.items():
        own = {field.name for field in fields(kind)} - ({"order"} if kind is not Multistep else set())
        assert own == named, kind.__name__
    assert {type(solver) for solver in SOLVERS.values()} <= set(LAWS_HERE)
    assert ab(2).order == 2
