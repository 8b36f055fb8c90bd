"""sfumato: diffusion and flow-matching models on any kind of data.

    run = sfumato.train("photos", steps=100)
    pictures = sfumato.load(run).sample(8, seed=0)

Names of the core are found here (`from sfumato import Gaussian, Denoiser, sample`) and imported when first asked for, so
that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("adapting", "data", "diffusion", "errors", "fields", "jobs", "metrics", "networks", "recipes", "training")
_VERBS = ("train", "resume", "load", "evaluate", "distill", "finetune", "fit", "compare")
_TRAINING = {"Task": "objective", "TrainOptions": "options", "Run": "run"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"sfumato.{name}")
    if name in _VERBS:
        return getattr(importlib.import_module("sfumato.jobs.api"), name)
    if name in _TRAINING:
        return getattr(importlib.import_module(f"sfumato.training.{_TRAINING[name]}"), name)
    if name == "Items":
        return importlib.import_module("sfumato.data").Items
    core = importlib.import_module("sfumato.diffusion")
    if name in core.__all__:
        return getattr(core, name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(
        {*globals(), *_ROOMS, *_VERBS, *_TRAINING, "Items", *importlib.import_module("sfumato.diffusion").__all__}
    )
