"""How a pose becomes what is diffused, and back: as centre, turn and torsions; as rigid pieces; or as atoms, each by itself.

Each coding knows its process, where atoms are for what the network is shown, and how pulls at atoms are read as an answer. Pieces
and atoms may come out with torn bonds: they are closed onto the conformer, so that chemistry is the input's whatever was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sfumato.fields.docking.pose import UNIT, axis_of, centroid, fitted, placed

PULLS = 4
"""Fields of pulls at atoms that a network answers with."""
SOFT = 0.2
"""Noise of angles (radians) below which pulls are not made longer; of places 0.5 units."""
SPREAD = 2.5
"""A in a unit of atoms: their spread about the site."""
Parts = dict[str, Tensor]


class Coding(Protocol):
    """What is diffused of a pose."""

    parts: ClassVar[tuple[str, ...]]
    """Names of what it is made of."""
    whole: ClassVar[bool]
    """Whether its poses have the conformer's bonds and angles whatever x is."""

    def encode(self, x: Parts, body: Parts) -> Parts:
        """From centre, turn and torsions."""

    def weight(self, body: Parts) -> Parts:
        """What counts, part -> weight; what is left out counts in full."""

    def blank(self, body: Parts) -> Parts:
        """Shapes and types of x for rows of ligands."""

    def shown(self, x: Parts, level: Parts) -> Parts:
        """x_t from what a network is shown and its levels."""

    def places(self, x: Parts, body: Parts) -> Tensor:
        """Where the atoms are, (B, N, 3) in A about the site; 0 where none is."""

    def answer(self, field: Tensor, places: Tensor, x: Parts, level: Parts, body: Parts) -> Parts:
        """What pulls (PULLS, B, N, 3) at atoms say about each part."""


def unshown(shown: Tensor, level: Tensor, flow: bool = False) -> Tensor:
    """A Gaussian part as it is: what is shown has unit variance. level (B,) is ln(sigma / alpha); on a VE path alpha is 1, on
    the straight one (``flow``) alpha + sigma."""
    ratio = level.double().exp()
    scale = (1 + ratio**2).sqrt() / ((1 + ratio) if flow else 1)
    return (shown * scale.reshape(-1, *[1] * (shown.ndim - 1))).float()


def gain(level: Tensor, soft: float) -> Tensor:
    """1 over the noise, held at ``soft`` from below and at 5 from above: (B,)."""
    return 1 / (level.float().exp().clamp_max(5) ** 2 + soft**2).sqrt()


def inverse_inertia(arms: Tensor) -> Tensor:
    """Of points (..., N, 3) about their middle, with one square A of mass everywhere so that lines and points have one too."""
    r = arms.double()
    trace = r.square().sum((-1, -2)) + 1
    eye = torch.eye(3, device=r.device, dtype=r.dtype)
    return torch.linalg.inv(trace[..., None, None] * eye - r.transpose(-1, -2) @ r).float()


