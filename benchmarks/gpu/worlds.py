"""What equality is tried on: one small case of every process and of every network, made on the CPU from fixed numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import networks
from sfumato.diffusion import (
    EDM,
    SO3,
    VE,
    VP,
    Clean,
    Cosine,
    Equilibrium,
    Gaussian,
    Geodesic,
    Heat,
    Linear,
    LogLinear,
    Masked,
    OneHot,
    Product,
    Schedule,
    Shifted,
    Sigmoid,
    Sphere,
    Table,
    Torus,
    UniformTokens,
    ZeroTerminal,
    uniform,
)
from sfumato.fields.policy.network import ChunkNetwork

ROWS, LENGTH, VOCAB = 8, 6, 5
SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(),
    "cosine": Cosine(0.008),
    "vp": VP(),
    "ve": VE(),
    "edm": EDM(),
    "loglinear": LogLinear(),
    "sigmoid": Sigmoid(),
    "table": Table(tuple(torch.linspace(1e-4, 0.02, 100, dtype=torch.float64).tolist())),
    "shifted": Shifted(Linear(), 3.0),
    "zero terminal": ZeroTerminal(VP()),
}


class Small(nn.Module):
    """A two-layer network on everything of a row and its level: points, or tokens as one-hot vectors."""

    def __init__(self, inside: int, shape: tuple[int, ...], vocab: int = 0):
        super().__init__()
        self.shape, self.vocab = shape, vocab
        self.inner = nn.Linear(inside + 2, 32)
        self.outer = nn.Linear(32, math.prod(shape))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, ...), (B,) -> (B, *shape)."""
        rows = nn.functional.one_hot(x, self.vocab).float() if self.vocab else x
        told = torch.stack([(level / 4).sin(), (level / 4).cos()], -1)
        h = torch.cat([rows.flatten(1).float(), told.flatten(1)], 1)
        answer: Tensor = self.outer(nn.functional.silu(self.inner(h))).unflatten(1, self.shape)
        return answer


