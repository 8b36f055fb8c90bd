"""Learning in the space of an autoencoder: its codes are worked out once, and samples are decoded.

    pictures --encode--> codes --standardised by channel--> what the diffusion model learns and draws --decode--> pictures

A run keeps the weights of the autoencoder that it learned by (`FILE`), so that it needs nothing of that other run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError, decoding, typed
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from sfumato.data import Statistics
    from sfumato.networks.coder import Coder

FILE = "coder.safetensors"
"""The weights of the autoencoder, in a run that learns by it."""
BATCH = 64


@dataclass(frozen=True)
class Latent:
    """What a run knows of the codes that it learns: how many pixels of a side make one, their channels' means and spreads over
    what is learned from, the hash of the weights that make them, and the run that these came from."""

    factor: int
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    checksum: str
    source: str

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Latent | None:
        """From plain values; None where there are none. Raises DataError where they are damaged."""
        if not stored:
            return None
        with decoding("latent in data.json", "train again"):
            means, spreads = (tuple(map(float, stored[name])) for name in ("means", "spreads"))
            if len(means) != len(spreads) or not means or min(spreads) <= 0:
                raise DataError("its means and spreads do not go together")
            return cls(int(stored["factor"]), means, spreads, str(stored["checksum"]), str(stored["source"]))

    def plain(self) -> dict[str, Any]:
        """For data.json."""
        return asdict(self)

    def size(self, height: int, width: int) -> tuple[int, int, int]:
        """The shape of the code of a picture."""
        return len(self.means), height // self.factor, width // self.factor

    def statistics(self, height: int, width: int, count: int = 0) -> Statistics:
        """What standardises the codes of pictures of this size."""
        from sfumato.data import Statistics

        return Statistics(self.means, self.spreads, count, self.size(height, width))

    def words(self) -> str:
        """One line about it."""
        return f"learned as codes of {self.source}: {len(self.means)} numbers for {self.factor}x{self.factor} pixels"


@dataclass(frozen=True, eq=False)
class Decoder:
    """An autoencoder, and what standardises its codes."""

    network: Coder
    latent: Latent
    device: torch.device

    def decode(self, code: Tensor) -> Tensor:
        """Standard codes (B, c, h, w) -> pictures (B, C, H, W) from -1 to 1, float32 on the CPU."""
        import torch

        mean, spread = (torch.tensor(each).reshape(-1, 1, 1) for each in (self.latent.means, self.latent.spreads))
        raw = code.float().cpu() * spread + mean
        with torch.no_grad():
            parts = [self.network.decode(part.to(self.device)).float().cpu() for part in raw.split(BATCH)]
        return torch.cat(parts).clamp(-1, 1)


def factor(source: Path) -> int:
    """How many pixels of a side make one of a code of a run's autoencoder. Raises RunError for another run."""
    return _found(source)[0].factor


def adopt(source: Path, run: Run) -> Coder:
    """Take the weights of a finished autoencoder into a run that is to learn by it. Raises RunError for another run."""
    network, file = _found(source)
    shutil.copyfile(file, run.path / FILE)
    return network


def _found(source: Path) -> tuple[Coder, Path]:
    run = Run(source)
    if not run.config.is_file():
        raise RunError(f"{source}: is no run; `sfumato train autoencoder PICTURES` makes one to learn by")
    if not run.model.is_file():
        raise RunError(f"{source}: is not finished; `sfumato resume {typed(source)}` first")
    return _read(run.model), run.model


def encode(
    network: Coder, arrays: Iterable[tuple[np.ndarray, np.ndarray, Path]], source: Path, checksum: str
) -> Latent:
    """The codes of pictures, worked out once and kept as float16.

    Args:
        arrays: bytes (N, 3, H, W), which of them are learned from (N,) bool, and the file that their codes go to.

    Raises DataError for pictures whose sides the factor does not divide.
    """
    import numpy as np
    import torch

    from sfumato.training.parallel import pick_device
    from sfumato.training.progress import Watch

    device, sums = pick_device(), np.zeros((3, network.latent))
    network = network.to(device).eval()
    arrays = list(arrays)
    with Watch("code pictures", sum(len(x) for x, _, _ in arrays), unit="pictures") as watch, torch.no_grad():
        done = 0
        for x, learned, file in arrays:
            if x.shape[2] % network.factor or x.shape[3] % network.factor:
                raise DataError(
                    f"pictures of {x.shape[2]}x{x.shape[3]}: their sides must be multiples of {network.factor} for {source}"
                )
            codes = np.lib.format.open_memmap(file, "w+", np.float16, (len(x), *network.size(*x.shape[2:])))
            for first in range(0, len(x), BATCH):
                rows = slice(first, first + BATCH)
                pixels = torch.from_numpy(np.array(x[rows])).to(device).float() / 127.5 - 1
                code = network.encode(pixels).float().cpu().numpy()
                codes[rows] = code
                own = code[learned[rows]].astype(np.float64)
                sums += [np.full(network.latent, own[:, 0].size), own.sum((0, 2, 3)), (own**2).sum((0, 2, 3))]
                done += len(code)
                watch.show(done)
            codes.flush()
    mean = sums[1] / sums[0]
    spread = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 1e-12))
    return Latent(network.factor, tuple(mean.tolist()), tuple(spread.tolist()), checksum, source.name)


def prepare(source: Path, run: Run, arrays: Iterable[tuple[np.ndarray, np.ndarray, Path]]) -> Latent:
    """The autoencoder of the run ``source`` taken over, and the codes of pictures by it. Raises RunError, DataError."""
    network = adopt(source, run)
    return encode(network, arrays, source, _checksum(run.path / FILE))


def decoder(run: Run, latent: Latent, device: Any) -> Decoder:
    """The autoencoder of a run that learned by one. Raises RunError where its file is another one, CheckpointError."""
    file = run.path / FILE
    if not file.is_file():
        raise RunError(f"{file}: is missing; copy it from where the run was made")
    if _checksum(file) != latent.checksum:
        raise RunError(f"{file}: is not the autoencoder that {run.path} learned by; restore it from a copy")
    network = _read(file)
    return Decoder(network.to(device).eval(), latent, device)


def _read(file: Path) -> Coder:
    """The autoencoder in a file of weights. Raises RunError where it holds another network."""
    import json

    from sfumato import networks
    from sfumato.networks.coder import Coder
    from sfumato.training import checkpoint

    weights, about = checkpoint.read_weights(file)
    with decoding(file, "give the run of an autoencoder"):
        settings = dict(json.loads(about["network"]))
    if settings.get("kind") != "coder":
        raise RunError(
            f"{file.parent}: is a run of another kind ({settings.get('kind')}); `sfumato train autoencoder PICTURES` makes "
            "one to learn by"
        )
    network = networks.rebuilt(settings, weights, str(file), {"coder": Coder})
    assert isinstance(network, Coder)
    network.load_state_dict(weights)
    network.requires_grad_(False)
    return network


def _checksum(file: Path) -> str:
    import hashlib

    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]
