"""Gaps of unknown length: a Markov chain's text, whose posterior over text and length together is known in closed form."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, Masked, Streams, key
from sfumato.diffusion.gaps import Gaps, opened
from sfumato.diffusion.sample import walk
from sfumato.diffusion.stretching import Stretch

F64 = torch.float64
STATES = 3
EXPAND, DELETE, NOTHING, GAP = 4, 5, 6, 7  # 3 is a mask, which nobody uses here
GAPS = Gaps(EXPAND, DELETE, GAP, NOTHING, q=0.3, d=0.1, most=12)


@dataclass(frozen=True)
class Chain:
    """A chain of 3 states with transitions ``moves``, as a network that answers the exact law of what each gap becomes.

    ``forth[i] . back[i]`` is the probability of the whole row, forth the law of the next token given all before place i. A run
    of n unknown tokens moves that law by moves^n, so a gap moves it by W = sum_n w(n) moves^n, which solves
    W = d + p moves + q W W: found by iteration, and not by the weights w(n) that are tested here.
    """

    moves: Tensor

    @property
    def gap(self) -> Tensor:
        found = torch.zeros_like(self.moves)
        for _ in range(200):
            found = GAPS.d * torch.eye(STATES, dtype=F64) + GAPS.p * self.moves + GAPS.q * found @ found
        return found

    @property
    def stationary(self) -> Tensor:
        return torch.linalg.matrix_power(self.moves, 500)[0]

    def __call__(self, x: Tensor, level: Tensor, **condition: Any) -> Tensor:
        x, whose = torch.unique(x, dim=0, return_inverse=True)
        moves, gap, eye = self.moves, self.gap, torch.eye(STATES, dtype=F64)
        answer = torch.full((*x.shape, 7), -1e9, dtype=F64)
        for row, tokens in enumerate(x.tolist()):
            steps = [gap if k == GAP else eye if k == NOTHING else torch.outer(eye[k], moves[k]) for k in tokens]
            forth, back = [self.stationary], [torch.ones(STATES, dtype=F64)]
            for step in steps:
                forth.append(forth[-1] @ step)
            for step in reversed(steps):
                back.append(step @ back[-1])
            back = back[::-1]
            for i, k in enumerate(tokens):
                if k == GAP:
                    answer[row, i, :STATES] = (GAPS.p * forth[i] * (moves @ back[i + 1])).log()
                    answer[row, i, EXPAND] = (GAPS.q * forth[i] @ gap @ gap @ back[i + 1]).log()
                    answer[row, i, DELETE] = (GAPS.d * forth[i] @ back[i + 1]).log()
        return answer[whose]

    def log_p(self, tokens: list[int]) -> float:
        total = math.log(self.stationary[tokens[0]])
        return total + sum(math.log(self.moves[a, b]) for a, b in itertools.pairwise(tokens))


def chain(seed: int = 0) -> Chain:
    logits = 1.2 * torch.randn(STATES, STATES, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return Chain(logits.softmax(1))


def stretched(row: list[int], count: int, solver: Stretch, length: int = 20, steps: int = 30) -> tuple[Tensor, Tensor]:
    """Rows (count, length) in which the gaps of ``row`` were opened, and their scores."""
    x = torch.tensor(row + [NOTHING] * (length - len(row))).expand(count, -1)
    guess = Denoiser(chain(), Masked(GAP))
    times = torch.linspace(1, 0, steps + 1, dtype=F64)
    *_, (found, scores) = walk(guess, x, times, solver, Streams(key("gaps"), range(count)), x_t=x)
    return found, scores


def texts(rows: Tensor, before: int, after: int) -> list[tuple[int, ...]]:
    """What was written between so many tokens before and after."""
    found = []
    for row in rows.tolist():
        there = row[: row.index(NOTHING)] if NOTHING in row else row
        assert NOTHING not in there
        found.append(tuple(there[before : len(there) - after]))
    return found


def posterior(before: list[int], after: list[int], most: int) -> dict[tuple[int, ...], float]:
    """The law of what stands between, of up to ``most`` tokens: p(text) w(length), where w is counted over derivations."""
    weights = lengths(most)
    every = [run for n in range(most + 1) for run in itertools.product(range(STATES), repeat=n)]
    raw = {run: math.exp(chain().log_p([*before, *run, *after])) * weights[len(run)] for run in every}
    whole = chain()
    there = (
        [torch.outer(torch.eye(STATES, dtype=F64)[k], whole.moves[k]) for k in before],
        [torch.outer(torch.eye(STATES, dtype=F64)[k], whole.moves[k]) for k in after],
    )
    total = whole.stationary
    for step in [*there[0], whole.gap, *there[1]]:
        total = total @ step
    return {run: value / float(total.sum()) for run, value in raw.items()}


def lengths(most: int) -> list[float]:
    """w(n): the series of W(z) = d + p z + q W(z)^2 by iteration on its coefficients."""
    found = [0.0] * (most + 1)
    for _ in range(400):
        square = [sum(found[k] * found[n - k] for k in range(n + 1)) for n in range(most + 1)]
        found = [GAPS.q * square[n] + (GAPS.d if n == 0 else GAPS.p if n == 1 else 0.0) for n in range(most + 1)]
    return found


def chi(counts: dict[Any, int], law: dict[Any, float], total: int) -> tuple[float, int]:
    """Chi-square over what is expected 5 times or more, the rest as one, and its degrees of freedom."""
    often = {run: p for run, p in law.items() if p * total >= 5}
    rest = 1 - sum(often.values())
    value = sum((counts.get(run, 0) - p * total) ** 2 / (p * total) for run, p in often.items())
    others = total - sum(counts.get(run, 0) for run in often)
    return value + (others - rest * total) ** 2 / max(rest * total, 1e-9), len(often)


def limit(freedom: int) -> float:
    """Beyond which chi-square comes once in about 30,000 times (Wilson and Hilferty 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 4 * math.sqrt(2 / (9 * freedom))) ** 3


