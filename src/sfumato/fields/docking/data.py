"""Complexes made ready in a run: ligands with conformers matched to their poses, receptors, and what the network is shown.

    files --complexes.found--> Complex --prepare--> cache/ligands.sdf, poses.npz, receptors.npz --Store--> Poses: {"x", "weight",
    "ligand", "pocket", "template"}

Nothing here depends on what is held out but the site of a receptor (the mean of the poses learned from) and the templates
(known poses of the same receptor, of another scaffold), which are made when the run is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.data import split
from sfumato.data.structures import Structure, nearest, read_structure
from sfumato.errors import DataError, Wrong, shown
from sfumato.fields.docking.batching import BLANK, Pocket, Shape, Template, rows_of
from sfumato.fields.docking.chemistry import EXTRA, Ligand, chem, from_file, tanimoto
from sfumato.fields.docking.coding import CODINGS
from sfumato.fields.docking.complexes import Complex
from sfumato.fields.docking.facts import DockingFacts
from sfumato.fields.docking.pose import CONFORMERS, UNIT, Joints, conformers, matched, quads_of, read_off
from sfumato.training.run import write_text

if TYPE_CHECKING:
    from sfumato.training.run import Run

FAR = 2.0
"""A from the pose, beyond which a matched conformer is not learned from."""
TEMPLATES, LEAST = 5, 0.2
"""Known poses that are shown of, one a sample, and the least Tanimoto similarity of one."""
REACH = 8.0
"""A around a reference ligand within which residues are its pocket."""
FRAME = 5.0
"""Median A of a target's poses from the nearest atom of its receptor, above which they lie in another frame."""
LISTED = "complexes.json"
"""What was kept of the complexes, in the cache."""
LARGEST_LEFT = 0.5
"""Share of the ligands that may be left out."""


def prepare(
    run: Run, complexes: Sequence[Complex], fold: int | None, share: float, pocket: int, tell: Callable[[str], None]
) -> DockingFacts:
    """Complexes into the run; what lies in its cache already, of the same files, is not made again. Raises DataError, Wrong."""
    made_of = _content(complexes)
    stored = _stored(run)
    if stored.get("made_of") != made_of:
        stored = _made(run, complexes, made_of, tell)
    names = set(stored["names"])
    own = [each for each in complexes if each.name in names]
    poses = np.load(run.cache / "poses.npz", allow_pickle=False)
    counts, every = poses["counts"], poses["left"]
    first = [float(part.min()) for part in np.split(every, np.cumsum(counts[:, 0])[:-1])]
    facts = DockingFacts(
        tuple(stored["names"]), tuple(stored["receptor"]), tuple(each.target for each in own), tuple(each.fold for each in own),
        tuple(stored["scaffold"]), _held(own, stored["scaffold"], fold, share), tuple(stored["receptors"]),
        tuple(map(int, counts[:, 1])), tuple(map(int, counts[:, 2])), float(np.median(first)), float((every <= 1).mean()),
        len(every), int(stored["dropped"]), int(stored["left"]), pocket,
    )  # fmt: skip
    facts.write(run)
    return facts


def _content(complexes: Sequence[Complex]) -> str:
    """A hash of what files hold that conformers and poses are made of."""
    found = hashlib.sha256(repr((CONFORMERS, FAR)).encode())
    for path in dict.fromkeys(path for each in complexes for path in (each.protein, each.ligand)):
        if path.is_file():
            with path.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    found.update(repr([(each.name, each.protein.name) for each in complexes]).encode())
    return found.hexdigest()


def _stored(run: Run) -> dict[str, Any]:
    """What lies in a run's cache, {} where nothing whole does."""
    try:
        found: dict[str, Any] = json.loads((run.cache / LISTED).read_text(encoding="utf-8"))
        return (
            found if all((run.cache / name).is_file() for name in ("ligands.sdf", "poses.npz", "receptors.npz")) else {}
        )
    except (OSError, ValueError, RecursionError):
        return {}


