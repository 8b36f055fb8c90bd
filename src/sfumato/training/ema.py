"""Averages of the weights whose length is chosen after training.

The power-function average of Karras et al. 2024 (EDM2, arXiv 2312.02696, section 3): at step t the weights of the past
are averaged with the profile

    p(tau) = (gamma + 1) / t * (tau / t)^gamma,   0 <= tau <= t,

which always spans the same share of the run, whatever its length. `gamma` is stated as a `width`: the standard
deviation of the profile divided by t. Snapshots of two widths, stored during the run, span a space of profiles in
which any other width is found by least squares (`reconstruct`).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfumato.errors import Wrong, one_line
from sfumato.training import sums
from sfumato.training.checkpoint import CheckpointError, save_weights
from sfumato.training.memory import LARGE

WIDEST = 0.28  # gamma = 0, the plain mean, has 1 / sqrt(12) = 0.289


def exponent(width: float) -> float:
    """gamma of the profile with relative standard deviation `width`: 0.05 -> 16.97, 0.10 -> 6.94.

    Solves width = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2). Raises ValueError outside (0, 0.28).
    """
    if not 0 < width < WIDEST:
        raise ValueError(f"width {width}: must be above 0 and below {WIDEST}")
    low, high = 0.0, 1.0 / width  # the right-hand side falls with gamma and is below 1 / gamma
    while low < (middle := 0.5 * (low + high)) < high:
        if math.sqrt(middle + 1) / ((middle + 2) * math.sqrt(middle + 3)) > width:
            low = middle
        else:
            high = middle
    return middle


class PowerEMA:
    """Running averages of the same parameters for several widths.

    parameters: name -> tensor, on any device. Averages have the parameters' shapes and devices and at least float32
    (bfloat16 would lose every small change). Tensors that are not floating point, such as counters, are not averaged:
    the newest value is kept.
    """

    def __init__(self, parameters: Mapping[str, Tensor], widths: Sequence[float] = (0.05, 0.10)) -> None:
        if not widths or len(set(widths)) != len(widths):
            raise ValueError(f"widths {tuple(widths)}: need at least one, each once")
        self.exponents = {float(width): exponent(width) for width in widths}
        self.averages: dict[float, dict[str, Tensor]] = {
            width: {name: tensor.detach().to(_wide(tensor), copy=True) for name, tensor in parameters.items()}
            for width in self.exponents
        }

    @classmethod
    def of(cls, averages: Mapping[float, dict[str, Tensor]]) -> PowerEMA:
        """Averages that are there, by width; no copies."""
        made = cls({}, tuple(averages))
        made.averages = dict(averages)
        return made

    @property
    def widths(self) -> tuple[float, ...]:
        return tuple(self.exponents)

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int, previous: int) -> None:
        """Take in the weights after `step` updates, when the last call was after `previous` (0: the first call).

        average <- lerp(weights, average, beta) with beta = (previous / step)^(gamma + 1), the share of the profile that
        lies before `previous`. So the weights of the newest stretch stand for the whole stretch, and calling every k
        steps is the same average of a coarser history. The first call copies. Nothing waits for the device.
        Raises ValueError unless 0 <= previous < step and the names are those of the beginning.
        """
        if not 0 <= previous < step:
            raise ValueError(f"step {step} after {previous}: steps must rise")
        for width, average in self.averages.items():
            if missing := average.keys() ^ parameters.keys():
                raise ValueError(f"parameters differ from those averaged so far: {', '.join(sorted(missing)[:5])}")
            share = 1.0 - (previous / step) ** (self.exponents[width] + 1.0)
            kinds: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
            for name, mean in average.items():
                if mean.is_floating_point() or mean.is_complex():
                    means, news = kinds.setdefault((mean.dtype, mean.device), ([], []))
                    means.append(mean)
                    news.append(parameters[name].detach().to(mean.dtype))
                else:
                    mean.copy_(parameters[name])
            for means, news in kinds.values():
                if share == 1.0:  # lerp would carry a NaN of the old average along
                    torch._foreach_copy_(means, news)
                else:
                    torch._foreach_lerp_(means, news, share)

    def state(self) -> dict[str, Tensor]:
        """The averages under names such as `0.05/blocks.0.weight`; the live tensors, not copies."""
        return {f"{width}/{name}": mean for width, named in self.averages.items() for name, mean in named.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`, in place. Raises CheckpointError, with nothing changed, if names or shapes differ."""
        mine = self.state()
        if differ := mine.keys() ^ state.keys():
            raise CheckpointError(
                f"ema: {', '.join(sorted(differ)[:3])} is not on both sides; use the saved network and widths"
            )
        for name, mean in mine.items():
            if mean.shape != state[name].shape:
                raise CheckpointError(
                    f"ema: {name} has shape {list(mean.shape)}, saved was {list(state[name].shape)}; "
                    "use the network it was saved from"
                )
        for name, mean in mine.items():
            mean.copy_(state[name])


