"""What a request may say: read strictly, bounded before it is taken apart, and described to people and programs by the field's
own options. Needs no torch."""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sfumato.errors import Mendable
from sfumato.jobs.flags import listed, optional, plain
from sfumato.jobs.strict import options, to_plain
from sfumato.jobs.walk import Walk
from sfumato.serving.problem import Problem, of_line

DEEPEST = 20
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
NO_BRACKET = bytes(each for each in range(256) if each not in b"[]{}")
SEED = 2**53 - 1
"""Seeds are below it: what every program's JSON can say."""
ASIDE = ("batch",)
"""Options of a walk that are the server's own business."""
TOP = ("run", "n", "seed", "query", "walk", "format", "previews", "film", "exact", "deadline_s", "webhook_url")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for at most."""

    rows: int = 64
    steps: int = 1000
    body: int = 1 << 20
    file_body: int = 16 << 20
    deadline: float = 300.0


# ---- JSON ----------------------------------------------------------------------------------------------------------------


def read(raw: bytes) -> dict[str, Any]:
    """A body as names and values. Raises Problem: nested too deeply, a number that is none, a name twice, no object."""
    depth = 0
    for byte in STRING.sub(b"", raw).translate(None, delete=NO_BRACKET):
        depth += 1 if byte in b"[{" else -1
        if depth > DEEPEST:
            raise Problem(422, f"nested more than {DEEPEST} times", expected="a flat object")
    try:
        said = json.loads(raw, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_pairs)
    except Problem:
        raise
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON", expected="an object", example={"run": "NAME", "seed": 0}) from None
    if not isinstance(said, dict):
        raise Problem(422, "the body is not an object", expected="an object", example={"run": "NAME", "seed": 0})
    return said


def _constant(word: str) -> float:
    raise Problem(422, f"{word} is no number", expected="a finite number")


def _finite(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise Problem(422, f"{word[:30]} is too large for a number", expected="a finite number")
    return (
        int(number) if number.is_integer() and abs(number) < SEED else number
    )  # 3.0 is a whole number, as JSON has it


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise Problem(422, f"{twice[:60]!r} is given twice", expected="each name once")
    return found


# ---- a request -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request that can be understood: what the worker is told, and the files that come with it, option -> (name, bytes)."""

    run: str
    n: int
    seed: int
    query: dict[str, Any]
    walk: dict[str, Any]
    named: str
    format: str
    previews: int
    film: bool
    exact: bool
    deadline: float
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    webhook: str = ""


@dataclass(frozen=True)
class Kind:
    """What can be asked of a run: the field's own query, the formats of its files."""

    ask: type
    formats: tuple[str, ...]
    field: str = ""


def understood(said: Mapping[str, Any], kinds: Mapping[str, Kind], limits: Limits) -> Asked:
    """A body as a request. Raises Problem, of the first thing that is wrong."""
    for name in said:
        if name not in TOP:
            close = difflib.get_close_matches(name, TOP, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(TOP)}"
            raise Problem(422, f"unknown {name[:60]!r}; {hint}", name[:60], hint)
    run = said.get("run")
    if run is None and len(kinds) == 1:
        run = next(iter(kinds))
    if not isinstance(run, str) or run not in kinds:
        served = ", ".join(kinds)
        raise Problem(422, f"run: {str(run)[:60]!r} is not served here; served are {served}", "run", f"one of {served}")
    kind = kinds[run]
    film = _flag(said, "film")
    walk = _part(said, "walk")
    for name in ASIDE:
        if name in walk:
            raise Problem(422, f"walk.{name}: is the server's own business; leave it out", f"walk.{name}", "left out")
    named = walk.pop("name", "usual")
    if not isinstance(named, str):
        raise Problem(422, "walk.name: expected words", "walk.name", "words", "usual")
    how = _made(Walk, walk, "walk")
    if how.steps is not None and how.steps > limits.steps:
        right = f"at most {limits.steps} here"
        raise Problem(422, f"walk.steps = {how.steps}: must be {right}", "walk.steps", right, min(20, limits.steps))
    query, files = _with_files(kind.ask, _part(said, "query"))
    ask = _made(kind.ask, {**query, **{name: Path(given[0]) for name, given in files.items()}}, "query")
    chosen = to_plain(ask)
    form = said.get("format") or ""
    if not isinstance(form, str) or (form and form not in kind.formats):
        right = f"one of {', '.join(kind.formats)}"
        raise Problem(422, f"format = {str(form)[:30]!r}: must be {right}", "format", right, kind.formats[0])
    webhook = said.get("webhook_url") or ""
    if not isinstance(webhook, str):
        raise Problem(422, "webhook_url: expected words", "webhook_url", "an address", "https://example.org/done")
    return Asked(
        run, _whole(said, "n", 1, 1, limits.rows), _whole(said, "seed", 0, -SEED, SEED),
        {name: value for name, value in chosen.items() if name not in files},
        {name: value for name, value in to_plain(how).items() if value is not None}, named[:60], form,
        _whole(said, "previews", 0, 0, limits.steps), film, _flag(said, "exact"),
        _number(said, "deadline_s", limits.deadline, 0.001, limits.deadline), files, webhook,
    )  # fmt: skip


