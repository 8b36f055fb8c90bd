"""What saving costs a run: how long a checkpoint holds up the training, against one that is waited for.

    python -m benchmarks.saving

Both kinds of save are made in turn, of the same state (weights, two averages, two moments), between the steps of networks
of several sizes. Three figures, medians over the saves, and their ratio to the second:

* stalled: seconds for which the training stands still for a save in the background: to gather the state, to begin, and,
  before the next update, for what of the copy is not done by then.
* waited for: seconds of the same save where it is waited for.
* spent: seconds that the steps take longer, all in all, until it is written. Where there are cores to spare that is the
  stall; where training has every core, the copy, the checksum and the disk take their time from it as they would anyway.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import store
from sfumato import networks
from sfumato.data import Items
from sfumato.diffusion import Gaussian, Linear, Streams, key
from sfumato.training import optim
from sfumato.training.ema import PowerEMA
from sfumato.training.objective import Objective, Task
from sfumato.training.options import TrainOptions
from sfumato.training.parallel import Runtime
from sfumato.training.saving import Saver
from sfumato.training.spikes import Spikes
from sfumato.training.state import State

SIZES = ((64, 2), (128, 4), (256, 8), (512, 8))
"""Width and depth of the networks: 0.2, 1, 7 and 28 million weights."""
BATCH = 8


def training(width: int, depth: int) -> tuple[State, Callable[[], None], Callable[[], None]]:
    """The state of a network in training, and what makes its gradient and its update."""
    network = networks.DiT(channels=3, width=width, depth=depth, patch=4)
    x = torch.randn(BATCH, 3, 32, 32)
    options = TrainOptions(steps=10**6, batch=BATCH, precision="fp32", compile="off")
    task = Task(network, Gaussian(Linear(), "velocity"), Items({"x": x}))
    objective = Objective(task, False)
    optimizer = optim.build(options.optim, network)
    ema = PowerEMA(dict(network.named_parameters()))
    state = State(task, options, Runtime(0, 1, torch.device("cpu")), objective, optimizer, ema, Spikes())
    rows: Any = x, torch.randn_like(x), torch.rand(BATCH), {}, None, Streams(key("saving"), range(BATCH))

    def gradient() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(*rows)[0].backward()

    def update() -> None:
        optimizer.step()
        state.step += 1
        ema.update(dict(network.named_parameters()), state.step, state.step - 1)

    return state, gradient, update


def saving(width: int, depth: int, saves: int) -> dict[str, Any]:
    """The figures of one size."""
    state, gradient, update = training(width, depth)
    found: dict[str, list[float]] = {"stalled": [], "waited for": [], "spent": [], "step": []}
    clock = time.perf_counter

    def steps(count: int) -> float:
        begin = clock()
        for _ in range(count):
            gradient()
            update()
        return clock() - begin

    with tempfile.TemporaryDirectory() as folder, Saver(Path(folder), 2, print) as saver:
        for turn in range(saves + 1):
            begin = clock()
            groups, meta = state.groups(), state.meta()
            saver.save(state.step, groups, meta, restless=state.restless)
            stalled, done = clock() - begin, 0
            while saver.busy or not done:
                gradient()
                before = clock()
                saver.settle()
                stalled += clock() - before
                update()
                done += 1
            beside = clock() - begin
            saver.wait()
            quiet = steps(done)  # as many, right after: the speed of a shared machine drifts
            before = clock()
            saver.save(state.step, state.groups(), state.meta(), now=True)
            waited = clock() - before
            steps(1)
            if turn:  # the first round has no memory for the copy yet
                for name, value in zip(found, (stalled, waited, beside - quiet, quiet / done), strict=True):
                    found[name].append(value)
    weights = sum(p.numel() for p in state.objective.network.parameters())
    size = sum(value.numel() * value.element_size() for named in state.groups().values() for value in named.values())
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratios = [a / b for a, b in zip(found["stalled"], found["waited for"], strict=True)]
    return {"weights": weights, "bytes": size, **medians, "ratio": statistics.median(ratios), "most": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--saves", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    options = parser.parse_args()
    table = Table(
        "threads", "weights", "state", "a step", "stalled", "waited for", "ratio (greatest)", "spent / waited for"
    )
    every = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        for width, depth in SIZES:
            found = {"threads": threads, **saving(width, depth, options.saves)}
            every.append(found)
            table.add_row(
                str(threads), f"{found['weights'] / 1e6:.1f} M", f"{found['bytes'] / 1e6:.0f} MB",
                f"{found['step'] * 1e3:.0f} ms", f"{found['stalled'] * 1e3:.1f} ms", f"{found['waited for'] * 1e3:.0f} ms",
                f"{found['ratio']:.3f} ({found['most']:.3f})", f"{found['spent'] / found['waited for']:.2f}",
            )  # fmt: skip
    Console(width=120).print(table)
    store("saving", {"saves": every})


if __name__ == "__main__":
    main()
