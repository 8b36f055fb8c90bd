"""What stands still is not touched: known frames, columns and tokens stay to the bit, and the rest ends where it would if
they had been given as conditions from the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import (
    SOLVERS,
    VP,
    Confidence,
    Descent,
    EntropyBound,
    Gaussian,
    Linear,
    Masked,
    Parts,
    Product,
    Remask,
    Renoised,
    Streams,
    ab,
    blocks,
    dpmpp_2m,
    euler,
    heun,
    key,
    remember,
    sample,
    steer,
    tree,
    uniform,
    unipc,
    walk,
)
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.sample import Euler
from sfumato.diffusion.schedule import Schedule
from sfumato.diffusion.solvers import PredictorCorrector
from sfumato.diffusion.tokens import UniformTokens
from tests.laws.eight import ROWS, WORLDS
from tests.laws.product_tables import joint_normal
from tests.laws.token_tables import TableData, random_table
from tests.laws.worlds import ANSWERS, F64, Told, normal, scalar

SIZE, KNOWN = 5, torch.tensor([False, True, False, False, True])
"""Columns of the joint normal, and which of them are known."""


@dataclass(frozen=True)
class Joint(Told):
    """Jointly normal columns x (B, D), each noised by a time of its own, (D,) or (B, D) as for frames, or one for all."""

    mean: Tensor
    covariance: Tensor
    process: Gaussian

    def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        schedule, t = self.process.schedule, t[:, None] if t.ndim == 1 else t
        alpha, sigma = (f(t).expand(x_t.shape) for f in (schedule.alpha, schedule.sigma))
        spread = alpha[:, :, None] * self.covariance * alpha[:, None] + torch.diag_embed(sigma**2)
        away = torch.linalg.solve(spread, (x_t - alpha * self.mean)[..., None])[..., 0]
        x = self.mean + (alpha * away) @ self.covariance
        return self.process.endpoints(self.process.target(x, self.process.noise_given(x, x_t, t), t), x_t, t)

    def of(self, columns: Tensor) -> Joint:
        """The law of these columns alone."""
        return Joint(self.mean[..., columns], self.covariance[columns][:, columns], self.process)

    def given_columns(self, known: Tensor, x: Tensor) -> Joint:
        """The law of the other columns once the known ones are x (B, number of known)."""
        rest, gain = ~known, self.covariance[~known][:, known] @ torch.linalg.inv(self.covariance[known][:, known])
        mean = self.mean[rest] + (x - self.mean[known]) @ gain.T
        left = self.covariance[rest][:, rest] - gain @ self.covariance[known][:, rest]
        return Joint(mean, left, self.process)


def joint(schedule: Schedule = Linear(), predicts: str = "velocity") -> Joint:
    root = 0.5 * normal(SIZE, SIZE, seed=3) + 0.5 * torch.eye(SIZE, dtype=F64)
    return Joint(normal(SIZE, seed=4), root @ root.T, Gaussian(schedule, predicts))  # type: ignore[arg-type]


class Columns:
    """In place of random numbers: those of some columns of wider draws, so that walks of all and of a few columns see the
    same."""

    def __init__(self, columns: Tensor) -> None:
        self.columns, self.rng = columns, torch.Generator().manual_seed(5)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape[0], SIZE, dtype=dtype, generator=self.rng)[:, self.columns]


VECTOR_SOLVERS: dict[str, Any] = {
    **{name: solver for name, solver in SOLVERS.items() if name != "euler_maruyama"},
    "dpmpp_2m half": dpmpp_2m(0.5),
    "unipc2": unipc(2),
    "unipc4": unipc(4),
    "renoised": Renoised(),
    "two corrections": PredictorCorrector(corrections=2),
    "remembering": remember(ab(2)),
}


def held_grid(schedule: Schedule, steps: int = 8) -> Tensor:
    """(n + 1, 1, D): 0 where columns are known, a falling grid elsewhere."""
    return torch.where(KNOWN, 0.0, uniform(schedule, steps)[:, None])[:, None]


class Deaf(Told):
    """A guess that does not hear what ``remember`` tells it."""

    def __init__(self, base: Any) -> None:
        self.base, self.process = base, base.process

    def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, previous: Any = None) -> Endpoints:
        ends: Endpoints = self.base(x_t, t)
        return ends


@pytest.mark.parametrize("schedule", [Linear(), VP()], ids=["linear", "vp"])
@pytest.mark.parametrize("name", [*VECTOR_SOLVERS, "euler_maruyama"])
def test_known_columns_stay_and_the_rest_is_as_if_they_were_given(name: str, schedule: Schedule) -> None:
    """The exact denoiser sees known columns at t = 0 as what they are: its guess of the rest is the conditional law's."""
    if name == "euler_maruyama" and schedule == Linear():
        pytest.skip("it cannot start at pure noise")
    solver = {**VECTOR_SOLVERS, **SOLVERS}[name] if name not in VECTOR_SOLVERS else VECTOR_SOLVERS[name]
    data, start, times = joint(schedule), normal(ROWS, SIZE), held_grid(schedule)
    x_known = normal(ROWS, SIZE, seed=9)
    begin = torch.where(KNOWN, x_known, data.process.start(start))
    states = [x for x, _ in walk(Deaf(data), None, times, solver, Columns(torch.ones(SIZE).bool()), x_t=begin)]  # type: ignore[arg-type]
    for x in states:
        assert torch.equal(x[:, KNOWN], x_known[:, KNOWN])
    alone = Deaf(data.given_columns(KNOWN, x_known[:, KNOWN]))
    wanted = walk(alone, start[:, ~KNOWN], uniform(schedule, 8), solver, Columns(~KNOWN))  # type: ignore[arg-type]
    for x, (y, _) in zip(states, wanted, strict=True):
        assert (x[:, ~KNOWN] - y).abs().max() < 1e-8 * max(1.0, float(y.abs().max()))


