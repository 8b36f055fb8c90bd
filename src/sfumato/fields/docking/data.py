"""Prepared complexes: what the network is shown of them, as items.

    cache/ligands.sdf, poses.npz, receptors.npz --Store--> Poses: {"x", "weight", "ligand", "pocket", "template", "kin"}

What depends on what is held out is made here, when a run is opened: the site of a receptor (the mean of the poses learned from)
and the templates (known poses of the same receptor, of another scaffold).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.data.structures import Structure, nearest
from sfumato.diffusion import SO3
from sfumato.errors import DataError
from sfumato.fields.docking.batching import BLANK, Pocket, Shape, Template, rows_of
from sfumato.fields.docking.chemistry import Ligand, chem, from_file, tanimoto
from sfumato.fields.docking.coding import CODINGS
from sfumato.fields.docking.facts import DockingFacts
from sfumato.fields.docking.kin import Kin
from sfumato.fields.docking.pose import UNIT, Joints
from sfumato.fields.docking.preparing import PARTS, lying

if TYPE_CHECKING:
    from sfumato.training.run import Run

TEMPLATES, LEAST = 5, 0.2
"""Known poses that are shown of, one a sample, and the least Tanimoto similarity of one."""
REACH = 8.0
"""A around a reference ligand within which residues are its pocket."""


def _shapes(k: int, n: int, m: int) -> dict[str, tuple[int, ...]]:
    """The shapes of what is stored of a ligand with k conformers, n atoms and m torsions."""
    return dict(zip(PARTS, ((k, n, 3), (k, m), (k, 3, 3), (k, 3), (k,)), strict=True))


@dataclass(frozen=True, eq=False)
class Known:
    """A ligand with a pose: its conformers matched to it, and what turns."""

    ligand: Ligand
    joints: Joints
    receptor: int
    rows: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rows["left"])


@dataclass(frozen=True, eq=False)
class Store:
    """The prepared complexes of a run."""

    facts: DockingFacts
    known: tuple[Known, ...]
    structures: tuple[Structure, ...]

    @classmethod
    def of(cls, run: Run, facts: DockingFacts) -> Store:
        """From a run's cache. Raises DataError."""
        from sfumato.errors import decoding

        chem()
        read = list(from_file(run.cache / "ligands.sdf", posed=True))
        with decoding(run.cache, "train again from the complexes"):
            poses = np.load(run.cache / "poses.npz", allow_pickle=False)
            stored = np.load(run.cache / "receptors.npz", allow_pickle=False)
            counts, sizes = poses["counts"], stored["sizes"]
            rows: list[dict[str, np.ndarray]] = [{} for _ in counts]
            for name in PARTS:
                own = [_shapes(*map(int, each))[name] for each in counts]
                ends = np.cumsum([int(np.prod(each)) for each in own])
                for row, part, each in zip(rows, np.split(poses[name], ends[:-1]), own, strict=True):
                    row[name] = part.reshape(each)
            structures = _unpacked(stored, sizes)
            ligands = [each for each in read if isinstance(each, Ligand)]
            if len(ligands) != len(rows) or len(rows) != len(facts.names):
                raise ValueError(f"{len(ligands)} ligands, {len(rows)} poses, {len(facts.names)} names")
        known = tuple(Known(ligand, Joints.of(ligand.mol), receptor, row)
                      for ligand, receptor, row in zip(ligands, facts.receptor, rows, strict=True))  # fmt: skip
        return cls(facts, known, structures)

    @cached_property
    def learned(self) -> tuple[int, ...]:
        """The complexes that are learned from."""
        return tuple(i for i, held in enumerate(self.facts.held) if not held)

    @cached_property
    def held_out(self) -> tuple[int, ...]:
        """Those held out."""
        return tuple(i for i, held in enumerate(self.facts.held) if held)

    @cached_property
    def sites(self) -> tuple[np.ndarray, ...]:
        """The centre of each receptor's site, (3,) each: of several poses learned from the mean of their centroids, of fewer that
        of the residues around one, so that it does not tell where that lies."""
        found = []
        for number, structure in enumerate(self.structures):
            own = [lying(self.known[i].ligand).mean(0) for i in self.learned if self.known[i].receptor == number]
            if len(own) >= 3:
                found.append(np.mean(own, axis=0))
                continue
            first = next(each for each in self.known if each.receptor == number)
            found.append(site_around(structure, lying(first.ligand)))
        return tuple(found)

    @cached_property
    def pockets(self) -> tuple[Pocket, ...]:
        """What the network is shown of each receptor."""
        return tuple(
            Pocket.of(structure, site, self.facts.pocket) for structure, site in zip(self.structures, self.sites)
        )

    def others(self, ligand: Ligand, receptor: int) -> list[int]:
        """Known poses on a receptor that may be shown with a ligand: of those learned from; never the ligand itself, nor one of
        its scaffold."""
        return [i for i in self.learned if self.known[i].receptor == receptor
                and self.facts.scaffold[i] != ligand.scaffold and self.known[i].ligand.key != ligand.key]  # fmt: skip

    def templates(self, ligand: Ligand, receptor: int) -> list[tuple[int, float]]:
        """Of those the five most similar, and their similarity, of at least 0.2."""
        own = self.others(ligand, receptor)
        return ranked(ligand, [self.known[i].ligand for i in own], own)

    def template(self, ligand: Ligand, number: int, likeness: float, site: np.ndarray) -> Template:
        """A known pose as it is shown with a ligand."""
        return Template.of(ligand, self.known[number].ligand, likeness, site)

    def data(self, which: Sequence[int], process: str = "heat", jitter: float = 0.0) -> Poses:
        """The poses of these complexes as items, in the coding of a process; each whole complex moved by about ``jitter`` A."""
        return Poses(self, tuple(which), CODINGS[process], jitter)


