"""Both estimators of a probability: right in the mean, with intervals that hold, and quiet where they know nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sfumato.fields.failure.chain import Chain, even, normals
from sfumato.fields.failure.metric import alike
from sfumato.fields.failure.moves import Population
from sfumato.fields.failure.probability import Estimate, Step, islands, verdict, weighing
from sfumato.fields.failure.systems import linear, orthogonal
from tests.fields.failure.worlds import HALF_P, any_answer, calls, half, half_answer, no_answer

STEPS = 24
FLAT = np.ones((STEPS, 1))


def levels(run, n: int, count: int, b: float = 0.5, chain: Chain | None = None) -> list[Step]:
    """Levels of a system, fixed beforehand by a look at plain runs: so many, evenly down to 0."""
    top = float(np.quantile(run(normals(("levels",), 2000, n)), 0.25))
    return [*(Step(top * (1 - i / count), b, alike(n), chain, 8) for i in range(count)), Step(0.0, b, alike(n), None)]


@pytest.mark.parametrize(
    ("run", "n", "p", "count"),
    [
        (lambda x: half(x, 2.5), 4, HALF_P[2.5], 2),
        (
            lambda x: linear(x, 0.8, 1.0, 4.2)["robustness"],
            6,
            stats.norm.sf(4.2 / math.sqrt(sum(0.64**j for j in range(6)))),
            2,
        ),
        (lambda x: orthogonal(x, 2, 2.5), 3, 1 - stats.norm.cdf(2.5) ** 2, 2),
    ],
)
def test_islands_have_the_right_mean_and_intervals_that_hold(tmp_path, run, n: int, p: float, count: int) -> None:
    # 400 runs of one island each are 50 of eight: the mean of all is p, and the interval of each eight holds it
    log = calls(tmp_path, run)
    steps = levels(run, n, count, chain=Chain(any_answer(n), even(STEPS), FLAT))
    found, _ = islands(steps, 60, 4, n, log, ("islands",), 400)
    each = np.array(found.about["each"])
    assert abs(each.mean() - p) < 3.5 * each.std() / math.sqrt(len(each))
    inside = 0
    for some in each.reshape(50, 8):
        mean, error = some.mean(), some.std(ddof=1) / math.sqrt(8)
        inside += abs(mean - p) < 2.365 * error
    assert inside >= 40  # of 50; 47.5 where eight products were normal, and their skew costs a little


def test_weighing_with_the_prior_is_plain_monte_carlo(tmp_path) -> None:
    run = lambda x: half(x, 1.5)  # noqa: E731
    plain = Population(normals(("plain",), 500, 3), np.ones(500))
    plain = Population(plain.x, run(plain.x))
    found, weighed = weighing(Chain(no_answer, even(STEPS), FLAT), plain, 1500, 3, calls(tmp_path, run), ("weighing",))
    assert np.allclose(weighed.weight, 1)
    assert found.p == pytest.approx((weighed.drawn.r <= 0).mean())
    assert found.error == pytest.approx(math.sqrt(found.p * (1 - found.p) / 2000), rel=0.1)


def test_weighing_with_the_exact_network_gives_equal_weights_of_p(tmp_path) -> None:
    b = 3.0
    angles = even(256)
    nothing = Population(np.zeros((0, 3)), np.zeros(0))
    run = lambda x: half(x, b)  # noqa: E731
    chain = Chain(half_answer(b), angles, np.ones((256, 1)))
    found, weighed = weighing(chain, nothing, 4000, 3, calls(tmp_path, run), ("weighing",))
    f = weighed.failing()[weighed.failing() > 0]
    assert np.median(f) == pytest.approx(HALF_P[b], rel=0.1)
    assert f.std() / f.mean() < 0.4  # what is left is the width of the steps
    assert found.about["effective"] > 3000
    assert abs(found.p - HALF_P[b]) < 4 * found.error < 0.1 * HALF_P[b]


def test_weighing_is_right_with_any_network(tmp_path) -> None:
    b, repeats, inside, every = 2.0, 60, 0, []
    run = lambda x: half(x, b)  # noqa: E731
    log = calls(tmp_path, run)
    chain = Chain(any_answer(2, 3), even(STEPS), FLAT)
    for i in range(repeats):
        x = normals(("plain", i), 200, 2)
        found, _ = weighing(chain, Population(x, run(x)), 600, 2, log, ("weighing", i))
        every.append(found.p)
        inside += abs(found.p - HALF_P[b]) < 1.96 * found.error
        assert found.about["heaviest"] <= 1
    assert abs(np.mean(every) - HALF_P[b]) < 3.5 * np.std(every) / math.sqrt(repeats)
    assert inside >= 50


def estimate(p: float, share: float, **about) -> Estimate:
    return Estimate(p, share * p, {"heaviest": 0.01, **about})


def test_the_verdict_is_not_established_where_it_must_not_be() -> None:
    sound = verdict(estimate(1e-4, 0.1), estimate(1.1e-4, 0.05), 1000, True)
    assert sound.established
    assert sound.low < 1e-4 < sound.high
    assert sound.low < sound.p < sound.high
    apart = verdict(estimate(1e-4, 0.1), estimate(2e-4, 0.05), 1000, True)
    assert not apart.established
    assert "errors apart" in apart.why
    heavy = verdict(estimate(1e-4, 0.1), estimate(1e-4, 0.05, heaviest=0.5), 1000, True)
    assert not heavy.established
    assert "50% of all weight" in heavy.why
    assert heavy.high - heavy.low > sound.high - sound.low
    alone = verdict(Estimate(0.0, 0.0, {}), estimate(1e-4, 0.1), 1000, True)
    assert not alone.established
    unreached = verdict(estimate(1e-4, 0.1), estimate(1e-4, 0.1), 1000, False)
    assert "did not reach failure" in unreached.why


def test_where_nothing_failed_the_probability_is_bounded_and_never_0() -> None:
    none = verdict(Estimate(0.0, 0.0, {}), Estimate(0.0, 0.0, {"heaviest": 1.0}), 3000, False)
    assert none.high == pytest.approx(1e-3)
    assert none.line().startswith("p < 0.001 (95 %)")
    assert not none.established
