"""Grids, the walk, and that every row may walk its own."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.grids import Auto, ShiftedGrid, auto, cosine, karras, logsnr, uniform
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.sample import sample, trajectory
from sfumato.diffusion.schedule import EDM, VE, VP, Cosine, Linear, Shifted
from sfumato.diffusion.solvers import SOLVERS
from tests.laws.orders import errors, gaussian, mixture
from tests.laws.worlds import F64, SCHEDULES, Constant, normal, scalar

MEASURED = auto(gaussian(Linear()), normal(16, 12))
RULES: dict[str, Any] = {"uniform": uniform, "cosine": cosine, "karras": karras, "logsnr": logsnr, "auto": MEASURED,
                         "shifted up": ShiftedGrid(uniform, 3.3), "shifted down": ShiftedGrid(MEASURED, 0.3)}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(steps=st.integers(1, 300))
def test_grids_fall_from_one_to_zero(rule: str, name: str, steps: int) -> None:
    times = RULES[rule](SCHEDULES[name], steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == F64
    assert times[0] == 1
    assert times[-1] == 0
    assert (times[1:] < times[:-1]).all()


@pytest.mark.parametrize("rule", ["karras", "logsnr", "auto"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_grids_serve_every_schedule(rule: str, name: str) -> None:
    """Also where the schedule's own range is shorter than the grid's: no step may have length zero."""
    data, z = mixture(SCHEDULES[name]), normal(4, 1)
    for steps in (1, 2, 21):
        for solver in (SOLVERS["ab3"], SOLVERS["heun"]):
            assert sample(data, z, RULES[rule](SCHEDULES[name], steps), solver).abs().max() < 4


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(rule: str, steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RULES[rule](Linear(), steps)


def test_uniform_and_cosine_are_even() -> None:
    assert (uniform(VP(), 10) - torch.arange(10, -1, -1) / 10).abs().max() < 1e-7
    for schedule in (Linear(), VP(), EDM()):
        angles = schedule.angle(cosine(schedule, 12))
        assert ((angles[1:] - angles[:-1]) - (angles[-1] - angles[0]) / 12).abs().max() < 1e-7


def test_karras_is_the_published_grid() -> None:
    """Karras 2022, eq. 5, N = 18, in steps of sigma / alpha; on EDM's own schedule, which ends there, it is uniform in t."""
    n, low, high = 18, 0.002, 80.0
    sigmas = [(high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(n)]
    for schedule in (Linear(), Cosine()):
        times = karras(schedule, n)
        ratio = (-schedule.logsnr(times[1:-1]) / 2).exp()
        assert (ratio / torch.tensor(sigmas[1:], dtype=F64) - 1).abs().max() < 1e-7
    assert (karras(EDM(), n) - uniform(EDM(), n)).abs().max() < 1e-12


def test_logsnr_has_a_constant_ratio() -> None:
    times = logsnr(Linear(), 20, 0.01, 50.0)
    level = Linear().logsnr(times[1:-1])
    assert (level[1:] - level[:-1] - 2 * math.log(5000) / 19).abs().max() < 1e-9
    assert float(level[-1]) == pytest.approx(2 * math.log(100), abs=1e-9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(k=st.floats(0.05, 20), steps=st.integers(2, 60))
def test_a_shift_is_k_times_the_noise_at_every_stop(k: float, steps: int) -> None:
    """SD3, sec. 5.3.2: logsnr - 2 log k; and to shift the steps or the schedule is one thing."""
    for rule in (uniform, MEASURED):
        plain, moved = (Linear().logsnr(grid(Linear(), steps)[1:-1]) for grid in (rule, ShiftedGrid(rule, k)))
        assert (moved - plain + 2 * math.log(k)).abs().max() < 1e-9
    on_shifted = Shifted(Linear(), k).logsnr(uniform(Linear(), steps)[1:-1])
    assert (Linear().logsnr(ShiftedGrid(uniform, k)(Linear(), steps)[1:-1]) - on_shifted).abs().max() < 1e-6


@pytest.mark.parametrize("k", [0.0, -1.0, math.inf, math.nan])
def test_a_shift_that_is_none(k: float) -> None:
    with pytest.raises(ValueError, match=f"k = {k}: must be above 0"):
        ShiftedGrid(uniform, k)


# ---- the measured grid -----------------------------------------------------------------------------------------------


def local_errors(times: torch.Tensor) -> torch.Tensor:
    """Error made by each Euler step alone, from a point of the exact flow, on the circle: (steps,)."""
    data, zero = gaussian(Linear()), []
    start = data.process.start(normal(64, 12, seed=3))
    for t, s in pairwise(times):
        x_t = data.flow(start, scalar(1.0), t)
        step = data.process.step(data(x_t, t), x_t, t, s)
        zero.append(((step - data.flow(x_t, t, s)) / Linear().hypot(s)).pow(2).mean().sqrt())
    return torch.stack(zero)


def test_auto_spreads_the_local_error_evenly() -> None:
    spread = {}
    for name, rule in {"auto": auto(gaussian(Linear()), normal(16, 12), even=0.0), "karras": karras}.items():
        found = local_errors(rule(Linear(), 40))[2:-4]
        spread[name] = float(found.max() / found.min())
    assert spread["auto"] < 4
    assert spread["karras"] > 10 * spread["auto"]


def test_auto_is_as_good_as_the_best_fixed_grid() -> None:
    for name in ("euler", "ab3"):
        found = errors(SOLVERS.get(name, SOLVERS["euler"]), Linear(), ("auto", "uniform", "karras", "logsnr"), 16)
        assert (found[0] < 1.3 * found[1:].min(0).values).all()


def test_auto_is_a_function_of_the_angle() -> None:
    """Measured on one schedule it serves all, and measured on another it is the same grid."""
    z = normal(16, 12)
    one, two = auto(gaussian(Linear()), z), auto(gaussian(Cosine()), z)
    assert max(abs(a - b) for a, b in zip(one.progress, two.progress, strict=True)) < 1e-9
    on_linear, on_cosine = one(Linear(), 20), one(Cosine(), 20)
    assert (Linear().angle(on_linear) - Cosine().angle(on_cosine)).abs().max() < 1e-9
    assert one == Auto(one.angles, one.progress)


def test_auto_by_hand() -> None:
    """Half of the steps before the angle 1, the other half after."""
    grid = Auto((math.pi / 2, 1.0, 0.0), (0.0, 0.5, 1.0))
    angles = Cosine().angle(grid(Cosine(), 4))
    wanted = torch.tensor([math.pi / 2, (math.pi / 2 + 1) / 2, 1.0, 0.5, 0.0], dtype=F64)
    assert (angles - wanted).abs().max() < 1e-12


def test_auto_passes_conditions_on() -> None:
    seen = []

    def network(shown: torch.Tensor, level: torch.Tensor, label: Any = None) -> torch.Tensor:
        seen.append(label)
        return shown

    auto(Denoiser(network, Gaussian(Cosine(), "v")), normal(4, 2), points=8, label="cat")
    assert set(seen) == {"cat"}


# ---- the walk --------------------------------------------------------------------------------------------------------


def test_trajectory_yields_every_state() -> None:
    data, z = mixture(Linear()), normal(3, 1)
    states = list(trajectory(data, z, uniform(Linear(), 7)))
    assert len(states) == 8
    assert torch.equal(states[0], z)
    assert torch.equal(states[-1], sample(data, z, uniform(Linear(), 7)))


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in ("adaptive",)])
def test_every_row_may_walk_its_own_grid(solver: str) -> None:
    class Fixed:
        """The same draws for every row."""

        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)

        def normal(self, shape: Any, dtype: Any = torch.float32) -> torch.Tensor:
            return torch.randn(1, *shape[1:], dtype=dtype, generator=self.generator).expand(*shape)

    data, z = mixture(VP()), normal(3, 1)
    grids = [uniform(VP(), 9), cosine(VP(), 9), karras(VP(), 9)]
    rng: Any = Fixed()
    together = sample(data, z, torch.stack(grids, 1), SOLVERS[solver], rng)
    for i, grid in enumerate(grids):
        rng = Fixed()
        assert (sample(data, z[i : i + 1], grid, SOLVERS[solver], rng)[0] - together[i]).abs().max() < 1e-10


