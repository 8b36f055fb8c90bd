"""`sfumato video stream`: frames as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sfumato.errors import Wrong
from sfumato.fields.video.rollout import parts
from sfumato.jobs import config, model
from sfumato.jobs.outputs import Place

if TYPE_CHECKING:
    from sfumato.fields.video.options import ClipAsk
    from sfumato.jobs.walk import Drawing, Walk


def stream(run: Path, ask: ClipAsk, walk: Walk, drawing: Drawing, out: Path) -> Iterator[str]:
    """Write a film frame by frame as out/000000.png, ..., each with its making; yields a line for each clip once its new frames
    are there, and one of the pace. Raises RunError, and Wrong for a run of another field."""
    if (of := config.field_of(run)) not in (None, "video"):  # of none `load` says what is missing
        raise Wrong(f"run = {str(run)!r}: must be a run of video, this is one of {of}")
    loaded: Any = model.load(run, walk, drawing)
    clips, place = loaded.recipe.queries(loaded, ask, 1), Place(out, False)
    making = loaded.making(ask, ".png").of(clips, 0)
    place.check()
    place.clear()
    began, first, done = time.monotonic(), 0.0, []
    for at, new in parts(loaded, clips, [0]):
        for number, pixels in enumerate(loaded.companions.units.bytes(new[0]), at):
            file = place.desk / f"{number:06d}.png"
            Image.fromarray(pixels).save(file, pnginfo=making.png())
            done.append(place.put(file))
        first = first or time.monotonic() - began
        yield f"frames {at} to {at + new.shape[1] - 1}: {out}"
    place.note(done, making)
    seconds = time.monotonic() - began
    yield f"first frames after {first:.2f} s, {len(done) / seconds:.1f} frames a second"
