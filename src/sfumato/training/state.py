"""The state of training: what a checkpoint holds, how it is put back, and what is done about it when a run ends early."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.errors import Mendable
from sfumato.training import checkpoint
from sfumato.training.careful import reason
from sfumato.training.ema import PowerEMA
from sfumato.training.leaving import go_on
from sfumato.training.loader import LoaderDied
from sfumato.training.memory import is_short, shortage
from sfumato.training.objective import Objective, Task
from sfumato.training.optimizer_state import flatten_optimizer, restore_optimizer
from sfumato.training.options import TrainOptions
from sfumato.training.parallel import Runtime
from sfumato.training.progress import Watch
from sfumato.training.run import Run
from sfumato.training.saving import Saver
from sfumato.training.spikes import MOST, Spikes, interval
from sfumato.training.telling import tell
from sfumato.training.watch import settings_of


class NonFinite(Mendable, RuntimeError):
    """The loss or its gradient is not a number. Raised before the weights are touched."""


@dataclass
class State:
    """Everything that changes in training, and where it is: what a checkpoint holds.

    step: updates done. whole: whether all of it is of that step; not so while an update is under way. split: parts that each
    piece is cut into, to save memory; no part of the state, for the results do not depend on it. threads: of the CPU, while that
    is measured.
    """

    task: Task
    options: TrainOptions
    runtime: Runtime
    objective: Objective
    optimizer: Any
    ema: PowerEMA
    spikes: Spikes
    step: int = 0
    whole: bool = True
    split: int = 1
    threads: int = 1

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """The tensors, by what they are of; the live ones."""
        flat, _ = flatten_optimizer(self.optimizer)
        learned = self.objective.learned_state()
        found = {"network": self.objective.network.state_dict(), "ema": self.ema.state(), "optimizer": flat}
        return {**found, **({"learned": learned} if learned else {})}

    @property
    def restless(self) -> set[tuple[str, str]]:
        """What may change before the next update: what networks count as they are called, and times and weights of levels."""
        buffers = {("network", name) for name, _ in self.objective.network.named_buffers()}
        return buffers | {("learned", name) for name in self.objective.learned_state()}

    def meta(self) -> dict[str, Any]:
        """All else, as JSON."""
        _, flat = flatten_optimizer(self.optimizer)
        settings = settings_of(self.objective.network)
        return {"optimizer": flat, "seed": self.options.seed, "network": settings, "spikes": self.spikes.state(),
                "threads": self.threads}  # fmt: skip


class Kept:
    """Whatever ends the loop but a bad number: the state, if it is whole, is saved first, and the message says so."""

    def __init__(self, run: Run, state: State, saver: Saver):
        self.run, self.state, self.saver = run, state, saver

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, NonFinite) or not isinstance(error, (Exception, KeyboardInterrupt)):
            return
        state = self.state
        with suppress(Exception):
            self.saver.wait()
        if state.runtime.first and state.whole and state.step > 0 and self.saver.newest != state.step:
            self.saver.save(state.step, state.groups(), state.meta(), now=True)
        words = left(self.run, state, self.saver)
        if isinstance(error, LoaderDied):
            raise LoaderDied(f"{error} {words}") from error
        if isinstance(error, Mendable):
            tell(f"stopped {words}")
        elif isinstance(error, Exception) and is_short(error):
            assert state.options.batch is not None
            raise shortage(state.objective.network, state.step, state.options.batch) from error
        else:
            tell(f"stopped by {reason(error)} {words}")


def left(run: Run, state: State, saver: Saver) -> str:
    """What is saved of a run that did not reach its end, and how to go on."""
    of = f"after step {state.step} of {state.options.steps}"
    if not state.runtime.first:
        return of
    if saver.newest == state.step:
        kept = "which is saved"
    else:
        kept = "of which nothing is saved" if saver.newest is None else f"the last one saved is {saver.newest}"
    return f"{of}, {kept}: {go_on(run.path, run.config.is_file())}"


def spiked(run: Run, state: State, saver: Saver, step: int, loss: float, watch: Watch) -> int | None:
    """The loss has a spike, which is logged; if that was asked for, the weights become those of a checkpoint before it, and
    the step is counted without an update. Returns the step whose weights they are, None where nothing was done."""
    usual, first = state.spikes.usual, state.runtime.first
    if first:
        run.log({"step": step + 1, "spike": loss, "usual": usual})
        watch.say(f"step {step + 1}: the loss is {loss:.4g}, {loss / usual:.3g} times the usual")
    if not state.options.rollback or state.spikes.rolled >= MOST:
        return None
    saver.wait()
    state.runtime.barrier()
    assert state.options.steps is not None
    every = interval(state.options.steps)
    back = next((at for at, path in checkpoint.older(run.checkpoints, step) if at % every == 0), None)
    if back is None:
        return None
    state.spikes.rolled += 1
    at = restore(checkpoint.load(run.checkpoints / f"step-{back:08d}"), state)
    if first:
        watch.say(f"step {step + 1}: back to the weights of step {at}, and on with other data")
    return at


def load(run: Run, state: State) -> int:
    """Restore the newest whole checkpoint into everything; returns its step, 0 if there is none."""
    path, complaints = checkpoint.newest(run.checkpoints)
    for complaint in complaints:
        tell(f"warning: {complaint}")
    if path is None:
        if complaints:
            raise checkpoint.CheckpointError(
                f"{run.checkpoints}: no whole checkpoint is left; train again with --out elsewhere"
            )
        return 0
    found = checkpoint.load(path)
    checkpoint.fits(found.tensors["network"], state.objective.network.state_dict(), f"{path}",
                    found.meta.get("network"), settings_of(state.objective.network))  # fmt: skip
    return restore(found, state)


def restore(found: checkpoint.Checkpoint, state: State) -> int:
    state.objective.network.load_state_dict(found.tensors["network"])
    if "learned" in found.tensors:
        state.objective.load_state_dict(found.tensors["learned"], strict=False)
    restore_optimizer(state.optimizer, found.tensors["optimizer"], found.meta["optimizer"])
    state.ema.load(found.tensors["ema"])
    state.spikes.load(found.meta.get("spikes", {}))
    state.threads = int(found.meta.get("threads", state.threads))
    return found.step
