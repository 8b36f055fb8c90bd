"""The training loop. Read `train` from top to bottom.

The state of training is (step, weights, averages, optimiser); randomness and data order are functions of (seed, step),
so continuing needs nothing else and is exact.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from sfumato.diffusion import Adaptive, key
from sfumato.diffusion.rng import widest
from sfumato.training import optim, rollback
from sfumato.training.careful import Careful
from sfumato.training.ema import PowerEMA, write_snapshot
from sfumato.training.explain import explained
from sfumato.training.leaving import Asked, Stopped, asked
from sfumato.training.loader import Batch, batches
from sfumato.training.memory import is_short, parts, release, shortage
from sfumato.training.objective import Gather, Noised, Objective, Task, bf16_pays, evaluating, noised, observe, parted
from sfumato.training.options import TrainOptions
from sfumato.training.pace import DEFAULT, Pace
from sfumato.training.parallel import Runtime, launched
from sfumato.training.progress import Watch, memory
from sfumato.training.run import Run
from sfumato.training.saving import Saver
from sfumato.training.sharding import local
from sfumato.training.spikes import Spikes
from sfumato.training.state import Kept, NonFinite, State, alike, left, load
from sfumato.training.telling import tell
from sfumato.training.watch import Averaged, tensorboard

__all__ = ["NonFinite", "Stopped", "train"]


def train(task: Task, run: Run, options: TrainOptions, device: str = "auto") -> None:
    """Train ``task`` in ``run`` until ``options.steps``, from its newest checkpoint if there is one.

    Raises:
        Stopped: SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C came; the step was finished and saved.
        NonFinite: the loss or gradient is not finite; names the step, files, t and layer.
        Shortage: single samples do not fit into the memory.
        RunError: another process trains in this run.
    """
    assert options.steps is not None
    assert options.batch is not None
    learnt, held_out = parted(task)
    task = dataclasses.replace(task, train=learnt, held_out=held_out)
    if options.threads:
        torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        runtime = stack.enter_context(launched(device)).arranged(options.parallel)
        if runtime.first:
            stack.enter_context(run.locked())
        # a network that is shared out cannot be copied any more, nor called by one process alone
        spare = copy.deepcopy(task.network) if runtime.first and runtime.world > 1 else None
        state, module = _begun(task, options, runtime)
        alike(run, state)
        start = state.step = load(run, state)
        stop = stack.enter_context(asked())
        saver = stack.enter_context(Saver(run.checkpoints, options.keep, tell, runtime.together))
        watch = stack.enter_context(Watch("train", options.steps, start, "samples", options.batch, not runtime.first))
        careful = Careful(watch.say)
        averaged = (
            Averaged(task, run, state.objective.bf16, runtime.device, careful, spare=spare) if runtime.first else None
        )
        events = stack.enter_context(tensorboard(run, runtime.first, careful))
        pace, peak = _pace(state, watch), optim.peak_lr(options.optim, state.objective.network)
        if start > 0:
            done = start >= options.steps
            watch.say(
                f"finished: all {start} steps are done" if done else f"going on after step {start} of {options.steps}"
            )
        if start == 0 and runtime.saves:
            _save(run, 0, state, saver)
        desk = Desk(run, state, saver, watch, averaged, events, careful, peak)
        state.objective.network.train()
        with Kept(run, state, saver):
            while _walked(desk, module, pace, stop):
                pass
        saver.wait()
        if state.step >= options.steps:
            averages = state.whole_averages()
            if averaged is not None and averages is not None:
                averaged.finish(averages, state.step)
        runtime.barrier()
        if state.step < options.steps:  # a process that got no signal itself leaves as the one that did
            raise Stopped(128 + (stop.signal or signal.SIGTERM), left(run, state, saver))


def _begun(task: Task, options: TrainOptions, runtime: Runtime) -> tuple[State, nn.Module]:
    """The state of training at its beginning, and the objective as several processes call it."""
    here, whole = runtime.device, runtime.sharding is None
    bf16 = options.precision == "bf16" or (options.precision == "auto" and bf16_pays(here))
    compiled = options.compile == "on" or (options.compile == "auto" and here.type == "cuda")
    objective = Objective(task, bf16, compiled and whole)
    module = runtime.parallel(objective.to(here) if whole else objective, objective.network, compiled)
    optimizer = optim.build(options.optim, objective.network, extra=_extra(objective))
    ema = PowerEMA({name: local(value) for name, value in objective.network.named_parameters()}, options.ema)
    return State(task, options, runtime, objective, optimizer, ema, Spikes()), module


def _pace(state: State, watch: Watch) -> Pace:
    """The threads that this process uses, measured now and then where that can help."""
    runtime = state.runtime
    measured = (
        state.options.threads is None
        and runtime.world == 1
        and runtime.device.type == "cpu"
        and not state.objective.compiled
    )
    if measured and state.step > 0:
        torch.set_num_threads(max(1, min(state.threads, DEFAULT)))
    pace = Pace(measured, watch.say)
    state.threads = pace.now
    return pace


def _walked(desk: Desk, module: nn.Module, pace: Pace, stop: Asked) -> bool:
    """Steps from the state's on, to the last one or a signal. True where the run went back, and is to walk once more."""
    state, options = desk.state, desk.state.options
    for step, pieces in _steps(state.task, options, state.step, state.runtime):
        pace.begin()
        if step + 1 not in state.skipped and not _learned(desk, module, step, pieces):
            return True
        desk.saver.settle()
        state.whole = False
        step = state.step = step + 1
        state.ema.update(state.weights(), step, step - 1)
        state.whole = True
        pace.end()
        state.threads = pace.now
        due = state.runtime.first and _save_due(options, desk.saved)
        asked_to, saving = state.runtime.agreed(stop.signal is not None, due)
        ending = asked_to or step == options.steps
        desk.after(step, ending, saving or ending)
        if ending:
            break
    return False


