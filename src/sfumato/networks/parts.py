"""Parts shared by the networks: what they know about noise and labels, norms, attention, positions.

Every part works under `torch.autocast`: activations keep the lower precision from one layer to the next,
and what must stay accurate (noise levels, angles of positions) is computed in float32 on its own.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # added to mean squares before their root


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Context in which layers compute in the precision of their inputs, on the device of `x`."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class LevelEmbedding(nn.Module):
    """Vector that describes a noise level, ln(sigma / alpha).

    Sines and cosines of `FREQUENCIES` angular frequencies, geometrically spaced so that their periods run from
    `SHORTEST` to `LONGEST` (levels live in [-12, 7], so the slowest is nearly straight over the whole range and the
    fastest tells neighbouring sampling steps apart), then a two-layer SiLU network. Always float32.

    """

    FREQUENCIES = 64
    SHORTEST, LONGEST = 0.25, 40.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(2 * self.FREQUENCIES, width)
        self.outer = nn.Linear(width, width)

    def forward(self, level: Tensor) -> Tensor:
        """level (...,) -> (..., width), float32."""
        with no_autocast(level):
            return self.outer(F.silu(self.inner(waves(level.float(), self.LONGEST, self.SHORTEST, self.FREQUENCIES))))


class ArrivalEmbedding(nn.Module):
    """Vector that describes where a flow map is to arrive: the level s that its step ends at.

    The average velocity is smooth in the share of noise, sigma / (alpha + sigma), which is finite where the level is not
    (s = 0). Sines and cosines of that share, then a two-layer SiLU network; always float32, silent until trained.
    """

    FREQUENCIES = 64
    SHORTEST, LONGEST = 0.2, 8.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(2 * self.FREQUENCIES, width)
        self.outer = nn.Linear(width, width)
        zero_(self.outer)

    def forward(self, level: Tensor) -> Tensor:
        """level (...,) -> (..., width), float32."""
        with no_autocast(level):
            return self.outer(
                F.silu(self.inner(waves(level.float().sigmoid(), self.LONGEST, self.SHORTEST, self.FREQUENCIES)))
            )


class GuidanceEmbedding(nn.Module):
    """Vector for guidance that is an input of the network: strength w, and the times between which it acts.

    Guided models need it to make a guided sample in one call (Meng 2023, arXiv 2210.03142). Silent until trained.
    """

    def __init__(self, width: int, frequencies: int = 16) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.inner = nn.Linear(6 * frequencies, width)
        self.outer = nn.Linear(width, width)
        zero_(self.outer)

    def forward(self, guidance: Tensor) -> Tensor:
        """guidance (B, 3): w, low, high -> (B, width), float32. Raises ValueError for another shape."""
        if guidance.ndim != 2 or guidance.shape[1] != 3:
            raise ValueError(f"guidance has shape {tuple(guidance.shape)}, expected (batch, 3): w, low, high")
        with no_autocast(guidance):
            return self.outer(F.silu(self.inner(waves(guidance.float(), 16.0, 0.5, self.frequencies).flatten(1))))


def waves(x: Tensor, longest: float, shortest: float, count: int = 64) -> Tensor:
    """Sines and cosines of x (...,) of ``count`` periods, geometrically spaced: (..., 2 count), float32."""
    # Computed here and not kept as a buffer: it then survives `to(bfloat16)` and the meta device.
    periods = torch.linspace(math.log(longest), math.log(shortest), count, device=x.device).exp()
    angles = x[..., None] * (2 * math.pi / periods)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class VectorEmbedding(nn.Module):
    """Vector for numbers that a sample is drawn for (measurements, an embedding of somebody's own), with one of its own for
    "not known", which is what guidance calls unconditional."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(numbers, width), nn.Linear(width, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.outer.weight, std=0.02)
        nn.init.zeros_(self.outer.bias)

    def forward(self, vector: Tensor | None, known: Tensor | None, batch: int) -> Tensor:
        """vector (B, numbers) at about unit variance or None, known (B,) bool or None (all are) -> (B, width).

        Raises ValueError for another shape.
        """
        nothing = self.unknown.expand(batch, -1)
        if vector is None:
            return nothing
        if vector.shape != (batch, self.inner.in_features):
            raise ValueError(f"vector has shape {tuple(vector.shape)}, expected ({batch}, {self.inner.in_features})")
        made = self.outer(F.silu(self.inner(vector.to(self.inner.weight.dtype))))
        return made if known is None else torch.where(known[:, None], made, nothing.to(made.dtype))


class Condition(nn.Module):
    """One vector for everything that modulates a network: noise level, arrival level, class label, numbers, guidance.

    The arrival level (flow maps) and the guidance (networks built with ``guided``) start with no influence. Label -1, or
    no label at all, means "dropped" and has an embedding of its own, which is what classifier-free guidance calls
    unconditional (Ho and Salimans 2022).
    """

    def __init__(self, width: int, *, classes: int = 0, vectors: int = 0, guided: bool = False) -> None:
        super().__init__()
        self.level = LevelEmbedding(width)
        self.arrival = ArrivalEmbedding(width)
        self.labels = nn.Embedding(classes + 1, width) if classes else None  # row 0: no label
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, std=0.02)
        self.guidance = GuidanceEmbedding(width) if guided else None
        self.vectors = VectorEmbedding(vectors, width) if vectors else None

    def forward(
        self,
        level: Tensor,
        level_s: Tensor | None,
        label: Tensor | None,
        guidance: Tensor | None = None,
        vector: Tensor | None = None,
        vector_known: Tensor | None = None,
    ) -> Tensor:
        """level (B,) or (B, L), level_s of the same shape or None, label (B,) or None, guidance (B, 3) or None, vector
        (B, vectors) or None, vector_known (B,) bool or None -> (B, width) or (B, L, width).

        Raises ValueError if shapes differ, or a label, a vector or guidance is given to a network built without.
        """
        batch = level.shape[0]
        conditioned = self.level(level)
        if level_s is not None:
            if level_s.shape != level.shape:
                raise ValueError(f"level_s has shape {tuple(level_s.shape)}, level has {tuple(level.shape)}")
            conditioned = conditioned + self.arrival(level_s)
        if guidance is not None:
            if self.guidance is None:
                raise ValueError("this network was built with guided=False and takes no guidance")
            known = self.guidance(guidance)
            conditioned = conditioned + (known if conditioned.ndim == 2 else known[:, None])
        if self.vectors is not None:
            numbers = self.vectors(vector, vector_known, batch)
            conditioned = conditioned + (numbers if conditioned.ndim == 2 else numbers[:, None])
        elif vector is not None:
            raise ValueError("this network was built with vectors=0 and takes no vector")
        if self.labels is None:
            if label is not None:
                raise ValueError("this network was built with classes=0 and takes no label")
            return conditioned
        if label is None:
            label = torch.full((batch,), -1, device=level.device)
        elif label.shape != (batch,):
            raise ValueError(f"label has shape {tuple(label.shape)}, expected ({batch},)")
        named = self.labels(label + 1)
        return conditioned + (named if conditioned.ndim == 2 else named[:, None])


