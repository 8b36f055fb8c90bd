"""Samples drawn towards what is known of a structure: no clash, contacts, a disulfide. Feynman-Kac steering
(`diffusion.steer`): the samples of a sequence walk together as particles, and those whose guess fits are drawn anew.

What arrives is the sampler's distribution times exp(reward), the reward being minus half of the sum of squares, in units of
``SLACK``, of what each distance is beyond its bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sfumato.diffusion import key, steer
from sfumato.diffusion.rng import Streams
from sfumato.diffusion.sample import Euler
from sfumato.errors import Wrong
from sfumato.fields.protein.geometry import CA, CLASH

if TYPE_CHECKING:
    from sfumato.fields.protein.sequences import Asked
    from sfumato.jobs.model import Model

SLACK = 0.5
"""Angstrom beyond a bound that cost half a unit of reward."""
LEAST = 32
"""Particles of a sequence at least."""


@dataclass(frozen=True)
class Contact:
    """CA of two residues, counted from 0, at most so many Angstrom apart."""

    a: int
    b: int
    most: float


@dataclass(frozen=True)
class Potentials:
    """What samples are drawn towards."""

    contacts: tuple[Contact, ...] = ()
    no_clash: bool = False

    @classmethod
    def of(cls, contact: Sequence[str], no_clash: bool, length: int) -> Potentials:
        """From words such as 22:96:6. Raises Wrong."""
        found = []
        for text in contact:
            try:
                a, b, most = text.split(":")
                one = Contact(int(a) - 1, int(b) - 1, float(most))
            except ValueError:
                raise Wrong(f"contact = {text!r}: must be two places and a distance, as 22:96:6") from None
            if not (0 <= one.a < length and 0 <= one.b < length and one.a != one.b and 0 < one.most < 1e3):
                raise Wrong(f"contact = {text!r}: must be two places within 1 to {length}, and a distance above 0")
            found.append(one)
        return cls(tuple(found), no_clash)

    def __bool__(self) -> bool:
        return bool(self.contacts) or self.no_clash

    def reward(self, ca: Tensor) -> Tensor:
        """Of places (B, L, 3) in Angstrom, (B,) float64."""
        ca = ca.double()
        cost = ca.new_zeros(len(ca))
        for one in self.contacts:
            beyond = ((ca[:, one.a] - ca[:, one.b]).norm(dim=-1) - one.most).clamp_min(0)
            cost = cost + (beyond / SLACK).square()
        if self.no_clash:
            apart = torch.cdist(ca, ca, compute_mode="donot_use_mm_for_euclid_dist")
            far = torch.ones_like(apart[0], dtype=torch.bool).triu(2)
            cost = cost + torch.where(far, ((CLASH - apart).clamp_min(0) / SLACK).square(), 0.0).sum((1, 2))
        return -0.5 * cost


def steered(model: Model, one: Asked, query: Mapping[str, Any], potentials: Potentials, wanted: int) -> Tensor:
    """Samples of one sequence, drawn together: x (n, L, 12) in units of the data's spread. They are the same for the same seed
    and number of samples. The walk is the ancestral one, without memory, on the model's own grid.

    Args:
        query: the batch (1, ...) of one sample of the sequence.
        wanted: how many; 32 particles walk at least.
    """
    count = max(LEAST, wanted)
    rows = {name: value.expand(count, *value.shape[1:]).to(model.device) for name, value in query.items()}
    blank = rows.pop("x")
    rng = Streams(key("steered", model.drawing.seed, one.name), range(count), model.device)
    scale, length = model.facts.scale, len(one)

    def reward(x: Tensor, t: Any) -> Tensor:
        found = potentials.reward(x[:, :length, 3 * CA : 3 * CA + 3].cpu() * scale)
        sigma = float(model.process.schedule.angle(t).tan()) if isinstance(t, Tensor) else 0.0
        return found / (1 + (sigma * scale) ** 2)  # far from the data a guess is a mean, which fits nothing

    times = model.grid(model.walk)(model.process.schedule, model.walk.steps or 1)
    found = steer(model.denoiser, model.process.prior(blank, rng), times, reward, Euler(1.0), rng, **rows)
    return found.samples[:wanted].float().cpu()
