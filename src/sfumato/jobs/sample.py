"""`sfumato sample`, for every field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import Wrong
from sfumato.jobs.model import load
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import SampleOptions
from sfumato.training.run import RunError, write_text

if TYPE_CHECKING:
    from torch import Tensor


def sample(out: Path, count: int, options: SampleOptions, folder: Path) -> list[Path]:
    """Write ``count`` samples of a run to a folder, and a grid of them; returns the grid's path last."""
    import torch

    from sfumato.training.progress import Watch

    if count < 1:
        raise Wrong(f"n = {count}: must be at least 1")
    model = load(out, options)
    recipe = model.recipe
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot write here ({error.strerror}); choose another folder with --out") from error
    done: list[Tensor] = []
    calls: list[int] = []
    with Watch("sample", count, unit="samples") as watch:
        at = 0
        for part in model.samples(range(count), options, lambda counted: calls.extend(counted.tolist())):
            recipe.write(part, range(at, at + len(part)), folder, model.run)
            at += len(part)
            done.append(part.cpu())
            watch.show(at)
    if calls:
        write_text(folder / "calls.json", json.dumps(calls))
        say(f"network calls of a sample: {sum(calls) / count:.1f} on average, {min(calls)} to {max(calls)}")
    paths = sorted(folder.glob("[0-9]*.*"))[:count]
    drawn = recipe.draw(torch.cat(done)[:256], model.run)
    if drawn is not None:
        drawn.save(folder / "grid.png")
        paths.append(folder / "grid.png")
    return paths
