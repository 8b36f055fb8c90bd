"""Checksums of weights files, in their own header; and in which settings two networks differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

NAME = "sha256"
KNOWN = {"network", "width", "step", "widths", "scales"}
"""What the header of a weights file of ours may hold beside its checksum."""


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of tensors, whatever their order, with names, types and shapes, and of the text beside them."""
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def summed(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> dict[str, str]:
    """The text with the checksum beside it."""
    return {**about, NAME: checksum(tensors, about)}


def sound(tensors: Mapping[str, Tensor], about: dict[str, str]) -> bool:
    """Whether tensors and text are as they were written; the checksum is taken out of ``about``. Files without one pass, as of
    older revisions and of other programs; but a name in ours that nobody knows was a checksum once."""
    told = about.pop(NAME, None)
    if told is None:
        return not (KNOWN & set(about)) or set(about) <= KNOWN
    return told == checksum(tensors, about)


def difference(saved: Mapping[str, Tensor], here: Mapping[str, Tensor], then: Any, now: Any) -> str:
    """In what the weights of two networks differ, names and shapes: by their settings (JSON) where these are known. Nothing
    where they fit."""
    wrong = [name for name in here if name in saved and saved[name].shape != here[name].shape]
    if not wrong and saved.keys() == here.keys():
        return ""
    with suppress(ValueError, TypeError, AttributeError):
        before, after = json.loads(then), json.loads(now)
        other = [name for name in before if name in after and before[name] != after[name]]
        if other:
            return ", ".join(f"{name} was {before[name]} and is {after[name]}" for name in other)
    if wrong:
        return f"{wrong[0]} was {list(saved[wrong[0]].shape)} and is {list(here[wrong[0]].shape)}"
    return f"{min(saved.keys() ^ here.keys())} is on one side alone"
