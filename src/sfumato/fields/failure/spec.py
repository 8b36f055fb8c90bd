"""How a simulator is named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """How a simulator is named and what it is given; the part of a recipe's options that is about it."""

    simulator: str
    shape: tuple[int, ...] | None = None
    law: tuple[str, ...] = ()
    single: bool = False
    symmetry: str = "none"
    controller: str | None = None
    where: str = "obs"
    noise: float = 0.05
    hold: int = 10
    horizon: int = 400