def ranked(ligand: Ligand, others: list[Ligand], numbers: Sequence[int]) -> list[tuple[int, float]]:
    """The most similar of others to a ligand, by their numbers, and how similar: at most TEMPLATES, at least LEAST."""
    if not others:
        return []
    likeness = tanimoto(ligand, others)
    order = np.argsort(-likeness, kind="stable")[:TEMPLATES]
    return [(int(numbers[i]), float(likeness[i])) for i in order if likeness[i] >= LEAST]


def site_around(structure: Structure, places: np.ndarray) -> np.ndarray:
    """The middle of the residues that have an atom near a ligand: (3,). Raises DataError where there are none."""
    near = np.linalg.norm(structure.places[:, None] - places[None], axis=2).min(1) <= REACH
    if not near.any():
        name, far = nearest(structure, places.mean(0))
        raise DataError(
            f"no atom of the receptor within {REACH:g} A of the ligand; the nearest is {name}, {far:.0f} A away"
        )
    ca, side = structure.anchors()
    own = np.unique(structure.residue[near])
    return np.asarray((ca[own].mean(0) + side[own].mean(0)) / 2)


def _unpacked(stored: Any, sizes: np.ndarray) -> tuple[Structure, ...]:
    ends = np.cumsum(sizes, 0)[:-1]
    residues = {name: np.split(stored[name], ends[:, 0]) for name in ("names", "chains", "numbers")}
    atoms = {name: np.split(stored[name], ends[:, 1]) for name in ("atoms", "elements", "places", "residue")}
    every: list[dict[str, Any]] = [
        {name: part[i] for name, part in {**residues, **atoms}.items()} for i in range(len(sizes))
    ]
    return tuple(Structure(**each) for each in every)


