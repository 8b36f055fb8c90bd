"""Law 8 for the command's default sampler, 2M with half the noise renewed, on mixture data: the exact law of its chain of
pairs. And the instrument itself, against averages that need no recursion."""

from __future__ import annotations

import pytest
import torch

from sfumato.diffusion.exact import MixtureData
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import VP, Linear, Schedule
from sfumato.diffusion.solvers import dpmpp_2m
from tests.laws.orders import grid, slope, worst_ratio
from tests.laws.weak import functions, mean_at, remembering_curve, remembering_means
from tests.laws.worlds import F64, normal, scalar

every_schedule = pytest.mark.parametrize("schedule", [VP(), Linear()], ids=["vp", "linear"])


def two_parts(schedule: Schedule) -> MixtureData:
    parts = (torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[-0.7], [0.5]], dtype=F64))
    return MixtureData(*parts, torch.tensor([0.5, 0.6], dtype=F64), process=Gaussian(schedule, "data"))


# ---- the instrument --------------------------------------------------------------------------------------------------


@every_schedule
def test_without_noise_it_is_an_average_over_the_start(schedule: Schedule) -> None:
    """At eta = 0 the end is a function of the start: its mean needs no recursion."""
    data, times = two_parts(schedule), grid("cosine", schedule, 9)
    sigma = schedule.sigma(scalar(1.0))
    direct = mean_at(data, 1.0, lambda x: functions(sample(data, (x / sigma)[:, None], times, dpmpp_2m())[:, 0]))
    assert (remembering_means(dpmpp_2m(), data, times) - direct).abs().max() < 1e-7


def test_it_agrees_with_real_draws() -> None:
    """Seven coarse steps, where the memory counts most: four hundred thousand draws see means to about 0.002."""
    data, times, count = two_parts(VP()), grid("cosine", VP(), 7), 400_000
    alpha, sigma = VP().alpha(scalar(1.0)), VP().sigma(scalar(1.0))
    rng = torch.Generator().manual_seed(0)
    part = torch.rand(count, generator=rng) < 0.4
    x = torch.where(part, -0.7, 0.5) + torch.where(part, 0.5, 0.6) * normal(count, seed=1)
    start = (alpha * x + sigma * normal(count, seed=2)) / sigma
    drawn = functions(sample(data, start[:, None], times, dpmpp_2m(0.8), rng)[:, 0])
    away = (drawn.mean(0) - remembering_means(dpmpp_2m(0.8), data, times)) / drawn.std(0) * count**0.5
    assert away.abs().max() < 4


@pytest.mark.parametrize("finer", [{"points": 321}, {"guesses": 97}, {"reach": 7.5}])
def test_its_grids_are_fine_enough(finer: dict[str, float]) -> None:
    data, times = two_parts(VP()), grid("uniform", VP(), 12)
    coarse = remembering_means(dpmpp_2m(0.5), data, times)
    assert (remembering_means(dpmpp_2m(0.5), data, times, **finer) - coarse).abs().max() < 1e-7  # type: ignore[arg-type]


# ---- law 8 -----------------------------------------------------------------------------------------------------------


@every_schedule
def test_law_8_weak_order_of_2m_on_a_mixture(schedule: Schedule) -> None:
    coarse, fine = remembering_curve(dpmpp_2m(0.5), schedule, "cosine", (16, 64))
    assert slope(coarse, fine, 4) >= dpmpp_2m(0.5).order - 0.15


@every_schedule
def test_law_8_error_of_2m_falls_with_every_step_on_a_mixture(schedule: Schedule) -> None:
    """Extrapolating through fresh noise without fading, as 2M is often written, the ratio is 1.14 here."""
    assert worst_ratio(remembering_curve(dpmpp_2m(0.5), schedule, "cosine", (8, 9, 10, 11, 12, 15))) <= 1.1


@pytest.mark.parametrize(("eta", "schedule", "rule"), [
    (0.3, Linear(), "uniform"), (0.8, VP(), "cosine"), (0.8, Linear(), "cosine"),
])  # fmt: skip
def test_law_8_of_2m_with_more_noise_and_with_less(eta: float, schedule: Schedule, rule: str) -> None:
    """Without fading the ratios are 1.14, 1.45 and 1.48."""
    assert worst_ratio(remembering_curve(dpmpp_2m(eta), schedule, rule, (8, 9, 10, 12, 16))) <= 1.1


@pytest.mark.slow
@every_schedule
@pytest.mark.parametrize("rule", ["uniform", "cosine", "logsnr"])
def test_law_8_of_2m_on_a_mixture_all(schedule: Schedule, rule: str) -> None:
    counts = (*range(8, 30), 32, 64, 128)
    found = remembering_curve(dpmpp_2m(0.5), schedule, rule, counts)
    assert worst_ratio(found) <= 1.1
    few, many = found[counts.index(16)], found[counts.index(128)]
    assert slope(few, many, 8) >= dpmpp_2m(0.5).order - 0.15
