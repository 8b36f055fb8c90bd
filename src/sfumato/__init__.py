"""sfumato: diffusion and flow-matching models on any kind of data.

Names of the core are found here (`from sfumato import Gaussian, Denoiser, sample`) and imported when first asked for, so
that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("adapting", "data", "diffusion", "errors", "fields", "jobs", "metrics", "networks", "recipes", "training")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"sfumato.{name}")
    core = importlib.import_module("sfumato.diffusion")
    if name in core.__all__:
        return getattr(core, name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *importlib.import_module("sfumato.diffusion").__all__})
