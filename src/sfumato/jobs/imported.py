"""Code of the user's own, that he names as ``module:function``: on the command line or in a call, never in a file of ours."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from sfumato.errors import Wrong, one_line


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