# ---- items -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Poses:
    """Items: a complex, one of its matched conformers, and one of its templates."""

    store: Store
    which: tuple[int, ...]
    coding: Any = CODINGS["heat"]
    jitter: float = 0.0

    @cached_property
    def rows(self) -> list[tuple[int, int, tuple[int, float] | None]]:
        """Complex, conformer, template (its complex, similarity) of each item."""
        found = []
        for i in self.which:
            known = self.store.known[i]
            own: list[tuple[int, float] | None] = [*self.store.templates(known.ligand, known.receptor)] or [None]
            found += [(i, k, template) for k in range(len(known)) for template in own]
        return found

    @cached_property
    def kins(self) -> dict[int, Kin]:
        """What known poses say about each complex's atoms."""
        store, found = self.store, {}
        for i in self.which:
            known = store.known[i]
            others = [store.known[j].ligand for j in store.others(known.ligand, known.receptor)]
            found[i] = Kin.of(known.ligand, others, store.sites[known.receptor])
        return found

    @cached_property
    def shapes(self) -> list[Shape]:
        """What each item is padded to."""
        known = self.store.known
        return [Shape.of(len(known[i].ligand), len(known[i].joints), 0 if t is None else len(known[t[0]].ligand))
                for i, _, t in self.rows]  # fmt: skip

    @cached_property
    def buckets(self) -> np.ndarray:
        """Items of one shape, (len,) int64."""
        return np.array([shape.number for shape in self.shapes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The complex, and the conformer."""
        return f"{self.store.facts.names[self.rows[index][0]]} (conformer {self.rows[index][1]})"

    def batch(self, indices: np.ndarray) -> dict[str, Any]:
        """{"x", "weight", "ligand", "pocket", "template", "kin"} of items of one shape, x as the coding has it."""
        store, own = self.store, [self.rows[int(i)] for i in indices]
        shape = self.shapes[int(indices[0])]
        known = [store.known[i] for i, _, _ in own]
        made = rows_of(
            shape, [(each.ligand, each.joints, each.rows["conformers"][k]) for each, (_, k, _) in zip(known, own)],
            [store.pockets[each.receptor] for each in known],
            [BLANK if t is None else store.template(each.ligand, *t, store.sites[each.receptor])
             for each, (_, _, t) in zip(known, own)],
            [self.kins[i] for i, _, _ in own],
        )  # fmt: skip
        torsions = np.zeros((len(own), shape.torsions), dtype=np.float32)
        for row, each, (_, k, _) in zip(torsions, known, own):
            row[: len(each.joints)] = each.rows["torsions"][k]
        which = [k for _, k, _ in own]
        centre = [(each.rows["centre"][k] - store.sites[each.receptor]) / UNIT for each, k in zip(known, which)]
        turn = np.stack([each.rows["turn"][k] for each, k in zip(known, which)])
        parts = {"centre": np.stack(centre).astype(np.float32), "turn": turn, "torsions": torsions}
        x = {name: torch.from_numpy(part) for name, part in parts.items()}
        if self.jitter:
            x, made = jittered(x, made, indices, self.jitter)
        coded = self.coding.encode(x, made["ligand"])
        return {"x": coded, "weight": self.coding.weight(made["ligand"]), **made}


def jittered(
    x: dict[str, Tensor], made: dict[str, dict[str, Tensor]], indices: np.ndarray, jitter: float
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Centre, turn and torsions, and what is shown beside them, each complex moved as a whole: by a normal step of ``jitter`` A
    a coordinate, and turned by ``jitter`` / 6 radians about each axis. The move is a function of the item's number."""
    move = np.stack([np.random.default_rng(int(i)).normal(size=6) for i in indices]).astype(np.float32) * jitter
    R = SO3().exp(torch.eye(3).expand(len(move), 3, 3), torch.from_numpy(move[:, 3:] / 6))
    step = torch.from_numpy(move[:, :3])
    pocket, template = made["pocket"], made["template"]
    places = pocket["places"].flatten(1, 2) @ R.transpose(1, 2) + step[:, None]
    known = (template["places"] @ R.transpose(1, 2) + step[:, None]) * template["there"][..., None]
    places = places.unflatten(1, pocket["places"].shape[1:3]) * pocket["there"][..., None, None]
    kin = made["kin"]["places"].flatten(1, 2) @ R.transpose(1, 2) + step[:, None]
    moved = {**made, "pocket": {**pocket, "places": places}, "template": {**template, "places": known}}
    moved["kin"] = {**made["kin"], "places": kin.view_as(made["kin"]["places"])}
    centre = (R @ x["centre"][..., None])[..., 0] + step / UNIT
    return {**x, "centre": centre, "turn": R @ x["turn"]}, moved
