"""The names of this package before fields had folders of their own, for one more minor version.

`from sfumato.recipes.images import Images` still works and says where `Images` is now.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_JOBS = {
    "base": ("jobs.recipe", "jobs.facts", "jobs.walk", "jobs.methods", "jobs.adapt", "networks.options"),
    "configuration": ("jobs.config", "jobs.find", "jobs.adapt", "jobs.strict"),
    "distillation": ("jobs.distill", "jobs.adapt", "adapting.habits"),
    "inspection": ("jobs.inspect",),
    "job": ("jobs.train", "jobs.sample", "jobs.card", "jobs.model", "jobs.config", "jobs.walk", "jobs.recipe"),
    "model": ("jobs.model", "jobs.walk"),
    "plots": ("jobs.plots",),
}
_FIELDS = {
    "acting": ("policy.acting",),
    "chunks": ("policy.data", "policy.fans"),
    "cloning": ("policy.cloning",),
    "demo": ("captions.demo",),
    "evaluation": ("images.measure",),
    "filming": ("policy.simulators.filming",),
    "images": ("images.recipe",),
    "openmoji": ("captions.openmoji",),
    "policy": ("policy.recipe", "policy.samples", "policy.acting"),
    "recording": ("policy.simulators.recording",),
    "rollout": ("policy.simulators.rollout",),
    "trials": ("policy.measure",),
}
MOVED: dict[str, tuple[str, ...]] = {
    **{old: tuple(f"sfumato.{new}" for new in places) for old, places in _JOBS.items()},
    **{old: tuple(f"sfumato.fields.{new}" for new in places) for old, places in _FIELDS.items()},
}
"""Name of a module here -> the modules that hold what was in it, the one most like it first."""
MOVED["evaluation"] += ("sfumato.jobs.evaluate",)
MOVED["images"] += ("sfumato.data.sheet",)
MOVED["rollout"] += ("sfumato.metrics.intervals",)
GONE = {
    "SampleOptions": "sfumato.jobs.walk.Walk (how) and Drawing (which noise); what is asked for is the field's Ask",
    "MeasureOptions": "sfumato.fields.images.measure.Measure",
    "converted": "sfumato.jobs.adapt.DistillOptions.task",
    "grid": "sfumato.data.sheet.sheet",
    "trial": "sfumato.fields.policy.measure.evaluate",
    "Facts": "sfumato.fields.policy.data.PolicyFacts",
}
"""Names that are nothing any more -> what does their work."""


class _Forward(MetaPathFinder, Loader):
    """Makes the modules of this package: empty ones that look for a name where it went."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, old = name.rpartition(".")
        return ModuleSpec(name, self) if package == __name__ and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.rpartition(".")[2]

        def forward(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            for place in MOVED[old]:
                found = getattr(importlib.import_module(place), name, None)
                if found is not None:
                    warnings.warn(
                        f"sfumato.recipes.{old}.{name} is now {place}.{name}; the old name goes with the next minor version",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    return found
            instead = f"; use {GONE[name]}" if name in GONE else ""
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}{instead}")

        module.__dict__["__getattr__"] = forward


sys.meta_path.append(_Forward())


def __getattr__(name: str) -> Any:
    if name in MOVED:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
