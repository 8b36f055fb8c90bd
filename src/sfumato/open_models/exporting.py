"""A model of theirs written back as a folder that diffusers loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import DataError, shown
from sfumato.open_models import layout
from sfumato.open_models.model import OpenModel

if TYPE_CHECKING:
    from torch import Tensor


def exported(model: OpenModel, out: Path | str, weights: Mapping[str, Tensor] | None = None) -> Path:
    """The folder that the model was opened from with other weights of its denoiser (those that it has here unless given); returns
    it. Raises DataError where something is there already."""
    from sfumato.training import checkpoint

    out = Path(out)
    if out.exists():
        raise DataError(f"{shown(out)}: exists already; remove it or choose another folder")
    hidden = out.with_name(f".tmp-{out.name}-{os.getpid()}")
    try:
        own = model.folder / model.part
        leave = {path.resolve() for path in own.glob(f"{layout.STEM}*")}
        shutil.copytree(model.folder, hidden, ignore=lambda place, names: [
            name for name in names if (Path(place) / name).resolve() in leave or Path(name).suffix in layout.PICKLES
        ])  # fmt: skip
        found = dict(model.network.network.state_dict() if weights is None else weights)
        checkpoint.save_weights(hidden / model.part / f"{layout.STEM}.safetensors", found, {"format": "pt"})
        os.rename(hidden, out)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return out
