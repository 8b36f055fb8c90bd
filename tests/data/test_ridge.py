"""Ridge regression, both ways, and what it leaves of rows that it has not seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sfumato.data.ridge import Design, Sums, blocks, crossed, fits


def regressed(count: int, size: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets of a linear law, and its weights."""
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(count, size)) + 3, rng.normal(size=(size, 4)) / math.sqrt(size)
    return x, x @ weights + noise * rng.normal(size=(count, 4)) - 7, weights


@pytest.mark.parametrize(("count", "size"), [(400, 20), (15, 40)])
def test_a_penalty_gives_the_minimum_of_the_penalised_error(count: int, size: int) -> None:
    """Whichever side is the longer: at the minimum the gradient is 0, of the errors about their means."""
    x, y, _ = regressed(count, size, 1.0)
    ridge = Design.of(x).fit(y, penalty=2.5)
    off, left = x - x.mean(0), y - ridge(x)
    assert np.abs(left.mean(0)).max() < 1e-4
    assert np.abs(off.T @ left - 2.5 * ridge.weights).max() < 1e-3


def test_cross_validation_finds_what_noise_wants() -> None:
    """Without noise next to no penalty and the law itself; where all is noise so much that nothing is claimed."""
    x, y, weights = regressed(400, 20, 0.0)
    exact = Design.of(x).fit(y)
    assert np.abs(exact.weights - weights).max() < 1e-3
    rng = np.random.default_rng(1)
    nothing = Design.of(x).fit(rng.normal(size=(400, 4)))
    assert np.abs(nothing.weights).max() < 0.02
    few, told, law = regressed(60, 40, 1.5)
    chosen = Design.of(few).fit(told)
    fresh, came, _ = regressed(4000, 40, 0.0, seed=0)
    far = np.random.default_rng(5).normal(size=(4000, 40)) + 3
    del fresh, came
    wrong = [np.square(Design.of(few).fit(told, p)(far) - (far @ law - 7)).mean() for p in (1e-6, chosen.penalty, 1e6)]
    assert wrong[1] < min(wrong[0], wrong[2])


def test_residuals_of_other_years_are_as_large_as_those_of_days_to_come() -> None:
    x, y, law = regressed(160, 60, 1.0)
    ridge = Design.of(x).fit(y, penalty=1.0)
    seen = np.square(y - ridge(x)).mean()
    other = np.square(y - crossed(x, [y], [1.0])[0]).mean()
    far = np.random.default_rng(8).normal(size=(4000, 60)) + 3
    come = np.square(ridge(far) - (far @ law - 7)).mean() + 1.0
    assert seen < 0.75 * come  # what it was fitted to flatters
    assert other == pytest.approx(come, rel=0.2)
    assert blocks(8).tolist() == list(range(8))
    assert np.bincount(blocks(2922)).min() >= 365


def test_what_would_not_fit_is_left_out() -> None:
    assert fits(2922, 862, 429)
    assert not fits(60_000, 84 * 240 * 121 * 2, 84 * 240 * 121)


def parts(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Rows by fold, each fold in two pieces."""
    own = [(k, np.flatnonzero(fold == k)) for k in np.unique(fold)]
    return [(int(k), x[some], y[some]) for k, at in own for some in (at[: len(at) // 3], at[len(at) // 3 :])]


def test_sums_and_a_design_are_the_same_regression() -> None:
    """By products of all rows, or by taking the features of the rows apart: on all, and on all but a fold."""
    x, y, _ = regressed(200, 12, 1.0)
    fold = np.arange(200) % 4
    found = Sums.of(parts(x, y, fold), 12, 4, 4).fit()
    for k in range(-1, 4):
        rows = fold != k
        own = Design.of(x[rows]).fit(y[rows], found.penalty)
        assert np.abs(found.without(k).weights - own.weights).max() < 1e-5
        assert np.abs(found.without(k).offset - own.offset).max() < 1e-4


def test_each_row_is_foretold_by_folds_that_it_is_not_in() -> None:
    """Whatever is written over a fold's targets, what is said of that fold stays; what is said of the others does not."""
    x, y, _ = regressed(120, 6, 1.0)
    fold = np.repeat(np.arange(3), 40)
    other = np.where(fold[:, None] == 1, 100.0, y)
    found = Sums.of(parts(x, other, fold), 6, 4, 3).fit()
    said, own = found(x, fold), fold == 1
    law = Design.of(x[~own]).fit(y[~own], found.penalty)
    assert np.abs(said[own] - law(x[own])).max() < 1e-4
    assert np.abs(said - y)[~own].mean() > 10


def test_sums_choose_the_penalty_that_noise_wants() -> None:
    """Without noise the least one; where features say nothing the largest."""
    x, y, _ = regressed(60, 40, 0.0)
    fold = np.arange(60) % 5
    assert Sums.of(parts(x - x.mean(0), y, fold), 40, 4, 5).fit().penalty < 1e-2
    noise = np.random.default_rng(3).normal(size=y.shape)
    exact, held = (Sums.of(parts(x - x.mean(0), each, fold), 40, 4, 5).fit().penalty for each in (y, noise))
    assert held == pytest.approx(1e4 * exact)


def test_one_fold_alone_stands_for_all() -> None:
    x, y, _ = regressed(30, 3, 0.1)
    found = Sums.of([(2, x, y)], 3, 4, 5).fit()
    for k in range(5):
        assert np.array_equal(found.without(k).weights, found.without(-1).weights)
