"""What data may be like: ragged, in buckets, padded, with noise of their own, with a network that is one's own."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.data import DataError, Items
from sfumato.diffusion import Denoiser, Gaussian, Guess, Linear, Streams, auto, generate, key
from sfumato.training import checkpoint, loop
from sfumato.training.loader import RESERVED, bunched, fetch
from sfumato.training.objective import Objective, Task, noised, parted, plain
from sfumato.training.optim import OptimOptions
from sfumato.training.watch import held_out_loss, loss_by_level

from .small import made, noted, options, trace
from .test_processes import descent

CPU = torch.device("cpu")
PROCESS = Gaussian(Linear(), "data", "velocity")
LENGTHS = np.random.default_rng(0).choice([3, 5, 8], 60, p=[0.5, 0.3, 0.2])


# ---- ragged data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ragged:
    """Sequences of 3, 5 or 8 vectors with noise of their own, in a bucket for each length; ``padded``: all to 8 vectors,
    with a weight of 0, a mask, and a number that nobody must see where nothing is."""

    padded: int | None = None
    buckets: Any = None

    def __len__(self) -> int:
        return len(LENGTHS)

    def name(self, index: int) -> str:
        return f"ragged[{index}]"

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        lengths = LENGTHS[indices]
        assert self.padded is not None or len(set(lengths)) == 1  # one bucket, or nothing fits
        size = self.padded or int(lengths[0])
        x, z = np.full((2, len(indices), size, 2), 7.0, dtype=np.float32)
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            own = np.random.default_rng(index)
            x[row, :length], z[row, :length] = own.normal(1, 0.3, (length, 2)), own.normal(0, 1, (length, 2))
        there = np.arange(size) < lengths[:, None]
        rows = {"x": x, "z": z, "mask": there, "number": indices}
        return rows if self.padded is None else {**rows, "weight": there.astype(np.float32)}


class Pooling(nn.Module):
    """Answers from each vector, the level and the mean of the vectors that are there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, shown: Tensor, level: Tensor, *, mask: Tensor, number: Tensor | None = None) -> Tensor:
        here = mask[..., None].float()
        mean = (shown * here).sum(1, keepdim=True) / here.sum(1, keepdim=True)
        seen = [shown, mean.expand_as(shown), level[:, None, None].expand(*shown.shape[:2], 1)]
        return self.inside(torch.cat(seen, -1))


def ragged(padded: int | None = None, **other: Any) -> Task:
    data = Ragged(padded, LENGTHS.astype(np.int64))
    return Task(Pooling(), PROCESS, data, data, **other)


