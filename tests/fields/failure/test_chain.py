"""The weighed walk: its weights are exact for any network, and the walk of the exact network is the law that it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sfumato.fields.failure.chain import Chain, even, normals, unknown
from sfumato.fields.failure.metric import Metric, alike, fitted
from sfumato.fields.failure.moves import Population, guided, pcn
from tests.fields.failure.worlds import HALF_P, any_answer, calls, half, half_answer, no_answer

STEPS = 32


def flat(steps: int, m: float = 1.0) -> np.ndarray:
    return np.full((steps, 1), m)


def test_an_untrained_network_draws_the_prior_and_weighs_nothing() -> None:
    chain = Chain(no_answer, even(STEPS), flat(STEPS))
    x, log_w = chain.propose(("test", 0), 5_000, 3)
    assert np.abs(log_w).max() < 1e-12
    for i in range(3):
        assert stats.kstest(x[:, i], "norm").pvalue > 1e-3
    assert np.abs(chain.weigh(("test", 1), x)).max() < 1e-12


@pytest.mark.parametrize("m", [1.0, 0.8, 1.3])
def test_weights_bring_any_network_back_to_the_prior(m: float) -> None:
    # E_Q[w f] = E_prior[f] for f = 1, x, x^2, whatever the network answers and whatever spread its steps have
    n, count = 3, 30_000
    chain = Chain(any_answer(n), even(STEPS), flat(STEPS, m))
    x, log_w = chain.propose(("test", m), count, n)
    assert abs(x.mean()) > 0.02 or abs((x**2).mean() - 1) > 0.05  # the network does draw something else
    for f, true in ((np.ones(count), 1.0), (x[:, 0], 0.0), (x[:, 1] ** 2, 1.0), (x[:, 0] * x[:, 2], 0.0)):
        values = np.exp(log_w) * f
        assert abs(values.mean() - true) < 4.5 * values.std() / math.sqrt(count)


def test_weights_of_given_disturbances_are_those_of_draws() -> None:
    # E_prior[1 / w] = 1: what is weighed along a fresh path of the noising chain is the same w
    n, count = 3, 30_000
    chain = Chain(any_answer(n), even(STEPS), flat(STEPS, 0.9))
    values = np.exp(-chain.weigh(("test", 5), normals(("test", 6), count, n)))
    assert abs(values.mean() - 1) < 4.5 * values.std() / math.sqrt(count)


def test_the_exact_network_of_a_half_space_draws_its_failures() -> None:
    b, n, count = 3.0, 4, 6_000
    angles = even(64)
    answer = half_answer(b)
    law = stats.truncnorm(b, np.inf)
    true = normals(("test", "x"), 4000, n)
    true[:, 0] = law.ppf(stats.norm.cdf(true[:, 0]))
    chain = Chain(answer, angles, unknown(answer, angles, true, ("test", "m")))
    x, log_w = chain.propose(("test", 1), count, n)
    assert (x[:, 0] >= b).mean() > 0.9
    assert abs(x[:, 0].mean() - law.mean()) < 0.03
    assert abs(x[:, 0].std() - law.std()) < 0.03
    weight = np.exp(log_w) * (x[:, 0] >= b)
    p, p_error = weight.mean(), weight.std() / math.sqrt(count)
    assert abs(p - HALF_P[b]) < 4.5 * p_error
    assert p_error < 0.02 * p  # weights that are nearly equal: 20,000 draws are worth a third of that and more
    # what it knows of the failures, in nats, is at most -log p, and nearly that
    nats = -chain.weigh(("test", 2), true).mean()
    assert -math.log(HALF_P[b]) - 0.5 < nats < -math.log(HALF_P[b]) + 0.05


def test_pcn_leaves_the_prior_cut_off_at_a_level_unchanged(tmp_path) -> None:
    b, count = 1.5, 2000
    law = stats.truncnorm(b, np.inf)
    x = normals(("test", "start"), count, 3)
    x[:, 0] = law.ppf(stats.norm.cdf(x[:, 0]))
    now, log = Population(x, half(x, b)), calls(tmp_path, lambda x: half(x, b))
    for move in range(24):
        now, _ = pcn(now, 0.0, 0.6, alike(3), log, ("test", move), "pcn")
    assert np.abs(now.x - x).min(1).max() > 0  # every row moved
    assert stats.kstest(now.x[:, 0], law.cdf).pvalue > 1e-3
    assert stats.kstest(now.x[:, 1], "norm").pvalue > 1e-3


def test_proposals_of_any_network_leave_it_unchanged_too(tmp_path) -> None:
    b, count = 1.5, 2000
    law = stats.truncnorm(b, np.inf)
    x = normals(("test", "start"), count, 3)
    x[:, 0] = law.ppf(stats.norm.cdf(x[:, 0]))
    now, log = Population(x, half(x, b)), calls(tmp_path, lambda x: half(x, b))
    chain = Chain(any_answer(3, 1), even(STEPS), flat(STEPS))
    moved = np.zeros(count, bool)
    for move in range(24):
        now, taken, asked = guided(now, 0.0, chain, move % 3 * 10, log, ("test", move), "network")
        moved |= taken
        assert asked < count  # what its weight refuses is not simulated
    assert moved.mean() > 0.5
    assert stats.kstest(now.x[:, 0], law.cdf).pvalue > 1e-3
    assert stats.kstest(now.x[:, 1], "norm").pvalue > 1e-3
    assert stats.kstest(now.x[:, 2], "norm").pvalue > 1e-3


def test_any_metric_leaves_the_prior_unchanged_and_a_fitted_one_knows_what_matters(tmp_path) -> None:
    n, count = 6, 4000
    x = normals(("test", "metric"), count, n)
    r = 3 - (x[:, 0] + x[:, 1]) / math.sqrt(2)  # one direction matters
    found = fitted(x, r, x[:500], 1.0, ("test",))
    assert abs(found.axes[:2, 0]).min() > 0.6
    assert found.care[1] < 0.2
    assert found.sizes(0.2)[0] == pytest.approx(0.2)
    assert found.sizes(0.2)[-1] > 0.4
    skewed = Metric(np.linalg.qr(normals(("test", "axes"), n, n))[0], np.array([1, 0.5, 0.1, 0.1, 0.01, 0.0]))
    now = x
    for move in range(10):
        now = skewed.moved(now, normals(("test", "moved", move), count, n), 0.5)
    for i in range(n):
        assert stats.kstest(now[:, i], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(now.T) - np.eye(n)).max() < 0.08
