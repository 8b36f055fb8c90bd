"""Help: one screen of what is common, in groups, and every option with its explanation behind `--help-all`."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from sfumato.jobs.flags import MISSING, Option, negative
from sfumato.jobs.strict import to_plain

SCREEN = 40
"""Lines of a verb's short help at most."""
LEFT, MOST_WIDTH = 23, 100


@dataclass(frozen=True)
class Page:
    """What a verb says of itself.

    words: the call. about: what it does. groups: heading -> names of its common options, in order. examples: lines.
    more: lines for the end, such as where other fields' options are.
    """

    words: str
    about: str
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    examples: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


def width() -> int:
    """Of the terminal; 80 where there is none."""
    return max(60, min(MOST_WIDTH, shutil.get_terminal_size((80, 24)).columns))


def written(option: Option) -> str:
    """How an option is given, with what it takes."""
    if option.positional:
        named = option.path[-1]
        return named.upper() if named == "run" or len(named) == 1 else option.shape
    short = next((alias for alias in option.aliases if not alias.startswith("--")), None)
    shape = option.shape
    if shape.startswith("{") and len(shape) > LEFT - len(option.flag) - 4:
        shape = "WORD"
    return f"{short or option.flag} {shape}".rstrip()


def usual(option: Option) -> str:
    """The default in words; nothing where the explanation says it, or there is none."""
    value = option.usual
    if value is MISSING or value is None or value == () or value == "" or "default:" in option.words:
        return ""
    if isinstance(value, bool):
        return "on unless --no-" if value else ""
    plain = to_plain(value) if not isinstance(value, Path) else str(value)
    return " ".join(map(str, plain)) if isinstance(plain, list) else str(plain)


def sentence(text: str, most: int = 10_000) -> str:
    """The first sentence of an explanation, without its full stop; if that is too long what can best be spared is left out:
    asides, what follows a semicolon or a colon."""
    first = text.partition(". ")[0].rstrip(".")
    bare = re.sub(r" \([^()]*\)", "", first)
    for said in (first, bare, *(bare.partition(mark)[0] for mark in ("; ", ": "))):
        if len(said) <= most and (said == first or len(said) > 17):
            return said
    return textwrap.shorten(bare, most, placeholder=" ...")


def entry(left: str, text: str) -> list[str]:
    """One option: how it is given, and beside it what it is."""
    said = textwrap.wrap(text, _room())
    if len(left) > LEFT - 2:
        return [f"  {left}", *(" " * (LEFT + 2) + line for line in said)]
    return [f"  {left:<{LEFT}}{said[0] if said else ''}".rstrip(), *(" " * (LEFT + 2) + line for line in said[1:])]


def _room() -> int:
    return width() - LEFT - 2


def _brief(option: Option, lines: int) -> list[str]:
    """One option in so many lines at most."""
    mark = f" ({usual(option)})" if usual(option) else ""
    most = _room() * lines - len(mark) - 6 * (lines - 1)
    return entry(written(option), sentence(option.words, max(most, 20)) + mark)


