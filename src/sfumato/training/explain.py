"""Naming what made a loss or a gradient no number: the samples, their times, the layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sfumato.diffusion import tree
from sfumato.training.loader import Batch
from sfumato.training.objective import Noised
from sfumato.training.run import Run
from sfumato.training.sharding import local
from sfumato.training.state import State
from sfumato.training.watch import blame, dump


def explained(run: Run, state: State, step: int, pieces: Sequence[Batch], drawn: Sequence[Noised]) -> str:
    """What is not finite in a step whose pieces were ``drawn`` once more: for people, in a line."""
    objective, runtime, device = state.objective, state.runtime, state.runtime.device
    another = f"step {step}: another process met a loss or gradient that is not finite, and names it"
    for batch, piece in zip(pieces, drawn, strict=True):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout as it was for what follows
            rows, where = blame(objective, piece, runtime.world > 1)
        if runtime.agree(bool(rows)):
            return _named(run, state, step, batch, piece, rows, where) if rows else another
        objective(*piece)[0].backward()
    whole = "The weights are as before this step and the last checkpoint is whole"
    slopes = {n: local(p.grad) for n, p in objective.named_parameters() if p.grad is not None}
    bad = [n for n, slope in slopes.items() if not bool(torch.isfinite(slope).all())]
    if bad:
        return (
            f"step {step}: the loss is finite but its gradient is not, in layer {bad[-1]}. {whole}; lower --optim.lr or use "
            "--precision fp32"
        )
    if not bool(torch.isfinite(torch.nn.utils.get_total_norm(slopes.values()))):
        return f"step {step}: the gradient is too large, its norm is infinite. {whole}; lower --optim.lr"
    if runtime.world > 1:
        return another
    return (
        f"step {step}: the loss or its gradient was not finite, but that did not happen again on replay with the same data, "
        f"times and noise. {whole}: resume; if it comes back, suspect the machine (memory, heat) or a network that keeps "
        "something from call to call"
    )


def _named(run: Run, state: State, step: int, batch: Batch, piece: Noised, rows: list[int], where: str) -> str:
    """The rows of a piece whose loss is not finite, in words; the piece is kept in a file."""
    task, runtime = state.task, state.runtime
    t = tree.each(lambda value: value.reshape(len(value), -1).mean(1), piece.t)
    files = ", ".join(
        f"{task.train.name(batch.indices[r // task.copies])} (t = {float(tree.first(t)[r]):.4f})" for r in rows[:4]
    )
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    kept = run.path / f"bad-step-{step}{f'-{runtime.rank}' if runtime.world > 1 else ''}.safetensors"
    if dump(kept, step, batch.indices, piece):
        more += f"; the batch is in {kept.name}"
    return (
        f"step {step}: the loss is not finite; first bad value in {where}; samples: {files}{more}. The weights are "
        "as before this step and the last checkpoint is whole; look at these files, or lower --optim.lr"
    )
