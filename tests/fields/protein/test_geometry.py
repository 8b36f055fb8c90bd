"""Springs, torsions and figures of backbones, on chains built from bonds, angles and torsions that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.fields.protein.alphabet import encoded
from sfumato.fields.protein.geometry import (
    SPRINGS,
    dihedrals,
    peptide_share,
    pulls,
    quality,
    smooth_lddt,
    strain,
    stretched,
    tidied,
    torsion,
)
from tests.fields.protein.folds import backbone, rotation, torsion_of

MIRROR = torch.tensor([1.0, 1.0, -1.0])


def chain(seed: int = 0, length: int = 30) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(backbone(rng.uniform(-150, -50, length), rng.uniform(-60, 160, length)))


def test_torsions_are_those_that_a_chain_was_built_from() -> None:
    rng = np.random.default_rng(1)
    phi, psi = rng.uniform(-180, 180, (2, 25))
    found = dihedrals(torch.from_numpy(backbone(phi, psi)))
    for angle, wanted in zip(found, (phi[1:-1], psi[1:-1], np.full(23, 180.0))):
        apart = (angle.numpy() - wanted + 180) % 360 - 180
        assert np.abs(apart).max() < 1e-6


def test_a_torsion_is_that_of_another_formula_and_turns_over_in_a_mirror() -> None:
    points = np.random.default_rng(0).normal(size=(200, 4, 3))
    found = torsion(*(torch.from_numpy(points[:, k]) for k in range(4)))
    assert np.allclose(found.numpy(), [torsion_of(*each) for each in points])
    mirrored = torsion(*(torch.from_numpy(points[:, k]) * MIRROR for k in range(4)))
    assert torch.allclose(mirrored, -found)


def test_a_good_chain_is_hardly_strained_and_a_bad_one_is() -> None:
    """Bonds and angles of Engh and Huber are those of the crystals to a spread or two."""
    good = chain()[None]
    there = torch.ones(good.shape[:3], dtype=torch.bool)
    assert float(strain(good, there)) < 0.02
    wrong = good.clone()
    wrong[0, 15:] += torch.tensor([1.0, 0, 0])  # one bond is 1 A off
    assert float(strain(wrong, there)) > 5 * float(strain(good, there))
    there[0, 14:16] = False  # what is missing does not count
    assert float(strain(wrong, there)) < 0.02


def test_pulls_shorten_what_is_too_long_and_move_nothing_as_a_whole() -> None:
    x = chain()[None] + 0.1 * torch.randn(1, 30, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pull = pulls(x)
    assert float(pull.sum((1, 2)).abs().max()) < 1e-9
    before = sum(stretched(x, spring)[1].square().sum() for spring in SPRINGS)
    after = sum(stretched(x + 0.1 * pull, spring)[1].square().sum() for spring in SPRINGS)
    assert float(after) < 0.8 * float(before)
    turn = torch.from_numpy(rotation(np.random.default_rng(0)))
    assert torch.allclose(pulls(x @ turn), pull @ turn, atol=1e-9)


def test_tidying_mends_bonds_and_moves_no_atom_far() -> None:
    x = chain(length=40)
    rough = x + 0.06 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    there = torch.ones(1, 40, 4, dtype=torch.bool)
    neat = tidied(rough)
    assert float((neat - rough).norm(dim=-1).max()) <= 0.15 + 1e-9
    assert float(strain(neat[None], there)) < 0.3 * float(strain(rough[None], there))
    codes = torch.from_numpy(encoded("A" * 40, "test"))
    assert quality(neat, codes)["angles"] > quality(rough, codes)["angles"] + 0.1


def test_figures_of_a_good_chain_of_a_mirrored_and_of_a_broken_one() -> None:
    x, codes = chain(), torch.from_numpy(encoded("A" * 30, "test"))
    good = quality(x, codes)
    assert good["peptide"] == 1
    assert good["phi_left"] == good["left_run"] == good["cis"] == 0
    mirrored = quality(x * MIRROR, codes)
    assert mirrored["phi_left"] == 1
    assert mirrored["left_run"] == 28
    assert mirrored["peptide"] == 1  # lengths know nothing of it
    broken = x.clone()
    broken[10:] += torch.tensor([0.5, 0.5, 0.5])
    assert peptide_share(broken) == pytest.approx(28 / 29)
    glycine = quality(x * MIRROR, torch.from_numpy(encoded("G" * 30, "test")))
    assert glycine["phi_left"] == 0
    squashed = quality(x * torch.tensor([1.0, 0.05, 0.05]), codes)
    assert squashed["clashes"] > 0
    cis = quality(torch.from_numpy(backbone(np.full(10, -80.0), np.full(10, 120.0), 0.0)), codes[:10])
    assert cis["cis"] == 1


def test_the_smooth_lddt_falls_with_the_error_and_does_not_see_motions() -> None:
    x = chain()[:, 1].float()[None] * 1.0
    mask = torch.ones(1, 30, dtype=torch.bool)
    noise = torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(0))
    values = [float(smooth_lddt(x + size * noise, x, mask)) for size in (0.0, 0.3, 1.0, 3.0)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.2
    turn = torch.from_numpy(rotation(np.random.default_rng(0))).float()
    assert float(smooth_lddt(x @ turn + 5, x, mask)) == pytest.approx(values[0], abs=1e-5)
    wild = x.clone()
    wild[0, 20:] = 1e3
    mask[0, 20:] = False
    assert float(smooth_lddt(wild, x, mask)) == pytest.approx(float(smooth_lddt(x, x, mask)), abs=1e-6)
