"""data.json: what a run knows of its data."""

from __future__ import annotations

import json
from typing import Any

from sfumato.training.run import Run, RunError


def read_facts(run: Run) -> dict[str, Any]:
    """What data.json says about the data of a run: at least "shape" of an item, "classes" and "count". Raises RunError."""
    try:
        return json.loads((run.path / "data.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run.path / 'data.json'}: cannot be read ({error}); the run is not complete, train again"
        ) from error
