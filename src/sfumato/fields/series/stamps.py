"""Time stamps as they are written: ISO with and without a zone, seconds and milliseconds since 1970, years."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfumato.errors import DataError, shortened, shown
from sfumato.fields.series import zones

ISO = re.compile(r"\d{4}-\d{1,2}(-\d{1,2})?([T ]\d{1,2}(:\d{2}(:\d{2}(\.\d+)?)?)?)?\s*(Z|[+-]\d{2}:?\d{2})?")
ZONE = re.compile(r"(Z|[+-]\d{2}:?\d{2})$")
QUARTER = re.compile(r"(\d{4})-?Q([1-4])")


def seems(cell: object) -> bool:
    """Whether a cell looks like a time."""
    text = str(cell).strip()
    return bool(ISO.fullmatch(text) or QUARTER.fullmatch(text))


def parse(
    cells: Sequence[object] | np.ndarray, path: Path, column: str, first: int, zone: str
) -> tuple[np.ndarray, str]:
    """Stamps of a column's cells, (n,) int64, and their zone: with one they are seconds of UTC, else of the wall clock.

    Args:
        first: the line of the file in which the first cell stands.
        zone: of the wall clock, where cells say none themselves.

    Raises DataError, which names the line.
    """
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "iuf":
        return _epochs(np.asarray(cells, dtype=np.float64), path, column, first), zone
    texts = ["" if cell is None else str(cell).strip() for cell in cells]
    if texts and all(re.fullmatch(r"\d{9,13}(\.0*)?|\d{4}", text) for text in (texts[0], texts[-1])):
        return _epochs(
            np.array([float(text) if text.replace(".", "").isdigit() else np.nan for text in texts]),
            path,
            column,
            first,
        ), zone
    own = ZONE.search(texts[0]) if texts and len(texts[0]) > 10 else None
    naive = [text[: found.start()].strip() if own and (found := ZONE.search(text)) else text for text in texts]
    stamps = _iso(naive, path, column, first)
    if own is None:
        return (zones.utc(stamps, zone, shown(path)), zone) if zone else (stamps, "")
    said = [found.group(1) if (found := ZONE.search(text)) else "" for text in texts]
    if "" in said:
        raise DataError(
            f"{shown(path)}: {shown(column)} in line {said.index('') + first} has no zone, and others have one"
        )
    ahead = {word: 0 if word == "Z" else _ahead(word) for word in set(said)}
    stamps = stamps - np.array([ahead[word] for word in said], dtype=np.int64)
    if zone:
        return stamps, zone
    if len(ahead) > 1:
        told = ", ".join(sorted(ahead))
        raise DataError(
            f"{shown(path)}: {shown(column)} has more than one zone ({told}); name the place with --zone Europe/Berlin"
        )
    word = said[0]
    return stamps, "UTC" if ahead[word] == 0 else f"{word[:3]}:{word[-2:]}"


def _ahead(word: str) -> int:
    digits = word[1:].replace(":", "")
    return (-1 if word[0] == "-" else 1) * (int(digits[:2]) * 3600 + int(digits[2:]) * 60)


def _iso(texts: list[str], path: Path, column: str, first: int) -> np.ndarray:
    try:
        found = np.array(texts, dtype="datetime64[s]")
        if not np.isnat(found).any():
            return found.astype(np.int64)
    except ValueError:
        pass
    made = np.empty(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        if quarter := QUARTER.fullmatch(text):
            text = f"{quarter.group(1)}-{3 * int(quarter.group(2)) - 2:02d}"
        text = re.sub(r"\b(\d)\b", r"0\1", text)  # 2020-1-5
        try:
            if not ISO.fullmatch(text):
                raise ValueError
            made[row] = np.datetime64(text.replace(" ", "T"), "s").astype(np.int64)
        except ValueError:
            raise DataError(
                f"{shown(path)}: {shown(column)} in line {row + first} is {shortened(shown(text), 40)!r}; write times "
                f"as 2024-01-31 or "
                "2024-01-31 12:00:00"
            ) from None
    return made


def _epochs(numbers: np.ndarray, path: Path, column: str, first: int) -> np.ndarray:
    """Numbers as stamps: milliseconds, seconds, or years; smaller ones are numbers of steps, and no dates."""
    if len(bad := np.flatnonzero(~np.isfinite(numbers))):
        raise DataError(f"{shown(path)}: {shown(column)} in line {int(bad[0]) + first} is no time; give every row one")
    size = float(np.abs(numbers).max(initial=0))
    if size >= 1e11:
        return np.asarray(np.round(numbers / 1000), dtype=np.int64)
    if size >= 1e8:
        return np.asarray(np.round(numbers), dtype=np.int64)
    if numbers.min() >= 1500 and size <= 2500 and (numbers == numbers.round()).all():
        return np.asarray((numbers - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64))
    raise DataError(
        f"{shown(path)}: {shown(column)} holds numbers up to {size:g}, no seconds since 1970 and no years; write "
        f"times as 2024-01-31, "
        "or leave the column out"
    )
