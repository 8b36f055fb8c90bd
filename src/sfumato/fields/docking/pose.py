r"""Poses as centre, turn and torsions, on a conformer whose bonds, angles and rings stay as they are.

    conformer --torsions: bonds turned--> --laid: best fit on the conformer--> --turn, about the centroid--> --centre-->

The best fit (Kabsch 1976) makes torsions move nothing rigidly, so the three parts are independent of each other to first
order (Corso 2022, arXiv 2210.01776, section 4). Places are in A in the frame of the site, whose centre is 0; the part "centre"
is in units of UNIT A. All is batched, ragged ligands are padded: what is not there (``there`` False) moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.fields.docking.chemistry import Ligand, chem

UNIT = 2.0
"""A in one unit of the part "centre"."""
CONFORMERS = 8
"""Conformers of a ligand."""
SWEEPS, STARTS = 40, 8
"""Rounds over all torsions, and places to start from, in matching a conformer to a pose."""


# ---- what turns ------------------------------------------------------------------------------------------------------

_TURNS = "[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]"
_STIFF = "[$([CX3](=[OX1,SX1,NX2])[#7])]-&!@[#7X3]"
_ROUND = "[$([CX4](F)(F)F),$([CX4]([CH3])([CH3])[CH3]),$([CX4](Cl)(Cl)Cl)]"


def rotatable(mol: Any) -> list[tuple[int, int]]:
    """The bonds that turn: single, in no ring, neither end terminal or linear; no amide, and nothing with three equal ends.
    Each as (a, b), where the part beyond b has fewer atoms, and moves."""
    Chem = chem()
    stiff = {frozenset(match[:2]) for match in mol.GetSubstructMatches(Chem.MolFromSmarts(_STIFF))}
    round_ = {match[0] for match in mol.GetSubstructMatches(Chem.MolFromSmarts(_ROUND))}
    found = []
    for i, j in sorted(tuple(sorted(match)) for match in mol.GetSubstructMatches(Chem.MolFromSmarts(_TURNS))):
        if frozenset((i, j)) in stiff or i in round_ or j in round_:
            continue
        beyond = len(behind(mol, i, j))
        found.append((i, j) if 2 * beyond <= mol.GetNumAtoms() else (j, i))
    return found


def behind(mol: Any, a: int, b: int) -> list[int]:
    """The atoms on the side of b of the bond a - b, b itself among them."""
    seen, todo = {a, b}, [b]
    while todo:
        for other in mol.GetAtomWithIdx(todo.pop()).GetNeighbors():
            if other.GetIdx() not in seen:
                seen.add(other.GetIdx())
                todo.append(other.GetIdx())
    return sorted(seen - {a})


@dataclass(frozen=True, eq=False)
class Joints:
    """What turns in a ligand: axes (m, 2) int64, from an atom a to b; moved (m, N) bool, the atoms beyond b, without a and b.
    pieces (m + 1, N) bool: what is rigid between those bonds; reach: and the atoms bound to it across them."""

    axes: Tensor
    moved: Tensor
    pieces: Tensor
    reach: Tensor

    @classmethod
    def of(cls, mol: Any) -> Joints:
        """Those of a molecule."""
        pairs = rotatable(mol)
        moved = torch.zeros(len(pairs), mol.GetNumAtoms(), dtype=torch.bool)
        for row, (a, b) in zip(moved, pairs):
            row[behind(mol, a, b)] = True
            row[b] = False
        return cls(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2), moved, *pieces_of(mol, pairs))

    def __len__(self) -> int:
        return len(self.axes)


def pieces_of(mol: Any, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """What is rigid between bonds, and with what is bound to it across them: (len + 1, N) bool each."""
    of, cut, count = [-1] * mol.GetNumAtoms(), {frozenset(pair) for pair in pairs}, 0
    for first in range(len(of)):
        todo = [first] if of[first] < 0 else []
        while todo:
            i = todo.pop()
            of[i] = count
            around = [n.GetIdx() for n in mol.GetAtomWithIdx(i).GetNeighbors()]
            todo += [j for j in around if of[j] < 0 and frozenset((i, j)) not in cut]
        count = max(of) + 1
    pieces = torch.zeros(count, len(of), dtype=torch.bool)
    pieces[of, range(len(of))] = True
    reach = pieces.clone()
    for a, b in pairs:
        reach[of[a], b] = reach[of[b], a] = True
    return pieces, reach


# ---- geometry --------------------------------------------------------------------------------------------------------


def about(axis: Tensor, angle: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (..., N, 3) turned by angle (...,) about a unit axis (..., 3) (Rodrigues)."""
    u, cosine, sine = axis[..., None, :], angle.cos()[..., None, None], angle.sin()[..., None, None]
    u = u.expand_as(vectors)
    along = (vectors * u).sum(-1, keepdim=True)
    return vectors * cosine + torch.linalg.cross(u, vectors) * sine + u * along * (1 - cosine)


