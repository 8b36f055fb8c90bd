"""A pipeline's folder as diffusers writes it: which part is what, its settings, and its weights. Nothing in it is run.

model_index.json   scheduler/scheduler_config.json   unet/ or transformer/: config.json, *.safetensors   vae/ ...
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError, decoding, shown

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 2**26
"""Bytes of a file of settings, or of the list of a model's pieces."""
DENOISERS = ("unet", "transformer", "prior")
"""What the part with the denoiser is called."""
STEM = "diffusion_pytorch_model"
"""Of the files of weights."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def settings(file: Path) -> dict[str, Any]:
    """A file of settings. Raises DataError."""
    if not file.is_file():
        raise DataError(f"{shown(file)}: no such file; give the folder of a pipeline as diffusers saves it")
    with decoding(file, "save the pipeline again"):
        if file.stat().st_size > LONGEST:
            raise DataError(f"{shown(file)}: of {file.stat().st_size:,} bytes; settings are shorter")
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no names and values")
        return found


def denoiser_part(folder: Path) -> str:
    """The name of the part that is the denoiser. Raises DataError."""
    found = [name for name in DENOISERS if (folder / name / "config.json").is_file()]
    if not found:
        raise DataError(
            f"{shown(folder)}: has no {' or '.join(f'{name}/config.json' for name in DENOISERS[:2])}; give the folder of a "
            "pipeline as diffusers saves it"
        )
    return found[0]


def class_of(config: Mapping[str, Any], file: Path, known: Mapping[str, Any]) -> str:
    """Which of the known classes settings are of. Raises DataError."""
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in known:
        raise DataError(f"{shown(file)}: is of class {shown(str(name))!r}; known are {', '.join(sorted(known))}")
    return name


def weight_files(folder: Path) -> list[Path]:
    """The files of weights of one part, the whole of it. Raises DataError where there are none in safetensors."""
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if index is not None:
        with decoding(index, "save the pipeline again"):
            names = sorted(set(settings(index)["weight_map"].values()))
            if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
                raise ValueError("names files elsewhere")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"), key=lambda path: (path.name.count("."), path.name))
    if not found:
        pickled = (
            next((p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLES), None) if folder.is_dir() else None
        )
        said = f"{pickled} is not opened, for it can run code" if pickled else "no weights"
        raise DataError(f"{shown(folder)}: {said}; save it with safe_serialization=True")
    return found[:1]


def weights_of(folder: Path) -> dict[str, Tensor]:
    """All weights of one part. Raises DataError, CheckpointError."""
    from sfumato.training import checkpoint

    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        found |= checkpoint.read_tensors(file)
    return found
