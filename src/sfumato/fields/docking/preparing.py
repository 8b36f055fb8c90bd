"""Complexes into a run: ligands read, conformers matched to their poses, receptors kept; once, whatever is held out.

files --complexes.found--> Complex --prepare--> cache/ligands.sdf, poses.npz, receptors.npz, complexes.json, and data.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.data import split
from sfumato.data.structures import Structure, read_structure
from sfumato.errors import DataError, Wrong, decoding, shown
from sfumato.fields.docking.chemistry import EXTRA, Ligand, from_file
from sfumato.fields.docking.complexes import Complex
from sfumato.fields.docking.facts import DockingFacts
from sfumato.fields.docking.pose import CONFORMERS, UNIT, Joints, conformers, matched, quads_of, read_off
from sfumato.fields.docking.sdf import block
from sfumato.training.run import write_text

if TYPE_CHECKING:
    from sfumato.training.run import Run

FAR = 2.0
"""A from the pose, beyond which a matched conformer is not learned from."""
FRAME = 5.0
"""Median A of a target's poses from the nearest atom of its receptor, above which they lie in another frame."""
LISTED = "complexes.json"
"""What was kept of the complexes, in the cache."""
LARGEST_LEFT = 0.5
"""Share of the ligands that may be left out."""
PARTS = ("conformers", "torsions", "turn", "centre", "left")
"""What is kept of each ligand."""


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
    with decoding(run.cache / "poses.npz", "remove the folder and train again"):
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
        far = [float(np.linalg.norm(atoms[:, None] - lying(ligand)[None], axis=2).min())
               for each, ligand in kept if each.protein == path]  # fmt: skip
        if np.median(far) > FRAME:
            raise DataError(
                f"{shown(path)}: its poses lie {np.median(far):.0f} A from its nearest atom (median), so in another frame; "
                "superpose receptor and poses"
            )


def lying(ligand: Ligand) -> np.ndarray:
    """The pose of a ligand that has one, (N, 3)."""
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
    joints, pose = Joints.of(ligand.mol), torch.from_numpy(lying(ligand))
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
    run.cache.mkdir(parents=True, exist_ok=True)
    with (run.cache / "ligands.sdf").open("w", encoding="utf-8") as file:
        for _, ligand in found:
            file.write(block(ligand, lying(ligand), {}))
    counts = np.array([row["conformers"].shape[:2] + row["torsions"].shape[1:] for row in rows], dtype=np.int64)
    flat: dict[str, Any] = {name: np.concatenate([row[name].reshape(-1) for row in rows]) for name in rows[0]}
    np.savez(run.cache / "poses.npz", counts=counts, **flat)
    parts = ("names", "chains", "numbers", "atoms", "elements", "places", "residue")
    sizes = np.array([(len(each), len(each.places)) for each in structures], dtype=np.int64)
    joined: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in structures]) for name in parts}
    np.savez(run.cache / "receptors.npz", sizes=sizes, **joined)
