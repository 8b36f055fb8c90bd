from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sfumato.diffusion import EDM, Cosine, Equilibrium, Gaussian, Linear
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.exact import GaussianData, finite_data
from sfumato.metrics.distances import MetricError
from sfumato.metrics.intervals import mean_interval
from sfumato.metrics.likelihood import flow_bits, measure_levels, start_nats

VARIANCE = torch.tensor([1.0, 0.25, 4.0], dtype=torch.float64)
ENTROPY = float(((2 * math.pi * math.e * VARIANCE).log() / 2).mean()) / math.log(2)  # bits per dimension


def gaussian(process: Gaussian = Gaussian()) -> GaussianData:
    return GaussianData(torch.zeros(3, dtype=torch.float64), VARIANCE, process=process)


def drawn(n: int, seed: int = 0) -> torch.Tensor:
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z * VARIANCE.sqrt()


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), EDM()])
@pytest.mark.parametrize("predicts", ["noise", "v"])
def test_the_bound_of_a_perfect_denoiser_is_the_entropy(schedule, predicts):
    levels = measure_levels(gaussian(Gaussian(schedule, predicts)), drawn(1000), None, bins=24, batch=1000)
    value, low, high = mean_interval(levels.bound())
    assert high - low < 0.2
    assert low - 0.01 < ENTROPY < high + 0.01, (value, ENTROPY)


def test_bytes_are_counted_in_bits():
    """Four equally likely values a dimension, two dimensions: 2 bits a dimension, whatever the width of a bin."""
    width = 0.5
    line = (torch.arange(4, dtype=torch.float64) - 1.5) * width
    points = torch.cartesian_prod(line, line)
    levels = measure_levels(finite_data(points), points.repeat(25, 1), width, bins=24, batch=400)
    value, low, high = mean_interval(levels.bound())
    assert high - low < 0.2
    assert low - 0.02 < 2 < high + 0.02, value


def test_a_worse_denoiser_has_a_looser_bound_and_any_start_is_a_bound():
    right = measure_levels(gaussian(), drawn(300), None, batch=300)
    wrong = measure_levels(GaussianData(torch.ones(3, dtype=torch.float64), VARIANCE), drawn(300), None, batch=300)
    assert float(wrong.bound().mean()) > float(right.bound().mean()) + 0.2
    for first in range(1, 16):  # coarser starts give away the fine detail of the data
        assert float(right.bound(first).mean()) > ENTROPY - 0.03
    assert float(right.bound(11).mean()) > float(right.bound(0).mean()) + 0.3
    assert right.noise(0) == pytest.approx(0.01)
    assert right.noise(16) == pytest.approx(math.exp(4))


def test_the_best_start_leaves_out_levels_where_the_answer_is_noise():
    class Coarse(GaussianData):
        def mean_given(self, x_t, alpha, sigma):
            found = super().mean_given(x_t, alpha, sigma)
            return torch.where(sigma < 0.1, found + 0.5, found)

    data = Coarse(torch.zeros(3, dtype=torch.float64), VARIANCE)
    levels = measure_levels(data, drawn(200), None, batch=200)
    assert levels.noise(levels.best()) == pytest.approx(0.1, rel=0.5)
    assert float(levels.bound(levels.best()).mean()) < float(levels.bound().mean()) - 1


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_the_flow_of_a_perfect_denoiser_has_the_blurred_entropy(noise):
    """-log p_r(x + r z) is on average the entropy of data blurred by r."""
    value, low, high = mean_interval(flow_bits(gaussian(), drawn(500), None, noise, steps=16))
    blurred = float(((2 * math.pi * math.e * (VARIANCE + noise**2)).log() / 2).mean()) / math.log(2)
    assert high - low < 0.2
    assert low - 0.01 < blurred < high + 0.01, value


def test_the_flow_counts_bytes_in_bits():
    width = 0.5
    line = (torch.arange(4, dtype=torch.float64) - 1.5) * width
    points = torch.cartesian_prod(line, line)
    value, low, high = mean_interval(flow_bits(finite_data(points), points.repeat(20, 1), width, width / 5, steps=64))
    assert low - 0.05 < 2 < high + 0.05, value


def test_what_is_left_to_say_goes_from_nothing_to_a_normal_cut_into_bins():
    assert start_nats(0.1, 1.0) == pytest.approx(0, abs=1e-3)
    for ratio in (3, 30):
        entropy = stats.norm(scale=ratio).entropy()
        assert start_nats(0.01 * ratio, 0.01) == pytest.approx(entropy, abs=1e-6)
        assert start_nats(0.01 * ratio, None) == pytest.approx(entropy + math.log(0.01), abs=1e-12)
    assert start_nats(0.9999, 1.0) == pytest.approx(start_nats(1.0, 1.0), abs=2e-4)  # two ways of working it out meet
    values = [start_nats(noise, 1.0) for noise in (0.2, 0.3, 0.5, 1, 2)]
    assert values == sorted(values)


def test_an_item_has_the_same_number_in_every_company_and_batch():
    x = drawn(10)
    whole = measure_levels(gaussian(), x, None, bins=4)
    assert torch.allclose(measure_levels(gaussian(), x[:3], None, bins=4).bound(), whole.bound()[:3])
    assert torch.allclose(measure_levels(gaussian(), x, None, bins=4, batch=3).v_error, whole.v_error)
    bits = flow_bits(gaussian(), x, None, 0.1, steps=4)
    assert torch.allclose(flow_bits(gaussian(), x[4:6], None, 0.1, steps=4, first=4), bits[4:6])
    assert not torch.allclose(flow_bits(gaussian(), x[4:6], None, 0.1, steps=4), bits[4:6])


def test_conditions_go_with_their_items():
    x = drawn(7)
    seen = []

    class Watched(GaussianData):
        def __call__(self, x_t, t, s=None, **condition):
            seen.append((len(x_t), condition["label"].tolist()))
            return super().__call__(x_t, t, s)

    denoiser = Watched(torch.zeros(3, dtype=torch.float64), VARIANCE)
    measure_levels(denoiser, x, None, bins=1, batch=3, label=torch.arange(7))
    assert seen == [(3, [0, 1, 2]), (3, [3, 4, 5]), (1, [6])]


def test_levels_stay_where_training_was():
    process = Gaussian(Linear(), "data", "velocity")
    levels = measure_levels(GaussianData(torch.zeros(3), VARIANCE.float(), process=process), drawn(4).float(), 0.001)
    assert levels.noise(0) == pytest.approx(process.finest)


def test_an_interval_is_students():
    x = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value, low, high = mean_interval(x)
    right = stats.t.interval(0.9, 4, loc=float(x.mean()), scale=float(x.std()) / math.sqrt(5))
    assert value == pytest.approx(float(x.mean()))
    assert (low, high) == pytest.approx(right, abs=0.02 * (right[1] - right[0]))
    with pytest.raises(MetricError, match="at least 2"):
        mean_interval(x[:1])


def test_refusals():
    x = torch.randn(2, 3, dtype=torch.float64)
    for other in (lambda d: measure_levels(d, x, None), lambda d: flow_bits(d, x, None, 0.1)):
        with pytest.raises(MetricError, match="Equilibrium has no"):
            other(Denoiser(torch.nn.Identity(), Equilibrium()))
        broken = GaussianData(torch.full((3,), math.nan, dtype=torch.float64), VARIANCE)
        with pytest.raises(MetricError, match="NaN or infinity"):
            other(broken)
