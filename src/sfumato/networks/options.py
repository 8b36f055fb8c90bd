"""The options of networks, and how what was left open is written down. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from torch import nn

R = TypeVar("R")


@dataclass(frozen=True)
class NetworkOptions:
    """The network. None means: chosen from the data and the machine."""

    kind: Literal["auto", "dit", "unet", "mlp"] = "auto"
    """DiT (transformer on patches), U-Net, MLP (vectors)."""
    width: int | None = None
    """Channels."""
    depth: int | None = None
    """Blocks (U-Net: per level)."""
    patch: int | None = None
    """Side of a DiT's patch in pixels."""
    loops: tuple[int, int] | None = None
    """A DiT applies its middle blocks this often with the same weights, least and most, at random while training; and any
    number of times in sampling."""


def settle(options: R, network: nn.Module) -> R:
    """Options of a network, with what was left open (None or "auto") as the network has it."""
    made: Mapping[str, Any] = getattr(network, "options", {})
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    open_ = [f.name for f in fields if getattr(options, f.name) in (None, "auto") and f.name in made]
    return dataclasses.replace(options, **{name: made[name] for name in open_})  # type: ignore[type-var]
