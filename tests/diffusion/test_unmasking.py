"""Samplers of tokens: how they are drawn, which are revealed, in which order, and what law that gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.loss import loss
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler, sample, trajectory
from sfumato.diffusion.schedule import Cosine, Linear
from sfumato.diffusion.tokens import UniformTokens, draw
from sfumato.diffusion.unmasking import Confidence, EntropyBound, RandomOrder, Remask, blocks, infill
from tests.laws.token_tables import TableData, chain, generator, marginals, random_table, sequences

F64 = torch.float64
SOLVERS: dict[str, Any] = {
    "ancestral": Euler(),
    "confidence": Confidence(),
    "confidence_random": Confidence(1e6),
    "random_order": RandomOrder(),
    "entropy": EntropyBound(0.3),
    "remask": Remask(2.0),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())


def table(process: Any = Masked(3), length: int = 3) -> TableData:
    return TableData(random_table(3, length), 3, length, process)


def noise(batch: int, length: int) -> Tensor:
    return torch.zeros(batch, length, dtype=F64)


def follows(written: Tensor, law: Tensor) -> bool:
    """Chi-square of sequences of three tokens against their law."""
    places = torch.tensor([3**i for i in reversed(range(written.shape[1]))])
    seen, wanted = torch.bincount(written @ places, minlength=len(law)), law * len(written)
    return float(((seen - wanted) ** 2 / wanted).sum()) < chi2.ppf(1 - 1e-6, len(law) - 1)


class Counted:
    """A denoiser that counts its calls."""

    def __init__(self, base: Any):
        self.base, self.process, self.calls = base, base.process, 0

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Any:
        self.calls += 1
        return self.base(x_t, t, s, **condition)


# ---- every solver ----------------------------------------------------------------------------------------------------


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 5, 11])
def test_every_mask_falls(solver: Any, steps: int) -> None:
    for schedule in (Linear(), Cosine()):
        written = sample(table(Masked(3, schedule)), noise(50, 3), uniform(schedule, steps), solver, generator(0))
        assert not bool((written == 3).any())


@every_solver
def test_sample_i_is_the_same_alone(solver: Any) -> None:
    data, times = table(), uniform(Linear(), 5)
    whole = sample(data, noise(6, 3), times, solver, Streams(key("s"), range(6)))
    for i in (0, 4):
        assert torch.equal(sample(data, noise(1, 3), times, solver, Streams(key("s"), [i]))[0], whole[i])


@every_solver
def test_known_tokens_never_change(solver: Any) -> None:
    known = torch.tensor([[2, 0, 1, 0]])
    where = torch.tensor([[True, False, True, False]])
    guess = infill(table(length=4), known, where)
    for x_t in trajectory(guess, noise(40, 4), uniform(Linear(), 6), solver, generator(1)):
        assert bool((x_t[:, [0, 2]] == torch.tensor([2, 1])).all())
    assert not bool((x_t == 3).any())


@every_solver
def test_one_step_is_the_product_of_marginals(solver: Any) -> None:
    """Except under a budget, for that is what the budget is for; at the last step it must give way as well."""
    data = table()
    product = torch.ones(27, dtype=F64)
    for place, law in enumerate(marginals(data)):
        product = product * law[sequences(3, 3)[:, place]]
    assert follows(sample(data, noise(40_000, 3), uniform(Linear(), 1), solver, generator(2)), product)


@every_solver
def test_blocks_are_written_in_turn(solver: Any) -> None:
    data, times = table(length=4), blocks(4, 2, 3)
    walk = list(trajectory(data, noise(30, 4), times, solver, generator(3)))
    assert bool((walk[3][:, :2] != 3).all())
    assert bool((walk[3][:, 2:] == 3).all())
    for x_t in walk[4:]:
        assert torch.equal(x_t[:, :2], walk[3][:, :2])
    assert not bool((walk[-1] == 3).any())


# ---- order and number ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [Confidence(1e9), RandomOrder(), EntropyBound(0.0)],
    ids=["hot_one_by_one", "random_order", "entropy_one_by_one"],
)
def test_one_token_at_a_time_is_exact(solver: Any) -> None:
    """In an order that does not depend on what is drawn, tokens drawn one by one follow the table itself."""
    data = table()
    assert follows(sample(data, noise(60_000, 3), uniform(Linear(), 3), solver, generator(4)), data.law)


def test_one_token_blocks_are_exact() -> None:
    """Left to right in one step each is an autoregressive model: the propagated law is the table, to rounding."""
    data, states = table(), sequences(4, 3)
    *_, (_, law) = chain(data, blocks(3, 1, 1), states)
    assert (law[(states < 3).all(1)] - data.law).abs().max() < 1e-15


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("solver", [Confidence(), Confidence(1.0), RandomOrder()], ids=["surest", "sure", "any"])
def test_the_expected_number_is_revealed(schedule: Any, solver: Any) -> None:
    """After every step the number of tokens there is L alpha(s), to within one, though a step may reveal a fraction."""
    length, steps = 50, 120
    process = Masked(4, schedule)
    network = torch.randn(length, 4, dtype=F64, generator=generator(5))
    guess = Denoiser(lambda shown, level: network.expand(len(shown), -1, -1), process)
    times = uniform(schedule, steps)
    for s, x_t in zip(times, trajectory(guess, noise(3, length), times, solver, generator(6))):
        alpha = 1.0 if s == 0 else float(schedule.alpha(s))
        assert ((x_t != 4).sum(1) - length * alpha).abs().max() < 1 + 1e-6


def test_confidence_takes_the_surest_first() -> None:
    """A network that is surer the further left: tokens appear from left to right."""
    sure = torch.arange(8, 0, -1, dtype=F64)
    logits = torch.stack([sure * 3, torch.zeros(8, dtype=F64)], -1)
    guess = Denoiser(lambda shown, level: logits.expand(len(shown), -1, -1), Masked(2))
    for x_t in trajectory(guess, noise(5, 8), uniform(Linear(), 8), Confidence(), generator(7)):
        there = (x_t != 2).long()
        likely = (x_t == 0).all(1)  # rows in which the unlikely token was drawn have their own order
        assert bool((there[likely].diff(dim=1) <= 0).all())


def test_entropy_bound_keeps_its_budget() -> None:
    data, budget = table(length=4), 0.6
    walk = list(trajectory(data, noise(60, 4), uniform(Linear(), 9), EntropyBound(budget), generator(8)))
    for before, after in list(pairwise(walk))[:-1]:
        law = data(before, torch.tensor(0.5, dtype=F64)).x.exp()
        entropy = torch.special.entr(law).sum(-1) * (before != after)
        assert float((entropy.sum(1) - entropy.max(1).values).max()) <= budget + 1e-12
        unfinished = (before == 3).any(1)
        assert bool((before != after).any(1)[unfinished].all())


def test_entropy_bound_stops_calling_when_all_is_written() -> None:
    counted = Counted(table())
    sample(counted, noise(7, 3), uniform(Linear(), 50), EntropyBound(0.0), generator(9))
    assert counted.calls == 3


def test_certain_tokens_cost_no_budget() -> None:
    """Independent certain tokens are written at once."""
    counted = Counted(
        Denoiser(lambda shown, level: 900.0 * torch.eye(5, dtype=F64).expand(len(shown), 5, 5), Masked(5))
    )
    written = sample(counted, noise(2, 5), uniform(Linear(), 9), EntropyBound(0.0), generator(10))
    assert written.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert counted.calls == 1


def test_remask_takes_tokens_back() -> None:
    walk = list(trajectory(table(), noise(300, 3), uniform(Linear(), 10), Remask(3.0), generator(11)))
    taken = sum(int(((a != 3) & (b == 3)).sum()) for a, b in pairwise(walk))
    assert taken > 100


def test_remask_of_no_strength_is_ancestral() -> None:
    data, t, s = table(), torch.tensor(0.7, dtype=F64), torch.tensor(0.4, dtype=F64)
    states = sequences(4, 3)
    ends = data(states, t)
    law = Remask(0.0).transition(data.process, ends, states, t, s)
    assert torch.equal(law, data.process.transition(ends, states, t, s))


# ---- infilling -------------------------------------------------------------------------------------------------------


def test_infilling_tends_to_the_conditional_law() -> None:
    """Given one token, one token at a time: the table's law given that token, to rounding."""
    data, states = table(), sequences(4, 3)
    where = torch.tensor([[False, True, False]])
    guess = infill(data, torch.tensor([[0, 2, 0]]), where)
    *_, (_, law) = chain(guess, blocks(3, 1, 1), states)
    wanted = torch.where(sequences(3, 3)[:, 1] == 2, data.law, 0.0)
    assert (law[(states < 3).all(1)] - wanted / wanted.sum()).abs().max() < 1e-15


