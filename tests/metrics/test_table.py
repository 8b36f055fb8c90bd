from __future__ import annotations

import json
import math

import pytest
import torch

import sfumato.metrics.table as module
from sfumato.metrics.cache import content_key
from sfumato.metrics.coverage import memorisation, precision_recall
from sfumato.metrics.distances import MetricError, frechet_distance, kernel_distance, sliced_wasserstein
from sfumato.metrics.extrapolate import axes_for, frechet_infinity, needed
from sfumato.metrics.features import raw
from sfumato.metrics.table import Row, as_dict, compare, format_table, inception_rows, table
from sfumato.metrics.two_sample import classifier_test

NAMES = [
    *("frechet_distance", "kernel_distance", "sliced_wasserstein", "precision", "recall", "density", "coverage"),
    *("memorisation_ratio", "copied", "classifier_accuracy", "frechet_infinity"),
]


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(samples, train, held_out, k=5) -> dict[str, float]:
    copies = memorisation(samples, train, held_out)
    return {
        "frechet_distance": frechet_distance(samples, train),
        "kernel_distance": kernel_distance(samples, train),
        "sliced_wasserstein": sliced_wasserstein(samples, train),
        **precision_recall(train, samples, k),
        "memorisation_ratio": copies["ratio"],
        "copied": copies["copied"],
        "classifier_accuracy": classifier_test(samples, train).accuracy,
        "frechet_infinity": frechet_infinity(samples, train).value,
    }


