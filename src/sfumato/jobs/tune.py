"""Fine-tuning as an adaptation: which weights are trained, and what is kept of what the run knew."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError, Wrong, check, decoding
from sfumato.jobs.adapt import Kinds, read_teacher
from sfumato.jobs.recipe import Say
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfumato.data import Items
    from sfumato.training.objective import Task

BASE, LORA, PRIOR = "base.safetensors", "lora.safetensors", "prior.safetensors"
"""In the new run: the weights that it began with, the change that was learned, and the samples of before (in its cache)."""


@dataclass(frozen=True)
class FinetuneOptions:
    """How a trained run learns further from other data."""

    lora: int | None = None
    """Rank of a low-rank change of every layer, while the weights themselves are held (default: all weights are trained)."""
    alpha: float | None = None
    """Of a low-rank change: its scale is alpha / rank (default: 1)."""
    prior: float = 1.0
    """Weight of the run's own samples of before, which keep what it knew; 0: none."""
    kept: int = 200
    """How many of these are drawn."""
    held_out: float = 0.1
    """Share of the new data that the average is chosen by, where the field holds a share out."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.lora is None or self.lora >= 1, "lora", "at least 1"),
            (self.alpha is None or 0 < self.alpha < math.inf, "alpha", "above 0"),
            (self.alpha is None or self.lora is not None, "alpha", "given with lora"),
            (0 <= self.prior < math.inf, "prior", "0 or more"),
            (self.kept >= 1, "kept", "at least 1"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
        )

    @property
    def scale(self) -> float:
        """Of the low-rank change."""
        return (self.alpha or self.lora or 1) / (self.lora or 1)

    def task(self, task: Task, run: Run, training: TrainOptions, kinds: Kinds) -> Task:
        """The task of going on from the weights that lie in ``run``, beside its samples of before."""
        from sfumato.data.joined import Joined

        network = self.network(run, training.seed, kinds)
        kept = read_prior(run) if self.prior > 0 else None
        try:
            train = task.train if kept is None else Joined(task.train, kept, self.prior)
        except DataError as error:
            raise Wrong(f"prior = {self.prior:g}: samples of before do not fit ({error}); 0 leaves them out") from error
        return dataclasses.replace(task, network=network, train=train, written=self.weights)

    def network(self, run: Run, seed: int, kinds: Kinds) -> nn.Module:
        """The network that lies in ``run``, with a low-rank change of nothing where one is asked for. Raises CheckpointError, and
        Wrong where it has no layers to change."""
        import torch

        from sfumato.diffusion import key
        from sfumato.networks import lora

        network, _, _ = read_teacher(run.path / BASE, kinds)
        if self.lora is None:
            return network
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(key("weights", seed))
                return lora.adapted(network, self.lora, self.alpha)
        except ValueError as error:
            raise Wrong(f"lora: {error}") from error

    def weights(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trained weights as those of a plain network."""
        from sfumato.networks import lora

        return dict(found) if self.lora is None else lora.merged(found, self.scale)

    def finished(self, run: Run, task: Task, training: TrainOptions, tell: Say, bf16: bool = False) -> None:
        """What a finished tuning leaves: of the averages that it kept the one with the least held-out loss (in ``bf16`` or not)
        as its weights, and a low-rank change in a file of its own. Says what the losses were."""
        from sfumato.networks import lora
        from sfumato.training import checkpoint, objective
        from sfumato.training.ema import read_snapshots
        from sfumato.training.parallel import pick_device
        from sfumato.training.watch import Averaged, held_out_loss, settings_of

        device = pick_device()
        learnt, held_out = objective.parted(task)
        averaged = Averaged(dataclasses.replace(task, train=learnt, held_out=held_out), run, bf16, device)

        def loss(weights: Mapping[str, Tensor]) -> float:
            averaged.network.load_state_dict(dict(weights), strict=False)
            return held_out_loss(averaged.task, averaged.denoiser, averaged.batches)

        before = loss(read_base(run) if self.lora is None else lora.untaught(averaged.network.state_dict()))
        found = [(loss(each.weights), each) for each in read_snapshots(run.snapshots)]
        if not found:
            return
        best, chosen = min(found, key=lambda pair: pair[0])
        loss(chosen.weights)
        weights = averaged.network.state_dict()
        about = {"network": settings_of(averaged.network), "width": str(chosen.width), "step": str(chosen.step)}
        checkpoint.save_weights(run.model, self.weights(weights), about)
        if self.lora is not None:
            checkpoint.save_weights(run.path / LORA, lora.factors(weights), lora.settings(self.lora, self.alpha))
        last = next(value for value, each in reversed(found) if each.width == training.ema[0])
        run.log(
            {"step": training.steps or 0, "held_out_before": before, "held_out_best": best, "best_step": chosen.step}
        )
        lost = "" if best < before else "; nothing was gained: fewer steps, a lower rate or more data may help"
        tell(
            f"held out  loss {before:.4f} before, {best:.4f} of the average taken (step {chosen.step}, width "
            f"{chosen.width:g}), {last:.4f} at the end{lost}"
        )


def changed(weights: Mapping[str, Tensor], text: str) -> dict[str, Tensor]:
    """Weights with a low-rank change added: FILE or FILE=STRENGTH, of a file or of the run that has it. Raises Wrong,
    CheckpointError."""
    from sfumato.networks import lora
    from sfumato.training import checkpoint

    name, sign, strength = text.rpartition("=") if "=" in text else (text, "", "1")
    path = Path(name)
    path = path / LORA if path.is_dir() else path
    try:
        share = float(strength)
        if not math.isfinite(share):
            raise ValueError
    except ValueError:
        raise Wrong(f"lora = {text!r}: {strength!r} behind the {sign} must be a number") from None
    change, about = checkpoint.read_weights(path)
    with decoding(path, "give the lora.safetensors of a run that was tuned from this one", Wrong):
        return lora.added(weights, change, share * lora.scale_of(about))


def read_prior(run: Run) -> Items | None:
    """The samples of before, as a data set; None where none were kept. Raises CheckpointError."""
    file = run.cache / PRIOR
    return read_items(file, "samples of before") if file.is_file() else None


def read_items(file: Path, of: str) -> Items:
    """What `save_items` wrote, as a data set whose items messages call ``of``. Raises CheckpointError, DataError."""
    from sfumato.data import Items
    from sfumato.training import checkpoint

    tensors, _ = checkpoint.read_weights(file)
    with decoding(file, "finetune again"):
        return Items(_deep(tensors), of)


def save_items(file: Path, items: Mapping[str, Any]) -> None:
    """A batch (trees of tensors, rows first) as a file. Raises CheckpointError."""
    from sfumato.training import checkpoint

    tensors: dict[str, Tensor] = {}
    for name, value in items.items():
        tensors |= flat(value, name)
    checkpoint.save_weights(file, {name: value.contiguous() for name, value in tensors.items()})


def read_base(run: Run) -> dict[str, Tensor]:
    """The weights that the run began with. Raises CheckpointError."""
    from sfumato.training import checkpoint

    return checkpoint.read_weights(run.path / BASE)[0]


def flat(value: Any, name: str) -> dict[str, Tensor]:
    """A tree of tensors as tensors with a path for a name."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {path: leaf for key, part in value.items() for path, leaf in flat(part, f"{name}/{key}").items()}


def _deep(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `flat`, of several trees."""
    found: dict[str, Any] = {}
    for path, value in tensors.items():
        *parts, last = path.split("/")
        place = found
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value.numpy()
    return found
