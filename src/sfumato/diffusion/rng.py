"""Randomness: one stream per sample.

Sample i draws from its own generator, keyed by ``(seed, i)``. So it is the same in a batch of 1 or 64, in any order, on
any number of machines, and nothing about randomness ever needs to be stored: it is a function of the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sfumato.diffusion import philox

_MASK = 0xFFFFFFFF
NO_DOUBLES = frozenset({"mps"})
"""Kinds of devices that have no float64: what wants it there is drawn on the CPU, or takes float32."""


def widest(device: torch.device) -> torch.dtype:
    """The widest floats that a device has."""
    return torch.float32 if device.type in NO_DOUBLES else torch.float64


def mix(word: int) -> int:
    """A bijection of the 32-bit integers in which every input bit moves every output bit (Wellons' lowbias32)."""
    word &= _MASK
    word = ((word ^ (word >> 16)) * 0x21F0AAAD) & _MASK
    word = ((word ^ (word >> 15)) * 0xD35A2D97) & _MASK
    return word ^ (word >> 15)


def key(*words: int | str) -> int:
    """Fold integers and names (the purpose of a stream: "train", "sample") into one 32-bit key."""
    state = 0x9E3779B9
    for word in words:
        data = word.encode() if isinstance(word, str) else int(word).to_bytes(16, "little", signed=True)
        for start in range(0, len(data), 4):
            state = mix(state ^ int.from_bytes(data[start : start + 4], "little"))
        state = mix(state + len(data))
    return state


class Streams:
    """Random numbers for a batch, each row from its own stream.

    Args:
        base: key of the family of streams, from :func:`key`; or one for each row.
        indices: number of each row's stream within the family, below 2**32: (B,).
        device: where the numbers are drawn (for a device without float64 the CPU). CPU and GPU streams differ.
        counted: by counting (:mod:`~sfumato.diffusion.philox`), for whole batches at once; None: on a GPU.

    torch's CPU generator keeps only the low 32 bits of a seed, so the seed of stream i is a bijection of i: two
    streams of one family never coincide (a random 64-bit hash would collide after about 10**5 samples).
    """

    def __init__(
        self,
        base: int | Sequence[int],
        indices: Sequence[int] | range,
        device: torch.device | str = "cpu",
        counted: bool | None = None,
    ):
        self.device = torch.device(device)
        if self.device.type in NO_DOUBLES:
            self.device = torch.device("cpu")
        bases = [base] * len(indices) if isinstance(base, int) else list(base)
        if len(bases) != len(indices):
            raise ValueError(f"{len(bases)} keys for {len(indices)} streams: give one, or one for each row")
        self.counted = self.device.type == "cuda" if counted is None else counted
        self.count, self.drawn = len(bases), 0
        if self.counted:
            family, own = (torch.tensor(list(words), dtype=torch.int64) & _MASK for words in (bases, indices))
            self.keys = moved(torch.stack([family, philox.mixed(philox.mixed(own) ^ family)], 1), self.device)
        else:
            seeds = (mix(mix(i) ^ family) for family, i in zip(bases, indices))
            self.generators = [torch.Generator(device=self.device).manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return self.count

    def _checked(self, shape: Sequence[int]) -> None:
        if len(shape) == 0 or shape[0] != len(self):
            raise ValueError(f"{len(self)} streams cannot fill a batch of shape {tuple(shape)}: one stream per row")

    def part(self, rows: slice) -> Streams:
        """The streams of these rows: the very same ones, from which both draw."""
        own = Streams(0, (), self.device)
        own.generators = self.generators[rows]
        return own

    def _rows(
        self, shape: Sequence[int], dtype: torch.dtype
    ) -> tuple[Tensor, Iterator[tuple[Tensor, torch.Generator]]]:
        """An empty tensor, and its rows with their generators."""
        out = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        return out, zip(out.unbind(), self.generators, strict=True)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of the given shape (B, ...), row i from stream i."""
        self._checked(shape)
        if self.counted:
            self.drawn += 1
            return philox.normal(self.keys, self.drawn, shape, dtype)
        out, rows = self._rows(shape, dtype)
        for row, generator in rows:
            row.normal_(generator=generator)
        return out

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1) of the given shape (B, ...), row i from stream i."""
        self._checked(shape)
        if self.counted:
            self.drawn += 1
            return philox.uniform(self.keys, self.drawn, shape, dtype)
        out, rows = self._rows(shape, dtype)
        for row, generator in rows:
            row.uniform_(generator=generator)
        return out


Rng = Streams | torch.Generator | None


def normal_like(x: Tensor, rng: Rng) -> Tensor:
    """Standard normal noise shaped like x: from streams, a torch generator, or torch's global one. It has the type of x, if
    that is a float; drawn in float32 at least, so that the numbers are the same ones in a narrower type, but rounded."""
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    if isinstance(rng, torch.Generator):
        drawn = torch.randn(x.shape, generator=rng, dtype=dtype, device=rng.device).to(x.device)
    elif rng is None:
        drawn = torch.randn(x.shape, dtype=dtype, device=x.device)
    else:
        drawn = moved(rng.normal(x.shape, dtype), x.device)
    return drawn.to(x.dtype) if x.is_floating_point() else drawn


def uniform_like(x: Tensor, rng: Rng, shape: Sequence[int] | None = None) -> Tensor:
    """Uniform numbers in [0, 1), float64 where the device of x has it, shaped like x (or of ``shape``, whose first axis is the
    batch's)."""
    shape, dtype = tuple(x.shape if shape is None else shape), widest(x.device)
    if isinstance(rng, torch.Generator):
        return torch.rand(shape, generator=rng, dtype=widest(rng.device), device=rng.device).to(x.device, dtype)
    if rng is None:
        return torch.rand(shape, dtype=dtype, device=x.device)
    return moved(rng.uniform(shape, dtype), x.device)


def moved(value: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the CPU to a GPU through pinned memory, so that nothing waits for the copy."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)
