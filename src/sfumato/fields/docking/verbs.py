"""The verb of docking alone: `sfumato docking rank`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from sfumato.errors import check
from sfumato.fields.docking.options import POSES
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import Drawing, Walk
from sfumato.training.telling import show


@dataclass(frozen=True)
class Rank:
    """Learn how sure a pose is: ligands that the network has not learned from are docked, and what tells right poses from wrong
    ones is fitted and calibrated. Samples are ranked by it from then on."""

    run: Positional[Path]
    """Run directory."""
    n: Annotated[int, arg(aliases=["-n"])] = POSES
    """Poses of each held-out ligand."""
    search: bool = True
    """Some of these are searched for, as some of the poses that `sample` makes."""
    settle: int = 15
    """Steps in which the others slide downhill, as those that `sample` makes."""
    parts: int = 5
    """Groups of scaffolds, each judged by a ranker that was fitted on the others."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            (0 <= self.settle <= 1000, "settle", "from 0 to 1000 steps"),
            (2 <= self.n <= 10_000, "n", "from 2 to 10000"),
            (2 <= self.parts <= 100, "parts", "from 2 to 100"),
        )

    def __call__(self) -> int:
        from sfumato.fields.docking.ranking import learn
        from sfumato.jobs.model import load

        loaded = load(self.run, self.walk, self.drawing, field="docking")
        path, told = learn(loaded, self.n, self.parts, self.search, self.settle)
        show(told)
        say(f"kept in   {path}\nmeasure   sfumato evaluate {self.run}")
        return 0
