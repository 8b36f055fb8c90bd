"""A denoiser is a network and a process: shown x_t and t, it guesses both endpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from sfumato.diffusion.process import Process


class Guess(Protocol):
    """Anything that guesses endpoints: a :class:`Denoiser`, a guided one, an exact one."""

    @property
    def process(self) -> Any:
        """The process whose endpoints are guessed."""

    def __call__(self, x_t: Any, t: Tensor, s: Tensor | None = None, **condition: Any) -> Any:
        """Endpoints(x, z), both shaped like x_t."""


@dataclass(frozen=True)
class Denoiser:
    """Network + process.

    Args:
        network: ``network(shown, level, **condition)`` -> answer; with a second time, ``network(shown, level, level_s,
            **condition)``. It knows nothing of schedules and solvers.
        process: what the answer means.
    """

    network: Callable[..., Any]
    process: Process

    def answer(self, x_t: Any, t: Tensor, s: Tensor | None = None, **condition: Any) -> Any:
        """The network's bare answer at x_t (B, ...), time t (), (B,) or (B, L), and arrival time s for flow maps."""
        shown, level = self.process.precondition(x_t, t)
        if s is None:
            return self.network(shown, level, **condition)
        return self.network(shown, level, self.process.precondition(x_t, s)[1], **condition)

    def __call__(self, x_t: Any, t: Tensor, s: Tensor | None = None, **condition: Any) -> Any:
        """Guess both endpoints: (x, z), each shaped like x_t."""
        return self.process.endpoints(self.answer(x_t, t, s, **condition), x_t, t)