@pytest.mark.parametrize("predicts", ANSWERS)
@pytest.mark.parametrize("name", VECTOR_SOLVERS)
def test_known_columns_stay_for_every_answer(name: str, predicts: str) -> None:
    """Also where the answer says nothing of one of the ends at t = 0."""
    data, times = joint(VP(), predicts), held_grid(VP())
    begin = torch.where(KNOWN, normal(ROWS, SIZE, seed=9), normal(ROWS, SIZE))
    end = sample_from(Deaf(data), times, VECTOR_SOLVERS[name], Columns(torch.ones(SIZE).bool()), begin)
    wanted = sample_from(Deaf(joint(VP())), times, VECTOR_SOLVERS[name], Columns(torch.ones(SIZE).bool()), begin)
    assert (end - wanted).abs().max() < 1e-8
    assert torch.equal(end[:, KNOWN], begin[:, KNOWN])


@pytest.mark.parametrize("name", VECTOR_SOLVERS)
def test_every_call_is_shown_what_is_known(name: str) -> None:
    """A network that says something else of the known columns, and of one that waits half-way, is not believed, within a
    step either; and no noise is added there on the way."""
    seen = []

    class Wrong(Told):
        process = Gaussian(Linear(), "data")

        def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, previous: Any = None) -> Endpoints:
            seen.append(x_t)
            return self.process.endpoints(0.3 + 0.5 * x_t.sin(), x_t, t)

    begin = torch.where(KNOWN, normal(ROWS, SIZE, seed=9), normal(ROWS, SIZE))
    times = held_grid(Linear())
    times[..., 0] = 0.5
    sample_from(Wrong(), times, VECTOR_SOLVERS[name], Columns(torch.ones(SIZE).bool()), begin)
    assert len(seen) >= 8
    for x_t in seen:
        assert (x_t - begin)[:, [0, 1, 4]].abs().max() < 1e-12


def sample_from(guess: Any, times: Any, solver: Any, rng: Any, begin: Any) -> Any:
    with torch.no_grad():
        for x, _ in walk(guess, None, times, solver, rng, x_t=begin):  # noqa: B007
            pass
    return x


