"""What a network is shown, how it is called, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.process import Gaussian, along
from sfumato.diffusion.schedule import VE, VP, Linear
from tests.laws.worlds import ANSWERS, F64, SCHEDULES, normal, scalar


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_network_sees_unit_variance_and_the_level(name: str) -> None:
    process = Gaussian(SCHEDULES[name])
    x, z = normal(2, 20_000, 2)
    for time in (0.05, 0.5, 1.0):
        shown, level = process.precondition(process.interpolate(x, z, scalar(time)), scalar(time))
        assert float(shown.std()) == pytest.approx(1, abs=0.02)
        assert level.shape == (20_000,)
        ratio = process.schedule.sigma(scalar(time)) / process.schedule.alpha(scalar(time))
        assert float(level[0]) == pytest.approx(min(float(ratio.log()), 7.0), rel=1e-5)


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_levels_have_the_shape_of_times_and_are_float32(shape: tuple[int, ...]) -> None:
    t = torch.linspace(0, 1, 12, dtype=F64)[: 3 * (4 if len(shape) == 2 else 1)].reshape(shape)
    shown, level = Gaussian(Linear()).precondition(normal(3, 4, 2).to(torch.bfloat16), t)
    assert level.shape == shape
    assert level.dtype == torch.float32
    assert level.isfinite().all()
    assert shown.shape == (3, 4, 2)


def test_a_network_of_half_precision_answers_a_float32_state() -> None:
    """Truth 55: coefficients and mixing stay float32 when the network runs in bfloat16."""
    denoiser = Denoiser(lambda shown, level: shown.bfloat16(), Gaussian(VP(), "noise"))
    ends = denoiser(torch.randn(2, 3), scalar(0.5))
    assert ends.x.dtype == torch.float32
    assert ends.z.dtype == torch.float32


def test_a_flow_map_is_shown_its_arrival() -> None:
    seen: dict[str, Any] = {}

    def network(shown: Tensor, level: Tensor, arrival: Tensor | None = None, label: Any = None) -> Tensor:
        seen.update(level=level, arrival=arrival, label=label)
        return shown

    denoiser = Denoiser(network, Gaussian(VE(), "data"))
    denoiser(normal(2, 3), scalar(0.5), label="a")
    assert seen["arrival"] is None
    denoiser(normal(2, 3), scalar(0.5), scalar(0.25), label="a")
    assert float(seen["arrival"][0]) == pytest.approx(float(VE().sigma(scalar(0.25)).log()), rel=1e-6)
    assert seen["label"] == "a"


@pytest.mark.parametrize("wrong", [{"predicts": "eps"}, {"loss_in": "x0"}])
def test_unknown_answers(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="unknown answer"):
        Gaussian(**wrong)  # type: ignore[arg-type]


def test_sigma_max_above_200_is_no_reason_to_hold_the_score() -> None:
    """On an exploding schedule the score's row is small because sigma is large, not because the data is gone."""
    process = Gaussian(VE(0.01, 1000.0), "score")
    x, z = normal(2, 4, 3)
    x_t = process.interpolate(x, z, scalar(1.0))
    ends = process.endpoints(process.target(x, z, scalar(1.0)), x_t, scalar(1.0))
    assert (ends.x - x).abs().max() < 1e-11


@pytest.mark.parametrize("predicts", ANSWERS)
def test_a_sample_can_start_from_pure_noise_with_any_answer(predicts: str) -> None:
    """A bounded guess and the whole x_t explained, even where the answer says nothing about the data."""
    process, x_t = Gaussian(Linear(), predicts), normal(4, 3)  # type: ignore[arg-type]
    ends = process.endpoints(normal(4, 3, seed=1), x_t, scalar(1.0))
    assert ends.x.isfinite().all()
    assert (process.interpolate(*ends, scalar(1.0)) - x_t).abs().max() < 1e-10


def test_along() -> None:
    x = normal(2, 3, 4, 5)
    assert along(scalar(2.0), x).shape == ()
    assert along(torch.ones(2), x).shape == (2, 1, 1, 1)
    assert along(torch.ones(2, 3), x).shape == (2, 3, 1, 1)
    assert along(torch.ones(2), x).dtype == F64


@pytest.mark.parametrize("name", ANSWERS)
def test_no_answer_is_divided_by_next_to_nothing(name: Any) -> None:
    """Wherever the times are, the endpoints of an answer are numbers, and a determinant keeps its sign."""
    process = Gaussian(Linear(), predicts=name)
    ends = torch.tensor([1e-300, 1e-20, 1e-13, 1e-9, 1 - 1e-16], dtype=F64)
    _, _, det = process.row(name, ends)
    assert det.abs().min() >= 1e-12
    _, _, inside = process.row(name, torch.tensor([1e-3, 0.5], dtype=F64))
    assert (det.sign() == inside.sign()[0]).all()
