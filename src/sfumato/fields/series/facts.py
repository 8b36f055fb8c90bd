"""What a run knows of its series, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.jobs import facts

if TYPE_CHECKING:
    from sfumato.fields.series.frequency import Frequency
    from sfumato.fields.series.pieces import Shape


@dataclass(frozen=True)
class SeriesFacts(facts.Facts):
    """The series by name; how their table was laid out; their step; what is forecast from what, in steps; and which parts are
    learned from."""

    names: tuple[str, ...]
    kind: str
    time: str
    id: str
    value: str
    zone: str
    dated: bool
    unit: str
    count: int
    anchor: int
    turn: int
    known: tuple[str, ...]
    steps: int
    gaps: int
    shortest: int
    longest: int
    horizon: int
    past: int
    season: int
    scale: str
    """Units of a window: mean (its mean and deviation) or last (its last value and the size of a step)."""
    own: bool
    """Whether what is learned is divided by the series' own past error, too."""
    test: int
    """Windows at the end of each series that are not learned from, for `sfumato evaluate`."""
    windows: int
    held: int
    reach: int
    """The most recent origins of each series that are learned from (0: all)."""
    clock: int
    """Numbers that tell the time."""
    rms: float = 1.0
    """Of what the ridge leaves, in units of the window."""
    taken: bool = False
    """Whether the ridges are those of the run that this one was tuned from: nothing was fitted to these series."""

    @property
    def frequency(self) -> Frequency:
        """The step."""
        from sfumato.fields.series.frequency import Frequency

        return Frequency(self.unit, self.count, self.anchor, self.turn)  # type: ignore[arg-type]

    @property
    def shape(self) -> Shape:
        """How the table was laid out."""
        from sfumato.fields.series.pieces import Shape

        return Shape(self.kind, self.time, self.id, self.value, self.zone, "", self.known)

    def words(self) -> list[str]:
        """The data in lines."""
        step = f"steps of {self.frequency.name}" if self.dated or self.frequency.count > 1 else "steps without times"
        zone = f", clocks of {self.zone}" if self.zone else ""
        season = f"season {self.season}" if self.season > 1 else "no season"
        units = "mean and deviation" if self.scale == "mean" else "last value and size of a step"
        return [
            f"{len(self.names):,} series of {self.shortest:,} to {self.longest:,} steps, {self.steps:,} in all, "
            f"{self.gaps:,} gaps; {step}{zone}",
            f"{self.horizon} steps are forecast from {self.past}, {season}; units: {units} of the past"
            f"{', own past error' if self.own else ''}",
            f"{self.windows:,} windows to learn from, {self.held:,} held out, the last {self.test * self.horizon} steps of each "
            "series are kept for `sfumato evaluate`",
        ]
