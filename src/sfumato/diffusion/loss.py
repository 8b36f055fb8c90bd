"""Training in one function, for every process, schedule and answer. Its three free choices are pages of their own: which
times (``times.py``: when), which weights (``weights.py``: how much), which pairs (``couplings.py``: with what)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.tree import Tree


def loss(
    denoiser: Denoiser, x: Tree, t: Tree, rng: Rng = None, z: Tree = None, weight: Tree = None, *, given: Tree = None,
    **condition: Any,
) -> Tensor:  # fmt: skip
    """How wrong the denoiser is about x (B, ...) at times t (B,) or (B, L): the loss per sample, (B,).

    With ``z`` the noise is given (a coupling chose it), otherwise drawn. ``weight`` says what counts and how much
    (:func:`~sfumato.diffusion.weights.mean_counted`), ``given`` is what ``denoiser.given`` made of the conditions. Flow
    matching (Lipman 2023) is this function with the straight schedule and the answer velocity: x_t = (1 - t) x + t z
    against z - x.
    """
    process = denoiser.process
    z = process.prior(x, rng) if z is None else z
    x_t = process.interpolate(x, z, t)
    answer = denoiser.answer(x_t, t, given=given, **condition)
    return process.loss(answer, x, z, t, weight)