def axis_of(places: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Where a bond's axis ends, and its unit vector: places (B, N, 3), axes (B, 2) -> (B, 3), (B, 3). Of no bond 0."""
    ends = places.gather(1, axes[..., None].expand(-1, -1, 3))
    way = ends[:, 1] - ends[:, 0]
    return ends[:, 1], way / way.norm(dim=-1, keepdim=True).clamp_min(1e-9)


def turned(conformer: Tensor, axes: Tensor, moved: Tensor, angles: Tensor) -> Tensor:
    """A conformer (B, N, 3) with its bonds (B, m, 2) turned by angles (B, m), where ``moved`` (B, m, N) says what moves."""
    places = conformer
    for j in range(axes.shape[1]):
        end, u = axis_of(places, axes[:, j])
        swung = about(u, angles[:, j], places - end[:, None]) + end[:, None]
        places = torch.where(moved[:, j, :, None], swung, places)
    return places


def centroid(places: Tensor, there: Tensor) -> Tensor:
    """The mean of the atoms that are there: (B, N, 3), (B, N) -> (B, 1, 3)."""
    weight = there[..., None].to(places.dtype)
    return (places * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)


def fitted(places: Tensor, onto: Tensor, there: Tensor) -> Tensor:
    """The rotation R (B, 3, 3) for which ``places @ R^T``, both about their centroids, lies best on ``onto`` (Kabsch 1976)."""
    weight = there[..., None].to(torch.float64)
    p = (places - centroid(places, there)).double() * weight
    q = (onto - centroid(onto, there)).double() * weight
    u, _, vt = torch.linalg.svd(p.transpose(1, 2) @ q)
    flip = torch.ones(len(p), 3, dtype=torch.float64, device=p.device)
    flip[:, 2] = torch.linalg.det(u @ vt).sign()
    return (vt.transpose(1, 2) * flip[:, None] @ u.transpose(1, 2)).to(places.dtype)


def laid(places: Tensor, onto: Tensor, there: Tensor) -> Tensor:
    """``places`` (B, N, 3) as they lie best on ``onto``, as rigid bodies."""
    R = fitted(places, onto, there)
    return (places - centroid(places, there)) @ R.transpose(1, 2) + centroid(onto, there)


def placed(conformer: Tensor, axes: Tensor, moved: Tensor, there: Tensor, x: dict[str, Tensor]) -> Tensor:
    """The pose (B, N, 3) in A that centre (B, 3), turn (B, 3, 3) and torsions (B, m) stand for; 0 where no atom is."""
    body = laid(turned(conformer, axes, moved, x["torsions"]), conformer, there)
    body = body - centroid(body, there)
    pose = body @ x["turn"].transpose(1, 2) + UNIT * x["centre"][:, None]
    return torch.where(there[..., None], pose, torch.zeros((), dtype=pose.dtype, device=pose.device))


def read_off(
    conformer: Tensor, axes: Tensor, moved: Tensor, there: Tensor, torsions: Tensor, pose: Tensor
) -> dict[str, Tensor]:  # fmt: skip
    """Centre, turn and torsions of a pose (B, N, 3) that differs from the conformer by these torsions (B, m) alone."""
    body = laid(turned(conformer, axes, moved, torsions), conformer, there)
    wrapped = torch.remainder(torsions + math.pi, 2 * math.pi) - math.pi
    return {"centre": centroid(pose, there)[:, 0] / UNIT, "turn": fitted(body, pose, there), "torsions": wrapped}


# ---- matching --------------------------------------------------------------------------------------------------------


def dihedrals(places: Tensor, quads: Tensor) -> Tensor:
    """Dihedral angles of atoms (m, 4) in places (B, N, 3): (B, m) (IUPAC sign)."""
    a, b, c, d = (places[:, quads[:, k]] for k in range(4))
    u, v, w = b - a, c - b, d - c
    n1, n2 = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    side = (torch.linalg.cross(n1, n2) * v).sum(-1) / v.norm(dim=-1).clamp_min(1e-9)
    return torch.atan2(side, (n1 * n2).sum(-1))


def quads_of(mol: Any, joints: Joints) -> Tensor:
    """Four atoms of each dihedral, (m, 4): the axis between its lowest neighbours."""
    found = []
    for a, b in joints.axes.tolist():
        first = min(n.GetIdx() for n in mol.GetAtomWithIdx(a).GetNeighbors() if n.GetIdx() != b)
        last = min(n.GetIdx() for n in mol.GetAtomWithIdx(b).GetNeighbors() if n.GetIdx() != a)
        found.append((first, a, b, last))
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 4)