def check_level(level: Tensor, batch: int, length: int | None = None) -> None:
    """Raise ValueError unless `level` has shape (batch,) or, where a length is given, (batch, length)."""
    if level.shape == (batch,) or (length is not None and level.shape == (batch, length)):
        return
    expected = f"({batch},)" if length is None else f"({batch},) or ({batch}, {length})"
    raise ValueError(f"level has shape {tuple(level.shape)}, expected {expected}")


def zero_(layer: nn.Linear | nn.Conv2d) -> None:
    """Set weight and bias to zero: the layer says nothing until it is trained."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def matrix(inside: int, outside: int) -> nn.Linear:
    """Linear layer without bias, started as in transformers (uniform, Glorot and Bengio 2010)."""
    layer = nn.Linear(inside, outside, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def standard(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """x with mean 0 and mean square 1 along its last dimension (Ba et al. 2016), times `scale` if given.

    RMSNorm, without the mean, would do as well, but has no fused kernel on CPUs and takes three times as long there.
    """
    with no_autocast(x):  # autocast on CUDA would copy x to float32; the kernel sums in float32 anyway
        return F.layer_norm(x, x.shape[-1:], None if scale is None else scale.to(x.dtype), None, EPS)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) in the precision of its input, with up to 32 groups."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = math.gcd(32, channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        with no_autocast(x):  # autocast on CUDA would copy x to float32; the kernel sums in float32 anyway
            return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), EPS)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift.

    x (B, N, width); scale and shift (B, M, width) where M divides N: each of M runs of N / M tokens has its own.
    """
    runs = x.unflatten(1, (scale.shape[1], -1))
    return torch.addcmul(shift[:, :, None], runs, 1 + scale[:, :, None]).flatten(1, 2)


def add_gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate * branch, with a gate (B, M, width) as in `modulate`."""
    runs = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, runs), gate[:, :, None], branch.unflatten(1, runs)).flatten(1, 2)


class ContextEntry(nn.Module):
    """Brings a condition sequence to the network's width and puts a learned token before it.

    The token is always kept: where everything else is masked, attention still has something to look at, and a fully
    masked sequence means the same as none.
    """

    def __init__(self, context_dim: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(context_dim, width)
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, context: Tensor | None, mask: Tensor | None, batch: int) -> tuple[Tensor, Tensor | None]:
        """context (B, S, context_dim), mask (B, S) -> (B, 1 + S, width), (B, 1 + S)."""
        null = self.null.expand(batch, 1, -1)
        if context is None:
            if mask is not None:
                raise ValueError("context_mask was given without context")
            return null, None
        if context.ndim != 3 or context.shape[0] != batch or context.shape[2] != self.enter.in_features:
            expected = f"({batch}, length, {self.enter.in_features})"
            raise ValueError(f"context has shape {tuple(context.shape)}, expected {expected}")
        entered = standard(self.enter(context))
        if mask is not None:
            if mask.shape != context.shape[:2] or mask.dtype != torch.bool:
                raise ValueError(
                    f"context_mask has shape {tuple(mask.shape)} and type {mask.dtype}, "
                    f"expected {tuple(context.shape[:2])} and torch.bool"
                )
            mask = F.pad(mask, (1, 0), value=True)
        return torch.cat((null.to(entered.dtype), entered), 1), mask


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020): out(silu(gate x) * value x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_value = matrix(width, 2 * hidden)
        self.out = matrix(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())
