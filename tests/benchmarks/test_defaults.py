"""The measuring of defaults: parts do not overlap, differences are paired, and stages go on with the best."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import defaults, defaults_report
from benchmarks.common import jackknife, left_out_interval
from benchmarks.defaults import Cell, compared, part
from sfumato.data import ArrayDataset, Statistics
from sfumato.metrics.distances import kernel_distance


def test_validation_and_test_share_nothing_and_are_all_that_is_held_out() -> None:
    x = np.zeros((40, 3, 4, 4), np.uint8)
    held_out = ArrayDataset(x, Statistics(0.0, 1.0, 40, (3, 4, 4)), indices=np.array([3, 5, 8, 11, 20, 21, 39]))
    parts = [part(held_out, name).indices.tolist() for name in ("validation", "test")]
    assert not set(parts[0]) & set(parts[1])
    assert sorted(parts[0] + parts[1]) == held_out.indices.tolist()  # type: ignore[union-attr]


def test_the_distances_with_one_left_out_are_those() -> None:
    rng = torch.Generator().manual_seed(0)
    fake, real = torch.randn(9, 4, generator=rng), torch.randn(20, 4, generator=rng)
    value, left_out = jackknife(fake, real)
    assert value == pytest.approx(kernel_distance(fake, real))
    without = [kernel_distance(torch.cat([fake[:i], fake[i + 1 :]]), real) for i in range(9)]
    assert left_out.tolist() == pytest.approx(without)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    """A walk whose samples are all a little off is known to be, though the intervals of the two overlap."""
    rng = torch.Generator().manual_seed(0)
    fake, real = torch.randn(60, 4, generator=rng) + 0.4, torch.randn(200, 4, generator=rng)
    (value, left), (worse, rest) = jackknife(fake, real), jackknife(fake + 0.05, real)
    assert left_out_interval(value, left)["high"] > left_out_interval(worse, rest)["low"]
    assert left_out_interval(worse - value, rest - left)["low"] > 0


def test_choices_are_ranked_by_their_mean_over_data_sets_not_by_the_one_of_larger_numbers(monkeypatch) -> None:
    """b is better by a tenth on the data of large distances, a by half on that of small ones: a goes first."""
    values = {
        ("old", "large/base/0"): 10.0, ("a", "large/base/0"): 10.0, ("b", "large/base/0"): 9.0,
        ("old", "small/base/0"): 1.0, ("a", "small/base/0"): 0.5, ("b", "small/base/0"): 1.0,
    }  # fmt: skip
    seen = []

    def score(cell: Cell, name: str) -> tuple[float, torch.Tensor]:
        seen.append((cell.steps, cell.w))
        value = values[cell.walk, cell.training] + (cell.steps - 15) / 100
        return value, value + torch.linspace(-0.01, 0.01, 8, dtype=torch.float64)

    bench = SimpleNamespace(score=score, save=lambda: None)
    asked = [Cell("", walk, 0) for walk in "ba"]
    found = compared(bench, asked, Cell("", "old", 0), ["large/base/0", "small/base/0"], (10, 20))  # type: ignore[arg-type]
    assert [name.split(",")[0] for name in found] == ["a", "b", "old"]
    best = found["a, w 1.5"]
    assert best["ratio"] == pytest.approx(0.75)
    assert best["networks"]["small/base/0"]["difference"]["value"] == pytest.approx(-0.5)
    assert best["networks"]["small/base/0"]["difference"]["high"] == pytest.approx(-0.5)  # the same chance in both
    assert set(seen) == {(10, 1.5), (20, 1.5)}


def test_each_network_has_a_name_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(defaults, "source", lambda data: data)
    keys = [training.key for training in defaults.trainings()]
    assert len(set(keys)) == len(keys)
    assert sum("/base/" in key for key in keys) == sum(map(len, defaults.SEEDS.values()))


def test_the_page_says_how_often_a_choice_is_better_and_how_often_surely() -> None:
    def network(low: float, value: float, high: float) -> dict:
        return {"kernel": {"value": 1.0}, "difference": {"low": low, "value": value, "high": high}}

    row = {
        "ratio": 0.5,
        "networks": {
            "demo/base/0": network(-3, -2, -1), "demo/base/1": network(-3, -1, 1), "demo/base/2": network(0, 0, 0),
        },
    }  # fmt: skip
    line = defaults_report.stage_table({"some": row}).splitlines()[2]
    assert line.split(" | ")[:3] == ["| some", "0.50", "2 / 1 of 3"]
    assert line.endswith("| 1.000, -1.000 (-3.000..+1.000) | 1.000 |")
