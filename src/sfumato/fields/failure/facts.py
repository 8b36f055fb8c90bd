"""What a run knows of its system, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sfumato.jobs import facts


@dataclass(frozen=True)
class FailureFacts(facts.Facts):
    """The simulator, what it is given, and what the first calls said.

    spread, middle, tenth (a tenth is below it), least: of the robustness of plain runs; middle is the unit of levels. single: one
    disturbance at a time.
    """

    simulator: str
    shape: tuple[int, ...]
    law: tuple[str, ...] = ()
    symmetry: str = "none"
    single: bool = False
    calls: int = 0
    first: int = 0
    failing: int = 0
    middle: float = 1.0
    tenth: float = 0.5
    spread: float = 1.0
    least: float = 0.0
    seconds: float = 0.0

    @property
    def n(self) -> int:
        """Numbers of a disturbance."""
        return math.prod(self.shape)

    def told(self, level: float) -> float:
        """A level of robustness as the network is told it."""
        return min(1.5, max(0.0, level / self.middle)) if self.middle > 0 else 0.0

    def words(self) -> list[str]:
        law = ", ".join(self.law) or "normal(0,1)"
        return [
            f"{self.simulator}: {self.n} numbers {self.shape}, {law}"
            + (", -x fails as x does" * (self.symmetry == "negate")),
            f"{self.first} first calls: robustness {self.middle:.3g} in the middle, spread {self.spread:.2g}, least "
            f"{self.least:.3g}; {self.seconds:.2g} s a call",
            *self.advice(),
        ]

    def advice(self) -> list[str]:
        """Whether the budget can work, from the first calls alone: as if robustness were normal, which it is not."""
        if self.failing:
            tail = self.failing / max(1, self.first)
        else:  # from the tenth below to the least the share fell by so many decades: as if that went on
            decades = math.log10(0.1 * self.first) * self.tenth / max(self.tenth - self.least, 1e-12 * self.tenth)
            tail = 10.0 ** -min(1 + decades, 300.0)
        levels = math.ceil(-math.log10(tail))
        if levels > 12:
            return [
                f"advice    failure is far off: if robustness fell on as in the first calls, p would be 1e-{levels}; look at the "
                "rounds, and stop where the level does not fall"
            ]
        need = max(500, 4000 * levels)
        plain = 100 / tail
        enough = "is enough" if self.calls >= need else f"is short: {need:,} would do"
        return [
            f"advice    p may be near {tail:.0e} ({levels} levels of a tenth): {self.calls:,} calls "
            f"{enough}; plain runs would need "
            f"{plain:.0e} for 10 %"
        ]
