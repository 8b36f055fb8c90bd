"""How likely a pose is within 2 A: from numbers about it and its fellow samples, by a calibrated logistic regression.

The numbers are those that a person would look at: how many of the samples agree, how it lies over known poses of similar ligands,
how it touches the protein. The regression has a weight for each and no more, so a few dozen ligands are enough for it; it is
fitted on poses of ligands that the network has not learned from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.docking.symmetry import apart, symmetries

if TYPE_CHECKING:
    from sfumato.fields.docking.asking import Case, Pose

NAME = "rank.json"
NEAR = 2.0
"""A within which a pose is right."""
NUMBERS = (
    "agreement",
    "spread",
    "overlap",
    "overlap_kind",
    "overlap_all",
    "kin",
    "kin_near",
    "kin_lead",
    "contact",
    "clash",
    "similarity",
    "size",
    "torsions",
)
"""What is known of a pose; the last SAME are the same for all of a ligand."""
SAME = 3
PENALTY = 5.0
"""Of the squares of the weights, for standard numbers."""
PARTS, FEW = 5, 20
"""Parts of the ligands by which first poses are calibrated, and the fewest ligands with which they are."""


# ---- numbers ---------------------------------------------------------------------------------------------------------


def scored(poses: Sequence[Pose]) -> np.ndarray:
    """The NUMBERS of the poses of one case, (P, len(NUMBERS)) float64."""
    case, places = poses[0].case, np.stack([pose.places for pose in poses])
    ways = symmetries(case.ligand.mol)[:64]
    far = apart(places, ways)
    P = len(poses)
    agreement = (far < NEAR).mean(1)
    spread = np.log1p(far.mean(1))
    over, kind, every = overlaps(case, places)
    # what known poses say of the atoms: precisely, from a little farther, and how far behind the best of the samples
    kin, near = (case.kin.log_density(places - case.site.centre, tau).mean(1) for tau in (0.0, 1.0))
    contact, clash = touching(case, places)
    same = np.broadcast_to([case.similarity, len(case.ligand) / 20, len(case.joints) / 5], (P, SAME))
    own = [agreement, spread, over, kind, every, kin, near, near - near.max(), contact, clash]
    return np.concatenate((np.stack(own, 1), same), 1)


def overlaps(case: Case, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian overlap (Grant 1996, first order) of poses (P, N, 3) with known ones, as Tanimoto: the best over the templates in
    shape, in shape of atoms of one kind (aromatic, donor, acceptor, greasy), and how crowded with known atoms the places are;
    (P,) each. 0 where nothing is known."""
    P = len(places)
    shape, kind = np.zeros((P, 0)), np.zeros((P, 0))
    for template, _ in case.templates:
        assert template.places is not None
        shape = np.concatenate((shape, _tanimoto(places, template.places, None, None)[:, None]), 1)
        mine, other = case.ligand.atoms > 0, template.atoms > 0
        own = [_tanimoto(places, template.places, mine[:, k], other[:, k]) for k in (14, 29, 30, 31)]
        kind = np.concatenate((kind, np.mean(own, axis=0)[:, None]), 1)
    known = [each.places for each in case.others if each.places is not None]
    covered = np.zeros(P)
    if known:
        cloud = np.concatenate(known)
        near = np.linalg.norm(places[:, :, None] - cloud[None, None], axis=3) < 1.5
        covered = np.log1p(near.sum(2) / len(known) * 10).mean(1)
    return (shape.max(1), kind.max(1), covered) if shape.shape[1] else (np.zeros(P), np.zeros(P), covered)


def _tanimoto(places: np.ndarray, onto: np.ndarray, own: np.ndarray | None, other: np.ndarray | None) -> np.ndarray:
    a = places if own is None else places[:, own]
    b = onto if other is None else onto[other]
    if a.shape[1] == 0 or len(b) == 0:
        return np.zeros(len(places))

    def volume(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-np.square(x[:, :, None] - y[:, None]).sum(-1) * (1 / (4 * 0.7**2))).sum((1, 2))

    both = np.broadcast_to(b, (len(places), *b.shape))
    ab, aa, bb = volume(a, both), volume(a, a), volume(b[None], b[None])
    return np.asarray(ab / (aa + bb - ab))


_RADII = {"C": 1.9, "N": 1.8, "O": 1.7, "S": 2.0}


