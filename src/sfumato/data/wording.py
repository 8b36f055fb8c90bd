"""Captions as they are read: bytes of any encoding -> one line of plain text, bounded in length."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.data.errors import DataError, shown

LONGEST = 4000
"""Characters of a caption that are looked at; what is behind is cut off at a word, and counted."""
FILE_LIMIT = 1 << 20
"""Bytes of a caption file; a longer one is something else."""
PROMPTS_LIMIT = 4 << 20
"""Bytes of a file of prompts."""
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass
class Heard:
    """What was put right on the way, name -> how often, and the first of each."""

    times: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        """One more of these, seen in ``where``."""
        self.times[what] += 1
        self.first.setdefault(what, where)

    def lines(self) -> list[str]:
        """In words."""
        return [f"{count} {what} (the first: {shown(self.first[what])})" for what, count in self.times.items()]


def decoded(raw: bytes, where: str, heard: Heard) -> str:
    """Text from bytes: UTF-8 with or without a mark, UTF-16 with one, else Windows-1252, which Latin-1 is within.

    Raises DataError for bytes that are none of these.
    """
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            if encoding != "utf-8-sig":
                heard.note("captions or tables in UTF-16, read as such", where)
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                raise DataError(f"{shown(where)}: begins like {encoding} and is not ({error.reason})") from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        heard.note("captions or tables that are not UTF-8, read as Windows-1252", where)
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(where)}: neither UTF-8 nor Windows-1252 text (byte 0x{raw[error.start]:02x} at {error.start}); save it "
            "as UTF-8"
        ) from None


def cleaned(text: str, where: str, heard: Heard) -> str:
    """One line: composed characters (NFC), runs of space and control characters as one space, cut at a word where it is
    too long."""
    text = text.removeprefix("\ufeff")
    if len(text) > 4 * LONGEST:  # composing takes long
        text = text[: 4 * LONGEST]
    line = " ".join(_CONTROL.sub(" ", unicodedata.normalize("NFC", text)).split())
    if len(line) > LONGEST:
        heard.note(f"captions longer than {LONGEST:,} characters, cut at a word", where)
        line = line[:LONGEST].rpartition(" ")[0] or line[:LONGEST]
    return line


def bounded(path: Path, most: int, right: str) -> bytes:
    """The bytes of a file, if there are at most so many. Raises DataError, which says what is right."""
    try:
        if not path.is_file():  # a pipe would never end
            raise DataError(f"{shown(path)}: is no file; {right}")
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror}); {right}") from None
    if len(raw) > most:
        raise DataError(f"{shown(path)}: has more than {most >> 20} MB; {right}")
    return raw


def of_file(path: Path, heard: Heard) -> tuple[str, ...]:
    """The captions in a file, one a line; empty lines are none. Raises DataError for what is no text."""
    raw = bounded(path, FILE_LIMIT, "a caption is a text file beside its picture, of one or a few lines")
    if b"\0" in raw and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{shown(path)}: holds a zero byte at {raw.index(0)}, so it is no text")
    lines = decoded(raw, str(path), heard).splitlines()
    return tuple(filter(None, (cleaned(line, str(path), heard) for line in lines)))


def of_name(name: str) -> str:
    """What a file or folder name says: "red_shoe-03" is "red shoe"; numbers at its ends are none of its words."""
    words = re.split(r"[\s_\-.,;+]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    while words and not re.search(r"[^\W\d]", words[-1]):
        words.pop()
    while words and not re.search(r"[^\W\d]", words[0]):
        words.pop(0)
    return " ".join(words)


def of_prompt(prompt: str | None) -> str:
    """What somebody asks for, as captions are: one line of composed characters."""
    return cleaned(prompt or "", "prompt", Heard())


def of_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file, one a line, each once; empty lines are none. Raises DataError."""
    raw = bounded(path, PROMPTS_LIMIT, "a prompt a line is expected")
    texts = tuple(filter(None, (of_prompt(text) for text in decoded(raw, str(path), Heard()).splitlines())))
    if not texts:
        raise DataError(f"{shown(path)}: holds no prompt; a prompt a line is expected")
    if long := next((text for text in texts if len(text) > LONGEST), None):
        raise DataError(
            f"{shown(path)}: the prompt that begins {shown(long[:40])!r} has more than {LONGEST} characters"
        )
    return tuple(dict.fromkeys(texts))
