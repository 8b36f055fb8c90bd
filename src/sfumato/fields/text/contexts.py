"""What of an item is given and what is to be learned: prompts, holes, and plain writing, in one distribution of times.

A given token has a time of its own, 0: it is seen as it is and no loss is taken on it. All others share the item's t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion import Denoiser
from sfumato.diffusion.gaps import Gaps
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.times import Times
from sfumato.diffusion.tree import Tree
from sfumato.diffusion.tree import first as leaf


@dataclass(frozen=True)
class Contexts(Times):
    """Times (B, L) of training: the share `prefix` of the items has a beginning that is given, the share `hole` has both
    sides given and a run between them open, the rest is open throughout.

    low: the least t; where next to nothing is hidden there is next to nothing to learn.
    Raises ValueError for shares below 0 or above 1 together, or a low that is not in (0, 1).
    """

    prefix: float = 0.25
    hole: float = 0.25
    low: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.prefix, self.hole) < 0 or self.prefix + self.hole > 1:
            raise ValueError(
                f"shares prefix = {self.prefix:g} and hole = {self.hole:g}: must be 0 or more, at most 1 in all"
            )
        if not 0 < self.low < 1:
            raise ValueError(f"low = {self.low:g}: must be above 0 and below 1")

    def __call__(self, u: Tensor, schedule: Any) -> Tensor:
        """The time of what is open, from uniform numbers u (B,) in [0, 1): (B,) float64."""
        return self.low + (1 - self.low) * u.double()

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tensor:
        """Times (B, L) of the items x (B, L) of a batch; what has no weight, a prompt, is given."""
        open_ = self.open(uniform_like(u, rng, (len(u), 3)), leaf(batch["x"]).shape[1])
        if batch.get("weight") is not None:
            open_ = open_ & (leaf(batch["weight"]) > 0)
        return torch.where(open_, self(u, process.schedule)[:, None], 0.0)

    def open(self, own: Tensor, length: int) -> Tensor:
        """Which of `length` tokens are open, at least one in every row, from uniform numbers (B, 3): bool (B, L)."""
        kind, begin, end = own.unbind(1)
        place = torch.arange(length, device=own.device)
        first = (begin * length).floor()
        last = first + 1 + (end * (length - first)).floor()
        first = torch.where(kind < self.prefix + self.hole, first, 0)[:, None]
        last = torch.where((kind >= self.prefix) & (kind < self.prefix + self.hole), last, length)[:, None]
        return (place >= first) & (place < last)


def surprise(
    denoiser: Denoiser,
    shown: Tensor,
    level: Tensor,
    where: Tensor,
    is_: Tensor,
    given: Any,
    condition: Mapping[str, Any],
) -> Tensor:
    """-log p of the tokens ``is_`` (B, L) at the places ``where`` (B, L) of what is shown (B, L), in nats: (B, L), 0 elsewhere.

    The network answers at these places alone: a law over all tokens, at places where nothing is lost, would take half the time
    of a step. They are filled up to a multiple of TOGETHER, for what a processor prepares anew for every size.
    """
    places = where.flatten().nonzero()[:, 0]
    count = len(places)
    more = torch.nn.functional.pad(places, (0, -count % TOGETHER))
    logits = denoiser.answer(shown, level, given=given, where=more, **condition)[:count]
    lost = torch.nn.functional.cross_entropy(logits.float(), is_.flatten()[places], reduction="none")
    return torch.zeros(shown.shape, dtype=lost.dtype, device=shown.device).masked_scatter(where, lost)


TOGETHER = 256


@dataclass(frozen=True)
class Hidden:
    """A criterion: the loss of the process, worked out at the hidden tokens alone."""

    def __call__(
        self, denoiser: Denoiser, x: Any, t: Any, *, rng: Rng, z: Any, weight: Any, given: Any, condition: Mapping[str, Any],
    ) -> Tensor:  # fmt: skip
        """Loss per row, (B,), nats a token."""
        process: Any = denoiser.process
        x_t = process.interpolate(x, z, t)
        hidden = process.open(x_t)
        return process.bound(surprise(denoiser, x_t, t, hidden, x, given, condition), hidden, t, weight)


@dataclass(frozen=True)
class Stretched:
    """A criterion: the plain loss as in `Hidden`, and in the share `share` of the rows that of opening gaps of unknown length.

    A row of gaps is three quarters as long as the others, so that there are tokens enough to hide in its gaps. Gaps lie in
    one stretch of it, of one place in every fourth row and of up to REGION places in the others; what is around is given.
    """

    gaps: Gaps
    share: float

    def __call__(
        self, denoiser: Denoiser, x: Any, t: Any, *, rng: Rng, z: Any, weight: Any, given: Any, condition: Mapping[str, Any],
    ) -> Tensor:  # fmt: skip
        """Loss per row, (B,), nats a token."""
        process: Any = denoiser.process
        length = x.shape[1]
        visible = length - length // 4
        own = uniform_like(t, rng, (len(x), 5))
        u = uniform_like(t, rng, (len(x), length, 3))
        chosen = own[:, 0] < self.share
        if weight is not None:  # nothing of a prompt is hidden
            chosen = chosen & (weight > 0).all(1)
        single = own[:, 1] < 0.25
        size = torch.where(single, 1, 1 + (own[:, 2] * min(REGION, visible - 1)).floor())
        first = 1 + (own[:, 3] * (visible - size)).floor()
        place = torch.arange(length, device=x.device)
        where = (place >= first[:, None]) & (place < (first + size)[:, None])
        rate = torch.where(single, 1.0, 0.05 + 0.95 * own[:, 4])
        hidden = self.gaps.hide(x, where, rate, u, visible)
        x_t = torch.where(chosen[:, None], hidden.shown, process.interpolate(x, z, t))
        level = torch.where(chosen[:, None], where.to(t.dtype), t)
        open_ = torch.where(chosen[:, None], hidden.becomes >= 0, process.open(x_t))
        is_ = torch.where(chosen[:, None], hidden.becomes, x)
        lost = surprise(denoiser, x_t, level, open_, is_, given, condition)
        opened = lost.sum(1) / (rate * size).float()
        return torch.where(chosen, opened.to(torch.float64), process.bound(lost, open_, t, weight))


REGION = 24
"""Places, at most, of the stretch in which gaps lie."""
