"""Scores and repairs of texts as lines for a person, and scores as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sfumato.errors import shortened, shown
from sfumato.fields.text.repairing import Change
from sfumato.fields.text.scoring import Scored, least_likely
from sfumato.fields.text.showing import safe

WIDEST = 80


def table(every: Sequence[Scored], lines: int) -> str:
    """A line a document, the least usual first, all together last; then the least likely lines."""
    size = sum(each.size for each in every)
    rows = sorted(every, key=lambda each: (-each.bits / each.size, each.document.name))
    said = ["bits/byte      xz       bytes"]
    said += [_row(each.bits, each.xz, each.size, shown(each.document.name)) for each in rows]
    if len(every) > 1:
        bits, xz = (sum(getattr(each, name) for each in every) for name in ("bits", "xz"))
        said.append(_row(bits, xz, size, f"all {len(every)}"))
    chosen = least_likely(every, lines)
    if chosen:
        said += ["", "least likely for their length: bits, bits per byte"]
    for i, line in chosen:
        each = every[i]
        bits, text = float(each.doubt[line]), shortened(safe(each.line(line).decode("utf-8").strip()), WIDEST)
        said.append(f"{bits:6.0f} {bits / int(each.sizes[line]):6.2f}  {shown(each.document.name)}:{line + 1}  {text}")
    return "\n".join(said)


def _row(bits: float, xz: float, size: int, name: str) -> str:
    return f"{bits / size:9.3f} {xz / size:7.3f} {size:11,}  {name}"


def json_lines(every: Sequence[Scored]) -> bytes:
    """{"file", "bytes", "bits", "xz_bits", "lines": bits of each} of each document, in order."""
    return "".join(
        json.dumps(
            {
                "file": each.document.name,
                "bytes": each.size,
                "bits": round(each.bits, 3),
                "xz_bits": each.xz,
                "lines": [round(float(bits), 3) for bits in each.doubt],
            }
        )
        + "\n"
        for each in every
    ).encode()


def changes(text: bytes, made: Sequence[Change]) -> list[str]:
    """A line for each change of a repaired text; one that says so where there is none."""
    if not made:
        return ["nothing is changed: no token is doubted where another is sure (--doubt, --sure)"]

    def spelt(token: bytes) -> str:
        return safe(json.dumps(token.decode("utf-8", "replace"), ensure_ascii=False))

    return [
        f"line {line_of(text, change.start)}: {spelt(change.was)} ({change.doubted:.2g}) is now "
        f"{spelt(change.now)} ({change.sure:.2f})"
        for change in made
    ]


def line_of(text: bytes, place: int) -> int:
    """Number of the line, counted from 1, that a byte stands in."""
    return text.count(b"\n", 0, place) + 1
