"""The parameters of the solvers of tokens and of descent away from their defaults, as in ``test_parameters.py``."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import (
    Confidence,
    Cosine,
    Denoiser,
    Descent,
    EntropyBound,
    Equilibrium,
    Linear,
    Masked,
    Remask,
    descend,
    uniform,
    walk,
)
from tests.laws.worlds import F64, Told, normal

ENDS = torch.tensor([1.0, 0.0], dtype=F64)


class Believing(Told):
    """The same belief about each token, whatever the others are: log-probabilities (L, V)."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        self.logits = torch.tensor(probabilities, dtype=F64).log()
        self.process = Masked(self.logits.shape[1])
        self.asked = 0

    def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Any:
        self.asked += 1
        return self.process.endpoints(self.logits.expand(len(x_t), -1, -1), x_t, t)

    def sample(self, solver: Any, times: Tensor, rows: int, seed: int = 0) -> list[Tensor]:
        rng = torch.Generator().manual_seed(seed)
        z = self.process.prior(torch.zeros(rows, len(self.logits), dtype=torch.int64), rng)
        return [x for x, _ in walk(self, z, times, solver, rng)]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_order_of_confidence_is_a_gumbel_race(temperature: float) -> None:
    """Of two tokens the one drawn with probability p comes before that with q in a share 1 / (1 + (q / p)^(1 / T))."""
    first, second, rows = [0.7, 0.3], [0.55, 0.45], 20_000
    guess = Believing([first, second])
    states = guess.sample(Confidence(temperature), torch.tensor([1.0, 0.5, 0.0], dtype=F64), rows)
    early = states[1][:, 0] != 2
    assert bool(((states[1] == 2).sum(1) == 1).all())  # one of the two was written
    wanted = sum(p * q / (1 + (q / p) ** (1 / temperature)) for p in first for q in second)
    assert abs(float(early.double().mean()) - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / rows)


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_remasking_takes_a_quarter_of_its_strength_back(strength: float) -> None:
    """Per unit of alpha, ``strength`` of the tokens that are there as far as there is room for them among the masks: over the
    walk each token is taken back strength times the integral of min(alpha, 1 - alpha), 1 / 4, on every schedule."""
    for schedule in (Linear(), Cosine()):
        process, times, taken = Masked(2, schedule), uniform(schedule, 500), 0.0
        x_t = torch.zeros(1, 1, dtype=torch.int64)
        for t, s in pairwise(times):
            ends = process.endpoints(torch.zeros(1, 1, 2, dtype=F64), x_t, t)
            law = Remask(strength).transition(process, ends, x_t, t, s)
            taken += float(schedule.alpha(t) * law[0, 0, 2])
        assert taken == pytest.approx(strength / 4, rel=0.02)


@pytest.mark.parametrize(("budget", "at_once"), [(0.0, 1), (0.5, 1), (1.5, 2), (3.2, 4), (100.0, 12)])
def test_a_budget_buys_so_many_tokens_a_step(budget: float, at_once: int) -> None:
    """Twelve tokens of entropy h each: the first is free, and the others cost h."""
    guess = Believing([[0.25] * 4] * 12)
    times = torch.cat([torch.linspace(1, 1e-3, 200, dtype=F64), torch.zeros(1, dtype=F64)])
    states = guess.sample(EntropyBound(budget * math.log(4)), times, 6)
    written = [int((x != 4).sum(1).unique().item()) for x in states]
    assert written[1] == min(12, at_once)
    assert all(b - a == min(at_once, 12 - a) for a, b in pairwise(written) if a < 12)
    assert guess.asked == math.ceil(12 / at_once)


# ---- descent -------------------------------------------------------------------------------------------------------------


def test_descent_hands_its_parameters_on() -> None:
    """As a solver it is ``descend`` with the same numbers, and each of them matters."""
    denoiser = Denoiser(lambda shown, level: 4 * (shown - 0.5) / (1 + shown.abs()), Equilibrium())
    z = 2 * normal(5, 3)
    plain: dict[str, Any] = {"step": 0.01, "momentum": 0.2, "tol": 0.3, "most": 40}
    ends = []
    for change in ({}, {"step": 0.03}, {"step": 0.005}, {"momentum": 0.6}, {"momentum": 0.0}, {"tol": 1.2}, {"tol": 1.5},
                   {"most": 3}, {"most": 8}):  # fmt: skip
        numbers = {**plain, **change}
        wanted = descend(denoiser, z, **numbers)
        solver = Descent(numbers["step"], numbers["momentum"], numbers["tol"], numbers["most"])
        *_, (x, calls) = walk(denoiser, z, ENDS, solver)
        assert torch.equal(x, wanted.x)
        assert torch.equal(calls, wanted.steps)
        assert int(calls.max()) <= numbers["most"]
        ends.append((x, calls))
    assert all((a[0] - b[0]).abs().max() > 1e-6 for i, a in enumerate(ends) for b in ends[:i])
