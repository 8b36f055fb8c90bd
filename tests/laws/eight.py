"""The eight worlds (points on three manifolds each), with data, a network that was never trained, and what it is to lie
in the world."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import (
    SO3,
    Clean,
    Cosine,
    Denoiser,
    Equilibrium,
    Gaussian,
    Geodesic,
    Heat,
    Masked,
    OneHot,
    Product,
    Sphere,
    Torus,
    UniformTokens,
)
from sfumato.diffusion.manifold import Manifold
from sfumato.diffusion.process import Process
from sfumato.diffusion.schedule import VP
from sfumato.diffusion.tree import Tree
from tests.laws.worlds import F64, normal

ROWS, LENGTH, VOCAB = 3, 4, 5


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Tokens of the vocabulary."""
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def turned(answer: Tensor, level: Tensor) -> Tensor:
    """Any numbers of the shape of an answer (B, L, ...), bent by what the network is told of the noise, (B,) or (B, L)."""
    level = level.to(answer.dtype).reshape(level.shape + (1,) * (answer.ndim - level.ndim))
    return torch.sin(2 * answer + 0.3 * level + 0.7)


def tokens_answered(shown: Tensor, level: Tensor) -> Tensor:
    return 3 * turned(shown[..., None] * (1 + torch.arange(VOCAB, dtype=F64)) + shown.sum(1)[:, None, None], level)


@dataclass(frozen=True)
class World:
    """A process, data x of ``ROWS`` rows, the answers of an untrained network, and whether states lie in the world."""

    process: Process
    x: Tree
    answer: Callable[[Any, Any], Any]
    lies: Callable[[Any], bool]

    @property
    def denoiser(self) -> Denoiser:
        def network(shown: Any, level: Any, *arrival: Any, **condition: Any) -> Any:
            return self.answer(shown, level)

        return Denoiser(network, self.process)


def on_manifold(manifold: Manifold, process: type, *point: int) -> World:
    x = manifold.uniform(torch.empty(ROWS, LENGTH, *point, dtype=F64), torch.Generator().manual_seed(1))

    def answer(shown: Tensor, level: Tensor) -> Tensor:
        return turned(manifold.like_tangent(shown), level)

    return World(process(manifold), x, answer, lambda x: is_point(manifold, x))


def is_point(manifold: Manifold, x: Tensor) -> bool:
    """Rotations are rotations, unit vectors unit vectors, angles within a turn."""
    if isinstance(manifold, SO3):
        off = (x @ x.mT - torch.eye(3, dtype=x.dtype)).abs().max()
        return bool(off < 1e-9) and bool((torch.linalg.det(x) > 0).all())
    if isinstance(manifold, Sphere):
        return bool(((x.norm(dim=-1) - 1).abs() < 1e-12).all())
    return bool((x >= -math.pi).all() and (x <= math.pi).all())


def are_tokens(x: Tensor) -> bool:
    """Whole numbers of the vocabulary: no mask is left."""
    return x.dtype == torch.int64 and bool(((x >= 0) & (x < VOCAB)).all())


def are_vectors(x: Tensor) -> bool:
    return x.dtype == F64 and bool(x.isfinite().all()) and bool(x.abs().max() < 50)


def product() -> World:
    parts: dict[str, World] = {
        "place": World(Gaussian(VP()), normal(ROWS, LENGTH, 2), turned, are_vectors),
        "turn": on_manifold(SO3(), Heat, 3, 3),
        "text": World(Masked(VOCAB), numbers(ROWS, LENGTH), tokens_answered, are_tokens),
    }
    label = torch.arange(ROWS)
    process = Product(
        place=parts["place"].process,
        inner=Product(turn=parts["turn"].process, text=parts["text"].process),
        label=Clean(),
    )

    def answer(shown: Any, level: Any) -> Any:
        inner = {name: parts[name].answer(shown["inner"][name], level["inner"][name]) for name in ("turn", "text")}
        return {
            "place": turned(shown["place"] + shown["label"].double()[:, None, None], level["place"]),
            "inner": inner,
        }

    def lies(x: Any) -> bool:
        inside = {**x["inner"], "place": x["place"]}
        return torch.equal(x["label"], label) and all(parts[name].lies(value) for name, value in inside.items())

    x = {"place": parts["place"].x, "inner": {n: parts[n].x for n in ("turn", "text")}, "label": label}
    return World(process, x, answer, lies)


VECTORS: dict[str, World] = {
    "gaussian": World(Gaussian(VP()), normal(ROWS, LENGTH, 2), turned, are_vectors),
    "one_hot": World(OneHot(VOCAB, Cosine()), numbers(ROWS, LENGTH), turned, are_vectors),
    "equilibrium": World(Equilibrium(), normal(ROWS, LENGTH, 2), turned, are_vectors),
}
TOKENS: dict[str, World] = {
    "masked": World(Masked(VOCAB), numbers(ROWS, LENGTH), tokens_answered, are_tokens),
    "uniform_tokens": World(UniformTokens(VOCAB), numbers(ROWS, LENGTH), tokens_answered, are_tokens),
}
POINTS: dict[str, World] = {
    f"{process.__name__.lower()}_{type(manifold).__name__.lower()}": on_manifold(manifold, process, *point)
    for process in (Geodesic, Heat)
    for manifold, point in ((Torus(), ()), (SO3(), (3, 3)), (Sphere(), (3,)))
}
WORLDS: dict[str, World] = {**VECTORS, **TOKENS, **POINTS, "product": product()}
