"""How tables hang together: their keys, which columns point at the keys of others, and what is to be done with each.

    tables:
      planes:
        key: tailnum                        # made anew, to the pattern of the real ones
      airports:
        keep: true                          # written as it is: a list that is known to everybody
      weather:
        key: origin, time_hour
        keys: keep                          # the real keys stay; the rest of each row is drawn for its key
        links: [origin -> airports(faa)]
      flights:
        links:                              # the first that is no list says how many rows a parent has
          - tailnum -> planes
          - origin -> airports(faa)
          - origin, time_hour -> weather
        rules:
          derive: {time_hour: "lookup(month, day, hour)"}

A folder of tables has it in schema.yaml; a SQLite file declares keys by itself, and a file NAME.yaml beside NAME.sqlite adds the
rest. It is plain data: nothing in it is run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.rules import Rules, read_words, rules_of

SCHEMA = "schema.yaml"
MOST_TABLES = 100
_LINK = re.compile(r"([^()]+?)\s*->\s*([^()]+?)\s*(?:\(([^()]*)\))?")


@dataclass(frozen=True)
class Link:
    """Columns that hold the key of a row in another table, its parent.

    Args:
        columns: here. table: the parent's. to: the columns there, its key.
    """

    columns: tuple[str, ...]
    table: str
    to: tuple[str, ...]

    @property
    def text(self) -> str:
        """As the schema spells it."""
        return f"{', '.join(self.columns)} -> {self.table}({', '.join(self.to)})"

    @property
    def plain(self) -> Any:
        """As a schema has it: in words, or in parts where a name has a comma or a bracket in it."""
        if any(set(name) & set(",()") or "->" in name for name in (*self.columns, self.table, *self.to)):
            return {"columns": list(self.columns), "table": self.table, "to": list(self.to)}
        return self.text


@dataclass(frozen=True)
class Entry:
    """What a schema says of one table.

    Args:
        file: its file in the folder; None: the one of its name.
        key: columns that no two rows have alike.
        keys: "make" new ones, or "keep" the real ones and draw the rest of each row for its key.
        keep: the table is written as it is.
        links: to the parents.
        rules, leave_out, kind: as the options of a single table.
    """

    name: str
    file: str | None = None
    key: tuple[str, ...] = ()
    keys: str = "make"
    keep: bool = False
    links: tuple[Link, ...] = ()
    rules: Rules = field(default_factory=Rules)
    leave_out: tuple[str, ...] = ()
    kind: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all its real keys are in every sample."""
        return self.keep or self.keys == "keep"

    def plain(self) -> dict[str, Any]:
        """As a schema has it; what is usual is left out."""
        found: dict[str, Any] = {}
        if self.file is not None:
            found["file"] = self.file
        if self.key:
            found["key"] = list(self.key)
        if self.keys != "make":
            found["keys"] = self.keys
        if self.keep:
            found["keep"] = True
        if self.links:
            found["links"] = [link.plain for link in self.links]
        if self.rules:
            found["rules"] = {
                "derive": {each.column: each.text for each in self.rules.derived}, "check": list(self.rules.checks),
            }  # fmt: skip
        if self.leave_out:
            found["leave_out"] = list(self.leave_out)
        if self.kind:
            found["kind"] = dict(self.kind)
        return found


def read_schema(path: Path, base: Sequence[Entry] = ()) -> tuple[Entry, ...]:
    """The tables of a schema, parents before their children.

    Args:
        base: what is known already, of a database that declares its keys: the file says what is to be other.

    Raises:
        DataError: what in the file is no schema, with the nearest word; links to nowhere or in a circle.
    """
    return entries_of(read_words(path), shown(path), base)


def entries_of(plain: Any, source: str, base: Sequence[Entry] = ()) -> tuple[Entry, ...]:
    """The same from dicts, lists and words."""
    tables = plain.get("tables") if isinstance(plain, dict) else None
    if not isinstance(tables, dict) or not tables or set(plain) != {"tables"}:
        raise DataError(f"{source}: expected  tables: {{NAME: {{key: COLUMN, links: [COLUMN -> NAME]}}, ...}}")
    if len(tables) > MOST_TABLES:
        raise DataError(f"{source}: {len(tables)} tables, at most {MOST_TABLES} are read")
    before = {entry.name: entry for entry in base}
    if base:
        for name in tables:
            _known(name, before, f"{source}: there is no table {name!r} in the database")
    names = list(before or tables)
    keys = {name: _names((tables.get(name) or {}).get("key")) or getattr(before.get(name), "key", ()) for name in names}
    return ordered([_entry(name, tables.get(name) or {}, keys, source, before.get(name)) for name in names], source)