def _learned(desk: Desk, module: nn.Module, step: int, pieces: list[Batch]) -> bool:
    """The weights learn from a batch, or leave it out where it is strange and that was asked for. False where the state went
    back to a step before, instead."""
    state, options, runtime = desk.state, desk.state.options, desk.state.runtime
    counted = state.counted() if options.rollback else {}
    total, terms, seen = _gradient(state, module, step, pieces, desk.watch)
    total, norm = runtime.mean(total), _clipped(state)
    said = (step + 1) % 10 == 0 or step + 1 == options.steps
    means = {name: float(runtime.mean(mean)) for name, mean in terms.items()} if said else None

    # one wait for the device a step, so that a bad number stops before it reaches the weights
    loss, size = torch.stack([value.detach().to(widest(runtime.device)) for value in (total, norm)]).tolist()
    finite = math.isfinite(loss + size)
    if not finite and not options.rollback:
        raise NonFinite(_explain(desk.run, state, step))
    if not finite or state.spikes.see(loss):
        items = [state.task.train.name(i) for batch in pieces for i in batch.indices]
        found = rollback.spiked(
            desk.run, state, desk.saver, step + 1, loss, size, items, desk.watch.say, partial(_again, state)
        )
        if found is None and not finite:
            raise NonFinite(_explain(desk.run, state, step))
        if found is not None:
            state.uncount(counted) if found == step else None
            return found == step
    assert options.steps is not None
    lr = optim.learning_rate(options.optim, step, options.steps, desk.rate)
    desk.record, desk.means = {"loss": loss, "norm": size, "lr": lr}, means
    desk.saver.settle()  # what is on its way into a checkpoint is that of before the update
    state.whole = False
    _update(state, seen, lr)
    return True


def _clipped(state: State) -> Tensor:
    """The norm () of the gradient, which is shortened to what it may be."""
    parameters = [p for p in state.objective.parameters() if p.requires_grad]
    if state.runtime.sharding is None:
        return optim.clip(parameters, state.options.optim.clip)
    return state.runtime.sharding.clip((p.grad for p in parameters if p.grad is not None), state.options.optim.clip)


