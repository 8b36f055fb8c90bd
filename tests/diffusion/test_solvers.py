"""Solvers piece by piece: the weights of a step, rows that stand still, what the adaptive solver counts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion.exact import GaussianData, MixtureData
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import EDM, VP, Cosine, Linear, Schedule, Shifted
from sfumato.diffusion.solvers import SOLVERS, AdaptiveSolver, Node, ab, dpmpp_2m, euler, follow, unipc
from tests.laws.worlds import F64, normal, scalar

angles = st.lists(st.integers(0, 150), min_size=3, max_size=6, unique=True)


@dataclass(frozen=True)
class Radians(Schedule):
    """Time is the angle, and the radius grows with it."""

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return (2 + t) * t.cos()

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        return (2 + t) * t.sin()


@settings(deadline=None, max_examples=60)
@given(angles)
def test_endpoints_that_move_along_a_polynomial_are_followed_exactly(hundredths: list[int]) -> None:
    """y = cos(a) p(a) + sin(a) q(a) solves dy/da = -sin x + cos z for x = p - q', z = q + p'. With p and q of a degree
    below the number of nodes, a walk from y(start) ends at y(end); one time or one a row, alike."""
    start, end, *at = (scalar(value / 100) for value in hundredths)
    degree = len(at) - 1
    p, q = normal(degree + 1, seed=1).tolist(), normal(degree + 1, seed=2).tolist()

    def value(coefficients: list[float], a: Any) -> Any:
        return sum(c * a**k for k, c in enumerate(coefficients))

    def rate(coefficients: list[float], a: Any) -> Any:
        return sum(k * c * a ** (k - 1) for k, c in enumerate(coefficients) if k)

    def y(a: Any) -> Any:
        return a.cos() * value(p, a) + a.sin() * value(q, a)

    def leg(of: Any) -> Any:
        nodes = [Node(of(a), Endpoints(*(v.reshape(1, 1) for v in ends(a)))) for a in at]
        return follow(Radians(), ((2 + start) * y(start)).reshape(1, 1), of(start), of(end), *nodes)

    def ends(a: Any) -> tuple[Any, Any]:
        return value(p, a) - rate(q, a), value(q, a) + rate(p, a)

    size = 1 + max(float(abs(v)) for a in at for v in ends(a))
    spread = max(abs(a - start) + abs(end - a) for a in at) / min([abs(a - b) for a, b in pairwise(sorted(at))] or [1])
    limit = 1e-12 * size * float(spread) ** degree
    assert abs(leg(lambda a: a) - (2 + end) * y(end)) < limit
    assert abs(leg(lambda a: a.reshape(1)) - (2 + end) * y(end)) < limit


@pytest.mark.parametrize("solver", [ab(2), ab(3), ab(4), unipc(2), unipc(4), dpmpp_2m()], ids=str)
def test_a_row_that_stands_still_is_not_disturbed(solver: Any) -> None:
    """As in rolling diffusion, where later frames wait and earlier ones have arrived. Steps of no length leave a row
    where it is; the rest of its walk is a walk of its own, and no worse than Euler's."""
    data = two_parts(0.4)
    own = torch.linspace(1, 0, 13, dtype=F64)
    waiting = torch.cat([own[:1].expand(5), own])
    pausing = torch.cat([own[:7], own[6:7].expand(5), own[7:]])
    arrived = torch.cat([own, own[-1:].expand(5)])
    z = normal(1, 1).expand(3, 1)
    times = torch.stack([waiting, pausing, arrived], 1)
    fine, rough = sample(data, z[:1], uniform(Linear(), 800), ab(3)), sample(data, z[:1], own, euler())
    found = sample(data, z, times, solver)
    assert found.isfinite().all()
    assert (found - fine).abs().max() < 1.05 * (rough - fine).abs().max()
    if solver.order < 4:  # the first step of order 4, and of no length here, is a start of its own
        assert (found[2] - sample(data, z[:1], own, solver)).abs().max() < 1e-12


# ---- the adaptive solver ---------------------------------------------------------------------------------------------


def two_parts(deviation: float) -> MixtureData:
    parts = (torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[-0.7], [0.5]], dtype=F64))
    return MixtureData(*parts, torch.full((2,), deviation, dtype=F64), process=Gaussian(Linear(), "data"))


class Counted:
    """Counts the calls of a denoiser, whatever the batch."""

    def __init__(self, base: Any) -> None:
        self.base, self.process, self.calls = base, base.process, 0

    def __call__(self, x_t: Any, t: Any, s: Any = None, **condition: Any) -> Any:
        self.calls += 1
        return self.base(x_t, t, s)


