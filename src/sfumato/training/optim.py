"""Optimisers and the learning rate as a pure function of the step.

This module imports torch only inside functions, so that a command line can list the options at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

from sfumato.errors import check

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class OptimOptions:
    """How the weights are updated.

    Raises ValueError for a value outside its range.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for the hidden matrices with AdamW for all else."""
    lr: float | None = None
    """Peak learning rate (none: chosen by the number of parameters, 2e-3 for small networks to 1e-4 for large ones)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's two decay rates, of the mean gradient and of its square."""
    weight_decay: float = 0.0
    """Decoupled, per unit of learning rate, on matrices and kernels only (no biases, norms, embeddings)."""
    warmup: int = 200
    """Updates over which the rate rises from 0 to its peak."""
    decay: float = 0.4
    """Share of the run, at its end, over which the rate falls to 0 in a straight line."""
    clip: float = 1.0
    """Largest norm of the whole gradient; longer ones are shortened to it (inf: no limit)."""
    momentum: float = 0.95
    """Muon's momentum."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.kind in ("adamw", "muon"), "kind", "'adamw' or 'muon'"),
            (self.lr is None or 0 < self.lr < math.inf, "lr", "a number above 0, or none to choose it by size"),
            (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "betas", "two numbers in [0, 1)"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "0 or more"),
            (self.warmup >= 0, "warmup", "0 or more updates"),
            (0 <= self.decay <= 1, "decay", "a share in [0, 1]"),
            (self.clip > 0, "clip", "above 0 (inf for no limit)"),
            (0 <= self.momentum < 1, "momentum", "in [0, 1)"),
        )


def default_lr(parameters: int) -> float:
    """Peak learning rate for a network of that many parameters.

    Small networks stand, and need, larger rates: 2e-3 up to a million, 1e-3 to ten, 3e-4 to a hundred, 1e-4 beyond.
    Measured for the first two; the others are customary for diffusion transformers.
    """
    for limit, lr in ((1_000_000, 2e-3), (10_000_000, 1e-3), (100_000_000, 3e-4)):
        if parameters <= limit:
            return lr
    return 1e-4


def peak_lr(options: OptimOptions, model: nn.Module) -> float:
    """The rate that `learning_rate` scales: the one asked for, or the default for the trained parameters of `model`."""
    if options.lr is not None:
        return options.lr
    return default_lr(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))


def learning_rate(options: OptimOptions, step: int, steps: int, lr: float) -> float:
    """The rate of the update made when `step` of `steps` are done (the first has step 0).

    Rises linearly over the warm-up (shortened to a tenth of a short run), stays at `lr`, and falls linearly to 0 at
    `steps` over the last `decay` share: a straight fall is as good as a cosine, and resuming with another length bends
    it at one place only. It never is 0 before the end. Raises ValueError for steps < 1 or step < 0.
    """
    if steps < 1 or step < 0:
        raise ValueError(f"step {step} of {steps}: needs step >= 0 and steps >= 1")
    warmup = min(options.warmup, steps // 10)
    rise = (step + 1) / (warmup + 1)
    fall = (steps - step) / (options.decay * steps) if options.decay > 0 else 1.0
    if options.decay == 0 and step >= steps:
        fall = 0.0
    return lr * max(0.0, min(1.0, rise, fall))


def clip(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale the gradients so that their joint 2-norm is at most `limit`, and return the norm from before.

    The norm, of shape (), stays on its device: nothing waits for it until it is read. It is not finite if any gradient
    is not; the gradients are then worthless and the update must be skipped.
    """
    from torch.nn.utils import clip_grad_norm_

    return clip_grad_norm_(parameters, limit)


