"""How much: weights on what is lost, by noise level and by number.

By noise level they are functions of log-SNR on the squared error of x (use them with ``loss_in="data"``), or learned. By
number they are one tensor or tree beside the data: padding is 0, a latitude its cosine, an importance its ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Weight = Callable[[Tensor], Tensor]
"""A loss weight by noise level: log-SNR (B,) or (B, L) -> weight of the same shape."""


def counted(shape: Sequence[int], t: Tensor, weight: Tensor | None = None) -> Tensor | None:
    """Which numbers of errors of this ``shape`` (B, ...) count: bool, broadcasting against them. None: all of them.

    A number counts unless its weight is 0 (padding) or, where numbers have times of their own, its t is 0 (it was given).

    Raises:
        ValueError: a weight that does not broadcast against the errors.
    """
    counts = None if t.ndim < 2 else _ahead(t, shape) > 0
    if weight is None:
        return counts
    fits = weight.ndim <= len(shape) and all(own in (1, size) for own, size in zip(weight.shape, shape))
    if not fits:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not fit errors of shape {tuple(shape)}")
    heavy = _ahead(weight, shape) != 0
    return heavy if counts is None else heavy & counts.to(heavy.device)


def kept(answer: Tensor, shape: Sequence[int], t: Tensor, weight: Tensor | None = None) -> Tensor:
    """The answer (B, ...) where errors of this ``shape``, its first axes, count; 0 elsewhere.

    A process begins its loss with it: then no gradient comes from what does not count, whatever was answered and whatever
    stands there, infinities too (0 times infinity would be no number). An answer of another shape passes as it is.
    """
    counts = counted(shape, t, weight)
    if counts is None or answer.shape[: len(shape)] != torch.Size(shape):
        return answer
    counts = counts.reshape(counts.shape + (1,) * (answer.ndim - len(shape)))
    return torch.where(counts.to(answer.device), answer, torch.zeros((), dtype=answer.dtype, device=answer.device))


def mean_counted(error: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of weight x error over the numbers that count (:func:`counted`), (B,), for errors (B, ...).

    The weights are not divided out: cosines should average 1, and a ratio p / q scales its whole row. A row in which
    nothing counts is 0.

    Args:
        error: (B, ...).
        t: () or (B,): one time a row; (B, L): one for each frame or token.
        weight: shaped like the first axes of error, which it broadcasts against: (B,), (B, L), (B, 1, H, W), ...

    Raises:
        ValueError: a weight that does not broadcast against the error.
    """
    counts = counted(error.shape, t, weight)
    if counts is None:
        return error.flatten(1).mean(1)
    if weight is not None:
        error = _ahead(weight, error.shape).to(error.device, error.dtype) * error
    counts = counts.to(error.device).expand(error.shape)
    total = torch.where(counts, error, torch.zeros((), dtype=error.dtype, device=error.device)).flatten(1).sum(1)
    return total / counts.flatten(1).sum(1).clamp_min(1)


def _ahead(value: Tensor, shape: Sequence[int]) -> Tensor:
    """A value whose axes are the first ones of ``shape``, with ones for the others."""
    return value.reshape(tuple(value.shape) + (1,) * (len(shape) - value.ndim))


# ---- by noise level --------------------------------------------------------------------------------------------------


def edm_weight(sigma_data: float = 1.0) -> Weight:
    """EDM (Karras 2022, table 1): (sigma^2 + sigma_data^2) / (sigma sigma_data)^2; at unit variance the loss in v."""
    return lambda logsnr: 1 / sigma_data**2 + logsnr.exp()


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) on x (Hang 2023, arXiv 2303.09556)."""
    return lambda logsnr: logsnr.exp().clamp_max(gamma)


def sigmoid_weight(bias: float = -1.0) -> Weight:
    """sigmoid(bias - logsnr) on the noise answer, hence times SNR on x (Kingma & Gao 2023, Hoogeboom 2024)."""
    return lambda logsnr: torch.exp(bias + torch.nn.functional.logsigmoid(logsnr - bias))


class LearnedUncertainty(nn.Module):
    """A weight that is learned: loss / exp(u) + u, u a small function of the noise level (EDM2, Karras 2024, eq. 14).

    At its optimum exp(u) is the mean loss at that level, so every level pulls on the network equally hard.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int = 64, longest: float = 40.0, shortest: float = 2.0):
        super().__init__()
        periods = longest * (shortest / longest) ** (torch.arange(features // 2) / (features // 2 - 1))
        self.register_buffer("frequencies", 2 * math.pi / periods.repeat(2))
        self.register_buffer("phases", torch.tensor([0.0, math.pi / 2]).repeat_interleave(features // 2))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, losses: Tensor, level: Tensor) -> Tensor:
        """Losses (B,) at noise levels ln(sigma / alpha) (B,) -> what to descend on, (B,)."""
        level = level.clamp(-12, 7).float()
        u = self.linear(torch.cos(level[:, None] * self.frequencies + self.phases))[:, 0]
        return losses * torch.exp(-u) + u
