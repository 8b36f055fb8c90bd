"""Running out of memory: what is that, how much is left, and the same batch in smaller parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sfumato.diffusion import tree
from sfumato.errors import Mendable

if TYPE_CHECKING:
    from sfumato.training.objective import Noised
    from sfumato.training.options import TrainOptions

LARGE = 2_000_000
"""Parameters from which snapshots are stored in half precision."""


class Shortage(Mendable):
    """There is not enough memory, however small the pieces. One line: what is needed, what would help."""


def is_short(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: torch has a type for accelerators, and words for the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    )


@contextmanager
def fitting() -> Iterator[None]:
    """Where memory runs out it is a Shortage, and what was reserved is given back."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_short(error):
            raise
        release()
        raise Shortage("out of memory") from error


def release() -> None:
    """Give back what an accelerator's allocator holds in reserve."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free() -> float | None:
    """Bytes of the machine's memory (or of this container's share) that can still be had; None where nothing tells."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(float(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        found.append(float((group / "memory.max").read_text()) - float((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return min(found, default=None)


def needed(network: nn.Module) -> float:
    """Bytes that training holds of a network whatever the batch: weights, gradients, two moments, two averages and the
    network that is looked at."""
    return 7 * sum(p.numel() * max(p.element_size(), 4) for p in network.parameters())


def state(network: nn.Module, options: TrainOptions) -> tuple[float, float]:
    """Bytes of a checkpoint: the first one, of weights and averages, and the later ones, with the moments of the optimiser."""
    from sfumato.training.optim import hidden_matrices

    sizes = {name: p.numel() * max(p.element_size(), 4) for name, p in network.named_parameters()}
    first = (1 + len(options.ema)) * sum(sizes.values())
    one = hidden_matrices(network) if options.optim.kind == "muon" else {}  # they have one moment then
    moments = sum(sizes[name] * (1 if name in one else 2) for name, p in network.named_parameters() if p.requires_grad)
    return first, first + moments


def stored(network: nn.Module, options: TrainOptions, saves: float) -> float:
    """Bytes that a run of this network takes on the disk at its fullest, its data aside, with so many saves before its end:
    checkpoints, of which one more than is kept is there for a moment, snapshots and the model."""
    first, later = state(network, options)
    checkpoints = first + later if saves < 1 else (options.keep + 1) * later
    weights = first / (1 + len(options.ema))
    half = 2 if sum(p.numel() for p in network.parameters()) > LARGE else 1
    snapshots = min(options.snapshots, options.steps or options.snapshots)
    return checkpoints + snapshots * len(options.ema) * weights / half + weights


def shortage(network: nn.Module, step: int | None, batch: int) -> Shortage:
    """What to say where even single samples do not fit."""
    count = sum(p.numel() for p in network.parameters())
    left = free()
    have = "" if left is None else f", and {left / 1e9:.1f} GB are free"
    where = "" if step is None else f"step {step}: "
    return Shortage(
        f"{where}out of memory even with one sample of the batch of {batch} at a time: a network of {count / 1e6:.1f} million "
        f"numbers takes {needed(network) / 1e9:.2f} GB in training before any sample{have}. Use a smaller --network.width or "
        "--network.depth, smaller items (--side), --precision bf16, or a machine with more memory"
    )


def parts(rows: Noised, count: int, copies: int = 1) -> Iterator[tuple[Noised, float]]:
    """A piece of a batch in ``count`` parts, with the share of its rows in each: the same rows with the same times, noise and
    streams, so that the sum of the shares' means is the mean."""
    if count == 1:
        yield rows, 1.0
        return
    whole = len(rows.rng) // copies
    ends = [i * whole // count for i in range(count + 1)]
    for low, high in pairwise(ends):
        if high > low:
            few, many = slice(low, high), slice(low * copies, high * copies)
            condition = {name: _take(value, few) for name, value in rows.condition.items()}
            x, z, t, weight = (_take(value, many) for value in (rows.x, rows.z, rows.t, rows.weight))
            yield type(rows)(x, z, t, condition, weight, rows.rng.part(many)), (high - low) / whole


def _take(value: Any, which: slice) -> Any:
    return None if value is None else tree.take(value, which)
