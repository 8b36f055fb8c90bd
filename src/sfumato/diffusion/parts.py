"""A solver for products that walks each part by its own: ab2 for a position, Euler for the tokens beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.process import States
from sfumato.diffusion.product import Product
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.sample import Euler, Solver
from sfumato.diffusion.tree import Tree


@dataclass(frozen=True)
class AskedOnce:
    """The guess of one part: the product was asked once, and only what was asked then can be answered."""

    process: Any
    ends: Endpoints
    x_t: Tree
    t: Tree
    who: str

    def given(self, **condition: Tree) -> Tree:
        return condition

    def __call__(self, x_t: Tree, t: Tree, s: Tree | None = None, **beside: Any) -> Endpoints:
        if x_t is not self.x_t or t is not self.t or s is not None:
            raise ValueError(
                f"{self.who} asks for a second guess within its step, which a product cannot give for one part alone: use a "
                "solver of one call a step, such as Euler(), dpmpp_2m() or ab(2)"
            )
        return self.ends


@dataclass(frozen=True)
class Parts(Solver):
    """Each part of a product by its own solver, all of them told one and the same guess at (x_t, t).

        walk(denoiser, z, times, Parts({"states": Euler(), "values": dpmpp_2m()}))

    Args:
        solvers: part -> its solver; :class:`~sfumato.diffusion.sample.Euler` for parts that are left out. A nested product
            takes Parts again.

    Raises:
        ValueError: when walking: a solver of no part, one that does not walk its part's world, or one that asks for guesses
            within its step (heun, unipc, ab of order 3 and 4 at its start).
    """

    solvers: Mapping[str, Solver]
    states: ClassVar[tuple[States, ...]] = ("parts",)

    @property
    def order(self) -> int:
        return min([solver.order for solver in self.solvers.values()], default=1)

    def of(self, product: Product) -> dict[str, Solver]:
        """The solver of each part, found to walk its world."""
        moving = product.moving()
        if unknown := [name for name in self.solvers if name not in moving]:
            raise ValueError(
                f"a solver for {', '.join(map(repr, unknown))}: the parts that move are {', '.join(moving)}"
            )
        chosen = {name: self.solvers.get(name, Euler()) for name in moving}
        for name, solver in chosen.items():
            if moving[name].states not in solver.states:
                raise ValueError(
                    f"part {name!r}: {type(solver).__name__} walks {' and '.join(solver.states)}, not {moving[name].states}"
                )
        return chosen

    def prepare(self, times: Any) -> dict[str, Any]:
        def own(name: str) -> Any:
            return times if isinstance(times, Tensor) else [t[name] if isinstance(t, Mapping) else t for t in times]

        return {name: solver.prepare(own(name)) for name, solver in self.solvers.items()}

    def step(self, guess: Guess, x_t: Tree, t: Tree, s: Tree, memory: Any, rng: Rng) -> tuple[Tree, Any]:
        product: Product = guess.process
        solvers, ends, x_s, kept = self.of(product), guess(x_t, t), {}, {}
        for name, process in product.parts:
            if name not in solvers:
                x_s[name] = x_t[name]
                continue
            here, there = ((u[name] if isinstance(u, Mapping) else u) for u in (t, s))
            told = AskedOnce(
                process, Endpoints(ends.x[name], ends.z[name]), x_t[name], here, type(solvers[name]).__name__
            )
            x_s[name], kept[name] = solvers[name].step(told, x_t[name], here, there, memory.get(name), rng)
        return x_s, kept
