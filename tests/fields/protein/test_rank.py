"""The ranking head: learned from samples of chains that the run has not seen, kept in the run, and heard by all that is
drawn."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.cli import main
from sfumato.data.atoms import read_structure
from sfumato.fields.protein.ranker import BINS, FILE, OWN, Lesson, RankingHead, correlation, learned
from sfumato.jobs.model import load


def lessons(count: int, seed: int) -> list[Lesson]:
    """Chains whose error is told by one of their numbers, beside tokens that tell nothing."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        told = torch.rand(6, generator=rng)
        numbers = 0.3 * torch.randn(6, 30, OWN, generator=rng)
        numbers[:, :, 1] += told[:, None] * 3
        part = torch.zeros(30, dtype=torch.bool)
        part[12:20] = True
        bins = (BINS * (1 - told[:, None]).expand(-1, 30)).long().clamp(0, BINS - 1)
        found.append(Lesson(torch.randn(6, 30, 8, generator=rng), numbers, part, bins, 1 + 4 * told))
    return found


def test_a_head_learns_what_can_be_known_and_says_it_of_chains_it_has_not_seen() -> None:
    head = learned(lessons(12, 0), 8, 400)
    unseen = lessons(6, 1)
    assert correlation([(head, unseen)]) > 0.85
    nothing = [Lesson(x.tokens, torch.randn_like(x.numbers), x.part, x.bins, x.error) for x in unseen]
    assert abs(correlation([(head, nothing)])) < 0.5
    with torch.no_grad():
        logits, error = head(unseen[0].tokens, unseen[0].numbers, unseen[0].part)
    expected = (logits.softmax(-1) @ (torch.arange(BINS) + 0.5)) / BINS
    assert float((expected.mean(1) - (1 - (unseen[0].error - 1) / 4)).abs().mean()) < 0.15
    assert float((error.exp() - 0.2 - unseen[0].error).abs().mean()) < 0.8


def test_a_head_does_not_depend_on_the_order_of_samples() -> None:
    torch.manual_seed(0)
    head, one = RankingHead(8).eval(), lessons(1, 0)[0]
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    plain, turned = head(one.tokens, one.numbers, one.part), head(one.tokens[order], one.numbers[order], one.part)
    for a, b in zip(plain, turned):
        assert torch.allclose(a[order], b, atol=1e-5)


def test_a_run_is_taught_to_rank_and_its_samples_are_ranked_by_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    assert load(own).companions.ranker is None
    assert main(["protein", "rank", str(own), "-n", "3", "--steps", "2", "--updates", "20"]) == 0
    assert "cross-fitting" in capsys.readouterr().err
    assert (own / FILE).is_file()
    model = load(own)
    assert model.companions.ranker is not None
    first, again = (model.sample(3, steps=2, seed=0) for _ in range(2))
    assert [fold.rank for fold in first] == [fold.rank for fold in again]
    for fold in first:
        assert fold.confidence.shape == (len(fold.asked),)
        assert 0 <= fold.confidence.min() <= fold.confidence.max() <= 100
    alone = model.sample(1, steps=2, seed=0)[0]
    assert np.isfinite(alone.mean)  # by agreement nothing could be said of one
    assert main(["sample", str(own), "-n", "2", "--steps", "2", "--out", str(tmp_path / "folds")]) == 0
    with (tmp_path / "folds" / "samples.csv").open(newline="") as file:
        assert all(row["h3_confidence"] for row in csv.DictReader(file))
    assert (read_structure(tmp_path / "folds" / "0000.cif").factors > 0).all()
    assert main(["evaluate", str(own), "-n", "2", "--steps", "2", "--chains", "2"]) == 0
    assert "by the ranking head" in " ".join(capsys.readouterr().out.split())


def test_ranking_is_refused_for_other_runs_and_odd_numbers(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["-n", "1"], "n = 1: must be from 2 to 1000"),
        (["--chains", "2"], "chains = 2: must be at least 4"),
    ):
        assert main(["protein", "rank", str(run), *words]) != 0
        assert said in capsys.readouterr().err
