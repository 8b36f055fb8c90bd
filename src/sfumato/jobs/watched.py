"""A bar over what takes long and cannot tell by itself how far it is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.metrics.spaces import Space

AT_ONCE = 64
"""Items between two looks at the bar."""


def watched(space: Space) -> Space:
    """The same space; where a network looks at every item, with a bar over those that it has seen."""
    import torch

    from sfumato.training.progress import Watch

    def seen(x: Tensor) -> Tensor:
        found = []
        with Watch(f"{space.name} features", len(x), unit="items") as watch:
            for part in x.split(AT_ONCE):
                found.append(space.map(part))
                watch.show(sum(map(len, found)))
        return torch.cat(found)

    return dataclasses.replace(space, map=seen) if space.slow else space
