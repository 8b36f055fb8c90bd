"""Worst error of each process on manifolds for each law, and of the heat kernels' scores against autograd."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.geodesic import Geodesic
from sfumato.diffusion.heat import Heat
from sfumato.diffusion.heat_kernel import CIRCLE, DIRECTIONS, ROTATIONS
from sfumato.diffusion.heat_quantile import branch_end
from sfumato.diffusion.manifold import SO3, Sphere, Torus
from sfumato.diffusion.process import Endpoints, along
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.schedule import Cosine
from tests.laws.worlds import F64, scalar

MANIFOLDS: dict[str, Any] = {"torus": Torus(), "so3": SO3(), "sphere": Sphere()}
POINTS = {"torus": (2,), "so3": (3, 3), "sphere": (3,)}
KERNELS: dict[str, Any] = {"torus": CIRCLE, "so3": ROTATIONS, "sphere": DIRECTIONS}
PROCESSES: dict[str, Any] = {
    **{f"geodesic_{name}": Geodesic(manifold) for name, manifold in MANIFOLDS.items()},
    "geodesic_cosine_so3": Geodesic(SO3(), Cosine()),
    **{f"heat_{name}": Heat(manifold) for name, manifold in MANIFOLDS.items()},
}


def world(name: str) -> str:
    return name.rsplit("_", 1)[1]


def points(name: str, count: int, seed: str = "points") -> Tensor:
    """Uniform points of a process's world."""
    shape = torch.empty(count, *POINTS[world(name)], dtype=F64)
    return MANIFOLDS[world(name)].uniform(shape, Streams(key(seed), range(count)))


def case(name: str, count: int = 200, low: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """Data, noise and times of a process."""
    rng = Streams(key("case"), range(count))
    x = points(name, count)
    return x, PROCESSES[name].prior(x, rng), low + (1 - low) * rng.uniform((count,), F64)


def tangents(name: str, x: Tensor, size: float = 1.0) -> Tensor:
    """Normal tangent vectors at x."""
    manifold = MANIFOLDS[world(name)]
    shape = manifold.like_tangent(x).shape
    return size * manifold.tangent(x, torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(1)))


def gap(name: str, x: Tensor, y: Tensor) -> float:
    """Largest distance between points."""
    return float(MANIFOLDS[world(name)].distance(x, y).max())


def noise_gap(name: str, x: Tensor, one: Tensor, two: Tensor) -> float:
    """Largest difference of noises: points for geodesics, tangent vectors for heat."""
    if name.startswith("geodesic"):
        return gap(name, one, two)
    manifold = MANIFOLDS[world(name)]
    return float((manifold.tangent(x, one) - manifold.tangent(x, two)).abs().max())


