"""Series from files that list them: JSON lines (GluonTS), .npz of values and offsets, .tsf (Monash)."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from sfumato.data.arrays import MEMBER_LIMIT, member
from sfumato.errors import DataError, decoding, shown
from sfumato.fields.series.pieces import ORDER, Named, Piece, Shape, Source
from sfumato.fields.series.stamps import parse


def read_jsonl(path: Path, named: Named) -> Source:
    pieces, freq, zone = [], "", ""
    with decoding(path, "write a JSON object a line: start, freq, target"), path.open(encoding="utf-8") as file:
        for at, line in enumerate(filter(str.strip, file)):
            item = json.loads(line)
            values = np.array(
                [np.nan if v in (None, "NaN", "nan") else float(v) for v in item["target"]], dtype=np.float64
            )
            name = str(item.get("item_id", item.get("id", at)))
            freq = freq or str(item.get("freq", ""))
            stamps = None
            if "start" in item:
                stamps, zone = parse([str(item["start"])], path, "start", at + 1, "")
            pieces.append(Piece(name, stamps, values, np.zeros((len(values), 0))))
    if not pieces:
        raise DataError(f"{shown(path)}: holds no series")
    return Source(tuple(pieces), Shape("list", "timestamp", "item_id", "target", zone, freq))


def read_npz(path: Path, named: Named) -> Source:
    with decoding(path, "save it again with numpy.savez(values=, offsets=, ids=)"), zipfile.ZipFile(path) as archive:
        known = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "values" not in known or "offsets" not in known:
            raise DataError(
                f"{shown(path)}: holds {', '.join(map(shown, known)) or 'nothing'}; expected values and offsets"
            )
        values = member(archive, known["values"], path, MEMBER_LIMIT).astype(np.float64).reshape(-1)
        offsets = member(archive, known["offsets"], path, MEMBER_LIMIT).astype(np.int64).reshape(-1)
        ids = (
            member(archive, known["ids"], path, MEMBER_LIMIT, words=True).reshape(-1).tolist()
            if "ids" in known
            else None
        )
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise DataError(f"{shown(path)}: offsets must rise from 0 to the {len(values)} values; save it again")
    names = (
        [str(i) for i in range(len(offsets) - 1)]
        if ids is None
        else [each.decode() if isinstance(each, bytes) else str(each) for each in ids]
    )
    if len(names) != len(offsets) - 1 or len(set(names)) != len(names):
        raise DataError(f"{shown(path)}: ids must be {len(offsets) - 1} different names, one a series")
    pieces = tuple(
        Piece(name, None, values[a:b], np.zeros((b - a, 0))) for name, a, b in zip(names, offsets[:-1], offsets[1:])
    )
    return Source(pieces, Shape("arrays", ORDER, "series", "value"))


FREQUENCIES = {
    "hourly": "h",
    "half_hourly": "30min",
    "daily": "D",
    "weekly": "W",
    "monthly": "M",
    "quarterly": "Q",
    "yearly": "Y",
    "10_minutes": "10min",
    "4_seconds": "4s",
    "minutely": "min",
}


def read_tsf(path: Path, named: Named) -> Source:
    """The archive of Monash: attributes of a series before its values, apart by colons."""
    pieces: list[Piece] = []
    attributes: list[tuple[str, str]] = []
    freq, inside = "", False
    with (
        decoding(path, "save it again as .tsf of the Monash archive"),
        path.open(encoding="utf-8", errors="replace") as file,
    ):
        for at, line in enumerate(file, 1):
            line = line.strip()
            if not line or line[0] == "#":
                continue
            if not inside:
                word, _, rest = line.partition(" ")
                if word == "@attribute":
                    name, kind = rest.split()
                    attributes.append((name, kind))
                elif word == "@frequency":
                    freq = FREQUENCIES.get(rest.strip(), rest.strip())
                elif word == "@data":
                    inside = True
                continue
            parts = line.split(":")
            if len(parts) < len(attributes) + 1:
                raise DataError(
                    f"{shown(path)}: line {at} has {len(parts) - 1} attributes, its head names {len(attributes)}"
                )
            told = dict(zip((name for name, _ in attributes), parts))
            values = np.array(
                [np.nan if v.strip() == "?" else float(v) for v in parts[-1].split(",")], dtype=np.float64
            )
            stamps = None
            start = next((told[name] for name, kind in attributes if kind == "date"), None)
            if start is not None:
                day, _, clock = start.partition(" ")
                stamps, _ = parse([f"{day} {clock.replace('-', ':')}".strip()], path, "start", at, "")
            pieces.append(Piece(told.get("series_name", str(len(pieces))), stamps, values, np.zeros((len(values), 0))))
    if not pieces:
        raise DataError(f"{shown(path)}: holds no series after @data")
    return Source(tuple(pieces), Shape("list", "timestamp", "series_name", "value", "", freq))
