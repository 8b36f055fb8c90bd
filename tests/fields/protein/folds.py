"""Backbones made for tests: exact bonds and angles from torsions, and a family of chains with regions like heavy chains."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np

from sfumato.fields.protein.alphabet import LETTERS

# bond lengths and angles of the chain N, CA, C, N, ... (Engh and Huber 1991, rounded), and of O beside C
LENGTHS = {"N": 1.329, "CA": 1.458, "C": 1.525}
ANGLES = {"N": 116.2, "CA": 121.7, "C": 111.2}
LAYOUT = (20, 5, 17, 6, 38, 8, 11)
"""Lengths of the seven regions; the sixth varies."""


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of two vectors; numpy's own is slow for so few."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def placed(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, torsion: float) -> np.ndarray:
    """The point at this distance from c, angle b-c-d and torsion a-b-c-d, in degrees."""
    angle, torsion = np.deg2rad(angle), np.deg2rad(torsion)
    axis = (c - b) / math.dist(c, b)
    normal = cross(b - a, axis)
    normal /= math.hypot(*normal)
    local = np.array([-np.cos(angle), np.sin(angle) * np.cos(torsion), np.sin(angle) * np.sin(torsion)]) * length
    return c + local @ np.stack((axis, cross(normal, axis), normal))


def backbone(phi: np.ndarray, psi: np.ndarray, omega: float = 180.0) -> np.ndarray:
    """N, CA, C, O (L, 4, 3) of a chain with these torsions (L,), in degrees."""
    start = np.array([[0.0, 0.0, 0.0], [1.458, 0.0, 0.0], [2.009, 1.422, 0.0]])
    atoms = list(start)
    for i in range(1, len(phi)):
        for name, torsion in (("N", psi[i - 1]), ("CA", omega), ("C", phi[i])):
            atoms.append(placed(*atoms[-3:], LENGTHS[name], ANGLES[name], torsion))
    atoms.append(placed(*atoms[-3:], LENGTHS["N"], ANGLES["N"], psi[-1]))  # the next N, for the last O
    found = np.zeros((len(phi), 4, 3))
    for i in range(len(phi)):
        n, ca, c, after = atoms[3 * i : 3 * i + 4]
        found[i, :3] = n, ca, c
        found[i, 3] = placed(n, ca, c, 1.231, 120.1, torsion_of(n, ca, c, after) + 180)
    return found


def torsion_of(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """The torsion a-b-c-d in degrees, by the formula of Wikipedia's page of dihedral angles: atan2 of triple products."""
    u, v, w = b - a, c - b, d - c
    return float(np.rad2deg(np.arctan2(np.linalg.norm(v) * u @ np.cross(v, w), np.cross(u, v) @ np.cross(v, w))))


def rotation(rng: np.random.Generator) -> np.ndarray:
    """A random rotation (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def family(count: int, seed: int = 0, split: bool = True) -> dict[str, np.ndarray]:
    """The arrays of :func:`made`, to be changed at will."""
    return {name: value.copy() for name, value in made(count, seed, split).items()}


@cache
def made(count: int, seed: int, split: bool) -> dict[str, np.ndarray]:
    """Arrays of a file of chains: the framework nearly the same in all, the third loop of several lengths, each in a frame of
    its own; with a split of whole clusters."""
    rng = np.random.default_rng(seed)
    base = (
        {k: rng.uniform(-150, -50, n) for k, n in enumerate(LAYOUT)},
        {k: rng.uniform(-60, 160, n) for k, n in enumerate(LAYOUT)},
    )
    letters = {k: rng.integers(0, 20, n) for k, n in enumerate(LAYOUT)}
    coords, seq, cdr, sides = [], [], [], []
    for i in range(count):
        lengths = [*LAYOUT[:5], LAYOUT[5] + i % 3, LAYOUT[6]]
        third = rng.uniform(-150, -50, lengths[5]), rng.uniform(-60, 160, lengths[5])
        phi, psi = (np.concatenate([third[t] if k == 5 else base[t][k] + rng.normal(0, 1, n) for k, n in enumerate(lengths)])
                    for t in (0, 1))  # fmt: skip
        own = [rng.integers(0, 20, lengths[5]) if k == 5 else letters[k].copy() for k in range(7)]
        own[0][int(rng.integers(0, 20))] = rng.integers(0, 20)
        coords.append(backbone(phi, psi) @ rotation(rng) + rng.normal(0, 100, 3))
        seq.append("".join(LETTERS[code] for code in np.concatenate(own)))
        cdr.append("".join(str(digit) * n for digit, n in zip((0, 1, 0, 2, 0, 3, 0), lengths)))
        sides.append("val" if i % 5 == 3 else "test" if i % 5 == 4 else "train")
    arrays = {
        "coords": np.concatenate(coords).astype(np.float32), "offsets": np.r_[0, np.cumsum([len(s) for s in seq])],
        "seq": np.array(seq), "cdr": np.array(cdr), "pdb": np.array([f"t{i:03d}" for i in range(count)]),
    }  # fmt: skip
    return arrays | ({"split": np.array(sides)} if split else {})


def saved(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """As a file."""
    np.savez(path, **arrays)
    return path
