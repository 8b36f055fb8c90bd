"""Networks by kind: built from stored settings, chosen for data and machine, described, counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sfumato.errors import decoding
from sfumato.networks.dit import DiT
from sfumato.networks.joint import JointDiT
from sfumato.networks.mlp import MLP
from sfumato.networks.parts import count as _parameters
from sfumato.networks.unet import UNet

KINDS: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet, "dit": DiT, "joint": JointDiT}


def build(options: Mapping[str, Any], kinds: Mapping[str, type[nn.Module]] = MappingProxyType({})) -> nn.Module:
    """The network that stored these `options`: its constructor's, and "kind". `kinds` are those of a field, beside ours.

    Raises ValueError if the kind is missing or not known, TypeError for an option that the kind does not have.
    """
    rest = dict(options)
    kind = rest.pop("kind", None)
    known = {**KINDS, **kinds}
    if kind not in known:
        raise ValueError(f"network kind is {kind!r}, expected one of {', '.join(known)}")
    return known[kind](**rest)


def rebuilt(
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: str,
    kinds: Mapping[str, type[nn.Module]] = MappingProxyType({}),
) -> nn.Module:
    """The network that stored ``settings`` in the file ``source``, whose weights are known: settings that ask for more, or for
    another network, are refused before memory is taken for it. Raises DataError."""
    with decoding(source, "its settings are no network's; restore it from a copy"):
        total = sum(x.numel() for x in weights.values())
        for name, value in settings.items():
            # of whatever there is many of there are weights; of what is built one by one a weight each
            most = len(weights) if name in ("depth", "multipliers") else total
            if _size(value) > most:
                raise ValueError(f"{name} is {value}, for {len(weights)} weights of {total} numbers")
        try:
            with torch.device("meta"):
                twin = build(settings, kinds).state_dict()
        except RuntimeError:  # a field's own network may want numbers to be built
            twin = dict(weights)
        if {name: x.shape for name, x in twin.items()} != {name: x.shape for name, x in weights.items()}:
            raise ValueError("its settings are of another network than its weights")
        return build(settings, kinds)


def _size(value: Any) -> int:
    """How much a setting asks for: a whole number that much, a list of them their sum."""
    if isinstance(value, (list, tuple)):
        return sum(map(_size, value))
    return value if isinstance(value, int) else 0


def choose(
    shape: tuple[int, ...],
    *,
    count: int,
    classes: int = 0,
    vectors: int = 0,
    kind: Literal["auto", "dit", "unet", "mlp"] = "auto",
    width: int | None = None,
    depth: int | None = None,
    patch: int | None = None,
    loops: tuple[int, int] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """A network that suits the data and the machine; `width`, `depth` and `patch` override what would be chosen.

    shape   of one item: (D,) a vector, (L, D) a sequence, (C, H, W) a picture, (T, C, H, W) a clip
    count   number of items in the data set
    device  "cpu" or an accelerator, which affords more width, depth and tokens

    Vectors get an MLP and all else a DiT, with patches such that a picture or sequence has about 64 tokens on a CPU
    and 256 elsewhere. Pictures whose sides share no divisor from 2 to 16 get a U-Net.
    Raises ValueError if the kind cannot take the shape, or an option is given that the kind does not have.
    """
    if not shape or len(shape) > 4 or min(shape) < 1:
        raise ValueError(f"shape {tuple(shape)} is none of (D,), (L, D), (C, H, W), (T, C, H, W)")
    fast = not device.startswith("cpu")
    if kind == "auto":
        kind = "mlp" if len(shape) == 1 else "dit"
        if len(shape) == 3 and patch is None and fitting_patch(shape, fast) is None:
            kind = "unet"
    axes = {"mlp": (1,), "unet": (3,), "dit": (2, 3, 4)}
    if kind not in axes:
        raise ValueError(f"kind is {kind!r}, expected auto, {', '.join(axes)}")
    if len(shape) not in axes[kind]:
        raise ValueError(
            f"a network of kind {kind} cannot take items of shape {tuple(shape)}; give another --network.kind"
        )
    if patch is not None and kind != "dit":
        raise ValueError(f"patch was given, but a network of kind {kind} has no patches; leave it out")

    if loops is not None and kind != "dit":
        raise ValueError(f"loops was given, but a network of kind {kind} has none")

    if kind == "mlp":
        wide = 512 if fast and count >= 50_000 else 256
        return MLP(
            dim=shape[0], width=width or wide, depth=depth or (6 if fast else 4), classes=classes, vectors=vectors
        )
    if kind == "unet":
        unshuffle = 2 if shape[1] % 2 == shape[2] % 2 == 0 and min(shape[1:]) >= 32 else 1
        side = math.gcd(*shape[1:]) // unshuffle
        multipliers = [1]
        while side % 2 == 0 and side >= 8 and len(multipliers) < 4:  # down to 4 pixels, no further
            side //= 2
            multipliers.append(len(multipliers) + 1)
        wide = 128 if fast and count >= 5_000 else 64
        return UNet(
            channels=shape[0],
            width=width or wide,
            depth=depth or 2,
            multipliers=multipliers,
            unshuffle=unshuffle,
            classes=classes,
            vectors=vectors,
        )
    if fast:
        wide, deep = (768, 12) if count >= 1_000_000 else (512, 12) if count >= 50_000 else (384, 10)
    else:
        wide, deep = (256, 6) if count >= 1_000 else (192, 6)
    return DiT(
        channels=shape[0] if len(shape) == 3 else shape[1],
        dims=len(shape) - 1,
        width=width or wide,
        depth=depth or deep,
        patch=patch or fitting_patch(shape, fast) or 1,
        classes=classes,
        vectors=vectors,
        loops=loops,
    )


def fitting_patch(shape: tuple[int, ...], fast: bool) -> int | None:
    """Side of a patch that divides the item and gives the number of tokens closest in ratio to the wanted one."""
    sides = shape[:1] if len(shape) == 2 else shape[-2:]
    wanted = 256 if fast else 64
    smallest = 1 if len(shape) == 2 or max(sides) <= 4 else 2
    fits = [p for p in range(smallest, 17) if all(side % p == 0 for side in sides)]
    return min(fits, key=lambda p: abs(math.log(math.prod(side // p for side in sides) / wanted)), default=None)


def describe(network: nn.Module) -> str:
    """One line about a network, such as "DiT 5.1 M parameters: width 256, depth 6, patch 4"."""
    number = _parameters(network)
    size = f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number / 1e3:.1f} k" if number >= 1e3 else f"{number}"
    options = getattr(network, "options", {})
    shown = [f"{name} {options[name]}" for name in ("body", "width", "depth", "patch", "unshuffle") if name in options]
    return f"{type(network).__name__} {size} parameters" + (f": {', '.join(shown)}" if shown else "")


def flops(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations (two per multiply-add) of one answer for one item of this shape.

    Counts matrix products, convolutions and attention, on tensors without data. The network must have `options`.
    """
    with torch.device("meta"):
        twin = build(network.options, {network.options["kind"]: type(network)})  # type: ignore
        twin.eval().requires_grad_(False)
        x, level = torch.empty(1, *shape), torch.empty(1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(x, level)
    return counter.get_total_flops()
