"""What an autoencoder learns from. No torch is needed for the options.

The code of a picture x is drawn from q(z | x) = N(encode(x), spread^2), and the loss of a picture is

    |x - x'| + edges * (mean over scales of |grad x - grad x'|) + size * mean(code^2) / 2

with x' = decode(z). The last term is the divergence of q from a standard normal, which a fixed spread leaves but for a
constant (Kingma and Welling 2013, arXiv 1312.6114): it keeps codes from growing until the noise on them is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfumato.errors import check

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.diffusion import Denoiser
    from sfumato.diffusion.couplings import Coupling
    from sfumato.diffusion.rng import Rng
    from sfumato.diffusion.times import Times
    from sfumato.diffusion.tree import Tree

SCALES = 3
"""Sizes at which edges are compared: the picture's own, a half, a quarter."""


@dataclass(frozen=True)
class Reconstruction:
    """What is minimised."""

    edges: float = 1.0
    """Weight of the differences between neighbouring pixels, at three sizes."""
    size: float = 1e-3
    """Weight of the squares of the codes."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 <= self.edges < math.inf, "edges", "0 or more"),
            (0 < self.size < math.inf, "size", "above 0, or the codes grow until the noise on them is nothing"),
        )

    def distribution(self) -> Times:
        """Of no consequence: there is no time."""
        from sfumato.diffusion import Uniform

        return Uniform()

    def dealt(self) -> Coupling:
        """Every picture keeps its noise."""
        from sfumato.diffusion import independent

        return independent

    def learns_weights(self) -> bool:
        """No."""
        return False

    def words(self) -> str:
        """One line about the method."""
        return f"reconstruction, edges {self.edges:g}, size of the codes {self.size:g}"

    def criterion(
        self, denoiser: Denoiser, x: Tree, t: Tree, *, rng: Rng, z: Tree, weight: Tree | None, given: Tree,
        condition: Mapping[str, Tree],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The terms of the loss of pictures (B, C, H, W), each (B,)."""
        import torch

        from sfumato.diffusion.rng import normal_like

        network: Any = denoiser.network
        whole = network.network if hasattr(network, "network") else network
        blank = torch.empty(len(x), *whole.size(*x.shape[2:]), device=x.device)
        answer = network(x, normal_like(blank, rng))
        error = answer["x"] - x
        found = {
            "pixels": error.abs().flatten(1).mean(1),
            "size": self.size * answer["code"].square().flatten(1).mean(1) / 2,
        }
        if self.edges:
            found["edges"] = self.edges * edges(error)
        return found


def edges(error: Tensor, scales: int = SCALES) -> Tensor:
    """How different the edges are of pictures that differ by ``error`` (B, C, H, W): the mean size of the differences of
    neighbours, over both directions, at so many sizes, each half of the one before; (B,)."""
    import torch
    from torch.nn import functional as F

    found = []
    for scale in range(scales):
        if scale:
            if min(error.shape[2:]) < 4:
                break
            error = F.avg_pool2d(error, 2)
        down, right = error.diff(dim=2), error.diff(dim=3)
        found.append((down.abs().flatten(1).mean(1) + right.abs().flatten(1).mean(1)) / 2)
    return torch.stack(found).mean(0)