def _wide(tensor: Tensor) -> torch.dtype:
    if tensor.is_complex():
        return torch.promote_types(tensor.dtype, torch.complex64)
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype


# ------------------------------------------------------------------------------------------------- after the training


@dataclass(frozen=True)
class Snapshot:
    """The average of one width at one step. `weights` may read from a file at each access."""

    step: int
    width: float
    weights: Mapping[str, Tensor]


def reconstruct(snapshots: Sequence[Snapshot], width: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of any `width` at `step` (default: the newest snapshot's), as if it had been kept all along.

    The result is sum_i c_i * snapshot_i, with c such that sum_i c_i p_i is as close as can be, in L2, to the wanted
    profile p. For profiles a, b with steps t_a <= t_b the inner products are, in closed form,

        <p_a, p_b> = (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) * (t_a / t_b)^gamma_b / t_b.

    Beyond the paper, c is held to sum to 1, so that weights which never changed come out unchanged even when there are
    few snapshots. Coefficients are solved in float64; the snapshots up to the first at or after `step` are read one
    after the other, and only their sum is held.
    A snapshot of that very width and step is returned as it is.

    Returns name -> tensor in float32 or wider (tensors that are not floating point: the newest value up to `step`).
    Raises ValueError without snapshots, for a width outside (0, 0.28), or for a step outside the snapshots.
    """
    if not snapshots:
        raise Wrong("no snapshots to reconstruct an average from")
    last = max(snapshot.step for snapshot in snapshots)
    step = last if step is None else step
    first = min(snapshot.step for snapshot in snapshots)
    if not first <= step <= last:
        raise Wrong(f"step {step}: the snapshots reach from {first} to {last}")
    # What was averaged up to the next snapshot is needed between two of them: without it the weights since the last one
    # are unknown, and the error is hundreds of times larger. Later ones change nothing that matters.
    after = min(s.step for s in snapshots if s.step >= step)
    used = [s for s in snapshots if s.step <= after]
    exact = [i for i, s in enumerate(used) if s.step == step and math.isclose(s.width, width, rel_tol=1e-9)]
    weights = [float(i == exact[0]) for i in range(len(used))] if exact else coefficients(used, width, step)

    newest = max((i for i, s in enumerate(used) if s.step <= step), key=lambda i: used[i].step)
    total: dict[str, Tensor] = {}
    for i, (snapshot, weight) in enumerate(zip(used, weights, strict=True)):
        if weight == 0.0 and i != newest:
            continue
        for name, tensor in snapshot.weights.items():
            if not (tensor.is_floating_point() or tensor.is_complex()):
                if i == newest:
                    total[name] = tensor.clone()
            elif name in total:
                total[name].add_(tensor.to(total[name].dtype), alpha=weight)
            elif weight != 0.0:
                total[name] = tensor.to(_wide(tensor)) * weight
    return total


def coefficients(snapshots: Sequence[Snapshot], width: float, step: int) -> list[float]:
    """The factors of `reconstruct`, one per snapshot, summing to 1."""
    gammas = torch.tensor([exponent(s.width) for s in snapshots], dtype=torch.float64)
    times = torch.tensor([s.step for s in snapshots], dtype=torch.float64) / step  # only ratios matter
    gamma, time = torch.tensor([exponent(width)], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    # In units of each profile's own length the matrix has ones on its diagonal and is well enough conditioned for any
    # sensible set; the pseudo-inverse is for snapshots given twice.
    lengths = _inner(gammas, times, gammas, times).diagonal().sqrt()
    gram = _inner(gammas, times, gammas, times) / (lengths[:, None] * lengths)
    wanted = _inner(gammas, times, gamma, time)[:, 0] / lengths
    ones = 1.0 / lengths
    inverse = torch.linalg.pinv(gram, rtol=1e-13, hermitian=True)
    solution, direction = inverse @ wanted, inverse @ ones
    solution = solution + direction * ((1.0 - ones @ solution) / (ones @ direction))  # Lagrange: the sum is 1
    factors = solution / lengths
    return (factors / factors.sum()).tolist()


def _inner(gamma_a: Tensor, time_a: Tensor, gamma_b: Tensor, time_b: Tensor) -> Tensor:
    """<p_a, p_b> for every pair, shape (A, B)."""
    gamma_a, time_a = gamma_a[:, None], time_a[:, None]
    later = torch.where(time_a <= time_b, gamma_b, gamma_a)
    ratio = torch.minimum(time_a, time_b) / torch.maximum(time_a, time_b)
    share = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return share * ratio**later / torch.maximum(time_a, time_b)


# ----------------------------------------------------------------------------------------------------- snapshot files

_FILE = re.compile(r"step-(\d+)\.safetensors")


def write_snapshot(folder: Path, step: int, ema: PowerEMA, keep: int = 32) -> Path:
    """Store all averages at `step` in one file, and keep at most `keep` files, spread evenly over the run.

    Call it at multiples of a fixed interval and at the end. When the folder is full each new file pushes out one old
    one, every second first, so that the spacing takes at most two values, one double the other; the newest stays.
    Files of later steps, left over when a run went back, are deleted.

    Up to two million parameters the files hold float32. Larger ones hold float16, half the space, each tensor scaled by
    the power of two that brings its largest magnitude to [2^14, 2^15): nothing overflows, and the rounding (at most
    2^-11 of a value, an eighth of that of bfloat16) grows in a reconstruction only by the norm of the coefficients,
    about 1 to 2 at a snapshot's step and up to 10 halfway between two. Values below 5e-38 become 0.
    Raises CheckpointError if the file cannot be written, or if an average is not finite.
    """
    folder = Path(folder)
    if keep < 2:
        raise ValueError(f"keep must be at least 2, got {keep}")
    path = folder / f"step-{step:08d}.safetensors"
    half = sum(mean.numel() for mean in ema.averages[ema.widths[0]].values()) > LARGE
    tensors: dict[str, Tensor] = {}
    scales: dict[str, int] = {}
    for name, mean in ema.state().items():
        if not mean.is_floating_point():
            tensors[name] = mean
            continue
        largest = float(mean.abs().max()) if mean.numel() else 0.0
        if not math.isfinite(largest):
            raise CheckpointError(f"{path}: the average {name} is not finite; it was not stored")
        if half and mean.dtype == torch.float32:
            # Bounded, because 2^scale itself must be a float32.
            scales[name] = max(-100, min(100, 15 - math.frexp(largest)[1])) if largest else 0
            tensors[name] = torch.ldexp(mean, torch.tensor(scales[name], device=mean.device)).to(torch.float16)
        else:
            tensors[name] = mean
    metadata = {"step": str(step), "widths": json.dumps(ema.widths), "scales": json.dumps(scales)}
    save_weights(path, tensors, metadata)
    _thin(folder, step, keep)
    return path


def read_snapshots(folder: Path) -> list[Snapshot]:
    """All stored snapshots, by step and width; the weights are read, as float32, when they are asked for.

    Raises CheckpointError naming a file that cannot be read; deleting that one leaves the others usable.
    """
    snapshots: list[Snapshot] = []
    for number, path in sorted(_files(Path(folder)).items()):
        try:
            stored = safe_open(path, framework="pt")
            metadata = dict(stored.metadata() or {})
            if not sums.sound({name: stored.get_tensor(name) for name in stored.keys()}, metadata):  # noqa: SIM118
                raise ValueError("it is damaged, its checksum differs")
            scales = {str(name): int(power) for name, power in json.loads(metadata.get("scales", "{}")).items()}
            step = int(metadata.get("step", number))
            for width in json.loads(metadata["widths"]):
                prefix = f"{float(width)}/"
                names = [name.removeprefix(prefix) for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
                snapshots.append(Snapshot(step, float(width), _Stored(stored, prefix, tuple(names), scales)))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: is not a readable snapshot ({one_line(error)}); delete it to use the others"
            ) from error
    return snapshots


@dataclass(frozen=True, eq=False)
class _Stored(Mapping[str, Tensor]):
    """Weights that stay in their file until asked for, so that many snapshots cost no memory."""

    file: Any
    prefix: str
    names: tuple[str, ...]
    scales: Mapping[str, int]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        key = self.prefix + name
        tensor = self.file.get_tensor(key)
        if key in self.scales:
            return torch.ldexp(tensor.float(), torch.tensor(-self.scales[key]))
        return tensor.clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _files(folder: Path) -> dict[int, Path]:
    try:
        found = [(_FILE.fullmatch(path.name), path) for path in folder.iterdir()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be listed ({error.strerror}); check the path and its rights"
        ) from error
    return {int(match[1]): path for match, path in found if match}


def _thin(folder: Path, step: int, keep: int) -> None:
    files = _files(folder)
    kept = sorted(number for number in files if number <= step)
    while len(kept) > keep:
        # Odd multiples of the interval first, then odd multiples of its double, ...: `a & -a` is the largest power of
        # two in a. Steps off any such grid are chosen by how close their neighbours are.
        neighbours = zip([0, *kept], kept, kept[1:])  # of all but the newest
        ranks = [(number & -number, after - before) for before, number, after in neighbours]
        kept.pop(ranks.index(min(ranks)))
    for number in files.keys() - set(kept):
        with suppress(OSError):  # a file too many does no harm
            os.unlink(files[number])
