"""A CSV file in which some cells are changed and nothing else: every other byte stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sfumato.fields.tables.table import Format, Table
from sfumato.fields.tables.writing import spelt_cell

Cells = Mapping[tuple[int, int], str]
"""(row, column), both from 0 -> what the cell is to be."""


def patched(path: Path, table: Table, cells: Cells) -> bytes | None:
    """The file with these cells changed; None where it is spelt in a way that cannot be followed cell by cell.

    Args:
        table: what was read from it.
    """
    form = table.format
    text = path.read_bytes().decode(form.encoding)
    wanted = {row for row, _ in cells}
    words = [column.words for column in table.columns]
    parts: list[str] = []
    copied = at = 0
    row, header = -1, form.header
    pattern = _pattern(form)
    while at < len(text):
        spans, at = _record(pattern, text, at)
        if spans is None:
            return None
        if len(spans) == 1 and spans[0][0] == spans[0][1] and len(words) > 1:
            continue  # an empty line
        if header:
            header = False
            continue
        row += 1
        if row not in wanted:
            continue
        if len(spans) != len(words):
            return None
        for i, (start, end) in enumerate(spans):
            raw = text[start:end]
            if _bare(raw, form) != words[i][table.columns[i].codes[row]]:
                return None
            if (row, i) in cells:
                parts += [text[copied:start], spelt_cell(cells[row, i], form, raw.startswith(form.quote))]
                copied = end
    if row + 1 != len(table):
        return None
    mark = b"\xef\xbb\xbf" if form.encoding == "utf-8-sig" else b""
    plain = "utf-8" if mark else form.encoding
    return mark + "".join((*parts, text[copied:])).encode(plain)


def _pattern(form: Format) -> re.Pattern[str]:
    """A cell, after blanks where the file has them, and what ends it."""
    quote, separator = re.escape(form.quote), re.escape(form.separator)
    blanks = " *" if form.space else ""
    return re.compile(
        rf"{blanks}((?:{quote}(?:[^{quote}]|{quote}{quote})*{quote})|(?:[^{separator}\r\n]*))({separator}|\r\n|\n|\r|\Z)"
    )


def _record(pattern: re.Pattern[str], text: str, at: int) -> tuple[list[tuple[int, int]] | None, int]:
    """Where the cells of the next record begin and end, and where the one after it begins; None: it cannot be followed."""
    spans: list[tuple[int, int]] = []
    while True:
        match = pattern.match(text, at)
        if match is None:
            return None, at
        spans.append(match.span(1))
        at = match.end()
        if match[2] in ("", "\r\n", "\n", "\r"):
            return spans, at


def _bare(raw: str, form: Format) -> str:
    """A cell without its quotes."""
    quote = form.quote
    if len(raw) > 1 and raw[0] == quote == raw[-1]:
        return raw[1:-1].replace(quote * 2, quote)
    return raw
