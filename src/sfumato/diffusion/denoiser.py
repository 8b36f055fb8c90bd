"""A denoiser is a network and a process: shown x_t and t, it guesses both endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sfumato.diffusion.paths import Endpoints
from sfumato.diffusion.process import Process
from sfumato.diffusion.tree import Tree


class Guess(Protocol):
    """Anything that guesses endpoints: a :class:`Denoiser`, a guided one, an exact one."""

    @property
    def process(self) -> Any:
        """The process whose endpoints are guessed."""

    def given(self, **condition: Tree) -> Tree:
        """All that depends on the conditions alone, rows first: worked out once a walk and handed to every call."""

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any
    ) -> Endpoints:
        """Endpoints(x, z), both shaped like x_t. Without ``given`` it is worked out here from the conditions, which is
        right and only slower; with it, keywords are what stands beside the conditions (``previous``, ``guidance``)."""


@dataclass(frozen=True)
class Denoiser:
    """Network + process.

    Args:
        network: ``network(shown, level, **condition)`` -> answer; with a second time, ``network(shown, level, level_s,
            **condition)``. It knows nothing of schedules and solvers. Where it has a method ``given(**condition) -> dict``
            (a text encoder, a trunk, an encoded pocket), it is called with what that returns instead of the conditions.
        process: what the answer means.
    """

    network: Callable[..., Any]
    process: Process

    def given(self, **condition: Tree) -> Tree:
        """What the network's own ``given`` makes of the conditions; the conditions themselves where it has none."""
        make = getattr(self.network, "given", None)
        return condition if make is None else make(**condition)

    def answer(self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any) -> Tree:
        """The network's bare answer at x_t (B, ...), time t (), (B,) or (B, L), and arrival time s for flow maps."""
        known = self.given(**condition) if given is None else {**given, **condition}
        shown, level = self.process.precondition(x_t, t)
        if s is None:
            return self.network(shown, level, **known)
        return self.network(shown, level, self.process.precondition(x_t, s)[1], **known)

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any
    ) -> Endpoints:
        """Guess both endpoints: (x, z), each shaped like x_t."""
        return self.process.endpoints(self.answer(x_t, t, s, given=given, **condition), x_t, t)
