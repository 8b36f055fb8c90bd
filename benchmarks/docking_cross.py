"""What a model of two targets does on 54 others: read, posed and written, and an honest table.

    python -m benchmarks.docking_cross --complexes complexes.zip --run OUT/run_0_0 --out CROSS

54 crystal complexes of 54 targets (`ID/ID_pocket.pdb`, `ID/ID_ligand.sdf`), docked from conformers of their SMILES into the
middle of the residues that their file of the pocket holds, by a run that has learned from two other targets and is shown no known
pose. Beside it a conformer at that middle, turned at random: what is right without any model. CROSS gets poses as files, and
cross.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.fields.docking.chemistry import Ligand, from_file
from sfumato.fields.docking.complexes import Complex, found
from sfumato.fields.docking.measure import drawn_poses, intact, interval
from sfumato.fields.docking.options import DockingAsk
from sfumato.fields.docking.rank import ranked
from sfumato.fields.docking.symmetry import rmsd, symmetries
from sfumato.fields.docking.writing import write
from sfumato.jobs.model import load


def table(many: list[Complex], path: Path) -> Path:
    """The complexes as DiffDock's table."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("complex_name", "protein_path", "ligand_description", "protein_sequence"))
        rows.writerows((each.name, each.protein.resolve(), each.ligand.resolve(), "") for each in many)
    return path


def crystal(each: Complex) -> np.ndarray:
    """The pose of a complex."""
    (ligand,) = from_file(each.ligand, posed=True)
    assert isinstance(ligand, Ligand)
    assert ligand.places is not None
    return ligand.places


def measured(run: Path, many: list[Complex], out: Path, n: int) -> dict[str, Any]:
    """Docked, written, and how far from the crystals."""
    model = load(run)
    ask = DockingAsk(csv=table(many, out / "cross.csv"), pocket_residues=("all",))
    queries = model.recipe.queries(model, ask, n)
    assert not queries.failed, queries.failed
    begin = time.process_time()
    poses = drawn_poses(model, queries)
    seconds = time.process_time() - begin
    files = list(write(model.companions, queries, poses, out / "poses", model.making(ask)))
    truths, chance = {each.name: crystal(each) for each in many}, np.random.default_rng(0)
    first, best, centre, blind, names = [], [], [], [], []
    for k, case in enumerate(queries.cases):
        own = ranked(model.companions.ranker, [pose for pose in poses if pose.number // n == k])
        truth, ways = truths[case.name], symmetries(case.ligand.mol)
        far = rmsd(np.stack([pose.places for pose in own]), truth, ways)
        turns, _ = np.linalg.qr(chance.normal(size=(n, 3, 3)))
        turns *= np.linalg.det(turns)[:, None, None]
        plain = case.conformers[np.arange(n) % len(case.conformers)].double().numpy() @ turns + case.site.centre
        first.append(float(far[0]))
        best.append(float(far.min()))
        centre.append(float(np.linalg.norm(own[0].places.mean(0) - truth.mean(0))))
        blind.append(float(rmsd(plain, truth, ways).min()))
        names.append(case.name)

    def share(values: list[float], limit: float = 2.0) -> list[float]:
        return [round(v, 4) for v in interval((np.array(values) < limit).astype(float), names)]

    told = {"complexes": len(names), "poses": n, "written": len(files) - 1, "intact": intact(queries, poses)}
    told |= {"top1": share(first), "best": share(best), "best_at_random": share(blind), "centre_2A": share(centre)}
    told |= {"median_first": round(float(np.median(first)), 2), "median_best": round(float(np.median(best)), 2)}
    told |= {
        "median_best_at_random": round(float(np.median(blind)), 2),
        "seconds_a_pose": round(seconds / len(poses), 4),
    }
    return {**told, "each": [(a, round(b, 2), round(c, 2)) for a, b, c in zip(names, first, best)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--complexes", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-n", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.complexes) as packed:
        packed.extractall(options.out / "complexes")
    told = measured(options.run, found(options.out / "complexes"), options.out, options.n)
    (options.out / "cross.json").write_text(json.dumps(told, indent=1))
    print(json.dumps({name: value for name, value in told.items() if name != "each"}, indent=1))


if __name__ == "__main__":
    main()
