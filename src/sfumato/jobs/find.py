"""Which fields there are. A field is found by being there: a folder of `sfumato.fields` that holds a recipe.py.

Third parties add one by an entry point of the group ``sfumato.fields`` (once ``sfumato.recipes``, which is still read): its
name, and the class of its recipe as "module:Class". To know the names nothing is imported; to use a field, that field alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.jobs.strict import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ROOM = "sfumato.fields"
GROUPS = (ROOM, "sfumato.recipes")
"""Groups of entry points, the first one first."""


@cache
def _folders() -> dict[str, Path]:
    places = sorted(Path(place) for place in import_module(ROOM).__path__)
    return {path.parent.name: path.parent for place in places for path in sorted(place.glob("*/recipe.py"))}


@cache
def _installed() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    every = [entry for group in reversed(GROUPS) for entry in entry_points(group=group)]
    return {entry.name: entry for entry in every if entry.name not in _folders()}


@cache
def names() -> tuple[str, ...]:
    """The names of all fields."""
    return tuple(sorted({**_folders(), **_installed()}))


def kind(name: str) -> Any:
    """The recipe of a field, a dataclass. Raises ConfigError for a name that is not known."""
    if name in _folders():
        return import_module(f"{ROOM}.{name}.recipe").RECIPE
    if name not in _installed():
        raise ConfigError(f"no recipe {name!r} is installed; known: {', '.join(names())}")
    return _installed()[name].load()


def name_of(recipe: Any) -> str:
    """The name of the field that this recipe is of. Raises ConfigError."""
    module, name = type(recipe).__module__, type(recipe).__qualname__
    for known in _folders():
        if module == f"{ROOM}.{known}.recipe":
            return known
    for known, entry in _installed().items():
        if entry.module == module and entry.load() is type(recipe):
            return known
    raise ConfigError(f"{module}:{name} is no entry point of the group {ROOM!r}; install the package that offers it")


def plain() -> str:
    """The field of a command that names none."""
    return str(import_module(ROOM).PLAIN)


def demo() -> Callable[[Path, float, int], str]:
    """`sfumato demo`, of the field that it is of: out, minutes, seed -> where to look."""
    return _named(kind(str(import_module(ROOM).DEMO)).demo)


def serving() -> Callable[[Any], int]:
    """`sfumato serve`, of the room above: the verb's options -> the exit status."""
    return _named("sfumato.serving.server:verb")


def line(name: str) -> str:
    """What a field is, in a line: the first one of its docstring, read as text; of an installed one, of its package."""
    if name in _folders():
        text = (_folders()[name] / "__init__.py").read_text(encoding="utf-8")
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    package = _installed()[name].dist if name in _installed() else None
    return str(package.metadata["Summary"] or "") if package is not None else ""


def missing(name: str) -> tuple[str, ...]:
    """What a field's requires.txt asks for and is not installed; `errors.install(NAME)` says how."""
    from importlib.metadata import PackageNotFoundError, distribution

    file = _folders()[name] / "requires.txt" if name in _folders() else None
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.is_file() else []
    wanting = []
    for requirement in filter(None, map(str.strip, lines)):
        try:
            distribution(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
        except PackageNotFoundError:
            wanting.append(requirement)
    return tuple(wanting)


def verbs(name: str) -> dict[str, str]:
    """A field's own verbs, name -> "module:Class"."""
    return dict(getattr(kind(name), "verbs", {}))


def verb(name: str, word: str) -> Any:
    """The class of one of a field's own verbs. Raises ConfigError for one that it does not have."""
    if word not in verbs(name):
        known = ", ".join(verbs(name)) or "none of its own"
        raise ConfigError(f"{name} has no verb {word!r}; it has {known}")
    return _named(verbs(name)[word])


def _named(place: str) -> Any:
    """What "module:name" stands for."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def having(word: str) -> str | None:
    """The field that has a verb of this name."""
    return next((name for name in names() if word in verbs(name)), None)