def _made(run: Run, complexes: Sequence[Complex], made_of: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Read, match and keep; what was kept. Raises DataError."""
    structures: dict[Path, Structure] = {}
    kept: list[tuple[Complex, Ligand]] = []
    for each in complexes:
        try:
            if each.protein not in structures:
                structures[each.protein] = read_structure(each.protein, EXTRA)
            kept.append((each, _posed(each)))
        except DataError as error:
            tell(f"left out  {error}")
    left = len(complexes) - len(kept)
    if len(kept) < 2 or left > LARGEST_LEFT * len(complexes):
        raise DataError(f"{left} of {len(complexes)} complexes cannot be read, see above; two sound ones are needed")
    files = [path for path in structures if any(each.protein == path for each, _ in kept)]
    _in_frame(kept, structures)
    found, rows, dropped = _matched(kept, tell)
    if len(found) < 2:
        raise DataError(f"{len(found)} pose(s) could be matched by a conformer; two are needed to learn from")
    _keep(run, found, rows, [structures[path] for path in files])
    stored = {
        "made_of": made_of, "names": [each.name for each, _ in found],
        "receptor": [files.index(each.protein) for each, _ in found],
        "scaffold": [ligand.scaffold for _, ligand in found], "receptors": [str(path) for path in files], "dropped": dropped,
        "left": left,
    }  # fmt: skip
    write_text(run.cache / LISTED, json.dumps(stored))
    return stored


def _posed(each: Complex) -> Ligand:
    """The ligand of a complex, with its pose. Raises DataError."""
    ligand = next(from_file(each.ligand, posed=True), None)
    if isinstance(ligand, DataError):
        raise ligand
    if ligand is None:
        raise DataError(f"{shown(each.ligand)}: holds no ligand")
    if ligand.places is None:
        raise DataError(
            f"{shown(each.ligand)}: has no three-dimensional pose; give the ligand as it lies in the receptor"
        )
    return replace(ligand, name=each.name)


def _in_frame(kept: Sequence[tuple[Complex, Ligand]], structures: dict[Path, Structure]) -> None:
    """Raises DataError where the poses of a receptor lie elsewhere."""
    for path in dict.fromkeys(each.protein for each, _ in kept):
        atoms = structures[path].places
        far = [float(np.linalg.norm(atoms[:, None] - _there(ligand)[None], axis=2).min())
               for each, ligand in kept if each.protein == path]  # fmt: skip
        if np.median(far) > FRAME:
            raise DataError(
                f"{shown(path)}: its poses lie {np.median(far):.0f} A from its nearest atom (median), so in another frame; "
                "superpose receptor and poses"
            )


def _there(ligand: Ligand) -> np.ndarray:
    assert ligand.places is not None
    return ligand.places


def _matched(
    kept: Sequence[tuple[Complex, Ligand]], tell: Callable[[str], None]
) -> tuple[list[tuple[Complex, Ligand]], list[dict[str, np.ndarray]], int]:
    """Conformers of each ligand, matched to its pose; how many were too far off."""
    from sfumato.training.progress import Watch

    found, rows, dropped = [], [], 0
    with Watch("match", len(kept), unit="ligands") as watch:
        for done, (each, ligand) in enumerate(kept):
            try:
                row = match(ligand)
            except DataError as error:
                tell(f"left out  {error}")
                continue
            near = row["left"] <= FAR
            dropped += int((~near).sum())
            if not near.any():
                tell(
                    f"left out  {ligand.name}: no conformer lies within {FAR:g} A of its pose ({row['left'].min():.1f} A)"
                )
                continue
            found.append((each, ligand))
            rows.append({name: value[near] for name, value in row.items()})
            watch.show(done + 1)
    return found, rows, dropped


def match(ligand: Ligand, count: int = CONFORMERS) -> dict[str, np.ndarray]:
    """Conformers (K, N, 3), the torsions (K, m), turn (K, 3, 3) and centre (K, 3) in A that bring each next to the ligand's pose,
    and the RMSD that is left (K,). Raises DataError."""
    made = conformers(ligand, count)
    joints, pose = Joints.of(ligand.mol), torch.from_numpy(_there(ligand))
    torsions, left = matched(made, joints, quads_of(ligand.mol, joints), pose, torch.Generator().manual_seed(0))
    K = len(made)
    axes, moved = joints.axes.expand(K, -1, -1), joints.moved.expand(K, -1, -1)
    there = torch.ones(made.shape[:2], dtype=torch.bool)
    x = read_off(made, axes, moved, there, torsions, pose.float().expand(K, -1, -1))
    found = made, x["torsions"], x["turn"], UNIT * x["centre"], left.float()
    parts = dict(zip(PARTS, found, strict=True))
    return {name: value.numpy() for name, value in parts.items()}


def _held(complexes: Sequence[Complex], scaffolds: Sequence[str], fold: int | None, share: float) -> tuple[bool, ...]:
    """Which are held out: those of a fold, or whole scaffolds, a share of all. Raises Wrong."""
    if fold is None:
        _, out = split([scaffold.encode() for scaffold in scaffolds], share)
        held = tuple(i in set(out.tolist()) for i in range(len(complexes)))
    else:
        held = tuple(each.fold == fold for each in complexes)
    if all(held) or not any(held):
        known = sorted({each.fold for each in complexes})
        what = f"fold = {fold}" if fold is not None else f"held_out = {share:g}"
        raise Wrong(
            f"{what}: leaves {'nothing to learn from' if all(held) else 'nothing held out'}; the folds are {known}"
        )
    return held


# ---- files -----------------------------------------------------------------------------------------------------------


def _keep(
    run: Run,
    found: Sequence[tuple[Complex, Ligand]],
    rows: Sequence[dict[str, np.ndarray]],
    structures: Sequence[Structure],
) -> None:
    from sfumato.fields.docking.writing import block

    run.cache.mkdir(parents=True, exist_ok=True)
    with (run.cache / "ligands.sdf").open("w", encoding="utf-8") as file:
        for _, ligand in found:
            file.write(block(ligand, _there(ligand), {}))
    counts = np.array([row["conformers"].shape[:2] + row["torsions"].shape[1:] for row in rows], dtype=np.int64)
    flat: dict[str, Any] = {name: np.concatenate([row[name].reshape(-1) for row in rows]) for name in rows[0]}
    np.savez(run.cache / "poses.npz", counts=counts, **flat)
    parts = ("names", "chains", "numbers", "atoms", "elements", "places", "residue")
    sizes = np.array([(len(each), len(each.places)) for each in structures], dtype=np.int64)
    joined: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in structures]) for name in parts}
    np.savez(run.cache / "receptors.npz", sizes=sizes, **joined)


PARTS = ("conformers", "torsions", "turn", "centre", "left")


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
            own = [_there(self.known[i].ligand).mean(0) for i in self.learned if self.known[i].receptor == number]
            if len(own) >= 3:
                found.append(np.mean(own, axis=0))
                continue
            first = next(each for each in self.known if each.receptor == number)
            found.append(site_around(structure, _there(first.ligand)))
        return tuple(found)

    @cached_property
    def pockets(self) -> tuple[Pocket, ...]:
        """What the network is shown of each receptor."""
        return tuple(
            Pocket.of(structure, site, self.facts.pocket) for structure, site in zip(self.structures, self.sites)
        )

    def templates(self, ligand: Ligand, receptor: int, aside: Sequence[int] = ()) -> list[tuple[int, float]]:
        """Known poses on a receptor for a ligand: the five most similar and their similarity, of those learned from, of at least
        0.2; never the ligand itself, nor one of its scaffold, nor those set aside."""
        own = [i for i in self.learned if self.known[i].receptor == receptor and i not in aside
               and self.facts.scaffold[i] != ligand.scaffold and self.known[i].ligand.key != ligand.key]  # fmt: skip
        return ranked(ligand, [self.known[i].ligand for i in own], own)

    def template(self, ligand: Ligand, number: int, likeness: float, site: np.ndarray) -> Template:
        """A known pose as it is shown with a ligand."""
        return Template.of(ligand, self.known[number].ligand, likeness, site)

    def data(self, which: Sequence[int], process: str = "heat") -> Poses:
        """The poses of these complexes as items, in the coding of a process."""
        return Poses(self, tuple(which), CODINGS[process])


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
        """{"x", "weight", "ligand", "pocket", "template"} of items of one shape, x as the coding has it."""
        store, own = self.store, [self.rows[int(i)] for i in indices]
        shape = self.shapes[int(indices[0])]
        known = [store.known[i] for i, _, _ in own]
        made = rows_of(
            shape, [(each.ligand, each.joints, each.rows["conformers"][k]) for each, (_, k, _) in zip(known, own)],
            [store.pockets[each.receptor] for each in known],
            [BLANK if t is None else store.template(each.ligand, *t, store.sites[each.receptor])
             for each, (_, _, t) in zip(known, own)],
        )  # fmt: skip
        torsions = np.zeros((len(own), shape.torsions), dtype=np.float32)
        for row, each, (_, k, _) in zip(torsions, known, own):
            row[: len(each.joints)] = each.rows["torsions"][k]
        which = [k for _, k, _ in own]
        centre = [(each.rows["centre"][k] - store.sites[each.receptor]) / UNIT for each, k in zip(known, which)]
        turn = np.stack([each.rows["turn"][k] for each, k in zip(known, which)])
        parts = {"centre": np.stack(centre).astype(np.float32), "turn": turn, "torsions": torsions}
        x = {name: torch.from_numpy(part) for name, part in parts.items()}
        coded = self.coding.encode(x, made["ligand"])
        return {"x": coded, "weight": self.coding.weight(made["ligand"]), **made}
