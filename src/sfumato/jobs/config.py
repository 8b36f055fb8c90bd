"""Which recipes there are, and config.yaml: everything needed to build a run again.

A recipe is known by its name in the entry-point group ``sfumato.recipes``; that name is the first key of config.yaml.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from sfumato.jobs.adapt import DistillOptions
from sfumato.jobs.strict import ConfigError, from_yaml, to_yaml
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "sfumato.recipes"
PLAIN = "images"
"""What a command means that names no recipe."""


@cache
def _known() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def names() -> tuple[str, ...]:
    """The names of all recipes that are installed."""
    return tuple(_known())


def kind(name: str) -> Any:
    """The dataclass of a recipe. Raises ConfigError for a name that is not installed."""
    if name not in _known():
        raise ConfigError(f"no recipe {name!r} is installed; known: {', '.join(_known())}")
    return _known()[name].load()


def name_of(recipe: Any) -> str:
    """The name under which the class of this recipe is installed. Raises ConfigError."""
    place = f"{type(recipe).__module__}:{type(recipe).__qualname__}"
    for name, entry in _known().items():
        if entry.value == place:
            return name
    raise ConfigError(f"{place} is no entry point of the group {GROUP!r}; install the package that offers it")


@cache
def _file(name: str) -> Any:
    """What config.yaml holds for one recipe, as a dataclass of its own."""
    return dataclasses.make_dataclass(
        "Configuration",
        [
            (name, kind(name)),
            ("training", TrainOptions, field(default_factory=TrainOptions)),
            ("distill", DistillOptions | None, None),
        ],
        frozen=True,
    )


@dataclass(frozen=True)
class Configuration:
    """A recipe with its options, how it is trained, and how it is converted if it is."""

    recipe: Any
    """A :class:`~sfumato.recipes.base.Recipe`."""
    training: TrainOptions = field(default_factory=TrainOptions)
    distill: DistillOptions | None = None

    def to_yaml(self) -> str:
        """The text of config.yaml."""
        name = name_of(self.recipe)
        return to_yaml(_file(name)(self.recipe, self.training, self.distill))

    @classmethod
    def from_yaml(cls, text: str, source: str = "config", base: Configuration | None = None) -> Configuration:
        """Read what `to_yaml` wrote; keys that are absent keep the value of ``base`` (of the same recipe) or the default.

        Raises ConfigError with file, line, key, what is wrong and what would be right.
        """
        name = _named(text) or (PLAIN if base is None else name_of(base.recipe))
        given = None
        if base is not None:
            recipe = base.recipe if name == name_of(base.recipe) else None
            given = _file(name)(recipe, base.training, base.distill)
        read = from_yaml(_file(name), text, source, given)
        return cls(getattr(read, name), read.training, read.distill)


def _named(text: str) -> str | None:
    """The first key that is the name of a recipe; nothing is built of what the text says."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None  # the reader says what is wrong
    keys = [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return next((key for key in keys if key in _known()), None)


def read_config(run: Run) -> Configuration:
    """The configuration of a run. Raises RunError, ConfigError."""
    run.require()
    return Configuration.from_yaml(run.config.read_text(encoding="utf-8"), str(run.config))
