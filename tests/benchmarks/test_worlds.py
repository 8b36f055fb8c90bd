"""The exact data that solvers are compared on, and how their steps and errors are counted."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.worlds import (
    F64,
    SCHEDULES,
    VP_START,
    Pictures,
    World,
    fine,
    mixture,
    noises,
    normals,
    state_at,
    steps_within,
    world,
)
from sfumato.diffusion import ab, cosine, euler, heun, sample, unipc
from sfumato.diffusion.exact import finite_data


def points(count: int = 20, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, dtype=F64, generator=torch.Generator().manual_seed(3))


def small() -> World:
    return World({"normals": normals(), "mixture": mixture(), "digits": Pictures(points())})


@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0, 30.0])
def test_pictures_by_matrix_products_are_the_mixture_without_blur(ratio: float) -> None:
    x_t = points(9, 6) * (1 + ratio)
    alpha, sigma = torch.ones((), dtype=F64), torch.tensor(ratio, dtype=F64)
    found = Pictures(points()).mean_given(x_t, alpha, sigma)
    torch.testing.assert_close(found, finite_data(points()).mean_given(x_t, alpha, sigma), rtol=1e-9, atol=1e-9)


def test_data_side_by_side_do_not_see_each_other() -> None:
    together, alone = small(), small().only("mixture")
    x_t, place = noises(5, 20), small().places["mixture"]
    torch.testing.assert_close(together.denoise(x_t, 0.7)[:, place], alone.denoise(x_t[:, place], 0.7))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_end_at_pure_data_and_start_where_the_peers_start(name: str) -> None:
    schedule, start = SCHEDULES[name], {"straight": math.inf, "vp": VP_START, "edm": 80.0}[name]
    one, zero = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
    assert float(schedule.sigma(zero)) == 0
    if math.isfinite(start):
        assert float(schedule.sigma(one) / schedule.alpha(one)) == pytest.approx(start, rel=1e-12)
    else:
        assert float(schedule.alpha(one)) == 0


def test_the_vp_start_is_that_of_ddpms_betas() -> None:
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[-1]
    assert float(((1 - kept) / kept).sqrt()) == pytest.approx(VP_START, rel=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_state_on_the_flow_is_the_normals_closed_form(name: str) -> None:
    exact = small().only("normals").on(SCHEDULES[name])
    z = noises(4, 12)
    t = SCHEDULES[name].at_angle(torch.atan(torch.tensor(2.0, dtype=F64)))
    one = torch.ones((), dtype=F64)
    data = replace(normals(), process=exact.process)
    wanted = data.flow(exact.process.start(z), one, t) / SCHEDULES[name].alpha(t)
    torch.testing.assert_close(state_at(exact, z, 2.0), wanted, rtol=0, atol=1e-7)


def test_a_state_at_the_start_is_the_noise_alone() -> None:
    z = noises(4, 20)
    torch.testing.assert_close(state_at(small().on(SCHEDULES["edm"]), z, 80.0), 80 * z)


def test_going_on_from_a_state_ends_where_the_flow_ends() -> None:
    """A solver that starts half-way, as some peers do, is given a state whose flow ends at the reference."""
    exact = small().on(SCHEDULES["straight"])
    z = noises(4, 20)
    end = fine(exact, z, 1000)
    y = state_at(exact, z, 3.0)
    later = replace(exact, calls=[0]).on(SCHEDULES["edm"])
    times = torch.cat([torch.ones(1, dtype=F64), cosine(SCHEDULES["edm"], 1000)])
    times = times[SCHEDULES["edm"].sigma(times) < 3.0]
    start = SCHEDULES["edm"].at_angle(torch.atan(torch.tensor(3.0, dtype=F64)))
    times = torch.cat([start[None], times])
    memory = ab(2).prepare(times)
    for t, s in pairwise(times):
        y, memory = ab(2).step(later, y, t, s, memory, None)
    assert (y - end)[:, :14].abs().max() < 1e-3


@pytest.mark.parametrize(("solver", "slope"), [(euler(), 1), (unipc(3), 1), (ab(4), 1), (heun(), 2)])
@pytest.mark.parametrize("calls", [13, 14, 31])
def test_the_most_steps_that_fit(solver: object, slope: int, calls: int) -> None:
    exact = small().on(SCHEDULES["straight"])
    z = noises(2, 20)

    def cost(steps: int) -> int:
        exact.calls[0] = 0
        sample(exact, z, cosine(SCHEDULES["straight"], steps), solver)  # type: ignore[arg-type]
        return exact.calls[0]

    steps = steps_within(calls, cost)
    assert cost(steps) <= calls < cost(steps + 1)
    assert cost(steps + 1) - cost(steps) == slope


def test_the_digits_have_unit_variance() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from benchmarks.worlds import digit_pictures

    digits = digit_pictures()
    assert digits.shape == (256, 64)
    assert float(digits.mean()) == pytest.approx(0, abs=1e-12)
    assert float(digits.std()) == pytest.approx(1)
    assert list(world(digits).places) == ["normals", "mixture", "digits"]
