"""Truth 50: sample i is bit-equal alone, in any batch and in any order; streams do not coincide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.exact import GaussianData
from sfumato.diffusion.grids import cosine
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.rng import Streams, key, mix
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import VP
from sfumato.diffusion.solvers import SOLVERS
from tests.laws.orders import mixture
from tests.laws.worlds import F64

BATCHES = [[5], [0, 1, 2, 3, 4, 5, 6, 7], [7, 5, 3], [5, 4], [5, 1000000, 2**32 - 1]]


def both() -> list[Any]:
    mean, variance = torch.tensor([0.5, -1.0, 0.0], dtype=F64), torch.tensor([0.25, 1.0, 2.0], dtype=F64)
    return [mixture(VP()), GaussianData(mean, variance, process=Gaussian(VP(), "noise"))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_of_a_sample_is_its_own(dtype: torch.dtype) -> None:
    def draws(batch: list[int]) -> Tensor:
        rng = Streams(key("sample", 3), batch)
        first, uniform = rng.normal((len(batch), 2, 3), dtype), rng.uniform((len(batch), 6), dtype)
        return torch.cat([first.flatten(1), uniform, rng.normal((len(batch), 5), dtype)], 1)[batch.index(5)]

    alone = draws([5])
    for batch in BATCHES:
        assert torch.equal(draws(batch), alone)
    assert len(alone.unique()) == len(alone)


@pytest.mark.parametrize("solver", SOLVERS)
def test_truth_50_sample_i_is_the_same_everywhere(solver: str) -> None:
    for data in both():
        width = 1 if not isinstance(data, GaussianData) else 3

        def draw(batch: list[int], data: Any = data, width: int = width) -> Tensor:
            rng = Streams(key("sample"), batch)
            z = data.process.prior(torch.empty(len(batch), width, dtype=F64), rng)
            return sample(data, z, cosine(VP(), 12), SOLVERS[solver], rng)[batch.index(5)]

        alone = draw([5])
        assert alone.isfinite().all()
        for batch in BATCHES:
            torch.testing.assert_close(draw(batch), alone, rtol=1e-9, atol=1e-9)  # another shape, other rounding


def test_another_seed_is_another_sample() -> None:
    first, second = (Streams(key("sample", seed), [0]).normal((1, 4)) for seed in (0, 1))
    assert not torch.isclose(first, second).any()


def test_no_two_of_100000_streams_coincide() -> None:
    """torch's CPU generator keeps the low 32 bits of a seed: random 64-bit hashes of 10^5 samples would collide with
    probability 0.69 (birthday), a bijection cannot."""
    for base in (key("train", 0), key("sample", 1)):
        seeds = {mix(mix(i) ^ base) for i in range(100_000)}
        assert len(seeds) == 100_000
        assert max(seeds) < 2**32
    first = Streams(key("sample"), range(100_000)).uniform((100_000, 2), F64)
    assert len(torch.unique(first, dim=0)) == 100_000


def test_mix_is_a_bijection() -> None:
    """Its inverse, step by step (both factors are odd, hence invertible modulo 2^32)."""

    def undo_shift(word: int, by: int) -> int:
        found = word
        for _ in range(32 // by + 1):
            found = word ^ (found >> by)
        return found

    def unmix(word: int) -> int:
        word = undo_shift(word, 15)
        word = undo_shift(word * pow(0xD35A2D97, -1, 2**32) % 2**32, 15)
        return undo_shift(word * pow(0x21F0AAAD, -1, 2**32) % 2**32, 16)

    for word in [*range(2000), *(key("probe", i) for i in range(2000)), 2**32 - 1, 2**31]:
        assert unmix(mix(word)) == word


def test_torch_still_truncates_seeds() -> None:
    """The reason for 32-bit keys. If this fails torch has changed, and the keys may grow."""
    low, high = (torch.Generator().manual_seed(seed) for seed in (7, 7 + 2**32))
    assert torch.equal(torch.rand(4, generator=low), torch.rand(4, generator=high))


def test_key_separates_purposes() -> None:
    words: list[tuple[Any, ...]] = [(), (0,), (1,), (-1,), ("",), ("train",), ("train", 0), ("train", 1), (0, "train")]
    words += [("tra", "in"), ("sample",), ("sample", 0), (0, 0), (0, 0, 0), (2**40,), (2**32,), (2**64,), ("a", "b")]
    words += [("ab",), ("abcd",), ("abcd", 0), ("abcd\0",), ("abcd\0\0\0\0",), ("train", 0, 1), ("train", 1, 0)]
    words += [("train", seed, step) for seed in range(100) for step in range(100, 300)]
    assert len({key(*word) for word in words}) == len(words)
    assert key("train", 3) == key("train", 3)
    # neighbouring steps share no low bits: about half of the bits differ
    apart = [bin(key("train", i) ^ key("train", i + 1)).count("1") for i in range(500)]
    assert 14 < sum(apart) / 500 < 18


def test_streams_of_two_families_are_uncorrelated() -> None:
    a, b = (Streams(key("a", i), range(2000)).normal((2000, 3), F64) for i in (0, 1))
    assert abs(float((a * b).mean())) < 5 / 6000**0.5
    assert abs(float(a.mean())) < 5 / 6000**0.5
    assert float(a.std()) == pytest.approx(1, abs=0.05)
    assert abs(float((a[1:] * a[:-1]).mean())) < 5 / 6000**0.5


@pytest.mark.parametrize("shape", [(3, 2), (), (5,)])
def test_streams_fill_batches_of_their_own_size(shape: tuple[int, ...]) -> None:
    for draw in (Streams(1, range(4)).normal, Streams(1, range(4)).uniform):
        with pytest.raises(ValueError, match="one stream per row"):
            draw(shape)