def test_every_token_may_walk_its_own_grid() -> None:
    """Times (n + 1, B, L), as in rolling diffusion over a video."""
    process = Gaussian(Linear(), "data")
    x, z = normal(2, 2, 3, 4)
    times = torch.stack([torch.stack([grid(Linear(), 5) for grid in (uniform, cosine, karras)])] * 2).permute(2, 0, 1)
    for solver in ("euler", "heun", "ab3", "unipc", "dpmpp_2m"):
        end = sample(Constant(x, z, process), z, times, SOLVERS[solver])
        assert (end - x).abs().max() < 1e-12


def test_sampling_keeps_the_dtype_and_no_graph() -> None:
    data = GaussianData(torch.zeros(3), torch.ones(3), process=Gaussian(VP(), "velocity"))
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for name, solver in SOLVERS.items():
        end = sample(data, z, uniform(VP(), 10), solver, torch.Generator().manual_seed(1))
        assert end.dtype == torch.float32, name
        assert end.isfinite().all(), name
        assert not end.requires_grad
    fine = sample(data, z, cosine(VP(), 200), SOLVERS["ab3"])
    assert (fine - z).abs().max() < 5e-3  # normal data of unit variance: the flow stands still


def test_misspelt_conditions_raise() -> None:
    denoiser = Denoiser(lambda shown, level, label=None: shown, Gaussian())
    with pytest.raises(TypeError, match="lable"):
        sample(denoiser, normal(2, 2), uniform(Linear(), 3), lable=1)


@pytest.mark.parametrize("schedule", [VE(), EDM()], ids=["ve", "edm"])
def test_exploding_schedules_start_at_their_own_noise(schedule: Any) -> None:
    z = normal(2, 3)
    assert torch.allclose(Gaussian(schedule).start(z), (50.0 if isinstance(schedule, VE) else 80.0) * z, rtol=1e-12)
