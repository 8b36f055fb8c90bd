"""A model of theirs, opened: a denoiser, how it decodes, and how its own sampler stops."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError, Wrong, needed, shown
from sfumato.jobs.walk import Walk, grid_of, solver_of
from sfumato.open_models import layout
from sfumato.open_models.schedules import process_of
from sfumato.open_models.stops import their_times

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfumato.diffusion import Denoiser
    from sfumato.open_models.networks import Called

USUAL = Walk(steps=20, solver="ab2", grid="uniform", shift=1.0, eta=0.0, batch=4, w=1.0)


@dataclass(frozen=True)
class OpenModel:
    """A pipeline's denoiser and what stands beside it.

    Attributes:
        folder: where it was opened from. part: what its denoiser is called there.
        network: theirs, called as ours are; its conditions are named in `networks`.
        denoiser: it with its process: whatever takes a denoiser of ours takes this.
        scheduler: the settings of its own sampler.
        decoder: their autoencoder, in whose space samples are drawn; None of models of pixels.
    """

    folder: Path
    part: str
    network: Called
    denoiser: Denoiser
    scheduler: Mapping[str, Any]
    decoder: Any = None
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def process(self) -> Any:
        """The process of the denoiser."""
        return self.denoiser.process

    def times(self, steps: int, shape: Sequence[int] | None = None) -> Tensor:
        """Where its own sampler stops, (steps + 1,). Raises Wrong."""
        where = self.network.shape() if shape is None else tuple(shape)
        return their_times(self.scheduler, steps, self.network.places(where))

    def sample(
        self, n: int, *, condition: Mapping[str, Tensor] | None = None, weak: Mapping[str, Tensor] | None = None, seed: int = 0,
        side: int | None = None, walk: Walk = Walk(), theirs: bool = False, device: torch.device | str = "cpu",
    ) -> Tensor:  # fmt: skip
        """Samples (n, C, H, W) in the model's own space, by our solver and grid.

        Args:
            condition: name -> (k, ...): sample i is drawn for row i mod k. weak: likewise, what guidance (walk.w above 1) leads
                away from: the states of an empty text, or of a negative one.
            theirs: stop where their sampler does, with Euler's steps: then samples are those that it draws from this noise.

        Raises Wrong for conditions that the network does not take, and for a walk that cannot be.
        """
        import torch

        from sfumato.diffusion import Blanks, generate, guide
        from sfumato.diffusion.sample import Euler

        told = dict(condition or {})
        if unknown := [name for name in told if name not in self.network.conditions]:
            raise Wrong(f"condition {unknown[0]!r}: this network takes {', '.join(self.network.conditions) or 'none'}")
        how, shape = walk.over(USUAL), self.network.shape(side)
        solver = Euler() if theirs else solver_of(how, self.process, {})
        steps, grid = how.steps or 20, grid_of(how, None)

        def begin(process: Any, z: Tensor, query: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
            if theirs:  # their sampler takes the noise for the first state, wherever it begins
                return z, self.times(steps, shape)
            return process.start(z), grid(process.schedule, steps)

        def around(guess: Any, query: Mapping[str, Any]) -> Any:
            if how.w in (None, 1.0):
                return guess
            return guide(guess, how.w, list(told), query.get("weak"))

        queries: Any = Blanks(torch.zeros(shape), n, told)
        if weak is not None:
            queries = _Weak(queries, weak)
        parts = generate(
            self.denoiser, queries, range(n), seed=seed, begin=begin, guide=around, solver=solver, batch=how.batch or 4,
            device=device,
        )  # fmt: skip
        return torch.cat([part.x for part in parts])

    def decoded(self, x: Tensor) -> Tensor:
        """Samples as pictures (n, 3, H, W), about -1 to 1."""
        import torch

        if self.decoder is None:
            return x
        with torch.no_grad():
            whole: Tensor = self.decoder.decode(x / self.scales["scale"] + self.scales["shift"]).sample
        return whole

    def encoded(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, H, W), -1 to 1, as what samples are: the means of their codes."""
        import torch

        if self.decoder is None:
            return pictures
        with torch.no_grad():
            mean: Tensor = self.decoder.encode(pictures).latent_dist.mean
        return (mean - self.scales["shift"]) * self.scales["scale"]

    def changed(self, file: Path, strength: float = 1.0) -> OpenModel:
        """The model with a low-rank change of a file in diffusers' layout (or ours) added to its weights, which stay as they are
        here. Raises Wrong, CheckpointError."""
        import copy

        from sfumato.diffusion import Denoiser
        from sfumato.open_models.lora_files import merged_with

        network = copy.deepcopy(self.network)
        network.network.load_state_dict(merged_with(self.network.network.state_dict(), file, self.part, strength))
        return dataclasses.replace(self, network=network, denoiser=Denoiser(network, self.process))


@dataclass(frozen=True)
class _Weak:
    """Queries with conditions for guidance's weak side."""

    queries: Any
    weak: Mapping[str, Any]

    @property
    def buckets(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.queries)

    def name(self, number: int) -> tuple[str, int]:
        named: tuple[str, int] = self.queries.name(number)
        return named

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        import torch

        which = torch.as_tensor(list(numbers), dtype=torch.int64)
        return {**self.queries.batch(numbers), "weak": {n: v[which % len(v)] for n, v in self.weak.items()}}


def opened(folder: Path | str) -> OpenModel:
    """A pipeline's folder on this disk, as diffusers saves it: its denoiser and, where there is one, its autoencoder.

    Weights are read from safetensors alone, the classes are those that are known here, and no code of the folder's runs. Raises
    DataError for what is not known or not there, CheckpointError for damaged weights.
    """
    from sfumato.diffusion import Denoiser
    from sfumato.open_models.networks import KNOWN

    folder = Path(folder)
    part = layout.denoiser_part(folder)
    file = folder / part / "config.json"
    config = layout.settings(file)
    name = layout.class_of(config, file, KNOWN)
    network = KNOWN[name](_built(name, config, folder / part))
    where = folder / "scheduler" / "scheduler_config.json"
    scheduler = layout.settings(where)
    decoder, scales = _decoder(folder / "vae")
    return OpenModel(folder, part, network, Denoiser(network, process_of(scheduler, where)), scheduler, decoder, scales)


def _built(name: str, config: Mapping[str, Any], folder: Path) -> Any:
    """A network of one of their classes with the weights of a folder. Raises DataError."""
    import torch

    kind: Any = getattr(needed("diffusers", "hf"), name)
    weights = layout.weights_of(folder)
    try:
        with torch.random.fork_rng(devices=[]):
            network = kind.from_config({k: v for k, v in config.items() if k != "quantization_config"})
        missing, more = network.load_state_dict(weights, strict=False)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        from sfumato.errors import one_line

        raise DataError(
            f"{shown(folder)}: weights and settings do not fit ({one_line(error)}); copy both again"
        ) from error
    if missing or more:
        raise DataError(
            f"{shown(folder)}: {len(missing)} weights are missing and {len(more)} too many, as {[*missing, *more][0]}"
        )
    return network.eval().requires_grad_(False)


DECODERS = {"AutoencoderKL": None, "AutoencoderTiny": None}


def _decoder(folder: Path) -> tuple[Any, dict[str, float]]:
    """The autoencoder and what its codes are scaled by; None where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        return None, {}
    config = layout.settings(file)
    name = layout.class_of(config, file, DECODERS)
    scales = {"scale": float(config.get("scaling_factor") or 1.0), "shift": float(config.get("shift_factor") or 0.0)}
    return _built(name, config, folder), scales
