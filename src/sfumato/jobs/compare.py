"""`sfumato compare A B`: two sets of items measured against each other, without a run.

B is the reference. The floor is what B says of itself: half of B against the other half (or other real items, where some are
given, against all of B). What is measured of A is measured against the same items, so a perfect A is at the floor.
Everything is compared in two feature spaces, since a model can be trained, or chosen, to be near in one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError, Wrong

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sfumato.metrics.table import Row

ARRAYS = (".npy", ".npz")
DRAWN, LARGEST = 500, 64
"""Samples drawn of a run, and side in pixels of pictures in folders, at most, unless asked otherwise."""
LEAST = 24
"""Items of B at least: half of them are the floor."""


@dataclass(frozen=True)
class Comparison:
    """What was found: the rows of every feature space, and what they say. As text it is the tables and the sentences."""

    spaces: dict[str, tuple[Row, ...]]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        from sfumato.metrics.table import format_table
        from sfumato.metrics.words import NOT_FID, sentences

        parts = []
        for name, rows in self.spaces.items():
            said = [f"  {line}" for line in sentences(rows) if line != NOT_FID]
            parts.append("\n".join([f"features: {name}", format_table(rows), *said]))
        return "\n\n".join([*parts, "\n".join([*self.notes, NOT_FID])])

    def write(self, path: Path) -> None:
        """The numbers as JSON."""
        from sfumato.metrics.table import as_dict
        from sfumato.training.run import write_text

        found = {"spaces": {name: as_dict(rows) for name, rows in self.spaces.items()}, "remarks": list(self.notes)}
        write_text(path, json.dumps(found, indent=1))


def compare(
    a: Any, b: Any, held_out: Any = None, *, features: Sequence[str] = (), seed: int = 0
) -> Comparison:  # fmt: skip
    """The items ``a`` (N, ...) against the real items ``b`` (M, ...), arrays or tensors of the same shape and units.

    Args:
        held_out: more real items, for the floor; half of ``b`` unless given.
        features: spaces to compare in (`sfumato.metrics.spaces`): patches and pca for pictures, pca and waves for the rest.
        seed: of the halves, and of directions.

    Raises DataError where the two cannot be compared (shapes, bytes beside floats, NaN), MetricError for too few.
    """
    import torch

    from sfumato.jobs.watched import watched
    from sfumato.metrics import spaces, table
    from sfumato.metrics.words import agreement

    given = {"A": a, "B": b, **({} if held_out is None else {"held_out": held_out})}
    sets = {name: _numbers(x, name) for name, x in given.items()}
    _alike(sets, {name for name, x in given.items() if str(getattr(x, "dtype", "")).removeprefix("torch.") == "uint8"})
    real = sets["B"]
    if held_out is None:
        _enough(len(real))
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
        known, held = real[order[len(real) // 2 :]], real[order[: len(real) // 2]]
        how = f"B was halved: {len(known)} items to compare with, {len(held)} for the floor"
    else:
        known, held = real, sets["held_out"]
        how = f"B's {len(known)} items to compare with, {len(held)} others for the floor"
    shift, scale = _standard(known, spaces.is_textured(tuple(known.shape[1:])))
    fake, known, held = ((x - shift) / scale for x in (sets["A"], known, held))
    found = {}
    for name in tuple(features) or spaces.usual(tuple(known.shape[1:])):
        space = watched(spaces.choose(name, known, lambda x: x * scale + shift))
        found[space.name] = table.compare(space(fake), space(known), space(held), seed=seed)
    return Comparison(found, (how, *agreement(found, "A", "B")))


def _enough(count: int) -> None:
    """Raises DataError where so many items of B cannot be halved."""
    if count < LEAST:
        raise DataError(f"B: {count} items are too few; give {LEAST} or more, half of which are the floor")


def _numbers(x: Any, name: str) -> Tensor:
    """As float32 (N, ...); picture bytes are -1 to 1, channels before pixels. Raises DataError."""
    import numpy as np
    import torch

    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    if array.dtype.kind not in "fiub" or array.ndim < 1 or not len(array):
        raise DataError(f"{name}: has type {array.dtype} and shape {array.shape}; expected numbers (N, ...)")
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        last = array.ndim == 4 and array.shape[-1] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)
        array = np.moveaxis(array, -1, 1) if last else array[:, None] if array.ndim == 3 else array
        array = array.astype(np.float32) / 127.5 - 1
    numbers = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    good = torch.isfinite(numbers.flatten(1) if numbers.dim() > 1 else numbers[:, None]).all(1)
    if not bool(good.all()):
        raise DataError(f"{name}[{int(good.int().argmin())}]: contains NaN or infinity; every number must be finite")
    return numbers if numbers.dim() > 1 else numbers[:, None]


def _alike(sets: dict[str, Tensor], in_bytes: Set[str]) -> None:
    """Raises DataError where the shapes differ, or the units of pictures plainly do; those of bytes are known, however narrow
    their range."""
    b = sets["B"]
    low, high = float(b.min()), float(b.max())
    for name, x in sets.items():
        if x.shape[1:] != b.shape[1:]:
            raise DataError(
                f"{name}: items have shape {tuple(x.shape[1:])}, those of B {tuple(b.shape[1:])}; give the same"
            )
        if {name, "B"} <= in_bytes:
            continue
        mine = float(x.min()), float(x.max())
        wide = max(mine[1] - mine[0], 1e-30) / max(high - low, 1e-30)
        if b.dim() == 4 and not (1 / 50 < wide < 50):
            raise DataError(
                f"{name}: goes from {mine[0]:.4g} to {mine[1]:.4g}, and B from {low:.4g} to {high:.4g}; give both in the same "
                "units (bytes count as -1 to 1)"
            )
        if b.dim() == 4 and name != "B" and (low < -0.5) != (mine[0] < -0.5) and min(low, mine[0]) >= -1 and wide < 4:
            raise DataError(
                f"{name}: goes from {mine[0]:.4g} to {mine[1]:.4g}, and B from {low:.4g} to {high:.4g}: one looks like 0 to "
                "1 and the other like -1 to 1 (as bytes count); give both in the same units"
            )


def _standard(known: Tensor, textured: bool) -> tuple[Tensor, Tensor]:
    """Mean and spread of the reference: one of each for pictures, else one for every number, so that columns of unlike scale
    count alike."""
    import torch

    if textured:
        return known.mean(), known.std()
    spread = known.std(0)
    return known.mean(0), torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread))


# ---- places --------------------------------------------------------------------------------------------------------------


def compare_paths(
    a: Path, b: Path, held_out: Path | None = None, *, n: int | None = None, side: int | None = None,
    features: Sequence[str] = (), seed: int = 0,
) -> Comparison:  # fmt: skip
    """`sfumato compare`: folders of pictures, arrays, or (A alone) a run, of which samples are drawn.

    Raises DataError, MetricError, RunError, Wrong.
    """
    from sfumato.metrics import spaces

    for name, count in (("n", n), ("side", side)):
        if count is not None and count < (LEAST // 2 if name == "n" else 8):
            raise Wrong(f"{name} = {count}: must be at least {LEAST // 2 if name == 'n' else 8}")
    places = [place for place in (a, b, held_out) if place is not None]
    side = side or _side(places)
    for name in features:
        spaces.known(name)
    # A last: if it is a run its samples are drawn, and what is wrong with the others is known before that
    real = [_read(place, side, seed, None) for place in places[1:]]
    if held_out is None:
        _enough(len(real[0]))
    read = [_read(a, side, seed, n), *real]
    if n is not None:
        read[0] = read[0][:n]
    made = compare(*read, features=features, seed=seed)
    return dataclasses.replace(made, notes=(f"A is {a}, B is {b}", *made.notes))


def _is_run(place: Path) -> bool:
    return (place / "config.yaml").is_file()


def _side(places: Sequence[Path]) -> int:
    """The side of pictures in folders: that of pictures in the arrays and runs beside them, else of the smallest."""
    from sfumato.data import scan

    for place in places:
        shape = _shape(place)
        if shape is not None and len(shape) >= 2:
            return int(shape[-1] if shape[-1] not in (1, 3, 4) else shape[-2])
    folders = [place for place in places if place.suffix.lower() not in ARRAYS and not _is_run(place)]
    sides = [scan(place).median_side for place in folders]
    return min([LARGEST, *(each - each % 4 or 8 for each in sides)])


def _shape(place: Path) -> tuple[int, ...] | None:
    """Of an item of an array or run; None of a folder of pictures."""
    if place.suffix.lower() in ARRAYS:
        from sfumato.data import open_array

        return tuple(open_array(place).x.shape[1:])
    if _is_run(place):
        from sfumato.jobs.facts import read_facts
        from sfumato.training.run import Run

        return tuple(read_facts(Run(place)).get("shape", ())) or None
    arrays = sorted(place.glob("*.npy"))[:1] if place.is_dir() else []
    return None if not arrays else tuple(_one(arrays[0]).shape)


def _one(path: Path) -> np.ndarray:
    """The array of one sample. Raises DataError."""
    from sfumato.data.arrays import kept_array

    return kept_array(path)


def _read(place: Path, side: int, seed: int, n: int | None) -> Any:
    """The items of a place (N, ...). Raises DataError, RunError."""
    import tempfile

    import numpy as np

    from sfumato.data import check_budget, gather, open_array, scan
    from sfumato.jobs.making import LIST

    if place.suffix.lower() in ARRAYS:
        return np.array(open_array(place).x)
    if _is_run(place):
        return _sampled(place, DRAWN if n is None else n, seed)
    rows = sorted(place.glob("*.npy")) if place.is_dir() else []
    if rows:  # samples of ours that are no pictures, one a file
        items = [np.array(_one(path)) for path in rows]
        if len({item.shape for item in items}) > 1:
            raise DataError(f"{place}: the arrays in it have different shapes; one shape is expected")
        return np.stack(items)
    found = scan(place)
    check_budget(found, 0.01)
    ours = (place / LIST).is_file()
    kept = [i for i, path in enumerate(found.files) if not (ours and path == place / "grid.png")]  # the sheet
    found = dataclasses.replace(
        found, files=tuple(found.files[i] for i in kept), digests=tuple(found.digests[i] for i in kept)
    )
    with tempfile.TemporaryDirectory() as folder:
        return np.array(gather(found, side, Path(folder) / "pictures.npy"))


def _sampled(place: Path, n: int, seed: int) -> Any:
    """Samples of a run, as arrays. Raises RunError where its samples are none."""
    import numpy as np

    from sfumato.jobs import model
    from sfumato.jobs.recipe import say
    from sfumato.jobs.walk import Drawing
    from sfumato.training.run import RunError

    loaded = model.load(place, drawing=Drawing(seed=seed))
    say(f"drawing {n} samples of {place}")
    things = [np.asarray(thing) for thing in loaded.sample(n)]
    if not things or things[0].dtype.kind not in "fiub" or len({thing.shape for thing in things}) > 1:
        raise RunError(
            f"{place}: its samples are no arrays of one shape; compare them with the words of their own field"
        )
    return np.stack(things)
