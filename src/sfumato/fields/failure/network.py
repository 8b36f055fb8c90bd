"""The network of disturbances: it is told the level of robustness as a vector of one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks import DiT
from sfumato.networks.mlp import Residual
from sfumato.networks.parts import Condition, no_autocast, zero_

if TYPE_CHECKING:
    from sfumato.fields.failure.facts import FailureFacts
    from sfumato.fields.failure.options import FailureNetwork

FLAT = 256
"""Numbers of a disturbance up to which it is taken as one vector."""


TOLD = 64
"""Width of what modulates the blocks: of two numbers, noise and level, a wider one is worked out for each row at much cost."""


class Disturbances(nn.Module):
    """Residual network on disturbances as vectors, x (B, dim); its answer is 0 before training."""

    units = ("Residual",)

    def __init__(self, *, dim: int, width: int = 128, depth: int = 2, vectors: int = 1) -> None:
        super().__init__()
        self.options = {"kind": "flat", "dim": dim, "width": width, "depth": depth, "vectors": vectors}
        self.condition = Condition(TOLD, vectors=vectors)
        self.enter = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(Residual(width, TOLD) for _ in range(depth))
        self.head = nn.Linear(width, dim)
        zero_(self.head)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        level_s: Tensor | None = None,
        *,
        vector: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """x (B, dim), level (B,), vector (B, 1): the level of robustness -> (B, dim)."""
        return self.body(x, self.condition(level, level_s, None, guidance, vector, None))

    def body(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, dim) and what modulates the blocks, (B, 64), or (1, 64) for all rows -> (B, dim)."""
        told, h = F.silu(condition), self.enter(x)
        for block in self.blocks:
            h = block(h, told)
        with no_autocast(h):
            answer: Tensor = self.head(h.to(self.head.weight.dtype)).to(x.dtype)
        return answer


class Along(nn.Module):
    """A transformer along the steps of a disturbance that lies flat: x (B, steps * channels)."""

    def __init__(self, *, steps: int, channels: int, width: int = 128, depth: int = 4, vectors: int = 1) -> None:
        super().__init__()
        self.options = {
            "kind": "along", "steps": steps, "channels": channels, "width": width, "depth": depth, "vectors": vectors,
        }  # fmt: skip
        self.shape = (steps, channels)
        self.along = DiT(channels=channels, dims=1, width=width, depth=depth, patch=1, vectors=vectors)

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, vector: Tensor | None = None
    ) -> Tensor:
        """x (B, steps * channels), level (B,), vector (B, 1) -> (B, steps * channels)."""
        answer: Tensor = self.along(x.unflatten(1, self.shape), level, level_s, vector=vector)
        return answer.flatten(1)


def built(options: FailureNetwork, facts: FailureFacts) -> nn.Module:
    """The network for a system."""
    steps = facts.shape[0] if len(facts.shape) == 2 else 1
    kind = options.kind if options.kind != "auto" else "along" if facts.n > FLAT and steps > 1 else "flat"
    if kind == "flat":
        wide = options.width or (64 if facts.n <= 8 else 128)
        return Disturbances(dim=facts.n, width=wide, depth=options.depth or 2)
    channels = facts.shape[-1] if len(facts.shape) == 2 else 1
    return Along(steps=facts.n // channels, channels=channels, width=options.width or 128, depth=options.depth or 4)
