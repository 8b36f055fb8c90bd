"""Fits, RMSD and lDDT against what must hold of them, and against other people's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.metrics.superpose import fit, fitted_rmsd, lddt, rmsd


def rotations(count: int, rng: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, generator=rng, dtype=torch.float64))
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[:, None]
    return q * torch.linalg.det(q).sign()[:, None, None]


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_moved_copy_lies_on_itself_again(rng: torch.Generator) -> None:
    """A thousand random motions."""
    x = torch.randn(1000, 20, 3, generator=rng, dtype=torch.float64) * 10
    moved = x @ rotations(1000, rng) + torch.randn(1000, 1, 3, generator=rng, dtype=torch.float64) * 100
    motion = fit(x, moved)
    assert float(rmsd(motion(x), moved).max()) < 1e-6
    assert float((torch.linalg.det(motion.rotation) - 1).abs().max()) < 1e-9


@pytest.mark.parametrize("kind", ["plane", "line", "mirror"])
def test_a_fit_is_a_proper_rotation_whatever_the_points(rng: torch.Generator, kind: str) -> None:
    x = torch.randn(50, 12, 3, generator=rng, dtype=torch.float64)
    if kind == "plane":
        x[..., 2] = 0
    if kind == "line":
        x[..., 1:] = 0
    y = x * torch.tensor([1.0, 1.0, -1.0]) if kind == "mirror" else x @ rotations(50, rng)
    motion = fit(x, y)
    assert torch.allclose(torch.linalg.det(motion.rotation), torch.ones(50, dtype=torch.float64), atol=1e-9)
    if kind != "mirror":
        assert float(rmsd(motion(x), y).max()) < 1e-6


def test_no_other_motion_is_better(rng: torch.Generator) -> None:
    """Small turns away from the fit, in every direction, only make it worse."""
    x, y = (torch.randn(30, 15, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(30, 15, generator=rng, dtype=torch.float64)
    best = rmsd(fit(x, y, weight)(x), y, weight)
    for axis in range(3):
        for angle in (1e-3, -1e-3, 0.3):
            a, b = math.cos(angle), math.sin(angle)
            turn = torch.eye(3, dtype=torch.float64)
            i, j = (axis + 1) % 3, (axis + 2) % 3
            turn[i, i], turn[i, j], turn[j, i], turn[j, j] = a, -b, b, a
            motion = fit(x, y, weight)
            centre = (y * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None]
            other = (motion(x) - centre) @ turn + centre
            assert bool((rmsd(other, y, weight) >= best - 1e-12).all())


def test_the_singular_values_know_the_fitted_rmsd(rng: torch.Generator) -> None:
    x, y = (torch.randn(200, 9, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    y[::2] = x[::2] * torch.tensor([1.0, 1.0, -1.0])  # mirror images
    weight = torch.rand(200, 9, generator=rng, dtype=torch.float64) + 0.1
    assert torch.allclose(fitted_rmsd(x, y, weight), rmsd(fit(x, y, weight)(x), y, weight), atol=1e-9)


def test_its_gradient_is_that_of_finite_differences(rng: torch.Generator) -> None:
    x, y = (torch.randn(2, 7, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(fitted_rmsd, (x.requires_grad_(), y), eps=1e-6, atol=1e-7)


def test_what_weighs_nothing_does_not_turn_the_fit(rng: torch.Generator) -> None:
    x = torch.randn(5, 10, 3, generator=rng, dtype=torch.float64)
    y = x @ rotations(5, rng)
    weight = torch.ones(5, 10)
    weight[:, 6:] = 0
    y[:, 6:] = 1e6
    assert float(rmsd(fit(x, y, weight)(x), y, weight).max()) < 1e-6


def test_biotite_fits_the_same() -> None:
    structure = pytest.importorskip("biotite.structure")
    x, y = np.random.default_rng(0).normal(0, 5, (2, 25, 3)).astype(np.float32)
    other, _ = structure.superimpose(y, x)
    ours = fit(torch.from_numpy(x), torch.from_numpy(y))(torch.from_numpy(x))
    assert np.allclose(ours.numpy(), other, atol=1e-4)
    assert float(fitted_rmsd(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(
        float(structure.rmsd(y, other)), abs=1e-4
    )


# ---- lDDT --------------------------------------------------------------------------------------------------------------------


def test_a_moved_copy_and_a_mirror_image_score_one(rng: torch.Generator) -> None:
    x = torch.randn(40, 3, generator=rng, dtype=torch.float64) * 6
    moved = x @ rotations(1, rng)[0] + 100
    for same in (x, moved, x * torch.tensor([1.0, 1.0, -1.0])):
        assert float(lddt(same, x).mean()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("error", "score"), [(0.3, 1.0), (0.7, 0.75), (1.5, 0.5), (3.0, 0.25), (5.0, 0.0)])
def test_two_points_score_by_their_distance(error: float, score: float) -> None:
    truth = torch.tensor([[0.0, 0, 0], [6.0, 0, 0]])
    model = torch.tensor([[0.0, 0, 0], [6.0 + error, 0, 0]])
    assert lddt(model, truth).tolist() == [score, score]


def test_what_is_farther_than_the_radius_does_not_count() -> None:
    truth = torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [14.9, 0, 0], [30.0, 0, 0]])
    model = truth.clone()
    model[3] = 500.0
    assert lddt(model, truth)[:3].tolist() == [1.0, 1.0, 1.0]
    assert lddt(model, truth)[3] == 0  # no neighbour at all
    model[2, 0] = 20.0
    assert lddt(model, truth)[0] == pytest.approx(0.5)  # of two neighbours one


def test_the_order_of_points_does_not_count(rng: torch.Generator) -> None:
    x, y = (torch.randn(30, 3, generator=rng) * 5 for _ in range(2))
    order = torch.randperm(30, generator=rng)
    assert torch.allclose(lddt(x, y)[order], lddt(x[order], y[order]))


def test_biotite_scores_the_same(rng: torch.Generator) -> None:
    structure = pytest.importorskip("biotite.structure")
    x = (torch.randn(60, 3, generator=rng) * 8).numpy()
    y = x + 1.5 * torch.randn(60, 3, generator=rng).numpy()
    one, two = (structure.AtomArray(60) for _ in range(2))
    for array, coords in ((one, x), (two, y)):
        array.coord = coords
        array.res_id = np.arange(60)
        array.res_name[:], array.atom_name[:], array.chain_id[:] = "ALA", "CA", "A"
    other = structure.lddt(one, two, aggregation="residue")
    assert np.allclose(lddt(torch.from_numpy(y), torch.from_numpy(x)).numpy(), other, atol=1e-6)