def test_the_lengths_before_any_text_is_seen_are_those_of_the_grammar() -> None:
    assert torch.allclose(GAPS.weights[:9], torch.tensor(lengths(8), dtype=F64), atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 100.0])
def test_a_gap_has_the_exact_posterior_of_text_and_length_in_any_order(temperature: float) -> None:
    count = 3000
    rows, _ = stretched([0, GAP, 2, 1], count, Stretch(GAPS, temperature))
    law, counts = posterior([0], [2, 1], 5), {}
    for run in texts(rows, 1, 2):
        counts[run] = counts.get(run, 0) + 1
    value, freedom = chi(counts, law, count)
    assert freedom > 12
    assert value < limit(freedom)


def test_without_warmth_the_likeliest_is_taken_and_more_of_it_draws_more_evenly() -> None:
    def different(warmth: float) -> int:
        rows, _ = stretched([0, GAP, 2, 1], 400, Stretch(GAPS, 0.0, warmth))
        return len(set(texts(rows, 1, 2)))

    assert different(0.0) == 1
    assert different(0.0) < different(0.3) < different(1.0)


def test_the_score_is_the_probability_of_the_text_whatever_its_length_and_derivation() -> None:
    rows, scores = stretched([0, GAP, 2, 1], 200, Stretch(GAPS, 1.0))
    off = [float(score) - chain().log_p([0, *run, 2, 1]) for run, score in zip(texts(rows, 1, 2), scores, strict=True)]
    assert len({len(run) for run in texts(rows, 1, 2)}) > 4
    assert max(off) - min(off) < 1e-9


@dataclass(frozen=True)
class Counting:
    """The chain, and how often it was asked."""

    calls: list[int]

    def __call__(self, x: Tensor, level: Tensor, **condition: Any) -> Tensor:
        self.calls.append(len(x))
        return chain()(x, level)


def test_a_budget_opens_several_gaps_in_fewer_calls() -> None:
    """Down to the depth of the grammar's tree; and what is drawn is near the posterior of text and length still."""
    law, count, calls = posterior([0], [2, 1], 5), 600, []
    x = torch.tensor([0, GAP, 2, 1] + [NOTHING] * 24).expand(count, -1)
    times = torch.linspace(1, 0, 81, dtype=F64)
    noise = sum(math.sqrt(p * (1 - p) / count) for p in law.values()) / 2
    for budget in (0.0, 2.0, 100.0):
        asked = Counting([])
        rng = Streams(key("budget"), range(count))
        *_, (rows, _) = walk(Denoiser(asked, Masked(GAP)), x, times, Stretch(GAPS, budget=budget), rng, x_t=x)
        assert not bool((rows == GAP).any())
        found = texts(rows, 1, 2)
        away = sum(abs(found.count(run) / count - p) for run, p in law.items()) / 2
        assert away < 1.5 * noise
        calls.append(len(asked.calls))
    assert calls[0] > 1.5 * calls[1] > 1.5 * calls[2]


def test_the_budget_holds_what_opening_together_may_cost() -> None:
    """The summed entropy of what is opened less the greatest: .5 and .2 of .5, .2, .9 may be for .25; one is always opened."""
    entropy = torch.tensor([[0.5, 0.0, 0.2, 0.9], [0.9, 0.8, 0.0, 0.0]], dtype=F64)
    gap = torch.tensor([[True, False, True, True], [True, True, False, False]])
    score = (-entropy).masked_fill(~gap, -torch.inf)
    for budget, opened_ in (
        (0.0, [[2], [1]]), (0.1, [[2], [1]]), (0.25, [[0, 2], [1]]), (0.75, [[0, 2, 3], [1]]), (0.85, [[0, 2, 3], [0, 1]]),
    ):  # fmt: skip
        chosen = Stretch(GAPS, budget=budget).first(gap, score, entropy)
        assert [row.nonzero()[:, 0].tolist() for row in chosen] == opened_


