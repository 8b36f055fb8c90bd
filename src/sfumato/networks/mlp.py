"""Residual network for vectors: tables, points, short action sequences laid flat."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.parts import Condition, check_level, modulate, no_autocast, standard, zero_


class MLP(nn.Module):
    """Residual SiLU network on vectors of `dim` numbers, each block scaled and shifted by the noise level.

    A block is `h + outer(silu(inner(modulate(standard(h)))))`. The stream `h` that leads from input
    to answer is itself never normalised, so sizes are not lost on the way.
    """

    units = ("Residual",)
    options: dict[str, Any]

    def __init__(
        self, *, dim: int, width: int = 256, depth: int = 4, classes: int = 0, guided: bool = False, vectors: int = 0
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "mlp",
            "dim": dim,
            "width": width,
            "depth": depth,
            "classes": classes,
            "guided": guided,
        } | ({"vectors": vectors} if vectors else {})
        self.condition = Condition(width, classes=classes, vectors=vectors, guided=guided)
        self.enter = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(depth))
        self.head = nn.Linear(width, dim)
        zero_(self.head)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        level_s: Tensor | None = None,
        *,
        label: Tensor | None = None,
        guidance: Tensor | None = None,
        vector: Tensor | None = None,
        vector_known: Tensor | None = None,
    ) -> Tensor:
        """x (B, dim), level (B,), level_s (B,), label (B,) int64 with -1 for none, guidance (B, 3) -> (B, dim).

        Raises ValueError for other shapes, or for a label where `classes` is 0.
        """
        dim = self.options["dim"]
        if x.ndim != 2 or x.shape[1] != dim:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {dim})")
        check_level(level, x.shape[0])
        condition = F.silu(self.condition(level, level_s, label, guidance, vector, vector_known))
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, condition)
        with no_autocast(h):
            return self.head(h.to(self.head.weight.dtype)).to(x.dtype)


class Residual(nn.Module):
    """One block of the MLP; starts as the identity. ``told``: width of the condition, if other than its own."""

    def __init__(self, width: int, told: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.modulation = nn.Linear(told or width, 2 * width)
        self.outer = nn.Linear(width, width)
        zero_(self.modulation)
        zero_(self.outer)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        seen = modulate(standard(h)[:, None], scale[:, None], shift[:, None])[:, 0]
        return h + self.outer(F.silu(self.inner(seen)))
