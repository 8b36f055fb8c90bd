"""How strong the overlay beside `benchmarks.docking` can be made: more conformers, more references, other scores.

    python -m benchmarks.docking_overlay --out OUT --conformers 16 --references 5
    python -m benchmarks.docking_overlay --out OUT --report

OUT is the folder of `benchmarks.docking`. Each conformer of a held-out ligand is laid over each of the nearest known poses of
other scaffolds in the other folds, whatever their similarity. OUT/overlays.csv gets a row for each as a ligand is done, and what
is there is not done again: ligand, reference (0 the nearest), conformer, score of shape and of colour, RMSD from the crystal's
pose. OUT/overlays.json says of some choices among them how many ligands are right, and how far above them the first poses of
OUT's networks are, with 90 % intervals of scaffolds drawn anew. The first eight conformers are those of `benchmarks.docking`.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.docking import FOLDS, parts_of, ranked
from sfumato.fields.docking.chemistry import Ligand
from sfumato.fields.docking.data import Store, tanimoto
from sfumato.fields.docking.measure import RIGHT, interval
from sfumato.fields.docking.overlay import laid
from sfumato.fields.docking.pose import conformers
from sfumato.fields.docking.sdf import posed
from sfumato.fields.docking.symmetry import rmsd, symmetries
from sfumato.jobs.model import load

COLUMNS = ("ligand", "reference", "conformer", "shape", "colour", "rmsd")
SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shape and colour": lambda rows: rows[:, 2] + rows[:, 3], "shape": lambda rows: rows[:, 2],
    "colour": lambda rows: rows[:, 3],
}  # fmt: skip


def compared(store: Store, number: int, count: int, references: int) -> list[tuple[int, int, float, float, float]]:
    """Of a complex every conformer over every reference: which two, the scores, and the RMSD from the crystal."""
    known = store.known[number]
    ligand = Ligand(known.ligand.name, known.ligand.mol)
    others = [store.known[i].ligand for i in store.others(ligand, known.receptor)]
    nearest = np.argsort(-tanimoto(ligand, others), kind="stable")[:references]
    made, ways, found = conformers(ligand, count).numpy(), symmetries(ligand.mol), []
    assert known.ligand.places is not None
    for place, other in enumerate(nearest.tolist()):
        onto = others[other].places
        assert onto is not None
        reference = posed(others[other], onto)
        for k, conformer in enumerate(made):
            shape, colour, places = laid(reference, posed(ligand, conformer))
            found.append((place, k, shape, colour, float(rmsd(places[None], known.ligand.places, ways)[0])))
    return found


def chosen(rows: np.ndarray, count: int, references: int, score: Callable[[np.ndarray], np.ndarray]) -> float:
    """RMSD of the overlay with the highest score; rows (R, 5) as in the table."""
    own = rows[(rows[:, 1] < count) & (rows[:, 0] < references)]
    return float(own[score(own).argmax(), 4])


def report(out: Path) -> dict[str, Any]:
    """overlays.json: of each choice its shares of right ligands, and ours of each seed less that."""
    rows = defaultdict(list)
    for row in csv.DictReader((out / "overlays.csv").open(encoding="utf-8")):
        rows[row["ligand"]].append([float(row[name]) for name in COLUMNS[1:]])
    table = {name: np.array(own) for name, own in rows.items()}
    seeds = {seed: parts_of(out, seed) for seed in (0, 1)}
    first = {seed: ranked(parts)[0][:, 0] < RIGHT for seed, parts in seeds.items() if parts}
    parts = seeds[min(first)]
    names, groups, target = (np.concatenate([part[name] for part in parts]) for name in ("names", "scaffold", "target"))
    there = np.array([name in table for name in names.tolist()])
    most = [int(max(own[:, k].max() for own in table.values())) + 1 for k in (1, 0)]
    found: dict[str, Any] = {"ligands": int(there.sum())}

    def share(values: np.ndarray, own: np.ndarray) -> list[float]:
        return [round(v, 4) for v in interval(values.astype(float)[own], groups[own].tolist())]

    for count in sorted({8, *most[:1]}):
        for references in sorted({1, most[1]}):
            for name, score in SCORES.items():
                right = np.zeros(len(names), dtype=bool)
                right[there] = [chosen(table[own], count, references, score) < RIGHT for own in names[there].tolist()]
                told = {"all": share(right, there)}
                told |= {each: share(right, there & (target == each)) for each in sorted(set(target.tolist()))}
                told |= {f"seed_{seed}_above": share(ours.astype(float) - right, there) for seed, ours in first.items()}
                found[f"{count} conformers, {references} references, {name}"] = told
    (out / "overlays.json").write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--conformers", type=int, default=16)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = options.out / "overlays.csv"
    if not table.is_file():
        table.write_text(",".join(COLUMNS) + "\n")
    done = {row["ligand"] for row in csv.DictReader(table.open(encoding="utf-8"))}
    for fold in () if options.report else range(FOLDS):
        store = load(options.out / f"run_0_{fold}").companions.store
        for number in store.held_out:
            name = store.facts.names[number]
            if name in done:
                continue
            lines = [
                f"{name},{place},{k},{shape:.4f},{colour:.4f},{far:.4f}"
                for place, k, shape, colour, far in compared(store, number, options.conformers, options.references)
            ]
            with table.open("a") as file:
                file.write("\n".join([*lines, ""]))
    print(json.dumps(report(options.out), indent=1))


if __name__ == "__main__":
    main()
