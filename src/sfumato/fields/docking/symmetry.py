"""Distances between poses of one molecule that do not tell apart what the molecule does not: its symmetries."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfumato.fields.docking.chemistry import chem

MOST = 20_000
"""Symmetries of a molecule that are tried at most."""
_ENDS = "[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]"
"""Ends of conjugated groups (carboxylate, nitro, amidine), which are alike although their bonds are written apart."""


def symmetries(mol: Any) -> np.ndarray:
    """All ways to lay a molecule of heavy atoms on itself, (S, N) int64, the identity first."""
    Chem = chem()
    even = Chem.RWMol(mol)
    for end, middle in mol.GetSubstructMatches(Chem.MolFromSmarts(_ENDS)):
        even.GetBondBetweenAtoms(end, middle).SetBondType(Chem.BondType.SINGLE)
        even.GetAtomWithIdx(end).SetFormalCharge(0)
        even.GetAtomWithIdx(end).SetNoImplicit(True)
        even.GetAtomWithIdx(end).SetNumExplicitHs(0)
    found = even.GetSubstructMatches(even, uniquify=False, useChirality=False, maxMatches=MOST)
    identity = np.arange(mol.GetNumAtoms())
    rest = [match for match in found if match != tuple(identity)]
    return np.array([identity, *rest], dtype=np.int64)


def rmsd(places: np.ndarray, onto: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """The least RMSD over symmetries (S, N) of poses (P, N, 3) from a pose (N, 3), in place: (P,) in A."""
    best = np.full(len(places), np.inf)
    for part in np.array_split(ways, max(1, len(ways) // 256)):
        far = places[:, None] - onto[part][None]
        best = np.minimum(best, np.einsum("psnc,psnc->ps", far, far).min(1))
    return np.asarray(np.sqrt(best / places.shape[1]))


def apart(places: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """RMSD of every two poses (P, N, 3), (P, P) in A."""
    return np.stack([rmsd(places, each, ways) for each in places])
