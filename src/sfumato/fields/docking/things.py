"""What was drawn, as poses in the receptor's frame."""

from __future__ import annotations

from typing import Any

import torch

from sfumato.fields.docking.asking import Docked, Pose
from sfumato.fields.docking.overlay import overlay
from sfumato.fields.docking.pose import closed


def poses_of(queries: Docked, drawn: Any) -> list[Pose]:
    """The poses of a batch; what its coding may have torn is closed onto the conformer, and the last ones of a case are overlays
    where that is asked for and a known pose is there."""
    body = {name: value.cpu() for name, value in drawn.query["ligand"].items()}
    own = {name: value.float().cpu() for name, value in drawn.x.items()}
    every, found = queries.coding.places(own, body).double(), []
    for number, places in zip(drawn.numbers, every):
        case, place = queries.at(number)
        template = case.template(place)
        if place >= queries.n - queries.overlays and template is not None:
            laid = overlay(case, template, template + 1)
            assert laid is not None
            found.append(Pose(case, number, place, laid, {"overlay": 1.0}))
            continue
        pose: torch.Tensor = places[: len(case.ligand)]
        if not queries.coding.whole:
            pose = closed(case.conformers[case.conformer(place)], case.joints, case.quads, pose)
        found.append(Pose(case, number, place, pose.numpy() + case.site.centre))
    return found