def touching(case: Case, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How poses (P, N, 3) touch the receptor: attraction and hydrogen bonds an atom in the form of Vina's terms (Trott 2010), and
    the square of what is nearer than the radii allow, an atom; (P,) each."""
    structure, centre = case.site.structure, case.site.centre
    close = np.linalg.norm(structure.places - centre, axis=1) < 20
    atoms, elements = structure.places[close], structure.elements[close]
    radius = np.array([_RADII.get(str(e), 1.9) for e in elements])
    mine = np.array([_RADII.get(a.GetSymbol(), 1.9) for a in case.ligand.mol.GetAtoms()])
    polar = np.isin(elements, ("N", "O"))
    own = case.ligand.atoms[:, 29:31].max(1) > 0
    greasy = case.ligand.atoms[:, 31] > 0
    far = np.sqrt(np.square(places[:, :, None] - atoms[None, None]).sum(-1)) - mine[None, :, None] - radius[None, None]
    near = np.where(far < 8, far, np.inf)
    steric = np.exp(-np.square(near / 0.5)) * 0.0356 + np.exp(-np.square((near - 3) / 2)) * 0.00516
    bonds = np.clip(-near / 0.7, 0, 1) * (own[:, None] & polar[None]) * 0.587
    grease = np.clip(1.5 - near, 0, 1) * (greasy[:, None] & np.isin(elements, ("C", "S"))[None]) * 0.0351
    n = places.shape[1]
    return (steric + bonds + grease).sum((1, 2)) / n, np.square(np.minimum(near, 0)).sum((1, 2)) / n


# ---- the ranker ------------------------------------------------------------------------------------------------------


def fitted(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, penalty: float = PENALTY) -> np.ndarray:
    """Logistic regression with an intercept: x (n, d) standard, y (n,) 0 or 1, weight (n,) -> (d + 1,), the intercept last. By
    Newton's method; the squares of all weights but the intercept are penalised."""
    n, d = x.shape
    full, w = np.concatenate((x, np.ones((n, 1))), 1), np.ones(n) if weight is None else weight
    ridge = np.diag([penalty] * d + [1e-6])
    beta = np.zeros(d + 1)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(full @ beta, -30, 30)))
        slope = full.T @ (w * (p - y)) + ridge @ beta
        step = np.linalg.solve((full * (w * p * (1 - p))[:, None]).T @ full + ridge, slope)
        beta = beta - step * min(1.0, 4 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return beta


def sobered(x: np.ndarray, y: np.ndarray, weight: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
    """Slope and shift that make scores of first poses right as often as they say (Platt 1999). The first of many is the best by
    luck too, so it is less sure than a pose of its score: seen on ligands that the regression of each part has not."""
    scores, right = [], []
    for part in range(PARTS):
        out = owner % PARTS == part
        beta = fitted(x[~out], y[~out], weight[~out])
        found = x[out] @ beta[:-1] + beta[-1]
        for each in np.unique(owner[out]):
            own = np.flatnonzero(owner[out] == each)
            first = own[found[own].argmax()]
            scores.append(found[first])
            right.append(y[out][first])
    s, known = np.array(scores), np.array(right)
    slope, shift = 1.0, 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(slope * s + shift, -30, 30)))
        w = p * (1 - p)
        pull = np.array([((p - known) * s).sum() + slope - 1, (p - known).sum() + 1e-3 * shift])
        bend = np.array([[(w * s * s).sum() + 1, (w * s).sum()], [(w * s).sum(), w.sum() + 1e-3]])
        step = np.linalg.solve(bend, pull)
        slope, shift = slope - step[0], shift - step[1]
    return max(float(slope), 0.05), float(shift)


@dataclass(frozen=True)
class Ranker:
    """mean, spread (d,) of the NUMBERS, weights (d + 1,), the last an intercept. folds: the same of rankers that have not seen
    the ligands of one group of scaffolds each, by which those that ``of`` names, with their group, are judged."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    made_of: str = ""
    folds: tuple[tuple[float, ...], ...] = ()
    of: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, owner: np.ndarray, made_of: str = "") -> Ranker:
        """From numbers (n, d) of poses, whether they are right (n,), and whose they are (n,): every ligand counts as one."""
        mean, spread = x.mean(0), x.std(0).clip(min=1e-6)
        _, back, count = np.unique(owner, return_inverse=True, return_counts=True)
        standard, right, weight = (x - mean) / spread, y.astype(np.float64), 10 / count[back]
        beta = fitted(standard, right, weight)
        if len(count) >= FEW:
            slope, shift = sobered(standard, right, weight, back)
            beta = slope * beta + shift * (np.arange(len(beta)) == len(beta) - 1)
        return cls(tuple(mean.tolist()), tuple(spread.tolist()), tuple(beta.tolist()), made_of)

    def __call__(self, x: np.ndarray, name: str = "") -> np.ndarray:
        """Confidence of poses with these numbers (n, d), (n,): by the ranker that has not seen the ligand, where it was seen."""
        beta = np.array(self.folds[self.of[name]] if name in self.of and self.folds else self.weights)
        standard = (x - np.array(self.mean)) / np.array(self.spread)
        return np.asarray(1 / (1 + np.exp(-np.clip(standard @ beta[:-1] + beta[-1], -30, 30))))

    def write(self, folder: Path) -> Path:
        """As rank.json."""
        from sfumato.training.run import write_text

        write_text(folder / NAME, json.dumps({"numbers": NUMBERS, **dataclasses.asdict(self)}, indent=1))
        return folder / NAME

    @classmethod
    def read(cls, folder: Path) -> Ranker | None:
        """From a run's folder; None where there is none, or one of an earlier version's numbers, which is said. Raises RunError
        for a damaged one."""
        from sfumato.training.run import RunError
        from sfumato.training.telling import tell

        try:
            stored: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
            if tuple(stored.pop("numbers")) != NUMBERS:
                tell(
                    f"ranker    {folder / NAME} is of an earlier version: ranked by agreement until `sfumato docking rank`"
                )
                return None
            plain: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
            }
            plain["folds"] = tuple(map(tuple, plain.get("folds", ())))
            found: Ranker = cls(**plain)
            if len(found.weights) != len(NUMBERS) + 1 or len(found.mean) != len(NUMBERS):
                raise ValueError("of another length")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(
                f"{folder / NAME}: cannot be read ({error}); remove it, and make it anew with `sfumato docking rank`"
            ) from error
        return found


def ranked(ranker: Ranker | None, poses: Sequence[Pose]) -> list[Pose]:
    """The poses of a case, the surest first, with their scores; without a ranker that which most samples agree with."""
    x = scored(poses)
    sure = None if ranker is None else ranker(x, poses[0].case.name)
    key = x[:, 0] - 1e-3 * x[:, 1] if sure is None else sure
    named = [dict(zip(NUMBERS[:-SAME], map(float, row))) for row in x]
    if sure is not None:
        named = [{"confidence": float(value), **each} for value, each in zip(sure, named)]
    made = [dataclasses.replace(pose, scores={**pose.scores, **each}) for pose, each in zip(poses, named)]
    return [made[i] for i in np.argsort(-key, kind="stable")]