@torch.no_grad()
def _again(state: State, step: int) -> float:
    """The loss of the batch of the ``step``-th step, from 1, with the weights of now; nothing is learned or counted."""
    task, options, runtime = state.task, dataclasses.replace(state.options, workers=0), state.runtime
    assert options.batch is not None
    at, pieces = next(_steps(task, options, step - 1, runtime))
    total = torch.zeros((), device=runtime.device)
    with evaluating(state.objective.network):
        for i, batch in enumerate(pieces):
            rows = _draw(
                task, options, at, i * (options.batch // options.accumulate), batch, runtime.device, runtime.gathers
            )
            for part, share in parts(rows, state.split, task.copies):
                total += state.objective(*part)[1].mean() * share / options.accumulate
    runtime.apart(state.objective)
    return float(runtime.mean(total))


@dataclass
class Desk:
    """What a step leaves for people and in files: lines, numbers, checkpoints, snapshots, previews. All that is of the first
    process, but where weights lie in parts, which others have to bring.

    rate: peak learning rate. saved: when the last checkpoint was begun, in seconds of ``time.monotonic``. record: numbers of
    the last step that was learned from; means: that of each term of its loss, where its numbers are written down.
    """

    run: Run
    state: State
    saver: Saver
    watch: Watch
    averaged: Averaged | None
    events: Callable[[Mapping[str, float], int], None]
    careful: Careful
    rate: float
    saved: float = field(default_factory=time.monotonic)
    record: dict[str, float] = field(default_factory=dict)
    means: dict[str, float] | None = None

    def after(self, step: int, ending: bool, saving: bool) -> None:
        """After ``step`` steps."""
        state, options, first = self.state, self.state.options, self.state.runtime.first
        assert options.steps is not None
        if first:
            self._say(step)
        if saving and state.runtime.saves:
            _save(self.run, step, state, self.saver, ending)
            self.saved = time.monotonic()
        snapshot = _due(step, options.steps, options.snapshots)
        preview = _due(step, options.steps, options.previews) and (not ending or step == options.steps)
        averages = state.whole_averages() if snapshot or preview else None
        if self.averaged is None or averages is None:
            return
        if snapshot:
            with self.careful("the snapshot"):
                write_snapshot(self.run.snapshots, step, averages)
        if preview:
            found = self.averaged.look(averages, step)
            self.events(found, step)
            if "held_out" in found:
                self.watch.say(f"step {step}: held-out loss {found['held_out']:.4f}")

    def _say(self, step: int) -> None:
        """The numbers of a step."""
        used = memory(self.state.runtime.device)
        self.watch.show(step, f"loss {self.record.get('loss', math.nan):.4f}  {used:.1f} GB")
        means, self.means = self.means, None
        if means is not None:
            self.run.log({**means, "step": step, **self.record, "memory": used})
            self.events({**means, **self.record}, step)


def _update(state: State, seen: list[tuple[Tensor, Tensor]], lr: float) -> None:
    """The weights, one step on; and the times, where they are learned from the losses that were ``seen`` at them."""
    if isinstance(state.task.times, Adaptive) and seen:
        levels, wrong = (state.runtime.gather(torch.cat(some)) for some in zip(*seen, strict=True))
        observe(state.task.times, state.task.process, levels, wrong)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()


def _gradient(
    state: State, module: nn.Module, step: int, pieces: list[Batch], watch: Watch
) -> tuple[Tensor, dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """The gradient of one global batch, into the parameters; the mean loss (), that of each term by name, and the times and
    losses of the rows where times are learned. A batch that does not fit into memory is cut into smaller parts."""
    while True:
        try:
            return _pieces(state, module, step, pieces)
        except (RuntimeError, MemoryError) as error:
            # under several processes the others wait in the middle of this step: it cannot be done again
            if not is_short(error) or state.runtime.world > 1:
                raise
        state.optimizer.zero_grad(set_to_none=True)
        release()
        most = max(len(batch.indices) for batch in pieces)
        if state.split >= most:
            assert state.options.batch is not None
            raise shortage(state.objective.network, step, state.options.batch)
        state.split = min(most, 2 * state.split)
        watch.say(
            f"step {step}: out of memory; from here on {-(-most // state.split)} sample(s) at a time instead of {most}, with "
            "the same batch, times and noise"
        )


def _pieces(
    state: State, module: nn.Module, step: int, pieces: list[Batch]
) -> tuple[Tensor, dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    task, options, here = state.task, state.options, state.runtime.device
    assert options.batch is not None
    piece = options.batch // options.accumulate
    # dropout and token routing draw from torch's own stream, keyed too
    torch.manual_seed(key("network", options.seed, step, state.runtime.lane))
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=here)
    terms: dict[str, Tensor] = {}
    seen: list[tuple[Tensor, Tensor]] = []
    for i, batch in enumerate(pieces):
        whole = _draw(task, options, step, i * piece, batch, here, state.runtime.gathers)
        for rows, share in parts(whole, state.split, task.copies):
            with state.runtime.piece(module, i == len(pieces) - 1):
                value, losses, means = module(*rows)
                (value * share / options.accumulate).backward()
            total += losses.mean() * share / options.accumulate
            for name, mean in means.items():
                terms[name] = terms.get(name, torch.zeros_like(mean)) + mean * share / options.accumulate
            if isinstance(task.times, Adaptive):
                seen.append((rows.t, losses))
    return total, terms, seen


def _steps(task: Task, options: TrainOptions, start: int, runtime: Runtime) -> Iterator[tuple[int, list[Batch]]]:
    """The pieces of each step's global batch that belong to this process."""
    assert options.steps is not None
    assert options.batch is not None
    piece = options.batch // options.accumulate
    places = runtime.share(piece)
    # pieces are batches of their own in the data order: piece i of step k is small batch k * accumulate + i
    k = options.accumulate
    found = batches(task.train, piece, options.seed, start * k, options.steps * k, places, options.workers)
    for step in range(start, options.steps):
        yield step, [next(found) for _ in range(k)]


def _draw(
    task: Task,
    options: TrainOptions,
    step: int,
    offset: int,
    batch: Batch,
    device: torch.device,
    gather: Gather | None = None,
) -> Noised:
    """Data, noise, times and condition of a piece: functions of (seed, step, place in the global batch)."""
    assert options.batch is not None
    rows = dataclasses.replace(batch, places=batch.places + offset)
    return noised(task, rows, key("train", options.seed), step * options.batch, options.batch, device, gather)


def _extra(objective: Objective) -> list[nn.Parameter]:
    return [] if objective.uncertainty is None else list(objective.uncertainty.parameters())


def _due(step: int, steps: int, times: int) -> bool:
    """Whether ``step`` is one of ``times`` evenly spread moments of the run, its end included."""
    return times > 0 and step * times // steps != (step - 1) * times // steps


def _save_due(options: TrainOptions, saved: float) -> bool:
    return time.monotonic() - saved > options.save_seconds


def _save(run: Run, step: int, state: State, saver: Saver, now: bool = False) -> None:
    """Save the state: at first at once or not at all, afterwards beside the training (``now``: at once)."""
    tensors, places = state.parts()
    if step == 0:
        saver.first(step, tensors, state.meta(), places)
    else:
        saver.save(step, tensors, state.meta(), now, state.restless, places)


def _explain(run: Run, state: State, step: int) -> str:
    """Run the step again, just as it was, and name what is not finite. All processes do, side by side."""
    task, options, runtime = state.task, state.options, state.runtime
    _, pieces = next(_steps(task, options, step, runtime))
    assert options.batch is not None
    torch.manual_seed(key("network", options.seed, step, runtime.lane))
    state.objective.zero_grad(set_to_none=True)
    each = options.batch // options.accumulate
    # all of them first: where processes share them, none may leave while another one waits for it
    drawn = [
        _draw(task, options, step, i * each, batch, runtime.device, runtime.gathers) for i, batch in enumerate(pieces)
    ]
    return explained(run, state, step, pieces, drawn)
