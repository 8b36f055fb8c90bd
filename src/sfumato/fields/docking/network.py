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
from sfumato.fields.docking.coding import CODINGS, PULLS
from sfumato.fields.docking.kin import TAUS, looked
from sfumato.networks.parts import ArrivalEmbedding, LevelEmbedding, no_autocast, standard, zero_
from sfumato.networks.points import PairBlock, Radial, spread

KINDS = 21
BODY = ("conformer", "axes", "moved", "there", "pieces", "reach", "joints")
"""What of a ligand says where its atoms are."""


class PoseNetwork(nn.Module):
    """Poses in any coding: centre, turn and torsions; rigid pieces; atoms.

    width, depth, heads   of the ligand's blocks; one block more goes over pocket and template, once a walk
    process     what is diffused, a name of CODINGS
    frame       "receptor": places themselves are seen, in the frame of the site; "free": distances alone
    kin         whether atoms see where known poses have atoms like them
    """

    units = ("PairBlock",)
    options: dict[str, Any]

    def __init__(
        self, *, width: int = 96, depth: int = 5, heads: int = 6, process: Literal["heat", "flow", "fragments", "atoms"] = "heat",
        frame: Literal["receptor", "free"] = "receptor", kin: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.options = {
            "kind": "pose", "width": width, "depth": depth, "heads": heads, "process": process, "frame": frame, "kin": kin,
        }  # fmt: skip
        self.heads, self.coding = heads, CODINGS[process]
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
        self.levels = nn.ModuleDict({name: LevelEmbedding(width) for name in self.coding.parts})
        arrive = self.coding.parts if process == "flow" else ()
        self.arrivals = nn.ModuleDict({name: ArrivalEmbedding(width) for name in arrive})
        self.sharpen = nn.Linear(width, every)
        self.blocks = nn.ModuleList(PairBlock(width, heads, width) for _ in range(depth))
        self.look = nn.ModuleList(nn.Linear(4 * heads if own else heads, width) for _ in range(depth))
        self.kin = nn.Linear(2 * len(TAUS), width) if kin else None
        every += len(TAUS) * kin
        self.pull, self.push = nn.Linear(width, PULLS * every), nn.Linear(width, PULLS * 3) if own else None
        self.final = nn.Linear(width, 2 * width)
        for layer in (self.bond, self.alike):
            nn.init.zeros_(layer.weight)
        for layer in (self.sharpen, self.pull, self.final, *self.look, *([self.push] if self.push is not None else [])):
            zero_(layer)

    # ---- once a walk -------------------------------------------------------------------------------------------------

    def given(
        self,
        ligand: dict[str, Tensor],
        pocket: dict[str, Tensor],
        template: dict[str, Tensor],
        kin: dict[str, Tensor],
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
            "blind": torch.cat((hidden, blind), 1), "fixed": places, "backbone": pocket["places"][:, :, 0], "kin": kin, "body": {
                name: ligand[name] for name in BODY},
        }  # fmt: skip

    def _placed(self, places: Tensor, layer: nn.Linear | None) -> Tensor | float:
        if layer is None:
            return 0.0
        return layer(torch.cat([spread(each) for each in places.split(3, -1)], -1))

    # ---- every call --------------------------------------------------------------------------------------------------

    def forward(
        self, x: dict[str, Tensor], level: dict[str, Tensor], level_s: dict[str, Tensor] | None = None, *, atoms: Tensor,
        keys: Tensor, known: Tensor, blind: Tensor, fixed: Tensor, backbone: Tensor, kin: dict[str, Tensor],
        body: dict[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """What is shown of the parts of a pose, and their levels (B,) -> the answer of each part. level_s: where a flow map is to
        arrive. Raises ValueError where it is given to a network of another process than flow."""
        if level_s is not None and not self.arrivals:
            raise ValueError("only poses learned with --method.process flow have a flow map")
        with torch.no_grad(), no_autocast(atoms):
            now = self.coding.shown(x, level)
            places = self.coding.places(now, body)
            every = torch.cat((places, fixed.float()), 1)
            N, P = places.shape[1], backbone.shape[1]
            apart = self.radial(torch.cdist(places, every))
            to_backbone = self.radial(torch.cdist(places, backbone.float()))
        condition = sum(self.levels[name](level[name]) for name in self.coding.parts)
        if level_s is not None:
            condition = condition + sum(arrive(level_s[name]) for name, arrive in self.arrivals.items())
        near = torch.cat((
            self.near(apart[:, :, :N]), self.near_pocket(torch.cat((apart[:, :, N : N + P], to_backbone), -1)),
            self.near_template(apart[:, :, N + P :]),
        ), 2).float()  # fmt: skip
        near = near * (1 + self.sharpen(condition).float())[:, None, None] + known
        biases = near.permute(0, 3, 1, 2).unflatten(1, (len(self.blocks), self.heads)) + blind[:, None, None, None]
        h, looks = atoms + self._placed(places, self.place), []
        if self.kin is not None:
            with torch.no_grad(), no_autocast(atoms):
                density, way = looked(places, kin["places"].float(), kin["weight"].float())
            h, looks = h + self.kin(torch.cat((density / 4, way.norm(dim=-1) / 2), -1)), [way]
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
        field = self.pulled(standard(h) * (1 + scale) + shift, torch.cat(looks, 2), body["there"])
        with no_autocast(h):
            answer: dict[str, Tensor] = self.coding.answer(field, places, now, level, body)
        return answer

    def pulled(self, h: Tensor, looks: Tensor, there: Tensor) -> Tensor:
        """Fields of pulls at the atoms, (PULLS, B, N, 3), from tokens and where their heads and kin look (B, N, looks, 3)."""
        pulls = self.pull(h).unflatten(-1, (PULLS, -1))
        direct = None if self.push is None else self.push(h).unflatten(-1, (PULLS, 3)).float()
        with no_autocast(h):
            field = torch.einsum("bnpl,bnlc->pbnc", pulls.float(), looks)
            if direct is not None:
                field = field + direct.movedim(2, 0)
            return field * there[None, ..., None]
