"""A file of the asker's, kept to the byte: its text, its encoding, and its holes: marked in it, or lines by their numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import DataError, Wrong, shown
from sfumato.fields.text.files import Limits

BOM = b"\xef\xbb\xbf"
ENCODINGS = ("utf-8", "latin-1", "cp1252")
MARK = re.compile(rb"<fill(?::(\d{1,6}))?>")
_RANGE = re.compile(r"(\d{1,9})(?::(\d{1,9}))?")


@dataclass(frozen=True)
class Original:
    """A text file: ``text`` is UTF-8 whatever ``encoding`` the file has, without the byte-order ``mark`` before it."""

    path: Path
    text: bytes
    encoding: str = "utf-8"
    mark: bytes = b""

    def spelt(self, text: bytes) -> bytes:
        """A text (UTF-8) as this file spells it. Raises UnicodeError where it cannot be: half a character, or one that the
        encoding has not."""
        string = text.decode("utf-8")
        return self.mark + (text if self.encoding == "utf-8" else string.encode(self.encoding))

    def can(self, text: bytes) -> bool:
        """Whether a text can be spelt in this file."""
        try:
            self.spelt(text)
        except UnicodeError:
            return False
        return True


def original(path: Path, encoding: str = "utf-8", limits: Limits = Limits()) -> Original:
    """The text of a file. Raises DataError where it is none: missing, too large, binary, empty, of another encoding."""
    try:
        if not path.is_file():  # a pipe would never end
            raise DataError(f"{shown(path)}: there is no such file; give one of text")
        with path.open("rb") as stream:
            raw = stream.read(limits.document + 1)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    if len(raw) > limits.document:
        raise DataError(f"{shown(path)}: more than {limits.document / 1e6:.1f} MB; give a shorter file")
    if not raw.strip():
        raise DataError(f"{shown(path)}: empty; expected a text")
    if b"\0" in raw:
        raise DataError(f"{shown(path)}: binary (a zero byte at {raw.index(0)}); expected a text")
    mark = BOM if encoding == "utf-8" and raw.startswith(BOM) else b""
    try:
        text = raw[len(mark) :].decode(encoding).encode("utf-8")
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
        others = " or ".join(f"--encoding {name}" for name in ENCODINGS if name != encoding)
        raise DataError(
            f"{shown(path)}: not {encoding.upper()} (byte 0x{raw[place]:02x} at {place}); say what it is: {others}"
        ) from None
    return Original(path, text, encoding, mark)


@dataclass(frozen=True)
class Hole:
    """A stretch of bytes [start, stop) of a text that is to be written anew; ``tokens`` where it says how long it is, ``line``
    where it is one line and stays one."""

    start: int
    stop: int
    tokens: int | None = None
    line: bool = False


def marked(text: bytes) -> list[Hole]:
    """The holes <fill> and <fill:12> of a text. Raises DataError where there is none."""
    found = [Hole(m.start(), m.end(), int(m.group(1)) if m.group(1) else None) for m in MARK.finditer(text)]
    if not found:
        raise DataError(
            "the text has no hole: mark what is to be written with <fill>, or <fill:12> for 12 tokens, or say --lines 10:14"
        )
    return found


def starts_of(text: bytes) -> list[int]:
    """Where each line of a text begins; lines end with \\n, also those with \\r\\n."""
    return [0, *(m.end() for m in re.finditer(rb"\n", text) if m.end() < len(text))]


def ranges(words: Sequence[str]) -> list[tuple[int, int]]:
    """First and last line of each range "10:14" or "10". Raises Wrong."""
    found = []
    for word in words:
        match = _RANGE.fullmatch(word)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
        if not 1 <= first <= last:
            raise Wrong(f"lines = {word!r}: must be a line or a range of them, such as 12 or 10:14, counted from 1")
        found.append((first, last))
    return found


def of_lines(text: bytes, words: Sequence[str]) -> list[Hole]:
    """The lines of these ranges as holes, without the end of the last line of each, which stays; one line stays one.

    Raises Wrong for what is no range, DataError for lines that the text has not, and for ranges that overlap.
    """
    starts = starts_of(text)
    found = []
    before = 0
    for first, last in sorted(ranges(words)):
        if last > len(starts):
            raise DataError(f"line {last} is asked for, the text has {len(starts)}")
        if first <= before:
            raise DataError(f"line {first} is asked for twice: give ranges of lines that do not overlap")
        before = last
        stop = starts[last] if last < len(starts) else len(text)
        whole = text[starts[first - 1] : stop]
        ending = 2 if whole.endswith(b"\r\n") else 1 if whole.endswith(b"\n") else 0
        found.append(Hole(starts[first - 1], stop - ending, line=first == last))
    return found
