"""Random numbers by counting: a function of (key, row, number of the draw, place), for whole batches at once on a GPU.

Row by row, as the CPU draws, a batch of thousands costs a GPU more than the network (one kernel a row). Philox4x32-10
(Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") scrambles a counter of four 32-bit words under a key of
two, by integer products alone, so it gives the same bits on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_PRODUCTS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def mixed(words: Tensor) -> Tensor:
    """:func:`~sfumato.diffusion.rng.mix` of many words of 32 bits (in int64) at once."""
    words = words ^ (words >> 16)
    words = (words * 0x21F0AAAD) & _LOW
    words = words ^ (words >> 15)
    words = (words * 0xD35A2D97) & _LOW
    return words ^ (words >> 15)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Four words of 32 random bits (in int64) for each counter and key, given as words of 32 bits that broadcast."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        one, two = a * _PRODUCTS[0], c * _PRODUCTS[1]  # their low 64 bits; the sign is cut off with the shift
        a, b, c, d = (two >> 32) & _LOW ^ b ^ k, two & _LOW, (one >> 32) & _LOW ^ d ^ m, one & _LOW
        k, m = (k + _WEYL[0]) & _LOW, (m + _WEYL[1]) & _LOW
    return [a, b, c, d]


def words(keys: Tensor, draw: int, count: int) -> Tensor:
    """``count`` words of 32 random bits for each row: (B, count) int64. keys (B, 2); draw: how often was drawn before."""
    blocks = -(-count // 4)
    place = torch.arange(blocks, device=keys.device)[None]
    zero = torch.zeros_like(place)
    found = philox((place, zero + draw, zero, zero), (keys[:, :1], keys[:, 1:]))
    return torch.stack(torch.broadcast_tensors(*found), -1).flatten(1)[:, :count]


def uniform(keys: Tensor, draw: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Uniform numbers in [0, 1) of shape (B, ...), with all the bits that the type holds."""
    count = math.prod(shape[1:])
    if dtype == torch.float64:
        high, low = words(keys, draw, 2 * count).unflatten(1, (count, 2)).unbind(-1)
        return ((high >> 5) * 2.0**26 + (low >> 6)).to(torch.float64).mul(2.0**-53).reshape(tuple(shape))
    return (words(keys, draw, count) >> 8).to(torch.float32).mul(2.0**-24).to(dtype).reshape(tuple(shape))


def normal(keys: Tensor, draw: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Standard normal numbers of shape (B, ...), by Box and Muller (1958) in float64: two from two words, out to 6.7
    deviations."""
    count = math.prod(shape[1:])
    pairs = -(-count // 2)
    one, two = words(keys, draw, 2 * pairs).unflatten(1, (pairs, 2)).unbind(-1)
    radius = (-2 * ((one + 1).to(torch.float64) * 2.0**-32).log()).sqrt()
    angle = two.to(torch.float64) * (2 * math.pi * 2.0**-32)
    both = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1)[:, :count]
    return both.to(dtype).reshape(tuple(shape))
