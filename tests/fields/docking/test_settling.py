"""Descent on what known poses say: the potential falls, the chemistry stays, a turned world gives the turned poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.data.structures import read_structure
from sfumato.fields.docking.asking import Case, Site
from sfumato.fields.docking.batching import Pocket
from sfumato.fields.docking.chemistry import Ligand, from_smiles
from sfumato.fields.docking.settling import CLASH, LOTS, NEAREST, searched, settled
from sfumato.fields.docking.symmetry import rmsd, symmetries
from tests.fields.docking import worlds
from tests.fields.docking.test_pose import drawn

KNOWN = ("CC(=O)Nc1ccc(O)cc1", "Cc1ccncc1", "c1ccc2[nH]ccc2c1")


def case(folder: Path, smiles: str = "CC(=O)Nc1ccc(OC)cc1", known: tuple[str, ...] = KNOWN) -> Case:
    """A ligand among known poses, inside a shell of residues."""
    structure = read_structure(worlds.receptor(folder / "p.pdb"), "docking")
    poses = tuple(worlds.posed(text, f"k{i}", i) for i, text in enumerate(known))
    site = Site(structure, np.zeros(3), Pocket.of(structure, np.zeros(3), 16), poses)
    return Case("one", from_smiles(smiles), site, poses)


def potential(case: Case, places: np.ndarray, tau: float) -> np.ndarray:
    walls = case.site.structure.places
    near = np.clip(NEAREST - np.linalg.norm(places[:, :, None] - walls[None, None], axis=3), 0, None)
    return CLASH * np.square(near).sum((1, 2)) - case.kin.log_density(places, tau).sum(1)


def thrown(one: Case, count: int, far: float = 2.0) -> np.ndarray:
    """Conformers turned at random, not far from the site."""
    chance = np.random.default_rng(0)
    turns = drawn(count, 0, 5)["turn"].double().numpy()
    conformers = one.conformers.double().numpy()[np.arange(count) % len(one.conformers)]
    return conformers @ turns + far * chance.normal(size=(count, 1, 3))


def search(one: Case, count: int, seed: int = 0) -> np.ndarray:
    lots = np.random.default_rng(seed).normal(size=(count, LOTS))
    return searched(one, np.arange(count) % len(one.conformers), lots)


def test_the_potential_falls_and_chemistry_stays(tmp_path: Path) -> None:
    one = case(tmp_path)
    start = thrown(one, 12)
    after = settled(one, start, 40)
    assert (potential(one, after, 0.4) < potential(one, start, 0.4)).all()
    apart = [np.linalg.norm(each[:, :, None] - each[:, None], axis=3) for each in (start, after)]
    near = one.ligand.bonds <= 5  # bound, or with a neighbour in common
    assert np.allclose(apart[0][:, near], apart[1][:, near], atol=1e-4)
    assert not np.allclose(apart[0], apart[1], atol=0.05)  # and torsions were turned
    assert settled(one, start, 0) is start


def test_what_lies_in_the_wall_is_pushed_out(tmp_path: Path) -> None:
    one = case(tmp_path, known=())
    wall = one.site.structure.places
    start = thrown(one, 8, 0.0) + wall[::9][:8, None] * 0.9

    def nearest(places: np.ndarray) -> np.ndarray:
        return np.linalg.norm(places[:, :, None] - wall[None, None], axis=3).min((1, 2))

    before, after = nearest(start), nearest(settled(one, start, 40))
    assert before.max() < 2
    assert after.mean() > before.mean() + 0.5


def test_a_turned_world_settles_into_the_turned_poses(tmp_path: Path) -> None:
    one = case(tmp_path)
    R, by = drawn(1, 0, 7)["turn"][0].double().numpy(), np.array([3.0, -2.0, 1.0])

    def moved(ligand: Ligand) -> Ligand:
        assert ligand.places is not None
        return Ligand(ligand.name, ligand.mol, ligand.places @ R.T + by)

    structure = replace(one.site.structure, places=one.site.structure.places @ R.T + by)
    poses = tuple(map(moved, one.others))
    other = Case("one", one.ligand, Site(structure, by, one.site.pocket, poses), poses)
    start = thrown(one, 6)
    here, there = settled(one, start, 10), settled(other, start @ R.T + by, 10)
    assert np.abs(here - start).max() > 0.3
    assert np.allclose(here @ R.T + by, there, atol=5e-3)


def test_each_pose_settles_by_itself(tmp_path: Path) -> None:
    one = case(tmp_path)
    start = thrown(one, 4)
    assert np.allclose(settled(one, start, 10)[2:3], settled(one, start[2:3], 10), atol=1e-3)


def test_a_search_finds_where_the_likeliest_known_pose_lies(tmp_path: Path) -> None:
    """Paracetamol is known: its methyl ether is laid on it, of what many starts find the best."""
    one = case(tmp_path)
    found = search(one, 24)
    assert found.shape == (24, len(one.ligand), 3)
    best = found[potential(one, found, 0.4).argmin()]
    known = one.others[0].places
    assert known is not None
    same = one.ligand.mol.GetSubstructMatch(one.others[0].mol)
    ways = symmetries(one.others[0].mol)
    assert rmsd(best[None, list(same)], known, ways)[0] < 1
    assert np.allclose(found[:4], search(one, 4), atol=1e-3)  # each is its own lot's
    assert not np.allclose(found[:4], search(one, 4, seed=1), atol=0.1)


@pytest.mark.parametrize("known", [(), KNOWN])
def test_a_ligand_without_torsions_and_a_site_without_poses_are_searched_too(
    tmp_path: Path, known: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    one = case(tmp_path, "c1ccncc1", known)
    found = search(one, 3)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found.mean(1), axis=1).max() < 8
