"""The whole job of docking through the command: inspect, train, sample, rank, measure, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem

from sfumato.cli import main
from sfumato.data import structures
from sfumato.fields.docking import asking
from sfumato.fields.docking.chemistry import Ligand, from_file, from_smiles
from sfumato.fields.docking.sdf import block
from sfumato.jobs.model import Model, load
from tests.fields.docking import worlds

BOX = ["--box", "0", "0", "0", "16", "16", "16"]


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((path / "poses.csv").open(encoding="utf-8")))


def test_poses_are_asked_for_and_written_and_a_failure_is_a_row(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "poses"
    words = [
        "sample",
        str(run),
        "--ligand",
        "C[C@H](N)C(=O)OCC",
        "CC(F)Cl",
        "O=C([O-])c1ccccc1",
        "-n",
        "5",
        "--steps",
        "2",
    ]
    assert main([*words, "--out", str(out)]) == 0
    found = rows(out)
    assert list(found[0]) == ["complex_name", "rank", "confidence", "path", "error"]
    assert len(found) == 15
    assert sum(bool(row["error"]) for row in found) == 5
    assert "stereo is left open" in next(row["error"] for row in found if row["error"])
    for smiles in ("C[C@H](N)C(=O)OCC", "O=C([O-])c1ccccc1"):
        own = [row for row in found if row["complex_name"] == smiles]
        assert [row["rank"] for row in own] == ["1", "2", "3", "4", "5"]
        mols = [mol for mol in Chem.SDMolSupplier(str(out / own[0]["path"])) if mol is not None]
        assert len(mols) == 5
        assert sorted(mol.GetIntProp("sample") for mol in mols) == [0, 1, 2, 3, 4]
        for mol in mols:
            assert [a.GetSymbol() for a in mol.GetAtoms()] == [
                a.GetSymbol() for a in Chem.MolFromSmiles(smiles).GetAtoms()
            ]
            Chem.AssignStereochemistryFrom3D(mol)
            assert Chem.MolToSmiles(mol) == Chem.CanonSmiles(smiles)
            assert json.loads(mol.GetProp("sfumato"))["name"] == smiles


def test_a_pose_is_the_same_alone_and_among_ligands_of_other_sizes(model: Model) -> None:
    alone = model.sample(3, ligand=("Cc1ccncc1",), steps=2)
    among = model.sample(3, ligand=(worlds.PEPTIDE, "Cc1ccncc1", "CCO"), steps=2)
    own = [pose for pose in among if pose.case.name == "Cc1ccncc1"]
    assert [pose.place for pose in own] == [0, 1, 2]
    for a, b in zip(alone, own):
        assert np.allclose(a.places, b.places, atol=1e-4)
    assert not np.allclose(alone[0].places, alone[1].places, atol=0.1)


def test_a_table_in_diffdocks_columns_reads_each_receptor_once(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds.receptor(tmp_path / "p.pdb", 3)
    table = tmp_path / "t.csv"
    lines = [f"c{i},p.pdb,{smiles}," for i, smiles in enumerate(("CCO", "CCN", "c1ccccc1", "CC(") * 25)]
    table.write_text("complex_name,protein_path,ligand_description,protein_sequence\n" + "\n".join(lines) + "\n")
    read, encoded = [], []
    plain, pocket = structures.read_structure, asking.Pocket.of
    monkeypatch.setattr(asking, "read_structure", lambda path, extra: read.append(path) or plain(path, extra))
    monkeypatch.setattr(asking.Pocket, "of", lambda *told: encoded.append(1) or pocket(*told))
    ask = type(model.recipe).Ask(csv=table, box=(0.0, 0.0, 0.0, 10.0, 10.0, 10.0))
    queries = asking.asked(model.companions.store, ask, 2)
    assert len(queries.cases) == 75
    assert len(queries) == 150
    assert len(queries.failed) == 25
    assert "CC(" in queries.failed[0][1]
    assert len(read) == len(encoded) == 1


def test_poses_of_one_many_and_known_are_docked_where_it_is_said(model: Model, data: Path, tmp_path: Path) -> None:
    poses = model.sample(2, ligand=(str(data / "lig0.sdf"),), steps=2)
    assert {pose.case.name for pose in poses} == {"lig0"}
    protein = worlds.receptor(tmp_path / "far.pdb", 1)
    structure = structures.read_structure(protein, "docking")
    ask = type(model.recipe).Ask(ligand=("CCO",), protein=protein, pocket_residues=("A:3", "A:17"))
    queries = asking.asked(model.companions.store, ask, 1)
    ca, side = structure.anchors()
    assert np.allclose(queries.cases[0].site.centre, (ca[[2, 16]].mean(0) + side[[2, 16]].mean(0)) / 2)
    assert not queries.cases[0].templates  # those of the run lie in another receptor
    ask = type(model.recipe).Ask(
        ligand=("CC(=O)Nc1ccc(OC)cc1",), protein=protein, reference=data / "lig0.sdf", templates=data
    )
    case = asking.asked(model.companions.store, ask, 1).cases[0]
    assert case.templates[0][0].name == "lig4"  # paracetamol
    assert case.similarity > 0.4
    again = asking.asked(
        model.companions.store, type(model.recipe).Ask(ligand=("CC(=O)Nc1ccc(O)cc1",), templates=data), 1
    ).cases[0]
    assert "lig4" not in [template.name for template, _ in again.templates]  # never its own pose


def test_templates_are_of_other_scaffolds_and_of_what_is_learned(model: Model) -> None:
    store = model.companions.store
    assert store.held_out
    assert not {store.facts.scaffold[i] for i in store.held_out} & {store.facts.scaffold[i] for i in store.learned}
    for i in range(len(store.known)):
        for j, likeness in store.templates(store.known[i].ligand, store.known[i].receptor):
            assert not store.facts.held[j]
            assert store.facts.scaffold[j] != store.facts.scaffold[i]
            assert 0.2 <= likeness < 1


def test_ranked_measured_and_the_confidence_is_in_the_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    table = tmp_path / "index.csv"
    files = [f"lig{i},site,{data}/protein.pdb,{data}/lig{i}.sdf,{i % 2}" for i in range(len(worlds.SMILES))]
    table.write_text("\n".join(["id,target,protein,ligand,fold", *files, ""]))
    words = ["--previews", "1", "--steps", "2", "--fold", "1", "--out", str(out)]
    assert main(["train", "docking", str(table), *worlds.TRAIN, *words]) == 0
    assert main(["evaluate", str(out), "-n", "3", "--steps", "2"]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert "intact" in json.dumps(found)
    held = sum(load(out).facts.held)
    assert len(found["ligands"]) == held
    assert (out / "poses.png").is_file()
    assert (out / "docking.png").is_file()
    code = main(["docking", "rank", str(out), "-n", "8", "--parts", "2", "--steps", "2"])
    said = capsys.readouterr()
    if code:  # by chance none of the poses is right
        assert "poses lie within 2 A" in said.err
        return
    assert main(["sample", str(out), "--ligand", "CCO", "-n", "2", "--steps", "2", "--out", str(tmp_path / "p")]) == 0
    sure = [float(row["confidence"]) for row in rows(tmp_path / "p")]
    assert sure == sorted(sure, reverse=True)


def test_what_was_made_ready_is_not_made_again_and_other_files_are(data: Path, run: Path, tmp_path: Path) -> None:
    from sfumato.fields.docking import preparing as making
    from sfumato.fields.docking.complexes import found
    from sfumato.training.run import Run

    other = Run(tmp_path / "other")
    other.create()
    shutil.copytree(run / "cache", other.cache, dirs_exist_ok=True)
    before = (other.cache / "poses.npz").stat().st_mtime_ns
    facts = making.prepare(other, found(data), None, 0.3, 16, print)
    assert (other.cache / "poses.npz").stat().st_mtime_ns == before
    assert facts == load(run).facts
    copied = shutil.copytree(data, tmp_path / "copied")
    ligand = worlds.posed("CCO", "lig0", 9)
    (copied / "lig0.sdf").write_text(block(ligand, ligand.places, {}))
    making.prepare(other, found(copied), None, 0.3, 16, print)
    assert (other.cache / "poses.npz").stat().st_mtime_ns != before
    (read, *_) = from_file(other.cache / "ligands.sdf", posed=True)
    assert isinstance(read, Ligand)
    assert read.smiles == "CCO"


def test_what_makes_no_sense_is_said_in_a_line(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protein = str(worlds.receptor(tmp_path / "p.pdb", 1))
    ligand = worlds.posed("CCO", "far", 0)
    assert ligand.places is not None
    (tmp_path / "far.sdf").write_text(block(ligand, ligand.places + 60, {}))
    (tmp_path / "bad.csv").write_text("complex_name,smiles\na,CCO\n")
    moved = shutil.copytree(data, tmp_path / "moved")
    for file in moved.glob("*.sdf"):
        (own,) = from_file(file, posed=True)
        file.write_text(block(own, own.places + 200, {}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "water.pdb").write_text(
        "HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00 20.00           O\nEND\n"
    )
    out = ["--out", str(tmp_path / "o")]
    for words, wrong in (
        (["sample", str(run), "--ligand", "CC(=O", *out], "position 3"),
        (["sample", str(run), "--ligand", "CCO.Cl", *out], "2 pieces"),
        (["sample", str(run), "--ligand", "CCO", "--protein", protein, *out], "give --pocket-residues"),
        (
            ["sample", str(run), "--ligand", "CCO", "--protein", protein, "--pocket-residues", "A:99", *out],
            "'A:99': is no residue",
        ),
        (
            [
                "sample",
                str(run),
                "--ligand",
                "CCO",
                "--protein",
                protein,
                "--reference",
                str(tmp_path / "far.sdf"),
                *out,
            ],
            "A away",
        ),
        (
            ["sample", str(run), "--ligand", "CCO", "--protein", protein, "--box", "90", "0", "0", "9", "9", "9", *out],
            "nearest residue",
        ),
        (["sample", str(run), "--ligand", "CCO", "--target", "nobody", *out], "must be one of the run's, site"),
        (["sample", str(run), "--csv", str(tmp_path / "bad.csv"), *out], "has the column 'smiles'"),
        (
            ["sample", str(run), "--ligand", "CCO", "--protein", str(tmp_path / "water.pdb"), *BOX, *out],
            "holds no amino acid",
        ),
        (["sample", str(run), "--ligand", "CCO", "-n", "0", *out], "n = 0"),
        (["train", "docking", str(moved), *out], "in another frame"),
        (["train", "docking", str(tmp_path / "empty"), *out], "holds no complexes"),
        (["train", "docking", str(data), "--fold", "3", *worlds.TRAIN, *out], "fold = 3"),
        (["docking", "rank", str(run)], "scaffolds are held out"),
    ):
        assert main(words) != 0, words
        said = capsys.readouterr().err.strip().splitlines()
        assert wrong in said[-1], said
        assert not any("Traceback" in line for line in said)


def test_embedding_that_fails_is_a_row(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.errors import DataError

    def fails(ligand: Ligand, *_: object) -> None:
        raise DataError(f"{ligand.name}: no conformer")

    ask = type(model.recipe).Ask(ligand=("CCO",))
    monkeypatch.setattr(asking, "conformers", fails)
    with pytest.raises(DataError, match="no conformer"):
        asking.asked(model.companions.store, ask, 1)
    assert from_smiles("CCO").name == "CCO"


def test_a_complex_that_is_moved_is_moved_as_a_whole(model: Model) -> None:
    store = model.companions.store
    plain, moved = store.data(store.learned), store.data(store.learned, jitter=2.0)
    own = np.flatnonzero(plain.buckets == plain.buckets[0])[:4]
    rows_ = [each.batch(own) for each in (plain, moved)]
    there = {name: rows_[0][name]["there"] for name in ("ligand", "pocket", "template")}
    places = [
        {"ligand": plain.coding.places(each["x"], each["ligand"]), "pocket": each["pocket"]["places"][:, :, 1],
         "template": each["template"]["places"]} for each in rows_
    ]  # fmt: skip
    for row in range(len(own)):
        before, after = (torch.cat([part[name][row][there[name][row]] for name in there]) for part in places)
        assert torch.allclose(torch.cdist(before, before), torch.cdist(after, after), atol=1e-3)
        assert (before - after).norm(dim=1).mean() > 0.5
    again = moved.batch(own[::-1].copy())
    assert torch.allclose(again["x"]["centre"].flip(0), rows_[1]["x"]["centre"])
    held = model.recipe.open(model.run).held_out
    assert held.jitter == 0


def test_some_poses_are_searched_for_and_the_others_are_what_they_were(model: Model, data: Path) -> None:
    ask: dict[str, Any] = {"ligand": ("CC(=O)Nc1ccc(OC)cc1",), "templates": data, "steps": 1}
    poses, plain = model.sample(18, **ask), model.sample(10, search=False, **ask)
    assert [pose.place for pose in poses] == list(range(18))
    assert ["searched" in pose.scores for pose in poses] == [False] * 8 + [True] * 8 + [False] * 2
    assert not any("searched" in pose.scores for pose in plain)
    for a, b in zip(poses[:8], plain[:8]):
        assert np.allclose(a.places, b.places, atol=1e-4)
    assert not any(pose.template for pose in poses[8:16])
    known = np.concatenate([each.places for each in poses[0].case.others if each.places is not None])

    def far(some: list[Any]) -> float:
        return float(np.mean([np.linalg.norm(p.places[:, None] - known[None], axis=2).min(1).mean() for p in some]))

    assert far(poses[8:16]) < far(poses[:8])  # they lie where known atoms do
    raw, case = model.sample(8, settle=0, **ask), poses[0].case
    said = [
        case.kin.log_density(np.stack([p.places for p in some]) - case.site.centre, 0.4).sum(1)
        for some in (raw, poses[:8])
    ]
    assert (said[1] > said[0]).mean() > 0.8  # those that were drawn have slid to where known atoms are alike
    again = model.sample(12, **ask)
    assert all(np.allclose(a.places, b.places, atol=1e-3) for a, b in zip(poses[8:12], again[8:12]))
    alone = model.sample(
        10, ligand=("CCO",), protein=data / "protein.pdb", box=(0.0, 0.0, 0.0, 16.0, 16.0, 16.0), steps=1
    )
    assert not any("searched" in pose.scores for pose in alone)  # nothing is known there
