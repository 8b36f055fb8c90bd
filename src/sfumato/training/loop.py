"""The training loop. Read `train` from top to bottom.

The state of training is (step, weights, averages, optimiser); randomness and data order are functions of (seed, step),
so continuing needs nothing else and is exact.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.diffusion import Adaptive, key, tree
from sfumato.errors import Mendable
from sfumato.training import checkpoint, optim
from sfumato.training.ema import PowerEMA, write_snapshot
from sfumato.training.loader import Batch, batches
from sfumato.training.objective import Noised, Objective, Task, bf16_pays, noised, observe, parted
from sfumato.training.optimizer_state import flatten_optimizer, restore_optimizer
from sfumato.training.options import TrainOptions
from sfumato.training.parallel import Runtime, launched
from sfumato.training.progress import Watch, memory
from sfumato.training.run import Run
from sfumato.training.watch import Averaged, blame, tensorboard


class NonFinite(Mendable, RuntimeError):
    """The loss or its gradient is not a number. Raised before the weights are touched."""


class Stopped(Mendable):
    """A signal asked to stop; the state is saved. ``code`` is the exit status to leave with."""

    def __init__(self, code: int):
        super().__init__(f"stopped by signal {code - 128}")
        self.code = code


def train(task: Task, run: Run, options: TrainOptions, device: str = "auto") -> None:
    """Train ``task`` in ``run`` until ``options.steps``, from its newest checkpoint if there is one.

    Raises:
        Stopped: SIGTERM or Ctrl-C came; the step was finished and saved.
        NonFinite: the loss or gradient is not finite; names the step, files, t and layer.
        RunError: another process trains in this run.
    """
    assert options.steps is not None
    assert options.batch is not None
    learnt, held_out = parted(task)
    task = dataclasses.replace(task, train=learnt, held_out=held_out)
    if options.threads:
        torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        runtime = stack.enter_context(launched(device))
        if runtime.first:
            stack.enter_context(run.locked())
        here = runtime.device
        bf16 = options.precision == "bf16" or (options.precision == "auto" and bf16_pays(here))
        compiled = options.compile == "on" or (options.compile == "auto" and here.type == "cuda")
        objective = Objective(task, bf16, compiled).to(here)
        network, process = objective.network, task.process
        optimizer = optim.build(options.optim, network, extra=_extra(objective))
        rate = optim.peak_lr(options.optim, network)
        ema = PowerEMA(dict(network.named_parameters()), options.ema)
        start = _load(run, objective, optimizer, ema)
        module = runtime.parallel(objective)
        averaged = Averaged(task, run, bf16, here)
        events = stack.enter_context(tensorboard(run, enabled=runtime.first))
        stop = stack.enter_context(_signals())
        watch = stack.enter_context(Watch("train", options.steps, start, "samples", options.batch, not runtime.first))

        if start > 0:
            done = start >= options.steps
            watch.say(
                f"finished: all {start} steps are done" if done else f"going on after step {start} of {options.steps}"
            )
        if start == 0 and runtime.first:
            _save(run, 0, objective, optimizer, ema, options)
        saved, piece = time.monotonic(), options.batch // options.accumulate
        parameters = [p for p in objective.parameters() if p.requires_grad]
        network.train()
        step = start
        for step, pieces in _steps(task, options, start, runtime):
            # the gradient of one global batch; dropout and token routing draw from torch's own stream, keyed too
            torch.manual_seed(key("network", options.seed, step, runtime.rank))
            optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=here)
            terms: dict[str, Tensor] = {}
            seen: list[tuple[Tensor, Tensor]] = []
            for i, batch in enumerate(pieces):
                rows = _draw(task, options, step, i * piece, batch, here)
                value, losses, means = module(*rows)
                (value / options.accumulate).backward()
                total += losses.mean() / options.accumulate
                for name, mean in means.items():
                    terms[name] = terms.get(name, torch.zeros_like(mean)) + mean / options.accumulate
                if isinstance(task.times, Adaptive):
                    seen.append((rows.t, losses))
            total, norm = runtime.mean(total), optim.clip(parameters, options.optim.clip)
            said = (step + 1) % 10 == 0 or step + 1 == options.steps
            parts = {name: float(runtime.mean(mean)) for name, mean in terms.items()} if said else {}

            # one wait for the device a step, so that a bad number stops before it reaches the weights
            loss, size = torch.stack([total.detach().double(), norm.detach().double()]).tolist()
            if not math.isfinite(loss + size):
                raise NonFinite(_explain(task, objective, options, step, here, runtime))
            if isinstance(task.times, Adaptive) and seen:
                levels, wrong = (runtime.gather(torch.cat(parts)) for parts in zip(*seen, strict=True))
                observe(task.times, process, levels, wrong)
            lr = optim.learning_rate(options.optim, step, options.steps, rate)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            step += 1
            ema.update(dict(network.named_parameters()), step, step - 1)

            # people and files
            last = step == options.steps
            ending = runtime.agree(stop.signal is not None) or last
            if runtime.first:
                watch.show(step, f"loss {loss:.4f}  {memory(here):.1f} GB")
                if said:
                    record = {"loss": loss, "norm": size, "lr": lr}
                    run.log({**parts, "step": step, **record, "memory": memory(here)})
                    events({**parts, **record}, step)
                if ending or time.monotonic() - saved > options.save_seconds:
                    _save(run, step, objective, optimizer, ema, options)
                    saved = time.monotonic()
                if _due(step, options.steps, options.snapshots):
                    _snapshot(run, step, ema)
                if _due(step, options.steps, options.previews) and (not ending or last):
                    found = averaged.look(ema, step)
                    events(found, step)
                    watch.say(f"step {step}: held-out loss {found['held_out']:.4f}")
            if ending:
                break
        if runtime.first and step == options.steps:
            averaged.finish(ema)
        runtime.barrier()
        if step < options.steps:  # a process that got no signal itself leaves as the one that did
            raise Stopped(128 + (stop.signal or signal.SIGTERM))


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


def _draw(task: Task, options: TrainOptions, step: int, offset: int, batch: Batch, device: torch.device) -> Noised:
    """Data, noise, times and condition of a piece: functions of (seed, step, place in the global batch)."""
    assert options.batch is not None
    rows = dataclasses.replace(batch, places=batch.places + offset)
    return noised(task, rows, key("train", options.seed), step * options.batch, options.batch, device)


def _extra(objective: Objective) -> list[nn.Parameter]:
    return [] if objective.uncertainty is None else list(objective.uncertainty.parameters())


def _due(step: int, steps: int, times: int) -> bool:
    """Whether ``step`` is one of ``times`` evenly spread moments of the run, its end included."""
    return times > 0 and step * times // steps != (step - 1) * times // steps


def _save(run: Run, step: int, objective: Objective, optimizer: Any, ema: PowerEMA, options: TrainOptions) -> None:
    """Save, or say why not: a full disk must not end a run that still holds everything in memory."""
    state, meta = flatten_optimizer(optimizer)
    groups = {"network": objective.network.state_dict(), "ema": ema.state(), "optimizer": state}
    if learned := objective.learned_state():
        groups["learned"] = learned
    try:
        checkpoint.save(run.checkpoints, step, groups, {"optimizer": meta, "seed": options.seed}, options.keep)
    except checkpoint.CheckpointError as error:
        if step == 0:
            raise
        print(f"warning: step {step} was not saved: {error}", file=sys.stderr, flush=True)


def _snapshot(run: Run, step: int, ema: PowerEMA) -> None:
    try:
        write_snapshot(run.snapshots, step, ema)
    except checkpoint.CheckpointError as error:
        print(f"warning: no snapshot at step {step}: {error}", file=sys.stderr, flush=True)


def _load(run: Run, objective: Objective, optimizer: Any, ema: PowerEMA) -> int:
    """Restore the newest whole checkpoint into everything; returns its step, 0 if there is none."""
    path, complaints = checkpoint.newest(run.checkpoints)
    for complaint in complaints:
        print(f"warning: {complaint}", file=sys.stderr, flush=True)
    if path is None:
        if complaints:
            raise checkpoint.CheckpointError(
                f"{run.checkpoints}: no whole checkpoint is left; train again with --out elsewhere"
            )
        return 0
    found = checkpoint.load(path)
    objective.network.load_state_dict(found.tensors["network"])
    if "learned" in found.tensors:
        objective.load_state_dict(found.tensors["learned"], strict=False)
    restore_optimizer(optimizer, found.tensors["optimizer"], found.meta["optimizer"])
    ema.load(found.tensors["ema"])
    return found.step


class _Signal:
    signal: int | None = None


@contextmanager
def _signals() -> Iterator[_Signal]:
    """Note SIGTERM and Ctrl-C, so that the step can be finished and saved; a second one ends the process at once."""
    noted = _Signal()

    def note(number: int, frame: Any) -> None:
        if noted.signal is not None:
            raise SystemExit(128 + number)
        noted.signal = number

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield noted
        return
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(
    task: Task,
    objective: Objective,
    options: TrainOptions,
    step: int,
    device: torch.device,
    runtime: Runtime,
) -> str:
    """Run the step again, just as it was, and name what is not finite."""
    _, pieces = next(_steps(task, options, step, runtime))
    assert options.batch is not None
    torch.manual_seed(key("network", options.seed, step, runtime.rank))
    objective.zero_grad(set_to_none=True)
    for i, batch in enumerate(pieces):
        place = i * (options.batch // options.accumulate)
        piece = _draw(task, options, step, place, batch, device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout as it was for what follows
            rows, where = blame(objective, piece)
        if rows:
            t = tree.each(lambda value: value.reshape(len(value), -1).mean(1), piece.t)
            files = ", ".join(
                f"{task.train.name(batch.indices[r // task.copies])} (t = {float(tree.first(t)[r]):.4f})"
                for r in rows[:4]
            )
            more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
            return (
                f"step {step}: the loss is not finite; first bad value in {where}; samples: {files}{more}. The weights are "
                "as before this step and the last checkpoint is whole; look at these files, or lower --optim.lr"
            )
        objective(*_draw(task, options, step, place, batch, device))[0].backward()
    whole = "The weights are as before this step and the last checkpoint is whole"
    slopes = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    bad = [n for n, slope in slopes.items() if not bool(torch.isfinite(slope).all())]
    if bad:
        return (
            f"step {step}: the loss is finite but its gradient is not, in layer {bad[-1]}. {whole}; lower --optim.lr or use "
            "--precision fp32"
        )
    if not bool(torch.isfinite(torch.nn.utils.get_total_norm(slopes.values()))):
        return f"step {step}: the gradient is too large, its norm is infinite. {whole}; lower --optim.lr"
    if runtime.world > 1:
        return f"step {step}: another process met a loss or gradient that is not finite, and names it"
    return (
        f"step {step}: the loss or its gradient was not finite, but that did not happen again on replay with the same data, "
        f"times and noise. {whole}: resume; if it comes back, suspect the machine (memory, heat) or a network that keeps "
        "something from call to call"
    )
