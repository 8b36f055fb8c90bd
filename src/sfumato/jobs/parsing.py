"""Words of the command become the tree of dataclasses whose fields are its options.

    --side 32   --side=32   side=32   --network.width 64   --labels   --no-labels   labels=true   --ema 0.05 0.1   ema=0.05,0.1

Hyphens and underscores are the same in names. An option takes the word that follows it for its value, unless it begins
with a hyphen and is no number, so a class may be called ``a=1`` and a folder ``lr=0.1``. What cannot be understood is one
line, :class:`Misspelt`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from sfumato.errors import Mendable, Wrong
from sfumato.jobs.flags import MISSING, Option, listed, marked, negative, optional, plain

T = TypeVar("T")


class Misspelt(Mendable):
    """Words that the command does not know, or that are no values of their options."""

    code = 2


# ---- words -> values -----------------------------------------------------------------------------------------------------


def value(hint: Any, words: Sequence[str]) -> Any:
    """The words as a value of the hint. Raises ValueError that says what was expected."""
    kind = plain(hint)
    if optional(hint) and (words[0] == "None" or (words[0] in ("none", "null") and kind not in (str, Path))):
        return None
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        many = inner[1:] == (Ellipsis,)
        if not many and len(words) != len(inner):
            raise ValueError(f"expected {len(inner)} values")
        return tuple(value(inner[0] if many else inner[i], [word]) for i, word in enumerate(words))
    word = words[0]
    if typing.get_origin(kind) is Literal:
        return _one_of(typing.get_args(kind), word)
    if kind is bool:
        known = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if word.lower() not in known:
            raise ValueError("expected true or false")
        return known[word.lower()]
    if kind in (int, float):
        return _number(kind, word)
    return kind(word) if kind in (str, Path) else word


def _number(kind: type, word: str) -> int | float:
    right = "a whole number" if kind is int else "a number"
    try:
        if kind is float:
            return float(word)
        if word.lstrip("+-").isdigit():
            return int(word)
        number = float(word)  # 1e5
    except ValueError:
        raise ValueError(f"expected {right}") from None
    if not abs(number) < 2**53 or number != int(number):
        raise ValueError(f"expected {right}")
    return int(number)


def _one_of(known: tuple[Any, ...], word: str) -> Any:
    import difflib

    for each in known:
        if word == str(each):
            return each
    close = difflib.get_close_matches(word, list(map(str, known)), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"expected one of {', '.join(map(str, known))}{hint}")


def split(word: str, option: Option) -> list[str]:
    """The value behind a sign of equality: several numbers stand with commas between them, several words in brackets."""
    kind = plain(option.hint)
    if typing.get_origin(kind) is not tuple:
        return [word]
    bare = word[1:-1] if word[:1] + word[-1:] in ("[]", "()") else word
    if bare == word and typing.get_args(kind)[0] in (str, Path):
        return [word]
    return [part.strip() for part in bare.split(",")]


class Words:
    """The words of a command, read once from left to right against its options."""

    def __init__(self, words: Sequence[str], options: Sequence[Option], unknown: Callable[[str], str]):
        self.words, self.at, self.unknown = list(words), 0, unknown
        self.places = [option for option in options if option.positional]
        self.named = {name: o for o in options if not o.positional for name in (o.flag, *o.aliases)}
        self.switches = {negative(o): o for o in options if o.takes == 0 and not o.positional}
        self.found: dict[tuple[str, ...], Any] = {}

    def option(self, word: str) -> tuple[Option | None, str | None, bool]:
        """What option a word is, the value in it if there is one, and whether it is a switch turned off."""
        key, sign, rest = word.partition("=")
        key = key.replace("_", "-")
        if not word.startswith("-"):
            if not sign or f"--{key}" not in {**self.named, **self.switches}:
                return None, None, False
            key = f"--{key}"
        short = word[:2] if word[:2] in self.named and not word.startswith("--") and key not in self.named else ""
        if short:  # -n4
            return self.named[short], word[2:].removeprefix("="), False
        return self.named.get(key) or self.switches.get(key), rest if sign else None, key in self.switches

    def read(self) -> dict[tuple[str, ...], Any]:
        """Values by path. Raises Misspelt."""
        places, closed = list(self.places), False
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word == "--" and not closed:
                closed = True
                continue
            option, given, off = (None, None, False) if closed else self.option(word)
            standing = not word.startswith("-") and bool(places) and Path(word).exists()
            if option is not None and not standing:
                self.take(option, given, off)
            elif places and (closed or not self.strange(word)):
                place = places.pop(0)
                more = self.rest(place, closed) if place.takes is None else []
                self.keep(place, [word, *more])
            else:
                raise Misspelt(self.unknown(word))
        if missing := [o for o in (*places, *self.named.values()) if o.usual is MISSING and o.path not in self.found]:
            raise Misspelt(f"{self.shown(missing[0])} is missing; give it: {_first(missing[0].words)}")
        return self.found

    def strange(self, word: str) -> bool:
        """Whether a word in a place looks like an option that is not known: -x, or name=value that is no file."""
        if word.startswith("-") and word != "-" and not _numeric(word):
            return True
        key, sign, _ = word.partition("=")
        return bool(sign) and all(part.isidentifier() for part in key.split(".")) and not Path(word).exists()

    def take(self, option: Option, given: str | None, off: bool) -> None:
        """The values of an option: the one in its own word, and those that follow."""
        if option.takes == 0:
            after = self.words[self.at] if self.at < len(self.words) else ""
            if given is None and not off and after.lower() in ("true", "false") and not Path(after).exists():
                given, self.at = after, self.at + 1
            state = True if given is None else self.converted(option, [given])
            self.found[option.path] = not state if off else state
            return
        words = [] if given is None else split(given, option)
        if option.takes is None:
            words += self.rest(option) if given is None else []
        while option.takes is not None and len(words) < option.takes and self.follows(strict=not words):
            words += split(self.words[self.at], option) if not words else [self.words[self.at]]
            self.at += 1
            if option.takes == 2 and words == ["None"]:
                break
        if not words or (option.takes not in (None, len(words)) and words != ["None"]):
            several = f"{option.takes} values, {option.shape}" if (option.takes or 0) > 1 else option.shape
            raise Misspelt(f"{option.flag} wants {several}; {_first(option.words)}")
        self.keep(option, words)

    def follows(self, strict: bool) -> bool:
        """Whether a value follows: any word but one that looks like an option, known or not, so that a misspelt one is never
        swallowed (and, after the first, name=value of a known one); --label=--odd says it otherwise."""
        if self.at >= len(self.words):
            return False
        word = self.words[self.at]
        if word.startswith("-") and not _numeric(word):
            return False
        return strict or self.option(word)[0] is None

    def rest(self, option: Option, closed: bool = False) -> list[str]:
        """The words up to the next option, known or not."""
        words: list[str] = []
        while self.at < len(self.words) and (closed or self.follows(strict=not words and not option.positional)):
            if self.words[self.at].startswith("--") and not closed:
                break
            words.append(self.words[self.at])
            self.at += 1
        return words

    def shown(self, option: Option) -> str:
        """An option, or the data that stands in a place."""
        return option.shape.split()[0] + f" ({option.path[-1]})" if option.positional else option.flag

    def converted(self, option: Option, words: Sequence[str]) -> Any:
        try:
            return value(option.hint, words)
        except ValueError as error:
            raise Misspelt(f"{self.shown(option)} = {' '.join(words)!r}: {error}") from None

    def keep(self, option: Option, words: Sequence[str]) -> None:
        self.found[option.path] = self.converted(option, words)


def _numeric(word: str) -> bool:
    try:
        float(word.split(",")[0])
    except ValueError:
        return False
    return True


def _first(text: str) -> str:
    """The first sentence of an explanation."""
    return text.partition(". ")[0].rstrip(".")


# ---- values -> the tree --------------------------------------------------------------------------------------------------


def parse(
    kind: type[T], words: Sequence[str], parts: Mapping[str, type] | None = None, base: T | None = None,
    unknown: Callable[[str], str] = lambda word: f"unknown option {word}",
) -> T:  # fmt: skip
    """The dataclass that the words mean; what they leave open is as in ``base``, or usual.

    ``unknown`` says what a word that is no option should have been. Raises Misspelt, and Wrong for values that the
    dataclasses refuse.
    """
    options = listed(kind, parts)
    if base is not None:
        options = tuple(dataclasses.replace(option, usual=_at(base, option.path)) for option in options)
    found = Words(words, options, unknown).read()
    made: T = _built(kind, parts or {}, (), found, base, {option.path: option for option in options})
    return made


def _at(base: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        base = getattr(base, name)
    return base


def _built(
    kind: Any, parts: Mapping[str, type], path: tuple[str, ...], found: Mapping[tuple[str, ...], Any], base: Any,
    options: Mapping[tuple[str, ...], Option],
) -> Any:  # fmt: skip
    """A part of the tree. Nothing is made anew of which nothing was said."""
    hints, values = typing.get_type_hints(kind, include_extras=True), {}
    for field in dataclasses.fields(kind):
        hint, here = marked(hints[field.name])[0], (*path, field.name)
        hint = parts.get(field.name, hint) if not path else hint
        known = base is not None and not isinstance(base, type)
        usual = getattr(base, field.name) if known else None
        if dataclasses.is_dataclass(hint):
            said = any(each[: len(here)] == here for each in found)
            if not known:
                usual = field.default_factory() if field.default_factory is not MISSING else None
            values[field.name] = _built(hint, {}, here, found, usual, options) if said or usual is None else usual
        elif here in found:
            values[field.name] = found[here]
        elif known:
            values[field.name] = usual
    try:
        return kind(**values)
    except Wrong as error:
        name = str(error).partition(" ")[0]
        group = next((o.group for each, o in options.items() if each[:-1] == path and path), "")
        raise Wrong(f"{group}.{error}" if group and name.isidentifier() else str(error)) from error
