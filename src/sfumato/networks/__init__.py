"""Networks that answer what a process asks: `network(x, level, level_s=None, *, label=None, ...) -> answer shaped like x`.

`level` is ln(sigma / alpha), the logarithm of the noise-to-signal ratio of x; networks know nothing else of a process.
`MLP` takes vectors, `UNet` pictures, `DiT` sequences, pictures and clips. Names are imported when first asked for, so that
the options of networks need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.networks.dit import DiT
    from sfumato.networks.joint import JointDiT
    from sfumato.networks.kinds import build, choose, describe, fitting_patch, flops, rebuilt
    from sfumato.networks.mlp import MLP
    from sfumato.networks.unet import UNet

__all__ = ["MLP", "DiT", "JointDiT", "UNet", "build", "choose", "describe", "fitting_patch", "flops", "rebuilt"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sfumato.networks' has no attribute {name!r}")
    return getattr(importlib.import_module("sfumato.networks.kinds"), name)
