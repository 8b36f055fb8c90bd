"""Each published method samples normal data with its own process, solver and grid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.presets import Method, ddpm, edm, flow_matching, iddpm, ve_sde, vp_sde
from sfumato.diffusion.sample import sample
from tests.laws.worlds import F64, normal

MEAN, STD = torch.tensor([0.3, -0.6], dtype=F64), torch.tensor([0.9, 0.5], dtype=F64)


@pytest.mark.parametrize("make", [ddpm, iddpm, edm, vp_sde, ve_sde, flow_matching], ids=lambda make: make.__name__)
def test_presets_sample_what_they_should(make: Callable[[], Method]) -> None:
    method = make()
    data = GaussianData(MEAN, STD**2, process=method.process)
    times = method.grid(method.process.schedule, 150)
    x = sample(data, normal(8000, 2), times, method.solver, torch.Generator().manual_seed(1))
    assert (x.mean(0) - MEAN).abs().max() < 0.04
    assert (x.std(0) / STD - 1).abs().max() < 0.05
    t = method.times(torch.rand(1000, generator=torch.Generator().manual_seed(0)), method.process.schedule)
    assert t.min() >= 0
    assert t.max() <= 1
    assert t.std() > 0.05
    assert make() == method or make is edm  # edm's grid is a partial, which compares by identity


def test_edm_is_in_units_of_the_datas_spread() -> None:
    """sigma_data = 0.5: their sigma = 80 is 160 spreads; on normal data of unit variance their output is -v."""
    process = edm(0.5).process
    one = torch.ones((), dtype=F64)
    assert float(process.schedule.sigma(one)) == pytest.approx(160.0)
    assert float(process.schedule.sigma(0 * one)) == pytest.approx(0.004)
    sigma_data, sigma = 0.5, 1.3  # their table 1: D = c_skip x + c_out F
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5
    c_in = 1 / (sigma**2 + sigma_data**2) ** 0.5
    x_theirs, answer = normal(4, 2), normal(4, 2, seed=1)
    t = process.schedule.at_angle(torch.atan(torch.tensor(sigma / sigma_data, dtype=F64)))
    x_t = x_theirs / sigma_data
    ours = process.endpoints(-answer, x_t, t).x * sigma_data
    assert (ours - (c_skip * x_theirs + c_out * answer)).abs().max() < 1e-12
    assert (process.precondition(x_t, t)[0] - c_in * x_theirs).abs().max() < 1e-12
