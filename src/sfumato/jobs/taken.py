"""What a finished run leaves for its walks: weights that are known by their numbers, and what it measured of itself."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from sfumato.training.run import Run, RunError, unsealed


def fingerprint(run: Run) -> str:
    """16 digits that tell a run's weights from others, whatever the order in which its file names them; "" without any."""
    import torch

    from sfumato.training import checkpoint

    if not run.model.is_file():
        return ""
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.read_tensors(run.model).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def measured(run: Run) -> dict[str, Any]:
    """What the run measured of itself; grid.json in those of older revisions. Raises RunError where it is damaged."""
    file = next((path for path in (run.walk, run.path / "grid.json") if path.is_file()), None)
    if file is None:
        return {}
    try:
        found = unsealed(file.read_text(encoding="utf-8"))
        numbers = [*found.get("angles", ()), *found.get("progress", ()), found.get("residual") or 0.0]
        if not all(isinstance(value, (int, float)) for value in numbers):
            raise ValueError("it holds something else than numbers")
        if not all(map(math.isfinite, numbers)) or len(found.get("angles", ())) != len(found.get("progress", ())):
            raise ValueError("its numbers make no grid")
    except (OSError, ValueError, OverflowError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{file}: cannot be read ({error}); delete it, and the run is sampled on the cosine grid"
        ) from error
    return dict(found)
