"""`sfumato protein rank`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from sfumato.errors import check, typed
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import Drawing, Walk


@dataclass(frozen=True)
class Rank:
    """Teach a run to rank its samples: by samples of its held-out chains, of which it has seen none. From then on they are
    ranked by it, and its confidence stands in the B-factors."""

    run: Positional[Path]
    """Run directory."""
    n: Annotated[int, arg(aliases=["-n"])] = 10
    """Samples of each held-out chain."""
    chains: int | None = None
    """At most so many of them (none: all)."""
    updates: int = 1500
    """Steps of learning, one chain each."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            (2 <= self.n <= 1000, "n", "from 2 to 1000: samples are compared with each other"),
            (self.chains is None or self.chains >= 4, "chains", "at least 4"),
            (self.updates >= 1, "updates", "at least 1"),
        )

    def __call__(self) -> int:
        from sfumato.fields.protein.ranker import taught
        from sfumato.jobs.model import load

        loaded = load(self.run, self.walk, self.drawing, field="protein")
        say(taught(loaded, self.n, self.chains, self.updates))
        print(f"ranked: {self.run}")
        say(f"measure   sfumato evaluate {typed(self.run)}")
        return 0
