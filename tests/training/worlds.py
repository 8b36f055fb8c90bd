"""Every world with data of it, a small network that answers in its way, and what its states must look like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from sfumato.data import Items
from sfumato.diffusion import (
    SO3,
    Auto,
    Clean,
    Confidence,
    Descent,
    Equilibrium,
    FromNoise,
    Gaussian,
    Geodesic,
    Heat,
    Linear,
    Masked,
    OneHot,
    Product,
    Solver,
    Sphere,
    Torus,
    UniformTokens,
    ab,
    cosine,
    dpmpp_2m,
    euler,
    key,
    tree,
    uniform,
)
from sfumato.diffusion.process import Process
from sfumato.diffusion.tree import Tree
from sfumato.training.objective import Task

COUNT, CLASSES, VOCAB = 64, 3, 5


# ---- networks ----------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A multilayer perceptron from any tree to any other: the parts it is shown, their levels (once more for the times of
    arrival of a flow map), a label (-1 is none) and a guidance (B, 3) -> answers shaped like ``answers``, rows first."""

    units = ("Linear",)

    def __init__(self, shown: Tree, levels: Tree, answers: Tree, width: int = 32):
        super().__init__()
        self.answers = tree.each(lambda value: value[:1].clone(), answers)
        wide = sum(value[0].numel() for value in (*tree.leaves(shown), *tree.leaves(levels), *tree.leaves(levels)))
        outward = sum(value[0].numel() for value in tree.leaves(answers))
        self.inside = nn.Sequential(
            nn.Linear(wide + CLASSES + 4, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, outward),
        )

    def forward(
        self, shown: Tree, level: Tree, arrival: Tree | None = None, *, label: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tree:  # fmt: skip
        rows = tree.rows(shown)
        label = torch.full((rows,), -1) if label is None else label
        guidance = torch.zeros(rows, 3) if guidance is None else guidance
        seen = [*tree.leaves(shown), *tree.leaves(level), *tree.leaves(level if arrival is None else arrival)]
        known = [nn.functional.one_hot(label + 1, CLASSES + 1), guidance]
        parts = [
            value.reshape(rows, -1).to(self.inside[0].weight.dtype) / (8 if not value.is_floating_point() else 1)
            for value in (*seen, *known)
        ]
        answer = self.inside(torch.cat(parts, 1))
        pieces = iter(answer.split([value[0].numel() for value in tree.leaves(self.answers)], 1))
        return tree.each(lambda like: next(pieces).reshape(rows, *like.shape[1:]), self.answers)


def answers_of(process: Any, x: Tree) -> Tree:
    """Zeros shaped like the answers that a network owes this process about x (B, ...)."""
    if isinstance(process, Product):
        return {
            name: answers_of(part, x[name]) for name, part in process.processes.items() if not isinstance(part, Clean)
        }
    if isinstance(process, (Masked, UniformTokens, OneHot)):
        return torch.zeros(*x.shape, VOCAB)
    if isinstance(process, (Geodesic, Heat)):
        return process.manifold.like_tangent(x)
    return torch.zeros_like(x)


def small(process: Any, x: Tree, seed: int = 0, frames: int | None = None) -> Small:
    """A small network for a process and data like x (B, ...); ``frames``: how many times an item has, if more than one."""
    torch.manual_seed(key("weights", seed))
    z = process.prior(x, torch.Generator().manual_seed(0))
    t = torch.ones(tree.rows(x)) if frames is None else torch.ones(tree.rows(x), frames)
    shown, levels = process.precondition(process.start(z), t)
    return Small(shown, levels, answers_of(process, x))


# ---- worlds ------------------------------------------------------------------------------------------------------------


def vectors(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(COUNT, *shape, generator=rng) * 0.5 + 1


def tokens(rng: torch.Generator, length: int) -> Tensor:
    """Mostly small ones: nothing like what a token is by chance."""
    return torch.randint(0, VOCAB, (2, COUNT, length), generator=rng).min(0).values


def angles(rng: torch.Generator, count: int) -> Tensor:
    return Torus().exp(torch.full((COUNT, count), 3.0), 0.4 * torch.randn(COUNT, count, generator=rng))


def turns(rng: torch.Generator, count: int) -> Tensor:
    return SO3().exp(torch.eye(3).expand(COUNT, count, 3, 3), 0.4 * torch.randn(COUNT, count, 3, generator=rng))


def directions(rng: torch.Generator, count: int) -> Tensor:
    up = torch.tensor([0.0, 0.0, 1.0]).expand(COUNT, count, 3)
    return Sphere().exp(up, Sphere().tangent(up, 0.4 * torch.randn(COUNT, count, 3, generator=rng)))


@dataclass(frozen=True)
class World:
    """A process, data for it (COUNT, ...), and whether it has paths with a velocity; ``refused``: what is named if not."""

    process: Process
    data: Callable[[torch.Generator], Tree]
    refused: str = ""

    def x(self) -> Tree:
        return self.data(torch.Generator().manual_seed(0))

    def items(self, **more: Any) -> Items:
        """The data with labels."""
        return Items({"x": self.x(), "label": torch.arange(COUNT) % CLASSES, **more}, "items")

    def blank(self) -> Tree:
        """One item without rows, of which shapes and clean parts count."""
        return tree.each(lambda value: value[5], self.x())

    def task(self, **other: Any) -> Task:
        network = small(self.process, self.x())
        return Task(network, self.process, self.items(), **{"hidden": {("label",): 0.2}, **other})


def nested(rng: torch.Generator) -> dict[str, Tree]:
    inner = {"angles": angles(rng, 2), "turns": turns(rng, 1)}
    return {"place": vectors(rng, 3), "inner": inner, "mark": torch.arange(COUNT)[:, None] % 7}


def nested_tokens(rng: torch.Generator) -> dict[str, Tree]:
    inner = {"angles": angles(rng, 2), "words": tokens(rng, 4)}
    return {"place": vectors(rng, 3), "inner": inner, "mark": torch.arange(COUNT)[:, None] % 7}


PLACE = Gaussian(Linear(), "data", "velocity")
WORLDS: dict[str, World] = {
    "Gaussian": World(Gaussian(), lambda rng: vectors(rng, 4)),
    "Masked": World(Masked(VOCAB), lambda rng: tokens(rng, 6), "Masked"),
    "UniformTokens": World(UniformTokens(VOCAB), lambda rng: tokens(rng, 6), "UniformTokens"),
    "OneHot": World(OneHot(VOCAB), lambda rng: tokens(rng, 6)),
    "Geodesic Torus": World(Geodesic(Torus()), lambda rng: angles(rng, 3)),
    "Geodesic SO3": World(Geodesic(SO3()), lambda rng: turns(rng, 2)),
    "Geodesic Sphere": World(Geodesic(Sphere()), lambda rng: directions(rng, 1)),
    "Heat Torus": World(Heat(Torus()), lambda rng: angles(rng, 3), "Heat"),
    "Heat SO3": World(Heat(SO3()), lambda rng: turns(rng, 2), "Heat"),
    "Heat Sphere": World(Heat(Sphere()), lambda rng: directions(rng, 1), "Heat"),
    "Product": World(
        Product(place=PLACE, inner=Product(angles=Geodesic(Torus()), turns=Geodesic(SO3())), mark=Clean()), nested
    ),
    "Product with tokens": World(
        Product(place=PLACE, inner=Product(angles=Heat(Torus()), words=Masked(VOCAB)), mark=Clean()), nested_tokens,
        "part 'inner': part 'angles': Heat",
    ),
    "Equilibrium": World(Equilibrium(), lambda rng: vectors(rng, 4), "Equilibrium"),
}  # fmt: skip


# ---- what must hold ----------------------------------------------------------------------------------------------------


def strays(process: Any, x: Tree, where: str = "x") -> list[str]:
    """What about states x (B, ...) is not of this world: nothing, if all is well. Masks are none of the data's tokens."""
    if isinstance(process, Product):
        return [wrong for name, part in process.processes.items() for wrong in strays(part, x[name], f"{where}.{name}")]
    checks: dict[str, bool] = {}
    if isinstance(process, (Masked, UniformTokens)):
        checks["whole numbers"] = x.dtype == torch.int64
        checks["tokens of the vocabulary, none of them a mask"] = bool(((x >= 0) & (x < VOCAB)).all())
    elif isinstance(process, (Geodesic, Heat)):
        if isinstance(process.manifold, Torus):
            checks["angles from -pi to pi"] = bool((x.abs() <= math.pi + 1e-5).all())
        elif isinstance(process.manifold, SO3):
            checks["orthogonal"] = float((x.mT @ x - torch.eye(3)).abs().max()) < 1e-4
            checks["no mirror"] = float((torch.linalg.det(x) - 1).abs().max()) < 1e-4
        else:
            checks["unit vectors"] = float((x.norm(dim=-1) - 1).abs().max()) < 1e-5
    if x.is_floating_point():
        checks["finite"] = bool(x.isfinite().all())
    return [f"{where}: {what}" for what, held in checks.items() if not held]


def chances(process: Any, x: Tree) -> dict[str, float]:
    """Of states x (B, ...) at t = 1: how likely so large a departure from the law of the start is, in each part.

    Vectors are normal there, angles and tokens even; the angle w of an even rotation has the distribution function
    (w - sin w) / pi, and the height of an even direction is even. Masked tokens are all masked, clean parts anything.
    """
    if isinstance(process, Product):
        return {
            f"{name} {inner}": p
            for name, part in process.processes.items()
            if not isinstance(part, Clean)
            for inner, p in chances(part, x[name]).items()
        }
    if isinstance(process, Masked):
        return {"masks": float((x == process.mask_id).all())}
    if isinstance(process, UniformTokens):
        return {"tokens": float(stats.chisquare(np.bincount(x.flatten(), minlength=VOCAB)).pvalue)}
    if not isinstance(process, (Geodesic, Heat)):
        return {"vectors": float(stats.kstest(x.flatten(), "norm").pvalue)}
    if isinstance(process.manifold, Torus):
        return {"angles": float(stats.kstest(x.flatten() / (2 * math.pi) + 0.5, "uniform").pvalue)}
    if isinstance(process.manifold, Sphere):
        return {"heights": float(stats.kstest(x[..., 2].flatten() / 2 + 0.5, "uniform").pvalue)}
    w = ((x.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos().flatten().double()
    return {"angles of rotations": float(stats.kstest((w - w.sin()) / math.pi, "uniform").pvalue)}


def habit(process: Process, steps: int = 4, measured: Mapping[str, Any] | None = None) -> tuple[FromNoise, Solver]:
    """How samples of this process are usually drawn: where the walk stops, and by which solver. ``measured``: walk.json."""
    eta = process.habits.get("eta", 0.0)
    solvers: dict[str, Callable[[], Solver]] = {
        "euler": lambda: euler(eta), "dpmpp_2m": lambda: dpmpp_2m(eta), "ab2": lambda: ab(2), "confidence": Confidence,
        "descent": lambda: replace(Descent(), tol=1e-6, most=20),
    }  # fmt: skip
    grids: dict[str, Any] = {"cosine": cosine, "uniform": uniform, "auto": cosine}
    if process.habits.get("grid") == "auto" and measured is not None:
        grids["auto"] = Auto(tuple(measured["angles"]), tuple(measured["progress"]))
    solver = solvers[process.habits["solver"]]()
    grid = grids[process.habits.get("grid", "uniform")]
    return FromNoise(1 if solver.counts else steps, grid), solver
