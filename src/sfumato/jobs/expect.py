"""What a plan says of what is to come: how much disk a run takes, and what its held-out losses will mean."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfumato.training.objective import Task
    from sfumato.training.options import TrainOptions
    from sfumato.training.run import Run

FEW = 64
"""Items below which a network learns them by heart before it learns their kind."""
LEARNED, JUDGED, WIDEST = 512, 32, 1 << 14
"""Items that the linear model is fitted to, held-out items that it is judged by (as the loop does), and numbers of an item at
most."""


# ---- disk ----------------------------------------------------------------------------------------------------------------


def disk(network: nn.Module, training: TrainOptions, run: Run, seconds: float) -> str:
    """The room that a run of so many seconds takes, in words, beside what is free; a warning where that is not enough. Previews
    and logs are not counted. While a checkpoint is written the old ones stand."""
    from sfumato.training.memory import state, stored

    saves = seconds / training.save_seconds
    cached = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    most, free = cached + stored(network, training, saves), shutil.disk_usage(run.path).free
    kept = most - (state(network, training)[1] if saves >= 1 else 0)
    snapshots = min(training.snapshots, training.steps or training.snapshots)
    while_saving = f"; up to {size(most)} while it saves" if saves >= 1 else ""
    text = f"about {size(kept)}: {training.keep} checkpoints, {snapshots} snapshots, the data{while_saving}; {size(free)} free"
    if most > free:
        text += f", TOO LITTLE: up to {size(most)} are needed while it saves; --keep 1, --snapshots 0, or another --out"
    return text


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count / 1e3:.0f} kB"


# ---- the loss ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearDenoiser:
    """The best denoiser that is linear: of normal data with these axes. In place of a network's denoiser in a loss.

    process: Gaussian. mean (D,); axes (k, D), orthonormal; variances (k,) along them; rest: the variance of everything else.
    """

    process: Any
    mean: Tensor
    axes: Tensor
    variances: Tensor
    rest: float

    def given(self, **condition: Any) -> dict[str, Any]:
        """Nothing: conditions are ignored."""
        return {}

    def answer(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **_: Any) -> Tensor:
        """What a network would answer that knew the mean and covariance of the data, and nothing else."""
        from sfumato.diffusion.process import along

        schedule = self.process.schedule
        alpha, sigma = (along(part, x_t).flatten(1) for part in (schedule.alpha(t), schedule.sigma(t)))
        away = x_t.flatten(1) - alpha * self.mean
        gain = [
            alpha * v / (alpha**2 * v + sigma**2).clamp_min(1e-12)
            for v in (self.variances, x_t.new_tensor([self.rest]))
        ]
        inside = away @ self.axes.T
        x = (self.mean + gain[1] * away + ((gain[0] - gain[1]) * inside) @ self.axes).reshape(x_t.shape)
        answer: Tensor = self.process.target(x, self.process.noise_given(x, x_t, t), t)
        return answer


def linear_denoiser(process: Any, items: Tensor) -> LinearDenoiser:
    """Fitted to items (N, ...): axes on one half, variances on the other, so that they are those of unseen items."""
    import torch

    x = items.flatten(1)
    mean = x.mean(0)
    # not by the mean of all, which ties the halves together: the sum of one would be that of the other, and its axis too long
    fitted, other = (part - x[0::2].mean(0) for part in (x[0::2], x[1::2]))
    _, lengths, axes = torch.linalg.svd(fitted, full_matrices=False)
    axes = axes[lengths > 1e-4 * lengths.max().clamp_min(1e-12)]
    inside = other @ axes.T
    left = max(x.shape[1] - len(axes), 1)
    rest = float(((other**2).sum(1) - (inside**2).sum(1)).clamp_min(0).mean()) / left
    return LinearDenoiser(process, mean, axes, (inside**2).mean(0), rest)


def losses(task: Task) -> tuple[float, float] | None:
    """Held-out losses of two models that need no training, to set those of the run beside: one that knows the mean and spread
    of all numbers, and the best linear one. None where states are no vectors of one shape."""
    import torch

    from sfumato.diffusion import Gaussian
    from sfumato.jobs.evaluate import stacked
    from sfumato.training.loader import bunched
    from sfumato.training.watch import held_out_loss

    if not isinstance(task.process, Gaussian) or task.held_out is None or task.train.buckets is not None:
        return None
    with suppress(TypeError, ValueError, AttributeError, RuntimeError), torch.no_grad():
        items = stacked(task.train, LEARNED)
        if not isinstance(items, torch.Tensor) or items[0].numel() > WIDEST or len(items) < 4:
            return None
        batches = bunched(task.held_out, JUDGED)
        known = linear_denoiser(task.process, items)
        bare = LinearDenoiser(
            task.process, torch.zeros_like(known.mean), known.axes[:0], known.variances[:0], float(items.var())
        )
        first, second = (held_out_loss(task, each, batches) for each in (bare, known))  # type: ignore[arg-type]
        return first, second
    return None


def loss_words(task: Task) -> Iterator[str]:
    """What held-out losses of a run will mean, in a line; nothing where that is not known."""
    found = losses(task)
    if found is not None:
        nothing, straight = found
        yield (
            f"held out, about {nothing:.3g} knows nothing of the data; the best linear model gets {straight:.3g}: below that "
            "it has learned more than means and covariances"
        )


def few(count: int, path: Path | None = None) -> Iterator[str]:
    """A word where there is too little to learn from."""
    if count < FEW:
        yield f"only {count} item{'s' * (count > 1)} to learn from: expect copies of them, not new ones; 1000 is a good start"
