"""Pictures made ready for an autoencoder: cache/pictures.npy, bytes (N, 3, side, side), and cache/split.npz."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data import ArrayDataset, DataError, Scan, Statistics, check_budget, gather, scan, shown, split
from sfumato.data.arrays import kept_array, kept_arrays
from sfumato.errors import decoding
from sfumato.fields.autoencoder.facts import CoderFacts
from sfumato.jobs.recipe import Data, Say
from sfumato.training.run import Run, write_text

if TYPE_CHECKING:
    from sfumato.data import Dataset
    from sfumato.diffusion.tree import Tree

SIDE = 64


@dataclass(frozen=True)
class Wanted:
    """How pictures are to be made ready. side None: chosen; it is a multiple of the factor."""

    side: int | None
    factor: int
    held_out: float
    broken_budget: float


def seen(data: Path, tell: Say) -> Scan:
    """Every picture of the folder, decoded once."""
    from sfumato.training.progress import Watch

    with Watch("look at pictures", 1, unit="pictures") as watch:

        def progress(done: int, total: int) -> None:
            watch.total = total
            watch.bar.update(watch.task, total=total)
            watch.show(done)

        found = scan(data, workers=os.cpu_count() or 1, progress=progress)
    for complaint in found.complaints[:10]:
        tell(f"broken, skipped: {complaint}")
    return found


def prepare(run: Run, data: Path, wanted: Wanted, tell: Say) -> CoderFacts:
    """Pictures into the run. Raises DataError."""
    found, factor = seen(data, tell), wanted.factor
    check_budget(found, wanted.broken_budget)
    smallest = max(16, found.median_side - found.median_side % factor)
    side = wanted.side or max(16 + -16 % factor, min(SIDE, smallest) // factor * factor)
    train, held = split(list(found.digests), wanted.held_out)
    if not len(held):
        raise DataError(f"{shown(data)}: 1 distinct picture ({len(found)} files); two at least are needed")
    gather(found, side, run.cache / "pictures.npy", workers=os.cpu_count() or 1)
    np.savez(run.cache / "split.npz", train=train, held_out=held)
    names = [shown(path.relative_to(found.root)) for path in found.files]
    write_text(run.cache / "names.json", json.dumps(names, ensure_ascii=False))
    facts = CoderFacts(len(train), len(held), side)
    facts.write(run)
    return facts


def opened(run: Run, facts: CoderFacts) -> Data:
    """The prepared pictures from -1 (black) to 1 (white), to learn from and held out. Raises DataError."""
    remedy = "train again from the pictures"
    x, parts = kept_array(run.cache / "pictures.npy", remedy), kept_arrays(run.cache / "split.npz", remedy)
    with decoding(run.cache, remedy):
        names = [str(name) for name in json.loads((run.cache / "names.json").read_text(encoding="utf-8"))]
        plain = Statistics(0.0, 1.0, facts.count, (3, facts.side, facts.side))
        train, held = (ArrayDataset(x, plain, names=names, indices=parts[part]) for part in ("train", "held_out"))
    return Data(facts, train, held)


@dataclass(frozen=True, eq=False)
class RealPictures:
    """``count`` real pictures, in turn: what an autoencoder is asked to make again. Satisfies `Queries`."""

    pictures: Dataset
    count: int
    buckets: None = None

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> tuple[str, int]:
        return self.pictures.name(number % len(self.pictures)), number

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """{"x": (b, 3, H, W) from -1 to 1}."""
        import torch

        found: Any = self.pictures.batch(np.asarray(numbers) % len(self.pictures))
        return {"x": torch.from_numpy(found["x"])}