def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained 2-D weights between the first and the last layer: those that Muon is made for.

    Left out: embeddings (and weights tied to one), what leads in or out of the network, tables and offsets (2-D
    parameters not called `...weight`), and vectors in the guise of a matrix. What leads in or out is known by its name
    (`enter`, `embed`, `head`, `final`, ...), else it is the first or last matrix or kernel as registered.
    See Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """
    embedded = _embedded(model)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = [name for name, parameter in named.items() if parameter.ndim >= 2 and name.endswith("weight")]
    layers = [name for name in layers if id(named[name]) not in embedded]
    # Wrappers (a denoiser, a compiled or a parallel module) put the same words before every name.
    columns = zip(*(name.split(".")[:-1] for name in named))
    depth = len(list(takewhile(lambda words: len(set(words)) == 1, columns)))
    entries = {name for name in layers if _leads(name.split(".")[:-1], depth, _ENTRIES, _IN)}
    exits = {name for name in layers if _leads(name.split(".")[:-1], depth, _EXITS, _OUT)}
    edges = (entries or set(layers[:1])) | (exits or set(layers[-1:]))
    return {
        name: named[name]
        for name in layers
        if named[name].ndim == 2 and name not in edges and min(named[name].shape) > 1
    }


# Some names speak for themselves at any depth; others do so only at the top, as attention, too, has an `out`.
_ENTRIES, _IN = frozenset({"enter", "patch", "stem"}), frozenset({"in", "input", "first"})
_EXITS, _OUT = (
    frozenset({"lm_head", "final_layer", "unembed", "unpatchify"}),
    frozenset({"head", "heads", "final", "last", "out", "output", "readout", "exit", "leave"}),
)


def _leads(words: list[str], depth: int, anywhere: frozenset[str], at_top: frozenset[str]) -> bool:
    inwards = anywhere is _ENTRIES and any("embed" in word and "unembed" not in word for word in words)
    return inwards or not anywhere.isdisjoint(words) or not at_top.isdisjoint(words[depth : depth + 1])


def _embedded(model: nn.Module) -> set[int]:
    from torch import nn

    return {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}


class Composite:
    """Several torch optimisers behind the face of one; the groups and parameters count through."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        from torch import enable_grad

        loss = None
        if closure is not None:  # once, not once per optimiser
            with enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        joint: dict[str, Any] = {"state": {}, "param_groups": []}
        offset = 0
        for optimizer in self.optimizers:
            packed = optimizer.state_dict()
            joint["state"].update({index + offset: state for index, state in packed["state"].items()})
            joint["param_groups"] += [
                {**group, "params": [index + offset for index in group["params"]]} for group in packed["param_groups"]
            ]
            offset += _count(optimizer)
        return joint

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError, with nothing loaded, if the groups are not those of this composite."""
        groups = state_dict["param_groups"]
        here, there = ([len(group["params"]) for group in some] for some in (self.param_groups, groups))
        if here != there:
            raise ValueError(f"groups of {there} parameters cannot be loaded into groups of {here}")
        first = offset = 0
        for optimizer in self.optimizers:
            mine, size = len(optimizer.param_groups), _count(optimizer)
            optimizer.load_state_dict(
                {
                    "state": {i - offset: s for i, s in state_dict["state"].items() if offset <= i < offset + size},
                    "param_groups": [
                        {**group, "params": [i - offset for i in group["params"]]}
                        for group in groups[first : first + mine]
                    ],
                }
            )
            first, offset = first + mine, offset + size


def _count(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)


def build(options: OptimOptions, model: nn.Module, extra: Iterable[nn.Parameter] = ()) -> Optimizer | Composite:
    """The optimiser of the trained parameters of `model` and of `extra` (which AdamW always takes, without decay).

    With kind "muon", `hidden_matrices(model)` go to `torch.optim.Muon`, scaled so that AdamW's rate fits
    ("match_rms_adamw", Liu et al. 2025, arXiv 2502.16982), and the rest, convolutions included, to AdamW.
    The groups carry the names of their parameters. Raises ValueError if there is nothing to train.
    """
    import torch

    lr = peak_lr(options, model)
    others = {f"extra.{i}": parameter for i, parameter in enumerate(extra)}
    apart = {id(parameter) for parameter in others.values()}
    named = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in apart
    }
    if not named and not others:
        raise ValueError("the model has no parameter that requires a gradient: nothing to train")
    hidden = hidden_matrices(model) if options.kind == "muon" else {}
    hidden = {name: parameter for name, parameter in hidden.items() if name in named}
    embedded = _embedded(model)
    decayed = {
        name: parameter
        for name, parameter in named.items()
        if name not in hidden and parameter.ndim >= 2 and name.endswith("weight") and id(parameter) not in embedded
    }
    plain = {name: parameter for name, parameter in named.items() if name not in hidden and name not in decayed}
    groups = [
        {"params": list(members.items()), "weight_decay": weight_decay}
        for members, weight_decay in ((decayed, options.weight_decay), ({**plain, **others}, 0.0))
        if members
    ]
    optimizers: list[Optimizer] = []
    if hidden:
        optimizers.append(
            torch.optim.Muon(
                [{"params": list(hidden.items())}],
                lr=lr,
                weight_decay=options.weight_decay,
                momentum=options.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if groups:
        optimizers.append(_adamw(groups, lr=lr, betas=options.betas))
    return optimizers[0] if len(optimizers) == 1 else Composite(*optimizers)


def _adamw(groups: list[dict[str, Any]], **options: Any) -> Optimizer:
    import torch

    try:
        return torch.optim.AdamW([dict(group) for group in groups], fused=True, **options)
    except RuntimeError:  # torch knows for which devices and dtypes it has the fused kernel
        return torch.optim.AdamW(groups, foreach=True, **options)
