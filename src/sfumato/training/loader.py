"""Batches as functions of (seed, step): nothing about the data order is ever stored.

Step k sees the items `batch_indices(count, batch, k, seed)`, shared out over processes and pieces in order. Loading
processes only fetch what they are told, so their number changes nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sfumato.data import Buckets, DataError, Dataset, batch_indices
from sfumato.diffusion import tree
from sfumato.diffusion.tree import Tree
from sfumato.errors import Mendable

RESERVED = ("aside", "weak", "given", "x_t", "t", "s", "denoiser", "times", "solver", "rng")
"""Names that no condition may have: they belong to queries, or to what guesses and walks are called with."""

PATIENCE = 600.0
"""Seconds after which a loading process that has brought nothing is taken to hang."""


@dataclass(frozen=True)
class Batch:
    """Rows of one step: `x` (B, ...), what counts of it and how much, the noise that belongs to it if the data have it,
    its conditions name -> (B, ...), places in the global batch (B,), data indices (B,)."""

    x: Tree
    weight: Tree | None
    z: Tree | None
    condition: dict[str, Tree]
    places: Tensor
    indices: list[int]

    @classmethod
    def of(cls, rows: Mapping[str, Tree], places: Tensor, indices: list[int]) -> Batch:
        """From what a data set's `batch` returned, as tensors. Raises DataError for a condition with a name of ours."""
        rest = dict(rows)
        if taken := [name for name in RESERVED if name in rest]:
            raise DataError(f"a condition of the data is called {taken[0]!r}, which means something else: rename it")
        return cls(rest.pop("x"), rest.pop("weight", None), rest.pop("z", None), rest, places, indices)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        x, condition = tree.to(self.x, device), tree.to(self.condition, device)
        weight, z = (None if value is None else tree.to(value, device) for value in (self.weight, self.z))
        return Batch(x, weight, z, condition, self.places, self.indices)


def tensors(value: Any) -> Tree:
    """Arrays, or a dict of them, as tensors that share their memory."""
    if isinstance(value, Mapping):
        return {name: tensors(part) for name, part in value.items()}
    return torch.as_tensor(value)


def fetch(dataset: Dataset, indices: list[int] | range) -> Batch:
    """Items of a data set as one batch, in this order."""
    own = [int(i) for i in indices]
    return Batch.of(tensors(dataset.batch(np.asarray(own, dtype=np.int64))), torch.arange(len(own)), own)


def bunched(dataset: Dataset, count: int) -> list[Batch]:
    """The first ``count`` items of a data set (all, if there are fewer), a batch for each bucket among them."""
    numbers = np.arange(min(count, len(dataset)))
    kinds = np.zeros(len(numbers), dtype=np.int64) if dataset.buckets is None else dataset.buckets[numbers]
    return [fetch(dataset, numbers[kinds == kind].tolist()) for kind in np.unique(kinds)]


class _Batches(torch.utils.data.Dataset[Any]):
    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> Any:
        return tensors(self.dataset.batch(np.asarray(indices, dtype=np.int64)))


def _plan(dataset: Dataset, batch: int, seed: int, start: int, stop: int, places: range) -> Iterator[list[int]]:
    buckets = None if dataset.buckets is None else Buckets.of(dataset.buckets)
    for step in range(start, stop):
        if buckets is None:
            numbers = batch_indices(len(dataset), batch, step, seed)
        else:
            numbers = buckets.indices(batch, step, seed)
        yield numbers[places.start : places.stop].tolist()


class _Order:
    """The batches of a run as torch's loader wants them: an iterable that can be iterated again."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __iter__(self) -> Iterator[list[int]]:
        return _plan(*self.arguments)


class LoaderDied(Mendable):
    """A process that loads data is gone, or met an error. One line."""


def _same(batch: Any) -> Any:
    return batch


def batches(
    dataset: Dataset, batch: int, seed: int, start: int, stop: int, places: range, workers: int = 0
) -> Iterator[Batch]:
    """The batches of steps start..stop-1, of which this process gets the given places of each global batch."""
    order = _Order(dataset, batch, seed, start, stop, places)
    loaded: Any
    if workers == 0:
        reader = _Batches(dataset)
        loaded = (reader[indices] for indices in order)
    else:
        generator = torch.Generator()  # its own, so that torch's global stream is left alone
        loaded = DataLoader(
            _Batches(dataset), batch_size=None, sampler=order, num_workers=workers, collate_fn=_same, generator=generator,
            timeout=PATIENCE,
        )  # fmt: skip
    for indices, rows in zip(order, _watched(_begun(loaded, workers), workers), strict=True):
        yield Batch.of(rows, torch.arange(places.start, places.stop), indices)


def _begun(loaded: Any, workers: int) -> Iterator[Any]:
    """An iterator of a loader. torch hears of a dead process by a signal, and then raises wherever the main thread happens to be,
    in the middle of an update or of a checkpoint; without, it finds out where the next batch is waited for."""
    child = getattr(signal, "SIGCHLD", None)
    if not workers or child is None or threading.current_thread() is not threading.main_thread():
        return iter(loaded)
    before = signal.getsignal(child)
    found = iter(loaded)
    signal.signal(child, before)
    return found


def _watched(loaded: Iterator[Any], workers: int) -> Iterator[Any]:
    """What processes load; that one of them died, or what it met, in one line."""
    while True:
        try:
            rows = next(loaded)
        except StopIteration:
            return
        except Mendable as error:  # of a worker: torch puts the traceback into the message
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise (DataError(lines[-1].partition(": ")[2]) if len(lines) > 1 else error) from None
        except Exception as error:  # of many kinds: the batch may have been on its way
            processes = getattr(loaded, "_workers", ())
            if isinstance(error, (OSError, EOFError)):  # a connection breaks a little before its process has ended
                ending = wait([worker.sentinel for worker in processes], timeout=2)
                for worker in processes:
                    worker.join(None if worker.sentinel in ending else 0)
            if workers and "timed out" in str(error):
                raise LoaderDied(
                    f"a process that loads data has brought nothing for {PATIENCE:.0f} s: it hangs, or the disk does; "
                    "--workers 0 shows where. Stopped"
                ) from error
            ended = [worker.exitcode for worker in processes if not worker.is_alive()]
            if not workers or not ended:
                raise
            raise LoaderDied(
                f"a process that loads data died (exit status {ended[0]}); often memory ran out, and fewer --workers need less. "
                "Stopped"
            ) from error
        yield rows
