"""What is drawn or searched for, and how it becomes poses in the receptor's frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.diffusion.generate import Drawn, bunches, streams
from sfumato.fields.docking.asking import Docked, Pose
from sfumato.fields.docking.pose import closed
from sfumato.fields.docking.settling import LOTS, searched, settled

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
    """The poses of a batch; what its coding may have torn is closed onto the conformer, and what was drawn settles."""
    if "lots" in part.scores:
        return _found(queries, part)
    body = {name: value.cpu() for name, value in part.query["ligand"].items()}
    own = {name: value.float().cpu() for name, value in part.x.items()}
    every, found = queries.coding.places(own, body).double(), []
    for number, places in zip(part.numbers, every):
        case, place = queries.at(number)
        pose: torch.Tensor = places[: len(case.ligand)]
        if not queries.coding.whole:
            pose = closed(case.conformers[case.conformer(place)], case.joints, case.quads, pose)
        found.append(Pose(case, number, place, pose.numpy() + case.site.centre))
    return _settled(queries, found)


def _settled(queries: Docked, poses: list[Pose]) -> list[Pose]:
    """Each drawn pose, where poses are known, a few steps downhill; in their order."""
    found = {pose.number: pose for pose in poses}
    for k in sorted({number // queries.n for number in found}) if queries.settle else ():
        own = [pose for pose in poses if pose.number // queries.n == k]
        if queries.cases[k].others:
            every = settled(queries.cases[k], np.stack([pose.places for pose in own]), queries.settle)
            found |= {pose.number: replace(pose, places=places) for pose, places in zip(own, every)}
    return list(found.values())


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
