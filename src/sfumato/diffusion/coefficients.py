"""Coefficients: the few numbers that depend on time alone, and how they multiply states.

A walk asks for the same handful of numbers for every batch, each worth a dozen operations on tensors of one element,
which together cost as much as a small network. So where a time is a single number on the CPU, as in sampling, they are
worked out once, in float64, and remembered as Python numbers, which also never wait for a GPU. Times of their own for
each sample or token, as in training, are tensors all the way; where those are known beforehand, as in a server that walks
rows of many grids together, whoever made the tensor may have worked its coefficients out already (:data:`LOOKUP`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache, wraps
from typing import Any, overload

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

LOOKUP = "_lookup"
"""An attribute of a tensor of times: ``lookup(rule, owner, times)`` gives what ``rule(owner, *times)`` does, or None where it
does not know. What is computed from the tensor does not bear it."""

Coefficient = float | Tensor
"""One number, or a tensor () for all, (B,) per sample, (B, L) per token."""


def floating(x: Tensor) -> Tensor:
    """x itself. Raises TypeError for whole numbers, in whose type a coefficient or a small step would be 0 or 1."""
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(f"data and noise of this process are floating-point numbers, got {x.dtype}: convert them")
    return x


def numbers(of: Any) -> None:
    """Complain of a dataclass one of whose numbers, or of those of the dataclasses in it, is none: compared with NaN everything
    is False, so it would be ignored without a word. Raises ValueError, which names it."""
    for field in fields(of) if is_dataclass(of) else ():
        value = getattr(of, field.name)
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{field.name} = nan: must be a number")
        for inner in value.values() if isinstance(value, Mapping) else (value,):
            numbers(inner)


@overload
def along(value: Tensor, x: Tensor) -> Tensor: ...
@overload
def along(value: Coefficient, x: Tensor) -> Coefficient: ...
def along(value: Coefficient, x: Tensor) -> Coefficient:
    """Shape a per-sample (B,), per-token (B, L) or single coefficient so that it multiplies x of shape (B, L, ...).

    Raises:
        TypeError: an x of whole numbers, in whose type the coefficient would be 0 or 1.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:  # one number broadcasts by itself
        return value
    floating(x)
    return value.to(x.dtype).reshape(value.shape + (1,) * (x.ndim - value.ndim))


def blend(a: Coefficient, x: Tensor, *more: Coefficient | Tensor) -> Tensor:
    """a x + b y + ..., from a, x, b, y, ...: the sum is made in place, which no gradient minds."""
    total = along(a, x) * x
    for b, y in zip(more[::2], more[1::2], strict=True):
        assert isinstance(y, Tensor)
        if not isinstance(b, Tensor) and (total.dtype, total.shape) == (y.dtype, y.shape):
            total.add_(y, alpha=b)
        else:
            total = total + along(b, y) * y
    return total


def plain(t: Any) -> bool:
    """Whether a time is a single number on the CPU through which nothing is differentiated."""
    return (
        isinstance(t, Tensor)
        and t.ndim == 0
        and t.device.type == "cpu"
        and not t.requires_grad
        and forward_ad.unpack_dual(t).tangent is None
    )


def remembered(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate ``rule(owner, *times)``, which gives coefficients as a tuple of tensors shaped like the times.

    Of single times it gives numbers, remembered for the 10,000 last used. The owner must be hashable: a frozen dataclass
    (schedule, process, solver) or a tuple of them. Of times with a :data:`LOOKUP` it gives what that says.
    """

    @lru_cache(maxsize=10_000)
    def numbers(owner: Any, *times: float) -> tuple[float, ...]:
        found = rule(owner, *(torch.tensor(t, dtype=torch.float64) for t in times))
        return tuple(value.item() for value in found)

    @wraps(rule)
    def coefficients(owner: Any, *times: Tensor) -> tuple[Coefficient, ...]:
        if all(map(plain, times)):
            return numbers(owner, *(t.item() for t in times))
        lookup = getattr(times[0], LOOKUP, None)
        found: tuple[Coefficient, ...] | None = None if lookup is None else lookup(rule, owner, times)
        return rule(owner, *times) if found is None else found

    return coefficients
