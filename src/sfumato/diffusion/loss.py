"""Training in one function, for every process, schedule and answer. Its three free choices are pages of their own: which
times (``times.py``: when), which weights (``weights.py``: how much), which pairs (``couplings.py``: with what)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.tree import Tree, own, rows


def loss(
    denoiser: Denoiser, x: Tree, t: Tree, rng: Rng = None, z: Tree = None, weight: Tree = None, *, given: Tree = None,
    **condition: Any,
) -> Tensor:  # fmt: skip
    """How wrong the denoiser is about x (B, ...) at times t (B,) or (B, L): the loss per sample, (B,).

    With ``z`` the noise is given (a coupling chose it), otherwise drawn. ``weight`` says what counts and how much
    (:func:`~sfumato.diffusion.weights.mean_counted`), ``given`` is what ``denoiser.given`` made of the conditions. Flow
    matching (Lipman 2023) is this function with the straight schedule and the answer velocity: x_t = (1 - t) x + t z
    against z - x.

    Raises:
        TypeError: times that are no tensor. ValueError: an empty batch; times outside 0..1 or for another number of rows.
    """
    process = denoiser.process
    check_batch(x, t)
    z = process.prior(x, rng) if z is None else z
    x_t = process.interpolate(x, z, t)
    answer = denoiser.answer(x_t, t, given=given, **condition)
    return process.loss(answer, x, z, t, weight)


def check_batch(x: Tree, t: Tree, part: str = "") -> None:
    """Complain unless t are times for the rows of x: a tensor () for all, (B,) or (B, L, ...), of numbers from 0 to 1, or for
    products a dict of them. Numbers on an accelerator are not looked at, which would wait for it.

    Raises:
        TypeError, ValueError: what is wrong with them.
    """
    if isinstance(t, Mapping):
        for name in t:
            if t[name] is not None and isinstance(x, Mapping) and name in x:
                check_batch(x[name], own(t, name), f" of part {name!r}")
        return
    if not isinstance(t, Tensor) or not t.is_floating_point():
        kind = str(t.dtype) if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(
            f"times{part} must be a tensor of floats, one a row or one for all, got {kind}: use torch.full((len(x),), 0.5)"
        )
    count = rows(x)
    if count == 0:
        raise ValueError("an empty batch has no loss: give at least one row")
    if t.ndim and len(t) not in (1, count):
        raise ValueError(
            f"times{part} of shape {tuple(t.shape)} for {count} row(s): there must be one a row, or one for all"
        )
    if t.device.type != "cpu" or not t.numel():
        return
    try:
        low, high = float(t.detach().min()), float(t.detach().max())
    except RuntimeError:  # inside torch.func.vmap there are no numbers to look at
        return
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the times{part} go from {low:g} to {high:g}: they must lie between 0 and 1")