def test_infilling_uniform_tokens_holds_them() -> None:
    data = table(UniformTokens(3))
    known, where = torch.tensor([[0, 2, 0]]), torch.tensor([[False, True, False]])
    guess = infill(data, known, where)
    z = data.process.prior(torch.zeros(50, 3, dtype=torch.long), generator(12))
    for x_t in trajectory(guess, z, uniform(Linear(), 6), rng=generator(13)):
        assert bool((x_t[:, 1] == 2).all())


def test_infilled_process_keeps_law_3() -> None:
    known, where = torch.tensor([[0, 2, 0]]), torch.tensor([[False, True, False]])
    for base in (Masked(3), UniformTokens(3)):
        process = infill(table(base), known, where).process
        x = torch.randint(3, (20, 3), generator=generator(14))
        for t in (0.0, 0.3, 1.0):
            time = torch.tensor(t, dtype=F64)
            x_t = process.interpolate(x, process.prior(x, generator(15)), time)
            answer = torch.randn(20, 3, 3, dtype=F64, generator=generator(16))
            assert torch.equal(process.interpolate(*process.endpoints(answer, x_t, time), time), x_t)
            assert bool((x_t[:, 1] == 2).all())


def test_training_to_fill_in_uses_the_same_loss() -> None:
    process = infill(table(), torch.tensor([[0, 2, 0]]), torch.tensor([[False, True, False]])).process
    guess = Denoiser(lambda shown, level: torch.zeros(*shown.shape, 3), process)
    value = loss(guess, torch.tensor([[0, 2, 1]]), torch.tensor([0.5]), generator(17))
    assert bool(value.isfinite().all())


