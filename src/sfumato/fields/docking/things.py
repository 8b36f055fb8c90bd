"""What is drawn or searched for, and how it becomes poses in the receptor's frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sfumato.diffusion.generate import Drawn, bunches, streams
from sfumato.fields.docking.asking import Docked, Pose
from sfumato.fields.docking.pose import closed
from sfumato.fields.docking.settling import LOTS, searched

if TYPE_CHECKING:
    from sfumato.jobs.model import Model

TOGETHER = 64
"""Poses that are searched for at a time."""


def drawn(model: Model, queries: Docked, numbers: Sequence[int]) -> Iterator[Drawn]:
    """The samples of these numbers: drawn by the network, and of those that are searched for the lots that they begin with."""
    yield from model.draw(queries, [number for number in numbers if not queries.searches(number)])
    for own in bunches(queries, [number for number in numbers if queries.searches(number)], TOGETHER):
        query: Mapping[str, Any] = queries.batch(own)
        lots = streams(queries, own, model.drawing.seed, ("search",)).normal((len(own), LOTS))
        yield Drawn(query["x"], query, own, {"lots": lots})


def poses_of(queries: Docked, part: Drawn) -> list[Pose]:
    """The poses of a batch; what its coding may have torn is closed onto the conformer."""
    if "lots" in part.scores:
        return _found(queries, part)
    body = {name: value.cpu() for name, value in part.query["ligand"].items()}  # type: ignore[union-attr]
    own = {name: value.float().cpu() for name, value in part.x.items()}  # type: ignore[union-attr]
    every, found = queries.coding.places(own, body).double(), []
    for number, places in zip(part.numbers, every):
        case, place = queries.at(number)
        pose: torch.Tensor = places[: len(case.ligand)]
        if not queries.coding.whole:
            pose = closed(case.conformers[case.conformer(place)], case.joints, case.quads, pose)
        found.append(Pose(case, number, place, pose.numpy() + case.site.centre))
    return found


def _found(queries: Docked, part: Drawn) -> list[Pose]:
    lots: Any = part.scores["lots"]
    found = []
    for k in sorted({number // queries.n for number in part.numbers}):
        rows = [row for row, number in enumerate(part.numbers) if number // queries.n == k]
        numbers = [part.numbers[row] for row in rows]
        case, own = queries.cases[k], [queries.at(number)[1] for number in numbers]
        every = searched(case, [case.conformer(place) for place in own], lots[rows].double().numpy())
        found += [Pose(case, *told, {"searched": 1.0}) for told in zip(numbers, own, every)]
    return found
