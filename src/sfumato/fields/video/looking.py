"""A look at films before training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.data.errors import DataError
from sfumato.fields.video.films import about
from sfumato.fields.video.listing import listed

if TYPE_CHECKING:
    from sfumato.fields.video.data import Wanted

MOST = 2000
"""Films that are looked into, at most."""


def looked(data: Path, wanted: Wanted) -> tuple[list[str], bool]:
    """Lines about films, of which a frame each is decoded, and whether training would start. Raises DataError."""
    from sfumato.fields.video.data import shaped

    listing = listed(data, wanted.captions)
    size, _, rate, more = shaped(listing.films, wanted)
    shapes: Counter[str] = Counter()
    rates: Counter[str] = Counter()
    broken: list[str] = []
    seen = listing.films[:MOST]
    for film in seen:
        try:
            told = about(film)
        except DataError as error:
            broken.append(str(error))
            continue
        shapes[f"{told.width}x{told.height}"] += 1
        rates["none said" if told.rate is None else f"{told.rate:.3g}"] += 1
    texts = [said.text for each in listing.captions for said in each if said.text]
    lines = [
        *listing.said, *more,
        f"{len(listing.films)} films with {len(texts)} captions ({listing.how}) in {data}"
        + (f", of which the first {MOST} are looked into" if len(listing.films) > MOST else ""),
        "sizes     " + ", ".join(f"{name} ({n})" for name, n in shapes.most_common(5)),
        "rates     " + ", ".join(f"{name} ({n})" for name, n in rates.most_common(5)),
        f"clips     {wanted.frames} frames of {size[0]}x{size[1]} (height x width) at {rate:g} a second",
        *broken[:10],
    ]  # fmt: skip
    sound = len(broken) <= wanted.broken_budget * len(seen)
    if not sound:
        lines.append(f"training would stop: {len(broken)} of {len(seen)} films are broken")
    return lines, sound