def back_turned(turn: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (..., 3) as the body sees them that is turned by (..., 3, 3)."""
    return (turn.float().transpose(-1, -2) @ vectors[..., None])[..., 0]


# ---- centre, turn and torsions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Torsional:
    """x = {"centre" (B, 3), "turn" (B, 3, 3), "torsions" (B, m)}; ``flow``: along geodesics and not by heat."""

    flow: bool = False
    parts: ClassVar[tuple[str, ...]] = ("centre", "turn", "torsions")
    whole: ClassVar[bool] = True

    def encode(self, x: Parts, body: Parts) -> Parts:
        return x

    def weight(self, body: Parts) -> Parts:
        return {"torsions": body["joints"].float()}

    def blank(self, body: Parts) -> Parts:
        B, m = body["joints"].shape
        return {
            "centre": torch.zeros(B, 3),
            "turn": torch.eye(3).expand(B, 3, 3).clone(),
            "torsions": torch.zeros(B, m),
        }

    def shown(self, x: Parts, level: Parts) -> Parts:
        return {**x, "centre": unshown(x["centre"], level["centre"], self.flow)}

    def places(self, x: Parts, body: Parts) -> Tensor:
        return placed(body["conformer"].float(), body["axes"], body["moved"], body["there"], x)

    def answer(self, field: Tensor, places: Tensor, x: Parts, level: Parts, body: Parts) -> Parts:
        there = body["there"]
        with torch.no_grad():
            arms = (places - centroid(places, there)) * there[..., None]
            turning, (levers, others) = inverse_inertia(arms), levers_of(places, body)
        centre = field[0].sum(1) / there.sum(1, keepdim=True).clamp_min(1) / UNIT
        torque = (turning @ torch.linalg.cross(arms, field[1]).sum(1)[..., None])[..., 0]
        torsions = torch.einsum("bmnc,bnc->bm", levers, field[2]) - torch.einsum("bmnc,bnc->bm", others, field[3])
        return {
            "centre": centre * gain(level["centre"], 0.5)[:, None],
            "turn": back_turned(x["turn"], torque) * gain(level["turn"], SOFT)[:, None],
            "torsions": torsions * gain(level["torsions"], SOFT)[:, None],
        }


def levers_of(places: Tensor, body: Parts) -> tuple[Tensor, Tensor]:
    """Levers (B, m, N, 3) about each bond, of what it moves and of the rest, each over its own inertia."""
    there, axes, moved = body["there"], body["axes"], body["moved"]
    levers = []
    for j in range(axes.shape[1]):
        end, u = axis_of(places, axes[:, j])
        levers.append(torch.linalg.cross(u[:, None].expand_as(places), places - end[:, None]))
    every = torch.stack(levers, 1)
    real = moved.any(-1, keepdim=True)
    both = [every * mask[..., None] for mask in (moved, there[:, None] & ~moved & real)]
    first, second = (each / (each.square().sum((2, 3), keepdim=True) + 1) for each in both)
    return first, second


# ---- rigid pieces ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pieces:
    """x = {"centres" (B, F, 3), "turns" (B, F, 3, 3)} of the rigid pieces between rotatable bonds (SigmaDock's fragments, 2026).

    The orientation of a piece is that of its atoms and of those bound to it, so that single atoms have one.
    """

    parts: ClassVar[tuple[str, ...]] = ("centres", "turns")
    whole: ClassVar[bool] = False

    def encode(self, x: Parts, body: Parts) -> Parts:
        pose, (B, F, N) = Torsional().places(x, body), body["pieces"].shape
        conformer, onto = (each[:, None].expand(B, F, N, 3).flatten(0, 1) for each in (body["conformer"].float(), pose))
        R = fitted(conformer, onto, body["reach"].flatten(0, 1)).unflatten(0, (B, F))
        real = body["pieces"].any(-1)
        eye = torch.eye(3).expand_as(R)
        return {"centres": self._middles(pose, body) / UNIT, "turns": torch.where(real[..., None, None], R, eye)}

    def _middles(self, places: Tensor, body: Parts) -> Tensor:
        inside = body["pieces"].to(places.dtype)
        return inside @ places / inside.sum(-1, keepdim=True).clamp_min(1)

    def weight(self, body: Parts) -> Parts:
        real = body["pieces"].any(-1).float()
        return {"centres": real, "turns": real}

    def blank(self, body: Parts) -> Parts:
        B, F, _ = body["pieces"].shape
        return {"centres": torch.zeros(B, F, 3), "turns": torch.eye(3).expand(B, F, 3, 3).clone()}

    def shown(self, x: Parts, level: Parts) -> Parts:
        return {**x, "centres": unshown(x["centres"], level["centres"])}

    def places(self, x: Parts, body: Parts) -> Tensor:
        conformer = body["conformer"].float()
        inside = body["pieces"].float()
        own = conformer[:, None] - self._middles(conformer, body)[:, :, None]  # (B, F, N, 3)
        lying = own @ x["turns"].float().transpose(-1, -2) + UNIT * x["centres"].float()[:, :, None]
        return (lying * inside[..., None]).sum(1)

    def answer(self, field: Tensor, places: Tensor, x: Parts, level: Parts, body: Parts) -> Parts:
        inside = body["pieces"].float()
        with torch.no_grad():
            arms = (places[:, None] - self._middles(places, body)[:, :, None]) * inside[..., None]
            turning = inverse_inertia(arms)
        pull = inside @ field[0] / inside.sum(-1, keepdim=True).clamp_min(1)
        # a piece of one atom has no arm: what is bound to it turns it, by a field of its own
        own = inside @ field[2] / inside.sum(-1, keepdim=True).clamp_min(1)
        torque = torch.linalg.cross(arms, field[1][:, None].expand_as(arms)).sum(2)
        torque = (turning @ torque[..., None])[..., 0] + torch.linalg.cross(pull, own)
        return {
            "centres": pull / UNIT * gain(level["centres"], 0.5)[:, None, None],
            "turns": back_turned(x["turns"], torque) * gain(level["turns"], SOFT)[:, None, None],
        }


# ---- atoms -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cloud:
    """x = {"atoms" (B, N, 3)}, in units of 2.5 A about the site: no bond is known to the process, only to the network."""

    parts: ClassVar[tuple[str, ...]] = ("atoms",)
    whole: ClassVar[bool] = False

    def encode(self, x: Parts, body: Parts) -> Parts:
        return {"atoms": Torsional().places(x, body) / SPREAD}

    def weight(self, body: Parts) -> Parts:
        return {"atoms": body["there"].float()}

    def blank(self, body: Parts) -> Parts:
        return {"atoms": torch.zeros(*body["there"].shape, 3)}

    def shown(self, x: Parts, level: Parts) -> Parts:
        return {"atoms": unshown(x["atoms"], level["atoms"])}

    def places(self, x: Parts, body: Parts) -> Tensor:
        return x["atoms"].float() * SPREAD * body["there"][..., None]

    def answer(self, field: Tensor, places: Tensor, x: Parts, level: Parts, body: Parts) -> Parts:
        return {"atoms": field[0] / SPREAD * gain(level["atoms"], 0.1)[:, None, None]}


CODINGS: dict[str, Any] = {"heat": Torsional(), "flow": Torsional(True), "fragments": Pieces(), "atoms": Cloud()}