def near_branch(name: str, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Samples whose data lies where the answer tells it: on the near branch of the score, below the cut of lengths."""
    manifold, process = MANIFOLDS[world(name)], PROCESSES[name]
    if name.startswith("geodesic"):
        length = manifold.length(manifold.log(x, z))
        return (length < manifold.reach(length)).flatten(1).all(1)
    length = manifold.length(manifold.log(x, process.interpolate(x, z, t)))
    end = branch_end(process.kernel, along(process.schedule.sigma(t), length).expand(length.shape).clamp_max(12.0))
    return (length < 0.95 * end).flatten(1).all(1)  # at the branch's end itself the inverse has no derivative


def law_1(name: str) -> float:
    """At t = 0 the data (up to 8 sigma(0)), at t = 1 the noise point; in law for heat: see the kernel's own tests."""
    process, (x, z, _) = PROCESSES[name], case(name)
    begin, end = process.interpolate(x, z, scalar(0.0)), process.interpolate(x, z, scalar(1.0))
    if name.startswith("geodesic"):
        return max(gap(name, begin, x), gap(name, end, process.start(z)))
    manifold = MANIFOLDS[world(name)]
    length = manifold.length(manifold.log(x, begin))
    radius = manifold.length(manifold.tangent(x, z))
    # at t = 1 the quantile of z is already the uniform law's
    there = manifold.length(manifold.log(x, end))
    uniform = manifold.length(manifold.log(x, process._moved(x, z, scalar(12.0))))
    beyond = (length - float(process.schedule.sigma(scalar(0.0))) * radius * (1 + 1e-4)).clamp_min(0)
    return max(float(beyond.max()), float((there - uniform).abs().max()))


def law_2(name: str) -> float:
    """The target encodes the endpoints, on the near branch and where noise is below 1 radian (beyond that the kernel
    is nearly flat and the question ill conditioned)."""
    process, (x, z, t) = PROCESSES[name], case(name)
    if name.startswith("heat"):
        t = t * 0.7
    keep = near_branch(name, x, z, t)
    x, z, t = x[keep], z[keep], t[keep]
    ends = process.endpoints(process.target(x, z, t), process.interpolate(x, z, t), t)
    return max(gap(name, ends.x, x), noise_gap(name, x, ends.z, z))


def law_3(name: str) -> float:
    """Any answer explains x_t."""
    process, (x, z, t) = PROCESSES[name], case(name, low=0.001)
    x_t, worst = process.interpolate(x, z, t), 0.0
    for size in (0.0, 1e-9, 1e-3, 1.0, 30.0, 1e4):
        ends = process.endpoints(tangents(name, x_t, size), x_t, t)
        worst = max(worst, gap(name, process.interpolate(*ends, t), x_t))
    return worst


def law_4(name: str) -> float:
    """Two steps with constant endpoints are one."""
    process, (x, z, t) = PROCESSES[name], case(name, 40)
    ends, x_t = Endpoints(x, z), process.interpolate(x, z, t)
    there = process.step(ends, process.step(ends, x_t, t, t * 0.6), t * 0.6, t * 0.2)
    return gap(name, there, process.step(ends, x_t, t, t * 0.2))


def law_5(name: str) -> float:
    """The law of x_t given x, by quadrature over the quantiles of the noise (heat) or the direction (geodesic): the
    first two frequencies against exp of minus half the eigenvalue times sigma^2."""
    process = PROCESSES[name]
    if name.startswith("geodesic"):
        x, z, t = case(name)
        manifold = MANIFOLDS[world(name)]
        ratio = manifold.distance(x, process.interpolate(x, z, t)) - process.fraction(t) * manifold.distance(x, z)
        return float(ratio.abs().max())
    worst = 0.0
    for t in (0.05, 0.4, 0.6, 0.8, 0.95):
        sigma = process.schedule.sigma(scalar(t))
        for order in (1, 2):
            worst = max(worst, abs(frequency(name, t, order) - decay(name, float(sigma), order)))
    return worst


def decay(name: str, sigma: float, order: int) -> float:
    """What is left of an eigenfunction of the Laplacian under the kernel."""
    rate = order**2 if world(name) == "torus" else order * (order + 1)
    return math.exp(-rate * sigma**2 / 2)


def frequency(name: str, t: float, order: int) -> float:
    """Mean of the normalised zonal eigenfunction over x_t, x fixed, by quadrature over the radius of z."""
    process, manifold = PROCESSES[name], MANIFOLDS[world(name)]
    n = process.kernel.degrees
    low = -36.0 / n  # e^u below that weighs less than rounding; the trapezoidal rule in u is exact to rounding
    u, h = torch.linspace(low, 2.5, 400, dtype=F64), (2.5 - low) / 399
    r = u.exp()
    weight = r**n * (-(r**2) / 2).exp() * 2 ** (1 - n / 2) / math.gamma(n / 2) * h
    z = torch.zeros(len(r), *manifold.like_tangent(points(name, 1)).shape[1:], dtype=F64)
    z[:, 0] = r
    x = manifold.origin(z)
    x_t = process.interpolate(x, z, scalar(t))
    if world(name) == "torus":
        value = (order * x_t[:, 0]).cos()
    elif world(name) == "sphere":
        cosine = x_t[..., -1]
        value = cosine if order == 1 else (3 * cosine**2 - 1) / 2
    else:
        trace = x_t.diagonal(dim1=-2, dim2=-1).sum(-1)  # character of order 1; chi_2 = chi_1^2 - chi_1 - 1
        value = trace / 3 if order == 1 else (trace**2 - trace - 1) / 5
    return float((weight * value).sum())


def law_6(name: str) -> float:
    """An answer and the target of the endpoints it encodes are the same answer."""
    process, (x, z, t) = PROCESSES[name], case(name)
    x_t = process.interpolate(x, z, t)
    ends = process.endpoints(tangents(name, x_t, 0.3), x_t, t)
    again = process.endpoints(process.target(*ends, t), x_t, t)
    s = t * 0.5
    return gap(name, process.step(again, x_t, t, s), process.step(ends, x_t, t, s))


def law_7(name: str) -> float:
    """Multiplying from the left (turning everything) first or last is the same."""
    process, (x, z, t) = PROCESSES[name], case(name)
    turn = points("x_so3", 1, "turn")[0]

    def point(y: Tensor) -> Tensor:
        if world(name) == "torus":
            return MANIFOLDS["torus"].project(y + 1.2345)
        return turn @ y if world(name) == "so3" else y @ turn.T

    def vector(v: Tensor) -> Tensor:
        return v @ turn.T if world(name) == "sphere" else v

    noise = point if name.startswith("geodesic") else vector
    x_t = process.interpolate(x, z, t)
    moved = process.interpolate(point(x), noise(z), t)
    answer = tangents(name, x_t)
    ends = process.endpoints(answer, x_t, t)
    there = process.endpoints(vector(answer), point(x_t), t)
    return max(float((moved - point(x_t)).abs().max()) % (2 * math.pi), gap(name, there.x, point(ends.x)))


LAWS = {str(i): law for i, law in enumerate((law_1, law_2, law_3, law_4, law_5, law_6, law_7), 1)}


@lru_cache(maxsize=1)
def worst_errors() -> dict[str, dict[str, float]]:
    """Process -> law -> worst error found."""
    return {name: {number: law(name) for number, law in LAWS.items()} for name in PROCESSES}


@lru_cache(maxsize=4)
def score_table(name: str) -> dict[float, dict[str, float]]:
    """eps -> place of the angle -> worst relative error of the score against autograd of the log-density."""
    kernel, table = KERNELS[name], {}
    places = {
        "1e-6": torch.tensor([1e-6], dtype=F64),
        "1e-3": torch.tensor([1e-3], dtype=F64),
        "0.1 to 3.1": torch.linspace(0.1, 3.1, 61, dtype=F64),
        "pi - 1e-3": torch.tensor([math.pi - 1e-3], dtype=F64),
        "pi - 1e-6": torch.tensor([math.pi - 1e-6], dtype=F64),
    }
    for eps in (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.5, 0.69, 0.71, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0):
        row = {}
        for place, angles in places.items():
            a = angles.clone().requires_grad_()
            e = torch.full_like(a, eps).detach()
            (wanted,) = torch.autograd.grad(kernel.log_density(a, e).sum(), a)
            row[place] = float(((kernel.score(a.detach(), e) - wanted).abs() / wanted.abs().clamp_min(1e-250)).max())
        table[eps] = row
    return table


def igso3_score_table() -> dict[float, dict[str, float]]:
    """The :func:`score_table` of IGSO(3)."""
    return score_table("so3")
