"""Configuration is a tree of frozen dataclasses; this writes it as YAML and reads it back, strictly.

A misspelt key, a value of the wrong type or outside its range stops with the file, the line, and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from sfumato.errors import Mendable, Wrong

T = TypeVar("T")
LONGEST = 2**20
"""Characters of a file of options."""
DEEPEST = 32
"""Values inside of values."""
MOST = 10_000
"""Values in it, those that aliases stand for counted each time."""


class ConfigError(Mendable):
    """One line: file, line, key, what is wrong, what would be right."""


def to_plain(value: Any) -> Any:
    """A dataclass tree as dicts, lists, numbers and strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_yaml(value: Any) -> str:
    """A dataclass tree as YAML."""
    plain = to_plain(value)
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) != plain:  # a rare character, such as U+0085, is lost unless escaped
        text = yaml.safe_dump(plain, sort_keys=False)
    return text


def from_yaml(kind: type[T], text: str, source: str = "config", base: T | None = None) -> T:
    """Read a dataclass tree of the given kind; keys that are absent keep the value of ``base`` or the default.

    Raises ConfigError.
    """
    node = composed(text, source)
    if node is None:
        node = yaml.MappingNode("tag:yaml.org,2002:map", [])
    return _read(kind, node, source, "", base)


def options(kind: type, given: Mapping[str, Any], more: Sequence[str] | set[str] = ()) -> Any:
    """A dataclass of options from keywords, as strictly read as a file. Raises Wrong, and says what is close."""
    names = {f.name for f in dataclasses.fields(kind)}
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, [*names, *more], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted([*names, *more]))}"
            raise Wrong(f"unknown option {name!r}; {hint}")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in given.items():
        inner = inner_dataclass(hints[name])
        try:
            if isinstance(value, Path) or (inner is not None and isinstance(value, inner)):
                values[name] = value
            elif inner is not None and isinstance(value, Mapping):
                values[name] = options(inner, value)
            else:
                values[name] = convert(hints[name], to_plain(value))
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, Wrong) else Wrong(f"{name} = {value!r}: {error}") from error
    required = (dataclasses.MISSING, dataclasses.MISSING)
    for f in dataclasses.fields(kind):
        if f.name not in values and (f.default, f.default_factory) == required:
            raise Wrong(f"{f.name}: is missing")
    return kind(**values)


def composed(text: str, source: str) -> Any:
    """The nodes of a YAML text, of which nothing is made yet: bounded, for a few lines of aliases to aliases can stand for
    billions of values. Raises ConfigError."""
    if len(text) > LONGEST:
        raise ConfigError(f"{source}: has {len(text):,} characters; options are {LONGEST:,} at most")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigError(f"{source}:{line}: nested too deeply, more than {DEEPEST} times")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    sizes: dict[int, int | None] = {}

    def size(at: yaml.Node | None) -> int:
        if not isinstance(at, yaml.CollectionNode):
            return 1
        if id(at) not in sizes:
            sizes[id(at)] = None  # until it is known: who meets that is inside
            inner = [each for item in at.value for each in (item if isinstance(item, tuple) else (item,))]
            sizes[id(at)] = 1 + sum(map(size, inner))
        found = sizes[id(at)]
        place = f"{source}:{at.start_mark.line + 1}" if at.start_mark else source
        if found is None:
            raise ConfigError(f"{place}: a value that contains itself; write it out")
        if found > MOST:
            raise ConfigError(f"{place}: stands for more than {MOST:,} values, by aliases (*name); write them out")
        return found

    size(node)
    return node


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-20:]}"


def _read(kind: Any, node: Any, source: str, path: str, base: Any) -> Any:
    place = f"{source}:{node.start_mark.line + 1}" if node.start_mark else source
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, node, source, path, base, place)
    try:
        value = yaml.SafeLoader("").construct_document(node) if not isinstance(node, yaml.ScalarNode) else _scalar(node)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # dates and numbers that are none
        if "constructor for the tag" in str(error):
            raise ConfigError(f"{place}: {path}: is tagged to be made into an object; give a plain value") from error
        raise ConfigError(f"{place}: {path}: {' '.join(str(error).split())}") from error
    try:
        return convert(kind, value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {path} = {shown(value)}: {error}") from error


def _scalar(node: yaml.ScalarNode) -> Any:
    return yaml.safe_load(yaml.serialize(node))


def _read_dataclass(kind: Any, node: Any, source: str, path: str, base: Any, place: str) -> Any:
    if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
        raise ConfigError(f"{place}: {path.rstrip('.') or 'the file'} must be a mapping of names to values")
    hints = typing.get_type_hints(kind, include_extras=False)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {} if base is None else {name: getattr(base, name) for name in fields}
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name = str(key_node.value)
        where = f"{source}:{key_node.start_mark.line + 1}"
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(fields)}"
            raise ConfigError(f"{where}: unknown key {path + name!r}; {hint}")
        if name in seen:
            raise ConfigError(f"{where}: {path + name!r} is given twice; keep one")
        seen.add(name)
        inner = inner_dataclass(hints[name])
        nothing = value_node.tag == "tag:yaml.org,2002:null"
        values[name] = (
            _read(inner, value_node, source, f"{path}{name}.", values.get(name))
            if inner is not None and not (nothing and inner is not hints[name])
            else _read(hints[name], value_node, source, path + name, None)
        )
    required = (dataclasses.MISSING, dataclasses.MISSING)
    for name, field in fields.items():
        if name not in values and (field.default, field.default_factory) == required:
            raise ConfigError(f"{place}: {path + name!r} is missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{place}: {path}{error}") from error


def inner_dataclass(hint: Any) -> Any:
    """The dataclass that a hint is, or may be instead of None."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def convert(kind: Any, value: Any) -> Any:
    """A plain value as an instance of a type hint. Raises ValueError that says what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is dict:
        pairs = _expect(value, dict, "names and values").items()
        return {convert(arguments[0], key): convert(arguments[1], item) for key, item in pairs}
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in arguments:
            if option is not type(None):
                return convert(option, value)
    if origin is Literal:
        if isinstance(value, bool) and {"on", "off"} <= set(arguments):  # YAML reads these words as true and false
            value = "on" if value else "off"
        if value not in arguments:
            close = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
            raise ValueError(
                f"expected one of {', '.join(map(str, arguments))}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list")
        inner = arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
        if inner is None and len(value) != len(arguments):
            raise ValueError(f"expected {len(arguments)} values")
        return tuple(convert(inner or arguments[i], item) for i, item in enumerate(value))
    if kind is Path:
        return Path(_expect(value, str, "a path"))
    if kind is float and isinstance(value, str):  # YAML reads 3e-4 as a string
        try:
            return float(value)
        except ValueError:
            raise ValueError("expected a number") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("expected a number below 1e308") from None
    if kind is int and isinstance(value, bool):
        raise ValueError("expected a whole number")
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "words"}
    return _expect(value, kind, names.get(kind, str(kind)))


def _expect(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected {name}")
    return value
