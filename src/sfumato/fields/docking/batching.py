"""What the network is shown, as padded tensors: a ligand, the pocket around a site, a template.

Padding depends on the item alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.data.structures import Structure
from sfumato.fields.docking.chemistry import FEATURES, Ligand, alike
from sfumato.fields.docking.kin import KEPT, Kin
from sfumato.fields.docking.pose import Joints

STEPS = (8, 4, 32)
"""Atoms, torsions and template atoms are padded to multiples of these."""


@dataclass(frozen=True)
class Shape:
    """What an item is padded to: atoms of the ligand, torsions, atoms of the template."""

    atoms: int
    torsions: int
    template: int

    @classmethod
    def of(cls, atoms: int, torsions: int, template: int) -> Shape:
        """The shape for such an item."""
        return cls(*(max(step, -(-size // step) * step) for size, step in zip((atoms, torsions, template), STEPS)))

    @property
    def number(self) -> int:
        """One number for it."""
        return (self.atoms * 1000 + self.torsions) * 1000 + self.template


@dataclass(frozen=True, eq=False)
class Pocket:
    """The residues nearest to a site: kind (P,) int64, places (P, 2, 3) float32 of CA and side chain about it, there (P,)."""

    kind: np.ndarray
    places: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, structure: Structure, site: np.ndarray, count: int) -> Pocket:
        """At most ``count`` residues, in the order of the chain."""
        ca, side = structure.anchors()
        far = np.linalg.norm(side - site, axis=1)
        own = np.sort(np.argsort(far, kind="stable")[:count])
        kind, places = np.full(count, 20, dtype=np.int64), np.zeros((count, 2, 3), dtype=np.float32)
        kind[: len(own)] = structure.kinds()[own]
        places[: len(own)] = np.stack((ca[own], side[own]), 1) - site
        return cls(kind, places, np.arange(count) < len(own))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """As tensors."""
        return {
            "kind": torch.from_numpy(self.kind),
            "places": torch.from_numpy(self.places),
            "there": torch.from_numpy(self.there),
        }


@dataclass(frozen=True, eq=False)
class Template:
    """A known pose beside a ligand of N atoms: atoms (T, FEATURES), places (T, 3) about the site, alike (N, T) int64, how far
    atoms are of a kind; likeness, the similarity of the two."""

    atoms: np.ndarray
    places: np.ndarray
    alike: np.ndarray
    likeness: float

    @classmethod
    def of(cls, ligand: Ligand, template: Ligand, likeness: float, site: np.ndarray) -> Template:
        """A template with its pose."""
        assert template.places is not None
        return cls(template.atoms, (template.places - site).astype(np.float32), alike(ligand, template), likeness)


BLANK = Template(np.zeros((0, FEATURES), np.float32), np.zeros((0, 3), np.float32), np.zeros((0, 0), np.int64), 0.0)
"""No template."""


def rows_of(
    shape: Shape,
    ligands: Sequence[tuple[Ligand, Joints, np.ndarray]],
    pockets: Sequence[Pocket],
    templates: Sequence[Template],
    kins: Sequence[Kin],
) -> dict[str, dict[str, Tensor]]:
    """The conditions of a batch of one shape: {"ligand", "pocket", "template", "kin"}, each a dict of tensors, rows first."""
    return {"ligand": _ligands(shape, ligands), "pocket": _pockets(pockets), "template": _templates(shape, templates),
            "kin": _kins(shape, kins)}  # fmt: skip


def _ligands(shape: Shape, ligands: Sequence[tuple[Ligand, Joints, np.ndarray]]) -> dict[str, Tensor]:
    B, N, m = len(ligands), shape.atoms, shape.torsions
    made = {
        "atoms": torch.zeros(B, N, FEATURES), "there": torch.zeros(B, N, dtype=torch.bool), "conformer": torch.zeros(B, N, 3),
        "bonds": torch.full((B, N, N), 7, dtype=torch.int64), "axes": torch.zeros(B, m, 2, dtype=torch.int64),
        "pieces": torch.zeros(B, m + 1, N, dtype=torch.bool), "reach": torch.zeros(B, m + 1, N, dtype=torch.bool),
        "moved": torch.zeros(B, m, N, dtype=torch.bool), "joints": torch.zeros(B, m, dtype=torch.bool),
    }  # fmt: skip
    for row, (ligand, joints, conformer) in enumerate(ligands):
        n, turns = len(ligand), len(joints)
        made["atoms"][row, :n], made["there"][row, :n] = torch.from_numpy(ligand.atoms), True
        made["conformer"][row, :n] = torch.as_tensor(conformer)
        made["bonds"][row, :n, :n] = torch.from_numpy(ligand.bonds)
        made["axes"][row, :turns], made["moved"][row, :turns, :n], made["joints"][row, :turns] = (
            joints.axes,
            joints.moved,
            True,
        )
        made["pieces"][row, : turns + 1, :n], made["reach"][row, : turns + 1, :n] = joints.pieces, joints.reach
    return made


def _pockets(pockets: Sequence[Pocket]) -> dict[str, Tensor]:
    every = [each.tensors for each in pockets]
    return {name: torch.stack([each[name] for each in every]) for name in every[0]}


def _kins(shape: Shape, kins: Sequence[Kin]) -> dict[str, Tensor]:
    B, N = len(kins), shape.atoms
    made = {"places": torch.zeros(B, N, KEPT, 3), "weight": torch.zeros(B, N, KEPT)}
    for row, each in enumerate(kins):
        n = len(each.weight)
        made["places"][row, :n], made["weight"][row, :n] = torch.from_numpy(each.places), torch.from_numpy(each.weight)
    return made


def _templates(shape: Shape, templates: Sequence[Template]) -> dict[str, Tensor]:
    B, N, T = len(templates), shape.atoms, shape.template
    made: dict[str, Any] = {
        "atoms": torch.zeros(B, T, FEATURES), "places": torch.zeros(B, T, 3), "alike": torch.zeros(B, N, T, dtype=torch.int64),
        "there": torch.zeros(B, T, dtype=torch.bool), "likeness": torch.zeros(B),
    }  # fmt: skip
    for row, each in enumerate(templates):
        n, size = each.alike.shape
        made["atoms"][row, :size], made["places"][row, :size] = (
            torch.from_numpy(each.atoms),
            torch.from_numpy(each.places),
        )
        made["alike"][row, :n, :size], made["there"][row, :size] = torch.from_numpy(each.alike), True
        made["likeness"][row] = each.likeness
    return made