@pytest.mark.parametrize("name", VECTOR_SOLVERS)
def test_what_waits_in_noise_is_not_touched_either(name: str) -> None:
    """First the one half of the columns, then the other: the wait is bit by bit, the first half is its own law's walk, and the
    second is that of the law given the first."""
    data, start, fall = joint(), normal(ROWS, SIZE), uniform(Linear(), 8)
    ones, zeros = torch.ones(8, dtype=F64), torch.zeros(8, dtype=F64)
    early, late = torch.cat([fall, zeros]), torch.cat([ones, fall])
    times = torch.where(KNOWN, early[:, None], late[:, None])[:, None]
    solver = VECTOR_SOLVERS[name]
    states = [x for x, _ in walk(Deaf(data), start, times, solver, Columns(torch.ones(SIZE).bool()))]  # type: ignore[arg-type]
    assert all(x.isfinite().all() for x in states)
    for x in states[:9]:
        assert torch.equal(x[:, ~KNOWN], start[:, ~KNOWN])
    for x in states[8:]:
        assert torch.equal(x[:, KNOWN], states[8][:, KNOWN])
    if name in ("churn", "adaptive"):  # their steps depend on the length of the walk, and on where it may end
        return
    first = [x for x, _ in walk(Deaf(data.of(KNOWN)), start[:, KNOWN], fall, solver, Columns(KNOWN))]  # type: ignore[arg-type]
    for x, y in zip(states, first, strict=False):
        assert (x[:, KNOWN] - y).abs().max() < 1e-8
    if name in (
        "euler",
        "heun",
        "dpmpp_2m",
        "ab2",
        "unipc2",
    ):  # those that start anew after a wait, without random numbers
        then = data.given_columns(KNOWN, states[8][:, KNOWN])
        end = sample(Deaf(then), start[:, ~KNOWN], fall, solver)
        assert (states[-1][:, ~KNOWN] - end).abs().max() < 1e-8


@pytest.mark.parametrize("name", ["dpmpp_2m", "ab2", "ab3", "ab4"])
def test_after_a_stand_the_step_is_of_first_order(name: str) -> None:
    """There is no slope to be had from two guesses at one time: the step is Euler's, from where it stands."""
    data = joint()
    x_t, t, s = normal(ROWS, SIZE), 0.7, 0.45
    for before in ([], [0.9]):
        times = torch.tensor([*before, t, t, s], dtype=F64)
        *_, stood, end = [x for x, _ in walk(data, None, times, SOLVERS[name], x_t=x_t)]
        euler_step = data.process.step(data(stood, scalar(t)), stood, scalar(t), scalar(s))
        assert (end - euler_step).abs().max() < 1e-12
    there = sample_from(data, torch.tensor([0.9, t, s], dtype=F64), SOLVERS[name], None, x_t)
    assert (there - end).abs().max() > 1e-4  # without the stand it does look back


@pytest.mark.parametrize("name", ["dpmpp_2m", "ab2", "ab3", "ab4"])
def test_columns_that_stood_go_on_with_a_step_of_first_order(name: str) -> None:
    """While they stood the others went on, so the guess of them has changed at one and the same time: that is no slope."""
    data, x_t = joint(), normal(ROWS, SIZE)
    moving, waiting = torch.tensor([0.9, 0.8, 0.6, 0.4], dtype=F64), torch.tensor([0.8, 0.7, 0.7, 0.5], dtype=F64)
    times = torch.where(KNOWN, moving[:, None], waiting[:, None])[:, None]
    *_, stood, end = [x for x, _ in walk(data, None, times, SOLVERS[name], x_t=x_t)]
    euler_step = data.process.step(data(stood, times[-2]), stood, times[-2], times[-1])
    assert (end - euler_step)[:, ~KNOWN].abs().max() < 1e-12
    assert (end - euler_step)[:, KNOWN].abs().max() > 1e-4  # the others look back as ever


@pytest.mark.parametrize("name", ["heun", "unipc", "ab3"])
def test_one_row_that_arrives_does_not_lower_the_others_order(name: str) -> None:
    """Rows walk grids of their own, and one is at data after half of the steps."""
    data, z = joint(), normal(2, SIZE)
    quick = torch.cat([uniform(Linear(), 10), torch.zeros(10, dtype=F64)])
    slow = uniform(Linear(), 20)
    together = sample(data, z, torch.stack([quick, slow], 1), SOLVERS[name])
    for row, times in enumerate((uniform(Linear(), 10), slow)):
        assert (sample(data, z[row : row + 1], times, SOLVERS[name]) - together[row]).abs().max() < 1e-9


