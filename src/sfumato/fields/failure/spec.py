"""How a simulator is named, and what a name of the user's own stands for."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import Wrong, one_line


@dataclass(frozen=True)
class Spec:
    """How a simulator is named and what it is given; the part of a recipe's options that is about it."""

    simulator: str
    shape: tuple[int, ...] | None = None
    law: tuple[str, ...] = ()
    single: bool = False
    symmetry: str = "none"
    controller: str | None = None
    where: str = "obs"
    noise: float = 0.05
    hold: int = 10
    horizon: int = 400


def imported(name: str, option: str) -> Any:
    """What ``module:function`` stands for, from the folder where the command runs or the installed packages. Raises Wrong."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise Wrong(f"{option} = {name!r}: the module {module} has no {attribute!r}") from None
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise Wrong(f"{option} = {name!r}: the module {module} cannot be imported ({said})") from error
    if not callable(found):
        raise Wrong(f"{option} = {name!r}: must be a function, it is {type(found).__name__}")
    return found
