"""The power-function average against its own definition, and widths found after the fact."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sfumato.training import ema as ema_module
from sfumato.training.checkpoint import CheckpointError, load, save
from sfumato.training.ema import (
    PowerEMA,
    Snapshot,
    coefficients,
    exponent,
    read_snapshots,
    reconstruct,
    write_snapshot,
)


def track(history: Tensor, widths: tuple[float, ...], every: int = 1) -> PowerEMA:
    """Average history[i], the weights after i + 1 steps, taking in every `every`-th."""
    ema = PowerEMA({"w": history[0]}, widths)
    for step in range(every, len(history) + 1, every):
        ema.update({"w": history[step - 1]}, step, step - every)
    return ema


# ------------------------------------------------------------------------------------------------------------ profiles


def test_exponents_of_the_paper() -> None:
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)


@given(st.floats(1e-4, 0.2799))
def test_exponent_solves_its_equation(width: float) -> None:
    gamma = exponent(width)
    assert math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(width, rel=1e-12)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.28, 1.0, math.nan])
def test_widths_that_are_none(width: float) -> None:
    with pytest.raises(ValueError, match="width"):
        exponent(width)
    with pytest.raises(ValueError, match="width"):
        PowerEMA({"w": torch.zeros(1)}, (width,))


@pytest.mark.parametrize("width", [0.03, 0.05, 0.10, 0.25])
def test_weights_sum_to_one_and_have_the_declared_width(width: float) -> None:
    steps = 2000
    # With one-hot "weights" the average is the list of the shares of all steps.
    shares = track(torch.eye(steps, dtype=torch.float64), (width,)).averages[width]["w"]
    times = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps  # middle of the stretch each stands for
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (shares >= 0).all()
    mean = (shares * times).sum()
    assert (shares * (times - mean) ** 2).sum().sqrt() == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("every", [1, 3, 10])
def test_shares_are_the_integrals_of_the_profile(every: int) -> None:
    steps, width = 300, 0.1
    shares = track(torch.eye(steps, dtype=torch.float64), (width,), every).averages[width]["w"]
    power = exponent(width) + 1
    ends = torch.arange(0, steps + 1, every, dtype=torch.float64) / steps
    expected = torch.zeros(steps, dtype=torch.float64)
    expected[every - 1 :: every] = (ends**power).diff()
    assert torch.allclose(shares, expected, rtol=1e-10, atol=1e-15)


def test_every_k_steps_is_exact_for_weights_that_change_every_k_steps() -> None:
    history = torch.randn(40, 3, dtype=torch.float64).repeat_interleave(5, 0)
    often, seldom = (track(history, (0.05, 0.2), every) for every in (1, 5))
    for width in often.widths:
        assert torch.allclose(often.averages[width]["w"], seldom.averages[width]["w"], rtol=1e-10)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("width", [0.05, 0.10, 0.2])
def test_average_of_a_power_of_time(power: float, width: float) -> None:
    steps = 3000
    history = (torch.arange(1, steps + 1, dtype=torch.float64) ** power)[:, None]
    average = track(history, (width,)).averages[width]["w"].item()
    gamma = exponent(width)
    truth = (gamma + 1) / (gamma + 1 + power) * steps**power
    assert average == pytest.approx(truth, rel=1.5 * power / steps)  # half a step late, at most one


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.floats(-1e3, 1e3, width=32))
def test_a_constant_stays_constant_to_the_bit(gaps: list[int], value: float) -> None:
    weights = {"w": torch.full((3,), value)}
    ema, step = PowerEMA(weights), 0
    for gap in gaps:
        ema.update(weights, step + gap, step)
        step += gap
    for average in ema.averages.values():
        assert torch.equal(average["w"], weights["w"])


def test_first_update_forgets_the_beginning() -> None:
    ema = PowerEMA({"w": torch.full((2,), math.nan)})
    ema.update({"w": torch.ones(2)}, 5, 0)
    assert all(torch.equal(average["w"], torch.ones(2)) for average in ema.averages.values())


def test_bfloat16_weights_have_averages_that_reach_the_truth() -> None:
    low, high = torch.tensor(1.0).bfloat16(), torch.tensor(1.0078125).bfloat16()  # neighbours: nothing lies between
    history = torch.stack([low, high] * 2000)[:, None]
    for width, average in track(history, (0.05, 0.1)).averages.items():
        assert average["w"].dtype == torch.float32
        assert average["w"].item() == pytest.approx(1.00390625, abs=1e-4 * (1 + width))
    step = torch.zeros(1).bfloat16()
    ema = PowerEMA({"w": step})
    ema.update({"w": step}, 100, 0)
    for i in range(100, 2000):
        ema.update({"w": torch.ones(1).bfloat16()}, i + 1, i)
    for width, average in ema.averages.items():
        assert average["w"].item() == pytest.approx(1 - (100 / 2000) ** (exponent(width) + 1), abs=1e-5)


def test_mixed_dtypes_and_counters() -> None:
    weights = {
        "half": torch.ones(2, dtype=torch.float16),
        "double": torch.ones(2, dtype=torch.float64),
        "complex": torch.ones(2, dtype=torch.complex64),
        "counter": torch.tensor(1),
        "flag": torch.tensor([True]),
        "empty": torch.empty(0),
    }
    ema = PowerEMA(weights, (0.1,))
    average = ema.averages[0.1]
    kinds = {name: tensor.dtype for name, tensor in average.items()}
    assert kinds == {
        "half": torch.float32,
        "double": torch.float64,
        "complex": torch.complex64,
        "counter": torch.int64,
        "flag": torch.bool,
        "empty": torch.float32,
    }
    ema.update(weights, 1, 0)
    ema.update({**weights, "half": weights["half"] * 3, "counter": torch.tensor(9)}, 2, 1)
    expected = 3 - 2 * 0.5 ** (exponent(0.1) + 1)
    assert average["half"].tolist() == pytest.approx([expected] * 2)
    assert average["counter"] == 9
    assert weights["half"].tolist() == [1, 1], "the weights themselves must not change"


def test_misuse_is_refused() -> None:
    ema = PowerEMA({"w": torch.zeros(1)})
    for step, previous in ((0, 0), (3, 3), (3, 4), (3, -1)):
        with pytest.raises(ValueError, match="rise"):
            ema.update({"w": torch.zeros(1)}, step, previous)
    with pytest.raises(ValueError, match="extra"):
        ema.update({"w": torch.zeros(1), "extra": torch.zeros(1)}, 1, 0)
    for widths in ((), (0.1, 0.1)):
        with pytest.raises(ValueError, match="widths"):
            PowerEMA({"w": torch.zeros(1)}, widths)


def test_gradients_do_not_flow_in() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    ema = PowerEMA({"w": weight})
    ema.update({"w": weight}, 1, 0)
    ema.update({"w": weight}, 2, 1)
    assert not any(tensor.requires_grad for tensor in ema.state().values())


def test_saved_and_loaded_goes_on_bit_for_bit(tmp_path: Path) -> None:
    history = torch.randn(20, 4)
    straight = track(history, (0.05, 0.1))
    first = track(history[:10], (0.05, 0.1))
    assert set(first.state()) == {"0.05/w", "0.1/w"}
    path = save(tmp_path, 10, {"ema": first.state()}, {})
    second = PowerEMA({"w": torch.zeros(4)})
    second.load(load(path).tensors["ema"])
    for step in range(10, 20):
        second.update({"w": history[step]}, step + 1, step)
    for name, tensor in straight.state().items():
        assert torch.equal(tensor, second.state()[name])
    with pytest.raises(CheckpointError, match="shape"):
        PowerEMA({"w": torch.zeros(5)}).load(first.state())
    with pytest.raises(CheckpointError, match="both sides"):
        PowerEMA({"w": torch.zeros(4)}, (0.07,)).load(first.state())


# ------------------------------------------------------------------------------------------------------ reconstruction

STEPS, COUNT = 3200, 32


def smooth(steps: int = STEPS) -> Tensor:
    """Weights that relax, drift and swing, as (steps, 4) in float64."""
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return torch.stack([2 - torch.exp(-5 * t), 1 + t.sqrt(), 2 + torch.sin(9 * t), 3 - t**3], 1)


def snapshots(history: Tensor, widths: tuple[float, ...] = (0.05, 0.10), count: int = COUNT) -> list[Snapshot]:
    ema, stored = PowerEMA({"w": history[0]}, widths), []
    for step in range(1, len(history) + 1):
        ema.update({"w": history[step - 1]}, step, step - 1)
        if step % (len(history) // count) == 0:
            stored += [Snapshot(step, width, {"w": ema.averages[width]["w"].clone()}) for width in widths]
    return stored


@pytest.fixture(scope="module")
def stored() -> list[Snapshot]:
    return snapshots(smooth())


@pytest.mark.parametrize("width", [0.04, 0.06, 0.07, 0.09, 0.15])
def test_a_new_width_is_as_if_it_had_been_tracked(stored: list[Snapshot], width: float) -> None:
    truth = track(smooth(), (width,)).averages[width]["w"]
    assert ((reconstruct(stored, width)["w"] - truth) / truth).abs().max() < 1e-3
    # The neighbouring widths that were stored would not have done.
    assert min((s.weights["w"] - truth).abs().max() for s in stored[-2:]) > 3e-3


@pytest.mark.parametrize("step", [1600, 1610, 1650, 1690, 3150])
def test_an_earlier_step(stored: list[Snapshot], step: int) -> None:
    truth = track(smooth()[:step], (0.08,)).averages[0.08]["w"]
    assert ((reconstruct(stored, 0.08, step)["w"] - truth) / truth).abs().max() < 2e-3


@pytest.mark.parametrize("index", [0, 31, 62, 63])
def test_an_existing_width_is_exact(stored: list[Snapshot], index: int) -> None:
    one = stored[index]
    assert torch.equal(reconstruct(stored, one.width, one.step)["w"], one.weights["w"])
    # ... and least squares finds it, too, without being told.
    shift = coefficients([s for s in stored if s.step <= one.step], one.width * (1 + 1e-7), one.step)
    place = [s for s in stored if s.step <= one.step].index(one)
    found = sum(c * s.weights["w"] for c, s in zip(shift, stored))
    assert torch.allclose(found, one.weights["w"], rtol=1e-5)
    assert shift[place] == max(shift)


@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_constant_weights_come_out_constant_however_few_the_snapshots(count: int) -> None:
    few = snapshots(torch.full((320, 2), 7.25, dtype=torch.float64), count=count)
    for width in (0.03, 0.07, 0.25):
        assert torch.allclose(reconstruct(few, width)["w"], torch.tensor(7.25, dtype=torch.float64), rtol=1e-9)


def test_inner_products_are_the_integrals() -> None:
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for gamma_a, t_a, gamma_b, t_b in ((2.0, 0.5, 6.0, 1.0), (17.0, 1.0, 7.0, 0.7), (3.0, 0.4, 3.0, 0.4)):
        a, b = (
            torch.where(x <= t, (gamma + 1) / t * (x / t) ** gamma, 0) for gamma, t in ((gamma_a, t_a), (gamma_b, t_b))
        )
        pair = [torch.tensor([value], dtype=torch.float64) for value in (gamma_a, t_a, gamma_b, t_b)]
        assert ema_module._inner(*pair).item() == pytest.approx((a * b).mean().item(), rel=1e-4)


def test_coefficients_do_not_magnify_rounding(stored: list[Snapshot]) -> None:
    for width in (0.04, 0.07, 0.15):
        factors = torch.tensor(coefficients(stored, width, STEPS), dtype=torch.float64)
        assert factors.sum() == pytest.approx(1, abs=1e-9)
        assert factors.norm() < 4


def test_the_future_does_not_count(stored: list[Snapshot]) -> None:
    spoilt = [s if s.step <= 1600 else Snapshot(s.step, s.width, {"w": s.weights["w"] * math.nan}) for s in stored]
    assert torch.equal(reconstruct(spoilt, 0.07, 1600)["w"], reconstruct(stored, 0.07, 1600)["w"])


def test_counters_are_taken_from_the_newest() -> None:
    pair = [Snapshot(step, 0.1, {"w": torch.ones(1), "n": torch.tensor(step)}) for step in (10, 20)]
    assert reconstruct(pair, 0.1)["n"] == 20
    assert reconstruct(pair, 0.05)["n"] == 20


def test_reconstruction_refuses_what_it_cannot_know(stored: list[Snapshot]) -> None:
    with pytest.raises(ValueError, match="no snapshots"):
        reconstruct([], 0.1)
    for step in (0, 50, STEPS + 1):
        with pytest.raises(ValueError, match="snapshots reach from 100 to 3200"):
            reconstruct(stored, 0.1, step)
    with pytest.raises(ValueError, match="width"):
        reconstruct(stored, 0.5)


def test_snapshots_given_twice_do_no_harm(stored: list[Snapshot]) -> None:
    assert torch.allclose(reconstruct(stored + stored, 0.07)["w"], reconstruct(stored, 0.07)["w"], rtol=1e-9)


# -------------------------------------------------------------------------------------------------------------- files


def run(folder: Path, steps: int, every: int, keep: int, history: Tensor | None = None) -> PowerEMA:
    history = torch.randn(steps, 3) if history is None else history
    ema = PowerEMA({"a.b": history[0]})
    for step in range(every, steps + 1, every):
        ema.update({"a.b": history[step - 1]}, step, step - every)
        write_snapshot(folder, step, ema, keep)
    return ema


def steps_in(folder: Path) -> list[int]:
    return sorted(int(name[5:13]) for name in os.listdir(folder))


def test_snapshots_come_back_as_they_were(tmp_path: Path) -> None:
    ema = run(tmp_path, 40, 10, 32)
    back = read_snapshots(tmp_path)
    assert [(s.step, s.width) for s in back] == [(step, width) for step in (10, 20, 30, 40) for width in (0.05, 0.1)]
    for s in back[-2:]:
        assert list(s.weights) == ["a.b"]
        assert len(s.weights) == 1
        assert torch.equal(s.weights["a.b"], ema.averages[s.width]["a.b"])
        with pytest.raises(KeyError):
            s.weights["other"]
    assert torch.equal(reconstruct(back, 0.1)["a.b"], ema.averages[0.1]["a.b"])
    assert reconstruct(back, 0.07)["a.b"].shape == (3,)
    assert read_snapshots(tmp_path / "missing") == []


@pytest.mark.parametrize("keep", [2, 5, 8])
@pytest.mark.parametrize("steps", [30, 70, 330, 1000])
def test_thinning_keeps_few_and_evenly_spread(tmp_path: Path, keep: int, steps: int) -> None:
    run(tmp_path, steps, 10, keep)
    kept = steps_in(tmp_path)
    assert len(kept) == min(keep, steps // 10)
    assert kept[-1] == steps
    gaps = [b - a for a, b in pairwise([0, *kept])]
    assert max(gaps[:-1]) / min(gaps[:-1]) in (1, 2), kept
    assert len(set(gaps[:-1])) <= 2


def test_thinning_of_crooked_steps(tmp_path: Path) -> None:
    ema = PowerEMA({"w": torch.zeros(1)})
    for step in range(1005, 3000, 50):  # all odd: no power of two tells them apart
        write_snapshot(tmp_path, step, ema, 8)
        gaps = [b - a for a, b in pairwise(steps_in(tmp_path))]
        assert max(gaps[:-1], default=1) <= 3 * min(gaps[:-1], default=1)
    write_snapshot(tmp_path, 2997, ema, 8)
    assert len(steps_in(tmp_path)) == 8
    assert steps_in(tmp_path)[-1] == 2997


def test_going_back_drops_the_other_future(tmp_path: Path) -> None:
    ema = run(tmp_path, 60, 10, 8)
    write_snapshot(tmp_path, 30, ema, 8)
    assert steps_in(tmp_path) == [10, 20, 30]


def test_large_networks_are_stored_in_half_without_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema_module, "LARGE", 10)
    weights = {
        "huge": torch.randn(100) * 1e9,
        "tiny": torch.randn(100) * 1e-12,
        "almost nothing": torch.full((2,), 1e-38),
        "zero": torch.zeros(5),
        "double": torch.randn(3, dtype=torch.float64),
        "counter": torch.arange(3),
        "empty": torch.empty(0),
    }
    ema = PowerEMA(weights)
    path = write_snapshot(tmp_path, 1, ema)
    assert path is not None
    (back, _) = read_snapshots(tmp_path)
    for name, tensor in weights.items():
        got = back.weights[name]
        assert got.dtype == tensor.dtype
        if tensor.dtype == torch.float32:
            bound = tensor.abs() * 2**-11 + (tensor.abs().max() if tensor.numel() else 0) * 2**-38 + 5e-38
            assert ((got - tensor).abs() <= bound).all(), name
        else:
            assert torch.equal(got, tensor)


def test_half_precision_does_not_hurt_reconstruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema_module, "LARGE", 1)
    history = smooth(640).float()
    run(tmp_path, 640, 20, 32, history)
    truth = track(history, (0.07,), 20).averages[0.07]["w"]
    assert ((reconstruct(read_snapshots(tmp_path), 0.07)["a.b"] - truth) / truth).abs().max() < 2e-3


def test_bad_averages_and_bad_files_are_named(tmp_path: Path) -> None:
    bad = PowerEMA({"w": torch.tensor([1.0, math.inf])})
    with pytest.raises(CheckpointError, match=r"0\.05/w is not finite"):
        write_snapshot(tmp_path, 1, bad)
    with pytest.raises(ValueError, match="keep"):
        write_snapshot(tmp_path, 1, bad, keep=1)
    run(tmp_path, 30, 10, 8)
    os.truncate(tmp_path / "step-00000020.safetensors", 50)
    with pytest.raises(CheckpointError, match=r"step-00000020\.safetensors"):
        read_snapshots(tmp_path)
    (tmp_path / "step-00000020.safetensors").unlink()
    assert len(read_snapshots(tmp_path)) == 4