def _part(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = said.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Problem(422, f"{name}: expected names and values", name, "an object", {})
    return dict(found)


def _made(kind: type, given: Mapping[str, Any], inside: str) -> Any:
    try:
        return options(kind, given)
    except Mendable as error:
        raise of_line(str(error), inside) from None
    except (TypeError, ValueError, OverflowError, ArithmeticError) as error:
        raise Problem(422, f"{inside}: {error}", inside) from None


def _whole(said: Mapping[str, Any], name: str, usual: int, least: int, most: int) -> int:
    found = said.get(name)
    if found is None:
        return usual
    right = f"a whole number from {least} to {most}"
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
        raise Problem(422, f"{name} = {str(found)[:30]}: must be {right}", name, right, usual)
    return found


def _number(said: Mapping[str, Any], name: str, usual: float, least: float, most: float) -> float:
    found = said.get(name)
    if found is None:
        return usual
    right = f"a number from {least:g} to {most:g}"
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not least <= found <= most:
        raise Problem(422, f"{name} = {str(found)[:30]}: must be {right}", name, right, usual)
    return float(found)


def _flag(said: Mapping[str, Any], name: str) -> bool:
    found = said.get(name, False)
    if not isinstance(found, bool):
        raise Problem(422, f"{name} = {str(found)[:30]}: must be true or false", name, "true or false", False)
    return found


def _with_files(ask: type, query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[str, bytes]]]:
    """A query without its files, and these: {"name": ..., "base64": ...}. A path is never one of the server's."""
    paths = {option.path[-1] for option in listed(ask) if plain(option.hint) is Path}
    rest, files = {}, {}
    for name, value in query.items():
        if name not in paths or value is None:
            rest[name] = value
            continue
        example = {"name": "rows.csv", "base64": "YSxiCjEsMgo="}
        right = "a file, as an object of its name and its bytes in base64"
        if not isinstance(value, dict) or set(value) != {"name", "base64"} or not all(map(_words, value.values())):
            raise Problem(422, f"query.{name}: must be {right}", f"query.{name}", right, example)
        try:
            raw = base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise Problem(422, f"query.{name}: is not base64", f"query.{name}", right, example) from None
        files[name] = (safe(value["name"]), raw)
    return rest, files


def _words(value: Any) -> bool:
    return isinstance(value, str)


def safe(name: str) -> str:
    """A file's name of which nothing but letters, digits and its suffix are left."""
    bare = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name.replace("\\", "/")).stem)[:40].strip("-") or "file"
    suffix = re.sub(r"[^A-Za-z0-9.]", "", Path(name).suffix)[:10]
    return bare + suffix


# ---- described -------------------------------------------------------------------------------------------------------------


def schema(ask: type, choices: Mapping[str, list[str]] | None = None, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a dataclass as JSON Schema, with their explanations and usual values."""
    properties = {}
    for option in listed(ask):
        name = option.path[-1]
        if name in without:
            continue
        found = _typed(plain(option.hint))
        if (words := (choices or {}).get(name)) and found.get("type") == "string" and len(words) < 1000:
            found = {**found, "enum": list(words)}
        if optional(option.hint):
            if "enum" in found:
                found = {**found, "enum": [*found["enum"], None]}
            found["type"] = [found["type"], "null"]
        usual = to_plain(option.usual)
        properties[name] = {**found, "description": option.words, "default": usual}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _typed(kind: Any) -> dict[str, Any]:
    if typing.get_origin(kind) is Literal:
        return {"type": "string", "enum": list(typing.get_args(kind))}
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        many = len(inner) == 2 and inner[1] is Ellipsis
        bounds = {} if many else {"minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "items": _typed(plain(inner[0])), **bounds}
    if kind is Path:
        words = {"type": "string"}
        return {
            "type": "object", "additionalProperties": False, "required": ["name", "base64"],
            "properties": {"name": words, "base64": {**words, "contentEncoding": "base64"}}, "format": "file",
        }  # fmt: skip
    return {"type": {int: "integer", float: "number", bool: "boolean"}.get(kind, "string")}


def body_schema(kind: Kind, run: str, limits: Limits, choices: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """What a request for samples of a run can say."""
    walk = schema(Walk, without=ASIDE)
    walk["properties"]["steps"] |= {"minimum": 1, "maximum": limits.steps}
    walk["properties"]["name"] = {
        "type": "string",
        "description": "A walk that the field knows by name.",
        "default": "usual",
    }

    def whole(least: int, most: int, usual: int, words: str) -> dict[str, Any]:
        return {"type": "integer", "minimum": least, "maximum": most, "default": usual, "description": words}

    def flag(words: str) -> dict[str, Any]:
        return {"type": "boolean", "default": False, "description": words}

    return {
        "type": "object", "additionalProperties": False, "required": ["run"],
        "properties": {
            "run": {"type": "string", "const": run},
            "n": whole(1, limits.rows, 1, "How many (of each query that has a name)."),
            "seed": whole(-SEED, SEED, 0, "Sample i depends on the seed and i alone."),
            "query": {"$ref": f"#/components/schemas/query-{run}"} if run else schema(kind.ask, choices),
            "walk": walk,
            "format": {"type": "string", "enum": list(kind.formats), "description": "Of the files."},
            "previews": whole(0, limits.steps, 0, "Looks at each sample on its way."),
            "film": flag("Every state is shown, there and back."),
            "exact": flag("The very bits of `sfumato sample`, in a batch of its own; slower."),
            "deadline_s": {"type": "number", "minimum": 0.001, "maximum": limits.deadline, "default": limits.deadline,
                           "description": "Seconds after which it is cancelled."},
            "webhook_url": {"type": "string", "format": "uri", "maxLength": 2000,
                            "description": "Told by a signed POST once the request has ended."},
        },
    }  # fmt: skip
