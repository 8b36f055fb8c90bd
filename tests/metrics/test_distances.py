from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.metrics.distances import MetricError, frechet_distance, kernel_distance, sliced_wasserstein


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(n: int, mean: torch.Tensor, cov: torch.Tensor, seed: int) -> torch.Tensor:
    """A sample whose own mean and unbiased covariance are exactly these."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return x @ torch.linalg.cholesky(cov).T + mean


def test_frechet_distance_of_commuting_gaussians_in_closed_form():
    va, vb = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([9.0, 1.0, 0.25]).double()
    turn = torch.linalg.qr(normal(3, 3, 5)).Q
    a = exact(50, torch.tensor([1.0, 2.0, 3.0]).double(), turn @ va.diag() @ turn.T, 0)
    b = exact(70, torch.tensor([1.0, 0.0, 6.0]).double(), turn @ vb.diag() @ turn.T, 1)
    assert frechet_distance(a, b) == pytest.approx(4 + 9 + float((va.sqrt() - vb.sqrt()).square().sum()), abs=1e-10)


@pytest.mark.parametrize("n", [8, 20, 300])  # fewer samples than features as well
def test_frechet_distance_agrees_with_the_matrix_square_root(n):
    a, b = normal(200, 12, 0) @ normal(12, 12, 1), normal(n, 12, 2) @ normal(12, 12, 3) + 0.3
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    # Oracle: eigenvalues of the product where scipy's root of a singular matrix is itself unreliable.
    root = (
        scipy.linalg.sqrtm(ca @ cb).real.trace() if n > 12 else np.sqrt(np.linalg.eigvals(ca @ cb).real.clip(0)).sum()
    )
    oracle = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca) + np.trace(cb) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(oracle, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)


@pytest.mark.parametrize("n", [5, 100])
def test_frechet_distance_of_a_set_to_itself_is_zero(n):
    a = normal(n, 16, 0) + 3
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + 1) == pytest.approx(16, abs=1e-9)


def test_frechet_bias_is_positive_and_as_documented():
    d = 4
    for n, m in ((200, 400), (800, 400)):
        values = torch.tensor([frechet_distance(normal(n, d, 2 * i), normal(m, d, 2 * i + 1)) for i in range(100)])
        assert values.min() > 0
        assert values.mean() == pytest.approx(d * (1 / n + 1 / m) * (1 + (d + 1) / 4), rel=0.12)


def test_kernel_distance_equals_the_double_loop():
    a, b = normal(7, 3, 0), normal(9, 3, 1) * 1.5

    def k(x, y, degree):
        return (sum(p * q for p, q in zip(x, y)) / 3 + 1) ** degree

    for degree in (1, 2, 3):
        p, q = a.tolist(), b.tolist()
        within = [
            sum(k(s[i], s[j], degree) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
            for s in (p, q)
        ]
        cross = sum(k(x, y, degree) for x in p for y in q) / (len(p) * len(q))
        assert kernel_distance(a, b, degree) == pytest.approx(sum(within) - 2 * cross, abs=1e-10)


def test_kernel_distance_is_unbiased_under_the_null():
    values = torch.tensor([kernel_distance(normal(20, 6, 2 * i), normal(12, 6, 2 * i + 1)) for i in range(400)])
    error = values.std() / 20
    assert values.mean().abs() < 3 * error
    # The biased estimator adds about k(x, x) / n = 0.1 and more: the bound above must be able to see that.
    assert 3 * error < 0.1
    assert kernel_distance(normal(200, 6, 0), normal(200, 6, 1) + 1) > 1


def test_kernel_distance_in_blocks_is_the_same_number():
    a, b = normal(2500, 2, 0), normal(1100, 2, 1)
    k = ((torch.cat([a, b]) @ torch.cat([a, b]).T) / 2 + 1) ** 3
    n, m = len(a), len(b)
    kaa, kbb, kab = k[:n, :n], k[n:, n:], k[:n, n:]
    whole = (kaa.sum() - kaa.trace()) / (n * (n - 1)) + (kbb.sum() - kbb.trace()) / (m * (m - 1)) - 2 * kab.mean()
    assert kernel_distance(a, b) == pytest.approx(float(whole), abs=1e-10)


def test_sliced_distance_in_one_dimension_is_sorting():
    a, b = normal(40, 1, 0), 2 * normal(40, 1, 1) + 1
    expected = (a[:, 0].sort().values - b[:, 0].sort().values).square().mean().sqrt()
    assert sliced_wasserstein(a, b, 3) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (5, 7), (3, 12)])
def test_sliced_distance_of_unequal_counts_is_exact(n, m):
    a, b = normal(n, 1, 0), normal(m, 1, 1)
    # Repeating every point until the counts agree leaves both distributions as they were.
    ra, rb = a.repeat_interleave(m, 0), b.repeat_interleave(n, 0)
    expected = (ra[:, 0].sort().values - rb[:, 0].sort().values).square().mean().sqrt()
    assert sliced_wasserstein(a, b, 2) == pytest.approx(float(expected), abs=1e-12)
    # And no 2-Wasserstein distance is below the 1-Wasserstein distance.
    assert sliced_wasserstein(a, b, 2) >= scipy.stats.wasserstein_distance(a[:, 0], b[:, 0]) - 1e-12


def test_sliced_distance_agrees_with_optimal_assignment_on_each_direction():
    a, b = normal(8, 3, 0), normal(8, 3, 1)
    rng = torch.Generator().manual_seed(4)
    axes = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    costs = []
    for axis in axes:
        cost = ((a @ axis)[:, None] - (b @ axis)[None]).square().numpy()
        costs.append(cost[scipy.optimize.linear_sum_assignment(cost)].mean())
    assert sliced_wasserstein(a, b, 5, seed=4) == pytest.approx(np.mean(costs) ** 0.5, abs=1e-12)


def test_sliced_distance_of_a_shift():
    d, shift = 10, torch.linspace(-1, 2, 10).double()
    a = normal(50, d, 0)
    assert sliced_wasserstein(a, a + shift, 20000) == pytest.approx(float(shift.norm()) / d**0.5, rel=0.02)
    assert sliced_wasserstein(a, a + shift) == sliced_wasserstein(a, a + shift)
    assert sliced_wasserstein(a, a + shift, seed=1) != sliced_wasserstein(a, a + shift, seed=2)
    assert sliced_wasserstein(a, a) == 0


def test_sliced_distance_in_chunks_is_the_same_number():
    a, b = normal(100_000, 2, 0), normal(50_000, 2, 1) * 1.1  # so many that 30 directions take two chunks
    axes = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    left, right = (np.sort((x @ axes.T).numpy(), axis=0) for x in (a, b))
    expected = np.square(left - right.repeat(2, axis=0)).mean() ** 0.5
    assert sliced_wasserstein(a, b, 30) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(2, 12), m=st.integers(2, 12), d=st.integers(1, 5), swap=st.integers(0, 99)
)
def test_order_and_side_do_not_matter(seed, n, m, d, swap):
    a, b = normal(n, d, seed), normal(m, d, seed + 1) + 1
    rng = torch.Generator().manual_seed(swap)
    pa, pb = a[torch.randperm(n, generator=rng)], b[torch.randperm(m, generator=rng)]
    for distance in (frechet_distance, kernel_distance, sliced_wasserstein):
        value = distance(a, b)
        assert distance(pa, pb) == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert distance(b, a) == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, sliced_wasserstein])
def test_refusals(distance):
    a, bad = normal(5, 3, 0), normal(5, 3, 1)
    bad[2, 1] = torch.nan
    with pytest.raises(MetricError, match="NaN or infinity in 1 of 5"):
        distance(a, bad)
    bad[2, 1] = torch.inf
    with pytest.raises(MetricError, match="NaN or infinity in 1 of 5"):
        distance(bad, a)
    with pytest.raises(MetricError, match="3 features per sample and b has 2"):
        distance(a, a[:, :2])
    with pytest.raises(MetricError, match="at least"):
        distance(a, a[:0])
    with pytest.raises(MetricError, match=r"\(N, d\)"):
        distance(a, a[0])
    with pytest.raises(MetricError, match="tensor"):
        distance(a, a.numpy())


def test_refusals_of_settings():
    a = normal(5, 3, 0)
    with pytest.raises(MetricError, match="at least 2"):
        frechet_distance(a[:1], a)
    with pytest.raises(MetricError, match="at least 2"):
        kernel_distance(a, a[:1])
    with pytest.raises(MetricError, match="degree"):
        kernel_distance(a, a, 0)
    with pytest.raises(MetricError, match="projections"):
        sliced_wasserstein(a, a, 0)
