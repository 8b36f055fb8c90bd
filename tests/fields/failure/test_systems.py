"""The systems and their laws are what they are said to be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sfumato.errors import Wrong
from sfumato.fields.failure.law import Law
from sfumato.fields.failure.systems import halfspace, linear, orthogonal, pendulum, shell, toy2d

TRUTH = Path(__file__).parents[3].parent / "shared" / "data" / "failure_pendulum" / "truth.npz"


@pytest.mark.skipif(not TRUTH.is_file(), reason="the true failures of the pendulum are not here")
def test_the_pendulum_is_the_one_that_was_run_a_hundred_million_times() -> None:
    with np.load(TRUTH, allow_pickle=False) as truth:
        made = pendulum(truth["check_z"].astype(np.float64))
        assert np.array_equal(made["robustness"], truth["check_robustness"])
        assert np.array_equal(made["trajectory"][:20, :, 0], truth["check_theta"])
        again = pendulum(truth["z"].astype(np.float64))["robustness"]
        assert np.array_equal(again, truth["robustness"])
        assert (again <= 0).all()


def test_the_pendulum_falls_to_both_sides_alike() -> None:
    x = np.random.default_rng(0).standard_normal((200, 84)) * 1.5
    assert np.allclose(pendulum(x)["robustness"], pendulum(-x)["robustness"], atol=1e-12)


@pytest.mark.parametrize(
    ("run", "n", "p"),
    [
        (toy2d, 2, 2 * stats.norm.sf(3) ** 2),
        (lambda x: halfspace(x, 2.0), 9, stats.norm.sf(2.0)),
        (lambda x: shell(x, 4.5), 9, stats.chi2.sf(4.5**2, 9)),
        (lambda x: orthogonal(x, 3, 2.0), 5, 1 - stats.norm.cdf(2.0) ** 3),
        (
            lambda x: linear(x, 0.9, 1.0, 4.0)["robustness"],
            12,
            stats.norm.sf(4 / math.sqrt(sum(0.81**j for j in range(12)))),
        ),
    ],
)
def test_failures_are_as_frequent_as_is_known(run, n: int, p: float) -> None:
    # in two million draws; of toy2d, where that is none, on the square of |x| > 2 whose share is known
    x = np.random.default_rng(1).standard_normal((400_000, n))
    if p < 1e-4:
        u = np.random.default_rng(2).uniform(stats.norm.cdf(2.5), 1, (400_000, 2))
        x = stats.norm.ppf(u) * np.where(np.random.default_rng(3).random((400_000, 1)) < 0.5, [[-1, 1]], [[1, 1]])
        p /= 2 * stats.norm.sf(2.5) ** 2
    share = float((run(x) <= 0).mean())
    assert abs(share - p) < 4 * math.sqrt(p / len(x))


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("normal(2,3)", stats.norm(2, 3)),
        ("uniform(-1,4)", stats.uniform(-1, 5)),
        ("lognormal(0.5,0.25)", stats.lognorm(0.25, scale=math.exp(0.5))),
        ("triangular(-1,0,3)", stats.triang(0.25, -1, 4)),
        ("triangular(0,0,1)", stats.triang(0, 0, 1)),
    ],
)
def test_laws_are_the_quantile_functions_of_their_names(text: str, known) -> None:
    x = np.linspace(-6, 6, 101)[:, None]
    assert np.allclose(
        Law.of((1,), (text,)).physical(x)[:, 0], known.ppf(stats.norm.cdf(x[:, 0])), rtol=1e-6, atol=1e-6
    )


def test_laws_go_to_all_numbers_to_channels_or_to_each() -> None:
    x = np.ones((2, 6))
    assert np.allclose(Law.of((3, 2), ("normal(1,2)",)).physical(x), 3)
    by = Law.of((3, 2), ("normal(0,1)", "normal(5,1)")).physical(x)
    assert by.shape == (2, 3, 2)
    assert np.allclose(by[..., 0], 1)
    assert np.allclose(by[..., 1], 6)
    each = Law.of((3, 2), tuple(f"normal({i},1)" for i in range(6))).physical(x)
    assert np.allclose(each[0].ravel(), np.arange(1, 7))


@pytest.mark.parametrize(
    "text", ["normal(0,0)", "uniform(1,1)", "gamma(1,2)", "normal(0)", "triangular(0,5,3)", "normal(nan,1)", "x"]
)
def test_a_law_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(Wrong, match="law = "):
        Law.of((3,), (text,))


def test_a_number_of_laws_that_fits_nothing_is_refused() -> None:
    with pytest.raises(Wrong, match="give 1, 2 or 6"):
        Law.of((3, 2), ("normal(0,1)",) * 4)
