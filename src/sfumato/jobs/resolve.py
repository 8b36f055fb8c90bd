"""What a walk comes to: what was asked, over what the run's conversion, its field and its process bring."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sfumato.errors import Wrong
from sfumato.jobs.adapt import Walked
from sfumato.jobs.recipe import Recipe
from sfumato.jobs.walk import DESCENT, USUAL, Walk, is_fit, noisy


def resolved(asked: Walk, name: str, recipe: Recipe, process: Any, adaptations: Sequence[Walked]) -> Walk:
    """What was asked, over what conversions bring, over what the field does, over what suits the process."""
    walk = asked
    for field in ("grid", "shift", "eta", "tol"):
        if is_fit(asked) and getattr(asked, field) is not None:
            raise Wrong(f"{field} = {getattr(asked, field)}: solver = 'fit' has stops of its own; leave it out")
    if adaptations:
        walk = walk.over(recipe.walk("few"))
    for adaptation in reversed(adaptations):
        walk = walk.over(adaptation.walk())
    walk = walk.over(recipe.walk(name)).over(Walk(**process.habits))
    if asked.eta and asked.solver is None:
        walk = dataclasses.replace(walk, solver=noisy(walk.solver, process))
    if (walk.solver or "").partition(":")[0] == "descent":  # goes as far as it needs: steps are a bound alone
        walk = walk.over(Walk(steps=DESCENT))
    walk = walk.over(USUAL)
    if (
        walk.tol is not None
        and asked.solver is None
        and (walk.solver or "").partition(":")[0] not in ("leap", "descent")
    ):
        walk = dataclasses.replace(walk, solver="adaptive")
    elif walk.tol is not None and asked.solver is None:
        walk = dataclasses.replace(walk, solver=(walk.solver or "").partition(":")[0])
    return walk
