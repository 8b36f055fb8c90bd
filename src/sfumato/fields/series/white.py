"""Residuals and white numbers: e = L^-1 r in the order known, unknown, absent, where L L' is the residuals' covariance so
ordered.

So the white numbers of what is unknown are those of its law given what is known, whatever is known: a forecast (nothing), a gap
(what stands around it), a scenario (a step ahead). One set of weights learns all of them. What is absent (a gap in what was to be
learned from) comes last and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST = 8.0
"""White numbers beyond are held there: the normal law has none."""
MASKS = 192
"""Masks of what is known that a network learns with, beside none."""


@dataclass(frozen=True, eq=False)
class White:
    """root (H, H): the Cholesky factor of the residuals' covariance."""

    root: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cov", self.root @ self.root.T)

    def factors(self, known: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For masks (N, H) the order of each row's numbers (N, H) and L (N, H, H)."""
        order = np.argsort(np.where(~there, 2, np.where(known, 0, 1)), axis=1, kind="stable")
        cov: np.ndarray = self._cov  # type: ignore[attr-defined]
        return order, np.linalg.cholesky(cov[order[:, :, None], order[:, None, :]])

    def white(self, left: np.ndarray, known: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Residuals (N, H) -> white numbers (N, H), each at its own place; 0 where there is none."""
        plain = ~known.any(1) & there.all(1)
        made = np.zeros_like(left)
        if plain.any():
            made[plain] = np.linalg.solve(self.root, left[plain].T).T
        if (rest := np.flatnonzero(~plain)).size:
            order, root = self.factors(known[rest], there[rest])
            ordered = np.take_along_axis(np.where(there[rest], left[rest], 0.0), order, 1)
            white = np.linalg.solve(root, ordered[:, :, None])[:, :, 0]
            mine = np.zeros_like(white)
            np.put_along_axis(mine, order, white, 1)
            made[rest] = np.where(there[rest], mine, 0.0)
        return np.clip(made, -MOST, MOST)

    def whiteners(self, known: np.ndarray) -> np.ndarray:
        """For masks (K, H) the matrices (K, H, H) that whiten residuals of which none is absent."""
        order, root = self.factors(known, np.ones_like(known))
        size = known.shape[1]
        turn = np.zeros((len(known), size, size))
        np.put_along_axis(turn, order[:, :, None], 1.0, 2)
        return np.asarray(turn.transpose(0, 2, 1) @ np.linalg.solve(root, turn))

    def coloured(self, white: np.ndarray, known: np.ndarray, left: np.ndarray) -> np.ndarray:
        """The other way, for what is unknown: white numbers (N, H), and residuals (N, H) where ``known`` -> residuals."""
        if not known.any():
            return np.asarray(white @ self.root.T)
        there = np.ones_like(known)
        masks, which = np.unique(known, axis=0, return_inverse=True)
        made = np.empty_like(white)
        for i, mask in enumerate(masks):
            rows = np.flatnonzero(which.reshape(-1) == i)
            order, root = (each[0] for each in self.factors(mask[None], there[:1]))
            given = int(mask.sum())
            exact = left[rows][:, order[:given]]
            e = white[rows][:, order].copy()
            if given:
                e[:, :given] = np.linalg.solve(root[:given, :given], exact.T).T
            found = e @ root.T
            found[:, :given] = exact
            made[np.ix_(rows, order)] = found
        return made


def masks(leads: int, count: int = MASKS) -> np.ndarray:
    """What is known of a window's future, (count, H) bool, the same ones for ever: points at random, blocks, beginnings; at least
    one step is unknown."""
    chance = np.random.Generator(np.random.Philox(key=[leads, 0x5E71E5]))
    made = np.zeros((count, leads), dtype=bool)
    for row, mask in enumerate(made):
        kind, share = row % 3, chance.uniform(0.1, 0.95)
        if kind == 0:
            mask[:] = chance.uniform(size=leads) < share
        elif kind == 1:  # a gap between what is known
            size = int(chance.integers(1, max(2, leads)))
            at = int(chance.integers(0, leads - size + 1))
            mask[:] = True
            mask[at : at + size] = False
        else:
            mask[: int(chance.integers(1, max(2, leads)))] = True
        if mask.all():
            mask[int(chance.integers(leads))] = False
    return made
