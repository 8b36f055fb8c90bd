"""Sequences as queries, and what is drawn for them as ranked backbones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion import Drawn
from sfumato.diffusion.tree import Tree
from sfumato.fields.protein.choosing import Judged, agreed
from sfumato.fields.protein.data import NUMBERS, condition, padded
from sfumato.fields.protein.geometry import tidied
from sfumato.fields.protein.sequences import Asked
from sfumato.fields.protein.steering import Potentials, steered

if TYPE_CHECKING:
    from sfumato.jobs.model import Model


@dataclass(frozen=True, eq=False)
class Sequences:
    """n samples of each sequence: sample i is number i mod n of sequence i div n. A sequence's samples stand in batches with
    those of the same padded length."""

    asked: Sequence[Asked]
    n: int
    held: tuple[np.ndarray, np.ndarray] | None = None
    """Known coordinates (L, 4, 3) in the run's frame, and which residues are held (L,) bool, of the one sequence."""
    potentials: Potentials = Potentials()
    scale: float = 1.0
    tidy: bool = False
    """Whether bonds and angles are let relax."""

    def __len__(self) -> int:
        return len(self.asked) * self.n

    def of(self, number: int) -> tuple[Asked, int]:
        """The sequence of a sample, and which of its samples it is."""
        return self.asked[number // self.n], number % self.n

    @cached_property
    def buckets(self) -> list[int]:
        return [padded(len(one)) for one in self.asked for _ in range(self.n)]

    def name(self, number: int) -> tuple[str, int]:
        one, place = self.of(number)
        return one.name, place

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """Blanks x (b, L, 12), and what the network is told."""
        told = [condition(one.codes, one.cdr, padded(len(one))) for one, _ in map(self.of, numbers)]
        found: dict[str, Tree] = {name: torch.from_numpy(np.stack([each[name] for each in told])) for name in told[0]}
        blank = torch.zeros(*found["mask"].shape, NUMBERS)
        if self.held is not None:
            known, where = (torch.from_numpy(each) for each in self.held)
            shape, place = blank.clone(), torch.zeros_like(blank, dtype=torch.bool)
            shape[:, : len(known)] = known.flatten(1) / self.scale
            place[:, : len(known)] = where[:, None]
            found["aside"] = {"known": shape, "where": place}
        return {"x": blank, **found}


@dataclass(frozen=True, eq=False)
class Fold:
    """A sample: a backbone (L, 4, 3) in Angstrom of a sequence.

    number: which of the sequence's samples; rank: 1 is the best; confidence (L,) in 0..100, and of the third loop, NaN where
    nothing is known; error: why there is no backbone.
    """

    asked: Asked
    number: int
    coords: np.ndarray
    rank: int = 0
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(0))
    third: float = float("nan")
    error: str = ""

    @property
    def mean(self) -> float:
        """Confidence of the whole."""
        return float(np.mean(self.confidence)) if len(self.confidence) else float("nan")


def drawn(model: Model, queries: Sequences, numbers: Sequence[int]) -> Iterator[Drawn]:
    """Samples of these numbers, all of a sequence at once, ranked among themselves: scores "rank" (b,), "third" (b,),
    "confidence" (b, L). One that is not finite stays, and is told as such."""
    wanted: dict[int, list[int]] = {}
    for number in numbers:
        wanted.setdefault(int(number) // queries.n, []).append(int(number))
    if queries.potentials:
        for own in wanted.values():
            asked, blank = queries.of(own[0])[0], queries.batch(own[:1])
            yield _ranked(model, queries, own, steered(model, asked, blank, queries.potentials, len(own)))
        return
    waiting: dict[int, dict[int, Tensor]] = {}
    for part in model.draw(queries, numbers, finite=False):
        rows: Any = part.x
        for number, row in zip(part.numbers, rows.float().cpu()):
            waiting.setdefault(int(number) // queries.n, {})[int(number)] = row
        for one in [one for one, made in waiting.items() if len(made) == len(wanted[one])]:
            made = waiting.pop(one)
            yield _ranked(model, queries, sorted(made), torch.stack([made[number] for number in sorted(made)]))


def _ranked(model: Model, queries: Sequences, numbers: list[int], x: Tensor) -> Drawn:
    one, _ = queries.of(numbers[0])
    length = len(one)
    backbones = x[:, :length].unflatten(-1, (-1, 3)) * model.facts.scale
    whole = backbones.isfinite().flatten(1).all(1)
    judged = judge(model, one, backbones[whole])
    order = torch.full((len(x),), float("inf"), dtype=torch.float64)
    order[whole] = judged.score
    rank = torch.empty(len(x), dtype=torch.int64)
    rank[order.argsort(stable=True)] = torch.arange(1, len(x) + 1)
    confidence, third = torch.full((len(x), length), float("nan")), torch.full((len(x),), float("nan"))
    confidence[whole], third[whole] = judged.confidence.float(), judged.third.float()
    query: Mapping[str, Tree] = queries.batch(numbers)
    return Drawn(x, query, numbers, {"rank": rank, "confidence": confidence, "third": third})


def judge(model: Model, one: Asked, backbones: Tensor) -> Judged:
    """What is thought of some samples (n, L, 4, 3) of one sequence: by the run's ranking head, or by how much they agree."""
    ranker = model.companions.ranker
    if ranker is not None and len(backbones):
        found: Judged = ranker.judged(model, one, backbones)
        return found
    return agreed(backbones, one.cdr)


def folds(model: Model, queries: Sequences, part: Drawn) -> list[Fold]:
    """Samples as backbones in Angstrom; of those that were not ranked (drawn through the model alone) nothing else is known."""
    found = []
    x: Any = part.x
    for row, number in enumerate(part.numbers):
        one, place = queries.of(int(number))
        coords = x[row, : len(one)].reshape(len(one), -1, 3).float().cpu().numpy() * model.facts.scale
        rank = int(part.scores["rank"][row]) if "rank" in part.scores else 0
        if not np.isfinite(coords).all():
            found.append(Fold(one, place, coords, rank, error="numbers that are not finite"))
            continue
        if queries.tidy:
            coords = tidied(torch.from_numpy(coords)).numpy()
        if "confidence" not in part.scores:
            found.append(Fold(one, place, coords, rank))
            continue
        confidence = part.scores["confidence"][row].numpy()
        known = np.zeros(0) if np.isnan(confidence).any() else confidence
        found.append(Fold(one, place, coords, rank, known, float(part.scores["third"][row])))
    return found
