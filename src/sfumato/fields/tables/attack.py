"""Membership attacks: can somebody who has the made table tell which real rows the model was trained on?

Both attacks score a row by how much more made rows lie about it than real rows in general do (the density ratio of DOMIAS,
van Breugel et al. 2023, arXiv 2302.12580), estimated from real rows that nothing was trained on: by the distances to the
nearest made and the nearest real row, and by boosted trees that tell the two tables apart. Half of the rows that are asked
about were trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sfumato.fields.tables.detector import MOST
from sfumato.fields.tables.frames import Frame, nearest, spread
from sfumato.fields.tables.trees import ROUNDS, auc, boosted

SEEDS = 3
ASKED = 1000  # rows of each kind that are asked about
FEWEST = 100  # held-out rows without which nothing is attacked
FALSE = 0.01  # share of rows that were not trained on and are taken for such


@dataclass(frozen=True)
class Attack:
    """What an attack found.

    Args:
        name: "distance" or "trees".
        auc: share of pairs of a row that was trained on and one that was not in which the attack names the right one; 0.5
            is guessing. half: of its 90 % interval.
        caught: share of the training rows that it names where it names 1 % of the others.
        n: rows of each kind that were asked about, by each of the seeds.
    """

    name: str
    auc: float
    half: float
    caught: float
    n: int


def attacks(made: Frame, train: Frame, held_out: Frame, seed: int = 0) -> tuple[Attack, ...]:
    """Both attacks, means over three draws of the rows; nothing where too few rows were held out.

    Args:
        train: what the made rows may have been learned from. held_out: rows that they were not; half of them, by turns,
            are those asked about, and the others are what the attacker knows of real rows.
    """
    n = min(len(train), len(held_out) // 2, ASKED)
    if len(held_out) < FEWEST or n < FEWEST // 2:
        return ()
    rng = np.random.default_rng(seed)
    made = made.take(rng.permutation(len(made))[:MOST])
    told: dict[str, list[tuple[float, float]]] = {"distance": [], "trees": []}
    for _ in range(SEEDS):
        order = rng.permutation(len(held_out))
        members, others = train.take(rng.permutation(len(train))[:n]), held_out.take(order[:n])
        known = held_out.take(order[n:][:MOST])
        asked = Frame(np.concatenate([members.cells, others.cells]), train.words)
        for name, attack in (("distance", _by_distance), ("trees", _by_trees)):
            scores = attack(asked, made, known)
            told[name].append((auc(scores, np.repeat([1, 0], n)), _caught(scores[:n], scores[n:])))
    half = 1.645 * math.sqrt((2 * n + 1) / (12 * n * n))  # of the rank statistic under chance (Mann and Whitney 1947)
    means = {name: np.mean(pairs, 0).tolist() for name, pairs in told.items()}
    return tuple(Attack(name, area, half, caught, n) for name, (area, caught) in means.items())


def _by_distance(asked: Frame, made: Frame, known: Frame) -> np.ndarray:
    """log(distance to the nearest real row / distance to the nearest made row)."""
    scale = spread(made, known)
    least = 1e-6
    return np.log(nearest(asked, known, scale) + least) - np.log(nearest(asked, made, scale) + least)


def _by_trees(asked: Frame, made: Frame, known: Frame) -> np.ndarray:
    """Odds of being made, by trees that were shown made and real rows."""
    x = np.concatenate([made.cells, known.cells])
    y = np.repeat([1, 0], [len(made), len(known)])
    return boosted(x, y, asked.words, 2, ROUNDS // 2)(asked.cells)[:, 1]


def _caught(members: np.ndarray, others: np.ndarray) -> float:
    """Share of the members above the score that a hundredth of the others reach; among equal scores, by lot."""
    allowed = FALSE * len(others)
    line = np.sort(others)[::-1][min(int(allowed), len(others) - 1)]
    above, ties = (members > line).mean(), (members == line).mean()
    false, equal = int((others > line).sum()), int((others == line).sum())
    return float(above + ties * min(1.0, max(0.0, allowed - false) / equal))
