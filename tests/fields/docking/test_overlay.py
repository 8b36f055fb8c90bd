"""The baseline without a model: a ligand laid over itself lies on itself, and it is laid over the nearest of the known poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfumato.data.structures import read_structure
from sfumato.fields.docking.asking import Case, Site
from sfumato.fields.docking.batching import Pocket
from sfumato.fields.docking.chemistry import Ligand, from_smiles
from sfumato.fields.docking.overlay import overlay
from sfumato.fields.docking.symmetry import rmsd, symmetries
from tests.fields.docking import worlds


def case(folder: Path, smiles: str, *others: Ligand) -> Case:
    structure = read_structure(worlds.receptor(folder / "p.pdb"), "docking")
    site = Site(structure, np.zeros(3), Pocket.of(structure, np.zeros(3), 16), others)
    return Case("one", from_smiles(smiles), site, others)


@pytest.mark.parametrize(
    "smiles", ["c1ccc2[nH]ccc2c1", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "O=C(O)c1ccccc1O", "C[C@H](N)C(=O)OCC"]
)
def test_a_ligand_laid_over_itself_lies_on_itself(smiles: str, tmp_path: Path) -> None:
    one = case(tmp_path, smiles)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    known = one.conformers[1].double().numpy() @ turn + [3.0, -1.0, 2.0]
    itself = case(tmp_path, smiles, Ligand("itself", one.ligand.mol, known))
    laid = overlay(itself)
    assert laid is not None
    assert rmsd(laid[None], known, symmetries(one.ligand.mol))[0] < 0.3


def test_it_is_laid_over_the_nearest_and_over_nothing_where_nothing_is_alike(tmp_path: Path) -> None:
    near, far = worlds.posed("CC(=O)Nc1ccc(O)cc1", "near", 1), worlds.posed("CC(=O)Nc1ccccc1CCC", "far", 2)
    assert near.places is not None
    assert far.places is not None
    moved = Ligand("far", far.mol, far.places + 30)
    one = case(tmp_path, "CC(=O)Nc1ccc(OC)cc1", moved, near)
    assert [template.name for template, _ in one.templates] == ["near", "far"]
    laid = overlay(one)
    assert laid is not None
    assert np.linalg.norm(laid.mean(0) - near.places.mean(0)) < 1.5
    assert overlay(case(tmp_path, "CC(=O)Nc1ccc(OC)cc1", worlds.posed("C1CCNCC1", "other", 3))) is None
