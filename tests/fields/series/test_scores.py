"""Scores and bars: closed forms, a leaderboard's rows to all its digits, and what a calibration does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.fields.series import bars, scoring
from sfumato.fields.series.scoring import QUANTILES, Scores, Window
from sfumato.fields.series.spreading import best

DATA = Path(__file__).parents[4] / "shared" / "data" / "series"
if not DATA.is_dir():
    DATA = Path(__file__).parents[5] / "shared" / "data" / "series"


def test_scores_of_a_normal_law_are_those_known_in_closed_form() -> None:
    """CRPS of N(0, 1) for itself is 1 / sqrt(pi); the pinball loss at nine quantiles is below it by what they leave out; an
    interval covers as it says; the mean absolute error of the median is sqrt(2 / pi)."""
    chance = np.random.default_rng(0)
    q, ends = bars.of_normal(np.zeros(4), np.ones(4))
    found = [scoring.of_quantiles(q, ends, Window(chance.standard_normal(4), 1.0)) for _ in range(20_000)]
    means = {name: np.mean([each[name] for each in found]) for name in found[0]}
    assert means["mase"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.01)
    # 2 (y - f)(q - [y < f]) of N(0, 1) for itself is 2 phi(f): the density at the quantile
    density = np.exp(-(bars.normal_quantile(QUANTILES) ** 2) / 2) / np.sqrt(2 * np.pi)
    assert means["sp"] == pytest.approx(2 * density.mean(), rel=0.01)
    for level, name in zip(scoring.LEVELS, scoring.COVERS):
        assert means[name] == pytest.approx(level, abs=0.01)


def test_joint_scores_see_dependence_that_marginals_hide() -> None:
    chance = np.random.default_rng(0)
    every = []
    for _ in range(150):
        truth = np.repeat(chance.standard_normal(), 12)
        paths = np.repeat(chance.standard_normal((200, 1)), 12, 1)
        window = Window(truth, 1.0)
        every.append(
            {"joint": scoring.of_paths(paths, window), "apart": scoring.of_paths(scoring.apart(paths, chance), window)}
        )
    scores = Scores.of(every, list(range(150)))
    assert scores.value("joint", "wql") == pytest.approx(scores.value("apart", "wql"), rel=1e-6)
    assert scores.interval("joint", "es", "apart")[1] < 0.95
    assert scores.interval("joint", "sum", "apart")[1] < 0.9
    assert scores.value("joint", "cover_sum") == pytest.approx(0.8, abs=0.12)
    assert scores.value("apart", "cover_sum") < 0.5
    crps_of_sum = 12 / np.sqrt(np.pi) / 12  # of N(0, 144) for itself, over the horizon
    assert scores.value("joint", "sum") == pytest.approx(crps_of_sum, rel=0.2)


def test_a_truth_with_gaps_is_scored_where_it_is() -> None:
    paths = np.random.default_rng(0).standard_normal((50, 4))
    whole = scoring.of_paths(paths[:, :3], Window(np.array([0.1, -0.2, 0.3]), 1.0))
    found = scoring.of_paths(paths, Window(np.array([0.1, -0.2, 0.3, np.nan]), 1.0))
    assert "es" not in found
    for name in ("loss", "mase", "sp", "cover80", "count"):
        assert found[name] == pytest.approx(whole[name])


@pytest.mark.parametrize(
    ("name", "leads", "season", "wql", "mase"), [("hourly", 48, 24, 0.0376, 1.193), ("weekly", 13, 1, 0.0609, 2.777)]
)
def test_seasonal_naive_is_the_leaderboards(name: str, leads: int, season: int, wql: float, mase: float) -> None:
    """GIFT-Eval's published rows of seasonal naive with normal intervals on M4, to all the digits printed."""
    if not (DATA / "m4.npz").is_file():
        pytest.skip("no M4 here: ../shared/data/series/m4.npz")
    kept = np.load(DATA / "m4.npz", allow_pickle=False)
    values, offsets = kept[f"{name}_values"].astype(float), kept[f"{name}_offsets"]
    every = []
    for a, b in pairwise(offsets.tolist()):
        past, truth = values[a : b - leads], values[b - leads : b]
        window = Window(truth, scoring.scale_of(past, season))
        every.append({"naive": scoring.of_quantiles(*bars.of_normal(*bars.naive(past, leads, season)), window)})
    scores = Scores.of(every, list(range(len(every))))
    assert round(scores.value("naive", "wql"), 4) == wql
    assert round(scores.value("naive", "mase"), 3) == mase


def test_quantiles_of_sorted_columns_are_numpys() -> None:
    x = np.random.default_rng(0).standard_normal((40, 3))
    found = bars.of_sorted(np.sort(x, 0), np.array([[0.1, 0.5, 0.93]]))
    assert np.allclose(found[0], [np.quantile(x[:, c], q) for c, q in enumerate((0.1, 0.5, 0.93))])


def test_paths_are_spread_until_intervals_hold_what_they_promise() -> None:
    """Paths of two thirds of the right deviation about a middle of their own are drawn apart by 1.5; right ones are left."""
    chance = np.random.default_rng(0)
    middle = 5 * chance.standard_normal((400, 6))
    truth = middle + chance.standard_normal((400, 6))
    for size in (2 / 3, 1.0):
        paths = middle[:, None] + size * chance.standard_normal((400, 300, 6))
        assert best(paths, middle, truth) == pytest.approx(1 / size, rel=0.05)
    assert (
        best(middle[:, None] + 0.01 * chance.standard_normal((400, 50, 6)), middle, truth) == 1.6
    )  # and never farther


def test_a_share_of_series_won_counts_each_alike() -> None:
    every = [
        {"a": {"loss": 1, "size": 1, "count": 1, "sp": a}, "b": {"loss": 1, "size": 1, "count": 1, "sp": 1.0}}
        for a in (0.5, 0.9, 2.0, 0.1)
    ]
    scores = Scores.of(every, [0, 0, 1, 2])
    assert scores.won("a", "b") == pytest.approx(2 / 3)
    assert torch.isfinite(torch.tensor(scores.interval("a", "sp", "b"))).all()
