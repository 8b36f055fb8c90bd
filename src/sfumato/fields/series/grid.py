"""Pieces of files on one even grid: the step is found, gaps become NaN, and every exception is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfumato.errors import DataError, shortened, shown
from sfumato.fields.series import zones
from sfumato.fields.series.frequency import DAY, STEPS, Frequency, anchored, found
from sfumato.fields.series.pieces import Piece, Source

LEAST = 3
"""Values that a series needs."""


@dataclass(frozen=True, eq=False)
class Line:
    """A series on the grid: the place of its first step, values (n,) float64 with NaN in gaps, known covariates (n + ahead,
    c)."""

    name: str
    start: int
    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True, eq=False)
class Gridded:
    """All series of a source on one grid. ``dated``: whether they have times at all. ``left``: names of series left out, with too
    few values. ``gaps``: steps without a value between those that have one."""

    lines: tuple[Line, ...]
    frequency: Frequency
    dated: bool
    zone: str
    left: tuple[str, ...] = ()
    gaps: int = 0


def gridded(
    source: Source,
    path: Path,
    freq: Frequency | None,
    tell: Callable[[str], None],
    average: bool = True,
    least: int = LEAST,
) -> Gridded:
    """The series of a source on the grid that their stamps tell, or on that of ``freq``, where several values that fall into one
    step are averaged (``average`` False: every stamp must be of this step). Raises DataError."""
    dated = any(piece.stamps is not None for piece in source.pieces)
    for piece in source.pieces:
        if len(bad := np.flatnonzero(np.isinf(piece.values))):
            raise DataError(
                f"{shown(path)}: {shown(piece.name)} is infinite at step {int(bad[0]) + 1}; leave it empty, or take it out"
            )
        if piece.stamps is None and dated:
            raise DataError(f"{shown(path)}: {shown(piece.name)} has no time, and other series have one")
    stated = freq or (None if not source.shape.freq else _stated(source.shape.freq))
    if not dated:
        lines = [Line(piece.name, 0, piece.values, piece.known) for piece in source.pieces]
        return _kept(lines, stated or STEPS, False, "", path, tell, least)
    if source.shape.kind == "list":
        return _kept(*_listed(source, path, stated), True, source.shape.zone, path, tell, least)
    pieces = [_sorted(piece, path, tell) for piece in source.pieces]
    exact = stated is not None and (average or least < LEAST)
    frequency = stated if stated is not None and exact else _agreed(pieces, path)
    if stated is not None and (frequency.unit, frequency.count) != (stated.unit, stated.count):
        raise DataError(
            f"{shown(path)}: has steps of {frequency.name}, the run is of {stated.name}; give series of that step"
        )
    local = frequency.local and bool(source.shape.zone)
    if local:  # whole days are those of the wall clock
        pieces = [_moved(piece, zones.wall(_there(piece), source.shape.zone)) for piece in pieces]
    if least == LEAST:  # of a scenario, which may be one row, the step and where it stands are known
        frequency = anchored(frequency, np.concatenate([_there(piece) for piece in pieces]))
    lines = [_line(piece, frequency, average and freq is not None, path) for piece in pieces]
    return _kept(lines, frequency, True, source.shape.zone, path, tell, least)


def _stated(word: str) -> Frequency:
    from sfumato.fields.series.frequency import parsed

    return parsed(word)


def _there(piece: Piece) -> np.ndarray:
    assert piece.stamps is not None
    return piece.stamps


def _moved(piece: Piece, stamps: np.ndarray) -> Piece:
    return Piece(piece.name, stamps, piece.values, piece.known)


def _sorted(piece: Piece, path: Path, tell: Callable[[str], None]) -> Piece:
    """In the order of the time. Raises DataError for times that come twice."""
    stamps, order = _there(piece), np.argsort(_there(piece), kind="stable")
    if (np.diff(order) < 0).any():
        piece, stamps = Piece(piece.name, stamps[order], piece.values[order], piece.known[order]), stamps[order]
        at = int(np.flatnonzero(np.diff(order) < 0)[0])
        tell(f"order     {shown(piece.name)}: its times do not rise (first at row {at + 2}); they were sorted")
    twice = np.flatnonzero(np.diff(stamps) == 0)
    if len(twice):
        said = zones.said(stamps[twice[:1]], "", False)[0]
        hour = (
            " (clocks set back? name the place with --zone Europe/Berlin)"
            if len(twice) <= 4 * (1 + len(stamps) // 4000)
            else ""
        )
        raise DataError(
            f"{shown(path)}: {shown(piece.name)} has {said} twice, {len(twice)} such time(s) in all{hour}; keep one row a "
            "time, or name the column that tells series apart with --ids"
        )
    return piece


def _agreed(pieces: Sequence[Piece], path: Path) -> Frequency:
    """The step of all of them. Raises DataError, which names a series with another one."""
    seen: dict[bytes, tuple[Frequency, str]] = {}
    counts: Counter[tuple[str, int]] = Counter()
    first: dict[tuple[str, int], tuple[Frequency, str]] = {}
    for piece in pieces:
        stamps = _there(piece)
        if len(stamps) < 2:
            continue
        mark = stamps.tobytes() if len(pieces) < 1000 else b""  # columns of a wide table share theirs
        if mark not in seen or not mark:
            seen[mark] = found(stamps, f"{shown(path)}: {shown(piece.name)}"), piece.name
        frequency = seen[mark][0]
        key = frequency.unit, frequency.count
        counts[key] += 1
        first.setdefault(key, (frequency, piece.name))
    if not counts:
        raise DataError(f"{shown(path)}: no series has two times; the step cannot be told, give --freq")
    usual = counts.most_common(1)[0][0]
    if ("B", 1) in counts and ("s", DAY) in counts:  # some short ones never saw a weekend
        del counts[("B", 1)]
        usual = ("s", DAY) if usual == ("B", 1) else usual
    if len(counts) > 1:
        other = next(key for key in counts if key != usual)
        frequency, name = first[other]
        raise DataError(
            f"{shown(path)}: {shown(name)} has steps of {frequency.name}, most series of {first[usual][0].name}; train on "
            "series of one step, or give --freq to average all to one"
        )
    return first[usual][0]


def _line(piece: Piece, frequency: Frequency, average: bool, path: Path) -> Line:
    """A series on the grid. Raises DataError for a time off it."""
    stamps = _there(piece)
    places, exact = frequency.places(stamps)
    if not average and not exact.all():
        at = int(np.flatnonzero(~exact)[0])
        said = zones.said(stamps[at : at + 1], "", False)[0]
        raise DataError(
            f"{shown(path)}: {shown(piece.name)} has {said}, off the steps of {frequency.name} ({int((~exact).sum())} such "
            f"time(s)); its steps are irregular: give --freq {frequency.name} to average within steps"
        )
    start, count = int(places[0]), int(places[-1] - places[0]) + 1
    if count > 100 * len(stamps) + 1000:
        raise DataError(
            f"{shown(path)}: {shown(piece.name)} has {len(stamps)} values on {count:,} steps of {frequency.name}; give a "
            "longer --freq"
        )
    values, known = np.full(count, np.nan), np.full((count, piece.known.shape[1]), np.nan)
    if len(np.unique(places)) == len(places):
        values[places - start], known[places - start] = piece.values, piece.known
    else:
        for into, of in ((values[:, None], piece.values[:, None]), (known, piece.known)):
            for c in range(of.shape[1]):
                there = np.isfinite(of[:, c])
                total = np.bincount(places[there] - start, of[there, c], count)
                often = np.bincount(places[there] - start, minlength=count)
                into[:, c] = np.where(often > 0, total / np.maximum(often, 1), np.nan)
    return Line(piece.name, start, values, known)


def _listed(source: Source, path: Path, frequency: Frequency | None) -> tuple[list[Line], Frequency]:
    """Series of which the start alone is told. Raises DataError."""
    if frequency is None:
        raise DataError(f"{shown(path)}: tells the start of each series and no step; give --freq")
    frequency = anchored(frequency, np.concatenate([_there(piece)[:1] for piece in source.pieces]))
    lines = []
    for piece in source.pieces:
        places, _ = frequency.places(_there(piece)[:1])  # a start off the grid is that of its step
        lines.append(Line(piece.name, int(places[0]), piece.values, piece.known))
    return lines, frequency


def _kept(
    lines: Sequence[Line],
    frequency: Frequency,
    dated: bool,
    zone: str,
    path: Path,
    tell: Callable[[str], None],
    least: int,
) -> Gridded:
    """Without what stands before the first value; after the last one only known covariates stay. Raises DataError."""
    kept, left, gaps = [], [], 0
    names = Counter(line.name for line in lines)
    if (twice := names.most_common(1)) and twice[0][1] > 1:
        raise DataError(f"{shown(path)}: two series are called {shown(twice[0][0])}; give each a name of its own")
    for line in lines:
        there = np.flatnonzero(np.isfinite(line.values))
        if len(there) < least:
            left.append(line.name)
            continue
        a, b = int(there[0]), int(there[-1]) + 1
        gaps += b - a - len(there)
        ahead = line.known if line.known.shape[1] else line.known[:b]
        known = ahead[a:]
        if known.shape[1] and len(bad := np.argwhere(~np.isfinite(known))):
            at = frequency.stamps(np.array([line.start + a + int(bad[0][0])]))
            said = zones.said(at, "", frequency.local)[0] if dated else f"step {int(bad[0][0]) + 1}"
            raise DataError(
                f"{shown(path)}: known covariate {int(bad[0][1]) + 1} of {shown(line.name)} is missing at {said}; give it a "
                "value at every time"
            )
        kept.append(Line(line.name, line.start + a, line.values[a:b], known))
    if not kept:
        raise DataError(f"{shown(path)}: no series has {least} value(s) or more")
    if left:
        told = shortened(", ".join(map(shown, left)), 120)
        tell(f"left out  {len(left)} series of fewer than {least} values: {told}")
    if gaps:
        tell(f"gaps      {gaps:,} steps have no value; they are not learned from")
    return Gridded(tuple(kept), frequency, dated, zone, tuple(left), gaps)