def matched(
    conformers: Tensor, joints: Joints, quads: Tensor, pose: Tensor, rng: torch.Generator, starts: int = STARTS
) -> tuple[Tensor, Tensor]:
    """Torsions (K, m) that bring each conformer (K, N, 3) next to a pose (N, 3), and the RMSD that is left, (K,) in A.

    From several starts (the pose's own dihedrals, none, random ones) all torsions are set in turn to what is best while the
    others stand, which for one torsion is an atan2, and the whole is fitted anew: the RMSD falls at every step.
    """
    K, N, m = len(conformers), conformers.shape[1], len(joints)
    conformers, pose = conformers.double(), pose.double()
    there = torch.ones(K * (starts if m else 1), N, dtype=torch.bool)
    if m == 0:
        return torch.zeros(K, 0), rmsd(laid(conformers, pose.expand(K, -1, -1), there), pose)
    angles = (2 * torch.rand(starts, K, m, generator=rng, dtype=torch.float64) - 1) * math.pi
    angles[0] = dihedrals(pose[None], quads) - dihedrals(conformers, quads)
    angles[1:2] = 0
    angles, start = angles.flatten(0, 1), conformers.repeat(starts, 1, 1)
    axes, moved = joints.axes.expand(len(start), -1, -1), joints.moved.expand(len(start), -1, -1)
    onto = pose.expand(len(start), -1, -1)
    places = laid(turned(start, axes, moved, angles), onto, there)
    for _ in range(SWEEPS):
        for j in range(m):
            step = _best_turn(places, onto, axes[:, j], joints.moved[j])
            angles[:, j] += step
            end, u = axis_of(places, axes[:, j])
            swung = about(u, step, places - end[:, None]) + end[:, None]
            places = torch.where(joints.moved[j][None, :, None], swung, places)
        places = laid(places, onto, there)
    left = rmsd(places, pose).reshape(starts, K)
    best = left.argmin(0)
    return angles.reshape(starts, K, m)[best, torch.arange(K)].float(), left[best, torch.arange(K)]


def closed(conformer: Tensor, joints: Joints, quads: Tensor, pose: Tensor) -> Tensor:
    """The pose with the bonds, angles, rings and stereo of a conformer (N, 3) that lies nearest to ``pose`` (N, 3), whose own may
    be torn: (N, 3)."""
    torsions, _ = matched(conformer[None], joints, quads, pose, torch.Generator().manual_seed(0), starts=2)
    axes, moved, there = joints.axes[None], joints.moved[None], torch.ones(1, len(pose), dtype=torch.bool)
    swung = turned(conformer[None].double(), axes, moved, torsions.double())
    return laid(swung, pose[None].double(), there)[0]


def _best_turn(places: Tensor, onto: Tensor, axis: Tensor, moved: Tensor) -> Tensor:
    """The angle about a bond that brings what it moves nearest to ``onto``, (B,)."""
    end, u = axis_of(places, axis)
    u = u[:, None].expand_as(places)
    d, e = places - end[:, None], onto - end[:, None]
    d = d - u * (d * u).sum(-1, keepdim=True)
    sine = (u * torch.linalg.cross(d, e)).sum(-1)[:, moved].sum(-1)
    return torch.atan2(sine, (d * e).sum(-1)[:, moved].sum(-1))


def rmsd(places: Tensor, onto: Tensor) -> Tensor:
    """Root mean square distance of atoms, in place: (B, N, 3), (N, 3) or (B, N, 3) -> (B,)."""
    return (places - onto).square().sum(-1).mean(-1).sqrt()


# ---- conformers ------------------------------------------------------------------------------------------------------


def conformers(ligand: Ligand, count: int = CONFORMERS, seed: int = 0) -> Tensor:
    """Conformers (K, N, 3) float32 of a ligand's heavy atoms, each about its centroid, in A: ETKDGv3 (Wang 2020), then MMFF94s
    where it knows the atoms. The stereo is the ligand's. Raises DataError where none can be made."""
    from rdkit import rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    from sfumato.errors import DataError

    full = chem().AddHs(ligand.mol)
    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed = seed + 1
    options.maxIterations = 30
    with rdBase.BlockLogs():
        made: Sequence[int] = list(rdDistGeom.EmbedMultipleConfs(full, count, options))
        if not made:
            options.useRandomCoords = True
            made = list(rdDistGeom.EmbedMultipleConfs(full, count, options))
        if not made:
            raise DataError(f"{ligand.name}: no conformer of {ligand.smiles} can be made; check its stereo and rings")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(full):
            rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(full, maxIters=200, mmffVariant="MMFF94s")
    places = torch.stack([torch.from_numpy(full.GetConformer(k).GetPositions()[: len(ligand)]) for k in made])
    return (places - places.mean(1, keepdim=True)).float()
