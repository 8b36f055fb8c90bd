"""`sfumato inspect series`: what is there, in lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfumato.errors import shortened, shown
from sfumato.fields.series import zones
from sfumato.fields.series.data import Wanted, taken

KINDS = {
    "wide": "a column a series",
    "long": "a row a value",
    "list": "a line a series",
    "arrays": "values and offsets",
}
LISTED = 8


def looked(path: Path, wanted: Wanted) -> Iterator[str]:
    """Lines about a file. Raises DataError, Wrong."""
    told: list[str] = []
    source, found = taken(path, wanted, told.append)
    shape = source.shape
    columns = ", ".join(
        f"{what} {shown(name)}"
        for what, name in (("time", shape.time), ("series", shape.id), ("value", shape.value))
        if name
    )
    yield f"{shown(path)}: {KINDS[shape.kind]}" + (f" ({columns})" if columns else "")
    yield from told
    if source.unread:
        yield f"not read  {shortened(', '.join(map(shown, source.unread)), 120)}"
    for line in found.lines[:LISTED]:
        there = line.values[np.isfinite(line.values)]
        when = ""
        if found.dated:
            ends = found.frequency.stamps(np.array([line.start, line.start + len(line.values) - 1]))
            first, last = zones.said(ends, found.zone, found.frequency.local)
            when = f" from {first} to {last}"
        yield (
            f"series    {shown(line.name)}: {len(line.values):,} steps{when}, mean {there.mean():.5g}, "
            f"{there.min():.5g} to {there.max():.5g}"
            + (f", {len(line.values) - len(there):,} gaps" if len(there) < len(line.values) else "")
        )
    if len(found.lines) > LISTED:
        yield f"          ... and {len(found.lines) - LISTED:,} more"
