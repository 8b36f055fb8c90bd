"""What a run knows of its fields, kept in data.json. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.jobs import facts

if TYPE_CHECKING:
    from sfumato.fields.weather.grid import Grid
    from sfumato.fields.weather.source import Channel


@dataclass(frozen=True)
class WeatherFacts(facts.Facts):
    """Channels with their units, means and spreads; the grid as it was given; the step in seconds; which times are learned from
    and held out (seconds since 1970: from ``first`` to before ``until``, and from there to before ``held_until``)."""

    names: tuple[str, ...]
    levels: tuple[float | None, ...]
    units: tuple[str, ...]
    long_names: tuple[str, ...]
    standard_names: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    change: tuple[float, ...]
    """Spread of the change over one step, by which what is learned is divided."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    north: tuple[float, ...]
    east: tuple[float, ...]
    maps: tuple[str, ...]
    hidden: float
    """Share of the cells of all channels that have no value (land in a sea's temperature): they weigh nothing."""
    gappy: tuple[str, ...]
    """The channels that have such cells."""
    step: int
    first: int
    until: int
    held_until: int
    count: int
    held: int
    gaps: int
    """Steps between times that are longer than ``step``."""
    residual: tuple[float, ...] = ()
    """What a regression leaves of a step's change, in spreads of that change, where that is what is learned (``mean``)."""
    fine: str = ""
    """The variable that is drawn for the coarse ones, where downscaling is what is learned; its axes beside time, their
    sizes, its cells that have values, how many numbers tell of the coarse frames; mean and spread of ln(1 + mm) where it
    is wet."""
    fine_axes: tuple[str, ...] = ()
    fine_shape: tuple[int, ...] = ()
    fine_cells: int = 0
    fine_coarse: int = 0
    fine_mean: float = 0.0
    fine_spread: float = 1.0

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in order."""
        from sfumato.fields.weather.source import Channel

        return tuple(map(Channel, self.names, self.levels, self.units, self.long_names, self.standard_names))

    @property
    def grid(self) -> Grid:
        """The grid as it was given."""
        from sfumato.fields.weather.grid import Grid

        return Grid(self.north, self.east)

    @property
    def hours(self) -> float:
        """The step in hours."""
        return self.step / 3600

    def words(self) -> list[str]:
        """The data in lines."""
        from sfumato.fields.weather.grid import said

        labels = ", ".join(channel.label for channel in self.channels)
        beside = f", beside {', '.join(self.maps)}" if self.maps else ""
        gone = f"; {100 * self.hidden:.1f} % of the cells have no value" if self.hidden else ""
        gaps = f", {self.gaps} gap(s) in time" if self.gaps else ""
        fine = [
            f"{self.fine}: {self.fine_cells:,} cells, drawn for the fields of a step before, the same, and a step after"
        ]
        return [
            *(fine if self.fine else ()),
            f"{labels}{beside}; {self.grid.words()}{gone}",
            f"steps of {self.hours:g} h{gaps}: {self.count:,} to learn from ({said(self.first)} to before {said(self.until)}), "
            f"{self.held:,} held out (to before {said(self.held_until)})",
        ]

    def values(self) -> list[str]:
        """Mean, spread and the spread of one step's change, a line for each channel."""
        rows = zip(self.channels, self.mean, self.spread, self.change)
        return [
            f"{channel.label:<9} mean {mean:.6g}, spread {spread:.4g}, of a step's change {change:.4g} {channel.units}"
            for channel, mean, spread, change in rows
        ]
