"""What a user may say about training. Imports no torch, so that a command line can list it at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sfumato.errors import check
from sfumato.training.optim import OptimOptions


@dataclass(frozen=True)
class ParallelOptions:
    """How the processes that torchrun started share out a run: replicate x shard x context is their number."""

    replicate: int | None = None
    """Copies of the weights (none: as many as there are processes for)."""
    shard: int = 1
    """Processes that hold one copy together, a part each of weights, averages and optimiser (-1: all that are left)."""
    context: int = 1
    """Processes that share out the tokens of each sample."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.replicate is None or self.replicate >= 1, "replicate", "at least 1"),
            (self.shard >= 1 or self.shard == -1, "shard", "at least 1, or -1 for all processes that are left"),
            (self.context >= 1, "context", "at least 1"),
        )


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained. None means: chosen from the data and the machine, and written to config.yaml."""

    steps: int | None = None
    """Optimiser steps."""
    minutes: float | None = None
    """Instead of steps: as many as fit into this time (by the speed measured before the start)."""
    batch: int | None = None
    """Samples per step, over all processes."""
    accumulate: int = 1
    """Split each batch into this many pieces, to save memory."""
    seed: int = 0
    """Initial weights, order and noise are functions of it."""
    optim: OptimOptions = field(default_factory=OptimOptions)
    """Optimiser."""
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    """Several processes."""
    ema: tuple[float, float] = (0.05, 0.10)
    """Widths of the power-function averages, as shares of the run; samples come from the first."""
    snapshots: int = 8
    """Averages kept over the run, from which any other width can be rebuilt (0: none)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the network's arithmetic; weights, averages, times and coefficients are always fp32 or wider."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: auto compiles on a GPU."""
    workers: int = 0
    """Processes that load data; the results do not depend on it."""
    threads: int | None = None
    """CPU threads (none: the number that is fastest, measured when the run begins and again now and then; the last bits of the
    results depend on it, so give a number for a run that is the same bit for bit)."""
    rollback: bool = False
    """After a spike of the loss, or one that is no number: go on as if the batch that did it had never been seen, from a
    checkpoint before it if the weights have learned from it already; at most 20 times."""
    skip_steps: tuple[int, ...] = ()
    """Steps, as the log counts them (from 1), whose batch is not learned from."""
    save_seconds: float = 60.0
    """At most this long between checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    previews: int = 8
    """Grids of samples and held-out losses over the run."""

    def over(self, base: TrainOptions) -> TrainOptions:
        """These options, with what they leave open as ``base`` has it: steps (or minutes), batch, threads, the rate."""
        import dataclasses

        open_ = [name for name in ("steps", "minutes", "batch", "threads") if getattr(self, name) is None]
        if self.steps is not None or self.minutes is not None:
            open_ = [name for name in open_ if name not in ("steps", "minutes")]
        rate = base.optim.lr if self.optim.lr is None else self.optim.lr
        chosen = {name: getattr(base, name) for name in open_}
        return dataclasses.replace(self, **chosen, optim=dataclasses.replace(self.optim, lr=rate))

    def __post_init__(self) -> None:
        check(
            self,
            (self.steps is None or self.steps >= 1, "steps", "at least 1"),
            (self.minutes is None or 0 < self.minutes < math.inf, "minutes", "above 0"),
            (abs(self.seed) < 2**63, "seed", "a whole number of at most 63 bits"),
            (self.batch is None or self.batch >= 1, "batch", "at least 1"),
            (self.accumulate >= 1, "accumulate", "at least 1"),
            (
                self.batch is None or self.accumulate < 1 or self.batch % self.accumulate == 0,
                "accumulate",
                f"a divisor of the batch {self.batch}",
            ),
            (
                len(self.ema) == 2 and all(0 < width < 0.28 for width in self.ema),
                "ema",
                "two widths between 0 and 0.28",
            ),
            (self.ema[0] != self.ema[1], "ema", "two different widths"),
            (self.snapshots >= 0, "snapshots", "0 or more"),
            (self.workers >= 0, "workers", "0 or more"),
            (self.threads is None or self.threads >= 1, "threads", "at least 1"),
            (self.save_seconds > 0, "save_seconds", "above 0"),
            (all(step >= 1 for step in self.skip_steps), "skip_steps", "steps from 1"),
            (self.keep >= 1, "keep", "at least 1"),
            (self.previews >= 0, "previews", "0 or more"),
        )
