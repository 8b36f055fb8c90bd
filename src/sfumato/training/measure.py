"""What a step costs on this machine: run a few and look."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from sfumato.diffusion import key
from sfumato.training import optim
from sfumato.training.ema import PowerEMA
from sfumato.training.loader import fetch
from sfumato.training.objective import Objective, Task, bf16_pays, noised
from sfumato.training.options import TrainOptions
from sfumato.training.parallel import pick_device
from sfumato.training.progress import memory


@dataclass(frozen=True)
class Cost:
    """Seconds per training step (median), peak memory in GB, and the CPU threads it was measured with."""

    seconds: float
    memory: float
    threads: int


def measure(task: Task, options: TrainOptions, batch: int, device: str = "auto", repeats: int = 4) -> Cost:
    """Time a few whole training steps of a copy of the network; nothing of the run is touched."""
    here = pick_device(device)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    bf16 = options.precision == "bf16" or (options.precision == "auto" and bf16_pays(here))
    objective = Objective(replace(task, network=copy.deepcopy(task.network)), bf16).to(here)
    optimizer = optim.build(options.optim, objective.network)
    parameters = dict(objective.network.named_parameters())
    averages = PowerEMA(parameters, options.ema)
    piece = max(1, batch // options.accumulate)
    kinds = task.train.buckets
    own = list(range(len(task.train))) if kinds is None else np.flatnonzero(kinds == _commonest(kinds)).tolist()
    times = []
    for repeat in range(repeats + 1):
        begin = time.perf_counter()
        rows = fetch(task.train, [own[i % len(own)] for i in range(piece)])
        for part in range(options.accumulate):
            base = key("measure", part)
            objective(*noised(task, rows, base, repeat * piece, piece, here))[0].backward()
        optim.clip(parameters.values(), options.optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averages.update(parameters, repeat + 1, repeat)
        next(iter(parameters.values())).detach().flatten()[:1].cpu()  # waits for the device
        times.append(time.perf_counter() - begin)
    return Cost(statistics.median(times[1:]), memory(here), torch.get_num_threads())


def _commonest(kinds: np.ndarray) -> int:
    values, counts = np.unique(kinds, return_counts=True)
    return int(values[counts.argmax()])


def measure_threads(task: Task, options: TrainOptions, batch: int) -> Cost:
    """The cost with the number of threads that is fastest just now: all of them, or halves of that down to one.

    On a machine that is busy with other work, many threads wait for each other and can be ten times slower than one.
    """
    if options.threads is not None or pick_device().type != "cpu":
        return measure(task, options, batch)
    counts, count = [], torch.get_num_threads()
    while count:
        counts.append(count)
        count //= 2
    best = min((measure(task, replace(options, threads=n), batch) for n in counts), key=lambda cost: cost.seconds)
    if best.seconds > 0.5:
        torch.set_num_threads(best.threads)
        return best
    # a few short steps are faster than many are: once more, for about three seconds
    return measure(task, replace(options, threads=best.threads), batch, repeats=min(40, int(3 / best.seconds)))
