"""Summaries of what the benchmarks measure, and the page made of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import common, peers, policy, report, solvers
from benchmarks.common import kernel_interval, spread, within_seconds
from sfumato.metrics.distances import kernel_distance


def test_the_middle_half_is_between_the_quartiles() -> None:
    values = np.random.default_rng(0).normal(size=23).tolist()
    found = spread(values)
    assert found["median"] == pytest.approx(np.median(values))
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(values, [25, 75]).tolist())


def test_the_kernel_interval_is_the_jackknife_of_the_kernel_distance() -> None:
    """Against the plain definition: the distance with every sample left out once."""
    rng = torch.Generator().manual_seed(0)
    fake, real = torch.randn(12, 5, generator=rng) + 0.3, torch.randn(30, 5, generator=rng)
    found = kernel_interval(fake, real)
    assert found["value"] == pytest.approx(kernel_distance(fake, real))
    without = [kernel_distance(torch.cat([fake[:i], fake[i + 1 :]]), real) for i in range(len(fake))]
    error = (np.var(without) * (len(fake) - 1)) ** 0.5
    assert found["high"] - found["value"] == pytest.approx(1.96 * error)
    assert found["value"] - found["low"] == pytest.approx(1.96 * error)


def test_results_come_back_as_they_were_with_lists_of_numbers_on_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    facts = {
        "errors": [1e-3, None, 2.5],
        "names": [["euler [a, b]", 2], ["  ab2", 3]],
        "empty": [],
        "text": "of [1,\n 2]",
    }
    common.store("some", facts)
    found = common.read("some")
    assert found is not None
    assert {name: found[name] for name in facts} == facts
    assert '"errors": [ 0.001, null, 2.5 ]' in (tmp_path / "some.json").read_text()


def test_as_many_steps_as_fit_into_cpu_seconds(tmp_path: Path) -> None:
    from sfumato.fields.policy.recipe import ChunkNetworkOptions, PolicyRecipe
    from sfumato.training.options import TrainOptions

    rng = np.random.default_rng(0)
    data = tmp_path / "some.npz"
    np.savez(data, action=rng.normal(size=(60, 2)), state=rng.normal(size=(60, 3)), episode_ends=np.array([30, 60]))
    recipe = PolicyRecipe(data, held_out=0.5, network=ChunkNetworkOptions(width=64, depth=1))
    few, many = (within_seconds(recipe, TrainOptions(threads=1), s, tmp_path / str(s)) for s in (1e-9, 1e6))
    assert few.steps == 1
    assert many.steps is not None
    assert many.steps > 1_000_000  # a step takes less than a second
    assert few.batch == many.batch


def test_the_average_of_a_policys_past_is_tried_as_it_was(tmp_path: Path) -> None:
    """The last snapshot acts like the run itself, but for the rounding it is stored with; an earlier one does not."""
    from sfumato.fields.policy.acting import Policy
    from sfumato.fields.policy.recipe import ChunkNetworkOptions, PolicyRecipe
    from sfumato.jobs.train import train
    from sfumato.training.options import TrainOptions

    rng = np.random.default_rng(0)
    data = tmp_path / "some.npz"
    np.savez(data, action=rng.normal(size=(60, 2)), state=rng.normal(size=(60, 3)), episode_ends=np.array([30, 60]))
    recipe = PolicyRecipe(data, held_out=0.5, network=ChunkNetworkOptions(width=64, depth=1))
    run = train(recipe, TrainOptions(steps=40, threads=1, snapshots=4, previews=0), tmp_path / "run", lambda text: None)
    seen = {"state": np.zeros((1, 3))}
    acts = {
        step: each.session(1, [0]).act(seen)
        for step, each in [
            (0, Policy.load(run.path)),
            *((s.step, policy.as_it_was(run.path, s)) for s in policy.past(run.path)),
        ]
    }
    assert list(acts) == [0, 10, 20, 30, 40]
    np.testing.assert_allclose(acts[40], acts[0], atol=2e-3)
    assert np.abs(acts[10] - acts[0]).max() > 2e-2


@pytest.mark.parametrize(
    ("numbers", "words"), [([], ""), ([5, 6, 8, 9, 10, 12], "5, 6, 8 to 10, 12"), ([3], "3"), ([1, 2, 3], "1 to 3")]
)
def test_runs_of_numbers_in_words(numbers: list[int], words: str) -> None:
    assert report.ranges(numbers) == words


def curves(**errors: list[float | None]) -> solvers.Curves:
    return {name: dict.fromkeys(solvers.NAMES, row) for name, row in errors.items()}


def test_cells_are_won_by_at_most_the_best_peers_error_and_nan_never_wins() -> None:
    mine = {
        s: curves(**{solvers.FIXED: [0.1, 0.3, None, 1e-9], "other": [0.2, 0.1, 0.1, 0.5]}) for s in solvers.SCHEDULES
    }
    theirs = {s: curves(**{"diffusers a": [0.1, 0.2, 0.5, 1e-12], "azula b": [None, 0.25, 0.4, 0.9]}) for s in mine}
    settings = {"rows": 1, "counts": [5, 6, 7, 8]}
    facts = solvers.summary(mine, theirs, {}, settings)
    assert facts["won"] == {"fixed": 2 * 9, "best": 4 * 9, "cells": 4 * 9}
    assert {cell["calls"] for cell in facts["lost"]} == {6, 7}
    assert facts["nan"] == {"sfumato": 9, "peers": 9}
    lost = next(c for c in facts["lost"] if c["calls"] == 7)
    assert (lost["peer"], lost["peer_name"], lost["best_name"]) == (0.4, "azula b", "other")
    assert "6, 7" in report.lost_cells(facts)


def test_the_page_says_what_was_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.main()
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.count("Not measured yet") == len(report.PARTS)


def test_every_peer_is_pinned() -> None:
    found = peers.pins()
    assert {*peers.WITHOUT_DEPENDENCIES, "torch"} <= found.keys()
    assert not any("torchvision" in name or "torchaudio" in name for name in found)


def test_the_stand_in_for_torchvision_prepares_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torchvision"):
        pytest.skip("the real torchvision is installed")
    monkeypatch.syspath_prepend(str(Path(peers.__file__).parent / "stand_ins"))
    from torchvision import transforms

    try:
        picture = Image.fromarray((np.arange(20 * 30 * 3) % 251).astype(np.uint8).reshape(20, 30, 3))
        whole = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(20), transforms.ToTensor()])(picture)
        assert whole.shape == (3, 20, 20)
        torch.testing.assert_close(whole, torch.tensor(np.asarray(picture)[:, 5:25] / 255).permute(2, 0, 1).float())
        small = transforms.Resize(8)(picture)
        assert small.size == (12, 8)
        assert transforms.Resize((8, 6))(picture).size == (6, 8)
        assert transforms.CenterCrop((4, 10))(picture).size == (10, 4)
    finally:
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
