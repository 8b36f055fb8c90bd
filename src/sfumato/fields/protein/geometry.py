"""The geometry of backbones (..., L, 4, 3) of N, CA, C, O, in Angstrom: lengths that hardly vary, angles of torsion, clashes.

A *spring* is a distance between two atoms of a residue, or of a residue and the next, that is nearly the same in every
crystal: the four bonds, the distances across their angles, and CA-CA and O-CA across the peptide bond, which hold it flat.
Lengths and spreads are those of 125,082 residues of 1,034 heavy chains (`data/antibodies`), rounded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.fields.protein.alphabet import GLYCINE


class Spring(NamedTuple):
    """From atom ``a`` of a residue to atom ``b`` of the residue ``ahead`` of it: length and spread in Angstrom."""

    a: int
    b: int
    ahead: int
    length: float
    spread: float


N, CA, C, O = range(4)
SPRINGS = (
    Spring(N, CA, 0, 1.459, 0.011), Spring(CA, C, 0, 1.523, 0.010), Spring(C, O, 0, 1.234, 0.008), Spring(C, N, 1, 1.331, 0.008),
    Spring(N, C, 0, 2.451, 0.043), Spring(CA, O, 0, 2.397, 0.017), Spring(CA, N, 1, 2.429, 0.023), Spring(O, N, 1, 2.254, 0.016),
    Spring(C, CA, 1, 2.442, 0.026), Spring(O, CA, 1, 2.789, 0.056), Spring(CA, CA, 1, 3.806, 0.040),
)  # fmt: skip
BONDS = 4
"""The first of them are bonds, the others distances across angles."""
PEPTIDE, SLACK = 1.329, 0.2
"""Length of a C-N bond, and how far off one may be that is right."""
CLASH = 3.2
"""CA closer than this, two and more apart in sequence, clash."""


def stretched(x: Tensor, spring: Spring) -> tuple[Tensor, Tensor]:
    """The vectors (..., L - ahead, 3) of a spring in backbones x (..., L, 4, 3), and how much longer each is than it should
    be."""
    ahead = spring.ahead
    vector = x[..., ahead:, spring.b, :] - x[..., : x.shape[-3] - ahead, spring.a, :]
    return vector, vector.square().sum(-1).add(1e-8).sqrt() - spring.length


def pulls(x: Tensor, there: Tensor | None = None) -> Tensor:
    """Where the springs would pull each atom, (..., L, 4, 3) in Angstrom: the sum over its springs of half of what each is too
    long, along it. A gradient step of a chain of springs, whose sum is 0. Residues that are not ``there`` (..., L) do not
    pull."""
    total = torch.zeros_like(x)
    length = x.shape[-3]
    for spring in SPRINGS:
        vector, longer = stretched(x, spring)
        move = 0.5 * (longer / (longer + spring.length))[..., None] * vector
        if there is not None and spring.ahead:
            move = move * there[..., spring.ahead :, None]
        total[..., : length - spring.ahead, spring.a, :] += move
        total[..., spring.ahead :, spring.b, :] -= move
    return total


def tidied(x: Tensor, steps: int = 50, most: float = 0.15) -> Tensor:
    """Backbones (..., L, 4, 3) whose springs were let relax for some steps, no atom moved by more than ``most`` Angstrom."""
    start = x.double()
    moved = torch.zeros_like(start)
    for _ in range(steps):
        moved = moved + 0.4 * pulls(start + moved)
        far = moved.norm(dim=-1, keepdim=True)
        moved = moved * (most / far.clamp_min(most))
    return (start + moved).to(x.dtype)


def strain(x: Tensor, there: Tensor, slack: float = 2.0) -> Tensor:
    """How wrong the springs of backbones (B, L, 4, 3) are, (B,): the mean over springs of sqrt(1 + (error / (slack
    spread))^2) - 1, the square of a small error and the size of a large one.

    Args:
        there: (B, L, 4) bool, which atoms count.
    """
    total, count = x.new_zeros(len(x)), x.new_zeros(len(x))
    for spring in SPRINGS:
        _, longer = stretched(x, spring)
        own = there[:, : there.shape[1] - spring.ahead, spring.a] & there[:, spring.ahead :, spring.b]
        error = ((longer / (slack * spring.spread)).square() + 1).sqrt() - 1
        total = total + torch.where(own, error, 0.0).sum(1)
        count = count + own.sum(1)
    return total / count.clamp_min(1)


def smooth_lddt(x: Tensor, truth: Tensor, mask: Tensor, radius: float = 15.0) -> Tensor:
    """1 - lDDT of points (B, L, 3), (B,), each of its four steps a logistic one (AlphaFold 3, algorithm 27): mean of
    sigmoid(threshold - error) over pairs within the radius in the truth."""
    near, apart = torch.cdist(truth, truth), torch.cdist(x, x)
    error = (near - apart).abs()
    kept = sum(torch.sigmoid(threshold - error) for threshold in (0.5, 1.0, 2.0, 4.0)) / 4
    own = (near < radius) & mask[:, None] & mask[:, :, None]
    own &= ~torch.eye(own.shape[1], dtype=torch.bool, device=own.device)
    return 1 - torch.where(own, kept, 0.0).sum((1, 2)) / own.sum((1, 2)).clamp_min(1)


def torsion(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The torsion angle about b-c of four points (..., 3), in degrees from -180 to 180 (IUPAC: 0 is cis)."""
    first, middle, last = b - a, c - b, d - c
    axis = middle / middle.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    u = first - (first * axis).sum(-1, keepdim=True) * axis
    v = last - (last * axis).sum(-1, keepdim=True) * axis
    return torch.rad2deg(torch.atan2((torch.linalg.cross(u, axis) * v).sum(-1), -(u * v).sum(-1)))


