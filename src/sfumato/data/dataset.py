"""What every kind of data becomes: numbered items in standard units, a held-out part, an order to visit them in.

    raw numbers --Statistics.standardise--> x (mean 0, spread 1) --Statistics.restore--> raw numbers

Nothing here keeps state: the held-out part is a function of the content, the order a function of (seed, step).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from sfumato.data.errors import DataError
from sfumato.data.statistics import Statistics

MAX_HELD_OUT = 2000
_WORD = 2**64


class Dataset(Protocol):
    """Numbered items, read a batch at a time.

    A batch is a dict: "x", a tree (an array or a dict of trees) in standard units, float32 or int64; if wanted "weight",
    which broadcasts against x or its parts (0 is padding), and "z", the noise that belongs to x; every other name is a
    condition, a tree too (but none of "aside", "weak", "given" and the few others that the loop refuses by name). Rows
    first. Padding depends on the item alone.
    """

    @property
    def buckets(self) -> np.ndarray | None:
        """Which items can stand in one batch, (len,) int64: those of one bucket. None: all."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """Items `indices` (B,) at once: arrays or tensors (B, ...)."""
        ...

    def name(self, index: int) -> str:
        """Where item `index` comes from, for messages: a file, or "array.npy[17]"."""
        ...


@dataclass(frozen=True, eq=False)
class Items:
    """Arrays or tensors in memory as a data set, for data of one's own: `Items({"x": pictures, "label": labels})`.

    `arrays` are what a batch holds, each with all N items along its first axis; "x" may be a dict of parts. `of` names
    them in messages. Raises DataError where "x" is missing or lengths differ.
    """

    arrays: Mapping[str, Any]
    of: str = "items"
    buckets: np.ndarray | None = None

    def __post_init__(self) -> None:
        if "x" not in self.arrays:
            raise DataError(
                f'{self.of}: have no "x", the data themselves; there is {", ".join(self.arrays) or "nothing"}'
            )
        lengths = {name: {len(leaf) for leaf in _leaves(value)} for name, value in self.arrays.items()}
        if len(set().union(*lengths.values())) != 1:
            said = ", ".join(f"{name} {'/'.join(map(str, sorted(sizes)))}" for name, sizes in lengths.items())
            raise DataError(f"{self.of}: the arrays differ in length ({said}); one row for each item is expected")
        if self.buckets is not None and len(self.buckets) != len(self):
            raise DataError(
                f"{self.of}: {len(self.buckets)} buckets for {len(self)} items; one number for each is expected"
            )

    def __len__(self) -> int:
        return len(_leaves(self.arrays["x"])[0])

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """These rows of every array."""
        return {name: _rows(value, indices) for name, value in self.arrays.items()}

    def name(self, index: int) -> str:
        """The number of the item."""
        return f"{self.of}[{index}]"


@dataclass(frozen=True, eq=False)
class Part:
    """Some items of a data set, as a data set."""

    whole: Dataset
    indices: np.ndarray

    @property
    def buckets(self) -> np.ndarray | None:
        """Those of the items."""
        kinds = self.whole.buckets
        return None if kinds is None else kinds[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """Items of the whole."""
        return self.whole.batch(self.indices[indices])

    def name(self, index: int) -> str:
        """As the whole calls it."""
        return self.whole.name(int(self.indices[index]))


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value.values() for leaf in _leaves(part)] if isinstance(value, Mapping) else [value]


def _rows(value: Any, indices: np.ndarray) -> Any:
    return (
        {name: _rows(part, indices) for name, part in value.items()} if isinstance(value, Mapping) else value[indices]
    )


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Items of an array-like `x` of shape (N, ...) (memory-mapped ones stay on disk until asked for).

    uint8 means picture bytes; every other kind of number is taken as is. `labels` are N integers; `names` is one
    name per item of `x`, or the name of the array; `indices` picks the items that belong to this data set; `vectors` are
    standardised numbers (N, D) beside each item.
    Raises DataError when the lengths do not fit or an index is out of range.
    """

    x: Any
    statistics: Statistics
    labels: np.ndarray | None = None
    names: str | Sequence[str] = "array"
    indices: np.ndarray | None = None
    vectors: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.x)
        if self.vectors is not None and (self.vectors.ndim != 2 or len(self.vectors) != count):
            raise DataError(f"vectors have shape {self.vectors.shape}; expected {count} rows, one per item")
        if tuple(self.x.shape[1:]) != self.statistics.shape:
            raise DataError(
                f"items have shape {tuple(self.x.shape[1:])} but the statistics are of shape {self.statistics.shape}"
            )
        if self.labels is not None:
            labels = np.asarray(self.labels)
            if labels.shape != (count,) or labels.dtype.kind not in "iub":
                raise DataError(
                    f"labels have shape {labels.shape} and type {labels.dtype}; expected {count} integers, one per item"
                )
            object.__setattr__(self, "labels", labels.astype(np.int64))
        if not isinstance(self.names, str) and len(self.names) != count:
            raise DataError(f"{len(self.names)} names for {count} items; expected one per item")
        if self.indices is not None:
            indices = np.asarray(self.indices, dtype=np.int64)
            if indices.ndim != 1 or (len(indices) and (indices.min() < 0 or indices.max() >= count)):
                raise DataError(f"indices must be a flat list of numbers from 0 to {count - 1}")
            object.__setattr__(self, "indices", indices)

    def __len__(self) -> int:
        return len(self.x) if self.indices is None else len(self.indices)

    @property
    def buckets(self) -> None:
        """All items can stand in one batch."""
        return None

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"x": float32 of the item's shape, standardised; "label": int64 scalar array if there are labels}."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        return {name: np.asarray(value[0]) for name, value in self.batch(np.array([index])).items()}

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Items `indices` (B,) at once: {"x": (B, ...) float32, standardised; "label": (B,) int64 if there are labels}."""
        places = np.asarray(indices) if self.indices is None else self.indices[indices]
        item = {"x": self.statistics.standardise(self.x[places])}
        if self.labels is not None:
            item["label"] = self.labels[places]
        if self.vectors is not None:
            item["vector"] = self.vectors[places]
            item["vector_known"] = np.ones(len(places), dtype=bool)
        return item

    def name(self, index: int) -> str:
        """The item's own name, or the array's name with the item's number in the whole array."""
        place = self._place(index)
        return f"{self.names}[{place}]" if isinstance(self.names, str) else self.names[place]

    def _place(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        return int(index if self.indices is None else self.indices[index])


def split(keys: Sequence[bytes], held_out: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sorted item numbers (train, held out), each item placed by a hash of its content key alone.

    Items with equal keys stay together, so no copy of a training item is held out, and adding items moves no other.
    `held_out` is the share wanted, from 0 (none) to below 1. Two exceptions to the hash: with two different keys or
    more each side gets at least one, and no more than 2000 items are held out (a key with more copies than that is
    always trained on). With a single key everything is trained on. Raises DataError for a share out of range.
    """
    if not 0 <= held_out < 1:
        raise DataError(f"the held-out share is {held_out:g}; it must be 0 or more and below 1")
    secret = (seed % _WORD).to_bytes(8, "little")
    copies = Counter(keys)
    place = {key: int.from_bytes(hashlib.blake2b(key, digest_size=8, key=secret).digest(), "big") for key in copies}
    order = sorted((key for key in copies if copies[key] <= MAX_HELD_OUT), key=lambda key: (place[key], key))
    chosen = [key for key in order if place[key] / _WORD < held_out]
    if held_out and len(copies) > 1:
        chosen = chosen or order[:1]
        chosen = chosen[:-1] if len(chosen) == len(copies) else chosen
    else:
        chosen = []
    totals = accumulate(copies[key] for key in chosen)
    kept = {key for key, total in zip(chosen, totals) if total <= MAX_HELD_OUT}
    out = np.fromiter((key in kept for key in keys), dtype=bool, count=len(keys))
    return np.flatnonzero(~out), np.flatnonzero(out)


def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch; a few of the long ones are kept, and more of the short ones, of which buckets need many."""
    return (_long_order if count > 1_000_000 else _short_order)(count, seed, epoch)


def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting raw Philox words: unlike Generator.permutation, numpy promises never to change these,
    # so a run resumed under a newer numpy sees the same order.
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")


_long_order, _short_order = lru_cache(maxsize=4)(_shuffled), lru_cache(maxsize=32)(_shuffled)


def batch_indices(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Item numbers (batch,) int64 for step `step`: positions step * batch + j of one endless stream of epochs.

    Every epoch visits each of `count` items once, in an order of its own; a batch may straddle epochs. A function of
    its arguments alone, so a resumed run needs no loader state. Raises ValueError for count or batch below 1, step
    below 0.
    """
    if count < 1 or batch < 1 or step < 0:
        raise ValueError(f"count {count} and batch {batch} must be at least 1 and step {step} at least 0")
    return stream(count, step * batch, batch, seed)


def bucket_indices(buckets: np.ndarray, batch: int, step: int, seed: int) -> np.ndarray:
    """Item numbers (batch,) int64 for step `step` where each batch must be of one bucket, (count,) their numbers.

    A bucket of n items fills floor((e + 1) n / batch) - floor(e n / batch) batches of round e, so in the long run every
    item is seen equally often, and the batches of a round come in an order of its own. Within a bucket the items come as
    those of a data set do. A function of its arguments alone. Raises ValueError as `batch_indices`.
    """
    return Buckets.of(buckets).indices(batch, step, seed)


@dataclass(frozen=True, eq=False)
class Buckets:
    """The items of each bucket, sorted out once: what `bucket_indices` needs at every step."""

    counts: np.ndarray
    members: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, buckets: np.ndarray) -> Buckets:
        """From the number of each item's bucket, (count,). Raises ValueError where there are none."""
        if len(buckets) < 1:
            raise ValueError("count 0 must be at least 1")
        _, counts = np.unique(buckets, return_counts=True)
        order = np.argsort(buckets, kind="stable")
        return cls(counts, tuple(np.split(order, counts.cumsum()[:-1])))

    def indices(self, batch: int, step: int, seed: int) -> np.ndarray:
        """See `bucket_indices`."""
        if batch < 1 or step < 0:
            raise ValueError(f"batch {batch} must be at least 1 and step {step} at least 0")

        def before(round_: int) -> np.ndarray:
            return round_ * self.counts // batch  # batches of each bucket in all rounds before this one

        low, high = 0, 1
        while before(high).sum() <= step:
            high *= 2
        while high - low > 1:  # the last round that begins at or before this step
            middle = (low + high) // 2
            low, high = (middle, high) if before(middle).sum() <= step else (low, middle)
        own = np.repeat(np.arange(len(self.counts)), before(low + 1) - before(low))
        own = own[_order(len(own), (seed ^ 0x5F0B) % _WORD, low)]
        place = step - int(before(low).sum())
        which = int(own[place])
        nth = int(before(low)[which]) + int((own[:place] == which).sum())
        return self.members[which][stream(int(self.counts[which]), nth * batch, batch, seed + which + 1)]


def stream(count: int, position: int, length: int, seed: int) -> np.ndarray:
    """Numbers position, position + 1, ... of one endless stream of epochs over `count` items: (length,) int64."""
    end, parts = position + length, []
    while position < end:
        epoch, start = divmod(position, count)
        stop = min(count, start + end - position)
        parts.append(_order(count, seed % _WORD, epoch)[start:stop])
        position += stop - start
    return np.concatenate(parts)
