r"""Curved worlds: angles, rotations, directions. Points, tangent vectors, and the two maps between them.

    exp(x, v)   walk from x along the geodesic that leaves with velocity v, for one unit of time
    log(x, y)   the shortest v with exp(x, v) == y

Angles are taken by atan2 of a sine and a cosine, never by acos, and quotients like sin(a) / a as functions of a^2, so
values and gradients are right at 0 and up to pi (both are where acos has no derivative).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.diffusion.rng import Rng, normal_like, uniform_like


class Manifold(Protocol):
    """What a curved world must offer. Points are (B, ..., *point), tangent vectors (B, ..., *tangent)."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The point reached from x with velocity v."""

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector at x that leads to y."""

    def velocity(self, x: Tensor, v: Tensor, f: Tensor | float = 1.0) -> Tensor:
        """Velocity at the point exp(x, f v) of the geodesic that left x with velocity v: v, carried along.

        At f = 1 its opposite leads back to x, and is well conditioned where log is not (near pi).
        """

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The part of v that is tangent at x."""

    def length(self, v: Tensor) -> Tensor:
        """Length of tangent vectors, with the reduced axis kept; on the torus each angle has its own."""

    def project(self, x: Tensor) -> Tensor:
        """The point of the manifold next to x, which is off by rounding."""

    def uniform(self, x: Tensor, rng: Rng = None) -> Tensor:
        """Uniform points, shaped like x."""

    def origin(self, v: Tensor) -> Tensor:
        """A fixed point for each of the tangent vectors v."""

    def like_tangent(self, x: Tensor) -> Tensor:
        """A tensor of the shape and type of tangent vectors at x; its values mean nothing."""

    def reach(self, v: Tensor) -> float:
        """The length just below the injectivity radius pi up to which ``log(x, exp(x, v)) == v`` is well conditioned."""


def _sinc(square: Tensor) -> Tensor:
    """sin(a) / a as a function of a^2."""
    small = square < 1e-2
    a = torch.where(small, torch.ones_like(square), square).sqrt()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    return torch.where(small, series, a.sin() / a)


def _cos(square: Tensor) -> Tensor:
    """cos(a) as a function of a^2."""
    small = square < 1e-2
    a = torch.where(small, torch.ones_like(square), square).sqrt()
    series = 1 - square / 2 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56 * (1 - square / 90))))
    return torch.where(small, series, a.cos())


def angle_of_sides(sine: Tensor, cosine: Tensor) -> Tensor:
    """atan2 for a sine that is not negative. torch's own differs in the last digit alone and in a batch."""
    steep = sine > cosine.abs()
    ratio = torch.where(steep, cosine, sine) / torch.where(steep, sine, torch.where(cosine == 0, 1.0, cosine))
    bent = ratio.atan()
    return torch.where(steep, math.pi / 2 - bent, torch.where(cosine < 0, math.pi + bent, bent))


def _angle_by_sine(square: Tensor, cosine: Tensor) -> Tensor:
    """a / sin(a) as a function of sin(a)^2 and cos(a), for a in [0, pi)."""
    small = (square < 1e-3) & (cosine > 0)
    s = torch.where(small, torch.ones_like(square), square.clamp_min(torch.finfo(square.dtype).tiny)).sqrt()
    coefficients = (1.0, 1 / 6, 3 / 40, 5 / 112, 35 / 1152, 63 / 2816, 231 / 13312)
    series = torch.full_like(square, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        series = series * square + c
    return torch.where(small, series, angle_of_sides(s, cosine) / s)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def safe_norm(v: Tensor) -> Tensor:
    """Length along the last axis, kept, whose gradient at 0 is 0."""
    square = _dot(v, v)
    zero = square == 0
    return torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).sqrt())