def _wrapped(text: str, lines: int = 9) -> list[str]:
    made = textwrap.wrap(text, width() - 2, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return made[:lines]


def short(page: Page, options: Sequence[Option], own: Sequence[Option], field: str) -> str:
    """One screen: the call, the common options in groups with the first sentence of their explanations, examples.

    ``own``: the options of the field itself, shown under its name; where they are too many the last go among the others.
    """
    for most in range(len(own), -1, -1):
        text = _short(page, options, own[:most], field, 0)
        if len(text) <= SCREEN:
            break
    return "\n".join(_short(page, options, own[:most], field, SCREEN - len(text)))


def _short(page: Page, options: Sequence[Option], own: Sequence[Option], field: str, spare: int) -> list[str]:
    """The lines; ``spare`` of them may go to explanations that do not fit into one."""
    names = {option.name: option for option in options if not option.positional}
    groups = [(heading, [names[name] for name in wanted if name in names]) for heading, wanted in page.groups]
    if own:
        groups.insert(min(1, len(groups)), (field, list(own)))
    out = [f"usage: {page.words}", "", *textwrap.wrap(page.about, width())]
    for option in (each for each in options if each.positional):
        out += _brief(option, 1)
    for heading, members in groups:
        out += [f"{heading}:"] if members else []
        for option in members:
            brief, longer = _brief(option, 1), _brief(option, 2)
            cut = len(longer) > len(brief) and len(longer) - len(brief) <= spare
            spare -= (len(longer) - len(brief)) if cut else 0
            out += longer if cut or len(longer) <= len(brief) else brief
    shown = {option.name for _, members in groups for option in members}
    rest = [option for option in names.values() if option.name not in shown]
    if rest:
        out += ["others:", *_wrapped(_summary(rest), 5)]
    out += ["for example:", *(f"  {line}" for line in page.examples)] if page.examples else []
    if names:
        call = re.split(r" \[| PATH| RUN| A B", page.words)[0]
        every = f"All {len(names)} options" if len(names) > 1 else "The option"
        out.append(f"{every}, explained: {call} --help-all")
    return [*out, *(line for text in page.more for line in textwrap.wrap(text, width(), break_on_hyphens=False))]


def _summary(options: Iterable[Option]) -> str:
    """Options by name alone, those of a part together: network.{patch,loops}."""
    parts: dict[str, list[str]] = {}
    for option in options:
        parts.setdefault(option.group, []).append(option.name.rpartition(".")[2])
    loose = parts.pop("", [])
    return ", ".join([*loose, *(f"{group}.{{{', '.join(names)}}}" for group, names in parts.items())])


def whole(page: Page, options: Sequence[Option]) -> str:
    """Every option with all of its explanation, its choices and its default."""
    out = [f"usage: {page.words}", "", *textwrap.wrap(page.about, width()), ""]
    for group in dict.fromkeys(option.group for option in options):
        out.append(f"{group or 'options'}:")
        for option in (each for each in options if each.group == group):
            names = [*option.aliases, option.flag]
            shape = option.shape
            left = option.shape if option.positional else f"{', '.join(names)} {shape}".rstrip()
            if option.takes == 0:
                left = f"{option.flag}, {negative(option)}"
            default = f" (default: {usual(option)})" if usual(option) else ""
            out += entry(left, option.words + default)
        out.append("")
    out += ["Written --name VALUE, --name=VALUE or name=VALUE; hyphens and underscores are the same.", *page.more]
    return "\n".join(out)


def overview(description: str, verbs: Sequence[tuple[str, str]], fields: Sequence[tuple[str, str]]) -> str:
    """`sfumato --help`: the verbs, the fields, and how to begin."""
    out = [f"usage: sfumato VERB ...     {description}", "", "verbs:"]
    for name, text in verbs:
        out += entry(name, sentence(text, _room()))
    out += ["", "fields (train FIELD DATA, inspect FIELD DATA):"]
    for name, text in fields:
        out += entry(name, text)
    out += ["", "A verb's options: sfumato VERB --help; all of them: sfumato VERB --help-all",
            "A field's own verbs: sfumato FIELD --help; the version: sfumato --version", "",
            "begin:  sfumato train ./photos", "        sfumato sample runs/photos -n 64"]  # fmt: skip
    return "\n".join(out)


def given(command: Any, options: Iterable[Option], aside: Sequence[str] = ()) -> str:
    """The options of a command that are other than usual, as they are typed, each with a space before it."""
    said = []
    for option in options:
        if option.positional or option.path[-1] in aside:
            continue
        value = reduce(getattr, option.path, command)
        if option.usual is MISSING or value == option.usual:
            continue
        if option.takes == 0:
            said.append(option.flag if value else negative(option))
            continue
        values = value if isinstance(value, tuple) else (value,)
        said.append(" ".join([option.flag, *(shlex.quote(str(each)) for each in values)]))
    return "".join(f" {each}" for each in said)


def first(kind: Any) -> str:
    """The first paragraph of a class's docstring, in one line."""
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
