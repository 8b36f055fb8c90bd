"""What a user can mend. `sfumato` prints these in one line; every other error is a bug of ours and keeps its traceback."""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any


class Mendable(Exception):
    """Its message alone tells a user what to do: which file or value, what is wrong, what would be right."""


class Wrong(Mendable, ValueError):
    """An option with a value that makes no sense, here or at all."""


class NonFiniteSample(Mendable, ArithmeticError):
    """A sample with numbers that are not finite: where on the walk they came. Nothing of it is shown or kept."""


class DataError(Mendable):
    """Something is wrong with the data. One line: which file or value, what is wrong, what would be right."""


def check(options: Any, *rules: tuple[Any, str, str]) -> None:
    """Raises Wrong for the first of the rules (holds, name, what is right) that does not hold.

    ``name`` is an attribute of ``options``, or of one of its parts, as "method.process". No option may be NaN, which no rule
    that compares would notice where it is not the last word.
    """
    for name, value in vars(options).items():
        if any(isinstance(each, float) and each != each for each in (value if isinstance(value, tuple) else (value,))):
            raise Wrong(f"{name} = {value!r}: must be a number")
    for holds, name, right in rules:
        if not holds:
            raise Wrong(f"{name} = {attrgetter(name)(options)!r}: must be {right}")


@contextmanager
def options_meet_the_core() -> Iterator[None]:
    """Where options become networks, processes and walks: what the core says of a value is said of the option."""
    try:
        yield
    except Mendable:
        raise
    except ValueError as error:
        raise Wrong(str(error)) from error


def typed(path: str | os.PathLike[str]) -> str:
    """A path as it is typed in a shell: in quotes where it has spaces."""
    return shlex.quote(os.fspath(path))


def install(extra: str) -> str:
    """The words that bring an extra: in a clone, and from an index that has the package (a shell takes bare brackets)."""
    return f"pip install -e '.[{extra}]' in the clone (from an index: pip install 'sfumato[{extra}]')"


def needed(module: str) -> Any:
    """An imported package of the extra "policy". Raises DataError naming the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"the package {module.split('.')[0]} is not installed; {install('policy')}") from None
