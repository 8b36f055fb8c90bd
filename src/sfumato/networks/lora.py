"""Low-rank adaptation: a few numbers that change a network, trained while its own weights stand still (LoRA, Hu 2021,
arXiv 2106.09685).

    W' = W + (alpha / rank) B A        A (rank, in): small and random; B (out, rank): 0 at the start, so nothing is changed

A kernel of a convolution is taken as the matrix of its output channels by all else. The names of a network that is adapted are
torch's own of parametrized weights; :func:`merged` gives the plain ones back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

ORIGINAL = ".parametrizations.weight.original"
FACTORS = ".parametrizations.weight.0."
"""Between the name of a layer and that of a tensor of it."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    """What is added to a weight (out, ...): ``scale`` B A, shaped like it."""

    def __init__(self, weight: Tensor, rank: int, scale: float):
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.scale = scale
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).view_as(weight)


def adapted(network: nn.Module, rank: int, alpha: float | None = None) -> nn.Module:
    """The network itself, with a change of this rank (at most that of the weight) in every linear layer and convolution; all else
    is held. ``alpha``: the scale of the change is alpha / rank (default: 1).

    Raises ValueError for a rank below 1, and for a network without such layers.
    """
    if rank < 1:
        raise ValueError(f"rank = {rank}: must be at least 1")
    layers = [layer for layer in network.modules() if isinstance(layer, LAYERS)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no linear layers or convolutions to adapt: tune all weights")
    network.requires_grad_(False)
    for layer in layers:
        least = min(rank, len(layer.weight), layer.weight[0].numel())
        change = LowRank(layer.weight, least, (alpha or rank) / rank)
        parametrize.register_parametrization(layer, "weight", change)
    return network


def factors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the weights of an adapted network those that are trained: NAME.lora_A.weight (rank, in), NAME.lora_B.weight (out, rank)
    for every layer NAME, as the files of other libraries call them."""
    found = {}
    for name, value in weights.items():
        layer, between, which = name.partition(FACTORS)
        if between:
            found[f"{layer}.lora_{'A' if which == 'down' else 'B'}.weight"] = value
    return found


def untaught(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an adapted network as they were before anything was learned: with a change of nothing."""
    return {name: value * 0 if FACTORS in name and name.endswith(".up") else value for name, value in weights.items()}


def merged(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights of an adapted network under the names, and as those, of a plain one. Plain weights stay as they are."""
    own = {name: value for name, value in weights.items() if ORIGINAL not in name and FACTORS not in name}
    own |= {f"{name.removesuffix(ORIGINAL)}.weight": value for name, value in weights.items() if ORIGINAL in name}
    return added(own, factors(weights), scale)


def added(weights: Mapping[str, Tensor], change: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Plain weights with a change of low rank, ``scale`` times: changes are added up by adding one after the other.

    Raises ValueError for a change of a layer that is not there, or of another shape.
    """
    found = dict(weights)
    for layer, down, up in _pairs(change):
        name = f"{layer}.weight"
        if name not in found or len(up) != len(found[name]) or down.shape[1] != found[name][0].numel():
            there = f"of shape {tuple(found[name].shape)}" if name in found else "not there"
            raise ValueError(f"changes {name} by {tuple(up.shape)} x {tuple(down.shape)}, which is {there}")
        weight = found[name]
        found[name] = (weight.double() + scale * (up.double() @ down.double()).view_as(weight)).to(weight.dtype)
    return found


def _pairs(change: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Layer, A and B of a change. Raises ValueError where one of them is missing."""
    layers = {name.removesuffix(".lora_A.weight").removesuffix(".lora_B.weight") for name in change}
    for layer in sorted(layers):
        pair = [change.get(f"{layer}.lora_{which}.weight") for which in "AB"]
        down, up = pair
        if down is None or up is None or down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
            raise ValueError(f"{layer}: lora_A (rank, in) and lora_B (out, rank) are expected, both and of one rank")
        yield layer, down, up


def settings(rank: int, alpha: float | None) -> dict[str, Any]:
    """What a file of factors says of itself."""
    return {"rank": str(rank), "alpha": str(alpha or rank)}


def scale_of(about: Mapping[str, str]) -> float:
    """The scale that a file of factors says. Raises ValueError."""
    rank, alpha = float(about["rank"]), float(about["alpha"])
    if not (rank >= 1 and math.isfinite(alpha)):
        raise ValueError(f"rank {rank:g} and alpha {alpha:g}")
    return alpha / rank
