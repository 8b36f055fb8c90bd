"""The state of training: what a checkpoint holds, how it is put back, and what is done about it when a run ends early."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import Mendable, decoding
from sfumato.training import checkpoint, skipped
from sfumato.training.careful import reason
from sfumato.training.ema import PowerEMA
from sfumato.training.leaving import go_on
from sfumato.training.loader import LoaderDied
from sfumato.training.memory import is_short, shortage
from sfumato.training.objective import Objective, Task
from sfumato.training.optimizer_state import flatten_optimizer, restore_optimizer
from sfumato.training.options import TrainOptions
from sfumato.training.parallel import Runtime
from sfumato.training.run import Run, RunError
from sfumato.training.saving import Saver
from sfumato.training.sharding import local, place
from sfumato.training.shards import Place, Rows
from sfumato.training.spikes import Spikes
from sfumato.training.telling import tell
from sfumato.training.watch import settings_of


class NonFinite(Mendable, RuntimeError):
    """The loss or its gradient is not a number. Raised before the weights are touched."""


@dataclass
class State:
    """Everything that changes in training, and where it is: what a checkpoint holds.

    step: updates done. whole: whether all of it is of that step; not so while an update is under way. split: parts that each
    piece is cut into, to save memory; no part of the state, for the results do not depend on it. threads: of the CPU, while that
    is measured. skipped: steps, counted from 1, whose batch is not learned from; found: those of them that the run found out
    by itself. lost: its weights were ruined, and there was nothing to go back to.
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
    skipped: set[int] = field(default_factory=set)
    found: set[int] = field(default_factory=set)
    lost: bool = False

    def __post_init__(self) -> None:
        # as they are now: while a part of the network is at work it has others, its whole ones
        self.parameters = dict(self.objective.network.named_parameters())
        places = {name: place(value) for name, value in self.parameters.items()}
        self.places = {name: at for name, at in places.items() if at is not None}
        """Where this process's rows of each parameter are in the whole, of those that lie in parts."""

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters by name; what this process holds of them."""
        return {name: local(value) for name, value in self.parameters.items()}

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """The tensors, by what they are of; the live ones."""
        flat, _ = flatten_optimizer(self.optimizer)
        learned = self.objective.learned_state()
        found = {"network": self.objective.network.state_dict(), "ema": self.ema.state(), "optimizer": flat}
        return {**found, **({"learned": learned} if learned else {})}

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Place]] | None]:
        """What this process writes into a checkpoint, and which rows of the wholes that is where they lie in parts."""
        sharding, groups = self.runtime.sharding, self.groups()
        if sharding is None:
            return groups, None
        averaged = {name: self.places[_of(name)] for name in groups["ema"] if _of(name) in self.places}
        return sharding.parts(groups, {"ema": averaged})

    def part(self, group: str, name: str, shape: tuple[int, ...]) -> Rows | None:
        """Which rows of a tensor in a checkpoint this process holds; None: all."""
        known: Any = None
        if group == "optimizer":
            kind, index, key = name.split(".", 2)
            parameters = [p for each in self.optimizer.param_groups for p in each["params"]]
            if kind == "state" and key != "step" and int(index) < len(parameters):
                known = parameters[int(index)]
        elif group == "learned":
            known = self.objective.learned_state().get(name)
        else:
            known = self.parameters.get(_of(name) if group == "ema" else name)
        at = None if known is None else place(known)
        return None if at is None or at.shape != shape else (at.first, at.first + len(local(known)))

    def whole_averages(self) -> PowerEMA | None:
        """The averages as the first process needs them to look at and give away, whole; None in the others. All call it."""
        sharding = self.runtime.sharding
        if sharding is None:
            return self.ema
        found: dict[float, dict[str, Tensor]] = {}
        for width, named in self.ema.averages.items():
            for name, mean in named.items():
                whole = sharding.whole(mean, self.parameters[name])
                if self.runtime.first:
                    found.setdefault(width, {})[name] = whole.cpu()
        return PowerEMA.of(found) if self.runtime.first else None

    @property
    def restless(self) -> set[tuple[str, str]]:
        """What may change before the next update: what networks count as they are called, and times and weights of levels."""
        buffers = {("network", name) for name, _ in self.objective.network.named_buffers()}
        return buffers | {("learned", name) for name in self.objective.learned_state()}

    def meta(self) -> dict[str, Any]:
        """All else, as JSON."""
        _, flat = flatten_optimizer(self.optimizer)
        settings = settings_of(self.objective.network)
        past = sorted(step for step in self.skipped if step <= self.step)
        return {"optimizer": flat, "seed": self.options.seed, "network": settings, "spikes": self.spikes.state(),
                "threads": self.threads, "skipped": past, "trained": self.trained()}  # fmt: skip

    def trained(self) -> dict[str, Any]:
        """What the course of training depends on besides the state and the number of steps, as JSON; a change of it in the
        middle of a run is possible, and another run."""
        plain = dataclasses.asdict(self.options)
        kept = {name: plain[name] for name in ("seed", "batch", "accumulate", "optim", "precision")}
        process = repr(self.task.process)
        told = {"process": process} if len(process) < 500 and " at 0x" not in process else {}
        return json.loads(json.dumps({**kept, **told, "torch": torch.__version__}))

    def read(self, path: Path, verified: bool = False) -> checkpoint.Checkpoint:
        """A checkpoint, of each tensor what this process holds of it."""
        return checkpoint.load(path, part=self.part if self.places else None, verified=verified)

    @torch.no_grad()
    def restore(self, found: checkpoint.Checkpoint) -> int:
        """Everything as it was in a checkpoint that was `read`; returns its step."""
        for here, saved in (
            (self.objective.network.state_dict(), found.tensors["network"]),
            (self.objective.learned_state(), found.tensors.get("learned", {})),
        ):
            for name, value in here.items():
                if name in saved:
                    local(value).copy_(saved[name])
        restore_optimizer(self.optimizer, found.tensors["optimizer"], found.meta["optimizer"])
        self.ema.load(found.tensors["ema"])
        self.spikes.load(found.meta.get("spikes", {}))
        self.threads = int(found.meta.get("threads", self.threads))
        self.skipped |= set(found.meta.get("skipped", ()))
        return found.step

    def counted(self) -> dict[str, Tensor]:
        """Copies of what a network counts as it is called, before it is called with a batch that may be left out."""
        return {name: value.clone() for name, value in self.objective.network.named_buffers()}

    @torch.no_grad()
    def uncount(self, counted: Mapping[str, Tensor]) -> None:
        """The inverse of `counted`."""
        for name, value in self.objective.network.named_buffers():
            value.copy_(counted[name])


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
        alone = state.runtime.first and state.runtime.sharding is None  # others may be gone, and their parts with them
        if alone and state.whole and state.step > 0 and self.saver.newest != state.step:
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


def load(run: Run, state: State) -> int:
    """Restore the newest whole checkpoint into everything; returns its step, 0 if there is none. One that has learned from a
    batch that the run was to forget is of a past that is no more, and is taken away. The first process chooses for all."""
    state.found = skipped.read(run)
    state.skipped = state.found | set(state.options.skip_steps)
    runtime, step, failed = state.runtime, -1, None
    if runtime.first:
        try:
            step = _chosen(run, state)
        except checkpoint.CheckpointError as error:
            failed = error
    if runtime.agree(failed is not None):  # said once, and nobody waits for who will not come
        raise failed or SystemExit(1)
    step = runtime.told(step)
    if step < 0:
        return 0
    path = checkpoint.path_of(run.checkpoints, step)
    found = state.read(path, verified=not runtime.first)
    shapes = {name: torch.empty(shape, device="meta") for name, shape in checkpoint.shapes(path)["network"].items()}
    checkpoint.fits(shapes, state.objective.network.state_dict(), f"{path}",
                    found.meta.get("network"), settings_of(state.objective.network))  # fmt: skip
    then, now = found.meta.get("trained"), state.trained()
    if then is not None and runtime.first and (changed := list(_changed(then, now))):
        tell(f"warning: this run was begun otherwise ({', '.join(changed)}): it goes on as if it had not been")
    with decoding(path, "delete this checkpoint, and the one before it is taken", checkpoint.CheckpointError):
        return state.restore(found)


def _chosen(run: Run, state: State) -> int:
    """The step of the checkpoint to go on from; -1 where there is none yet. Raises CheckpointError."""
    path, complaints = checkpoint.newest(run.checkpoints)
    for complaint in complaints:
        tell(f"warning: {complaint}")
    if path is None:
        if complaints:
            raise checkpoint.CheckpointError(
                f"{run.checkpoints}: no whole checkpoint is left; train again with --out elsewhere"
            )
        if run.model.is_file():  # all would be trained again, over it
            raise checkpoint.CheckpointError(
                f"{run.path}: it is trained, but its checkpoints are gone, without which it cannot be gone on with; sample it "
                "as it is, or train again with --out elsewhere"
            )
        return -1
    found = checkpoint.about(path)
    newest = found.step
    for _, path in checkpoint.older(run.checkpoints, newest):  # the newest once more at the end
        if not skipped.stale(found, state.found):
            break
        found = checkpoint.about(path)
    if skipped.stale(found, state.found):
        raise checkpoint.CheckpointError(
            f"{run.checkpoints}: every checkpoint has learned from a batch that was to be forgotten (step {min(state.found)}); "
            "train again with --out elsewhere"
        )
    if found.step < newest:
        checkpoint.forget(run.checkpoints, found.step)
    return found.step


def alike(run: Run, state: State) -> None:
    """Complain unless all processes train the same: options, versions, data. All of them call it. Raises RunError in those that
    differ from the first, with the difference; the others leave."""
    runtime = state.runtime
    if runtime.world == 1:
        return
    train = state.task.train
    some = range(0, len(train), max(1, len(train) // 64))
    data = {
        "items": len(train),
        "names": hashlib.sha256("\0".join(train.name(i) for i in some).encode()).hexdigest()[:12],
    }
    layout = dataclasses.asdict(runtime.mesh)
    mine = json.loads(json.dumps({**state.trained(), "steps": state.options.steps, "data": data, "layout": layout}))
    first = json.loads(runtime.heard(json.dumps(mine)))
    other = list(_changed(first, mine)) + [f"{name} is here alone" for name in mine.keys() - first.keys()]
    if runtime.agree(bool(other)):
        if not other:
            raise SystemExit(1)
        raise RunError(
            f"{run.path}: process {runtime.rank} would train another run than the first ({', '.join(other)}); all must have "
            "the same config.yaml, data and versions"
        )


def _of(average: str) -> str:
    """The parameter that an average is of, `0.05/blocks.0.weight`."""
    return average.partition("/")[2]


def _changed(then: Any, now: Any, path: str = "") -> Iterator[str]:
    """What differs between two trees of options, in words; what only one of them has is of another revision."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in then.keys() & now.keys():
            yield from _changed(then[name], now[name], f"{path}.{name}" if path else name)
    elif then != now:
        yield f"{path} was {then} and is {now}"