def _entry(name: str, plain: Any, keys: Mapping[str, tuple[str, ...]], source: str, base: Entry | None) -> Entry:
    here = f"{source}: {name}"
    if not isinstance(plain, dict):
        raise DataError(f"{here}: expected what is known of the table, as {{key: COLUMN, links: [COLUMN -> NAME]}}")
    known = ("file", "key", "keys", "keep", "links", "rules", "leave_out", "kind")
    for word in plain:
        _known(word, known, f"{here}: {word!r} is nothing that a table has")
    found = base or Entry(name)
    if plain.get("keys", "make") not in ("make", "keep"):
        raise DataError(f"{here}: keys is {plain['keys']!r}; must be make or keep")
    keep = str(plain.get("keep", found.keep)).lower()
    if keep not in ("true", "false"):
        raise DataError(f"{here}: keep is {plain['keep']!r}; must be true or false")
    kind = plain.get("kind", {})
    if not isinstance(kind, dict) or not all(isinstance(each, str) for each in kind.values()):
        raise DataError(f"{here}: kind should be like {{COLUMN: category}}")
    file = plain.get("file")
    if file is not None and (not isinstance(file, str) or Path(file).name != file):
        raise DataError(f"{here}: file is {file!r}; must be the name of a file beside the schema")
    made = replace(
        found,
        file=file or found.file,
        key=keys[name],
        keys=plain.get("keys", found.keys),
        keep=keep == "true",
        rules=rules_of(plain["rules"], f"{here}: rules") if "rules" in plain else found.rules,
        leave_out=_names(plain.get("leave_out")) or found.leave_out,
        kind=kind or found.kind,
    )
    if "links" in plain:
        links = plain["links"] if isinstance(plain["links"], list) else [plain["links"]]
        made = replace(made, links=tuple(_link(text, keys, here) for text in links))
    return made


def _names(value: Any) -> tuple[str, ...]:
    """Columns, as a list or with commas between them."""
    words = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
    return tuple(str(word).strip() for word in words if str(word).strip())


def _link(text: Any, keys: Mapping[str, tuple[str, ...]], here: str) -> Link:
    match = _LINK.fullmatch(text.strip()) if isinstance(text, str) else None
    if isinstance(text, dict) and set(text) == {"columns", "table", "to"}:
        columns, table, to = _names(text["columns"]), str(text["table"]), _names(text["to"])
    elif match is not None:
        columns, table, to = _names(match[1]), match[2], _names(match[3])
    else:
        raise DataError(f"{here}: link {text!r} should be like  COLUMN -> TABLE  or  A, B -> TABLE(C, D)")
    _known(table, keys, f"{here}: link {text!r}: there is no table {table!r}")
    to = to or keys[table]
    if not to:
        raise DataError(f"{here}: link {text!r}: {table} has no key; give it one, or name its columns, as {table}(id)")
    if len(to) != len(columns):
        raise DataError(f"{here}: link {text!r}: {len(columns)} columns point at {len(to)}: {', '.join(to)}")
    return Link(columns, table, to)


def _known(word: str, known: Iterable[str], message: str) -> None:
    if word not in known:
        near = difflib.get_close_matches(word, list(known), 1)
        raise DataError(message + (f"; did you mean {near[0]!r}?" if near else f"; they are {', '.join(known)}"))


def ordered(entries: Sequence[Entry], source: str) -> tuple[Entry, ...]:
    """Parents before children. Raises DataError for links in a circle."""
    left, found = list(entries), []
    while left:
        waiting = {entry.name for entry in left}
        ready = [entry for entry in left if not {link.table for link in entry.links} & waiting]
        if not ready:
            circle = next((entry for entry in left if any(link.table == entry.name for link in entry.links)), None)
            who = f"{circle.name} points at itself" if circle else f"{', '.join(sorted(waiting))} point at each other"
            raise DataError(f"{source}: {who}; leave one of the links out, and its columns with leave_out")
        found += ready
        left = [entry for entry in left if entry not in ready]
    return tuple(found)


def as_yaml(entries: Sequence[Entry]) -> str:
    """The text of a schema."""
    import yaml

    plain = {"tables": {entry.name: entry.plain() for entry in entries}}
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
    return text
