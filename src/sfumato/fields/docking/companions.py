"""What docking needs beside the network: the prepared complexes, and the ranker if the run has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.fields.docking.data import Store
from sfumato.fields.docking.facts import DockingFacts
from sfumato.fields.docking.rank import Ranker

if TYPE_CHECKING:
    from sfumato.training.run import Run


@dataclass(frozen=True, eq=False)
class Companions:
    """The complexes of a run, and what says how sure a pose is (None: not learned yet)."""

    store: Store
    ranker: Ranker | None

    @classmethod
    def of(cls, run: Run, facts: DockingFacts) -> Companions:
        """From a run's folder. Raises DataError, RunError."""
        return cls(Store.of(run, facts), Ranker.read(run.path))
