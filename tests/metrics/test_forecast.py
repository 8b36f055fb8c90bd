from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sfumato.metrics.forecast as module
from sfumato.metrics.distances import MetricError
from sfumato.metrics.forecast import (
    brier,
    crps,
    energy_score,
    latitude_weights,
    rank_histogram,
    spread_skill,
    variogram_score,
    weighted_mean,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_crps_of_a_large_normal_ensemble_is_the_closed_form():
    """Gneiting & Raftery 2007, eq. 21. The M quantiles at (i + 1/2) / M stand for infinitely many members."""
    members = 20_000
    x = torch.tensor(scipy.stats.norm.ppf((np.arange(members) + 0.5) / members)) * 3 + 7
    for y in (7.0, 1.0, 16.0):
        z = (y - 7) / 3
        exact = 3 * (z * (2 * scipy.stats.norm.cdf(z) - 1) + 2 * scipy.stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
        for fair in (True, False):
            assert float(crps(x, torch.tensor(y), fair)) == pytest.approx(exact, abs=3e-4)


def test_crps_is_the_integral_of_the_squared_difference_of_distribution_functions():
    x = normal(7, 3)
    truth = torch.tensor([0.3, -2.5, float(x[2, 2])]).double()  # within, outside, equal to a member
    for j, y in enumerate(truth.tolist()):
        knots = sorted([*x[:, j].tolist(), y])
        area = sum(
            (right - left) * ((x[:, j] <= left).double().mean().item() - (left >= y)) ** 2
            for left, right in pairwise(knots)
        )
        assert float(crps(x, truth, fair=False)[j]) == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize("fair", [True, False])
def test_both_scores_equal_the_double_loop(fair, monkeypatch):
    x, y = normal(6, 5, 3), normal(5, 3, seed=1)
    x[1] = x[0]  # members may coincide
    divisor = 2 * (30 if fair else 36)
    for case in range(5):
        error = sum(math.dist(a, y[case]) for a in x[:, case]) / 6
        between = sum(math.dist(a, b) for a in x[:, case] for b in x[:, case])
        assert float(energy_score(x, y, fair)[case]) == pytest.approx(error - between / divisor, abs=1e-12)
    assert torch.allclose(energy_score(x[..., :1], y[:, :1], fair), crps(x, y, fair)[:, 0], atol=1e-12, rtol=0)
    whole = energy_score(x, y, fair)
    monkeypatch.setattr(module, "_BLOCK", 80)  # two cases a block
    assert torch.allclose(energy_score(x, y, fair), whole, atol=1e-12, rtol=0)


def test_one_member_scores_its_error():
    x, y = normal(1, 4, 3), normal(4, 3, seed=1)
    assert torch.allclose(crps(x, y, fair=False), (x[0] - y).abs())
    assert torch.allclose(energy_score(x, y, fair=False), (x[0] - y).norm(dim=1))


def test_fair_scores_have_the_same_mean_at_any_ensemble_size():
    """For a standard normal ensemble and truth the mean is 1/sqrt(pi), and the unfair score is (1 + 1/M) as large."""
    truth = normal(60_000)
    for members in (2, 8):
        x = normal(members, 60_000, seed=members)
        for fair, exact in ((True, 1), (False, 1 + 1 / members)):
            scores = crps(x, truth, fair)
            error = float(scores.std()) / 60_000**0.5
            assert float(scores.mean()) == pytest.approx(exact / math.sqrt(math.pi), abs=4 * error)


def test_the_true_distribution_scores_best():
    n = 20_000
    truth, draws = normal(n, 2), normal(10, n, 2, seed=1)
    right = float(crps(draws, truth).mean()), float(energy_score(draws, truth).mean())
    turn = torch.tensor([[1.0, 0.9], [0.0, math.sqrt(1 - 0.81)]]).double()
    for wrong in (draws + 0.3, 1.4 * draws, 0.7 * draws):
        assert float(crps(wrong, truth).mean()) > right[0] + 0.005
        assert float(energy_score(wrong, truth).mean()) > right[1] + 0.005
    # Right margins, wrong correlation: only the energy score can see it.
    assert float(energy_score(draws @ turn, truth).mean()) > right[1] + 0.01
    assert float(crps(draws @ turn, truth).mean()) == pytest.approx(right[0], abs=0.01)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), members=st.integers(2, 9), shift=st.floats(-1e6, 1e6), scale=st.floats(-50, 50))
def test_scores_follow_a_change_of_unit_and_ignore_the_order(seed, members, shift, scale):
    x, y = normal(members, 4, 3, seed=seed), normal(4, 3, seed=seed + 1)
    order = torch.randperm(members, generator=rng(seed))
    for score in (crps, energy_score):
        value = score(x, y)
        assert torch.allclose(score(x[order], y), value, atol=1e-12)
        assert torch.allclose(score(scale * x + shift, scale * y + shift), abs(scale) * value, atol=1e-7)


