"""data.json: what a run knows of its data. Each field has its own frozen dataclass for it, written and read here."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sfumato.jobs.strict import ConfigError, convert, to_plain
from sfumato.training.run import Run, RunError, write_text

T = TypeVar("T")


def read_facts(run: Run) -> dict[str, Any]:
    """data.json as it stands. Raises RunError where it cannot be read."""
    try:
        found: dict[str, Any] = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{run.path / 'data.json'}: cannot be read ({error}); the run is not complete, train again"
        ) from error
    if not isinstance(found, dict):
        raise RunError(f"{run.path / 'data.json'}: is no list of names and values; train again")
    return found


def load_facts(kind: type[T], run: Run) -> T:
    """data.json as a dataclass of plain fields (numbers, words, tuples of them, dicts); names it does not know are those of
    other revisions and are left out. Raises RunError naming the value that is wrong."""
    import typing

    stored, hints = read_facts(run), typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in stored:
            try:
                values[field.name] = convert(hints[field.name], stored[field.name])
            except (TypeError, ValueError, ConfigError) as error:
                raise RunError(f"{run.path / 'data.json'}: {field.name} is damaged ({error}); train again") from error
    try:
        return kind(**values)
    except TypeError as error:
        raise RunError(f"{run.path / 'data.json'}: lacks something ({error}); train again") from error


def save_facts(facts: Any, run: Run) -> None:
    """Write a dataclass of plain fields as data.json."""
    write_text(run.path / "data.json", json.dumps(to_plain(facts), indent=1))


@dataclass(frozen=True)
class Facts:
    """What a field knows of its data, if it is plain: a field's own frozen dataclass inherits from it, and adds its fields."""

    @classmethod
    def read(cls, run: Run) -> Self:
        """From data.json. Raises RunError."""
        return load_facts(cls, run)

    def write(self, run: Run) -> None:
        """As data.json."""
        save_facts(self, run)

    def words(self) -> list[str]:
        """The data in lines, for the plan and the card of a run."""
        return [", ".join(f"{name} {value}" for name, value in to_plain(self).items())]

    def values(self) -> list[str]:
        """Its numbers in lines, for `sfumato inspect`."""
        return []
