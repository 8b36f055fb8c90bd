"""What samples need beside the network: the chains of the run, and its ranking head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfumato.fields.protein.data import Store

if TYPE_CHECKING:
    from sfumato.fields.protein.facts import ProteinFacts
    from sfumato.training.run import Run


@dataclass(frozen=True, eq=False)
class Companions:
    """store: the chains. ranker: what judges samples, None where none was trained."""

    store: Store
    ranker: Any = None

    @classmethod
    def of(cls, run: Run, facts: ProteinFacts) -> Companions:
        """Of a run. Raises DataError."""
        from sfumato.fields.protein.ranker import FILE, Ranker

        return cls(Store.of(run, facts), Ranker.of(run.path / FILE))
