"""A network trained on a proper score of its members: what that score is, of laws for which it is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sfumato.diffusion import Denoiser, Gaussian
from sfumato.diffusion.members import ProperScore
from sfumato.diffusion.schedule import Linear


class Scaled(nn.Module):
    """Answers data: ``size`` times what it is shown, which at t = 1 is noise."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(size, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.size * x


def score(size: float, how: ProperScore, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Of N(0, size^2), row by row."""
    torch.manual_seed(1)
    denoiser = Denoiser(Scaled(size), Gaussian(Linear(), "data"))
    t = torch.full((len(truth),), 0.3, dtype=truth.dtype)
    z = torch.randn_like(truth)
    found: Tensor = how(denoiser, truth, t, rng=None, z=z, weight=weight, given=None, condition={})
    return found


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_the_fair_score_is_that_of_the_law_whatever_the_members(members: int, size: float) -> None:
    """E|X - Y| - E|X - X'| / 2 = sqrt(2 / pi) sqrt(1 + s^2) - s / sqrt(pi) for Y of N(0, 1), least at s = 1."""
    torch.manual_seed(0)
    truth = torch.randn(200_000, 1, dtype=torch.float64)
    found = score(size, ProperScore(members), truth)
    law = math.sqrt(2 / math.pi) * math.sqrt(1 + size**2) - size / math.sqrt(math.pi)
    assert found.mean().item() == pytest.approx(law, abs=5 * found.std().item() / math.sqrt(len(truth)))


@pytest.mark.parametrize("fair", [0.95, 0.0])
def test_less_fair_is_as_much_of_the_spread_less(fair: float) -> None:
    """Almost fair: E|X - X'| / 2 counts (M - 1 + fair) / M; not fair at all, as an ensemble of two is."""
    torch.manual_seed(0)
    truth = torch.randn(200_000, 1, dtype=torch.float64)
    found = score(1.0, ProperScore(2, fair), truth)
    law = math.sqrt(2 / math.pi) * math.sqrt(2) - (1 + fair) / 2 / math.sqrt(math.pi)
    assert found.mean().item() == pytest.approx(law, abs=5 * found.std().item() / math.sqrt(len(truth)))


def test_the_whole_is_the_energy_score() -> None:
    """E|X - Y| of normals in d dimensions is sqrt(1 + s^2) sqrt(2) gamma((d + 1) / 2) / gamma(d / 2)."""
    torch.manual_seed(0)
    truth, size, d = torch.randn(50_000, 2, 3, dtype=torch.float64), 0.7, 6
    found = score(size, ProperScore(whole=1.0), truth) - score(size, ProperScore(), truth)
    mean = math.sqrt(2) * math.gamma((d + 1) / 2) / math.gamma(d / 2)
    law = (mean * math.sqrt(1 + size**2) - mean * size * math.sqrt(2) / 2) / math.sqrt(d)
    assert found.mean().item() == pytest.approx(law, abs=5 * found.std().item() / math.sqrt(len(truth)))


def test_what_has_no_weight_is_not_there() -> None:
    """Neither of the numbers nor of the whole; nor in their slopes."""
    truth = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    how = ProperScore(whole=0.5)
    found = score(1.5, how, truth, weight)
    assert torch.equal(found, score(1.5, how, truth + torch.tensor([0.0, 1e6, 0.0]), weight))
    assert not torch.equal(found, score(1.5, how, truth + torch.tensor([0.0, 0.0, 1.0]), weight))


def test_the_least_score_is_that_of_the_law_of_the_truth() -> None:
    torch.manual_seed(0)
    truth = torch.randn(100_000, 2, dtype=torch.float64)
    slopes = []
    for size in (0.9, 1.0, 1.1):
        torch.manual_seed(1)
        denoiser = Denoiser(Scaled(size), Gaussian(Linear(), "data"))
        t, z = torch.zeros(len(truth), dtype=truth.dtype), torch.randn_like(truth)
        loss = ProperScore(whole=0.5)(denoiser, truth, t, rng=None, z=z, weight=None, given=None, condition={}).mean()
        (slope,) = torch.autograd.grad(loss, [denoiser.network.size])
        slopes.append(float(slope))
    assert slopes[0] < -0.02
    assert abs(slopes[1]) < 0.01
    assert slopes[2] > 0.02