def test_descent_has_no_times_of_its_own() -> None:
    world = WORLDS["equilibrium"]
    with pytest.raises(ValueError, match="Descent has no times"):
        sample(world.denoiser, world.process.prior(world.x), torch.ones(2, 1, 4) * torch.tensor([1.0, 0.0])[:, None, None],
               Descent())  # fmt: skip


def test_steered_particles_keep_what_is_known() -> None:
    data = joint()
    process = Product(all=data.process)
    begin = normal(16, SIZE)

    class Around(Told):
        def guess(self, x_t: Any, t: Any, s: Any = None) -> Endpoints:
            ends = data(x_t["all"], t["all"])
            return Endpoints({"all": ends.x}, {"all": ends.z})

    guess = Around()
    guess.process = process  # type: ignore[attr-defined]
    times = [{"all": t} for t in held_grid(Linear(), 6)]
    found = steer(
        guess, {"all": begin}, times, lambda x, t: x["all"][:, 0], euler(1.0), torch.Generator().manual_seed(0)
    )  # type: ignore[arg-type]
    assert found.samples["all"].isfinite().all()
    assert torch.equal(found.samples["all"][:, KNOWN], begin[found.ancestors][:, KNOWN])


# ---- tokens ------------------------------------------------------------------------------------------------------------


TOKEN_SOLVERS = {"euler": Euler(), "confidence": Confidence(0.5), "entropy": EntropyBound(0.3), "remask": Remask(2.0)}


@pytest.mark.parametrize("name", TOKEN_SOLVERS)
def test_known_tokens_stay(name: str) -> None:
    """Every solver of tokens, though it would like to take some back (remask) or knows better (the table)."""
    data = TableData(random_table(3, 4, seed=2), 3, 4, Masked(3))
    known, where = torch.tensor([[1, 0, 2, 0]] * 64), torch.tensor([True, False, False, True])
    times = torch.where(where, 0.0, uniform(Linear(), 9)[:, None])[:, None]
    begin = torch.where(where, known, 3)
    rng = Streams(key("known"), range(64))
    states = [x for x, _ in walk(data, None, times, TOKEN_SOLVERS[name], rng, x_t=begin)]
    for x in states:
        assert torch.equal(x[:, where], known[:, where])
    assert bool((states[-1] < 3).all())
    assert len(states[-1].unique(dim=0)) > 1


def test_known_tokens_stay_among_random_ones() -> None:
    data = TableData(random_table(3, 4), 3, 4, UniformTokens(3))
    where, begin = torch.tensor([True, False, False, True]), torch.randint(3, (64, 4))
    times = torch.where(where, 0.0, uniform(Linear(), 6)[:, None])[:, None]
    for x, _ in walk(data, None, times, Euler(), Streams(key("known"), range(64)), x_t=begin):
        assert torch.equal(x[:, where], begin[:, where])


def test_known_tokens_are_the_condition_exactly() -> None:
    """One token at a time with the exact table: what is written follows the table's law given the known tokens."""
    count = 4000
    law = random_table(3, 3, seed=1)
    data = TableData(law, 3, 3, Masked(3))
    begin = torch.tensor([[3, 1, 3]]).expand(count, 3)
    order = blocks(3, 1, 1)
    times = torch.where(torch.tensor([False, True, False]), 0.0, order)
    end = sample_from(data, times, Euler(), torch.Generator().manual_seed(0), begin)
    assert bool((end[:, 1] == 1).all())
    table = law.reshape(3, 3, 3)[:, 1]
    wanted = (table / table.sum()).flatten()
    seen = torch.bincount(end[:, 0] * 3 + end[:, 2], minlength=9) / count
    assert ((seen - wanted).abs() < 4.5 * (wanted * (1 - wanted) / count).sqrt()).all()


