"""Options of the command: every field of a dataclass tree is one. `parsing` makes words the tree again. No torch here."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

T = TypeVar("T")
MISSING = dataclasses.MISSING


# ---- what a dataclass may say of its fields ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """How a field is given: by its place, as an option of another name ("": its own fields are options of the whole)."""

    positional: bool = False
    name: str | None = None
    aliases: tuple[str, ...] = ()


Positional = Annotated[T, Mark(positional=True)]
"""``data: Positional[Path]``: given by its place, without a name."""


def arg(name: str | None = None, aliases: Sequence[str] = ()) -> Mark:
    """``Annotated[int, arg(aliases=["-n"])]``: other names; with name "" the fields of a part are options of the whole."""
    return Mark(False, name, tuple(aliases))


def marked(hint: Any) -> tuple[Any, Mark]:
    """A hint without its annotations, and the first mark among them."""
    if typing.get_origin(hint) is not Annotated:
        return hint, Mark()
    bare, *said = typing.get_args(hint)
    return bare, next((each for each in said if isinstance(each, Mark)), Mark())


@dataclass(frozen=True)
class Option:
    """One field of the tree, as an option.

    path: the names of the fields that lead to it. name: "network.width", with hyphens. words: what explains it.
    usual: its default; MISSING where it must be given.
    """

    path: tuple[str, ...]
    name: str
    hint: Any
    usual: Any
    words: str
    positional: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The part that it belongs to: "network"; "" for the whole."""
        return self.name.rpartition(".")[0]

    @property
    def flag(self) -> str:
        """As it is written."""
        return f"--{self.name}"

    @property
    def takes(self) -> int | None:
        """How many values: 0 is a switch, None is any number."""
        kind = plain(self.hint)
        if kind is bool:
            return 0
        if typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)
            return None if len(inner) == 2 and inner[1] is Ellipsis else len(inner)
        return 1

    @property
    def shape(self) -> str:
        """Its values in a word or two: N, PATH, {auto,dit}."""
        return shape(self.hint)


def plain(hint: Any) -> Any:
    """A hint without "or None"."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(each for each in typing.get_args(hint) if each is not type(None))
    return hint


def optional(hint: Any) -> bool:
    """Whether None is a value."""
    return type(None) in typing.get_args(hint) and typing.get_origin(hint) in (Union, types.UnionType)


def shape(hint: Any) -> str:
    """What values of a hint look like."""
    kind = plain(hint)
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return f"{shape(inner[0])} ..." if inner[1:] == (Ellipsis,) else " ".join(map(shape, inner))
    return {int: "N", float: "X", str: "WORD", Path: "PATH", bool: ""}.get(kind, "VALUE")


@cache
def _explained(kind: type) -> dict[str, str]:
    """The text below each field of a class, read from its source; nothing of the module runs."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return {}
    body = next((n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == kind.__name__), [])
    found = {}
    for line, below in itertools.pairwise(body):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[line.target.id] = " ".join(str(below.value.value).split())
    return found


def listed(kind: Any, parts: Mapping[str, type] | None = None) -> tuple[Option, ...]:
    """Every option of a dataclass, in order. ``parts``: the dataclasses that fields of the whole stand for today."""
    return tuple(_listed(kind, parts or {}, (), ""))


def _listed(kind: Any, parts: Mapping[str, type], path: tuple[str, ...], prefix: str) -> list[Option]:
    words = {name: text for each in reversed(kind.__mro__) for name, text in _explained(each).items()}
    hints, found = typing.get_type_hints(kind, include_extras=True), []
    for field in dataclasses.fields(kind):
        hint, mark = marked(hints[field.name])
        hint = parts.get(field.name, hint) if not path else hint
        name = field.name if mark.name is None else mark.name
        whole = f"{prefix}{name.replace('_', '-')}"
        if dataclasses.is_dataclass(hint):
            found += _listed(hint, {}, (*path, field.name), f"{whole}." if name else prefix)
            continue
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        text = words.get(field.name, "")
        found.append(Option((*path, field.name), whole, hint, usual, text, mark.positional, mark.aliases))
    return found


def negative(option: Option) -> str:
    """The switch turned off: --no-labels, --method.no-uncertainty."""
    group, _, name = option.name.rpartition(".")
    return f"--{group}.no-{name}" if group else f"--no-{name}"
