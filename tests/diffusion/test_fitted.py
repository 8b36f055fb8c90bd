"""Solvers that learn: their form holds the fixed ones, and what is fitted is nearer to the flow on noises it never saw."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion.exact import GaussianData, finite_data
from sfumato.diffusion.fitted import GRIDS, Fitted, _numbers, _solver, fit_solver, noises, starts
from sfumato.diffusion.grids import cosine, uniform
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import EDM, VP, Linear, Schedule
from sfumato.diffusion.solvers import SOLVERS

F64 = torch.float64
POINTS = torch.randn(25, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
WORLD = finite_data(POINTS, 0.2)
TWO = Fitted((1.5, 0.8, 0.0), ((), ((0.5, 0.25),)))


def noise(count: int, seed: int, dim: int = 8) -> torch.Tensor:
    return torch.randn(count, dim, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", [Linear(), VP(), EDM()], ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_fixed_solvers_are_of_its_form(schedule: Schedule, steps: int) -> None:
    """On grids whose steps are nowhere four times as long as the last, beyond which the fixed solvers lower their order. Where
    a schedule ends short of the data, some of them spend one more call there."""
    world = GaussianData(
        torch.zeros(8, dtype=F64), torch.linspace(0.2, 2, 8, dtype=F64), process=Gaussian(schedule, "data")
    )
    z = noise(5, 1)
    known = starts(schedule, steps, {"cosine": cosine})
    assert set(known) == {f"{name}, cosine" for name in ("ab2", "ab3", "unipc", "dpmpp_2m")}
    for name, solver in known.items():
        if isinstance(schedule, EDM) and name.startswith(("ab3", "unipc")):
            continue
        right = sample(world, z, cosine(schedule, steps), SOLVERS[name.split(",")[0]])
        found = sample(world, z, solver.grid(schedule, steps), solver)
        assert (found - right).abs().max() < 1e-6 * right.abs().max() + 1e-9, name


@pytest.mark.parametrize("steps", [3, 4])
def test_fitting_brings_noises_nearer_that_it_never_saw(steps: int) -> None:
    schedule = WORLD.process.schedule
    found = fit_solver(noises(WORLD, noise(96, 1)), noises(WORLD, noise(48, 2)), starts(schedule, steps, GRIDS))
    fresh = noises(WORLD, noise(256, 3))
    fixed = min(
        float(fresh.away(solver).pow(2).mean(1).sqrt().mean()) for solver in starts(schedule, steps, GRIDS).values()
    )
    assert found.better
    assert float(fresh.away(found.solver).pow(2).mean(1).sqrt().mean()) < 0.8 * fixed


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 100), st.integers(1, 25))
def test_it_is_never_worse_than_its_start_and_keeps_to_its_walks(steps: int, seed: int, walks: int) -> None:
    own, check = (noises(WORLD, noise(6, seed + i), fine=12) for i in (0, 1000))
    found = fit_solver(own, check, starts(WORLD.process.schedule, steps, {"cosine": cosine}), walks=walks)
    assert found.error <= found.before
    assert found.walks <= walks
    assert found.solver.steps == steps
    assert found.better == (found.before - found.error > found.doubt)
    assert found.doubt >= 0


def test_it_stops_when_it_is_told_to() -> None:
    own, check = (noises(WORLD, noise(6, seed), fine=12) for seed in (0, 1))
    known = starts(WORLD.process.schedule, 3, {"cosine": cosine})
    found = fit_solver(own, check, known, enough=lambda: True)
    assert (found.solver, found.better) == (known[found.start], False)
    assert found.walks <= 3


def test_its_numbers_are_the_solver() -> None:
    solver = starts(Linear(), 5, {"uniform": uniform})["unipc, uniform"]
    again = _solver(_numbers(solver), solver)
    assert again.angles == pytest.approx(solver.angles, abs=1e-8)
    for own, other in zip(again.factors, solver.factors, strict=True):
        assert torch.tensor(own).flatten().tolist() == pytest.approx(torch.tensor(other).flatten().tolist())


@given(st.lists(st.floats(-400, 400), min_size=3, max_size=3))
def test_stops_fall_whatever_the_numbers(widths: list[float]) -> None:
    like = starts(Linear(), 3, {"uniform": uniform})["ab2, uniform"]
    numbers = _numbers(like)
    numbers[:3] = torch.tensor(widths, dtype=F64)
    angles = _solver(numbers, like).angles
    assert all(a > b for a, b in pairwise(angles))
    assert (angles[0], angles[-1]) == (like.angles[0], like.angles[-1])


def test_rows_with_times_of_their_own_walk_as_all_together() -> None:
    solver = starts(Linear(), 4, {"uniform": uniform})["ab3, uniform"]
    z, times = noise(3, 5), solver.grid(Linear(), 4)
    together = sample(WORLD, z, times, solver)
    apart = sample(WORLD, z, times[:, None].expand(-1, 3), solver)
    torch.testing.assert_close(apart, together)


def test_a_row_whose_samples_are_not_finite_is_never_the_better_one() -> None:
    own, check = (noises(WORLD, noise(6, seed), fine=12) for seed in (0, 1))
    broken = check._replace(truth=torch.full_like(check.truth, torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        fit_solver(own, broken, starts(WORLD.process.schedule, 3, {"cosine": cosine}))
    with pytest.raises(ValueError, match="begin"):
        fit_solver(own, check, {})


@pytest.mark.parametrize(
    ("angles", "factors", "says"),
    [
        ((0.5, 0.8, 0.0), ((), ((0.0, 0.0),)), "fall"),
        ((0.5,), (), "fall"),
        ((1.5, float("nan"), 0.0), ((), ((0.0, 0.0),)), "fall"),
        ((1.5, 0.8, 0.0), ((), ()), "factors"),
        ((1.5, 0.8, 0.0), ((),), "factors"),
    ],
)
def test_what_is_no_solver_is_refused(angles: tuple[float, ...], factors: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Fitted(angles, factors)


def test_another_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps = 3: it was fitted for 2"):
        TWO.grid(Linear(), 3)
    with pytest.raises(ValueError, match="fitted for 2"):
        sample(WORLD, noise(2, 1), cosine(WORLD.process.schedule, 3), TWO)