# ---- products and points -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Euler(), Parts({"a": dpmpp_2m()}), Parts({"a": ab(2), "b": ab(2)})], ids=repr)
def test_known_parts_and_columns_of_a_product(solver: Any) -> None:
    """Part a is known whole, or one of its columns is: the exact denoiser of a joint normal."""
    data = joint_normal(a=Gaussian(Linear(), "data"), b=Gaussian(VP(), "data"))
    z = data.process.prior(data.split(torch.zeros(4, 5, dtype=F64)), torch.Generator().manual_seed(0))
    begin = {"a": normal(4, 2, seed=7), "b": data.process.start(z)["b"]}
    times = [{"a": scalar(0.0), "b": t} for t in uniform(Linear(), 8)]
    states = [x for x, _ in walk(data, None, times, solver, x_t=begin)]
    assert all(torch.equal(x["a"], begin["a"]) for x in states)
    gain = data.covariance[2:, :2] @ torch.linalg.inv(data.covariance[:2, :2])
    mean = data.mean[2:] + (begin["a"] - data.mean[:2]) @ gain.T
    alone = Joint(mean, data.covariance[2:, 2:] - gain @ data.covariance[:2, 2:], Gaussian(VP(), "data"))
    own = solver.solvers.get("b", Euler()) if isinstance(solver, Parts) else solver
    wanted = [x for x, _ in walk(alone, z["b"], uniform(Linear(), 8), own)]
    for x, y in zip(states, wanted, strict=True):
        assert (x["b"] - y).abs().max() < 1e-8


@pytest.mark.parametrize("name", WORLDS)
def test_known_places_stay_in_every_world(name: str) -> None:
    """Times for each place; a product takes them by a dict, or one tensor for all its parts."""
    world = WORLDS[name]
    process, where = world.process, torch.tensor([True, False, False, True])
    z = process.prior(world.x, Streams(key("walk"), range(ROWS)))
    x = process.interpolate(world.x, z, scalar(0.0))  # one-hot tokens are vectors there
    times = torch.where(where, 0.0, uniform(process.schedule, 5)[:, None])[:, None]
    plans: list[Any] = [times]
    if name == "product":
        plans.append([{"place": t, "inner": {"turn": t, "text": t}} for t in times])
        plans.append([{"place": t, "inner": t} for t in times])
    for plan in plans:
        begin = tree.each(lambda a, b: mixed(where, a, b), x, process.start(z))
        for state, _ in walk(world.denoiser, None, plan, Euler(), Streams(key("fresh"), range(ROWS)), x_t=begin):
            for there, known in zip(tree.leaves(state), tree.leaves(x), strict=True):
                assert known.ndim < 2 or torch.equal(there[:, where], known[:, where])
        assert world.lies(state)


def mixed(where: Tensor, known: Tensor, noise: Tensor) -> Tensor:
    if known.ndim < 2:
        return known
    return torch.where(where.reshape(1, -1, *[1] * (known.ndim - 2)), known, noise)


def test_a_time_that_stands_for_all_changes_nothing() -> None:
    """A pause of the whole walk, in every world: no random step, no call's rounding."""
    for name, world in WORLDS.items():
        z = world.process.prior(world.x, Streams(key("walk"), range(ROWS)))
        times = torch.tensor([0.5, 0.5, 0.5], dtype=F64)
        begin = world.process.interpolate(world.x, z, scalar(0.5))
        end = sample_from(world.denoiser, times, Euler(), Streams(key("fresh"), range(ROWS)), begin)
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(end), tree.leaves(begin), strict=True)), name


def test_heun_in_a_walk_that_ends_above_data_is_of_second_order_throughout() -> None:
    """Known columns at t = 0 must not switch the second call off for the others."""
    data, begin = joint(), normal(ROWS, SIZE)
    begin = torch.where(KNOWN, normal(ROWS, SIZE, seed=9), begin)
    errors = []
    fine = sample_from(data, held_grid(Linear(), 400), ab(4), None, begin)
    for steps in (20, 80):
        errors.append(float((sample_from(data, held_grid(Linear(), steps), heun(), None, begin) - fine).abs().max()))
    assert errors[1] < errors[0] / 12
