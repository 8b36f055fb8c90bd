r"""Reflow: learn anew from the pairs a teacher itself makes, so that the paths become straight and few steps do.

A trained flow sends each noise z to one x. Trained again on those couples (x, z), in place of data and independent
noise, the paths no longer cross, and their velocity has less reason to change on the way: "rectified flow" (Liu 2022,
arXiv 2209.03003).

    teacher --Couples.make--> folder of (x, z, condition) --Couples.open--> training data, whose "z" is the noise
    straightness(denoiser, z, times): how far from straight the paths are
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.data import DataError, shown
from sfumato.diffusion import FromNoise, Guess, cosine, generate, heun, trajectory
from sfumato.diffusion.generate import RESERVED, streams
from sfumato.diffusion.grids import Grid
from sfumato.diffusion.process import along
from sfumato.diffusion.sample import Solver

FORMAT = 1
MANIFEST = "couples.json"

Condition = Callable[[Sequence[int]], Mapping[str, Tensor]]
"""Numbers of the couples -> their condition, name -> (B, ...)."""


def couples(
    denoiser: Guess,
    shape: tuple[int, ...],
    numbers: Sequence[int],
    *,
    seed: int = 0,
    steps: int = 32,
    solver: Solver = heun(),
    grid: Grid = cosine,
    batch: int = 64,
    device: torch.device | str = "cpu",
    condition: Condition | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield the couples of the given numbers, a batch at a time: {"x": (b, *shape), "z": (b, *shape), condition...}.

    x is the teacher's sample from the noise z, both float32 on the CPU. Couple i is a function of the seed and i alone:
    the same bit for bit in any order and company as long as ``batch`` is the same, because the teacher always sees full
    batches, the last one padded. To teach a conditional flow that also knows the unconditional one, give some couples
    the condition "none" (label -1); training should not drop conditions at random besides.

    Raises:
        ValueError: the teacher's network is in training mode, or a condition is called "x" or "z" or has another length.
        RuntimeError: the teacher's samples are not finite.
    """
    if getattr(getattr(denoiser, "network", None), "training", False):
        raise ValueError("the teacher's network is in training mode, its samples would be noisy: call network.eval()")
    queries, stream = _Asked(shape, condition), ("couples",)
    begin = FromNoise(steps, grid)
    for drawn in generate(
        denoiser, queries, numbers, seed=seed, stream=stream, begin=begin, solver=solver, batch=batch, device=device
    ):  # fmt: skip
        good = drawn.x.isfinite().flatten(1).all(1).tolist()
        if not all(good):
            number = drawn.numbers[good.index(False)]
            raise RuntimeError(f"the teacher's sample number {number} is not finite: use more steps")
        z = denoiser.process.prior(drawn.query["x"], streams(queries, drawn.numbers, seed, stream, device))
        yield {**{name: value.cpu() for name, value in drawn.query.items()}, "x": drawn.x.float().cpu(), "z": z.cpu()}


@dataclass(frozen=True)
class _Asked:
    """Couples as queries: so many blanks of a shape, each with its condition."""

    shape: tuple[int, ...]
    condition: Condition | None
    buckets: None = None

    def __len__(self) -> int:
        return 2**31

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        given = {} if self.condition is None else dict(self.condition(numbers))
        for name, value in given.items():
            if name in ("x", "z", *RESERVED) or value.ndim == 0 or len(value) != len(numbers):
                raise ValueError(
                    f"condition {name!r} has shape {tuple(value.shape)}: expected {len(numbers)} rows and a name not x or z"
                )
        return {"x": torch.zeros(len(numbers), *self.shape), **given}


