"""Learning to rank: the held-out ligands of a run docked, and a ranker fitted to which poses are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfumato.errors import DataError
from sfumato.fields.docking.asking import SETTLE
from sfumato.fields.docking.measure import RIGHT, certainty, drawn_poses, process_of
from sfumato.fields.docking.rank import NUMBERS, Ranker, scored
from sfumato.fields.docking.symmetry import rmsd, symmetries

if TYPE_CHECKING:
    from sfumato.fields.docking.asking import Docked, Pose
    from sfumato.fields.docking.data import Store
    from sfumato.jobs.model import Model


def examples(store: Store, queries: Docked, poses: Sequence[Pose]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of each pose (n, d), whether it is right (n,), and the number of its case (n,)."""
    x, y, owner = [], [], []
    for k, case in enumerate(queries.cases):
        own = [pose for pose in poses if pose.number // queries.n == k]
        assert case.known is not None
        truth = store.known[case.known].ligand.places
        assert truth is not None
        x.append(scored(own))
        y.append(rmsd(np.stack([pose.places for pose in own]), truth, symmetries(case.ligand.mol)) < RIGHT)
        owner.append(np.full(len(own), k))
    return np.concatenate(x), np.concatenate(y), np.concatenate(owner)


def groups_of(scaffolds: Sequence[str], parts: int) -> np.ndarray:
    """The part of each ligand, (n,): scaffolds stay whole, the largest first into the emptiest part."""
    names, back, count = np.unique(np.array(scaffolds), return_inverse=True, return_counts=True)
    load, part = np.zeros(parts), np.zeros(len(names), dtype=np.int64)
    for k in np.argsort(-count, kind="stable"):
        part[k] = load.argmin()
        load[part[k]] += count[k]
    return np.asarray(part[back])


def apart(learned: Sequence[str], judged: Sequence[str]) -> None:
    """Raises DataError where a scaffold is in both: what is judged would have been seen."""
    if both := sorted(set(learned) & set(judged)):
        raise DataError(f"the scaffold {both[0]} is both learned from and judged; split by scaffold")


def crossed(
    x: np.ndarray, y: np.ndarray, owner: np.ndarray, scaffolds: Sequence[str], parts: int
) -> tuple[list[Ranker], np.ndarray]:
    """A ranker for each part, fitted on the others, and the part of each ligand. Raises DataError for leaks."""
    part = groups_of(scaffolds, parts)
    found = []
    for k in range(parts):
        out = part[owner] == k
        apart([scaffolds[i] for i in np.unique(owner[~out])], [scaffolds[i] for i in np.unique(owner[out])])
        found.append(Ranker.fit(x[~out], y[~out], owner[~out]))
    return found, part


def learn(model: Model, n: int, parts: int, search: bool = True, settle: int = SETTLE) -> tuple[Path, str]:
    """Dock the held-out ligands, fit, write rank.json; returns it and what was found. Raises DataError."""
    from sfumato.fields.docking.asking import held_out

    store = model.companions.store
    queries = held_out(store, n, process=process_of(model), search=search, settle=settle)
    scaffolds = [store.facts.scaffold[case.known] for case in queries.cases if case.known is not None]
    if len(set(scaffolds)) < 2 * parts:
        raise DataError(
            f"{model.run.path}: {len(set(scaffolds))} scaffolds are held out; {2 * parts} are needed for {parts} parts: train "
            "with another --held-out or --fold, or give fewer --parts"
        )
    x, y, owner = examples(store, queries, drawn_poses(model, queries))
    if not 0 < y.sum() < len(y):
        what = "all" if y.any() else "no"
        raise DataError(f"{model.run.path}: {what} poses lie within {RIGHT:g} A; nothing to tell apart; train longer")
    inner, part = crossed(x, y, owner, scaffolds, parts)
    whole = Ranker.fit(x, y, owner, str(model.run.path))
    mean, spread = np.array(whole.mean), np.array(whole.spread)
    folds = tuple(_in_terms(each, mean, spread) for each in inner)
    names = {case.name: int(part[k]) for k, case in enumerate(queries.cases)}
    made = dataclasses.replace(whole, folds=folds, of=names)
    sure = np.concatenate([made(x[owner == k], case.name) for k, case in enumerate(queries.cases)])
    first = np.array([np.flatnonzero(owner == k)[sure[owner == k].argmax()] for k in range(len(queries.cases))])
    known = certainty(sure[first], y[first].astype(float))
    lines = [f"{name:<14} {weight:+.2f}" for name, weight in zip(NUMBERS, whole.weights)]
    told = "\n".join([
        f"{len(queries.cases)} held-out ligands, {len(y)} poses, {100 * y.mean():.0f} % within {RIGHT:g} A", *lines,
        f"first poses, each by a ranker that has not seen its scaffold: {100 * y[first].mean():.0f} % within {RIGHT:g} A; "
        + ", ".join(f"{name} {value:.2f}" for name, value in known.items()),
    ])  # fmt: skip
    return made.write(model.run.path), told


def _in_terms(ranker: Ranker, mean: np.ndarray, spread: np.ndarray) -> tuple[float, ...]:
    """Its weights for numbers made standard by another mean and spread."""
    beta, own_mean, own_spread = (np.array(each) for each in (ranker.weights, ranker.mean, ranker.spread))
    slope = beta[:-1] / own_spread
    return (*(slope * spread).tolist(), float(beta[-1] + (slope * (mean - own_mean)).sum()))
