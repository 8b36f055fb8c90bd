"""Sentences follow from their rows, and an interval holds its estimate."""

from __future__ import annotations

import pytest
import torch

from sfumato.metrics.features import Waves
from sfumato.metrics.table import Row, compare
from sfumato.metrics.words import above_floor, agreement, below_floor, sentences


def kernel(value: float, low: float, high: float, floor: float | None) -> Row:
    return Row("kernel_distance", value, low, high, floor, "lower", 100, 100)


def said(*rows: Row) -> str:
    return "\n".join(sentences(rows))


def test_a_distance_is_told_from_its_floor_only_beyond_the_chance_of_both():
    assert "differ from the data beyond chance" in said(kernel(0.5, 0.4, 0.6, 0.0))
    assert "no difference is seen" in said(kernel(0.12, 0.02, 0.22, 0.0))  # above the floor, by less than both vary
    assert "no difference is seen" in said(kernel(0.0, -0.1, 0.1, 0.02))
    assert "unknown" in said(kernel(0.5, 0.4, 0.6, None))


def test_below_the_floor_is_an_alarm_and_a_little_below_is_none():
    assert "ALARM" in said(kernel(-0.5, -0.6, -0.4, 0.0))
    assert "ALARM" not in said(kernel(-0.15, -0.25, -0.05, 0.0))
    assert below_floor(kernel(-0.5, -0.6, -0.4, 0.0))
    assert not above_floor(kernel(-0.5, -0.6, -0.4, 0.0))


@pytest.mark.parametrize("name", ["kernel_distance", "frechet_distance", "sliced_wasserstein", "fid", "kid"])
def test_no_sentence_contradicts_an_alarm(name: str):
    low = Row(name, 1.0, 0.9, 1.1, 5.0, "lower", 100, 100)
    text = said(low, *([] if name == "kernel_distance" else [kernel(0.0, -0.1, 0.1, 0.02)]))
    assert "ALARM: " + name in text
    assert name != "kernel_distance" or "no difference" not in text
    assert said(Row(name, 4.9, 4.8, 5.0, 5.0, "lower", 100, 100)).count("ALARM") == 0


def matched(x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """x, moved and stretched to exactly the mean and covariance of ``to``: all that a Frechet distance looks at."""
    roots = [torch.linalg.cholesky(each.T.cov()) for each in (x, to)]
    white = torch.linalg.solve_triangular(roots[0], (x - x.mean(0)).T, upper=False)
    return (roots[1] @ white).T + to.mean(0)


@pytest.mark.parametrize("shape", ["skew", "cross"])
def test_samples_made_for_a_frechet_distance_are_found_out(shape: str):
    """They are far below the floor in the space they were made for, an alarm; and told from the data in the other one."""
    rng = torch.Generator().manual_seed(2)
    train, held, other = (torch.randn(300, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    made = torch.rand(300, 4, generator=rng, dtype=torch.float64) ** 6
    if shape == "cross":
        made[torch.arange(300), torch.randint(4, (300,), generator=rng)] *= -20
    waves = Waves.fit(train)

    def found(x: torch.Tensor) -> tuple[str, str]:
        spaces = {"raw": compare(x, train, held), "waves": compare(waves(x), waves(train), waves(held))}
        return said(*spaces["raw"]), "\n".join(agreement(spaces))

    alone, together = found(matched(made, train))
    assert "ALARM: frechet_distance is below the floor" in alone
    assert "ALARM: below the floor in raw" in together
    assert "in waves" in together.partition("told from the data")[2] or "in both spaces" in together
    honest = found(other)
    assert "ALARM" not in honest[0] + honest[1]
    assert "not told from the data in either space" in honest[1]


def test_the_frechet_distance_is_said_to_be_no_fid():
    row = Row("frechet_distance", 5.0, 4.0, 6.0, 3.0, "lower", 100, 100)
    assert "not the FID of papers" in said(row)
    assert said(Row("success", 0.5, 0.4, 0.6, None, "higher", 50, 0)) == ""


@pytest.mark.parametrize("law", ["same", "far", "copies", "one point", "heavy"])
def test_an_interval_contains_its_estimate(law: str):
    rng = torch.Generator().manual_seed(1)
    train, held = (torch.randn(60, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    fake = {
        "same": torch.randn(60, 4, generator=rng, dtype=torch.float64), "copies": train.clone(), "far": train + 50,
        "one point": torch.zeros(60, 4, dtype=torch.float64) + 1e-9 * held, "heavy": held / held.abs().clamp(min=1e-3) ** 2,
    }[law]  # fmt: skip
    for row in compare(fake, train, held):
        assert row.low <= row.value <= row.high, row


def test_waves_see_what_moments_do_not():
    """A ring and a normal of the same mean and covariance: their features differ, those of two normals do not."""
    rng = torch.Generator().manual_seed(0)
    normal, other, ring = (torch.randn(2000, 2, generator=rng) for _ in range(3))
    ring = torch.nn.functional.normalize(ring, dim=1) * 2**0.5
    waves = Waves.fit(normal)
    gaps = [float((waves(x).mean(0) - waves(normal).mean(0)).square().mean()) for x in (other, ring)]
    assert gaps[1] > 5 * gaps[0]
    again = Waves.restored(waves.tensors())
    torch.testing.assert_close(again(ring), waves(ring))


def test_waves_are_the_cosines_of_a_normal_kernel():
    """The mean product of the features of two points is exp(-d^2 / 2 w^2), w the median distance (Rahimi & Recht 2007)."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=rng, dtype=torch.float64) * torch.tensor([1.0, 10.0, 1000.0])
    waves = Waves.fit(x, count=40_000)
    standard = (x - x.mean(0)) / x.std(0)
    width = torch.pdist(standard).median()
    kernel_ = (-torch.cdist(standard[:20], standard[:20]).square() / (2 * width**2)).exp()
    features = waves(x[:20])
    assert float((features @ features.T / 40_000 - kernel_).abs().max()) < 0.04