@dataclass(frozen=True)
class Torus:
    """Angles in [-pi, pi), (B, ..., D): D circles. Tangent vectors are angles too."""

    def project(self, x: Tensor) -> Tensor:
        turned = x - 2 * math.pi * torch.floor((x + math.pi) / (2 * math.pi))  # leaves angles in range untouched
        turned = torch.where(turned >= math.pi, turned - 2 * math.pi, turned)
        return torch.where(turned < -math.pi, turned + 2 * math.pi, turned)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.project(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.project(y - x)

    def velocity(self, x: Tensor, v: Tensor, f: Tensor | float = 1.0) -> Tensor:
        return v

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def length(self, v: Tensor) -> Tensor:
        return v.abs()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of the shortest way, (B, ...)."""
        return safe_norm(self.log(x, y))[..., 0]

    def uniform(self, x: Tensor, rng: Rng = None) -> Tensor:
        return self.project((2 * math.pi * uniform_like(x, rng) - math.pi).to(x.dtype))

    def origin(self, v: Tensor) -> Tensor:
        return torch.zeros_like(v)

    def like_tangent(self, x: Tensor) -> Tensor:
        return x

    def reach(self, v: Tensor) -> float:
        return math.pi - math.sqrt(torch.finfo(v.dtype).eps)


def quaternion(rotation: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4), the real part first and not negative.

    4 q q^T is linear in the matrix; the row with the largest diagonal is q times a number of at least 1 in size, so
    nothing is divided by a small number anywhere (Shepperd 1978).
    """
    r = [[rotation[..., i, j] for j in range(3)] for i in range(3)]
    x, y, z = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    xy, xz, yz = r[1][0] + r[0][1], r[0][2] + r[2][0], r[2][1] + r[1][2]
    rows = torch.stack(
        [
            torch.stack([1 + r[0][0] + r[1][1] + r[2][2], x, y, z], -1),
            torch.stack([x, 1 + r[0][0] - r[1][1] - r[2][2], xy, xz], -1),
            torch.stack([y, xy, 1 - r[0][0] + r[1][1] - r[2][2], yz], -1),
            torch.stack([z, xz, yz, 1 - r[0][0] - r[1][1] + r[2][2]], -1),
        ],
        -2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*rows.shape[:-2], 1, 4)
    row = rows.gather(-2, best)[..., 0, :]
    q = row / row.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def _rotation(q: Tensor) -> Tensor:
    """Unit quaternions (..., 4) -> rotation matrices (..., 3, 3)."""
    w, x, y, z = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@dataclass(frozen=True)
class SO3:
    """Rotation matrices (B, ..., 3, 3). Tangent vectors are rotation vectors in the body's frame, (B, ..., 3), so
    exp(R, v) = R Exp(v), log(R, Q) = Log(R^T Q), and everything commutes with multiplication from the left."""

    def project(self, x: Tensor) -> Tensor:
        # one Newton step of the polar decomposition: an error e in orthonormality becomes about e^2
        return 1.5 * x - 0.5 * x @ (x.transpose(-1, -2) @ x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        half = _dot(v, v) / 4
        turn = torch.cat([_cos(half), _sinc(half) * v / 2], -1)
        return self.project(x @ _rotation(turn))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        q = quaternion(x.transpose(-1, -2) @ y)
        w, u = q[..., :1], q[..., 1:]
        return 2 * _angle_by_sine(_dot(u, u), w) * u

    def velocity(self, x: Tensor, v: Tensor, f: Tensor | float = 1.0) -> Tensor:
        return v

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def length(self, v: Tensor) -> Tensor:
        return safe_norm(v)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Angle between orientations, (B, ...)."""
        return safe_norm(self.log(x, y))[..., 0]

    def uniform(self, x: Tensor, rng: Rng = None) -> Tensor:
        four = normal_like(x.new_empty((*x.shape[:-2], 4)), rng)
        return _rotation(four / four.norm(dim=-1, keepdim=True)).to(x.dtype)

    def origin(self, v: Tensor) -> Tensor:
        return torch.eye(3, dtype=v.dtype, device=v.device).expand(*v.shape[:-1], 3, 3)

    def like_tangent(self, x: Tensor) -> Tensor:
        return x[..., 0]

    def reach(self, v: Tensor) -> float:
        return math.pi - math.sqrt(torch.finfo(v.dtype).eps)


@dataclass(frozen=True)
class Sphere:
    """Unit vectors (B, ..., n). Tangent vectors at x are the ambient vectors orthogonal to x."""

    def project(self, x: Tensor) -> Tensor:
        length: Tensor = x.norm(dim=-1, keepdim=True)
        return x / length

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        square = _dot(v, v)
        return self.project(_cos(square) * x + _sinc(square) * v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = _dot(x, y)
        u = y - cosine * x
        u = u - _dot(u, x) * x  # the first projection is off by rounding, which near pi is as large as u
        # opposite points: every direction is right, one is taken
        axis = torch.zeros_like(x).scatter(-1, x.abs().argmin(-1, keepdim=True), 1.0)
        lost = (_dot(u, u) < (8 * torch.finfo(x.dtype).tiny)) & (cosine < 0)
        any_way = self.project(axis - _dot(axis, x) * x) * torch.finfo(x.dtype).eps
        u = torch.where(lost, any_way, u)
        return _angle_by_sine(_dot(u, u), cosine) * u

    def velocity(self, x: Tensor, v: Tensor, f: Tensor | float = 1.0) -> Tensor:
        square = _dot(v, v)
        return _cos(f * f * square) * v - f * square * _sinc(f * f * square) * x

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - _dot(v, x) * x

    def length(self, v: Tensor) -> Tensor:
        return safe_norm(v)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Angle between directions, (B, ...)."""
        return safe_norm(self.log(x, y))[..., 0]

    def uniform(self, x: Tensor, rng: Rng = None) -> Tensor:
        return self.project(normal_like(x, rng)).to(x.dtype)

    def origin(self, v: Tensor) -> Tensor:
        return torch.zeros_like(v).index_fill(-1, torch.tensor([v.shape[-1] - 1], device=v.device), 1.0)

    def like_tangent(self, x: Tensor) -> Tensor:
        return x

    def reach(self, v: Tensor) -> float:
        # the direction of log loses 1 / (pi - length) digits here; in the other two worlds only its sign is at stake
        return math.pi - math.sqrt(math.sqrt(torch.finfo(v.dtype).eps))


def shorten(manifold: Manifold, v: Tensor) -> Tensor:
    """Tangent vectors no longer than the injectivity radius allows; on the torus each angle by itself."""
    length = manifold.length(v)
    reach = manifold.reach(v)
    return v * (reach / length.clamp_min(reach))
