"""Steps that a run has found it must leave out.

They stand in `skipped.json` before anything else is done about them. A checkpoint knows which of them it has left out; one
that should have and has not is of a past that is no more, wherever a kill came between.
"""

from __future__ import annotations

from collections.abc import Iterable

from sfumato.training.checkpoint import Checkpoint
from sfumato.training.run import Run, RunError, sealed, unsealed, write_text

FILE = "skipped.json"


def read(run: Run) -> set[int]:
    """Steps, counted from 1, that a run has found it must leave out. Raises RunError for a file that is damaged."""
    path = run.path / FILE
    try:
        steps = unsealed(path.read_text(encoding="utf-8"))["steps"]
        return {int(step) for step in steps}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); restore it, or delete it: the batches it names are learned from then"
        ) from error


def write(run: Run, steps: Iterable[int]) -> None:
    """The file, whole or not at all. Raises OSError."""
    write_text(run.path / FILE, sealed({"steps": sorted(steps)}))


def stale(found: Checkpoint, steps: set[int]) -> bool:
    """Whether a checkpoint has learned from one of the steps that are to be left out."""
    return bool({step for step in steps if step <= found.step} - set(found.meta.get("skipped", ())))