def test_agreement_with_an_independent_library():
    scoringrules = pytest.importorskip("scoringrules")
    x, y = normal(11, 40, 3), normal(40, 3, seed=1)
    x[:3] = 0  # ties
    for fair, estimator in ((True, "fair"), (False, "nrg")):
        other = scoringrules.crps_ensemble(y.numpy(), x.numpy(), m_axis=0, estimator=estimator)
        assert np.abs(crps(x, y, fair).numpy() - other).max() < 1e-9
        other = scoringrules.es_ensemble(y.numpy(), x.numpy(), m_axis=0, v_axis=-1, estimator=estimator)
        assert np.abs(energy_score(x, y, fair).numpy() - other).max() < 1e-9


@pytest.mark.parametrize("members", [2, 5, 40])
def test_a_calibrated_ensemble_has_ratio_one_and_flat_ranks(members):
    n = 40_000
    middle = 3 * normal(n, seed=7)  # what is predictable, different in every case
    x, y = middle + normal(members, n, seed=members), middle + normal(n, seed=99)
    found = spread_skill(x, y)
    assert found.ratio == pytest.approx(1, abs=0.02)
    assert found.spread == pytest.approx(1, abs=0.02)
    assert found.skill == pytest.approx(math.sqrt(1 + 1 / members), abs=0.02)
    assert spread_skill(middle + 0.5 * (x - middle), y).ratio < 0.75
    counts = rank_histogram(x, y, rng()) * n
    assert float(counts.sum()) == pytest.approx(n)
    assert scipy.stats.chisquare(counts.numpy().round()).pvalue > 1e-3
    # Too little spread piles truths up at both ends, a forecast too low at the upper end.
    narrow = rank_histogram(middle + 0.3 * (x - middle), y, rng())
    assert min(narrow[0], narrow[-1]) > 1.2 / (members + 1)
    low = rank_histogram(x - 1, y, rng())
    assert low[-1] > 1.5 / (members + 1) > 2 * low[0]


def test_ranks_without_ties_need_no_chance():
    x = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    y = torch.tensor([0.0, 1.5, 3.0, 5.0])
    assert rank_histogram(x, y, rng(0)).tolist() == [0.25, 0.25, 0.5]
    assert rank_histogram(x, y, None).tolist() == [0.25, 0.25, 0.5]
    weighted = rank_histogram(x, y, rng(), torch.tensor([2.0, 1.0, 1.0, 0.0]))
    assert weighted.tolist() == [0.5, 0.25, 0.25]


def test_ties_are_broken_evenly_and_by_the_given_generator():
    n = 30_000
    x = torch.tensor([-1.0, 0, 0, 0, 5.0])[:, None].expand(5, n)
    y = torch.zeros(n)
    counts = rank_histogram(x, y, rng(3)) * n
    assert counts[0] == counts[5] == 0
    assert scipy.stats.chisquare(counts[1:5].numpy().round()).pvalue > 1e-3  # above -1 and any of 0 .. 3 zeros
    assert torch.equal(rank_histogram(x, y, rng(3)), rank_histogram(x, y, rng(3)))
    assert not torch.equal(rank_histogram(x, y, rng(3)), rank_histogram(x, y, rng(4)))
    # Rain: three quarters of all days are dry in truth and forecast alike, and still the ranks are flat.
    wet = (normal(5, n) - 0.67).clamp(min=0)
    counts = rank_histogram(wet[:4], wet[4], rng(11)) * n  # not the seed of the fields
    assert scipy.stats.chisquare(counts.numpy().round()).pvalue > 1e-3


def test_weights_are_the_areas_of_cells():
    """The mean of sin^2(latitude) over the sphere is 1/3; unweighted it would be 1/2."""
    latitude = torch.linspace(-89.5, 89.5, 180).double()
    weights = latitude_weights(latitude)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-12)
    field = torch.deg2rad(latitude).sin().square()[:, None].expand(180, 4)
    assert weighted_mean(field, weights[:, None]) == pytest.approx(1 / 3, abs=1e-4)
    assert weighted_mean(field) == pytest.approx(1 / 2, abs=1e-4)
    assert latitude_weights(torch.tensor([90.0, 0.0])).tolist() == pytest.approx([0, 2], abs=1e-12)


def test_a_weight_of_two_is_a_point_twice_and_of_zero_is_none():
    x, y = normal(5, 4), normal(4, seed=1)
    weights = torch.tensor([2.0, 1.0, 0.0, 1.0])
    twice = torch.tensor([0, 0, 1, 3])
    assert spread_skill(x, y, weights) == pytest.approx(spread_skill(x[:, twice], y[twice]), abs=1e-12)
    assert spread_skill(x, y, 7 * weights) == pytest.approx(spread_skill(x, y, weights), abs=1e-12)
    assert weighted_mean(crps(x, y), weights) == pytest.approx(float(crps(x, y)[twice].mean()), abs=1e-12)
    assert torch.allclose(rank_histogram(x, y, rng(), weights), rank_histogram(x[:, twice], y[twice], rng()))


