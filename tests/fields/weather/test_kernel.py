"""The regression of second degree: products of features, and blocks of the time left out."""

from __future__ import annotations

import numpy as np
import pytest

from sfumato.data.ridge import Design, blocks
from sfumato.fields.weather import kernel


def carried(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, 12) and targets (count, 3): what a slope carries of another, a linear part, and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 12)) + 2
    off = x - 2
    law = np.stack([off[:, 0] * off[:, 1], off[:, 2] * off[:, 3] + off[:, 4], off[:, 5]], 1)
    return x, law + noise * rng.normal(size=law.shape) + 5


def test_it_learns_products_that_a_linear_regression_cannot() -> None:
    x, y = carried(900, 0.3, 0)
    far, came = carried(2000, 0.0, 1)
    found, _ = kernel.fit(x, y)
    error = np.square(found(far) - came).mean(0)
    linear = np.square(Design.of(x).fit(y)(far) - came).mean(0)
    assert error[0] < 0.1 * linear[0]  # all of it is a product, of variance 1
    assert error[1] < 0.1 * linear[1]
    assert error[2] < 0.1  # and of what is linear it errs by less than a tenth of the variance


def test_what_blocks_are_foretold_is_what_regressions_on_the_other_blocks_say() -> None:
    """The same as fitting eight times over, each without one block, on the same features."""
    x, y = carried(160, 0.5, 2)
    found, foretold = kernel.fit(x, y, [0.2])
    own = blocks(len(y))
    for block in range(8):
        here = own == block
        table = kernel.kernel(found.support, found.support).astype(np.float64)
        dual = np.linalg.solve(table[np.ix_(~here, ~here)] + 0.2 * np.eye((~here).sum()), y[~here])
        assert np.abs(table[np.ix_(here, ~here)] @ dual - foretold[here]).max() < 1e-4
    assert np.abs(found(x) - foretold).max() > 0.1  # days that it was fitted to are told better


def test_the_penalty_is_what_days_to_come_want() -> None:
    """Of the penalties that are tried the chosen one is next to the best on fresh days; where all is noise it is the
    greatest."""
    x, y = carried(300, 1.0, 3)
    far, came = carried(4000, 0.0, 4)
    errors = [np.square(kernel.fit(x, y, [penalty])[0](far) - came).mean() for penalty in kernel.PENALTIES]
    chosen = kernel.fit(x, y)[0].penalty
    assert errors[kernel.PENALTIES.index(chosen)] < 1.1 * min(errors)
    assert max(errors) > 1.3 * min(errors)
    noise = np.random.default_rng(5).normal(size=(300, 3))
    assert kernel.fit(x, noise)[0].penalty == max(kernel.PENALTIES)


def test_a_law_does_not_depend_on_units_or_on_where_features_lie() -> None:
    x, y = carried(200, 0.3, 6)
    plain, moved = kernel.fit(x, y)[0], kernel.fit(40 * x - 7, y)[0]
    far = carried(50, 0.0, 7)[0]
    assert moved(40 * far - 7) == pytest.approx(plain(far), abs=2e-3)
