"""Pictures and arrays beside those of a run, read with the run's own decision about layout and units."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.fields.images.data import ARRAYS
from sfumato.fields.images.facts import PictureFacts
from sfumato.training.run import RunError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def read_pictures(place: Path, facts: PictureFacts, budget: float, learned: str) -> Tensor:
    """Pictures of a folder, or numbers of an array file or of a folder of .npy files as `sfumato sample` writes them, in
    standard units (N, *shape): same side, layout and units as those learned.

    ``budget`` is the share of broken files that is let pass, ``learned`` the name of what the run was trained on.
    Raises RunError for what has another shape, DataError.
    """
    from sfumato.data import ArrayDataset, open_array
    from sfumato.jobs.evaluate import stacked

    def standard(numbers: np.ndarray) -> Tensor:
        return stacked(ArrayDataset(numbers, facts.statistics, names=place.name))

    if place.suffix.lower() in ARRAYS:
        return standard(raw(open_array(place).x, facts, place))
    if place.is_dir() and not facts.exact and (files := sorted(place.glob("*.npy"))):
        return standard(raw(_stacked(files, facts), facts, place))
    shape = facts.shape
    if not facts.pictures or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise RunError(f"{place}: this run learned items of shape {shape} from {learned}; give a .npy or .npz file")
    return standard(_folder(place, facts, budget))


def raw(numbers: np.ndarray, facts: PictureFacts, place: Path) -> np.ndarray:
    """Numbers of a file (N, ...) as networks take them, in the raw units that the run learned, whatever their type.

    Raises RunError for items of another shape.
    """
    import numpy as np

    from sfumato.data.layout import canonical
    from sfumato.data.units import raw_of

    layout = facts.layout
    fits = numbers.ndim - 1 == (len(layout) or len(facts.shape))
    x = canonical(numbers, layout) if fits else numbers
    if x.shape[1:] != facts.shape:
        raise RunError(
            f"{place}: holds items of shape {numbers.shape[1:]}; this run learned those of shape {given_shape(facts)}: give "
            "such items" + (f" (layout {layout})" if layout else "")
        )
    if not facts.dtype or (x.dtype == np.uint8) == facts.bytes:
        return x
    return raw_of(x, facts.kind)


def given_shape(facts: PictureFacts) -> tuple[int, ...]:
    """The shape of an item as the data has it."""
    import numpy as np

    from sfumato.data.layout import original

    return original(np.empty((1, *facts.shape), np.uint8), facts.layout).shape[1:]


def _stacked(files: list[Path], facts: PictureFacts) -> np.ndarray:
    """Items of one file each. Raises RunError for one that is none."""
    import numpy as np

    from sfumato.data.arrays import kept_array

    wanted: Any = given_shape(facts)
    items = []
    for file in files:
        item = kept_array(file, f"an item of shape {wanted} is expected")
        if item.shape != wanted or item.dtype.kind not in "fiub" or not np.isfinite(item).all():
            raise RunError(
                f"{file}: has shape {item.shape} and type {item.dtype}; finite numbers of shape {wanted} expected"
            )
        items.append(np.asarray(item))
    return np.stack(items)


def _folder(folder: Path, facts: PictureFacts, budget: float) -> np.ndarray:
    """Pictures of a folder, whose black and white are those of the run."""
    import tempfile

    import numpy as np

    from sfumato.data import check_budget, gather, scan
    from sfumato.data.units import raw_of

    found = scan(folder)
    check_budget(found, budget)
    kept = [i for i, path in enumerate(found.files) if path != folder / "grid.png"]  # the sheet beside the samples
    found = dataclasses.replace(
        found, files=tuple(found.files[i] for i in kept), digests=tuple(found.digests[i] for i in kept)
    )
    with tempfile.TemporaryDirectory() as temporary:
        pixels = np.array(gather(found, facts.shape[1], Path(temporary) / "pictures.npy"))
    if facts.shape[0] == 1:
        pixels = np.rint(pixels.mean(1, keepdims=True)).astype(np.uint8)
    if facts.exact:
        return pixels
    black, white = (np.reshape(ends, (-1, 1, 1)) for ends in facts.ends)
    return raw_of(black + pixels / 255.0 * (white - black), facts.kind)