def test_refusals():
    x, y = normal(4, 3, 2), normal(3, 2)
    scores = (crps, energy_score, spread_skill, lambda a, b: rank_histogram(a, b, rng()))
    for score in scores:
        for bad in (torch.nan, torch.inf):
            wrong = x.clone()
            wrong[1, 2, 1] = bad
            with pytest.raises(MetricError, match="forecast has NaN or infinity in 1 of 24"):
                score(wrong, y)
        with pytest.raises(MetricError, match="truth has NaN"):
            score(x, y / 0)
        with pytest.raises(MetricError, match=r"\(4, 3, 2\) and truth is \(3, 1\)"):
            score(x, y[:, :1])
        with pytest.raises(MetricError, match="members"):
            score(torch.tensor(1.0), torch.tensor(1.0))
        with pytest.raises(MetricError, match="nothing to score"):
            score(x[:, :0], y[:0])
        with pytest.raises(MetricError, match="at least"):
            score(x[:0], y)
        with pytest.raises(MetricError, match="tensor"):
            score(x.numpy(), y)
    for score in (crps, energy_score):
        with pytest.raises(MetricError, match=r"1 member.*at least 2 \(or fair=False\)"):
            score(x[:1], y)
    with pytest.raises(MetricError, match="at least 2"):
        spread_skill(x[:1], y)
    with pytest.raises(MetricError, match="copy"):
        spread_skill(y.expand(3, 3, 2), y)
    with pytest.raises(MetricError, match=r"\(B, D\)"):
        energy_score(x[..., 0], y[..., 0])
    with pytest.raises(MetricError, match=r"\(4,\) do not broadcast"):
        spread_skill(x, y, torch.ones(4))
    for wrong in (torch.tensor([1.0, -1.0]), torch.zeros(2)):
        with pytest.raises(MetricError, match="negative"):
            spread_skill(x, y, wrong)
    with pytest.raises(MetricError, match="weights has NaN"):
        rank_histogram(x, y, rng(), torch.tensor([1.0, torch.nan]))
    with pytest.raises(MetricError, match="nothing to average"):
        weighted_mean(y[:0])
    for wrong in (torch.tensor([91.0]), torch.tensor([])):
        with pytest.raises(MetricError, match="90 degrees"):
            latitude_weights(wrong)


def field(members: int, cases: int, correlation: float, seed: int = 0) -> torch.Tensor:
    """Gaussian vectors of four coordinates that are all correlated so, (members, cases, 4)."""
    own, shared = normal(members, cases, 4, seed=seed), normal(members, cases, 1, seed=seed + 100)
    return math.sqrt(1 - correlation) * own + math.sqrt(correlation) * shared


def test_the_ideal_gaussian_has_the_energy_score_of_the_closed_form():
    """Isotropic in d dimensions: s Gamma((d + 1) / 2) / Gamma(d / 2), for E |x - y| is twice that by symmetry."""
    for d in (1, 3, 10):
        x, y = 2 * normal(16, 4000, d), 2 * normal(4000, d, seed=1)
        expected = 2 * math.gamma((d + 1) / 2) / math.gamma(d / 2)
        assert float(energy_score(x, y).mean()) == pytest.approx(expected, rel=0.03)


def test_the_variogram_score_knows_whether_neighbours_vary_together():
    truth = field(1, 3000, 0.8, seed=7)[0]
    near = torch.ones(4, 4, dtype=torch.float64)
    right, loose = (float(variogram_score(field(12, 3000, c), truth, near).mean()) for c in (0.8, 0.0))
    assert right < 0.8 * loose
    # and which pairs count is said by the weights: a pair without weight is not looked at
    one = torch.zeros(4, 4, dtype=torch.float64)
    one[0, 1] = 1
    x, moved = field(12, 50, 0.8), field(12, 50, 0.8)
    moved[..., 2:] += 5 * normal(12, 50, 2, seed=3)
    assert torch.allclose(variogram_score(x, truth[:50], one), variogram_score(moved, truth[:50], one))


def test_fair_variogram_and_brier_scores_have_the_same_mean_at_any_ensemble_size():
    truth, near = field(1, 6000, 0.5, seed=5)[0], torch.ones(4, 4, dtype=torch.float64)
    some = [float(variogram_score(field(m, 6000, 0.5, seed=m), truth, near).mean()) for m in (2, 12)]
    assert some[0] == pytest.approx(some[1], rel=0.05)
    limit = torch.tensor(0.8, dtype=torch.float64)
    some = [float(brier(normal(m, 200_000, seed=m), normal(200_000, seed=99), limit).mean()) for m in (2, 12)]
    p = 1 - scipy.stats.norm.cdf(0.8)
    assert some == pytest.approx([p * (1 - p)] * 2, rel=0.02)  # that of who knows the frequency
    plain = float(brier(normal(2, 200_000), normal(200_000, seed=99), limit, fair=False).mean())
    assert plain == pytest.approx(p * (1 - p) * 1.5, rel=0.02)


def test_what_the_new_scores_refuse():
    with pytest.raises(MetricError, match="at least 2"):
        brier(normal(1, 3), normal(3), torch.tensor(0.0))
    with pytest.raises(MetricError, match="weights"):
        variogram_score(normal(3, 2, 4), normal(2, 4), torch.ones(3, 3))
    with pytest.raises(MetricError, match="D > 1"):
        variogram_score(normal(3, 2, 1), normal(2, 1), torch.ones(1, 1))
