"""Pictures and arrays made ready in a run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sfumato.errors import Wrong, decoding
from sfumato.fields.images.facts import PictureFacts
from sfumato.jobs.facts import save_facts
from sfumato.training.run import Run, write_text

if TYPE_CHECKING:
    import numpy as np

    from sfumato.data import ArrayDataset, Scan
    from sfumato.data.source import Source

ARRAYS = (".npy", ".npz")
CACHED, CODED = "pictures.npy", "codes.npy"
Layout = Literal["auto", "D", "LD", "DL", "HW", "CHW", "HWC", "THW", "TCHW", "THWC"]
"""auto, or one of `sfumato.data.layout.LAYOUTS`; spelt here because options need no numpy."""
Scale = Literal["auto", "all", "each"]


@dataclass(frozen=True)
class Reading:
    """How data is to be read, where it is asked.

    labelled: whether classes are learned. layout: of an array's items (`sfumato.data.layout`), or auto. scale: whether
    channels are standardised each by itself or all alike, or auto. drawn: the numbers that are black and white, or None.
    """

    labelled: bool = False
    layout: Layout = "auto"
    scale: Scale = "auto"
    drawn: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Content:
    """Numbers (N, ...) as networks take them, and all that is known of them before they are split.

    keys: equal for equal items, None where they are too many to compare. source: the file of an array. said: what there is
    to say of them.
    """

    x: np.ndarray
    layout: str
    names: str | Sequence[str]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    keys: list[bytes] | None
    source: Source | None = None
    said: tuple[str, ...] = ()


def prepared(
    run: Run,
    data: Path,
    pictures: tuple[Scan, int] | None,
    reading: Reading,
    held_out: float,
    vectors: Path | None = None,
    base: PictureFacts | None = None,
) -> None:
    """Read the data into the run: pictures found by a scan, at a side in pixels, or else the array file ``data``. With ``base``
    their units and classes are those of another run.

    Every decision about units, layout and classes is made here, once for the whole data set, and written into data.json.
    Raises DataError where there are no two different items.
    """
    import numpy as np

    from sfumato.data import DataError, shown, split
    from sfumato.data.vectors import read_vectors

    found = _array(run, data, reading) if pictures is None else _folder(run, data, *pictures, reading)
    array = found.x
    keys = found.keys if found.keys is not None else [i.to_bytes(8, "little") for i in range(len(array))]
    if base is not None:
        found = known(found, base, shown(data))
    train, held = split(keys, held_out)
    if not len(held):
        raise DataError(f"{shown(data)}: {len(array)} item(s), all the same; at least two different ones are needed")
    chosen: dict[str, Any] = {}
    if found.labels is not None:
        chosen["labels"] = found.labels
    if found.labels is not None and base is None:
        train, held = _with_every_class(train, held, found.labels, keys)
    beside = None if vectors is None else read_vectors(vectors, found.names, len(array))
    about: dict[str, Any] = {}
    if beside is not None:
        mean, spread = beside.rows[train].mean(0), beside.rows[train].std(0)
        spread = np.where(spread > 0, spread, 1.0)
        chosen["vectors"] = ((beside.rows - mean) / spread).astype(np.float32)
        about = {
            "vector_names": beside.names, "vector_mean": tuple(mean.tolist()), "vector_spread": tuple(spread.tolist()),
        }  # fmt: skip
    np.savez(run.cache / "split.npz", train=train, held_out=held, **chosen)
    write_text(run.cache / "names.json", json.dumps(found.names))
    facts = _facts(array, train, found, reading, str(data))
    if base is not None:
        facts = dataclasses.replace(facts, **{name: getattr(base, name) for name in UNITS})
    save_facts(dataclasses.replace(facts, held=len(held), **about), run)


UNITS = ("mean", "spread", "means", "spreads", "each", "black", "white")
"""What of its facts a run keeps that is trained further on other data."""


def known(found: Content, base: PictureFacts, where: str) -> Content:
    """Data as a run knows them that learns further from them, in its classes. Raises DataError for what does not fit."""
    import numpy as np

    from sfumato.data import DataError

    shape = tuple(found.x.shape[1:])
    if shape != base.shape:
        raise DataError(f"{where}: items of {shape}, and the run knows those of {base.shape}")
    if found.x.dtype != base.kind:
        raise DataError(f"{where}: numbers of type {found.x.dtype}, and the run knows those of {base.kind}")
    if not base.classes:
        return dataclasses.replace(found, labels=None, classes=())
    if found.labels is None:
        raise DataError(f"{where}: has no classes, and the run knows {', '.join(base.classes[:8])}")
    if others := [name for name in found.classes if name not in base.classes]:
        raise DataError(
            f"{where}: class {others[0]!r} is none of those that the run knows ({', '.join(base.classes[:8])}): rename it"
        )
    place = np.array([base.classes.index(name) for name in found.classes], dtype=np.int64)
    return dataclasses.replace(found, labels=place[found.labels], classes=base.classes)


def _array(run: Run, data: Path, reading: Reading) -> Content:
    """What an array file holds, as networks take it."""
    import numpy as np

    from sfumato.data import DataError, open_array, shown
    from sfumato.data.layout import canonical, recognised
    from sfumato.data.source import Source

    found = open_array(data)
    if reading.labelled and found.labels is None:
        raise DataError(
            f"{shown(data)}: has no labels; give a .npz with x and labels, one for each item, or leave out --labels"
        )
    layout = recognised(found.x.shape[1:], found.x.dtype, reading.layout, shown(data))
    array = canonical(found.x, layout)
    keys = [np.ascontiguousarray(item).tobytes() for item in array] if array.nbytes < 2**30 else None
    said = []
    if found.labels is not None and not reading.labelled:
        said.append(f"labels of {len(found.classes)} classes are there and not used (--labels learns them)")
    if found.ignored:
        said.append(f"other arrays in the file are not used: {', '.join(found.ignored)}")
    labels, classes = (found.labels, found.classes) if reading.labelled else (None, ())
    if len(classes) > len(array) // 2:
        said.append(f"{len(classes)} classes for {len(array)} items: hardly any has a second one")
    source = Source.of(data, found.x, run.path)
    return Content(array, layout, found.names or data.name, labels, classes, keys, source, tuple(said))


def _folder(run: Run, data: Path, scan: Scan, side: int, reading: Reading) -> Content:
    """The pictures of a folder, copied into the run as (N, 3, side, side)."""
    from sfumato.data import gather, shown

    array = gather(scan, side, run.cache / CACHED)
    names = [shown(os.path.relpath(path, data)) for path in scan.files]
    said = [*_smaller(scan.median_side, side)]
    if scan.ignored:
        kinds = ", ".join(f"{suffix or 'no suffix'} ({n})" for suffix, n in scan.ignored.most_common(8))
        said.append(f"{scan.ignored.total()} files are not read, by their suffix: {kinds}")
    if clear := scan.handled.get("alpha composited"):
        said.append(f"{clear} pictures are transparent somewhere: laid over white, and drawn without alpha")
    inside = {name.split("/")[0] for name in names if "/" in name}
    if not reading.labelled and len(inside) > 1:
        said.append(f"{len(inside)} sub-folders are there and not used as classes (--labels learns them)")
    classes = scan.classes if reading.labelled else ()
    return Content(array, "HWC", names, scan.label_numbers, classes, list(scan.digests), said=tuple(said))


def _smaller(whole: int, side: int) -> Iterator[str]:
    """A word where pictures are learned much smaller than they are: what twice the side costs. Patches as wide as now are
    four times as many; the network that is chosen keeps their number, with patches twice as wide."""
    if 2 * side <= whole:
        yield (
            f"yours are of {whole} pixels (median), learned at {side}; --side {2 * side}: a step costs about the same with "
            "patches twice as wide, as chosen by itself, and 4 times as much with --network.patch as it is now"
        )


def _with_every_class(
    train: np.ndarray, held: np.ndarray, labels: np.ndarray, keys: Sequence[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """The split, with the items of classes of which all would be held out (and their copies) trained on: a class that was
    never seen cannot be drawn. Unless nothing would be held out then."""
    import numpy as np

    alone = np.setdiff1d(labels[held], labels[train])
    if not len(alone):
        return train, held
    moved = {keys[i] for i in held if labels[i] in alone}
    stays = np.array([keys[i] not in moved for i in held])
    if not stays.any():
        return train, held
    return np.sort(np.concatenate([train, held[~stays]])), held[stays]


def _facts(array: np.ndarray, train: np.ndarray, found: Content, reading: Reading, name: str) -> PictureFacts:
    """What is measured of the items to learn from, and what is decided by it: the one decision about units."""
    from sfumato.data import measure
    from sfumato.data.units import by_channel, in_file, is_drawn, own_range, usual_range

    measured, kind = measure(array, train, name), array.dtype
    there, usual = in_file(measured, kind), None
    ends: tuple[tuple[float, ...], tuple[float, ...]] = (), ()
    if is_drawn(measured.shape, kind):
        usual = reading.drawn or usual_range(there, kind)
        ends = ((usual[0],), (usual[1],)) if usual else own_range(there, _some(array, train))
    auto = by_channel(measured, usual is not None) and found.source is not None
    each = auto if reading.scale == "auto" else reading.scale == "each" and len(measured.spread) > 1
    whole = measured.all()
    assert isinstance(whole.mean, float)
    assert isinstance(whole.spread, float)
    return PictureFacts(
        whole.mean, whole.spread, whole.count, whole.shape, found.classes, bool(kind == "uint8"),
        dtype=kind.str, layout=found.layout, means=tuple(measured.mean.tolist()), spreads=tuple(measured.spread.tolist()),
        least=tuple(there.least.tolist()), most=tuple(there.most.tolist()), each=each, black=ends[0], white=ends[1],
        source=None if found.source is None else found.source.plain(), said=found.said,
    )  # fmt: skip


def _some(array: np.ndarray, items: np.ndarray, most: int = 256, numbers: int = 2**22) -> np.ndarray:
    """A few of the items, evenly spread: at most so many, and about so many numbers."""
    import numpy as np

    count = max(1, min(most, len(items), numbers // max(1, math.prod(array.shape[1:]))))
    return np.asarray(array[items[np.arange(count) * len(items) // count]])


def coded(run: Run, data: Path, source: Path) -> None:
    """The codes of the pictures of a prepared run, by the autoencoder of the run ``source``. Raises RunError, DataError."""
    import numpy as np

    from sfumato.data import DataError, open_array, shown
    from sfumato.data.arrays import kept_array, kept_arrays
    from sfumato.data.layout import canonical
    from sfumato.jobs import latents

    facts, remedy = PictureFacts.read(run), f"train again from {data}"
    if not facts.exact or facts.shape[0] != 3:
        raise DataError(f"{shown(data)}: an autoencoder codes colour pictures, and these are none; leave out --latent")
    x = canonical(open_array(data).x, facts.layout) if facts.array else kept_array(run.cache / CACHED, remedy)
    learned = np.zeros(len(x), dtype=bool)
    learned[kept_arrays(run.cache / "split.npz", remedy)["train"]] = True
    latent = latents.prepare(source, run, [(x, learned, run.cache / CODED)])
    save_facts(dataclasses.replace(facts, latent=latent.plain()), run)


def opened(run: Run, data: Path, facts: PictureFacts, seen: bool = False) -> tuple[ArrayDataset, ArrayDataset]:
    """The prepared data, to learn from and held out; ``seen``: as pictures, where codes of them are learned. Raises DataError,
    of an array too that is not what was learned from."""
    from sfumato.data import ArrayDataset, DataError, open_array, shown
    from sfumato.data.arrays import kept_array, kept_arrays, steady
    from sfumato.data.layout import canonical

    remedy = f"train again from {data}"
    space, statistics = None if seen else facts.space, facts.statistics
    if space is not None:
        x: Any = kept_array(run.cache / CODED, remedy)
        statistics = space.statistics(facts.shape[1], facts.shape[2], facts.count)
    elif data.suffix.lower() in ARRAYS:
        if not facts.origin and not data.is_file():
            raise DataError(f"{shown(data)}: file not found; put back the array that {run.path} learned from")
        array = known_array(run, data, facts) if facts.origin else open_array(data).x
        with decoding(data, remedy):
            x = steady(canonical(array, facts.layout))
    else:
        x = kept_array(run.cache / CACHED, remedy)
    stored = kept_arrays(run.cache / "split.npz", remedy)
    names = _names(run.cache / "names.json", remedy)
    with decoding(run.cache, remedy):
        rest = stored.get("labels"), names
        made = [
            ArrayDataset(x, statistics, *rest, stored[part], stored.get("vectors")) for part in ("train", "held_out")
        ]
    return made[0], made[1]


def _names(file: Path, remedy: str) -> str | list[str]:
    """What items are called: each by its own name, or all by that of their array. Raises DataError."""
    from sfumato.errors import DataError

    with decoding(file, remedy):
        names = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(names, str) and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise DataError("holds something else than names")
    found: str | list[str] = names
    return found


def known_array(run: Run, data: Path, facts: PictureFacts) -> np.ndarray:
    """The array that the run learned from, found where it stood, as the user wrote it, or beside the run.

    Raises DataError where it is in none of these places, or none of them holds the same numbers.
    """
    from sfumato.data import DataError, open_array, shown
    from sfumato.data.source import WHOLE, content_hash

    origin = facts.origin
    assert origin is not None
    places = origin.places(data, run.path)
    for place in places:
        array = open_array(place, checked=origin.size > WHOLE).x
        if content_hash(array) == origin.hash:
            return array
    if places:
        raise DataError(
            f"{shown(places[0])}: its numbers are not those that {run.path} learned from; put the old file back, or train a "
            "new run"
        )
    raise DataError(f"{shown(origin.path)}: file not found; put back the array that {run.path} learned from")


def asked_vectors(run: Run, facts: PictureFacts, asked: tuple[float, ...] | None, most: int = 256) -> np.ndarray | None:
    """The numbers that samples are drawn for, standardised, (k, D) float32, to be taken in turn: those asked for, or those of
    held-out items. None where the run knows none. Raises Wrong for numbers that do not fit, DataError."""
    import numpy as np

    from sfumato.data.arrays import kept_arrays

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
    file, remedy = run.cache / "split.npz", "give the numbers with --vector"
    stored = kept_arrays(file, remedy)
    with decoding(file, remedy):
        rows: np.ndarray = stored["vectors"][stored["held_out"][:most]]
    return rows
