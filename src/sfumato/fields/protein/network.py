"""The network of backbones: a transformer whose tokens are residues, shown noised coordinates in Angstrom units of the data's
spread.

    sequence, regions --given--> trunk (once a walk, once for all noise copies) --> tokens and pair biases
    noised coordinates -> windows of neighbours, pulls of the springs -> blocks with pair bias and distances -> 12 numbers a
    residue

It is not equivariant: its frame is that of the data (`data.framed`), or its items are turned at random in training.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.fields.protein.data import NUMBERS
from sfumato.fields.protein.geometry import pulls
from sfumato.fields.protein.regions import FARTHEST, NONE
from sfumato.networks.parts import Condition, check_level, no_autocast, standard, zero_
from sfumato.networks.points import PairBlock

RELATIVE = 32
"""Distances in sequence are told apart up to this one."""
SIDE = 2
"""Neighbours on each side whose coordinates a residue is shown."""
ABSENT = -1e4
"""The bias towards a residue that is not there: the softmax leaves nothing of it, in every precision."""
HATS, REACH = 24, 4.0
"""Of the distances between CA, in units of the data's spread."""


class BackboneNetwork(nn.Module):
    """Transformer on residues with pair bias.

    scale    spread of the data in Angstrom: what a unit is.
    width, depth, heads   of the blocks that are called with every noise level; trunk: blocks that see the sequence alone.
    guided   the strength of guidance is an input (never of this field).
    """

    units = ("PairBlock",)
    options: dict[str, Any]

    def __init__(
        self, *, scale: float, width: int = 128, depth: int = 6, heads: int = 4, trunk: int = 2, guided: bool = False
    ) -> None:
        super().__init__()
        self.options = {
            "kind": "backbones", "scale": scale, "width": width, "depth": depth, "heads": heads, "trunk": trunk, "guided": guided,
        }  # fmt: skip
        for good, name, right in (
            (scale > 0 and math.isfinite(scale), f"scale = {scale}", "above 0"),
            (width % heads == 0, f"width = {width}", f"divisible by the {heads} heads"),
            (depth >= 1, f"depth = {depth}", "at least 1"),
            (trunk >= 0, f"trunk = {trunk}", "0 or more"),
        ):
            if not good:
                raise ValueError(f"{name}: must be {right}")
        self.scale, self.heads = scale, heads
        self.residue = nn.Embedding(21, width)
        self.region = nn.Embedding(NONE + 1, width)
        self.places = nn.ModuleList(nn.Embedding(FARTHEST + 1, width) for _ in range(2))
        every = trunk + depth
        self.relative = nn.Embedding(2 * RELATIVE + 1, every * heads)
        self.between = nn.Embedding((NONE + 1) ** 2, every * heads)
        self.near = nn.Linear((2 * SIDE + 1) * width, width)
        self.trunk = nn.ModuleList(PairBlock(width, heads) for _ in range(trunk))
        self.condition = Condition(width, guided=guided)
        self.enter = nn.Linear((2 * SIDE + 1) * 2 * NUMBERS + 2 * NUMBERS + 1, width)
        self.apart = nn.ModuleList(nn.Linear(HATS, depth * heads, bias=False) for _ in range(2))
        self.blocks = nn.ModuleList(PairBlock(width, heads, width) for _ in range(depth))
        self.last = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, NUMBERS)
        for layer in (*self.apart, self.last, self.head):
            zero_(layer)
        for table in (self.residue, self.region, *self.places):
            nn.init.normal_(table.weight, std=0.3)
        for table in (self.relative, self.between):
            nn.init.zeros_(table.weight)

    # ---- what depends on the sequence alone

    def given(self, residue: Tensor, region: Tensor, place: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """residue, region (B, L), place (B, L, 2) int64, mask (B, L) bool -> {"sequence" (B, L, width), "bias" (B, depth
        heads, L, L), "mask"}. Called once a walk, and once for all noise copies of an item."""
        h = self.residue(residue.clamp_min(0)) + self.region(region.clamp_min(0))
        for k, table in enumerate(self.places):
            h = h + table(place[..., k].clamp_min(0))
        h = h * mask[..., None]
        h = h + self.near(window(h))
        at = torch.arange(residue.shape[1], device=residue.device)
        relative = (at[None] - at[:, None]).clamp(-RELATIVE, RELATIVE) + RELATIVE
        pair = region.clamp_min(0)[:, :, None] * (NONE + 1) + region.clamp_min(0)[:, None]
        bias = (self.relative(relative)[None] + self.between(pair)).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~mask[:, None, None], ABSENT)
        own = len(self.trunk) * self.heads
        first, rest = bias.split([own, bias.shape[1] - own], 1)
        for block, each in zip(self.trunk, first.chunk(max(1, len(self.trunk)), 1)):
            h, _ = block(h, each)
        return {"sequence": h, "bias": rest, "mask": mask}

    # ---- what depends on the noised coordinates

    def forward(
        self, x: Tensor, level: Tensor, level_s: Tensor | None = None, *, sequence: Tensor, bias: Tensor, mask: Tensor,
        previous: Tensor | None = None, guidance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Answer, shaped like x.

        x         (B, L, 12) at unit variance; level, level_s (B,)
        sequence, bias, mask   from :meth:`given`
        previous  (B, L, 12) the last guess of the data, or None or zeros for none

        Raises ValueError for other shapes.
        """
        h, modulation = self.tokens(x, level, level_s, sequence, bias, mask, previous, guidance)
        with no_autocast(h):
            scale, shift = self.last(F.silu(modulation.float()))[:, None].chunk(2, -1)
            return self.head(standard(h.float()) * (1 + scale) + shift).to(x.dtype)

    def tokens(
        self, x: Tensor, level: Tensor, level_s: Tensor | None, sequence: Tensor, bias: Tensor, mask: Tensor,
        previous: Tensor | None = None, guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What is known of each residue after the last block, (B, L, width), and the modulation (B, width); arguments as of
        :meth:`forward`."""
        if x.shape[-1] != NUMBERS or x.shape[:2] != mask.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected {(*mask.shape, NUMBERS)}")
        check_level(level, len(x))
        with no_autocast(x):
            h = self.entered(x.float(), level, mask, previous) + sequence.float()
            pairs = bias.float() + self.distances(x.float(), previous)
        modulation = self.condition(level, level_s, None, guidance)
        for block, own in zip(self.blocks, pairs.chunk(len(self.blocks), 1)):
            h, _ = block(h, own, None, modulation)
        return h, modulation

    def entered(self, x: Tensor, level: Tensor, mask: Tensor, previous: Tensor | None) -> Tensor:
        """Tokens (B, L, width) of what is shown: the residue's own numbers and those of its neighbours from its CA, how the
        springs pull it in units of the noise, and the last guess."""
        real = mask[..., None].to(x.dtype)
        ca = x[..., 3:6].repeat(1, 1, NUMBERS // 3)
        sigma = level.float().exp()[:, None, None]
        whole = x * (1 + sigma.square()).sqrt() * self.scale  # x_t in Angstrom
        pull = pulls(whole.unflatten(-1, (-1, 3)), mask).flatten(2)
        reach = (sigma * self.scale).square().add(0.03**2).sqrt()
        pull = pull / reach / (1 + pull.abs() / (4 * reach))
        near = window((x * real), ca) * window(real.expand(-1, -1, NUMBERS))
        told = torch.zeros_like(x) if previous is None else previous.float()
        there = (told.abs().sum(-1, keepdim=True) > 0).to(x.dtype)
        shown = (x * real, told * real, there * real, near, window(pull * real))
        return self.enter(torch.cat(shown, -1))

    def distances(self, x: Tensor, previous: Tensor | None) -> Tensor:
        """A bias (B, depth heads, L, L) by the distances of CA, of what is shown and of the last guess."""
        bias = self.apart[0](hats(apart(x[..., 3:6])))
        if previous is not None:
            known = previous.float()
            there = (known.abs().sum((1, 2)) > 0)[:, None, None, None]
            bias = bias + there * self.apart[1](hats(apart(known[..., 3:6])))
        return bias.permute(0, 3, 1, 2)


def apart(points: Tensor) -> Tensor:
    """Distances (B, L, L) of points (B, L, 3)."""
    return (points[:, :, None] - points[:, None]).square().sum(-1).add(1e-8).sqrt()


@torch.no_grad()
def hats(distance: Tensor) -> Tensor:
    """Distances (B, L, L) as triangles: max(0, 1 - |distance - place| / step) at even places up to ``REACH``, where all that
    is farther is counted too, (B, L, L, HATS). As smooth as Gaussians to what follows, at half the price."""
    step = REACH / (HATS - 1)
    places = torch.arange(HATS, device=distance.device, dtype=distance.dtype)
    return (distance.clamp_max(REACH) / step)[..., None].sub(places).abs_().neg_().add_(1).clamp_min_(0)


def window(values: Tensor, about: Tensor | None = None) -> Tensor:
    """The values (B, L, k) of each residue and two neighbours on each side, less those ``about`` it, 0 beyond the ends:
    (B, L, 5 k)."""
    length = values.shape[1]
    wide = F.pad(values, (0, 0, SIDE, SIDE))
    parts = [wide[:, k : k + length] for k in range(2 * SIDE + 1)]
    return torch.cat(parts if about is None else [part - about for part in parts], -1)
