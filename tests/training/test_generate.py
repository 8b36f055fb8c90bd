"""Samples and looks: sample i depends on the seed and i alone, and every look at a network uses the same noise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import SOLVERS, Blanks, Denoiser, FromNoise, Guess, generate, guide
from sfumato.training import loop
from sfumato.training.ema import PowerEMA
from sfumato.training.objective import Precise, evaluating
from sfumato.training.watch import LEVELS, Averaged, held_out_loss, loss_by_level

from .small import made, options, small_task


@pytest.fixture(scope="module")
def task():
    """A task whose network is not the zero function it begins as."""
    task = small_task()
    with torch.no_grad():
        for parameter in task.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    task.network.eval().requires_grad_(False)
    return task


def drawn(task, numbers: range, solver: str = "ab3", seed: int = 0, batch: int = 8) -> Tensor:
    denoiser = guide(Denoiser(Precise(task.network, False), task.process), 1.5)
    queries = Blanks(torch.zeros(3, 8, 8), 20, {"label": torch.arange(3)})
    found = generate(
        denoiser, queries, numbers, seed=seed, begin=FromNoise(6), solver=SOLVERS[solver], batch=batch
    )  # fmt: skip
    return torch.cat([drawn.x for drawn in found])


@pytest.mark.parametrize("solver", ["ab3", "ancestral", "churn", "heun"])
def test_a_sample_is_the_same_alone_among_others_and_in_any_order(solver: str, task):
    whole = drawn(task, range(8), solver)
    assert whole.dtype == torch.float32
    assert torch.isfinite(whole).all()
    assert len({row.numpy().tobytes() for row in whole}) == 8
    for numbers in (range(1), range(8), range(3, 6), range(7, 8), range(7, -1, -1), range(0, 8, 3), range(20)):
        torch.manual_seed(len(numbers))
        found = drawn(task, numbers, solver)
        assert len(found) == len(numbers)
        mine = [place for place, i in enumerate(numbers) if i < 8]
        wanted = whole[
            [numbers[place] for place in mine]
        ]  # in another row of a batch, which a product may round otherwise
        torch.testing.assert_close(found[mine], wanted, rtol=1e-4, atol=1e-4)


def test_another_batch_size_changes_rounding_only(task):
    assert float((drawn(task, range(6), batch=3) - drawn(task, range(6), batch=8)).abs().max()) < 1e-4


def test_another_seed_gives_other_samples(task):
    assert not torch.isclose(drawn(task, range(4), seed=1), drawn(task, range(4))).all(dim=(1, 2, 3)).any()


def test_sampling_leaves_the_global_stream_alone(task):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn(task, range(3), "ancestral")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_puts_the_mode_back(training: bool, task):
    task.network.train(training)
    with evaluating(task.network):
        assert not task.network.training
    assert task.network.training == training
    task.network.eval()


# ---- looks at a run ------------------------------------------------------------------------------------------------------


def looks(task, folder: Path) -> tuple[list[Tensor], Averaged]:
    """What two looks at the same network see: loss by level, held-out loss, preview; and the looker."""
    shown: list[Tensor] = []

    class Sheet:
        suffix = ".bytes"

        def __init__(self, samples: Tensor):
            self.samples = samples
            shown.append(samples)

        def save(self, path: Path) -> None:
            path.write_bytes(self.samples.numpy().tobytes())

    def preview(denoiser: Guess) -> Sheet:
        queries = Blanks(torch.zeros(3, 8, 8), 4, {"label": torch.arange(3)})
        return Sheet(torch.cat([drawn.x for drawn in generate(denoiser, queries, range(4), begin=FromNoise(3))]))

    averaged = Averaged(dataclasses.replace(task, preview=preview), made(folder), False, torch.device("cpu"))
    ema = PowerEMA(dict(task.network.named_parameters()))
    for step in (1, 2):
        torch.manual_seed(step)
        averaged.look(ema, step)
    return shown, averaged


def by_level(averaged: Averaged) -> Tensor:
    items = averaged.items
    assert items is not None
    return loss_by_level(averaged.denoiser, items, averaged.batches[0].condition)


def test_two_looks_at_the_same_network_see_the_same(task, tmp_path: Path):
    shown, averaged = looks(task, tmp_path)
    first, second = averaged.run.records()
    assert first["held_out"] == second["held_out"]
    assert first["by_level"] == second["by_level"]
    assert len(first["by_level"]) == len(LEVELS) == len(first["levels"])
    assert len(shown) == 2
    assert torch.equal(shown[0], shown[1])
    assert sorted(p.name for p in averaged.run.samples.iterdir()) == ["step-00000001.bytes", "step-00000002.bytes"]
    assert (averaged.run.samples / "step-00000002.bytes").read_bytes() == shown[1].numpy().tobytes()
    for measure in (
        lambda: by_level(averaged),
        lambda: torch.tensor(held_out_loss(averaged.task, averaged.denoiser, averaged.batches)),
    ):
        before = measure()
        torch.rand(7)
        assert torch.equal(measure(), before)


def test_the_looks_notice_another_network(task, tmp_path: Path):
    _, averaged = looks(task, tmp_path)
    before = by_level(averaged)
    for parameter in averaged.network.parameters():
        parameter.mul_(0.9)
    assert (by_level(averaged) != before).all()


def test_knowing_nothing_costs_one_at_high_noise(task):
    zero = lambda x, *levels, **condition: torch.zeros_like(x)  # noqa: E731
    items = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = loss_by_level(Denoiser(zero, task.process), items, {}, torch.tensor([4.0]))
    assert found.item() == pytest.approx(1, abs=0.05)


def test_the_measured_grid_is_the_same_every_time_and_stored(task, tmp_path: Path):
    _, averaged = looks(task, tmp_path)
    grid = averaged.grid()
    torch.manual_seed(99)
    assert averaged.grid() == grid
    averaged.finish(PowerEMA(dict(task.network.named_parameters())))
    assert grid is not None
    stored = json.loads(averaged.run.walk.read_text())
    assert tuple(stored["angles"]) == grid.angles
    assert tuple(stored["progress"]) == grid.progress
    assert averaged.run.model.is_file()


def test_a_run_stores_the_grid_of_its_average(tmp_path: Path):
    runs = [made(tmp_path / name) for name in "ab"]
    for run in runs:
        loop.train(small_task(), run, options(steps=2))
    assert runs[0].walk.read_bytes() == runs[1].walk.read_bytes()
