"""Law 10 and truths 25 to 30: guidance of Gaussians in closed form, and what each guidance must leave alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.guidance import apg, autoguide, clip, during, guide, inpaint
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import sample, trajectory
from sfumato.diffusion.schedule import VP, Linear, Schedule
from sfumato.diffusion.solvers import ab, ancestral, dpmpp_2m, euler, heun
from tests.laws.worlds import ANSWERS, F64, Told, normal, scalar

VARIANCE = torch.tensor([0.2, 1.0, 2.0], dtype=F64)
WITHOUT, PUSH = torch.tensor([0.1, 0.0, -0.5], dtype=F64), torch.tensor([1.0, -0.5, 0.3], dtype=F64)
SOLVERS = [euler(), heun(), ab(3), dpmpp_2m(), ancestral()]


@dataclass
class Labelled(Told):
    """Normal data whose mean is moved by a label, and by a second condition; hidden ones, 0, move nothing. Counts its
    calls."""

    process: Gaussian
    offset: float = 0.0
    calls: int = field(default=0, compare=False)

    def guess(
        self, x_t: Tensor, t: Tensor, s: Tensor | None = None, label: Tensor | None = None, style: Tensor | None = None
    ) -> Endpoints:
        self.calls += 1
        mean = WITHOUT + self.offset
        if label is not None:
            mean = mean + label[:, None] * PUSH
        if style is not None:
            mean = mean + style[:, None]
        return GaussianData(mean, VARIANCE, process=self.process)(x_t, t)


LABEL = torch.tensor([1.0, 2.0, -1.0, 1.0], dtype=F64)


def process(predicts: str = "velocity", schedule: Schedule = Linear()) -> Gaussian:
    return Gaussian(schedule, predicts)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [Linear(), VP()], ids=["linear", "vp"])
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("w", [-0.5, 0.3, 1.0, 4.0])
def test_law_10_guided_gaussians_are_a_gaussian(schedule: Schedule, solver: Any, w: float) -> None:
    wanted = GaussianData(WITHOUT + w * LABEL[:, None] * PUSH, VARIANCE, process=process("velocity", schedule))
    guided, times = guide(Labelled(wanted.process), w), uniform(schedule, 11)
    rngs = [Streams(key("guide"), range(4)) for _ in range(2)]
    one = trajectory(guided, normal(4, 3), times, solver, rngs[0], label=LABEL)
    two = trajectory(wanted, normal(4, 3), times, solver, rngs[1])
    for a, b in zip(one, two, strict=True):
        assert (a - b).abs().max() < 2e-13 if isinstance(schedule, Linear) else (a - b).abs().max() < 2e-11


def test_law_10_strength_per_sample() -> None:
    w, t, x_t = torch.tensor([0.0, 1.0, 2.5, -1.0], dtype=F64), scalar(0.4), normal(4, 3)
    base = Labelled(process())
    whole = guide(base, w)(x_t, t, label=LABEL)
    for i in range(4):
        alone = guide(base, float(w[i]))(x_t[i : i + 1], t, label=LABEL[i : i + 1])
        assert (whole.x[i] - alone.x[0]).abs().max() < 1e-15
        assert (whole.z[i] - alone.z[0]).abs().max() < 1e-15


def test_truth_26_plain_strengths_bit_for_bit() -> None:
    base, x_t, t = Labelled(process()), normal(4, 3), scalar(0.4)
    conditional, unconditional = base(x_t, t, label=LABEL), base(x_t, t)
    base.calls = 0
    for w, wanted in ((1, conditional), (1.0, conditional), (0, unconditional), (0.0, unconditional)):
        assert all(torch.equal(a, b) for a, b in zip(guide(base, w)(x_t, t, label=LABEL), wanted, strict=True))
    assert base.calls == 4  # one each
    for w, wanted in ((torch.ones(4), conditional), (torch.zeros(4), unconditional)):
        assert all(torch.equal(a, b) for a, b in zip(guide(base, w)(x_t, t, label=LABEL), wanted, strict=True))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_truth_27_guidance_of_any_answer(solver: Any) -> None:
    ends = []
    for answer in ANSWERS:
        rng = Streams(key("answers"), range(4))
        guided = guide(Labelled(process(answer, VP())), 3.0)
        ends.append(sample(guided, normal(4, 3), uniform(VP(), 9), solver, rng, label=LABEL))
    for other in ends[1:]:
        assert (other - ends[0]).abs().max() < 1e-10


def test_guidance_by_some_of_the_conditions() -> None:
    base, x_t, t = Labelled(process()), normal(4, 3), scalar(0.4)
    style = torch.tensor([0.3, -0.3, 0.0, 1.0], dtype=F64)
    found = guide(base, 2.0, drop=["label"])(x_t, t, label=LABEL, style=style)
    mean = WITHOUT + 2.0 * LABEL[:, None] * PUSH + style[:, None]
    wanted = GaussianData(mean, VARIANCE, process=process())(x_t, t)
    assert (found.x - wanted.x).abs().max() < 1e-14
    everything = guide(base, 2.0)(x_t, t, label=LABEL, style=style)
    assert (everything.x - found.x).abs().max() > 0.01


def test_autoguidance_is_an_extrapolation_from_the_worse() -> None:
    good, bad = Labelled(process()), Labelled(process(), offset=0.5)
    x_t, t = normal(4, 3), scalar(0.6)
    mean = WITHOUT + 0.5 + 2.0 * (-0.5) + LABEL[:, None] * PUSH
    wanted = GaussianData(mean, VARIANCE, process=process())(x_t, t)
    found = autoguide(good, bad, 2.0)(x_t, t, label=LABEL)
    assert (found.x - wanted.x).abs().max() < 1e-14
    assert (found.z - wanted.z).abs().max() < 1e-14
    assert torch.equal(autoguide(good, bad, 1.0)(x_t, t, label=LABEL).x, good(x_t, t, label=LABEL).x)
    assert torch.equal(autoguide(good, bad, 0.0)(x_t, t, label=LABEL).x, bad(x_t, t, label=LABEL).x)


def test_during_guides_inside_and_nowhere_else() -> None:
    base, x_t = Labelled(process()), normal(4, 3)
    guided = guide(base, 3.0)
    limited = during(guided, 0.3, 0.6)
    for time, inside in ((0.9, False), (0.6, True), (0.45, True), (0.3, True), (0.29, False)):
        base.calls = 0
        found = limited(x_t, scalar(time), label=LABEL)
        assert base.calls == (2 if inside else 1)
        assert torch.equal(found.x, (guided if inside else base)(x_t, scalar(time), label=LABEL).x)
    t = torch.tensor([0.9, 0.45, 0.1, 0.5], dtype=F64)  # a time per sample
    found, yes, no = limited(x_t, t, label=LABEL), guided(x_t, t, label=LABEL), base(x_t, t, label=LABEL)
    for i, wanted in enumerate((no, yes, no, yes)):
        assert torch.equal(found.x[i], wanted.x[i])
        assert torch.equal(found.z[i], wanted.z[i])


@pytest.mark.parametrize("predicts", ANSWERS)
def test_apg_without_projection_is_guidance(predicts: str) -> None:
    base = Labelled(process(predicts, VP()))
    for time in (0.9, 0.5, 0.1):
        x_t, t = normal(4, 3), scalar(time)
        found = apg(base, 3.0, parallel=1.0)(x_t, t, label=LABEL)
        wanted = guide(base, 3.0)(x_t, t, label=LABEL)
        assert (found.x - wanted.x).abs().max() < 1e-12
        assert (found.z - wanted.z).abs().max() < 1e-12


def test_apg_projects_and_limits() -> None:
    base, x_t, t = Labelled(process()), 1 + normal(4, 3), scalar(0.5)
    strong = base(x_t, t, label=LABEL).x
    push = apg(base, 3.0)(x_t, t, label=LABEL).x - strong
    assert (push * strong).sum(1).abs().max() < 1e-14
    assert push.norm(dim=1).min() > 0.1
    push = apg(base, 2.0, parallel=1.0, limit=0.05)(x_t, t, label=LABEL).x - strong
    assert (push.norm(dim=1) - 0.05).abs().max() < 1e-15
    assert torch.equal(apg(base, 1.0)(x_t, t, label=LABEL).x, strong)


def explains(found: Endpoints, x_t: Tensor, t: Tensor) -> bool:
    return bool((process().interpolate(*found, t) - x_t).abs().max() < 1e-14)


def test_clip_holds_the_data_and_law_3() -> None:
    base, x_t = Labelled(process()), 3 * normal(4, 3)
    for time in (1.0, 0.5, 0.05):
        found = clip(base, -0.4, 0.6)(x_t, scalar(time), label=LABEL)
        assert found.x.min() >= -0.4
        assert found.x.max() <= 0.6
        assert explains(found, x_t, scalar(time))
    end = sample(clip(base, -0.4, 0.6), 3 * normal(4, 3), uniform(Linear(), 8), label=LABEL)
    assert end.abs().max() <= 0.6
    wide = clip(base, -100.0, 100.0)(x_t, scalar(0.5), label=LABEL)
    assert (wide.z - base(x_t, scalar(0.5), label=LABEL).z).abs().max() < 1e-14


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_truth_30_inpainting(solver: Any) -> None:
    base, known, times = Labelled(process()), normal(4, 3, seed=7), uniform(Linear(), 9)

    def draw(denoiser: Any) -> Tensor:
        return sample(denoiser, normal(4, 3), times, solver, Streams(key("fill"), range(4)), label=LABEL)

    everything, nothing = torch.ones(4, 3, dtype=torch.bool), torch.zeros(4, 3, dtype=torch.bool)
    assert (draw(inpaint(base, known, everything)) - known).abs().max() < 1e-13
    assert (draw(inpaint(base, known, nothing)) - draw(base)).abs().max() < 1e-12
    part = torch.tensor([True, False, False])
    mixed = draw(inpaint(base, known, part))
    assert (mixed[:, 0] - known[:, 0]).abs().max() < 1e-13
    assert (mixed[:, 1:] - draw(base)[:, 1:]).abs().max() < 1e-12  # the coordinates are independent
    assert explains(inpaint(base, known, part)(known, scalar(0.3), label=LABEL), known, scalar(0.3))


def test_guidance_composes() -> None:
    base, x_t, t = Labelled(process()), normal(4, 3), scalar(0.5)
    both = clip(during(guide(base, 3.0), 0.2, 0.8), -1.0, 1.0)
    assert both.process is base.process
    assert torch.equal(both(x_t, t, label=LABEL).x, guide(base, 3.0)(x_t, t, label=LABEL).x.clamp(-1, 1))


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_unknown_conditions_raise() -> None:
    with pytest.raises(ValueError, match="colour"):
        guide(Labelled(process()), 2.0, drop=["colour"])(normal(4, 3), scalar(0.5), label=LABEL)
    with pytest.raises(TypeError, match="lable"):
        guide(Labelled(process()), 2.0)(normal(4, 3), scalar(0.5), lable=LABEL)
    network = Denoiser(lambda shown, level, label=None: shown, process())
    with pytest.raises(TypeError, match="lable"):
        guide(network, 2.0)(normal(4, 3), scalar(0.5), lable=LABEL)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.3), (-0.1, 0.5), (0.5, 1.1)])
def test_during_wants_an_interval(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="low <= high"):
        during(guide(Labelled(process()), 2.0), low, high)
