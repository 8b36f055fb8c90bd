"""Coefficients of single times: the same as those of tensors, worked out once, and differentiable all the same."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import SOLVERS, Denoiser, Streams, cosine, dpmpp_2m
from sfumato.diffusion.coefficients import LOOKUP, blend, plain
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import VP, Linear, Schedule, Table
from tests.laws.worlds import F64, normal, scalar

ANSWERS = ["data", "noise", "v", "velocity", "score"]


@pytest.mark.parametrize("schedule", [Linear(), VP(), Table((0.1, 0.3, 0.2))], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("predicts", ANSWERS)
def test_one_time_for_all_is_the_same_time_for_each(schedule: Schedule, predicts: str) -> None:
    process = Gaussian(schedule, predicts)  # type: ignore[arg-type]
    x_t, answer = normal(3, 2, 2, seed=1), normal(3, 2, 2, seed=2)
    for t, s in ((0.9, 0.6), (0.31, 0.3), (0.02, 0.0)):
        one, each = (scalar(t), scalar(s)), (torch.full((3,), t, dtype=F64), torch.full((3,), s, dtype=F64))
        shown = [process.precondition(x_t, times[0]) for times in (one, each)]
        ends = [process.endpoints(answer, x_t, times[0]) for times in (one, each)]
        stepped = [
            process.step(found, x_t, *times, 0.7, Streams(0, range(3)))
            for found, times in zip(ends, (one, each), strict=True)
        ]
        for a, b in (*zip(*shown, strict=True), *zip(*ends, strict=True), stepped):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "ab2", "ab3", "ab4", "unipc"])
def test_solvers_walk_one_time_for_all_as_the_same_times_for_each(name: str) -> None:
    guess = Denoiser(lambda shown, level: torch.tanh(shown + level[:, None]), Gaussian(VP(), "v"))
    z, times = normal(3, 4), cosine(VP(), 9)
    each = times[:, None].expand(-1, 3)
    solver = dpmpp_2m(0.6) if name == "dpmpp_2m" else SOLVERS[name]
    found = [sample(guess, z, walked, solver, Streams(1, range(3))) for walked in (times, each)]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)  # the level is shown in float32


_asked: list[float] = []


@dataclass(frozen=True)
class Counting(Linear):
    """Writes down at which times it was asked for its noise."""

    offset: float = 0.0

    def sigma(self, t: Tensor) -> Tensor:
        _asked.extend(t.reshape(-1).tolist())
        return super().sigma(t)


def test_a_second_walk_asks_the_schedule_for_nothing() -> None:
    schedule = Counting(1.25)
    guess = Denoiser(lambda shown, level: shown, Gaussian(schedule, "velocity"))
    z, times = normal(2, 3), torch.linspace(0.9, 0.1, 6, dtype=F64)
    for solver in (SOLVERS["unipc"], SOLVERS["ab3"], SOLVERS["heun"], dpmpp_2m(0.5)):
        sample(guess, z, times, solver, Streams(0, range(2)))
        _asked.clear()
        sample(guess, z, times, solver, Streams(0, range(2)))
        assert set(_asked) <= {1.0}  # the start of the walk


def test_schedules_that_agree_in_their_hash_are_not_mixed_up() -> None:
    one, other = Table((0.1, 0.2, 0.4)), Table((0.1, 0.3, 0.4))
    assert hash(one) == hash(other)
    x, z, t = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64), scalar(2 / 3)
    for schedule in (one, other):
        kept = float(torch.tensor(schedule.betas[:2], dtype=F64).neg().add(1).prod().sqrt())
        assert float(Gaussian(schedule).interpolate(x, z, t)) == pytest.approx(kept, rel=1e-14)


def test_derivatives_by_a_single_time_are_those_of_the_path() -> None:
    process, x, z = Gaussian(Linear()), normal(2, 3, seed=1), normal(2, 3, seed=2)
    t = scalar(0.4)
    _, forward = torch.func.jvp(lambda u: process.interpolate(x, z, u), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(forward, z - x, rtol=0, atol=1e-15)
    t = scalar(0.4).requires_grad_()
    process.interpolate(x, z, t).sum().backward()
    assert float(t.grad) == pytest.approx(float((z - x).sum()), rel=1e-12)  # type: ignore[arg-type]
    assert not plain(t)
    assert plain(scalar(0.4))


def test_ends_known_only_through_a_derived_time_are_differentiable() -> None:
    process, x_t = Gaussian(VP(), "noise"), normal(2, 3, seed=3)
    t = scalar(0.5).requires_grad_()
    ends: Endpoints = process.endpoints(normal(2, 3, seed=4), x_t, t)
    (slope,) = torch.autograd.grad(ends.x.sum(), t)
    step = 1e-6
    near = [process.endpoints(normal(2, 3, seed=4), x_t, scalar(0.5 + d)).x.sum() for d in (step, -step)]
    assert float(slope) == pytest.approx(float(near[0] - near[1]) / (2 * step), rel=1e-6)


def test_blend_of_coefficients_per_row_and_for_all() -> None:
    x, y = normal(2, 3, seed=5), normal(2, 3, seed=6)
    rows = torch.tensor([2.0, 2.0], dtype=F64)
    torch.testing.assert_close(blend(2.0, x, -0.5, y), blend(rows, x, rows * -0.25, y), rtol=1e-14, atol=1e-14)


def test_coefficients_that_are_looked_up_are_not_worked_out_again_and_what_is_made_of_a_time_has_no_lookup() -> None:
    schedule = Counting(2.5)
    process, x, z = Gaussian(schedule), normal(2, 3, seed=7), normal(2, 3, seed=8)
    t = torch.tensor([0.3, 0.7], dtype=F64)
    asked: list[tuple[Tensor, ...]] = []

    def lookup(rule: object, owner: object, times: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        asked.append(times)
        return (torch.tensor([0.5, 0.25], dtype=F64), torch.tensor([2.0, 4.0], dtype=F64)) if owner == process else None

    wanted = process.interpolate(x, z, t)
    setattr(t, LOOKUP, lookup)
    _asked.clear()
    torch.testing.assert_close(process.interpolate(x, z, t)[0], 0.5 * x[0] + 2.0 * z[0], rtol=1e-14, atol=1e-14)
    assert asked[0][0] is t
    assert not _asked
    for made in (t.clone(), t + 0, t[:], t.to(F64, copy=True)):
        torch.testing.assert_close(process.interpolate(x, z, made), wanted)
    other = Gaussian(schedule, "noise")  # of whom the lookup knows nothing
    torch.testing.assert_close(other.interpolate(x, z, t), wanted)
    assert len(asked) == 2
