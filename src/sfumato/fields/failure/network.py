"""The network of disturbances: it is told the level of robustness as a vector of one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from sfumato.networks import MLP, DiT

if TYPE_CHECKING:
    from sfumato.fields.failure.facts import FailureFacts
    from sfumato.fields.failure.options import FailureNetwork

FLAT = 256
"""Numbers of a disturbance up to which it is taken as one vector."""


class Along(nn.Module):
    """A transformer along the steps of a disturbance that lies flat: x (B, steps * channels)."""

    def __init__(self, *, steps: int, channels: int, width: int = 128, depth: int = 4, vectors: int = 1) -> None:
        super().__init__()
        self.options = {
            "kind": "along", "steps": steps, "channels": channels, "width": width, "depth": depth, "vectors": vectors,
        }  # fmt: skip
        self.shape = (steps, channels)
        self.body = DiT(channels=channels, dims=1, width=width, depth=depth, patch=1, vectors=vectors)

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, vector: Tensor | None = None
    ) -> Tensor:
        """x (B, steps * channels), level (B,), vector (B, 1) -> (B, steps * channels)."""
        answer: Tensor = self.body(x.unflatten(1, self.shape), level, level_s, vector=vector)
        return answer.flatten(1)


def built(options: FailureNetwork, facts: FailureFacts) -> nn.Module:
    """The network for a system."""
    steps = facts.shape[0] if len(facts.shape) == 2 else 1
    kind = options.kind if options.kind != "auto" else "dit" if facts.n > FLAT and steps > 1 else "mlp"
    if kind == "mlp":
        wide = options.width or (64 if facts.n <= 8 else 256)
        return MLP(dim=facts.n, width=wide, depth=options.depth or 3, vectors=1)
    channels = facts.shape[-1] if len(facts.shape) == 2 else 1
    return Along(steps=facts.n // channels, channels=channels, width=options.width or 128, depth=options.depth or 4)