def test_gaps_that_are_opened_together_find_room_for_all() -> None:
    rows, _ = stretched([1, *[GAP] * 5, 2], 100, Stretch(GAPS, budget=100.0), length=9)
    assert not bool((rows == GAP).any())
    assert all([k for k in row if k != NOTHING][-1] == 2 for row in rows.tolist())  # none has pushed out what is after


def test_what_stands_and_where_gaps_end() -> None:
    rows, _ = stretched([1, GAP, 0, GAP, GAP, 2], 100, Stretch(GAPS), length=9, steps=3)
    assert not bool((rows == GAP).any())  # the last step opens what is left
    found = texts(rows, 1, 1)
    assert all(len(run) <= 7 for run in found)
    assert all(row[0] == 1 for row in rows.tolist())
    assert all([k for k in row if k != NOTHING][-1] == 2 for row in rows.tolist())
    full, _ = stretched([1, *[GAP] * 8], 50, Stretch(GAPS), length=9)  # no room for more
    assert bool((full < STATES).any())


def test_a_row_does_not_depend_on_its_batch() -> None:
    many, scores = stretched([0, GAP, 2], 5, Stretch(GAPS, 1.0))
    x = torch.tensor([0, GAP, 2] + [NOTHING] * 17)[None]
    *_, (one, score) = walk(
        Denoiser(chain(), Masked(GAP)), x, torch.linspace(1, 0, 31, dtype=F64), Stretch(GAPS, 1.0),
        Streams(key("gaps"), [3]), x_t=x,
    )  # fmt: skip
    assert torch.equal(one[0], many[3])
    assert abs(float(score[0] - scores[3])) < 1e-9


def test_what_is_learned_from_is_what_is_asked_for() -> None:
    """Rows made by ``hide``: among those that look alike, gaps become what the exact conditionals say."""
    count, length = 60_000, 6
    whole = chain()
    states = torch.multinomial(whole.stationary.expand(count, -1), 1, generator=torch.Generator().manual_seed(1))
    text = [states[:, 0]]
    generator = torch.Generator().manual_seed(2)
    for _ in range(length + 5):
        text.append(torch.multinomial(whole.moves[text[-1]], 1, generator=generator)[:, 0])
    x = torch.stack(text, 1)
    where = torch.zeros(x.shape, dtype=torch.bool)
    where[:, 1:4] = True
    u = torch.rand((*x.shape, 3), generator=generator, dtype=F64)
    hidden = GAPS.hide(x, where, torch.full((count,), 0.4, dtype=F64), u, length)
    looks, tested = {}, 0
    for shown, becomes in zip(hidden.shown[:, :length].tolist(), hidden.becomes[:, :length].tolist(), strict=True):
        looks.setdefault(tuple(shown), []).append(becomes)
    for shown, seen in looks.items():
        if GAP not in shown or NOTHING in shown or len(seen) < 500:
            continue
        law = whole(torch.tensor([shown]), torch.zeros(1))[0].softmax(-1)
        for place in [i for i, k in enumerate(shown) if k == GAP]:
            outcomes = [row[place] for row in seen]
            counts = {k: outcomes.count(k) for k in (*range(STATES), EXPAND, DELETE)}
            value, freedom = chi(counts, {k: float(law[place, k]) for k in counts}, len(seen))
            assert value < limit(freedom), (shown, place)
            tested += 1
    assert tested > 12


def test_opening_moves_what_follows() -> None:
    x = torch.tensor([[0, GAP, 1, GAP, GAP, 2, NOTHING, NOTHING]])
    becomes = torch.tensor([[-1, EXPAND, -1, DELETE, 1, -1, -1, -1]])
    assert opened(x, becomes, GAPS).tolist() == [[0, GAP, GAP, 1, 1, 2, NOTHING, NOTHING]]
    assert opened(x, torch.full_like(x, -1), GAPS).tolist() == x.tolist()


@pytest.mark.parametrize("wrong", [{"q": 0.6}, {"q": 0.0}, {"d": -0.1}, {"q": 0.5, "d": 0.5}, {"most": 0}])
def test_grammars_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be 0 < q"):
        Gaps(EXPAND, DELETE, GAP, NOTHING, **wrong)


def test_nothing_is_below_zero() -> None:
    for wrong in ({"temperature": -1.0}, {"warmth": -1.0}, {"budget": -0.1}):
        with pytest.raises(ValueError, match="none may be negative"):
            Stretch(GAPS, **wrong)
