"""A film whose law is known in full: whatever is known of it and in whichever order it is made, its law is reproduced."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import loss
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.process import Gaussian
from sfumato.fields.video.matrices import ROWS, matrix, spelt
from sfumato.fields.video.queries import Clips, Known
from sfumato.fields.video.rollout import parts
from tests.fields.video.made import Exact, exact_model, facts_of

A, FRAMES, MANY = 0.8, 4, 2048
ORDERS = ["whole", "pyramid:3", "rows"]


def films(known: Known | None = None, count: int = MANY, **more: Any) -> Clips:
    facts = facts_of(FRAMES)
    return Clips(("",), count, None, facts, known=() if known is None else (known,), context=2, **more)


def given(values: dict[int, float]) -> Known:
    x, held = torch.zeros(FRAMES, 3, 1, 1), torch.zeros(FRAMES, dtype=torch.bool)
    for place, value in values.items():
        x[place], held[place] = value, True
    return Known(x, held)


def drawn(clips: Clips, steps: int = 24, seed: int = 0) -> Tensor:
    """(n, F) numbers: the first channel."""
    model = exact_model(A, FRAMES, steps, seed=seed)
    found = [part.x[:, :, 0, 0, 0] for part in model.recipe.draw(model, clips, range(len(clips)))]
    return torch.cat(found).double()


def conditional(values: dict[int, float], frames: int = FRAMES) -> tuple[list[int], Tensor, Tensor]:
    """The frames that are open, their mean and covariance given the others."""
    whole = Exact(A).covariance(frames)
    shut, free = list(values), [k for k in range(frames) if k not in values]
    if not shut:
        return free, torch.zeros(frames, dtype=torch.float64), whole
    gain = whole[free][:, shut] @ torch.linalg.inv(whole[shut][:, shut])
    mean = gain @ torch.tensor(list(values.values()), dtype=torch.float64)
    return free, mean, whole[free][:, free] - gain @ whole[shut][:, free]


def agrees(x: Tensor, mean: Tensor, covariance: Tensor, bias: float = 0.0) -> None:
    """Mean and covariance of x (n, k) within four standard errors and what is left of the steps."""
    n = len(x)
    error = (covariance.diag() / n).sqrt()
    assert bool(((x.mean(0) - mean).abs() < 4 * error + bias).all()), (x.mean(0), mean)
    found = torch.cov(x.T).reshape(covariance.shape)
    spread = ((covariance**2 + covariance.diag()[:, None] * covariance.diag()) / n).sqrt()
    assert bool(((found - covariance).abs() < 4 * spread + bias).all()), (found, covariance)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("values", [{}, {0: 1.5, 1: -0.5}, {0: 1.0, 3: -1.0}, {1: 2.0}], ids=str)
def test_whatever_is_known_and_in_any_order_the_law_is_kept(order: str, values: dict[int, float]) -> None:
    """Nothing, a prefix, first and last, one in the middle: the rest has the conditional law (Kalman's)."""
    x = drawn(films(given(values) if values else None, order=order))
    free, mean, covariance = conditional(values)
    agrees(x[:, free], mean, covariance, bias=0.02)
    for place, value in values.items():
        assert bool((x[:, place] == value).all())


def test_a_film_that_goes_on_keeps_its_law() -> None:
    """Ten clips long, from two frames of the one before: variance, and correlation across every border, as in the film."""
    frames = 20
    x = drawn(films(frames=frames, context_noise=0.0, count=2048))
    assert x.shape == (2048, frames)
    agrees(x, torch.zeros(frames, dtype=torch.float64), Exact(A).covariance(frames), bias=0.03)


def test_context_that_keeps_noise_loses_what_it_hides() -> None:
    """Of frames shown at time t the next keeps less of the correlation: that of the best guess from what is shown."""
    time = 0.3
    x = drawn(films(frames=6, context_noise=time, count=MANY))  # frames 2, 3 are shown noisy, 4 and 5 are new
    alpha, sigma = 1 - time, time
    whole = Exact(A).covariance(4)
    shown = alpha**2 * whole[:2, :2] + sigma**2 * torch.eye(2, dtype=torch.float64)
    gain = alpha * whole[2:, :2] @ torch.linalg.inv(shown)  # of the new on what is shown
    across = alpha * gain @ whole[:2, :2]  # covariance of the new with frames 2, 3
    found = (x[:, 4:6].T @ x[:, 2:4]) / len(x)
    assert bool(((found - across).abs() < 4 / math.sqrt(MANY) + 0.02).all()), (found, across)
    assert abs(float(x[:, 4].var()) - 1) < 0.1


@pytest.mark.parametrize("order", ORDERS)
def test_known_frames_come_back_to_the_bit(order: str) -> None:
    values = {0: 0.1234567, 1: -1.7, 2: 0.3, 3: 2.2}
    x = drawn(films(given(values), count=8, order=order))
    assert torch.equal(x.float(), torch.tensor(list(values.values())).expand(8, -1))


def test_with_nothing_known_a_matrix_of_one_column_is_the_plain_walk() -> None:
    """One time for all frames, spelt for each frame, is the walk with that one time."""
    plain = drawn(films(count=16))
    model = exact_model(A, FRAMES)
    clips = films(count=16)

    def begin(process: Any, z: Tensor, times: Tensor, query: Any) -> tuple[Tensor, Tensor]:
        return process.start(z), matrix(times, torch.zeros(len(z), FRAMES, dtype=torch.bool), 0)

    (part,) = model.draw(clips, range(16), begin=begin)
    assert torch.allclose(part.x[:, :, 0, 0, 0].double(), plain, atol=1e-5)


def test_equal_frames_stay_equal() -> None:
    """The exact denoiser of films that stand still: from unequal noise to frames that are equal."""
    model = exact_model(1.0, FRAMES, 40)
    (part,) = model.draw(films(count=64), range(64))
    x = part.x[:, :, 0, 0, 0]
    assert float((x - x[:, :1]).abs().max()) < 0.02
    assert abs(float(x[:, 0].std()) - 1) < 0.3


# ---- films that go on ------------------------------------------------------------------------------------------------


def test_the_first_frames_do_not_depend_on_the_length_the_batch_or_the_others() -> None:
    long, short = drawn(films(frames=14, count=6)), drawn(films(frames=9, count=6))
    assert torch.equal(long[:, :9], short)
    model = exact_model(A, FRAMES, batch=4)
    alone = torch.cat([part.x[:, :, 0, 0, 0] for part in model.recipe.draw(model, films(frames=9, count=6), [4])])
    assert torch.allclose(alone.double(), short[4:5], atol=1e-5)


def test_a_film_begun_again_goes_on_as_it_would_have() -> None:
    model, clips = exact_model(A, FRAMES), films(frames=14, count=3)
    made = list(parts(model, clips, range(3)))
    whole = torch.cat([new for _, new in made], 1)
    assert [at for at, _ in made] == [0, 4, 6, 8, 10, 12]
    for stop in (1, 3):
        done = torch.cat([new for _, new in made[:stop]], 1)
        rest = torch.cat([new for _, new in parts(model, clips, range(3), done)], 1)
        assert torch.equal(torch.cat((done, rest), 1), whole)


# ---- matrices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 1, 3, 6])
@pytest.mark.parametrize("still", [0.0, 0.03])
def test_every_column_falls_from_noise_to_data(lag: int, still: float) -> None:
    times = torch.linspace(1, 0, 7, dtype=torch.float64)
    known = torch.tensor([[False] * 5, [True, True, False, False, False], [True, False, True, False, False]])
    found = matrix(times, known, lag, still)
    assert found.shape == (7 + lag * 4, 3, 5)
    assert bool((found.diff(dim=0) <= 0).all())
    assert bool((found[:, known] == still).all())
    assert bool((found[0][~known] == 1).all())
    assert bool((found[-1][~known] == 0).all())
    for row in range(3):
        own = found[:, row, ~known[row]]
        for k in range(1, own.shape[1]):  # each is where the one before was so many steps ago
            assert torch.equal(own[lag:, k], own[: len(own) - lag, k - 1])


def test_orders_are_spelt() -> None:
    assert spelt("whole", 0.0, 2).tolist() == [[0, 0], [0, 0]]
    assert spelt("pyramid:5", 0.1, 1).tolist() == [[5, 0.1]]
    assert spelt("rows", 0.0, 1).tolist() == [[ROWS, 0]]


# ---- what counts -----------------------------------------------------------------------------------------------------


def test_frames_that_only_fill_up_are_as_if_not_there() -> None:
    """Loss and gradient are the same whatever stands in them (law 16), and known frames are left out of the loss."""
    from sfumato.fields.video.network import Filmed

    torch.manual_seed(0)
    network = Filmed(width=32, depth=2, patch=8, causal=True)  # so that no frame looks at those behind it
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    process = Gaussian(predicts="data", loss_in="velocity")
    x, z = torch.randn(2, 4, 3, 16, 16), torch.randn(2, 4, 3, 16, 16)
    t = torch.tensor([[0.0, 0.6, 0.6, 0.6], [0.5, 0.2, 0.9, 0.4]])
    weight = torch.ones(2, 4, 1, 1, 1)
    weight[:, 3] = 0

    def found(x: Tensor) -> tuple[Tensor, Tensor]:
        network.zero_grad()
        value = loss(Denoiser(network, process), x, t, z=z, weight=weight)
        value.sum().backward()
        return value.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    other = x.clone()
    other[:, 3] = 100.0
    before, after = found(x), found(other)
    assert torch.allclose(before[0], after[0], rtol=1e-6)
    assert torch.allclose(before[1], after[1], rtol=1e-4, atol=1e-6)
    wanted = loss(Denoiser(network, process), x[:, :3], t[:, :3], z=z[:, :3])
    assert torch.allclose(before[0], wanted.detach(), rtol=1e-5)
