"""The network of poses: atoms of the ligand where they are now, among themselves and among residues and the atoms of a template.

Where each atom's heads look are vectors; sums of them are what pulls at the atom, and what pulls at all atoms is read as a push
of the centre, a torque about it, and a torque about each rotatable bond. So no frame of the conformer enters the answer, and
with ``frame="free"``, where places are seen through distances alone, a turned complex has the turned answer.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfumato.fields.docking.chemistry import FEATURES, RADII
from sfumato.fields.docking.pose import UNIT, axis_of, centroid, placed
from sfumato.networks.parts import LevelEmbedding, no_autocast, standard, zero_
from sfumato.networks.points import PairBlock, Radial, spread

PARTS = ("centre", "turn", "torsions")
KINDS = 21
PULLS = 4
"""Fields of pulls: at the centre, about it, about bonds by what they move, and by what they do not."""
SOFT = {"centre": 0.5, "turn": 0.2, "torsions": 0.2}
"""Noise (in units of the part) below which pulls are not made longer."""


class PoseNetwork(nn.Module):
    """Poses as centre, turn and torsions.

    width, depth, heads   of the ligand's blocks; one block more goes over pocket and template, once a walk
    process     "heat" or "flow": how the centre that is shown is to be read
    frame       "receptor": places themselves are seen, in the frame of the site; "free": distances alone
    """

    options: dict[str, Any]

    def __init__(
        self, *, width: int = 96, depth: int = 5, heads: int = 6, process: Literal["heat", "flow"] = "heat",
        frame: Literal["receptor", "free"] = "receptor",
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.options = {
            "kind": "pose", "width": width, "depth": depth, "heads": heads, "process": process, "frame": frame,
        }  # fmt: skip
        self.heads, self.process = heads, process
        self.radial = Radial()
        bumps, every = self.radial.count, heads * depth
        own = 39 if frame == "receptor" else 0
        self.place = nn.Linear(own, width, bias=False) if own else None
        self.context_place = nn.Linear(2 * own, width, bias=False) if own else None
        self.atom = nn.Linear(FEATURES, width)
        self.residue, self.likeness = nn.Embedding(KINDS, width), nn.Linear(1, width)
        self.bond, self.alike = nn.Embedding(8, every), nn.Embedding(RADII + 1, every)
        self.near, self.near_pocket, self.near_template = (nn.Linear(k * bumps, every, bias=False) for k in (1, 2, 1))
        self.among = nn.Linear(bumps, heads)
        self.context = PairBlock(width, heads)
        self.keys = nn.Linear(width, 2 * depth * width)
        self.levels = nn.ModuleDict({name: LevelEmbedding(width) for name in PARTS})
        self.sharpen = nn.Linear(width, every)
        self.blocks = nn.ModuleList(PairBlock(width, heads, width) for _ in range(depth))
        self.look = nn.ModuleList(nn.Linear(4 * heads if own else heads, width) for _ in range(depth))
        self.pull, self.push = nn.Linear(width, PULLS * every), nn.Linear(width, PULLS * 3) if own else None
        self.final = nn.Linear(width, 2 * width)
        for layer in (self.bond, self.alike):
            nn.init.zeros_(layer.weight)
        for layer in (self.sharpen, self.pull, self.final, *self.look, *([self.push] if self.push is not None else [])):
            zero_(layer)

    # ---- once a walk -------------------------------------------------------------------------------------------------

    def given(
        self, ligand: dict[str, Tensor], pocket: dict[str, Tensor], template: dict[str, Tensor]
    ) -> dict[str, Any]:
        """All that does not move: tokens of the ligand's atoms, keys and values of pocket and template, biases."""
        inside = (template["likeness"] > 0) | template["there"].any(1)
        at_pocket = self.residue(pocket["kind"]) + self._placed(pocket["places"].flatten(2), self.context_place)
        twice = torch.cat((template["places"], template["places"]), -1)
        at_template = self.atom(template["atoms"]) + self.likeness(template["likeness"][:, None])[:, None]
        at_template = at_template + self._placed(twice, self.context_place)
        seen = torch.cat((pocket["there"], template["there"] & inside[:, None]), 1)
        places = torch.cat((pocket["places"][:, :, 1], template["places"]), 1)
        apart = torch.cdist(places.float(), places.float())
        bias = self.among(self.radial(apart)).permute(0, 3, 1, 2).float()
        blind = torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -1e9)
        tokens, _ = self.context(torch.cat((at_pocket, at_template), 1), bias + blind[:, None, None])
        bonds, B, N = self.bond(ligand["bonds"]), *ligand["there"].shape
        nothing = bonds.new_zeros(B, N, pocket["kind"].shape[1], bonds.shape[-1])
        known = torch.cat((bonds, nothing, self.alike(template["alike"].clamp_min(0))), 2)
        hidden = torch.zeros_like(ligand["there"], dtype=torch.float32).masked_fill(~ligand["there"], -1e9)
        return {
            "atoms": self.atom(ligand["atoms"]), "keys": self.keys(standard(tokens)), "known": known.float(),
            "blind": torch.cat((hidden, blind), 1), "fixed": places, "backbone": pocket["places"][:, :, 0], "body": {
                name: ligand[name] for name in ("conformer", "axes", "moved", "there")},
        }  # fmt: skip

    def _placed(self, places: Tensor, layer: nn.Linear | None) -> Tensor | float:
        if layer is None:
            return 0.0
        return layer(torch.cat([spread(each) for each in places.split(3, -1)], -1))

    # ---- every call --------------------------------------------------------------------------------------------------

    def forward(
        self, x: dict[str, Tensor], level: dict[str, Tensor], *, atoms: Tensor, keys: Tensor, known: Tensor, blind: Tensor,
        fixed: Tensor, backbone: Tensor, body: dict[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """What is shown of centre (B, 3), turn (B, 3, 3) and torsions (B, m), and their levels (B,) -> the answers."""
        with torch.no_grad(), no_autocast(atoms):
            places = self.places(x, level, body)
            every = torch.cat((places, fixed.float()), 1)
            N, P = places.shape[1], backbone.shape[1]
            apart = self.radial(torch.cdist(places, every))
            to_backbone = self.radial(torch.cdist(places, backbone.float()))
        condition = sum(self.levels[name](level[name]) for name in PARTS)
        near = torch.cat((
            self.near(apart[:, :, :N]), self.near_pocket(torch.cat((apart[:, :, N : N + P], to_backbone), -1)),
            self.near_template(apart[:, :, N + P :]),
        ), 2).float()  # fmt: skip
        near = near * (1 + self.sharpen(condition).float())[:, None, None] + known
        biases = near.permute(0, 3, 1, 2).unflatten(1, (len(self.blocks), self.heads)) + blind[:, None, None, None]
        h, looks = atoms + self._placed(places, self.place), []
        for block, look, bias, more in zip(self.blocks, self.look, biases.unbind(1), keys.chunk(len(self.blocks), -1)):
            h, shares = block(h, bias, more.chunk(2, -1), condition)
            with no_autocast(h):
                way = shares @ every[:, None] - places[:, None]  # (B, heads, N, 3)
            looks.append(way.transpose(1, 2))
            seen = way.norm(dim=-1).transpose(1, 2)
            if self.place is not None:
                seen = torch.cat((seen, looks[-1].flatten(2)), -1)
            h = h + look(seen / 5)
        scale, shift = self.final(condition)[:, None].chunk(2, -1)
        return self.answer(standard(h) * (1 + scale) + shift, torch.cat(looks, 2), places, x, level, body)

    def places(self, x: dict[str, Tensor], level: dict[str, Tensor], body: dict[str, Tensor]) -> Tensor:
        """Where the atoms are, (B, N, 3) in A about the site."""
        ratio = level["centre"].double().exp()
        radius = (1 + ratio**2).sqrt()
        scale = radius if self.process == "heat" else radius / (1 + ratio)
        now = {**x, "centre": (x["centre"] * scale[:, None]).float()}
        return placed(body["conformer"].float(), body["axes"], body["moved"], body["there"], now)

    def answer(
        self,
        h: Tensor,
        looks: Tensor,
        places: Tensor,
        x: dict[str, Tensor],
        level: dict[str, Tensor],
        body: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """What pulls at the atoms, as the parts of a pose have it. looks (B, N, heads x depth, 3)."""
        pulls = self.pull(h).unflatten(-1, (PULLS, -1))
        direct = None if self.push is None else self.push(h).unflatten(-1, (PULLS, 3)).float()
        there = body["there"]
        with no_autocast(h):
            field = torch.einsum("bnpl,bnlc->pbnc", pulls.float(), looks)
            if direct is not None:
                field = field + direct.movedim(2, 0)
            field = field * there[None, ..., None]
            gain = {name: 1 / (level[name].float().exp().clamp_max(5) ** 2 + SOFT[name] ** 2).sqrt() for name in PARTS}
            with torch.no_grad():
                arms = places - centroid(places, there)
                turning, levers, others = _levers(places, arms, body)
            centre = field[0].sum(1) / there.sum(1, keepdim=True).clamp_min(1) / UNIT
            torque = (turning @ torch.linalg.cross(arms, field[1]).sum(1)[..., None])[..., 0]
            turn = (x["turn"].float().transpose(1, 2) @ torque[..., None])[..., 0]
            torsions = torch.einsum("bmnc,bnc->bm", levers, field[2]) - torch.einsum("bmnc,bnc->bm", others, field[3])
        return {
            "centre": centre * gain["centre"][:, None], "turn": turn * gain["turn"][:, None],
            "torsions": torsions * gain["torsions"][:, None],
        }  # fmt: skip


def _levers(places: Tensor, arms: Tensor, body: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """How pulls turn a body: the inverse inertia (B, 3, 3) about its centroid, and levers (B, m, N, 3) about each bond, of what
    it moves and of the rest, each over its own inertia."""
    there, axes, moved = body["there"], body["axes"], body["moved"]
    r = (arms * there[..., None]).double()
    inertia = (r.square().sum((1, 2)) + 1)[:, None, None] * torch.eye(3, device=r.device, dtype=r.dtype) - r.transpose(
        1, 2
    ) @ r
    levers = []
    for j in range(axes.shape[1]):
        end, u = axis_of(places, axes[:, j])
        levers.append(torch.linalg.cross(u[:, None].expand_as(places), places - end[:, None]))
    every = torch.stack(levers, 1)
    real = moved.any(-1, keepdim=True)
    both = [every * mask[..., None] for mask in (moved, there[:, None] & ~moved & real)]
    both = [each / (each.square().sum((2, 3), keepdim=True) + 1) for each in both]
    return torch.linalg.inv(inertia).float(), both[0], both[1]