class Parts(nn.Module):
    """A small network for each moving part of a product."""

    def __init__(self, parts: Mapping[str, nn.Module]):
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Mapping[str, Tensor], levels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: part(x[name], levels[name]) for name, part in self.parts.items()}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens() -> Tensor:
    return torch.randint(VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


def angles() -> Tensor:
    return Torus().project(2 * normal(ROWS, 3))


def rotations() -> Tensor:
    return SO3().exp(torch.eye(3).expand(ROWS, 2, 3, 3), normal(ROWS, 2, 3))


def directions() -> Tensor:
    return Sphere().project(normal(ROWS, 2, 3))


@dataclass(frozen=True)
class World:
    """A process, data for it (ROWS, ...), and the network that answers."""

    process: Any
    data: Callable[[], Any]
    network: Callable[[], nn.Module]
    eta: float = 0.0
    times: Callable[[], Tensor] = lambda: uniform(Linear(), 6)


def _numbers() -> Small:
    return Small(3 * 4 * 4, (3, 4, 4))


def _pictures() -> Tensor:
    return normal(ROWS, 3, 4, 4)


WORLDS: dict[str, World] = {
    "Gaussian, velocity": World(Gaussian(Linear(), "velocity"), _pictures, _numbers),
    "Gaussian, data, fresh noise": World(Gaussian(Linear(), "data", "velocity"), _pictures, _numbers, 1.0),
    "Gaussian, noise on VP": World(Gaussian(VP(), "noise"), _pictures, _numbers, 0.5),
    "Gaussian, v on EDM": World(Gaussian(EDM(), "v"), _pictures, _numbers),
    "Gaussian, score on VE": World(Gaussian(VE(), "score"), _pictures, _numbers),
    "Masked": World(Masked(VOCAB), tokens, lambda: Small(LENGTH * (VOCAB + 1), (LENGTH, VOCAB), VOCAB + 1)),
    "UniformTokens": World(UniformTokens(VOCAB), tokens, lambda: Small(LENGTH * VOCAB, (LENGTH, VOCAB), VOCAB)),
    "OneHot": World(OneHot(VOCAB), tokens, lambda: Small(LENGTH * VOCAB, (LENGTH, VOCAB))),
    "Geodesic(Torus)": World(Geodesic(Torus()), angles, lambda: Small(3, (3,))),
    "Geodesic(SO3)": World(Geodesic(SO3()), rotations, lambda: Small(18, (2, 3))),
    "Geodesic(Sphere)": World(Geodesic(Sphere()), directions, lambda: Small(6, (2, 3))),
    "Heat(Torus)": World(Heat(Torus()), angles, lambda: Small(3, (3,)), 1.0),
    "Heat(SO3)": World(Heat(SO3()), rotations, lambda: Small(18, (2, 3)), 1.0),
    "Heat(Sphere)": World(Heat(Sphere()), directions, lambda: Small(6, (2, 3)), 1.0),
    "Product": World(
        Product(
            place=Gaussian(Linear(), "data", "velocity"),
            angle=Geodesic(Torus()),
            turn=Geodesic(SO3()),
            token=Masked(VOCAB),
            label=Clean(),
        ),
        lambda: {
            "place": normal(ROWS, 4),
            "angle": angles(),
            "turn": rotations(),
            "token": tokens(),
            "label": torch.arange(ROWS),
        },
        lambda: Parts(
            {
                "place": Small(4, (4,)),
                "angle": Small(3, (3,)),
                "turn": Small(18, (2, 3)),
                "token": Small(LENGTH * (VOCAB + 1), (LENGTH, VOCAB), VOCAB + 1),
            }
        ),
    ),
    "Equilibrium": World(Equilibrium(), _pictures, _numbers),
}


@dataclass(frozen=True)
class Net:
    """A network, the shape of its input, and what else it is given."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    condition: Callable[[], dict[str, Tensor]] = dict
    given: Mapping[str, Any] = field(default_factory=dict)
    level: tuple[int, ...] = ()
    """Shape of a row's level."""

    def made(self) -> nn.Module:
        """With weights that are nowhere zero: fresh networks answer zero, and zero is equal to zero."""
        torch.manual_seed(0)
        network = self.build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return network.eval()


def _labels() -> dict[str, Tensor]:
    return {"label": torch.tensor([0, 1, 2, -1])}


NETWORKS: dict[str, Net] = {
    "MLP": Net(lambda: networks.MLP(dim=7, width=64, depth=2, classes=3), (7,), _labels),
    "UNet": Net(
        lambda: networks.UNet(channels=3, width=32, depth=1, multipliers=(1, 2), classes=3), (3, 16, 16), _labels
    ),
    "DiT, pictures": Net(lambda: networks.DiT(channels=3, width=64, depth=4, patch=4, classes=3), (3, 16, 16), _labels),
    "DiT, sequence with context": Net(
        lambda: networks.DiT(channels=5, dims=1, width=64, depth=2, patch=1, context_dim=8),
        (12, 5),
        lambda: {"context": normal(4, 6, 8, seed=2), "context_mask": torch.arange(6) < torch.tensor([[6], [3], [1], [0]])},
        level=(12,),
    ),
    "DiT, clip": Net(
        lambda: networks.DiT(channels=2, dims=3, width=64, depth=2, patch=4), (3, 2, 8, 8), level=(3,)
    ),
    "DiT, loops": Net(
        lambda: networks.DiT(channels=3, width=64, depth=3, patch=4, loops=(1, 3)), (3, 16, 16), given={"loops": 2}
    ),
    "DiT, routing": Net(
        lambda: networks.DiT(channels=3, width=64, depth=4, patch=4, routing=0.5),
        (3, 16, 16),
        lambda: {"routing_order": torch.rand(4, 16, generator=torch.Generator().manual_seed(3))},
        given={"route": True},
    ),
    "ChunkNetwork, mlp": Net(
        lambda: ChunkNetwork(dim=2, horizon=8, state=3, body="mlp", width=64, depth=2),
        (8, 2),
        lambda: {"state": normal(4, 2, 3, seed=4)},
    ),
    "ChunkNetwork, transformer on pictures": Net(
        lambda: ChunkNetwork(dim=2, horizon=8, picture=(3, 32, 32), tasks=3, body="transformer", width=64, depth=2),
        (8, 2),
        lambda: {"picture": normal(4, 2, 1, 3, 32, 32, seed=5), "task": torch.tensor([0, 1, 2, -1])},
    ),
    "ChunkNetwork, unet": Net(
        lambda: ChunkNetwork(dim=2, horizon=8, state=3, body="unet", width=32, depth=2),
        (8, 2),
        lambda: {"state": normal(4, 2, 3, seed=4)},
    ),
}  # fmt: skip