def dihedrals(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """phi, psi and omega of backbones (..., L, 4, 3), in degrees, for the residues that have both neighbours, (..., L - 2)
    each; omega is that of the bond before the residue."""
    before, own, after = x[..., :-2, :, :], x[..., 1:-1, :, :], x[..., 2:, :, :]
    phi = torsion(before[..., C, :], own[..., N, :], own[..., CA, :], own[..., C, :])
    psi = torsion(own[..., N, :], own[..., CA, :], own[..., C, :], after[..., N, :])
    omega = torsion(before[..., CA, :], before[..., C, :], own[..., N, :], own[..., CA, :])
    return phi, psi, omega


def peptide_share(x: Tensor) -> Tensor:
    """Share of the C-N bonds within 0.2 A of 1.329, (...,)."""
    apart = (x[..., 1:, N, :] - x[..., :-1, C, :]).norm(dim=-1)
    return ((apart - PEPTIDE).abs() < SLACK).double().mean(-1)


def quality(x: Tensor, codes: Tensor) -> dict[str, float]:
    """What a structural biologist looks at in one backbone (L, 4, 3): shares of peptide bonds within 0.2 A of their length,
    of the other bonds and of the distances across angles within 3 spreads, of cis peptide bonds, of residues other than
    glycine with phi above 0, the longest run of these, and clashes of CA per 1,000 residues."""
    x = x.double()
    phi, _, omega = dihedrals(x)
    good = [((stretched(x, spring)[1]).abs() < 3 * spring.spread).double().mean().item() for spring in SPRINGS]
    left = (phi > 0) & (codes[1:-1] != GLYCINE)
    longest = run = 0
    for each in left.tolist():
        run = run + 1 if each else 0
        longest = max(longest, run)
    apart = torch.cdist(x[:, CA], x[:, CA], compute_mode="donot_use_mm_for_euclid_dist")
    far = torch.ones_like(apart, dtype=torch.bool).triu(2)
    return {
        "peptide": float(peptide_share(x)), "bonds": sum(good[:3]) / 3, "angles": sum(good[BONDS:9]) / (9 - BONDS),
        "cis": float((omega.abs() < 30).double().mean()),
        "phi_left": float(left.double().sum() / (codes[1:-1] != GLYCINE).sum().clamp_min(1)),
        "left_run": float(longest), "clashes": float(((apart < CLASH) & far).sum() * 1000 / len(x)),
    }  # fmt: skip
