from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sfumato.metrics.coverage import memorisation, precision_recall
from sfumato.metrics.distances import MetricError


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    def far(x, y):
        return float(np.sqrt(sum((p - q) ** 2 for p, q in zip(x, y))))

    def radius(points, i):
        return sorted(far(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    r = [radius(real, i) for i in range(len(real))]
    f = [radius(fake, j) for j in range(len(fake))]
    d = [[far(x, y) for y in fake] for x in real]
    n, m = range(len(real)), range(len(fake))
    return {
        "precision": np.mean([any(d[i][j] <= r[i] for i in n) for j in m]),
        "recall": np.mean([any(d[i][j] <= f[j] for j in m) for i in n]),
        "density": sum(d[i][j] <= r[i] for i in n for j in m) / (k * len(m)),
        "coverage": np.mean([any(d[i][j] <= r[i] for j in m) for i in n]),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_rates_equal_the_definition(k, monkeypatch):
    real, fake = normal(60, 3, 0), normal(45, 3, 1) * 1.3 + 0.7
    real[3] = real[4]  # a duplicate is a neighbour
    expected = brute(real.numpy(), fake.numpy(), k)
    assert len(set(expected.values())) == 4  # no two could be mistaken for each other
    assert precision_recall(real, fake, k) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr("sfumato.metrics.coverage._BLOCK", 400)  # many blocks
    assert precision_recall(real, fake, k) == pytest.approx(expected, abs=1e-12)


def test_equal_distributions_score_near_one_and_disjoint_ones_zero():
    real, fake = normal(600, 2, 0), normal(600, 2, 1)
    assert all(0.9 < rate < 1.1 for rate in precision_recall(real, fake).values())
    assert all(rate == 0 for rate in precision_recall(real, fake + 100).values())
    same = precision_recall(real, real)
    assert same == {"precision": 1, "recall": 1, "density": pytest.approx(6 / 5), "coverage": 1}  # k others and itself


def test_coverage_of_equal_distributions_has_its_exact_mean():
    """A ball is empty if the k nearest of n - 1 reals and m fakes, exchangeable, are all real."""
    n, m, k = 40, 20, 3
    empty = math.comb(n - 1, k) / math.comb(n - 1 + m, k)
    values = [precision_recall(normal(n, 4, 2 * i), normal(m, 4, 2 * i + 1), k)["coverage"] for i in range(200)]
    assert np.mean(values) == pytest.approx(1 - empty, abs=4 * np.std(values) / 200**0.5)


def test_a_dropped_mode_lowers_recall_and_coverage_but_not_precision():
    real = normal(600, 2, 0)
    real[300:] += 30
    rates = precision_recall(real, normal(600, 2, 1))
    assert rates["precision"] > 0.9
    assert rates["recall"] == pytest.approx(0.5, abs=0.05)
    assert rates["coverage"] == pytest.approx(0.5, abs=0.05)
    # The other way round an invented mode costs precision and density. Twice as many reals as fakes are left where
    # the data are, so coverage is that of equal distributions at those counts.
    rates = precision_recall(normal(600, 2, 1), real)
    assert rates["precision"] == pytest.approx(0.5, abs=0.05)
    assert rates["density"] == pytest.approx(0.5, abs=0.06)
    assert rates["recall"] > 0.9
    assert rates["coverage"] == pytest.approx(1 - (2 / 3) ** 5, abs=0.05)


def test_many_features_take_the_other_distance_and_agree():
    real, fake = normal(60, 4, 0), normal(50, 4, 1) * 1.3
    turn = torch.linalg.qr(normal(300, 300, 2)).Q[:4]  # into 300 dimensions: distances stay
    assert precision_recall(real @ turn, fake @ turn) == pytest.approx(precision_recall(real, fake))


def test_copies_are_found():
    train, held = normal(500, 5, 0), normal(200, 5, 1)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))[:100]
    found = memorisation(train[order], train, held)
    assert found["ratio"] == 0
    assert found["copied"] == 1
    assert torch.equal(found["nearest"], order)
    third = memorisation(torch.cat([train[:100], normal(200, 5, 2)]), train, held)
    assert third["copied"] == pytest.approx(1 / 3, abs=0.04)


def test_copies_are_found_though_some_held_out_data_are_copies_too():
    train, held = normal(300, 5, 0), normal(100, 5, 1)
    held[:5] = train[:5]
    assert memorisation(train[:50], train, held)["copied"] == 1
    held[:60] = train[:60]
    with pytest.raises(MetricError, match="copies of training samples"):
        memorisation(train[:50], train, held)


def test_fresh_samples_are_no_copies():
    train, held, fresh = normal(2000, 5, 0), normal(2000, 5, 1), normal(2000, 5, 2)
    found = memorisation(fresh, train, held)
    assert found["ratio"] == pytest.approx(1, abs=0.05)
    assert found["copied"] == pytest.approx(0.01, abs=0.01)
    near = train[:200] + 0.1 * normal(200, 5, 3)
    assert memorisation(near, train, held)["ratio"] < 0.4
    assert memorisation(5 * fresh, train, held)["ratio"] > 3  # held_out is the unit, not the samples


def test_nearest_in_blocks_is_the_definition(monkeypatch):
    fake, train, held = normal(30, 3, 0), normal(40, 3, 1), normal(25, 3, 2)
    monkeypatch.setattr("sfumato.metrics.coverage._BLOCK", 100)
    found = memorisation(fake, train, held)
    own = (fake[:, None] - train[None]).norm(dim=2).min(1)
    usual = (held[:, None] - train[None]).norm(dim=2).min(1).values.numpy()
    assert torch.equal(found["nearest"], own.indices)
    assert found["ratio"] == pytest.approx(np.median(own.values.numpy()) / np.median(usual))
    assert found["copied"] == pytest.approx((own.values.numpy() <= np.percentile(usual, 1)).mean())


def test_refusals():
    a, bad = normal(20, 3, 0), normal(20, 3, 1)
    bad[0] = torch.nan
    with pytest.raises(MetricError, match="fake has NaN"):
        precision_recall(a, bad)
    with pytest.raises(MetricError, match=r"real has 5 sample.*at least 6"):
        precision_recall(a[:5], a)
    with pytest.raises(MetricError, match="k must be"):
        precision_recall(a, a, 0)
    with pytest.raises(MetricError, match="features"):
        precision_recall(a, a[:, :2])
    with pytest.raises(MetricError, match="held_out has NaN"):
        memorisation(a, a, bad)
    with pytest.raises(MetricError, match="features"):
        memorisation(a, a[:, :2], a)
    with pytest.raises(MetricError, match="at least 1"):
        memorisation(a[:0], a, a)
