"""How chunks are learned: by diffusion, or by cloning as its baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sfumato.jobs.methods import MethodOptions

if TYPE_CHECKING:
    from sfumato.diffusion import Equilibrium, Gaussian
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.times import Times

Levels = Literal["one", "each"]
LEAST = 0.05
"""Share of the times at pure noise, at least: policies are walked in few steps."""


@dataclass(frozen=True)
class ChunkMethod:
    """The options of the method, and what is particular to chunks: times that cover the start of every walk, a noise level
    for each action if ``levels`` says so, and behaviour cloning instead of it all."""

    options: MethodOptions
    levels: Levels = "one"
    cloning: bool = False

    def build(self) -> Gaussian | Equilibrium:
        """The process."""
        if self.cloning:
            from sfumato.fields.policy.cloning import Regression

            return Regression()
        return self.options.build()

    def distribution(self) -> Times:
        """The distribution of training times."""
        from sfumato.diffusion import Covered, Ramp

        times = replace(self.options, cover=0.0).distribution()
        # adaptive ones learn where to look
        own = times if self.options.times == "adaptive" else Covered(times, max(self.options.cover or 0.0, LEAST))
        return Ramp(own) if self.levels == "each" else own

    def dealt(self) -> Coupling:
        """Which noise goes with which chunk."""
        return self.options.dealt()

    def learns_weights(self) -> bool:
        """Whether the weight of each noise level is learned."""
        return self.options.learns_weights()

    def words(self) -> str:
        """One line about the method."""
        if self.cloning:
            return "behaviour cloning: the mean of what was demonstrated"
        return self.options.words() + (", each action with its own noise level" if self.levels == "each" else "")
