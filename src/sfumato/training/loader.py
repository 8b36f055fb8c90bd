"""Batches as functions of (seed, step): nothing about the data order is ever stored.

Step k sees the items `batch_indices(count, batch, k, seed)`, shared out over processes and pieces in order. Loading
processes only fetch what they are told, so their number changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sfumato.data import Dataset, batch_indices


@dataclass(frozen=True)
class Batch:
    """Rows of one step: `x` (B, ...), `condition` name -> (B, ...), places in the global batch (B,), data indices (B,)."""

    x: Tensor
    condition: dict[str, Tensor]
    places: Tensor
    indices: list[int]

    def pieces(self, count: int) -> Iterator[Batch]:
        """The batch cut into equal pieces, in order."""
        size = len(self.indices) // count
        for start in range(0, size * count, size):
            part = slice(start, start + size)
            condition = {name: value[part] for name, value in self.condition.items()}
            yield Batch(self.x[part], condition, self.places[part], self.indices[part])


def stack(items: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """Items of a dataset as one batch of tensors."""
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}


class _Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.dataset[index]


def _plan(count: int, batch: int, seed: int, start: int, stop: int, places: range) -> Iterator[list[int]]:
    for step in range(start, stop):
        yield batch_indices(count, batch, step, seed)[places.start : places.stop].tolist()


class _Order:
    """The batches of a run as torch's loader wants them: an iterable that can be iterated again."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __iter__(self) -> Iterator[list[int]]:
        return _plan(*self.arguments)


def batches(
    dataset: Dataset, batch: int, seed: int, start: int, stop: int, places: range, workers: int = 0
) -> Iterator[Batch]:
    """The batches of steps start..stop-1, of which this process gets the given places of each global batch."""
    order = _Order(len(dataset), batch, seed, start, stop, places)
    loaded: Any
    if workers == 0:
        loaded = (stack([dataset[i] for i in indices]) for indices in order)
    else:
        generator = torch.Generator()  # its own, so that torch's global stream is left alone
        loaded = DataLoader(
            _Rows(dataset),
            batch_sampler=order,
            num_workers=workers,
            collate_fn=stack,
            generator=generator,
        )
    for indices, tensors in zip(order, loaded, strict=True):
        x = tensors.pop("x")
        yield Batch(x, tensors, torch.arange(places.start, places.stop), indices)