def followed(guess: Any, z: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(end, calls of each row), started from noise z."""
    solver = SOLVERS["adaptive"]
    x_t, calls = guess.process.start(z), solver.prepare(times)
    assert calls is None
    for t, s in pairwise(times):
        x_t, calls = solver.step(guess, x_t, t, s, calls, None)
    return x_t, calls


LEGS = torch.tensor([1.0, 0.6, 0.25, 0.0], dtype=F64)


def test_adaptive_counts_the_calls_of_each_row() -> None:
    """Alone, a row's count is the number of times the denoiser was asked; in a batch it is the same."""
    data = two_parts(0.02)
    z = normal(6, 1) * torch.tensor([0.1, 1, 3, 0.5, 2, 1], dtype=F64)[:, None]
    together, calls = followed(data, z, LEGS)
    assert calls.dtype == torch.int64
    assert calls.shape == (6,)
    for i in range(6):
        guess = Counted(data)
        alone, own = followed(guess, z[i : i + 1], LEGS)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-9)
        assert own.item() == calls[i] == guess.calls
    assert len(calls.unique()) > 1


def test_adaptive_spends_its_calls_where_they_are_needed() -> None:
    """Along the same times, in one batch: data of tiny deviation asks for more calls than a broad bell's."""

    class Either:
        """Row 0 is drawn from a broad mixture, row 1 from a narrow one."""

        process = Gaussian(Linear(), "data")

        def __call__(self, x_t: Any, t: Any, s: Any = None, **condition: Any) -> Endpoints:
            rows = [two_parts(d)(x_t[i : i + 1], t[i : i + 1]) for i, d in enumerate((1.0, 0.003))]
            return Endpoints(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    _, (easy, hard) = followed(Either(), normal(1, 1).expand(2, 1), LEGS[[0, -1]])
    assert hard > easy


def test_adaptive_counts_nothing_where_nothing_is_walked() -> None:
    """A row whose time stands still costs nothing, and its count goes on from what it was."""
    x_t, t = normal(2, 1), torch.tensor([0.5, 0.5], dtype=F64)
    s, before = torch.tensor([0.5, 0.2], dtype=F64), torch.tensor([7, 7])
    x_s, calls = AdaptiveSolver().step(two_parts(0.4), x_t, t, s, before, None)
    assert calls[0] == 7
    assert calls[1] > 7
    assert (x_s[0] - x_t[0]).abs() < 1e-12


def test_fading_ends_where_all_noise_is_new() -> None:
    """At eta = 1 and long steps nothing of the noise that the last guess saw is left: 2M is then DDPM's chain."""
    data, z = two_parts(0.4), normal(4, 1)
    coarse = VP().time(torch.tensor([-8.0, 4.0, 40.0], dtype=F64))
    guess = MixtureData(data.weights, data.means, data.deviations, process=Gaussian(VP(), "data"))
    ends = [
        sample(guess, z, coarse, solver, torch.Generator().manual_seed(0)) for solver in (euler(1.0), dpmpp_2m(1.0))
    ]
    assert (ends[0] - ends[1]).abs().max() < 1e-12


@pytest.mark.parametrize("schedule", [Linear(), VP(), EDM(), Cosine(), Shifted(Linear(), 3.0)], ids=str)
def test_adaptive_steps_work_in_single_precision(schedule: Schedule) -> None:
    """In float32 the angle of t = 1 lies beyond pi / 2, where a schedule's time would be above 1."""
    wide = GaussianData(
        torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64), process=Gaussian(schedule)
    )
    single = GaussianData(wide.mean.float(), wide.variance.float(), process=Gaussian(schedule))
    z, ends = torch.linspace(-2, 2, 9)[:, None], torch.tensor([1.0, 0.0])
    found = sample(single, z, ends, AdaptiveSolver(1e-3, 1e-3))
    torch.testing.assert_close(
        found.double(), sample(wide, z.double(), ends.double(), AdaptiveSolver(1e-6, 1e-6)), atol=5e-3, rtol=0
    )


def test_a_step_much_longer_than_the_last_one_does_not_extrapolate() -> None:
    """Each row for itself: the first goes 14 times as far as before and takes the last guess alone, the second 3 times."""
    x, ends, before = (
        normal(2, 3),
        Endpoints(normal(2, 3, seed=1), normal(2, 3, seed=2)),
        Endpoints(*normal(2, 2, 3, seed=3)),
    )
    t, earlier, s = scalar(0.48), scalar(0.5), torch.tensor([0.2, 0.42], dtype=F64)
    here, past = Node(t.expand(2), ends), Node(earlier.expand(2), before)
    straight = follow(Radians(), x, t.expand(2), s, here)
    bent = follow(Radians(), x, t.expand(2), s, here, past)
    careful = follow(Radians(), x, t.expand(2), s, here, past, cautious=0)
    assert torch.equal(careful, torch.stack([straight[0], bent[1]]))
    assert (straight - bent).abs().amin(1).gt(1e-3).all()
    for row, end in enumerate(s):
        alone = follow(Radians(), x, t, end, Node(t, ends), Node(earlier, before), cautious=0)
        torch.testing.assert_close(alone[row], careful[row], rtol=1e-13, atol=1e-13)
