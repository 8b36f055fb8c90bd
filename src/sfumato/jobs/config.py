"""config.yaml: everything needed to build a run again. Its first key is the name of the run's field."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sfumato.errors import Wrong
from sfumato.jobs.adapt import Adaptation, DistillOptions, Walked
from sfumato.jobs.find import kind, name_of, names, plain
from sfumato.jobs.prefer import Preferring
from sfumato.jobs.strict import LONGEST, ConfigError, composed, from_yaml, to_yaml
from sfumato.jobs.tune import FinetuneOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run, RunError


@cache
def _file(name: str) -> Any:
    """What config.yaml holds for one recipe, as a dataclass of its own."""
    return dataclasses.make_dataclass(
        "Configuration",
        [
            (name, kind(name)),
            ("training", TrainOptions, field(default_factory=TrainOptions)),
            ("distill", DistillOptions | None, None),
            ("finetune", FinetuneOptions | None, None),
            ("prefer", Preferring | None, None),
        ],
        frozen=True,
    )


@dataclass(frozen=True)
class Configuration:
    """A recipe with its options, how it is trained, and whether it was made of another run: as its flow map, tuned on, or
    taught what is preferred."""

    recipe: Any
    """A :class:`~sfumato.jobs.recipe.Recipe`."""
    training: TrainOptions = field(default_factory=TrainOptions)
    distill: DistillOptions | None = None
    finetune: FinetuneOptions | None = None
    prefer: Preferring | None = None

    @property
    def adaptations(self) -> tuple[Adaptation, ...]:
        """What was made of the field's own run, in order."""
        return tuple(each for each in (self.distill, self.finetune, self.prefer) if each is not None)

    @property
    def walked(self) -> tuple[Walked, ...]:
        """Those of them whose samples are drawn in a way of their own."""
        return () if self.distill is None else (self.distill,)

    def to_yaml(self) -> str:
        """The text of config.yaml."""
        name = name_of(self.recipe)
        return to_yaml(_file(name)(self.recipe, self.training, self.distill, self.finetune, self.prefer))

    @classmethod
    def from_yaml(cls, text: str, source: str = "config", base: Configuration | None = None) -> Configuration:
        """Read what `to_yaml` wrote; keys that are absent keep the value of ``base`` (of the same recipe) or the default.

        Raises ConfigError with file, line, key, what is wrong and what would be right.
        """
        name = _named(text) or (plain() if base is None else name_of(base.recipe))
        given = None
        if base is not None:
            recipe = base.recipe if name == name_of(base.recipe) else None
            given = _file(name)(recipe, base.training, base.distill, base.finetune, base.prefer)
        read = from_yaml(_file(name), text, source, given)
        return cls(getattr(read, name), read.training, read.distill, read.finetune, read.prefer)


def field_of(folder: Path) -> str | None:
    """The name of the field of the run in a folder, read from the text of its config.yaml; None where there is none."""
    try:
        with (folder / "config.yaml").open(encoding="utf-8") as file:
            return _named(file.read(LONGEST + 1))
    except (OSError, UnicodeDecodeError):
        return None


def belongs(folder: Path, field: str) -> None:
    """Raises Wrong where the run in a folder is one of another field; where there is none, loading says what is missing."""
    if (of := field_of(folder)) not in (None, field):
        raise Wrong(f"run = {str(folder)!r}: must be a run of {field}, this is one of {of}")


def _named(text: str) -> str | None:
    """The first key that is the name of a recipe; nothing is built of what the text says."""
    import yaml

    try:
        node = composed(text, "config")
    except ConfigError:
        return None  # the reader says what is wrong
    keys = [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return next((key for key in keys if key in names()), None)


def read_config(run: Run) -> Configuration:
    """The configuration of a run. Raises RunError, ConfigError."""
    run.require()
    try:
        with run.config.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RunError(f"{run.config}: cannot be read ({reason}); restore it from a copy") from error
    return Configuration.from_yaml(text, str(run.config))