def descended(task: Task, folder: Path, **how: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Weights and log after plain descent, which is linear in the gradient."""
    run = made(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop.optim, "build", lambda options, model, extra: torch.optim.SGD([*model.parameters(), *extra], lr=1.0)
        )
        loop.train(task, run, options(batch=8, optim=OptimOptions(lr=0.05, clip=1.0), save_seconds=3600, **how))
    return checkpoint.read_tensors(run.model), run.records()


def test_padding_changes_no_loss_no_weights_and_no_look(tmp_path: Path):
    """The same items in the same buckets, with and without padding: the same training, to rounding."""
    (bare, log), (padded, other) = (
        descended(ragged(size), tmp_path / str(size), steps=20, previews=2) for size in (None, 8)
    )
    for name, value in bare.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-5, atol=1e-6)
    assert len(log) == len(other) == 4
    for one, two in zip(log, other, strict=True):
        for word in {"loss", "held_out", "norm"} & one.keys():
            assert two[word] == pytest.approx(one[word], rel=1e-5)


def test_the_loss_by_level_does_not_look_at_padding():
    rows = fetch(Ragged(8), range(20))
    denoiser = Denoiser(Pooling().requires_grad_(False), PROCESS)
    other = torch.where(rows.condition["mask"][..., None], rows.x, -3.0)
    first, second = (loss_by_level(denoiser, x, rows.condition, weight=rows.weight) for x in (rows.x, other))
    torch.testing.assert_close(first, second)
    assert (loss_by_level(denoiser, other, rows.condition) - first).abs().min() > 1e-3


def test_the_measured_grid_does_not_look_at_padding():
    """What is guessed where nothing is may turn as it likes: the steps of a walk are for what is there."""
    rows = fetch(Ragged(8), range(12))
    z = PROCESS.prior(rows.x, Streams(key("grid"), range(12)))

    class Wild(Pooling):
        def forward(self, shown: Tensor, level: Tensor, *, mask: Tensor, number: Tensor | None = None) -> Tensor:
            answer = super().forward(shown, level, mask=mask)
            return torch.where(mask[..., None], answer, 50 * torch.sin(3 * level)[:, None, None].expand_as(answer))

    tame, wild = (Denoiser(kind().requires_grad_(False), PROCESS) for kind in (Pooling, Wild))
    found = [auto(guess, z, weight=rows.weight, mask=rows.condition["mask"]) for guess in (tame, wild)]
    close = lambda a, b: torch.allclose(torch.tensor(a.progress), torch.tensor(b.progress), atol=1e-6)  # noqa: E731
    assert close(*found)
    assert not close(found[0], auto(wild, z, mask=rows.condition["mask"]))


@pytest.mark.parametrize("copies", [1, 3])
def test_an_objective_of_padded_rows_has_the_loss_and_the_gradient_of_bare_ones(copies: int):
    found = []
    for size in (None, 8):
        task = ragged(size, copies=copies)
        piece = noised(task, fetch(task.train, np.flatnonzero(LENGTHS == 5)[:6].tolist()), 3, 0, 6, CPU)
        objective = Objective(task, False)
        value, losses, _ = objective(*piece)
        value.backward()
        found.append((losses, torch.cat([p.grad.flatten() for p in objective.parameters()])))
    assert len(found[0][0]) == 6 * copies
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


# ---- buckets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (2, 0), (1, 1)])
def test_the_loop_draws_each_piece_from_one_bucket_and_every_item_as_often(
    accumulate: int, workers: int, tmp_path: Path
):
    run = made(tmp_path)
    with noted(run):
        loop.train(ragged(), run, options(steps=75, batch=8, accumulate=accumulate, workers=workers, save_seconds=3600))
    seen = trace(run)
    assert len(seen) == 75 * accumulate
    assert all(len(set(LENGTHS[piece["items"]])) == 1 for piece in seen.values())
    often = np.bincount([item for piece in seen.values() for item in piece["items"]], minlength=60)
    assert often.sum() == 600  # ten rounds
    assert often.max() - often.min() <= 2
    assert often.min() >= 8
    kinds = [LENGTHS[seen[step, 0]["items"][0]] for step in range(75)]
    assert kinds[:5] != kinds[5:10] or kinds[:5] != kinds[10:15]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_buckets_are_the_same_in_any_number_of_processes(accumulate: int):
    whole, slope = descent(ragged(), 1, accumulate)
    for world in (2, 4):
        loss, mine = descent(ragged(), world, accumulate)
        assert loss == pytest.approx(whole, rel=1e-6)
        assert float((mine - slope).norm()) < 1e-5 * float(slope.norm())


@dataclass(frozen=True)
class Asked:
    """Ragged blanks: samples of every length, in buckets."""

    buckets: Sequence[int] = tuple(LENGTHS[:9].tolist())

    def __len__(self) -> int:
        return len(self.buckets)

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        (length,) = {self.buckets[number] for number in numbers}
        return {"x": torch.zeros(len(numbers), length, 2), "mask": torch.ones(len(numbers), length, dtype=torch.bool)}


def test_held_out_losses_and_previews_go_bucket_by_bucket(tmp_path: Path):
    seen: list[tuple[int, tuple[int, ...]]] = []
    looked: list[list[int]] = []

    def preview(denoiser: Guess) -> None:
        parts = list(generate(denoiser, Asked(), range(9), batch=4))
        seen.extend((number, tuple(x.shape)) for part in parts for number, x in zip(part.numbers, part.x, strict=True))

    def judged(denoiser: Denoiser, x: Tensor, t: Tensor, *, condition: Any, **other: Any) -> Tensor:
        looked.append(condition["number"].tolist())
        return plain(denoiser, x, t, condition=condition, **other)

    task, run = ragged(preview=preview, judged=judged), made(tmp_path)
    loop.train(task, run, options(steps=2, previews=1))
    assert sorted(seen) == [(i, (int(LENGTHS[i]), 2)) for i in range(9)]
    assert len(looked) == 3 * 8  # at eight times each
    assert sorted(item for items in looked[::8] for item in items) == list(range(32))
    assert all(len(set(LENGTHS[items])) == 1 for items in looked)
    assert sorted(i for batch in bunched(task.train, 32) for i in batch.indices) == list(range(32))
    # the mean over items, not over buckets
    network = Pooling()
    network.load_state_dict(checkpoint.read_tensors(run.model))
    one = next(record["held_out"] for record in run.records() if "held_out" in record)
    alone = [apart(network, item) for item in range(32)]
    assert one == pytest.approx(sum(alone) / 32, rel=1e-5)


def apart(network: nn.Module, item: int) -> float:
    """The held-out loss of one item by hand: its own noise, eight even places of the times."""
    rows, task = fetch(Ragged(None, LENGTHS), [item]), ragged()
    found = []
    for k in range(8):
        t = task.times(torch.tensor([(k + 0.5) / 8]), PROCESS.schedule).float()
        with torch.no_grad():
            answer = network(*PROCESS.precondition(PROCESS.interpolate(rows.x, rows.z, t), t), **rows.condition)
        found.append(float(PROCESS.loss(answer, rows.x, rows.z, t)))
    return sum(found) / 8


def test_held_out_noise_belongs_to_the_item_in_whichever_bucket_it_is():
    """No two held-out items meet the same noise because they stand at the same place of their buckets."""
    x = torch.zeros(8, 2)
    seen: list[Tensor] = []

    def judged(denoiser: Denoiser, x: Tensor, t: Tensor, *, z: Tensor, **other: Any) -> Tensor:
        seen.append(z)
        return (z + 0 * x).square().mean(1)

    for kinds in (None, np.array([0, 0, 1, 1, 0, 1, 0, 1])):
        items = Items({"x": x}, buckets=kinds)
        held_out_loss(
            Task(nn.Identity(), PROCESS, items, judged=judged), Denoiser(nn.Identity(), PROCESS), bunched(items, 8)
        )
    assert len(torch.cat(seen[:1]).unique(dim=0)) == 8
    apart = torch.cat([seen[8], seen[16]])[[0, 1, 4, 5, 2, 6, 3, 7]]
    assert torch.equal(apart, seen[0])


# ---- noise and names ---------------------------------------------------------------------------------------------------


def test_noise_that_belongs_to_the_data_reaches_the_loss_unchanged(tmp_path: Path):
    rng = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 40, 3, generator=rng)
    number = torch.arange(40)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def seen(
        denoiser: Denoiser, x: Tensor, t: Tensor, *, z: Tensor, given: Any, condition: Any, **other: Any
    ) -> Tensor:
        assert condition.keys() == given.keys() == {"number"}
        rows.append((condition["number"], x, z))
        return (denoiser.network(x, t) - z).square().mean(1)

    class Net(nn.Linear):
        def forward(self, shown: Tensor, level: Tensor, **condition: Tensor) -> Tensor:
            return super().forward(shown)

    shuffling = lambda x, z, condition: z.flip(0)  # noqa: E731
    items = Items({"x": x, "z": z, "number": number})
    task = Task(Net(3, 3), PROCESS, items, items, criterion=seen, coupling=shuffling)
    loop.train(task, made(tmp_path), options(steps=6, batch=10, previews=1))
    assert len(rows) == 6 + 8  # the held-out loss, too
    for which, mine, noise in rows:
        assert torch.equal(mine, x[which])
        assert torch.equal(noise, z[which])


@pytest.mark.parametrize("name", RESERVED)
def test_conditions_with_names_of_ours_are_refused_by_name(name: str, tmp_path: Path):
    items = Items({"x": torch.zeros(10, 2), name: torch.zeros(10)})
    with pytest.raises(DataError, match=f"a condition of the data is called '{name}'") as caught:
        loop.train(Task(nn.Linear(2, 2), PROCESS, items, items), made(tmp_path), options(steps=1))
    assert "\n" not in str(caught.value)


# ---- a network of one's own --------------------------------------------------------------------------------------------


class Own(nn.Module):
    """Nothing of ours: no options that can be written, and a trained encoder of the condition that is asked once a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.inside = nn.Linear(2, 4), nn.Linear(4 + 3 + 1, 3)
        self.asked: list[int] = []

    def given(self, *, points: Tensor) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            self.asked.append(len(points))
        return {"code": self.encoder(points)}

    def forward(self, shown: Tensor, level: Tensor, *, code: Tensor) -> Tensor:
        return self.inside(torch.cat([shown, level[:, None], code], 1))


@pytest.mark.parametrize("copies", [1, 3])
def test_a_network_of_one_s_own_trains_to_the_end_and_is_given_the_condition_once_a_batch(copies: int, tmp_path: Path):
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(50, 2, generator=rng)
    x = torch.cat([points, points[:, :1]], 1)
    task = Task(Own(), PROCESS, Items({"x": x, "points": points}), hidden={("points",): 0.2}, copies=copies)
    run = made(tmp_path)
    before = task.network.encoder.weight.detach().clone()
    loop.train(task, run, options(steps=12, batch=16, previews=2, accumulate=2))
    assert task.network.asked == [8] * 24
    assert not torch.equal(task.network.encoder.weight, before)  # it learns
    assert json.loads(run.walk.read_text()).keys() - {"checksum"} == {"angles", "progress"}
    taken = Own()
    taken.load_state_dict(checkpoint.read_tensors(run.model))
    assert [math.isfinite(record["held_out"]) for record in run.records() if "held_out" in record] == [True, True]


def test_options_that_cannot_be_written_do_not_cost_the_run(tmp_path: Path):
    task = Task(Own(), PROCESS, Items({"x": torch.randn(20, 3), "points": torch.randn(20, 2)}))
    task.network.options = {"activation": nn.SiLU()}  # a module is no JSON
    run = made(tmp_path)
    loop.train(task, run, options(steps=1))
    assert run.model.is_file()


def test_a_tenth_is_held_out_at_random_and_ever_the_same():
    items = Items({"x": torch.arange(95.0)[:, None], "number": torch.arange(95)})
    (train, held_out), (_, again) = (parted(Task(nn.Identity(), PROCESS, items)) for _ in range(2))
    mine, theirs = (set(fetch(part, range(len(part))).condition["number"].tolist()) for part in (train, held_out))
    assert len(theirs) == 9
    assert mine | theirs == set(range(95))
    assert not mine & theirs
    assert theirs != set(range(0, 95, 10))
    assert theirs == set(fetch(again, range(len(again))).condition["number"].tolist())
    with pytest.raises(DataError, match=r"1 item\(s\) to learn from: two at least"):
        parted(Task(nn.Identity(), PROCESS, Items({"x": torch.zeros(1, 2)})))


# ---- terms -------------------------------------------------------------------------------------------------------------


def test_terms_are_summed_and_logged_by_name(tmp_path: Path):
    losses: list[tuple[float, float]] = []

    def two(denoiser: Denoiser, x: Tensor, t: Tensor, **other: Any) -> dict[str, Tensor]:
        found = {"near": plain(denoiser, x, t, **other), "loss": 2 * x.square().mean(1)}
        if torch.is_grad_enabled():
            losses.append((float(found["near"].detach().mean()), float(found["loss"].mean())))
        return found

    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    net = Own()
    task = Task(net, PROCESS, Items({"x": x, "points": x[:, :2]}), criterion=two)
    run = made(tmp_path)
    loop.train(task, run, options(steps=20, batch=8, accumulate=2, previews=1))
    lines = [record for record in run.records() if "lr" in record]
    assert [line["step"] for line in lines] == [10, 20]
    for line in lines:
        pieces = losses[2 * line["step"] - 2 : 2 * line["step"]]
        near, other = (sum(piece[i] for piece in pieces) / 2 for i in (0, 1))
        assert line["near"] == pytest.approx(near, rel=1e-5)
        assert line["loss"] == pytest.approx(near + other, rel=1e-5)  # the sum, whatever the terms are called
    look = next(record for record in run.records() if "held_out" in record)
    assert look["held_out"] > 2 * float(x.square().mean()) * 0.3


def test_the_sum_of_terms_is_what_is_descended_on():
    rows = fetch(Items({"x": torch.randn(6, 3), "points": torch.zeros(6, 2)}), range(6))

    def half(denoiser: Denoiser, x: Tensor, t: Tensor, **other: Any) -> dict[str, Tensor]:
        return {name: plain(denoiser, x, t, **other) / 2 for name in ("one", "other")}

    slopes = []
    for criterion in (plain, half):
        task = Task(Own(), PROCESS, Items({"x": rows.x, **rows.condition}), criterion=criterion)
        value, _, means = Objective(task, False)(*noised(task, rows, 1, 0, 6, CPU))
        value.backward()
        slopes.append(task.network.inside.weight.grad)
    assert means.keys() == {"one", "other"}
    torch.testing.assert_close(slopes[0], slopes[1])
