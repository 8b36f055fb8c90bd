"""`sfumato evaluate` of docking: how far ranked poses lie from the crystal's, beside the overlay on the nearest known pose.

RMSD of heavy atoms in place, least over the molecule's symmetries. Intervals draw scaffolds anew: ligands of one are not
independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.docking.asking import Docked, Pose, held_out
from sfumato.fields.docking.chemistry import Ligand, chem
from sfumato.fields.docking.judged import BINS, Judged
from sfumato.fields.docking.overlay import overlays
from sfumato.fields.docking.rank import ranked
from sfumato.fields.docking.sdf import block
from sfumato.fields.docking.symmetry import rmsd, symmetries
from sfumato.jobs.report import Report
from sfumato.metrics.table import Row
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.fields.docking.companions import Companions
    from sfumato.fields.docking.options import DockingAsk, DockingMeasure
    from sfumato.jobs.model import Model

RIGHT = 2.0
BEST = (1, 5, 10, 40)
DRAWS = 2000


def cases(model: Model, measure: DockingMeasure, ask: DockingAsk) -> Docked:
    """The held-out complexes to measure on. Raises RunError."""
    store = model.companions.store
    count = len(store.held_out)
    most = count if measure.cases is None else min(measure.cases, count)
    which = [store.held_out[k * count // most] for k in range(most)]
    found = held_out(store, measure.n, which, process_of(model), ask.search, ask.settle)
    if len(found.cases) < 2:
        raise RunError(
            f"{model.run.path}: {len(found.cases)} held-out ligand(s) can be docked; two are needed to measure"
        )
    return found


def process_of(model: Model) -> str:
    """The name of what a run diffuses."""
    recipe: Any = model.recipe
    return str(recipe.method.process)


def drawn_poses(model: Model, queries: Docked) -> list[Pose]:
    """All samples of the queries, in order, with a progress bar."""
    from sfumato.training.progress import Watch

    found: list[Pose] = []
    with Watch("dock", len(queries), unit="poses") as watch:
        for part in model.recipe.draw(model, queries, range(len(queries))):
            found += model.recipe.things(model, queries, part)
            watch.show(len(found))
    return sorted(found, key=lambda pose: pose.number)


def judged(
    companions: Companions, queries: Docked, poses: Sequence[Pose], laid: Sequence[np.ndarray | None]
) -> list[Judged]:
    """Each case measured against its crystal pose."""
    store, found = companions.store, []
    for k, case in enumerate(queries.cases):
        assert case.known is not None
        own = [pose for pose in poses if pose.number // queries.n == k]
        truth = store.known[case.known].ligand.places
        assert truth is not None
        ways = symmetries(case.ligand.mol)
        order = ranked(companions.ranker, own)
        far = rmsd(np.stack([pose.places for pose in order]), truth, ways)
        place = {pose.place: value for pose, value in zip(order, far)}
        over = laid[k]
        found.append(Judged(
            case.name, store.facts.target[case.known], store.facts.scaffold[case.known], case.similarity, far,
            np.array([place[p] for p in sorted(place)]), np.array([pose.scores.get("confidence", np.nan) for pose in order]),
            float("nan") if over is None else float(rmsd(over[None], truth, ways)[0]),
            float(np.linalg.norm(order[0].places.mean(0) - truth.mean(0))), order[0].scores["agreement"],
        ))  # fmt: skip
    return found


def intact(queries: Docked, poses: Sequence[Pose]) -> float:
    """Share of the written poses whose bonds, charges and stereo, read again from their places, are the input's. Where a
    crystal's ligand left a centre open, which a pose cannot, that one is not compared."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        good = sum(same(pose.case.ligand, block(pose.case.ligand, pose.places, {})) for pose in poses)
    return good / max(1, len(poses))


