"""The ranker: calibrated where the truth is known, no better than chance where there is none, and without leaks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sfumato.errors import DataError
from sfumato.fields.docking.measure import certainty, interval
from sfumato.fields.docking.rank import NUMBERS, Ranker, fitted
from sfumato.fields.docking.ranking import apart, crossed, groups_of
from sfumato.training.run import RunError


def numbers(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of poses, and the probability that each is right."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(n, len(NUMBERS))) * np.arange(1, len(NUMBERS) + 1)
    return x, 1 / (1 + np.exp(-(0.8 * x[:, 0] - 0.3 * x[:, 1] - 0.5)))


def test_confidence_is_right_as_often_as_it_says() -> None:
    x, p = numbers(20_000)
    y = np.random.default_rng(1).random(len(p)) < p
    ranker = Ranker.fit(x[:10_000], y[:10_000], np.arange(10_000))
    known = certainty(ranker(x[10_000:]), y[10_000:].astype(float))
    assert known["calibration_error"] < 0.02
    assert known["auroc"] == pytest.approx(certainty(p[10_000:], y[10_000:].astype(float))["auroc"], abs=0.005)


def test_the_first_of_many_is_no_surer_than_it_should_be() -> None:
    """Poses of a ligand come in a few kinds, each right or wrong as a whole, and a number that tells right from wrong is off
    for a kind as a whole: the best of many is so by luck too. What is said of first poses is still right as often as it says."""
    chance = np.random.default_rng(3)
    kinds = chance.integers(4, size=(1200, 40))
    x = chance.normal(size=(1200, 40, len(NUMBERS)))
    y = np.take_along_axis(chance.random((1200, 4)) < 0.2, kinds, 1)
    x[:, :, 0] += 1.2 * y
    x[:, :, 1] = 0.8 * y + np.take_along_axis(chance.normal(size=(1200, 4)), kinds, 1)
    flat, right, owner = x[:600].reshape(24000, -1), y[:600].reshape(-1), np.repeat(np.arange(600), 40)
    ranker = Ranker.fit(flat, right, owner)
    sure = np.stack([ranker(each) for each in x[600:]])
    first = sure.argmax(1)
    was = y[600:][np.arange(600), first].mean()
    assert sure.max(1).mean() == pytest.approx(was, abs=0.06)
    middle, spread = flat.mean(0), flat.std(0)
    plain = fitted((flat - middle) / spread, right.astype(float), np.full(24000, 0.25))
    naive = 1 / (1 + np.exp(-(((x[600:] - middle) / spread) @ plain[:-1] + plain[-1])))
    assert naive.max(1).mean() > was + 0.12  # without it they would be far too sure,
    assert (naive.argmax(1) == first).all()  # in the same order


def test_labels_that_mean_nothing_are_not_learned() -> None:
    x, p = numbers(8000)
    y = np.random.default_rng(2).permutation(np.random.default_rng(1).random(len(p)) < p)
    ranker = Ranker.fit(x[:4000], y[:4000], np.arange(4000))
    assert certainty(ranker(x[4000:]), y[4000:].astype(float))["auroc"] == pytest.approx(0.5, abs=0.04)


def test_the_fit_is_where_the_penalised_likelihood_is_highest() -> None:
    x, p = numbers(300)
    y = (np.random.default_rng(1).random(len(p)) < p).astype(float)

    def loss(beta: np.ndarray) -> float:
        score = x @ beta[:-1] + beta[-1]
        return float(np.logaddexp(0, score).sum() - (y * score).sum() + 0.5 * np.square(beta[:-1]).sum())

    best = fitted(x, y, penalty=1.0)
    for k in range(len(best)):
        for step in (-1e-3, 1e-3):
            other = best.copy()
            other[k] += step
            assert loss(other) > loss(best)


def test_every_ligand_counts_the_same_however_many_poses_it_has() -> None:
    x = np.zeros((110, len(NUMBERS)))
    y = np.array([True] * 10 + [False] * 100)
    owner = np.array([0] * 10 + [1] * 100)
    assert Ranker.fit(x, y, owner)(x[:1])[0] == pytest.approx(0.5, abs=0.01)


def test_a_scaffold_on_both_sides_is_refused_and_parts_keep_scaffolds_whole() -> None:
    with pytest.raises(DataError, match="both learned from and judged"):
        apart(["a", "b"], ["b", "c"])
    scaffolds = [f"s{k % 7}" for k in range(50)]
    part = groups_of(scaffolds, 3)
    assert set(part) == {0, 1, 2}
    assert all(len({p for p, s in zip(part, scaffolds) if s == name}) == 1 for name in set(scaffolds))
    x, p = numbers(200)
    rankers, where = crossed(x, p > 0.5, np.arange(200) // 4, scaffolds, 3)
    assert len(rankers) == 3
    assert (where == part).all()


def test_a_ligand_is_judged_by_the_ranker_that_has_not_seen_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = (0.0,) * len(NUMBERS), (1.0,) * len(NUMBERS)
    ranker = Ranker(*plain, (*plain[0], 3.0), "run", ((*plain[0], -3.0), (*plain[0], 1.0)), {"seen": 0})
    ranker.write(tmp_path)
    again = Ranker.read(tmp_path)
    assert again == ranker
    x = np.zeros((1, len(NUMBERS)))
    assert again(x, "seen")[0] == pytest.approx(1 / (1 + np.exp(3)))
    assert again(x, "another")[0] == pytest.approx(1 / (1 + np.exp(-3)))
    assert Ranker.read(tmp_path / "none") is None
    (tmp_path / "rank.json").write_text('{"numbers": ["other"], "mean": []}')
    assert Ranker.read(tmp_path) is None  # of an earlier version: poses are ranked as without one
    assert "earlier version" in capsys.readouterr().err
    for text in ('{"numbers": 3}', "{", '{"numbers": [', json.dumps({"numbers": NUMBERS, "mean": [1.0]})):
        (tmp_path / "rank.json").write_text(text)
        with pytest.raises(RunError, match="remove it"):
            Ranker.read(tmp_path)


def test_what_says_how_good_confidences_are() -> None:
    right = np.array([0.0] * 50 + [1.0] * 50)
    sure = certainty(right.copy(), right)
    assert sure == {"calibration_error": 0, "brier": 0, "surest_half": 1, "auroc": 1}
    assert certainty(1 - right, right)["auroc"] == 0
    same = certainty(np.full(100, 0.5), right)
    assert same["auroc"] == pytest.approx(0.5)
    assert same["brier"] == pytest.approx(0.25)


def test_intervals_draw_whole_groups() -> None:
    values = np.repeat([0.0, 1.0], 50)
    groups = ["a"] * 50 + ["b"] * 50
    mean, low, high = interval(values, groups)
    assert (mean, low, high) == (0.5, 0, 1)  # two groups: one of them may be drawn twice
    alone = interval(values, [str(i) for i in range(100)])
    assert 0.35 < alone[1] < 0.5 < alone[2] < 0.65
