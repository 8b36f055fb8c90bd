"""Weight-shared loops: the same layers applied again and again, as often as one likes.

A stack of residual layers maps h to h + F(h). Applied once more to its own answer, as in Elastic Looped Transformers
(arXiv 2604.09168), it only works for the numbers of loops that were trained: nothing holds h back from growing. Here each
loop starts from the same entry h0 again and only what the layers add is worked out anew,

    h <- h0 + F(h),      so h goes to a fixed point h* = h0 + F(h*),

as in deep equilibrium models (Bai et al. 2019). One loop is the plain stack, needs no further weights, and more loops
come closer to one and the same answer. Trained with a random number of loops, F learns to come close in few.
Loops beyond those of training take shorter and shorter steps (Mann 1953), so that an F that is no contraction there
still settles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_loops(loops: Sequence[int], depth: int, routing: float) -> tuple[int, int]:
    """(least, most) of a looped network, or ValueError: what is wrong, and what would be right."""
    if len(loops) != 2 or not all(isinstance(n, int) for n in loops) or not 1 <= loops[0] <= loops[1]:
        raise ValueError(f"loops is {loops!r}, expected two whole numbers, least and most, with 1 <= least <= most")
    if depth < 3:
        raise ValueError(f"loops need a depth of 3 or more, not {depth}: the first and the last block are not repeated")
    if routing:
        raise ValueError(f"loops and routing={routing} do not go together: leave one of them out")
    return loops[0], loops[1]


def draw_loops(least: int, most: int) -> int:
    """A number of loops from least to most, all equally likely, from torch's own stream on the CPU."""
    return least if least == most else int(torch.randint(least, most + 1, (), device="cpu"))


def settle(layers: Callable[[Tensor], Tensor], h0: Tensor, loops: int, most: int) -> Tensor:
    """h after ``loops`` rounds of h <- h + step (h0 + F(h) - h), where layers(h) = h + F(h) and h starts at h0.

    step is 1 for the first ``most`` rounds and most / k for round k > most. ``layers`` keep the shape of h0.
    """
    h = layers(h0)
    for k in range(2, loops + 1):
        found = layers(h) + (h0 - h)
        h = found if k <= most else torch.lerp(h, found, most / k)
    return h


class Looped(nn.Module):
    """A looped network with its number of loops fixed."""

    def __init__(self, network: nn.Module, loops: int) -> None:
        super().__init__()
        self.network, self.loops = network, loops

    def given(self, **condition: Any) -> Any:
        """What the network makes of its conditions."""
        make = getattr(self.network, "given", None)
        return condition if make is None else make(**condition)

    def forward(self, *shown: Tensor, **condition: Any) -> Tensor:
        answer: Tensor = self.network(*shown, loops=self.loops, **condition)
        return answer


def self_distillation(
    network: Callable[..., Tensor],
    shown: Tensor,
    level: Tensor,
    level_s: Tensor | None = None,
    *,
    few: int,
    many: int,
    **condition: Any,
) -> Tensor:
    """How far the answer after ``few`` loops is from that after ``many``, which is held fixed: mean square, (B,).

    A further loss for looped networks, on the same input as the loss proper (intra-loop self-distillation, Elastic Looped
    Transformers, arXiv 2604.09168): every number of loops learns from the largest.
    """
    with torch.no_grad():
        goal = network(shown, level, level_s, loops=many, **condition)
    return (network(shown, level, level_s, loops=few, **condition) - goal).square().flatten(1).mean(1)
