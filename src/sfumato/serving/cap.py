"""How many rows pay in one call of the network: measured at the start, on this machine, for each run."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from sfumato import __version__
from sfumato.diffusion import tree
from sfumato.diffusion.generate import RESERVED, streams
from sfumato.jobs.model import Model
from sfumato.training.memory import is_short, release

GAIN = 0.05
"""Doubling the rows must save so much of the time of a row."""
LONGEST = 2.0
"""Seconds of a call beyond which no larger one is tried."""
KEPT = "serving.json"


@dataclass(frozen=True)
class Cap:
    """Rows of a batch at most, and seconds of a call by its rows."""

    rows: int
    table: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, table: tuple[tuple[int, float], ...]) -> Cap:
        """The largest of the sizes of which a row costs no more than 5 % above the best."""
        least = min((seconds / rows for rows, seconds in table), default=0.0)
        return cls(max((rows for rows, seconds in table if seconds / rows <= least * (1 + GAIN)), default=1), table)

    def per_row(self, rows: int) -> float:
        """Seconds of a row in a batch of so many, by the nearest that was measured."""
        if not self.table:
            return 0.0
        size, seconds = min(self.table, key=lambda pair: abs(pair[0] - rows))
        return seconds / size

    @property
    def ceiling(self) -> float:
        """How many times as fast rows are at the cap as one at a time."""
        return self.per_row(1) / self.per_row(self.rows) if self.table else 1.0


def measure(
    call: Callable[[int], None], most: int, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> Cap:
    """The cap of a call of so many rows. They are doubled as long as that saves 5 % of a row's time, twice in a row looked at,
    so that one slow measurement ends nothing; of the sizes that were looked at it is the largest of which a row costs no more
    than 5 % above the best: room that costs nothing, for which nobody waits."""
    table: list[tuple[int, float]] = []
    size, idle = 1, 0
    while size <= most and idle < 2:
        try:
            call(size)
            taken = min(_timed(call, size, clock) for _ in range(repeats))
        except (RuntimeError, MemoryError) as error:
            if not is_short(error):
                raise
            release()
            break
        best = min((seconds / rows for rows, seconds in table), default=float("inf"))
        idle = idle + 1 if taken / size > (1 - GAIN) * best else 0
        table.append((size, taken))
        if taken > LONGEST:
            break
        size *= 2
    return Cap.of(tuple(table))


def _timed(call: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    begun = clock()
    call(size)
    return clock() - begun


@torch.no_grad()
def of_model(model: Model, most: int, weights: str) -> Cap:
    """The cap of a run for its usual query; what was measured before on this machine is kept in the run's cache. 16 where the
    field has no usual query."""
    file = model.run.cache / KEPT
    key = _here(weights, most)
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["here"] == key:
            return Cap.of(tuple((int(rows), float(s)) for rows, s in stored["table"]))
    try:
        queries = model.recipe.queries(model, model.recipe.Ask(), 1)
        query = tree.to(dict(queries.batch([0])), model.device)
        z = model.process.prior(query["x"], streams(queries, [0], 0, ("cap",), model.device))
        x_t = model.process.start(z)
        condition = {name: value for name, value in query.items() if name not in RESERVED}
        known = model.denoiser.given(**condition) if condition else None
    except Exception:  # a field may have no usual query, as where its data have gone
        return Cap(min(16, most), ())

    def call(rows: int) -> None:
        which = torch.zeros(rows, dtype=torch.int64)
        t = torch.full((rows,), 0.5, dtype=torch.float32, device=model.device)
        said = {} if known is None else {"given": tree.take(known, which)}
        ends = model.denoiser(tree.take(x_t, which), t, **said)
        tree.first(ends.x).flatten()[:1].cpu()  # waits for the device

    try:
        found = measure(call, most)
    except Exception:  # what is drawn otherwise than by a walk, such as pictures that are coded and decoded
        return Cap(min(16, most), ())
    with suppress(OSError):
        file.write_text(json.dumps({"here": key, "table": found.table}), encoding="utf-8")
    return found


def _here(weights: str, most: int) -> str:
    """What the measurement depends on, in a few digits."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    words = (__version__, torch.__version__, platform.node(), device, torch.get_num_threads(), weights, most)
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]
