"""Counted random numbers: the published words, the right laws, and a row's own whatever stands beside it."""

from __future__ import annotations

import math

import pytest
import torch

from sfumato.diffusion import Streams, key
from sfumato.diffusion.philox import mixed, philox
from sfumato.diffusion.rng import mix

F32, F64 = torch.float32, torch.float64
# known answers of Philox4x32-10 from the authors' Random123 library: counter, key, result
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "words", "wanted"), KNOWN)
def test_known_answers(counter: list[int], words: list[int], wanted: list[int]):
    found = philox(tuple(torch.tensor([[word]]) for word in counter), tuple(torch.tensor([[word]]) for word in words))
    assert [int(word) for word in found] == wanted


def counted(indices: list[int], base: int = key("philox")) -> Streams:
    return Streams(base, indices, counted=True)


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_a_row_is_its_own_alone_and_among_others(law: str, dtype: torch.dtype):
    whole = counted([3, 1, 7])
    first, second = (getattr(whole, law)((3, 5, 2), dtype) for _ in range(2))
    assert first.dtype == dtype
    for place, index in enumerate([3, 1, 7]):
        alone = counted([index])
        for rows in (first, second):
            assert torch.equal(getattr(alone, law)((1, 5, 2), dtype)[0], rows[place])
    assert not (first == second).any()  # a draw is new every time


def test_families_and_rows_differ():
    a, b = counted([0, 1, 2]).uniform((3, 400)), counted([0, 1, 2], key("other")).uniform((3, 400))
    rows = torch.cat([a, b]).double()
    assert torch.corrcoef(rows).sub(torch.eye(6)).abs().max() < 5 / 20
    assert len({row.numpy().tobytes() for row in rows}) == 6


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_uniform_numbers_are_uniform(dtype: torch.dtype):
    u = counted(list(range(64))).uniform((64, 4000), dtype).double().flatten().sort().values
    assert u[0] >= 0
    assert u[-1] < 1
    n = len(u)
    gap = (u - (torch.arange(n) + 0.5) / n).abs().max() * math.sqrt(n)
    assert gap < 1.95  # Kolmogorov: one in a thousand


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
def test_normal_numbers_are_normal(dtype: torch.dtype):
    z = counted(list(range(64))).normal((64, 4001), dtype).double()
    flat = z.flatten().sort().values
    n = len(flat)
    gap = (torch.special.ndtr(flat) - (torch.arange(n) + 0.5) / n).abs().max() * math.sqrt(n)
    assert gap < 1.95
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(flat.pow(power).mean()) - moment) < 4 * math.sqrt(spread / n)
    pairs = (z[:, :-1:2] * z[:, 1::2]).mean()  # of one Box-Muller pair
    assert abs(float(pairs)) < 4 / math.sqrt(n / 2)


def test_a_batch_needs_a_stream_for_each_row():
    with pytest.raises(ValueError, match="3 streams cannot fill a batch of shape \\(2, 4\\)"):
        counted([0, 1, 2]).normal((2, 4))


def test_words_are_mixed_as_one_by_one():
    words = [0, 1, 2, 0xFFFFFFFF, 0x80000000, 123456789]
    assert mixed(torch.tensor(words)).tolist() == [mix(word) for word in words]
