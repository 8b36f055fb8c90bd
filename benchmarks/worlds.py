"""Data whose denoiser is exact, for comparing solvers without any network: normals, a mixture, 256 digits.

All three are coordinates of one flat vector, and one walk of a solver carries all of them: no solver here lets one
coordinate see another. Imports torch and the core alone, so that the peers' environment can use it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import EDM, VP, Gaussian, Linear, ab, auto, cosine, heun
from sfumato.diffusion.exact import Exact, GaussianData, MixtureData
from sfumato.diffusion.process import along
from sfumato.diffusion.sample import sample
from sfumato.diffusion.schedule import Schedule

F64 = torch.float64
VP_START = 157.40707
"""sigma / alpha at the last of DDPM's 1000 betas from 1e-4 to 0.02, where diffusers' VP samplers start."""
SCHEDULES: dict[str, Schedule] = {
    "straight": Linear(),
    "vp": VP(0.1, math.log1p(VP_START**2) * 2 - 0.1),
    "edm": EDM(sigma_min=0.0, sigma_max=80.0),
}
"""The three parameterisations: flow matching from pure noise, DDPM's from 157, EDM's from 80; all end at pure data."""
NAMES = ("normals", "mixture", "digits")


@dataclass(frozen=True)
class Pictures(Exact):
    """Equally likely points (N, D) without blur: the softmax denoiser, by matrix products."""

    points: Tensor

    def mean_given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        scores = alpha * (x_t @ self.points.T) - alpha**2 / 2 * (self.points**2).sum(1)
        return torch.softmax(scores / sigma**2, 1) @ self.points


def normals() -> GaussianData:
    """12 independent normals, deviations from 0.1 to 2, means from -1 to 1."""
    return GaussianData(torch.linspace(-1, 1, 12, dtype=F64), torch.logspace(-2, math.log10(4), 12, dtype=F64))


def mixture() -> MixtureData:
    """Five round blobs in the plane, of deviations from 0.08 to 0.3, together about unit variance."""
    angle = torch.arange(5, dtype=F64) * (2 * math.pi / 5)
    weights = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1], dtype=F64)
    deviations = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.08], dtype=F64)
    return MixtureData(weights, 1.35 * torch.stack([angle.cos(), angle.sin()], 1), deviations)


@dataclass(frozen=True)
class World(Exact):
    """Data sets side by side in x (B, D): ``parts`` by name, in order. Counts its calls in ``calls``."""

    parts: dict[str, Exact]
    calls: list[int] = field(default_factory=lambda: [0])

    @cached_property
    def places(self) -> dict[str, slice]:
        """Where each part's coordinates are."""
        found, begin = {}, 0
        for name, part in self.parts.items():
            found[name] = slice(begin, begin + _width(part))
            begin += _width(part)
        return found

    def mean_given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        self.calls[0] += 1
        return torch.cat(
            [part.mean_given(x_t[:, self.places[name]], alpha, sigma) for name, part in self.parts.items()], 1
        )

    def denoise(self, y: Tensor, ratio: float | Tensor) -> Tensor:
        """E[x] at sigma / alpha = ``ratio``, where y = x + ratio z (alpha = 1)."""
        ratio = torch.as_tensor(ratio, dtype=F64)
        return self.mean_given(y.to(F64), torch.ones((), dtype=F64), ratio)

    def on(self, schedule: Schedule) -> World:
        """The same data on another schedule, calls counted from zero."""
        return replace(self, process=Gaussian(schedule, "data"), calls=[0])

    def only(self, name: str) -> World:
        """One of the data sets."""
        return replace(self, parts={name: self.parts[name]}, calls=[0])


def _width(part: Exact) -> int:
    return {GaussianData: lambda p: len(p.mean), MixtureData: lambda p: p.means.shape[1], Pictures: lambda p: p.points.shape[1]}[
        type(part)
    ](part)  # fmt: skip


def world(digits: Tensor) -> World:
    """The three data sets; digits (256, 64) at about unit variance."""
    return World({"normals": normals(), "mixture": mixture(), "digits": Pictures(digits)})


def digit_pictures() -> Tensor:
    """256 pictures of scikit-learn's digits (256, 64), float64, standardised as a whole."""
    from sklearn.datasets import load_digits

    pictures = torch.tensor(load_digits().data[:256], dtype=F64)
    return (pictures - pictures.mean()) / pictures.std()


def noises(rows: int, width: int) -> Tensor:
    """The starting noises, the same for everyone."""
    return torch.randn(rows, width, dtype=F64, generator=torch.Generator().manual_seed(0))


def fine(exact: World, z: Tensor, steps: int = 4000) -> Tensor:
    """Where the probability flow takes z: in closed form for the normals, else by ab(4) in small even steps of the
    angle, whose error :func:`doubt` measures."""
    schedule = exact.process.schedule
    end = sample(exact, z, cosine(schedule, steps), ab(4))
    if "normals" in exact.parts:
        place, data = exact.places["normals"], replace(normals(), process=exact.process)
        start = exact.process.start(z)[:, place]
        end[:, place] = data.flow(start, torch.ones((), dtype=F64), torch.zeros((), dtype=F64))
    return end


def doubt(exact: World, z: Tensor, end: Tensor) -> dict[str, float]:
    """How far another solver of another order, Heun's, is from the reference with 4000 steps of its own."""
    return rms(sample(exact, z, cosine(exact.process.schedule, 4000), heun()) - end, exact.places)


def state_at(exact: World, z: Tensor, ratio: float, steps: int = 400) -> Tensor:
    """x + ratio z on the flow from z: where a solver that starts at this sigma / alpha, not at the schedule's own end, is
    put. One that starts a rounding error beyond the end is put on the ray through it."""
    schedule = exact.process.schedule
    top = float(schedule.angle(torch.ones((), dtype=F64)))
    if ratio > math.tan(top) * (1 - 1e-4):
        return ratio * z
    times = schedule.at_angle(torch.linspace(top, math.atan(ratio), steps + 1, dtype=F64)).clamp(0, 1)
    times[0] = 1.0
    x_t = sample(exact, z, times, ab(4))
    return x_t / along(schedule.alpha(times[-1]), x_t)


def measured_grid(exact: World, name: str) -> Any:
    """Our ``auto`` grid for one of the data sets, from 16 noises that are not among those compared."""
    part = exact.only(name)
    width = _width(part.parts[name])
    rng = torch.Generator().manual_seed(1)
    return auto(part, torch.randn(16, width, dtype=F64, generator=rng))


def rms(away: Tensor, places: dict[str, slice]) -> dict[str, float]:
    """Root-mean-square of (B, D) over rows and coordinates, by data set."""
    return {name: float((away[:, place] ** 2).mean().sqrt()) for name, place in places.items()}


def steps_within(calls: int, cost: Callable[[int], int]) -> int:
    """The most steps that need at most ``calls`` network calls, for a solver whose cost is a straight line in the steps."""
    few, many = cost(6), cost(12)
    slope = (many - few) / 6
    return int((calls - few + 6 * slope) / slope + 1e-9)


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """What ``compute`` found, read back from the JSON file ``path`` if it was computed before."""
    if not path.is_file():
        found = json.dumps(compute())
        path.with_suffix(".part").write_text(found)
        path.with_suffix(".part").rename(path)
    return json.loads(path.read_text())


def slug(*names: str) -> str:
    """A file's name from the names of a schedule and a sampler."""
    return "".join(c if c.isalnum() else "_" for c in " ".join(names)) + ".json"
