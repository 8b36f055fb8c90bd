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


LONGEST = 300
"""Characters of what a decoder says that go into a message of ours; it may repeat the file."""


def shown(name: str | os.PathLike[str]) -> str:
    """A file name that can always be printed on one line: control characters and undecodable bytes are escaped."""
    text = os.fspath(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, most: int = LONGEST) -> str:
    """A text of so many characters at most: of a longer one the beginning and the end."""
    return text if len(text) <= most else f"{text[: most - 30]} ... {text[-20:]}"


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks, shortened; its type where it has no message. Of the system's errors what went
    wrong alone: which file, the message around it says."""
    text = str(getattr(error, "strerror", None) or error)[: 4 * LONGEST].replace("\n", " ")
    return shortened(" ".join(shown(text).split())) or type(error).__name__


@contextmanager
def naming(place: str | os.PathLike[str], kind: type[Mendable] | None = None) -> Iterator[None]:
    """A message of ours from inside names ``place``, a file or folder, if it does not yet; as a `DataError` or another kind."""
    try:
        yield
    except Mendable as error:
        if any(name in str(error) for name in (os.fspath(place), shown(place))):
            raise
        raise (kind or DataError)(f"{shown(place)}: {shortened(str(error), 4 * LONGEST)}") from error


@contextmanager
def decoding(place: str | os.PathLike[str], remedy: str, kind: type[Mendable] | None = None) -> Iterator[None]:
    """Where the content of a file is taken apart that may be damaged, or may lie: whatever is raised inside is said of
    ``place``, in a line. Nothing but decoding belongs inside, for a bug of ours would look like damage.

    Args:
        remedy: what to do about it.
        kind: of the error, `DataError` unless given.
    """
    with naming(place, kind):
        try:
            yield
        except Mendable:
            raise
        except Exception as error:  # decoders that meet hostile bytes raise almost anything
            said = kind or DataError
            raise said(f"{shown(place)}: cannot be read ({one_line(error)}); {remedy}") from error


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
def options_meet_the_core(place: str = "") -> Iterator[None]:
    """Where options become networks, processes and walks: what the core says of a value is said of the option, and of
    ``place``, from which it may come."""
    try:
        yield
    except Mendable:
        raise
    except ValueError as error:
        raise Wrong(f"{place}: {error}" if place else str(error)) from error


def typed(path: str | os.PathLike[str]) -> str:
    """A path as it is typed in a shell: in quotes where it has spaces."""
    return shlex.quote(os.fspath(path))


def install(extra: str) -> str:
    """The words that bring an extra: in a clone, and from an index that has the package (a shell takes bare brackets)."""
    return f"pip install -e '.[{extra}]' in the clone (from an index: pip install 'sfumato[{extra}]')"


def needed(module: str, extra: str = "policy") -> Any:
    """An imported package of an extra. Raises DataError naming the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"the package {module.split('.')[0]} is not installed; {install(extra)}") from None
