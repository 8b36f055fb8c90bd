"""Couples of a teacher, their files, and how straight a flow is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.adapting.reflow import Couples, couples, straightness
from sfumato.data import DataError, batch_indices
from sfumato.diffusion import (
    VP,
    Denoiser,
    Endpoints,
    Gaussian,
    GaussianData,
    Linear,
    MixtureData,
    Streams,
    ab,
    euler,
    heun,
    loss,
    sample,
    uniform,
)
from sfumato.networks import MLP
from sfumato.training.loader import fetch
from sfumato.training.objective import Task, noised

NORMAL = GaussianData(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 2.0, 0.01]))


@dataclass(frozen=True)
class Translated:
    """Data that is its noise moved by a constant: the flow that knows this is straight."""

    offset: Tensor
    process: Gaussian = Gaussian()

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        """x = z + offset."""
        z = x_t - (1 - t) * self.offset
        return Endpoints(z + self.offset, z)


def joined(rows: Any) -> dict[str, Tensor]:
    found = list(rows)
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


# ---- couples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Linear(), VP()], ids=["linear", "vp"])
@pytest.mark.parametrize(("solver", "order"), [(euler(), 1), (heun(), 2), (ab(3), 3)], ids=["euler", "heun", "ab3"])
def test_couples_of_gaussian_data_are_its_flow_to_the_solvers_order(schedule: Any, solver: Any, order: int) -> None:
    teacher = replace(NORMAL, process=Gaussian(schedule))

    def error(steps: int) -> float:
        made = joined(couples(teacher, (3,), range(40), steps=steps, solver=solver))
        start = teacher.process.start(made["z"].double())
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        return (made["x"] - teacher.flow(start, *ends)).abs().max().item()

    coarse, fine = error(20), error(40)
    assert fine < 1.3 * coarse / 2**order + 3e-6  # float32 rounding
    assert fine < 0.3


def test_noise_is_standard_normal_and_belongs_to_its_number() -> None:
    made = joined(couples(NORMAL, (3,), range(2000), steps=1, solver=euler(), batch=500))
    assert made["z"].mean(0).abs().max() < 4 / math.sqrt(2000)
    assert (made["z"].std(0) - 1).abs().max() < 4 / math.sqrt(4000)
    other = joined(couples(NORMAL, (3,), [7, 1999], steps=1, seed=1))["z"]
    assert not torch.isclose(other, made["z"][[7, 1999]]).any()


def test_couples_are_the_same_bits_in_any_order_and_company() -> None:
    torch.manual_seed(0)
    network = MLP(dim=5, width=32, depth=2, classes=3)
    nn.init.normal_(network.head.weight)
    teacher = Denoiser(network.eval(), Gaussian())

    def labels(own: Any) -> dict[str, Tensor]:
        return {"label": torch.tensor([i % 4 - 1 for i in own])}

    drawn = partial(couples, teacher, (5,), steps=4, batch=8, condition=labels)
    whole = joined(drawn(range(27)))
    assert whole["label"].tolist() == [i % 4 - 1 for i in range(27)]
    shuffled = torch.randperm(27, generator=torch.Generator().manual_seed(3)).tolist()
    for numbers in (list(reversed(range(27))), shuffled, [11], range(5, 20)):
        part = joined(drawn(numbers))
        for name in ("x", "z", "label"):
            torch.testing.assert_close(part[name], whole[name][list(numbers)], rtol=1e-4, atol=1e-4)


def test_the_condition_reaches_the_teacher() -> None:
    @dataclass(frozen=True)
    class Moved(Translated):
        def given(self, **condition: Tensor) -> dict[str, Tensor]:
            return condition

        def __call__(
            self, x_t: Tensor, t: Tensor, s: Tensor | None = None, *, given: Any = None, **_: Any
        ) -> Endpoints:
            return Translated(given["by"][:, None])(x_t, t)

    by = torch.arange(5.0)
    made = joined(couples(Moved(by), (2,), range(5), batch=3, condition=lambda own: {"by": by[list(own)]}))
    torch.testing.assert_close(made["x"] - made["z"], by[:, None].expand(5, 2), rtol=0, atol=1e-5)


def test_wrong_teachers_and_conditions_raise() -> None:
    with pytest.raises(ValueError, match=r"training mode.*eval"):
        next(couples(Denoiser(MLP(dim=3, width=8, depth=1), Gaussian()), (3,), range(2)))
    for given in ({"z": torch.zeros(2)}, {"label": torch.zeros(3)}, {"label": torch.zeros(())}):
        with pytest.raises(ValueError, match=f"condition '{next(iter(given))}' has shape"):
            next(couples(NORMAL, (3,), range(2), condition=lambda own, given=given: given))
    broken = Translated(torch.tensor([math.nan]))
    with pytest.raises(RuntimeError, match="number 4 is not finite"):
        next(couples(broken, (3,), range(4, 6), steps=2))


# ---- folders ---------------------------------------------------------------------------------------------------------


def made(folder: Path, count: int = 7, **options: Any) -> Couples:
    return Couples.make(
        folder,
        NORMAL,
        (3,),
        count,
        steps=4,
        batch=3,
        **options,
    )


def test_a_folder_gives_back_what_was_drawn(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Deaf(GaussianData):
        def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
            return NORMAL(x_t, t, s)

    seen: list[tuple[int, int]] = []
    teacher = Deaf(NORMAL.mean, NORMAL.variance)
    condition = lambda own: {"label": torch.tensor(own) * 2, "place": torch.ones(len(own), 2)}  # noqa: E731
    written = Couples.make(
        tmp_path / "new" / "couples",
        teacher,
        (3,),
        7,
        progress=lambda *done: seen.append(done),
        steps=4,
        batch=3,
        condition=condition,
    )
    assert seen == [(3, 7), (6, 7), (7, 7)]
    expected = joined(couples(teacher, (3,), range(7), steps=4, batch=3, condition=condition))
    for data in (written, Couples.open(tmp_path / "new" / "couples", verify=False)):
        assert len(data) == 7
        assert data.name(3).endswith("couples[3]")
        assert all(isinstance(array, np.memmap) for array in data.arrays.values())
        for numbers in (np.arange(7), np.array([6, 0, 6])):
            rows = data.batch(numbers)
            assert rows.keys() == {"x", "z", "label", "place"}
            for name, value in rows.items():
                assert np.array_equal(value, expected[name][numbers].numpy()), name
                assert not isinstance(value, np.memmap)  # a copy, which may be written to
        assert rows["x"].dtype == rows["z"].dtype == np.float32
        assert rows["label"].tolist() == [12, 0, 12]
        assert rows["label"].dtype == np.int64
        with pytest.raises(IndexError):
            data.batch(np.array([7]))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["couples"]


def test_a_failed_teacher_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not finite"):
        Couples.make(tmp_path / "couples", Translated(torch.tensor([math.nan])), (3,), 4, steps=2)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="count is 0"):
        made(tmp_path / "couples", 0)
    with pytest.raises(ValueError, match="cannot name a file"):
        made(tmp_path / "couples", condition=lambda own: {"../label": torch.zeros(len(own))})
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    made(tmp_path / "couples")
    with pytest.raises(DataError, match="exists already"):
        made(tmp_path / "couples")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        made(tmp_path / "file" / "couples")


def damaged(folder: Path, how: str) -> None:
    array, manifest = folder / "z.npy", folder / "couples.json"
    if how == "cut":
        array.write_bytes(array.read_bytes()[:-4])
    elif how == "flipped":
        content = bytearray(array.read_bytes())
        content[-2] ^= 1
        array.write_bytes(content)
    elif how == "gone":
        array.unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "manifest cut":
        manifest.write_text(manifest.read_text()[:-20])
    elif how == "manifest of another kind":
        manifest.write_text("[1, 2]")
    elif how == "newer":
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    elif how == "outside":
        manifest.write_text(manifest.read_text().replace('"x"', '"../x"'))
    elif how == "another count":
        manifest.write_text(manifest.read_text().replace('"count": 7', '"count": 8'))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", r"z\.npy: \d+ bytes where \d+ were written"),
        ("flipped", r"z\.npy: its content has changed"),
        ("gone", r"z\.npy: not found"),
        ("no manifest", r"couples\.json: not found; give a folder"),
        ("manifest cut", r"couples\.json: damaged"),
        ("manifest of another kind", r"couples\.json: damaged"),
        ("newer", r"couples\.json: format 2, expected 1"),
        ("outside", r"couples\.json: names no x and z"),
        ("another count", r"expected 8 rows"),
    ],
)
def test_broken_folders_say_in_one_line_what_is_wrong(tmp_path: Path, how: str, message: str) -> None:
    made(tmp_path / "couples")
    damaged(tmp_path / "couples", how)
    with pytest.raises(DataError, match=message) as error:
        Couples.open(tmp_path / "couples")
    assert "\n" not in str(error.value)


# ---- training on them ------------------------------------------------------------------------------------------------


def test_the_loop_takes_the_noise_of_the_couples_and_shows_it_to_nobody(tmp_path: Path) -> None:
    condition = lambda own: {"label": torch.tensor(own) % 2}  # noqa: E731
    teacher = Denoiser(lambda x, level, label: 0 * x + label[:, None], Gaussian())
    data = Couples.make(tmp_path / "couples", teacher, (3,), 7, steps=4, batch=3, condition=condition)
    task = Task(nn.Identity(), Gaussian(), data, data, hidden={("label",): 0.5})
    batch = fetch(data, [3, 5, 0])
    piece = noised(task, batch, 1, 0, 3, torch.device("cpu"))
    assert torch.equal(piece.z, torch.from_numpy(np.array(data.arrays["z"][[3, 5, 0]])))
    assert torch.equal(piece.x, torch.from_numpy(np.array(data.arrays["x"][[3, 5, 0]])))
    assert piece.condition.keys() == {"label"}


# ---- straightness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_translated_noise_flows_straight(steps: int) -> None:
    z = torch.randn(6, 3, dtype=torch.float64)
    teacher = Translated(torch.tensor([3.0, -1.0, 0.0], dtype=torch.float64))
    walked = straightness(teacher, z, uniform(Linear(), steps), euler())
    assert walked.shape == (6,)
    assert walked.max() < 1e-25
    assert straightness(teacher, z, uniform(Linear(), steps)).max() < 1e-25


def test_straightness_of_gaussian_data_is_known() -> None:
    # On the straight schedule x_t = (1 - t) mean + sqrt((1 - t)^2 s^2 + t^2) z. The integral of the squared derivative
    # of that root is 1 + s^2 - s pi / 2 (complete the square), less the squared chord (1 - s)^2: s (2 - pi / 2).
    mean, s = torch.tensor([4.0, -3.0], dtype=torch.float64), torch.tensor([0.7, 2.5], dtype=torch.float64)
    z = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = (s * (2 - math.pi / 2) * z**2).mean(1)
    coarse, fine = (straightness(GaussianData(mean, s**2), z, uniform(Linear(), n)) for n in (50, 100))
    torch.testing.assert_close(fine, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(
        (fine - expected) / (coarse - expected), torch.full((5,), 0.25).double(), rtol=0.1, atol=0
    )


def test_straightness_measures_the_part_that_is_walked() -> None:
    # Half the way from noise: the same integral between other bounds, by quadrature.
    s, ends = 0.5, (1.0, 0.4)
    t = torch.linspace(ends[1], ends[0], 20_001, dtype=torch.float64)
    root = ((1 - t) ** 2 * s**2 + t**2).sqrt()
    speed = root.diff() / t.diff()
    chord = (root[-1] - root[0]) / (ends[0] - ends[1])
    times = torch.linspace(*ends, 81, dtype=torch.float64)
    data = GaussianData(torch.zeros(1, dtype=torch.float64), torch.full((1,), s**2, dtype=torch.float64))
    found = straightness(data, torch.ones(1, 1, dtype=torch.float64), times)
    torch.testing.assert_close(found[0], (speed - chord).square().mean(), rtol=1e-3, atol=0)
    each = torch.stack((times, torch.linspace(1, 0.4, 81, dtype=torch.float64)), 1)  # times of their own
    own = straightness(data, torch.ones(2, 1, dtype=torch.float64), each)
    torch.testing.assert_close(own, found.expand(2), rtol=1e-9, atol=0)


# ---- all of it -------------------------------------------------------------------------------------------------------


@pytest.mark.trained
@pytest.mark.slow
def test_one_round_of_reflow_straightens_and_betters_one_step(tmp_path: Path) -> None:
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    process = Gaussian()

    def trained(batch: Any, steps: int = 2500) -> Denoiser:
        torch.manual_seed(0)
        network = MLP(dim=2, width=64, depth=3)
        optimizer = torch.optim.AdamW(network.parameters())
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (1 - step / steps)
            x, z = batch(step)
            t = (torch.arange(128) + torch.rand(128)) / 128
            optimizer.zero_grad()
            loss(Denoiser(network, process), x, t[torch.randperm(128)], z=z).mean().backward()
            optimizer.step()
        return Denoiser(network.eval(), process)

    def independent(step: int) -> tuple[Tensor, Tensor]:
        return corners[torch.randint(4, (128,))] + 0.1 * torch.randn(128, 2), torch.randn(128, 2)

    teacher = trained(independent)
    data = Couples.make(tmp_path / "couples", teacher, (2,), 8192, batch=1024, steps=24)

    def coupled(step: int) -> tuple[Tensor, Tensor]:
        rows = fetch(data, batch_indices(len(data), 128, step, seed=0).tolist())
        return rows.x, rows.z

    student = trained(coupled)
    z = Streams(1, range(1000)).normal((1000, 2))
    exact = MixtureData(torch.full((4,), 0.25), corners, torch.full((4,), 0.1), process=process)
    ends = [sample(d, z, uniform(Linear(), 1), euler()) for d in (teacher, student)]
    truth = sample(exact, z, uniform(Linear(), 200), heun())
    wrong = [(x - truth).square().mean().item() for x in ends]
    curved = [straightness(d, z, uniform(Linear(), 50)).mean().item() for d in (teacher, student)]
    assert wrong[1] < 0.2 * wrong[0], wrong
    assert curved[1] < 0.2 * curved[0], curved