# ---- drawing ---------------------------------------------------------------------------------------------------------

RARE = torch.tensor([1e-9, 0.3, 0.0, 1e-9, 0.2, 1e-3, 0.499 - 3e-9, 1e-9, 0.0], dtype=F64)


def test_rare_tokens_are_drawn_as_often_as_they_say() -> None:
    """Truth 40: uniform numbers spread evenly over a window around each rare token's place hit it in proportion."""
    edges = torch.cat([torch.zeros(1, dtype=F64), RARE.cumsum(0)])
    for token in (0, 3, 7):
        low = max(0.0, float(edges[token]) - 2e-9)
        u = (low + 5e-9 * (torch.arange(100_000, dtype=F64) + 0.5) / 100_000).clamp_max(1 - 2**-53)
        share = float((draw(RARE.expand(len(u), -1), u) == token).sum()) / len(u) * 5e-9
        if token == 7:  # beyond the end of the table there is nothing: the window was cut
            share -= 5e-9 - (1 - low) if low + 5e-9 > 1 else 0.0
        assert abs(share / 1e-9 - 1) < 1e-3
    assert int(draw(RARE[None], torch.tensor([1 - 2**-53], dtype=F64))) == 7
    assert int(draw(RARE[None], torch.tensor([0.0], dtype=F64))) == 0


def test_draws_pass_chi_square() -> None:
    count = 2_000_000
    u = torch.rand(count, dtype=F64, generator=generator(6))
    seen = torch.bincount(draw(RARE.expand(count, -1), u), minlength=9)
    assert seen[[2, 8]].sum() == 0
    common = RARE > 1e-6
    wanted = RARE[common] * count
    assert float(((seen[common] - wanted) ** 2 / wanted).sum()) < chi2.ppf(1 - 1e-6, int(common.sum()) - 1)
    assert int(seen[[0, 3, 7]].sum()) <= 3  # expected: 0.006


def test_draw_never_leaves_the_table() -> None:
    """The largest uniform number, laws that do not quite sum to one, and zeros at the end."""
    u = torch.tensor([0.0, 1 - 2**-53], dtype=F64).repeat(200)
    law = torch.rand(400, 11, dtype=F64, generator=generator(7))
    law[:, [0, 4, 10]] = 0
    tokens = draw(law / law.sum(-1, keepdim=True), u)
    assert bool((law.gather(1, tokens[:, None]) > 0).all())


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_bad_input_is_named() -> None:
    data, where = table(), torch.tensor([[True, False, False]])
    with pytest.raises(ValueError, match="mask token 3"):
        infill(data, torch.tensor([[3, 0, 0]]), where)
    with pytest.raises(ValueError, match="bool"):
        infill(data, torch.tensor([[1, 0, 0]]), where.long())
    with pytest.raises(ValueError, match="int64"):
        infill(data, torch.zeros(1, 3), where)
    with pytest.raises(ValueError, match="budget"):
        EntropyBound(-1.0)
    with pytest.raises(ValueError, match="strength"):
        Remask(-1.0)
    with pytest.raises(ValueError, match="length, block and steps"):
        blocks(4, 0, 1)
    other = table(UniformTokens(3))
    for solver in (Confidence(), EntropyBound(), Remask()):
        with pytest.raises(ValueError, match="Masked"):
            sample(other, noise(2, 3), uniform(Linear(), 2), solver)


@pytest.mark.parametrize(("length", "block", "steps"), [(6, 2, 3), (7, 3, 2), (4, 9, 5), (3, 1, 1)])
def test_block_times(length: int, block: int, steps: int) -> None:
    times = blocks(length, block, steps)
    assert times.shape == (-(-length // block) * steps + 1, 1, length)
    assert bool((times[0] == 1).all())
    assert bool((times[-1] == 0).all())
    assert bool((times.diff(dim=0) <= 0).all())
    moving = times.diff(dim=0)[:, 0] < 0
    for row in moving:  # one block at a time
        assert len({int(i) // block for i in row.nonzero()}) == 1