@dataclass(frozen=True, eq=False)
class Couples:
    """Couples in a folder, as a data set: items {"x": float32, "z": float32, condition...} of a teacher's own pairs.

    The folder holds one ``NAME.npy`` per array, which stays on disk until an item is asked for, and ``couples.json``.
    Train on it as on any data set: the loop takes its "z" for the noise. By hand: ``loss(denoiser, x, t, z=z)``.

    Args:
        folder: where the arrays are.
        arrays: name -> (N, ...), memory-mapped.
    """

    folder: Path
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def make(
        cls,
        folder: str | os.PathLike[str],
        denoiser: Guess,
        shape: tuple[int, ...],
        count: int,
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Couples:
        """Draw couples 0 .. count - 1 from a teacher into a new folder and open it.

        ``options`` are those of :func:`couples`; ``progress(done, count)`` is called after each batch. The folder
        appears, whole, when the last couple is drawn; nothing is left behind if that fails.

        Raises:
            ValueError: count below 1, and what :func:`couples` raises.
            DataError: the folder exists, or cannot be written.
        """
        folder = Path(folder)
        if count < 1:
            raise ValueError(f"count is {count}: at least one couple is needed")
        if folder.exists():
            raise DataError(f"{shown(folder)}: exists already; remove it or choose another folder")
        hidden = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
        try:
            hidden.mkdir(parents=True)
            _write(hidden, couples(denoiser, shape, range(count), **options), count, progress)
            os.rename(hidden, folder)
        except OSError as error:
            raise DataError(
                f"{shown(folder)}: cannot be written ({error.strerror}); check rights and free space"
            ) from error
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> Couples:
        """The couples in a folder that :meth:`make` wrote; with ``verify`` every byte is compared with its checksum.

        Raises DataError, one line, if a file is missing, cut short, changed or of another kind.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            version, count = content["format"], int(content["count"])
            files = {str(name): (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
        except FileNotFoundError:
            raise DataError(f"{shown(folder / MANIFEST)}: not found; give a folder that Couples.make wrote") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{shown(folder / MANIFEST)}: damaged ({type(error).__name__}); make the couples again"
            ) from error
        if version != FORMAT:
            raise DataError(f"{shown(folder / MANIFEST)}: format {version}, expected {FORMAT}; make the couples again")
        arrays = {
            name: _read(folder / f"{name}.npy", count, size, verify and digest)
            for name, (size, digest) in files.items()
            if _plain(name)
        }
        if len(arrays) != len(files) or not {"x", "z"} <= arrays.keys() or arrays["x"].shape != arrays["z"].shape:
            raise DataError(f"{shown(folder / MANIFEST)}: names no x and z of one shape; make the couples again")
        return cls(folder, arrays)

    def __len__(self) -> int:
        return len(self.arrays["x"])

    @property
    def buckets(self) -> None:
        """All couples can stand in one batch."""
        return None

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Couples `indices` (B,): {"x": float32, "z": the noise each was made from, condition...}, copies."""
        return {name: np.array(array[indices]) for name, array in self.arrays.items()}

    def name(self, index: int) -> str:
        """The folder with the couple's number."""
        return f"{self.folder}[{index}]"


@torch.no_grad()
def straightness(denoiser: Guess, z: Tensor, times: Tensor, solver: Solver = heun(), **condition: Any) -> Tensor:
    r"""How far the walks from the noises z (B, ...) are from straight lines walked evenly: (B,), 0 is straight.

    S = 1/(t_0 - t_n) \int |dx_t/dt - (x_{t_0} - x_{t_n}) / (t_0 - t_n)|^2 dt, a mean over the numbers of a sample: the
    mean squared distance of the velocity from the chord's (Liu 2022, eq. 6, there summed over the numbers). Between two
    times of the walk the velocity is that of the step, so S is a lower bound that is reached, to second order, with
    small steps. ``times`` fall, as in :func:`~sfumato.diffusion.sample`.
    """
    states = list(trajectory(denoiser, z, times, solver, **condition))
    chord = (states[0] - states[-1]) * along(1 / (times[0] - times[-1]), z)
    total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    for (t, s), (x_t, x_s) in zip(pairwise(times), pairwise(states), strict=True):
        away = (x_t - x_s) * along(1 / (t - s), z) - chord
        share = ((t - s) / (times[0] - times[-1])).to(total)
        total = total + share * away.square().flatten(1).mean(1)
    return total


# ---- files -----------------------------------------------------------------------------------------------------------


def _plain(name: str) -> bool:
    return bool(name) and not set(name) & set("/\\:\0") and not name.startswith(".")


def _write(
    folder: Path, drawn: Iterator[dict[str, Tensor]], count: int, progress: Callable[[int, int], None] | None
) -> None:
    maps: dict[str, np.memmap[Any, Any]] = {}
    done = 0
    for rows in drawn:
        for name, value in rows.items():
            if name not in maps:
                if not _plain(name):
                    raise ValueError(f"condition {name!r} cannot name a file: use letters, digits and '_'")
                kind = value.numpy().dtype
                maps[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", mode="w+", dtype=kind, shape=(count, *value.shape[1:])
                )
            maps[name][done : done + len(value)] = value.numpy()
        done += len(rows["x"])
        if progress is not None:
            progress(done, count)
    files = {}
    for name, array in maps.items():
        array.flush()
        files[name] = (folder / f"{name}.npy").stat().st_size, _digest(folder / f"{name}.npy")
    content = {"format": FORMAT, "count": count, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read(path: Path, count: int, size: int, digest: str | bool) -> np.ndarray:
    try:
        have = path.stat().st_size
        if have != size:
            raise DataError(f"{shown(path)}: {have} bytes where {size} were written; copy it or make the couples again")
        if digest and _digest(path) != digest:
            raise DataError(f"{shown(path)}: its content has changed since it was written; make the couples again")
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{shown(path)}: not found; copy it or make the couples again") from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{shown(path)}: cannot be read ({type(error).__name__}); make the couples again") from error
    if array.ndim == 0 or len(array) != count:
        raise DataError(f"{shown(path)}: has shape {array.shape}, expected {count} rows; make the couples again")
    return array


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