def same(ligand: Ligand, text: str) -> bool:
    """Whether a record of an SDF file holds a ligand as it is."""
    Chem = chem()
    mol = Chem.MolFromMolBlock(text, removeHs=False)
    if mol is None or mol.GetNumAtoms() != len(ligand):
        return False
    Chem.AssignStereochemistryFrom3D(mol)
    for mine, other in zip(ligand.mol.GetAtoms(), mol.GetAtoms()):
        if mine.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
            other.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in ligand.mol.GetBonds():
        other = mol.GetBondBetweenAtoms(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        if other is not None and bond.GetStereo() == Chem.BondStereo.STEREONONE:
            other.SetStereo(Chem.BondStereo.STEREONONE)
    return bool(Chem.MolToSmiles(mol) == ligand.smiles)


def interval(
    values: np.ndarray, groups: Sequence[str], of: Callable[[np.ndarray], float] = np.mean
) -> tuple[float, float, float]:
    """A statistic of one value a ligand, with a 90% interval: whole scaffolds are drawn anew (of a single one its
    ligands)."""
    names, back = np.unique(np.array(groups), return_inverse=True)
    if len(names) == 1:  # of which nothing can be said but as if its ligands were independent
        names = back = np.arange(len(values))
    own = [np.flatnonzero(back == k) for k in range(len(names))]
    chance = np.random.default_rng(0)
    drawn = [
        of(values[np.concatenate([own[k] for k in chance.integers(len(own), size=len(own))])]) for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, (0.05, 0.95))
    return float(of(values)), float(low), float(high)


def rows_of(found: Sequence[Judged], chirality: float) -> list[Row]:
    """The metrics, each with its interval."""
    groups, n = [each.scaffold for each in found], len(found)
    overlay = np.array([each.overlay < RIGHT for each in found])
    values: list[tuple[str, np.ndarray, float | None]] = [
        ("top1_2A", np.array([each.rmsd[0] < RIGHT for each in found]), float(overlay.mean())),
        ("top1_1A", np.array([each.rmsd[0] < 1 for each in found]), None),
        ("top5_2A", np.array([each.rmsd[:5].min() < RIGHT for each in found]), None),
        *((f"best_of_{k}_2A", np.array([each.drawn[:k].min() < RIGHT for each in found]), None)
          for k in BEST if k <= len(found[0].drawn)),
        ("centre_1A", np.array([each.centre < 1 for each in found]), None), ("overlay_2A", overlay, None),
    ]  # fmt: skip
    rows = [Row(name, *interval(own.astype(float), groups), floor, "higher", n, 0) for name, own, floor in values]
    first = np.array([each.rmsd[0] for each in found])
    rows.append(Row("top1_rmsd_median", *interval(first, groups, np.median), None, "lower", n, 0))
    rows.append(Row("intact", chirality, chirality, chirality, 1.0, "higher", n, 0))
    for target in sorted({each.target for each in found}) if len({each.target for each in found}) <= 6 else ():
        own = [each for each in found if each.target == target]
        rows.append(_share(f"top1_2A_{target}", own))
    for low, high in zip((-1, *BINS), (*BINS, 2)):
        own = [each for each in found if low <= each.similarity < high]
        if len(own) >= 2:
            rows.append(_share(f"top1_2A_similarity_{max(low, 0):g}_{min(high, 1):g}", own))
    return rows


def _share(name: str, found: Sequence[Judged]) -> Row:
    over = float(np.mean([each.overlay < RIGHT for each in found]))
    right = np.array([each.rmsd[0] < RIGHT for each in found], dtype=float)
    return Row(name, *interval(right, [each.scaffold for each in found]), over, "higher", len(found), 0)


def certainty(sure: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """How well confidences (n,) say what is right (n,): expected calibration error over 10 bins of equal count, Brier score,
    area under the ROC curve, and the accuracy of the surer half."""
    order = np.argsort(sure, kind="stable")
    bins = [part for part in np.array_split(order, 10) if len(part)]
    error = sum(len(part) * abs(sure[part].mean() - right[part].mean()) for part in bins) / len(sure)
    found = {"calibration_error": float(error), "brier": float(np.square(sure - right).mean())}
    found["surest_half"] = float(right[order[len(order) // 2 :]].mean())
    if 0 < right.sum() < len(right):
        places = _ranks(sure)
        positive = right.astype(bool)
        k = positive.sum()
        found["auroc"] = float((places[positive].sum() - k * (k + 1) / 2) / (k * (len(right) - k)))
    return found


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing theirs."""
    _, back, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[back])


def evaluate(model: Model, measure: DockingMeasure, ask: DockingAsk) -> Report:
    """Held-out ligands docked, searching and settling as ``ask`` has it, and measured. Raises RunError."""
    queries = cases(model, measure, ask)
    laid = overlays(queries.cases) if measure.overlay else [None] * len(queries.cases)
    poses = drawn_poses(model, queries)
    found = judged(model.companions, queries, poses, laid)
    rows = rows_of(found, intact(queries, poses))
    notes = [
        f"{len(found)} held-out ligands, {measure.n} poses of each, from conformers of their SMILES; RMSD in place, least over "
        "symmetries; 90% intervals of scaffolds drawn anew; the floor beside top-1 is the overlay on the nearest known pose",
        f"matching floor: the best conformer of a ligand lies {model.facts.floor:.2f} A from its crystal pose (median)",
    ]
    sure = np.array([each.sure[0] for each in found])
    if np.isfinite(sure).all():
        known = certainty(sure, np.array([each.rmsd[0] < RIGHT for each in found], dtype=float))
        notes.append(
            "confidence of the first pose: " + ", ".join(f"{name} {value:.2f}" for name, value in known.items())
        )
    else:
        notes.append("ranked by how many samples agree; `sfumato docking rank RUN` learns a confidence")
    few = [each for each in found if each.similarity < BINS[0]]
    if few:
        notes.append(f"{len(few)} ligand(s) are like nothing that was learned from (similarity below {BINS[0]})")
    about: dict[str, Any] = {"ligands": [_told(each) for each in found]}
    from sfumato.fields.docking.looks import pictures

    return Report(tuple(rows), tuple(notes), pictures(model, queries, poses, found), about, table(rows))


def table(rows: Sequence[Row]) -> str:
    """The metrics for people: value, interval, and the overlay's where it says as much."""
    lines = [("", "", "90% interval", "overlay", "ligands")]
    for row in rows:
        share = row.metric.endswith("_1A") or "_2A" in row.metric or row.metric == "intact"
        shown = (lambda v: f"{100 * v:.1f} %") if share else (lambda v: f"{v:.2f} A")
        over = "" if row.floor is None or row.metric == "intact" else shown(row.floor)
        lines.append((row.metric, shown(row.value), f"{shown(row.low)} to {shown(row.high)}", over, str(row.n)))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def _told(each: Judged) -> dict[str, Any]:
    """A case for metrics.json."""
    over = None if np.isnan(each.overlay) else round(each.overlay, 3)
    return {"name": each.name, "target": each.target, "similarity": round(each.similarity, 3), "overlay": over,
            "rmsd": [round(value, 3) for value in each.rmsd.tolist()]}  # fmt: skip
