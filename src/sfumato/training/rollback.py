"""Going on as if a batch had never been seen.

The loss of step s has a spike. Either its batch is strange, and then the weights, which have not learned from it yet, are
good: the step is left out. Or the weights are, by what they learned from the batch before: then a batch that was usual is
strange to them now. In that case the run goes back to a checkpoint from before and walks the same steps again, to the bit,
but for that batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from sfumato.training import checkpoint, skipped
from sfumato.training.careful import reason
from sfumato.training.run import Run
from sfumato.training.saving import Saver
from sfumato.training.spikes import MOST
from sfumato.training.state import State


def culprit(state: State, step: int, again: Callable[[int], float]) -> int:
    """Which step, counted from 1, made the loss of the ``step``-th strange: itself, or the last one that was learned from.

    again: the loss of an earlier step's batch with the weights of now. It was usual then; if it is strange now, the weights
    are.
    """
    before = next((n for n in range(step - 1, 0, -1) if n not in state.skipped), None)
    return step if before is None or not state.spikes.strange(again(before)) else before


def before(state: State, folder: Path, step: int) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint that has not learned from the ``step``-th batch."""
    return next((state.read(path) for n, path in checkpoint.older(folder, step) if n < step), None)


def spiked(
    run: Run,
    state: State,
    saver: Saver,
    step: int,
    loss: float,
    norm: float,
    items: Sequence[str],
    say: Callable[[str], None],
    again: Callable[[int], float],
) -> int | None:
    """The loss of the ``step``-th step, or its gradient, is strange: that is logged, with the items of its batch. If it was
    asked for, the state becomes one that never saw the batch that did it. Returns the step whose state it is then: the one
    before, or that of a checkpoint, which `state.step` is too; None where nothing was done."""
    usual, first = state.spikes.usual, state.runtime.first
    if first:
        numbers = {"spike": loss, "norm": norm, "usual": usual}
        plain = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        run.log({"step": step, **plain, "items": list(items)})
        more = f", {loss / usual:.3g} times the usual" if math.isfinite(loss) else ""
        say(f"step {step}: the loss is {loss:.4g}{more}" + ("" if math.isfinite(norm) else ", its gradient not finite"))
    if not state.options.rollback or len(state.found) >= MOST or state.lost:
        return None
    saver.wait()
    which = culprit(state, step, again)
    found = None if which == step else before(state, run.checkpoints, which)
    if which < step and found is None:
        state.lost = True
        say(f"step {step}: no checkpoint from before step {which} is left to go back to; more are kept with --keep")
        return None
    state.found.add(which)
    state.skipped.add(which)
    state.runtime.barrier()
    if first:
        try:
            skipped.write(run, state.found)
            checkpoint.forget(run.checkpoints, which - 1)
        except OSError as error:
            say(f"warning: what is left out could not be written down ({reason(error)})")
    state.runtime.barrier()
    if found is None:
        say(f"step {step}: its batch is left out")
        return step - 1
    state.whole = False
    state.step = saver.newest = state.restore(found)
    state.whole = True
    say(f"step {step}: back to step {state.step}, and the same steps again without the batch of step {which}")
    return state.step
