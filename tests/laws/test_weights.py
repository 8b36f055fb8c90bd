"""Law 16: a weight of 0 is as if the number were not there. In every world, for every answer, whatever stands there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Clean, Denoiser, Gaussian, Linear, Product, Streams, edm_weight, key, loss, tree
from sfumato.diffusion.weights import mean_counted
from tests.laws.eight import LENGTH, ROWS, WORLDS, World, numbers
from tests.laws.worlds import ANSWERS, F64, normal

CASES: dict[str, World] = {
    **{
        f"gaussian {predicts} in {loss_in}": replace(
            WORLDS["gaussian"],
            process=Gaussian(Linear(), predicts, loss_in, edm_weight()),  # type: ignore[arg-type]
        )
        for predicts in ANSWERS
        for loss_in in (None, "v")
    },
    **WORLDS,
}
every_world = pytest.mark.parametrize("name", CASES)
JUNK = {"zeros": 0.0, "huge": 1e38, "infinities": math.inf, "no numbers": math.nan}
PAD = 3
T = torch.tensor([0.2, 0.5, 0.9], dtype=F64)


def has_length(value: Tensor) -> bool:
    return value.ndim >= 2


def longer(value: Any, junk: float) -> Any:
    """``PAD`` more places behind every row of every part that has places, filled with junk (tokens: with a token)."""

    def padded(leaf: Tensor) -> Tensor:
        if not has_length(leaf):
            return leaf
        fill: Any = junk if leaf.is_floating_point() else 1
        return torch.cat([leaf, torch.full((len(leaf), PAD, *leaf.shape[2:]), fill, dtype=leaf.dtype)], 1)

    return tree.each(padded, value)


def counts(value: Any) -> Any:
    """The weight of a padded tree: 1 in its first places, 0 in the others."""
    return tree.each(
        lambda leaf: (
            torch.cat([torch.ones(len(leaf), leaf.shape[1] - PAD), torch.zeros(len(leaf), PAD)], 1)
            if has_length(leaf)
            else torch.ones(len(leaf))
        ),
        value,
    )


def drawn(world: World, t: Any) -> tuple[Any, Any, Any]:
    """(x, z, answer) of a batch, the answer with a gradient to come."""
    process = world.process
    z = process.prior(world.x, Streams(key("law 16"), range(ROWS)))
    shown, level = process.precondition(process.interpolate(world.x, z, t), t)
    answer = tree.each(lambda a: a.detach().double().requires_grad_(), world.answer(shown, level))
    return world.x, z, answer


def gradients(found: Tensor, answer: Any) -> list[Tensor]:
    return list(torch.autograd.grad(found.sum(), tree.leaves(answer)))


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-13)


@every_world
@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("times", ["of a row", "of a place"])
def test_law_16_padding_changes_neither_loss_nor_gradient(name: str, junk: str, times: str) -> None:
    world = CASES[name]
    t = T if times == "of a row" else T[:, None] * torch.tensor([1.0, 0.5, 0.8, 0.3], dtype=F64)
    x, z, answer = drawn(world, t)
    plain = world.process.loss(answer, x, z, t)
    wide = tree.each(lambda a: a.detach().requires_grad_(), longer(answer, JUNK[junk]))
    long_t = t if t.ndim == 1 else torch.cat([t, torch.full((ROWS, PAD), 0.4, dtype=F64)], 1)
    found = world.process.loss(wide, longer(x, JUNK[junk]), longer(z, JUNK[junk]), long_t, counts(longer(x, 0.0)))
    assert close(found, plain)
    assert float(plain.detach().max()) > 0
    for short, long in zip(gradients(plain, answer), gradients(found, wide), strict=True):
        assert close(long[:, :LENGTH], short)
        assert bool((long[:, LENGTH:] == 0).all())


@every_world
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_law_16_in_narrow_types(name: str, dtype: torch.dtype) -> None:
    """Where squares of what stands in the pad overflow."""
    world = CASES[name]
    x, z, answer = drawn(world, T)
    answer = tree.each(lambda a: a.detach().to(dtype).requires_grad_(), longer(answer, 3e38))
    x, z = (tree.each(lambda a: a.float() if a.is_floating_point() else a, value) for value in (x, z))
    found = world.process.loss(answer, longer(x, 3e38), longer(z, 3e38), T.float(), counts(longer(x, 0.0)))
    assert bool(found.isfinite().all())
    for gradient in gradients(found, answer):
        assert bool(gradient.isfinite().all())
        assert bool((gradient[:, LENGTH:] == 0).all())
        assert bool((gradient[:, :LENGTH] != 0).any())


@every_world
def test_rows_of_several_lengths(name: str) -> None:
    """A batch of rows that are padded to the longest has the losses of its rows, each alone and whole."""
    world = CASES[name]
    x, z, answer = drawn(world, T)
    lengths = (4, 1, 3)
    weight = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).double()
    weight = tree.each(lambda leaf: weight if has_length(leaf) else torch.ones(ROWS), x)
    found = world.process.loss(answer, x, z, T, weight)
    for row, length in enumerate(lengths):
        alone = [
            tree.each(lambda v, i=row, n=length: v[i : i + 1, :n] if has_length(v) else v[i : i + 1], value)
            for value in (answer, x, z)
        ]
        assert close(world.process.loss(*alone, T[row : row + 1]), found[row : row + 1])


@every_world
def test_a_ratio_scales_its_row(name: str) -> None:
    world = CASES[name]
    x, z, answer = drawn(world, T)
    ratio = torch.tensor([0.25, 1.0, 7.5], dtype=F64)
    plain, scaled = world.process.loss(answer, x, z, T), world.process.loss(answer, x, z, T, each_part(x, ratio))
    assert close(scaled, ratio * plain)
    for one, two in zip(gradients(plain, answer), gradients(scaled, answer), strict=True):
        assert close(two, ratio.reshape(-1, *[1] * (one.ndim - 1)) * one)


def each_part(x: Any, weight: Tensor) -> Any:
    return tree.each(lambda leaf: weight, x)


@every_world
def test_a_row_in_which_nothing_counts_is_zero(name: str) -> None:
    world = CASES[name]
    x, z, answer = drawn(world, T)
    counted = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    found = world.process.loss(answer, x, z, T, each_part(x, counted))
    assert close(found, counted * world.process.loss(answer, x, z, T))
    assert found[1] == 0
    assert all(bool((gradient[1] == 0).all()) for gradient in gradients(found, answer))
    nothing = world.process.loss(answer, x, z, T[:, None] * torch.zeros(1, LENGTH, dtype=F64))  # all of it was given
    assert nothing.tolist() == [0, 0, 0]
    assert all(bool((gradient == 0).all()) for gradient in gradients(nothing, answer))


@every_world
def test_what_was_given_does_not_count(name: str) -> None:
    """Places with a time of their own of 0: the loss is that of the others, alone."""
    world = CASES[name]
    known = torch.tensor([True, False, False, True])
    t = torch.where(known, 0.0, T[:, None])
    x, z, answer = drawn(world, t)
    found = world.process.loss(answer, x, z, t)
    rest = [tree.each(lambda v: v[:, ~known] if has_length(v) else v, value) for value in (answer, x, z)]
    wanted = world.process.loss(*rest, t[:, ~known])
    assert close(found, wanted)
    for gradient in gradients(found, answer):
        assert bool((gradient[:, known] == 0).all())
    t = T.clone()  # one time a row says nothing about what was given: there all of it counts, at t = 0 too
    t[1] = 0.0
    if name not in ("masked", "uniform_tokens", "product") and "score" not in name:
        assert close(world.process.loss(answer, x, z, t)[0], world.process.loss(answer, x, z, T)[0])


@every_world
def test_a_weight_that_does_not_fit_is_refused(name: str) -> None:
    world = CASES[name]
    x, z, answer = drawn(world, T)
    for weight in (torch.ones(ROWS, LENGTH + 1), torch.ones(ROWS + 1), torch.ones(ROWS, LENGTH, 1, 1, 1, 1)):
        with pytest.raises(ValueError, match=r"a weight of shape .* does not fit errors of shape"):
            world.process.loss(answer, x, z, T, each_part(x, weight))


# ---- what a weight means -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [10, 40])
def test_latitudes_weigh_as_their_area(bands: int) -> None:
    """The mean of sin^2 of the latitude over the globe is 1/3, of cos^2 2/3; without a weight, poles would count as much as
    the equator and both were 1/2. Cosines average 1, so a constant error is itself."""
    latitude = math.pi * ((torch.arange(bands, dtype=F64) + 0.5) / bands - 0.5)
    weight = latitude.cos() / latitude.cos().mean()
    fields = torch.stack([torch.ones_like(latitude), latitude.sin() ** 2, latitude.cos() ** 2])
    error = fields[:, None, :, None].expand(3, 2, bands, 2 * bands)  # (B, C, latitude, longitude)
    found = mean_counted(error, T, weight[None, None, :, None])
    assert found[0] == pytest.approx(1.0, abs=1e-12)
    assert (found - torch.tensor([1.0, 1 / 3, 2 / 3], dtype=F64)).abs().max() < 1.5 / bands**2


def test_weights_are_not_divided_out() -> None:
    """Twice the weight is twice the loss, and masks of any type count."""
    error = normal(2, 3, 4).abs()
    assert close(mean_counted(error, T[:2], torch.full((2, 3), 2.0)), 2 * mean_counted(error, T[:2]))
    for mask in (torch.tensor([True, False, True]), torch.tensor([1, 0, 1])):
        found = mean_counted(error, T[:2], mask[None])
        assert close(found, error[:, [0, 2]].mean((1, 2)))


def test_a_weight_and_times_of_their_own_together() -> None:
    """A place counts if it is neither padding nor given."""
    error, t = normal(2, 4, 3).abs(), torch.tensor([[0.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]], dtype=F64)
    weight = torch.tensor([[1, 1, 1, 0], [1, 3, 1, 1]], dtype=F64)
    wanted = torch.stack([error[0, [1, 2]].mean(), (error[1, :2] * torch.tensor([[1.0], [3.0]])).mean()])
    assert close(mean_counted(error, t, weight), wanted)


# ---- products --------------------------------------------------------------------------------------------------------


def two_parts() -> tuple[Product, Any, Any, Any]:
    process = Product({"b": 2.0}, a=Gaussian(), inner=Product(c=Gaussian()), b=Gaussian(), label=Clean())
    x = {"a": normal(3, 4), "inner": {"c": normal(3, 2, seed=1)}, "b": normal(3, 2, seed=2), "label": numbers(3)}
    z = process.prior(x, Streams(key("parts"), range(3)))
    return process, tree.each(lambda v: v.double() + 1, x), x, z


def test_a_part_left_out_counts_in_full() -> None:
    process, answer, x, z = two_parts()
    alone = process.losses(answer, x, z, T)
    weight = {"a": torch.tensor([1.0, 0.0, 2.0], dtype=F64)}
    found = process.losses(answer, x, z, T, weight)
    assert close(found["a"], weight["a"] * alone["a"])
    for name in ("inner", "b", "label"):
        assert torch.equal(found[name], alone[name])
    nested = process.losses(answer, x, z, T, {"inner": {"c": weight["a"]}})
    assert close(nested["inner"], weight["a"] * alone["inner"])
    assert close(process.loss(answer, x, z, T, weight), found["a"] + found["inner"] + 2 * found["b"])


def test_one_weight_for_all_parts() -> None:
    process, answer, x, z = two_parts()
    ratio = torch.tensor([0.5, 2.0, 0.0], dtype=F64)
    assert close(process.loss(answer, x, z, T, ratio), ratio * process.loss(answer, x, z, T))


def test_a_weight_of_no_part_is_refused() -> None:
    process, answer, x, z = two_parts()
    with pytest.raises(ValueError, match="weight has unknown 'd': the parts are a, inner, b, label"):
        process.loss(answer, x, z, T, {"d": torch.ones(3)})
    with pytest.raises(ValueError, match=r"part 'b'.*a weight of shape \(3, 5\) does not fit"):
        process.loss(answer, x, z, T, {"b": torch.ones(3, 5)})


def test_the_loss_of_a_denoiser_takes_the_weight() -> None:
    """Through ``loss`` itself: a padded batch with the noise of the short one."""
    process = Gaussian(Linear(), "data", "velocity")
    denoiser = Denoiser(lambda shown, level: shown.sin(), process)
    x, z = normal(3, 4), normal(3, 4, seed=1)
    wanted = loss(denoiser, x, T, z=z)
    found = loss(denoiser, longer(x, 5.0), T, z=longer(z, -3.0), weight=counts(longer(x, 0.0)))
    assert close(found, wanted)
    assert not close(loss(denoiser, longer(x, 5.0), T, z=longer(z, -3.0)), wanted)