class Memory:
    """Remembers what was worked out, and how often that was."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, torch.Tensor]] = {}
        self.times = 0

    def __call__(self, key, work):
        name = content_key(key)
        if name not in self.known:
            self.times += 1
            self.known[name] = dict(work())
        return self.known[name]


def test_values_and_floors_are_the_public_metrics_at_equal_counts():
    samples, train, held = normal(80, 4, 0) * 1.2 + 0.3, normal(300, 4, 1), normal(80, 4, 2)
    rows = table(samples, train, held, raw, k=3)
    assert [row.metric for row in rows] == NAMES
    assert {row.metric: row.value for row in rows} == pytest.approx(measured(samples, train, held, 3), abs=1e-10)
    assert {row.metric: row.floor for row in rows} == pytest.approx(measured(held, train, held, 3), abs=1e-10)
    assert {(row.n, row.reference) for row in rows} == {(80, 300)}
    assert all(row.low <= row.value <= row.high for row in rows)
    assert {row.metric: row.better for row in rows} == dict(
        zip(NAMES, ["lower"] * 3 + ["higher", "higher", "near 1", "higher", "near 1"] + ["lower"] * 3)
    )


@pytest.mark.parametrize("most", ["samples", "held_out"])
def test_both_sides_have_the_smaller_count(most):
    counts = {"samples": 60, "held_out": 60, most: 240}
    samples, train, held = normal(counts["samples"], 8, 0), normal(300, 8, 1), normal(counts["held_out"], 8, 2)
    rows = table(samples, train, held, raw)
    assert rows[0].n == 60
    larger, seen = (samples, rows[0].value) if most == "samples" else (held, rows[0].floor)
    # The bias goes with 1/n + 1/300: 2.7 times as much at 60 as at all 240.
    assert 1.8 < seen / frechet_distance(larger, train) < 4


def test_the_reference_is_a_drawn_part_of_a_large_training_set_but_copies_are_sought_in_all_of_it(monkeypatch):
    monkeypatch.setattr(module, "MOST", 100)
    train = normal(400, 3, 0)
    train[200:] += 20  # sorted by mode: the first 100 would miss one
    rows = {row.metric: row for row in table(train[torch.arange(0, 400, 5)], train, train[:80] + 0.2, raw)}
    assert {(row.n, row.reference) for row in rows.values()} == {(80, 100)}
    assert rows["precision"].value > 0.7  # 0.5 if the reference lacked a mode
    assert rows["coverage"].value > 0.7
    assert rows["copied"].value == 1
    assert rows["memorisation_ratio"].value == 0


def test_a_perfect_model_is_near_its_floor_and_noise_is_far():
    train, held = normal(1000, 8, 0), normal(300, 8, 1)
    fresh = table(normal(300, 8, 2), train, held, raw)
    for row in fresh:
        # Value and floor each scatter by about the half-width of a 90% interval; allow three times their sum.
        assert abs(row.value - row.floor) <= 3 * (row.high - row.low), row
    noise = {row.metric: row for row in table(5 * normal(300, 8, 2) + 3, train, held, raw)}
    for name in ("frechet_distance", "kernel_distance", "sliced_wasserstein"):
        assert noise[name].low > 10 * max(noise[name].floor, 0.01)
    for name in ("precision", "density", "coverage"):
        assert noise[name].high < 0.3 * noise[name].floor
    assert noise["memorisation_ratio"].low > 2


def test_same_input_same_rows_and_another_seed_other_intervals():
    args = normal(40, 3, 0), normal(100, 3, 1), normal(40, 3, 2), raw
    assert table(*args) == table(*args)
    assert table(*args)[1].low != table(*args, seed=1)[1].low
    torch.manual_seed(0)
    before = torch.get_rng_state()
    table(*args)
    assert torch.equal(torch.get_rng_state(), before)


def test_intervals_hold_what_fresh_samples_score_on_average():
    """90% of intervals should hold the mean over sets of samples, reference fixed."""
    n, repeats = 60, 50
    train, held = normal(150, 3, 0), normal(n, 3, 1)
    remember = Memory()
    runs = [compare(normal(n, 3, 10 + i) * 1.3 + 0.4, train, held, k=3, remember=remember) for i in range(repeats)]
    for column in zip(*runs):
        mean = math.fsum(row.value for row in column) / repeats
        held_it = sum(row.low <= mean <= row.high for row in column) / repeats
        assert held_it > 0.7, (column[0].metric, held_it)
        if column[0].metric != "copied":  # hardly any of 60 samples: its interval is wide beside its scatter
            width = sum(row.high - row.low for row in column) / repeats
            scatter = torch.tensor([row.value for row in column]).std()
            assert 0.7 < width / (2 * 1.645 * scatter) < 1.5, column[0].metric


def test_a_share_of_none_still_has_an_interval():
    rows = {row.metric: row for row in table(normal(50, 3, 0) + 9, normal(100, 3, 1), normal(50, 3, 2), raw)}
    for name in ("precision", "copied"):
        assert rows[name].value == rows[name].low == 0
        # The exact 90% upper bound for 0 of 50 is 1 - 0.05^(1/50) = 0.058; Wilson's is close.
        assert rows[name].high == pytest.approx(1 - 0.05 ** (1 / 50), abs=0.01)


def test_text_and_dictionary():
    rows = table(normal(40, 3, 0), normal(100, 3, 1), normal(50, 3, 2), raw)
    lines = format_table(rows, 40).splitlines()
    assert len(lines) == 2 + len(NAMES)
    assert "n = 40" in lines[0]
    assert "100 training" in lines[0]
    assert "held-out" in lines[0]
    assert len({len(line) for line in lines[1:]}) == 1
    for row, line in zip(rows, lines[2:]):
        assert line.split()[0] == row.metric
        assert f"{row.value:.4g}" in line
        assert f"{row.floor:.4g}" in line
    back = json.loads(json.dumps(as_dict(rows, 40), allow_nan=False))
    assert (back["n"], back["reference"]) == (40, 100)
    assert back["metrics"]["recall"]["floor"] == rows[4].floor
    for show in (format_table, as_dict):
        with pytest.raises(MetricError, match="40"):
            show(rows, 50)
        with pytest.raises(MetricError, match="no rows"):
            show(())


def test_what_depends_on_real_data_alone_is_worked_out_once():
    train, held = normal(100, 3, 1), normal(40, 3, 2)
    remember = Memory()
    first = compare(normal(40, 3, 0), train, held, remember=remember)
    times = remember.times
    assert compare(normal(40, 3, 0), train, held, remember=remember) == first
    other = compare(normal(40, 3, 5) + 1, train, held, remember=remember)
    assert remember.times == times
    assert [row.floor for row in other] == [row.floor for row in first]
    assert compare(normal(40, 3, 0), train, held) == first
    compare(normal(40, 3, 0), train, held + 0.1, remember=remember)  # other held-out data have floors of their own
    moved = {row.metric: row.floor for row in compare(normal(40, 3, 0), train, held + 0.1, remember=remember)}
    fresh = {row.metric: row.floor for row in compare(normal(40, 3, 0), train, held + 0.1)}
    assert moved == fresh
    assert moved["frechet_distance"] != first[0].floor


def test_few_samples_have_no_row_that_needs_more():
    names = [row.metric for row in table(normal(12, 3, 0), normal(50, 3, 1), normal(12, 3, 2), raw)]
    assert names == NAMES[:9]


def test_as_many_main_axes_as_the_counts_carry():
    for n, d in ((24, 3), (25, 3), (100, 3), (100, 40), (10**4, 40), (10**4, 500)):
        axes = axes_for(n, d)
        assert axes <= min(d, 64)
        assert axes == 0 or needed(axes) <= n
        assert axes in (d, 64) or needed(axes + 1) > n
    wide = normal(120, 30, 0) * torch.tensor([10.0] + [0.5] * 29, dtype=torch.float64)
    rows = {row.metric: row for row in table(wide[:60], wide, wide[60:] + torch.eye(30)[0] * 50, raw)}
    # A shift along the main axis is seen in the data's own units: its square.
    assert rows["frechet_infinity"].floor == pytest.approx(2500, rel=0.25)


def test_fid_is_the_frechet_distance_to_all_training_items(monkeypatch):
    monkeypatch.setattr(module, "MOST", 50)
    x, train, held = normal(40, 6, 0) + 0.5, normal(200, 6, 1), normal(60, 6, 2)
    fid, kid = inception_rows(x, train, held)
    assert (fid.metric, kid.metric) == ("fid", "kid")
    assert fid.value == pytest.approx(frechet_distance(x, train))
    assert kid.value == pytest.approx(kernel_distance(x, train))
    assert (fid.n, fid.reference) == (40, 200)
    assert fid.floor < fid.low < fid.value < fid.high
    # The half-width is that of fresh samples: compare with their scatter.
    scatter = torch.tensor([frechet_distance(normal(40, 6, 10 + i) + 0.5, train) for i in range(40)]).std()
    assert 0.5 < (fid.high - fid.low) / (2 * 1.645 * scatter) < 2
    with pytest.raises(MetricError, match="at least 5"):
        inception_rows(x[:4], train, held)


def test_an_unknown_floor_is_said():
    row = Row("bits", 3.0, 2.9, 3.1, None, "lower", 8, 0)
    assert "unknown" in format_table([row])
    assert as_dict([row])["metrics"]["bits"]["floor"] is None


def test_refusals():
    x, train = normal(12, 3, 0), normal(50, 3, 1)
    assert table(x, train, x + 0.1, raw)[0].n == 12
    with pytest.raises(MetricError, match=r"held_out has 11 sample.*at least 12"):
        table(x, train, x[:11], raw)
    with pytest.raises(MetricError, match=r"samples has 11 sample.*at least 12"):
        table(x[:11], train, x, raw)
    with pytest.raises(MetricError, match=r"train has 5 sample.*at least 6"):
        table(x, train[:5], x, raw)
    with pytest.raises(MetricError, match="features"):
        table(x[:, :2], train, x, raw)
    with pytest.raises(MetricError, match="NaN"):
        table(x, train, x / 0, raw)
    with pytest.raises(MetricError, match="NaN"):
        table(x / 0, train, x, lambda v: v)
    with pytest.raises(MetricError, match="k must be"):
        table(x, train, x, raw, k=0)
