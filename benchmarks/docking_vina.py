"""AutoDock Vina on the ligands of `benchmarks.docking`, beside it: the same conformers' start, the same sites, the same RMSD.

    python -m benchmarks.docking_vina --out OUT --exhaustiveness 8 --every 5

in an environment of its own with vina 1.2.7, meeko 0.8.0 (which prepares receptor and ligand), rdkit, gemmi, numpy and scipy.
OUT is the folder that `benchmarks.docking` has unpacked the complexes into. The box is 22 A wide about the mean of the poses of
the other folds; the ligand starts from a conformer of its SMILES; the receptor is the one crystal that all poses lie in, rigid.
Every k-th ligand of the table is docked, on one thread. Each row of OUT/vina.csv appears as it is done, and what is there is not
done again: ligand, target, fold, heavy atoms, CPU seconds, RMSD of the first pose and the least of the nine.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem

from sfumato.fields.docking.symmetry import rmsd, symmetries

COLUMNS = ("ligand", "target", "fold", "heavy", "seconds", "first", "best")


def receptor(protein: Path, out: Path) -> Path:
    """The receptor as PDBQT, made once."""
    made = out / f"{protein.parent.name}.pdbqt"
    if not made.is_file():
        tool = Path(sys.executable).with_name("mk_prepare_receptor.py")
        words = [sys.executable, tool, "--read_pdb", protein, "-o", made.with_suffix(""), "-p", "--allow_bad_res"]
        subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    return made


def prepared(mol: Any) -> str:
    """A conformer of a molecule's SMILES as PDBQT, whose heavy atoms are numbered by those of the SMILES."""
    from meeko import MoleculePreparation, PDBQTWriterLegacy

    full = Chem.AddHs(mol)
    if AllChem.EmbedMolecule(full, randomSeed=1) != 0:
        AllChem.EmbedMolecule(full, randomSeed=1, useRandomCoords=True)
    if AllChem.MMFFHasAllMoleculeParams(full):
        AllChem.MMFFOptimizeMolecule(full)
    text, sound, why = PDBQTWriterLegacy.write_string(MoleculePreparation().prepare(full)[0])
    if not sound:
        raise ValueError(why)
    return str(text)


def docked(pdbqt: Path, centre: np.ndarray, ligand: str, exhaustiveness: int) -> str:
    """Nine poses, the best energy first, as PDBQT."""
    from vina import Vina

    search = Vina(sf_name="vina", cpu=1, seed=1, verbosity=0)
    search.set_receptor(str(pdbqt))
    search.set_ligand_from_string(ligand)
    search.compute_vina_maps(center=centre.tolist(), box_size=[22, 22, 22])
    search.dock(exhaustiveness=exhaustiveness, n_poses=9)
    return str(search.poses(n_poses=9))


def measured(text: str, mol: Any, truth: np.ndarray) -> np.ndarray:
    """RMSD of each pose from the crystal's, truth (N, 3) in the order of ``mol``."""
    from meeko import PDBQTMolecule, RDKitMolCreate

    (found,) = RDKitMolCreate.from_pdbqt_mol(PDBQTMolecule(text, skip_typing=True))
    found = Chem.RemoveHs(found)
    order = mol.GetSubstructMatch(found) or found.GetSubstructMatch(mol)
    places = np.stack([each.GetPositions() for each in found.GetConformers()])
    there = np.empty_like(places)
    there[:, list(order)] = places
    return rmsd(there, truth, symmetries(mol))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--exhaustiveness", type=int, default=8)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    rows = list(csv.DictReader((options.out / "index.csv").open(encoding="utf-8")))
    crystals = {row["id"]: Chem.MolFromMolFile(str(options.out / row["ligand"])) for row in rows}
    for mol in crystals.values():
        Chem.AssignStereochemistryFrom3D(mol)
    middles = {name: mol.GetConformer().GetPositions().mean(0) for name, mol in crystals.items()}
    table = options.out / "vina.csv"
    if not table.is_file():
        table.write_text(",".join(COLUMNS) + "\n")
    done = {row["ligand"] for row in csv.DictReader(table.open(encoding="utf-8"))}
    for row in rows[:: options.every]:
        if row["id"] in done:
            continue
        mol, truth = Chem.Mol(crystals[row["id"]]), crystals[row["id"]].GetConformer().GetPositions()
        mol.RemoveAllConformers()
        others = [r["id"] for r in rows if r["target"] == row["target"] and r["fold"] != row["fold"]]
        pdbqt = receptor(options.out / row["protein"], options.out)
        begin = time.process_time()
        poses = docked(pdbqt, np.mean([middles[name] for name in others], 0), prepared(mol), options.exhaustiveness)
        seconds = time.process_time() - begin
        far = measured(poses, mol, truth)
        with table.open("a") as file:
            file.write(
                f"{row['id']},{row['target']},{row['fold']},{len(truth)},{seconds:.2f},{far[0]:.3f},{far.min():.3f}\n"
            )
        print(row["id"], f"{seconds:.1f} s", np.round(far, 1), flush=True)


if __name__ == "__main__":
    main()
