"""Pictures and arrays made ready in a run, and what is known of them."""

from __future__ import annotations

import json
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import Wrong
from sfumato.jobs.facts import load_facts, save_facts
from sfumato.training.run import Run, write_text

if TYPE_CHECKING:
    import numpy as np

    from sfumato.data import ArrayDataset, Scan, Statistics

ARRAYS = (".npy", ".npz")


@dataclass(frozen=True)
class PictureFacts:
    """What is known of the pictures (or arrays) of a run: mean and spread of all numbers, the number of items learned from
    (``held`` of them are held out), their shape, the names of their classes, whether they are bytes, and the names, means and
    spreads of the numbers that stand beside each."""

    mean: float
    spread: float
    count: int
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    bytes: bool = False
    held: int = 0
    vector_names: tuple[str, ...] = ()
    vector_mean: tuple[float, ...] = ()
    vector_spread: tuple[float, ...] = ()

    @classmethod
    def read(cls, run: Run) -> PictureFacts:
        """From data.json. Raises RunError."""
        return load_facts(cls, run)

    @property
    def statistics(self) -> Statistics:
        """What undoes the standardisation."""
        from sfumato.data import Statistics

        return Statistics(self.mean, self.spread, self.count, self.shape)

    @property
    def pictures(self) -> bool:
        """Whether the items can be looked at."""
        from sfumato.data.sheet import is_picture

        return is_picture(self.shape)

    def words(self) -> list[str]:
        """The data in a line, and the names of its classes."""
        what = f"{self.shape[1]}x{self.shape[2]} pictures" if len(self.shape) == 3 else f"items of shape {self.shape}"
        named = f", {len(self.classes)} classes" if self.classes else ""
        if self.vector_names:
            some, count = ", ".join(self.vector_names[:4]), len(self.vector_names)
            named += f", {count} number{'s' * (count > 1)} beside each ({some}{', ...' * (count > 4)})"
        held = f", {self.held} held out" if self.held else ""
        names = ", ".join(self.classes[:20]) + (f" and {len(self.classes) - 20} more" if len(self.classes) > 20 else "")
        return [f"{self.count} {what} to learn from{named}{held}", *([f"classes: {names}"] if names else [])]

    def values(self) -> list[str]:
        """The numbers in the data in a line."""
        return [f"values    mean {self.mean:.3f}, spread {self.spread:.3f} (black -1, white 1)"]


def prepared(
    run: Run,
    data: Path,
    pictures: tuple[Scan, int] | None,
    labelled: bool,
    held_out: float,
    vectors: Path | None = None,
) -> None:
    """Read the data into the run: pictures found by a scan, at a side in pixels, or else the array file ``data``.

    Raises DataError where there are no two different items.
    """
    import numpy as np

    from sfumato.data import DataError, gather, open_array, shown, split
    from sfumato.data.vectors import read_vectors

    if pictures is None:
        found = open_array(data)
        array, labels = found.x, found.labels if labelled else None
        classes = tuple(str(c) for c in range(int(labels.max()) + 1)) if labels is not None else ()
        keys = [np.ascontiguousarray(item).tobytes() for item in array] if array.nbytes < 2**30 else None
        names: Any = data.name
    else:
        scan, side = pictures
        array = gather(scan, side, run.cache / "pictures.npy")
        labels, classes, keys = scan.label_numbers, scan.classes if labelled else (), list(scan.digests)
        names = [shown(os.path.relpath(path, data)) for path in scan.files]
    train, held = split(keys if keys is not None else [i.to_bytes(8, "little") for i in range(len(array))], held_out)
    if not len(held):
        raise DataError(f"{shown(data)}: {len(array)} item(s), all the same; at least two different ones are needed")
    chosen: dict[str, Any] = {} if labels is None else {"labels": labels}
    beside = None if vectors is None else read_vectors(vectors, names, len(array))
    about: tuple[Any, ...] = ()
    if beside is not None:
        mean, spread = beside.rows[train].mean(0), beside.rows[train].std(0)
        spread = np.where(spread > 0, spread, 1.0)
        chosen["vectors"] = ((beside.rows - mean) / spread).astype(np.float32)
        about = beside.names, tuple(mean.tolist()), tuple(spread.tolist())
    np.savez(run.cache / "split.npz", train=train, held_out=held, **chosen)
    write_text(run.cache / "names.json", json.dumps(names))
    statistics = _statistics(array, train, data)
    facts = PictureFacts(
        statistics.mean, statistics.spread, statistics.count, statistics.shape, classes, bool(array.dtype == np.uint8),
        len(held),
        *about,
    )  # fmt: skip
    save_facts(facts, run)


def _statistics(array: np.ndarray, train: np.ndarray, data: Path) -> Statistics:
    from sfumato.data import Statistics

    return Statistics.of(array, train, str(data))


def opened(run: Run, data: Path, facts: PictureFacts) -> tuple[ArrayDataset, ArrayDataset]:
    """The prepared data, to learn from and held out. Raises DataError."""
    import numpy as np

    from sfumato.data import ArrayDataset, DataError, open_array

    try:
        stored = np.load(run.cache / "split.npz", allow_pickle=False)
        names = json.loads((run.cache / "names.json").read_text())
        if data.suffix.lower() in ARRAYS:
            array = open_array(data).x
        else:
            array = np.load(run.cache / "pictures.npy", mmap_mode="r", allow_pickle=False)
        labels, parts = stored.get("labels"), (stored["train"], stored["held_out"])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{run.cache}: the prepared data cannot be read ({error}); train again from {data}") from error
    vectors = stored.get("vectors")
    made = [ArrayDataset(array, facts.statistics, labels, names, part, vectors) for part in parts]
    return made[0], made[1]


def asked_vectors(run: Run, facts: PictureFacts, asked: tuple[float, ...] | None, most: int = 256) -> np.ndarray | None:
    """The numbers that samples are drawn for, standardised, (k, D) float32, to be taken in turn: those asked for, or those of
    held-out items. None where the run knows none. Raises Wrong for numbers that do not fit, DataError."""
    import numpy as np

    from sfumato.data import DataError

    names = facts.vector_names
    if asked is not None:
        if len(asked) != len(names):
            known = f"{len(names)} numbers, {', '.join(names)}" if names else "no numbers; train with --vectors"
            raise Wrong(f"vector = {asked!r}: {run.path} knows {known}")
        if not all(map(math.isfinite, asked)):
            raise Wrong(f"vector = {asked!r}: must be finite")
        return ((np.array([asked]) - facts.vector_mean) / facts.vector_spread).astype(np.float32)
    if not names:
        return None
    try:
        with np.load(run.cache / "split.npz", allow_pickle=False) as stored:
            rows: np.ndarray = stored["vectors"][stored["held_out"][:most]]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{run.cache / 'split.npz'}: cannot be read ({error}); give the numbers with --vector"
        ) from error
    return rows
