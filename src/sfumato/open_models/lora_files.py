"""Low-rank changes in the layout that diffusers loads: PART.LAYER.lora_A.weight and .lora_B.weight, kernels as kernels.

Where a file says an alpha (in its header, or as LAYER.alpha) the change is alpha / rank times B A; ours are written with that
inside B, so that whoever reads them needs to know nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sfumato.errors import Wrong, decoding
from sfumato.networks import lora
from sfumato.training import checkpoint

HEADER = "lora_adapter_metadata"
"""The name under which diffusers keeps rank and alpha in the header."""
NAME = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""


def write_change(
    file: Path, weights: Mapping[str, Tensor], plain: Mapping[str, Tensor], part: str, scale: float = 1.0
) -> Path:
    """The change of an adapted network (``weights`` of `networks.lora.adapted`) as a file; returns its path.

    Args:
        plain: weights of the network itself, by whose shapes kernels are known.
        part: "unet" or "transformer". scale: alpha / rank.
    """
    found = {}
    for name, value in lora.factors(weights).items():
        layer, _, which = name.removesuffix(".weight").rpartition(".lora_")
        kernel = plain[f"{layer}.weight"].shape[1:]
        if len(kernel) > 1:
            value = value.reshape(
                len(value), *(kernel if which == "A" else (value.shape[1], *(1,) * (len(kernel) - 1)))
            )
        found[f"{part}.{name}"] = value * scale if which == "B" else value
    checkpoint.save_weights(file, found, {"format": "pt"})
    return file


def read_change(file: Path, part: str) -> dict[str, Tensor]:
    """A file as factors of ours, its scale inside B: LAYER.lora_A.weight (rank, in), LAYER.lora_B.weight (out, rank).

    Raises Wrong, CheckpointError.
    """
    file = file / NAME if file.is_dir() else file
    tensors, about = checkpoint.read_weights(file)
    with decoding(file, "give a low-rank change in the layout of diffusers", Wrong):
        ours = "rank" in about and "alpha" in about
        whole = lora.scale_of(about) if ours else None
        told = json.loads(about[HEADER]) if HEADER in about else {}
        named = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if _of(name, part)}
        if not named:
            raise Wrong(f"{file}: has no change of {part}")
        if told.get(f"{part}.use_dora", told.get("use_dora")):
            raise Wrong(
                f"{file}: changes lengths of weights too (DoRA), which are not read; give a plain low-rank change"
            )
        found = {}
        for name, value in named.items():
            layer, between, which = name.removesuffix(".weight").rpartition(".lora_")
            if not between:
                continue
            flat = value.flatten(1)
            if which == "B":
                rank = flat.shape[1]
                alpha = named.get(f"{layer}.alpha")
                root = told.get(f"{part}.use_rslora", told.get("use_rslora"))
                own = _alpha(told, part, layer, rank, alpha) / (rank**0.5 if root else rank)
                flat = flat * (own if whole is None else whole)
            found[f"{layer}.lora_{which}.weight"] = flat
        return found


def _of(name: str, part: str) -> bool:
    others = tuple(f"{each}." for each in ("unet", "transformer", "text_encoder", "text_encoder_2") if each != part)
    return not name.startswith(others)


def _alpha(told: Mapping[str, object], part: str, layer: str, rank: int, alpha: Tensor | None) -> float:
    if alpha is not None:
        return float(alpha)
    own = told.get(f"{part}.alpha_pattern", told.get("alpha_pattern"))
    found = own.get(layer) if isinstance(own, Mapping) else None
    if found is None:
        found = told.get(f"{part}.lora_alpha", told.get("lora_alpha", rank))
    return float(found)  # type: ignore[arg-type]


def merged_with(weights: Mapping[str, Tensor], file: Path, part: str, strength: float = 1.0) -> dict[str, Tensor]:
    """Plain weights with the change of a file added, ``strength`` times. Raises Wrong, CheckpointError."""
    change = read_change(file, part)
    with decoding(file, "give a change of this model", Wrong):
        return lora.added(weights, change, strength)
