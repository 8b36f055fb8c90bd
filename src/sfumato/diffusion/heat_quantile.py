r"""Quantile to quantile between the normal law and a heat kernel, and the kernel's score inverted.

A radius r is the length of a standard normal tangent vector; :func:`angle_of` maps it to the angle of the same quantile
of the kernel, which is how the kernel's own probability flow moves points. Found at the first use and kept in memory: a
small table of first guesses, and the place where each score is longest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from sfumato.diffusion.heat_kernel import SWITCH, TINY, WIDEST, Kernel

# ---- the length of a standard normal vector --------------------------------------------------------------------------


def _chi_log_pdf(n: int, r: Tensor) -> Tensor:
    constant: float = (1 - n / 2) * math.log(2) - math.lgamma(n / 2)
    return constant + (n - 1) * r.clamp_min(TINY).log() - r**2 / 2


def _chi_log_cdf(n: int, r: Tensor) -> Tensor:
    if n == 2:
        return (-torch.expm1(-(r**2) / 2)).clamp_min(TINY).log()
    # sum of r^(2 k + n) / (2 k + n)!! times e^{-r^2 / 2}: all terms positive
    small = r < 2
    square = torch.where(small, r, 0.0) ** 2
    series = torch.zeros_like(r)
    for k in range(28, -1, -1):
        series = (series * square + 1) / (2 * k + n)
    near = math.log(2 / math.pi) / 2 + n * r.clamp_min(TINY).log() - r**2 / 2 + series.log()
    return torch.where(small, near, torch.log1p(-_chi_log_survival(n, r.clamp_min(1)).exp()))


def _chi_log_survival(n: int, r: Tensor) -> Tensor:
    if n == 2:
        return -(r**2) / 2
    one: Tensor = math.log(2) + torch.special.log_ndtr(-r)
    if n == 1:
        return one
    two = _chi_log_pdf(3, r) - r.clamp_min(TINY).log()
    return torch.maximum(one, two) + torch.log1p((-(one - two).abs()).exp())


# ---- quantile to quantile --------------------------------------------------------------------------------------------

Rising = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""x, two parameters -> a rising function of x and its derivative; all 1-D."""


def _root(
    rising: Rising,
    guess: Tensor,
    low: Tensor,
    high: Tensor,
    p: Tensor,
    q: Tensor,
    rounds: int = 100,
    near_pi: bool = False,
) -> Tensor:
    """Where a rising function is 0: Newton's method, halving the bracket where that leaves it. Each element stops by
    itself, so the result does not depend on its neighbours in the batch. ``near_pi``: beyond pi / 2 the steps are in
    log(pi - x), where tails near pi are straight."""
    x, low, high, last = guess.clamp(low, high), low.clone(), high.clone(), high
    open_ = torch.arange(len(x), device=x.device)
    for _ in range(rounds):
        at = x[open_]
        value, slope = rising(at, p[open_], q[open_])
        low[open_] = torch.where(value <= 0, at, low[open_])
        high[open_] = torch.where(value >= 0, at, high[open_])
        middle, newton = (low[open_] + high[open_]) / 2, at - value / slope
        if near_pi:
            gap = math.pi - at
            bent = math.pi - gap * (value / (slope * gap)).clamp(-3, 3).exp()
            newton = torch.where(at > math.pi / 2, bent, newton)
        inside = (newton >= low[open_]) & (newton <= high[open_])
        new = torch.where(inside, newton, middle)
        x[open_] = new
        # a Newton step of 1e-8 lands within rounding of the root: its error is squared
        scale = torch.minimum(new, last[open_] - new).clamp_min(1e-300)
        open_ = open_[(new - at).abs() > torch.where(inside, 1e-8 * scale, 4e-16 * new)]
        if len(open_) == 0:
            break
    return x


_SMALLEST = 1e-6  # below this radius the map from radius to angle is a straight line, to all digits that matter


def angle_of(kernel: Kernel, r: Tensor, eps: Tensor, rounds: int = 100) -> Tensor:
    """The angle at the quantile of the radius r, same shape as r and eps; differentiable in r.

    ``rounds`` bounds Newton's steps: two are enough for float32.
    """
    shape, n = r.shape, kernel.degrees
    with torch.no_grad():
        radius, e = r.reshape(-1), eps.reshape(-1).clamp_max(WIDEST)
        held = radius.clamp_min(_SMALLEST)
        angle = _matched(kernel, held, e, _first_guess(kernel, held, e), rounds)
        slope = (_chi_log_pdf(n, held) - kernel.log_pdf(angle, e)).exp()
        slope = torch.where(radius < _SMALLEST, angle / held, slope)
        angle = angle * (radius / held)
    if not r.requires_grad:
        return angle.reshape(shape)
    return angle.reshape(shape) + slope.reshape(shape) * (r - r.detach())


def _matched(kernel: Kernel, r: Tensor, eps: Tensor, guess: Tensor, rounds: int = 100) -> Tensor:
    """The angle at the quantile of the radius, from a first guess; all (N,)."""
    angle, n = torch.empty_like(r), kernel.degrees
    for below, here in _groups(r < 1, eps):
        if bool(here.any()):
            rising = _below(kernel) if below else _above(kernel)
            wanted = (_chi_log_cdf if below else _chi_log_survival)(n, r[here])
            low = torch.zeros_like(wanted)
            angle[here] = _root(
                rising, guess[here], low, torch.full_like(low, math.pi), eps[here], wanted, rounds, not below
            )
    return angle


_RADII, _LARGEST = 129, 8.0
_DEVIATIONS, _NARROWEST = 97, 1e-3


@lru_cache(maxsize=8)
def _table(kernel: Kernel) -> Tensor:
    """log(angle / r) at even radii to 8 (down) and even log eps from 1e-3 (across), built at the first use."""
    r = torch.linspace(0, _LARGEST, _RADII, dtype=torch.float64).clamp_min(1e-4)
    eps = torch.linspace(math.log(_NARROWEST), math.log(WIDEST), _DEVIATIONS, dtype=torch.float64).exp()
    radius, deviation = (grid.flatten() for grid in torch.meshgrid(r, eps, indexing="ij"))
    wide = math.pi * (_chi_log_cdf(kernel.degrees, radius) / kernel.degrees).exp()
    straight = torch.minimum(deviation * radius, math.pi - 1e-3 * deviation)
    angle = _matched(kernel, radius, deviation, torch.where(deviation < 1, straight, wide))
    return (angle / radius).log().reshape(_RADII, _DEVIATIONS)


def _first_guess(kernel: Kernel, r: Tensor, eps: Tensor) -> Tensor:
    """The angle to about a part in 10^4, by a cubic through the 4 x 4 nearest entries of the table."""
    table, held = _table(kernel).to(r.device), eps.clamp(_NARROWEST, WIDEST)
    row, down = _cubic(r.clamp_max(_LARGEST) / _LARGEST * (_RADII - 1), _RADII)
    across = (held / _NARROWEST).log() / math.log(WIDEST / _NARROWEST) * (_DEVIATIONS - 1)
    column, sideways = _cubic(across, _DEVIATIONS)
    total = torch.zeros_like(r)
    for i in range(4):
        for j in range(4):
            total = total + down[i] * sideways[j] * table[row + i, column + j]
    return torch.minimum(total.exp() * r * (eps / held), math.pi - 1e-3 * eps)


def _cubic(u: Tensor, count: int) -> tuple[Tensor, list[Tensor]]:
    """The first of the four knots nearest to u, a place on a grid 0..count - 1, and their weights."""
    first = u.floor().long().sub(1).clamp(0, count - 4)
    a, b, c, d = (u - first - k for k in range(4))
    return first, [-b * c * d / 6, a * c * d / 2, -a * b * d / 2, a * b * c / 6]


def _groups(low: Tensor, eps: Tensor) -> Iterator[tuple[bool, Tensor]]:
    """Masks by side (low or not) and by form of the kernel, so that each element pays for one of each only."""
    for side in (True, False):
        for small in (True, False):
            yield side, (low == side) & ((eps < SWITCH) == small)


def _below(kernel: Kernel) -> Rising:
    def rising(a: Tensor, eps: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        log_cdf = kernel.log_cdf(a, eps)
        return log_cdf - wanted, (kernel.log_pdf(a, eps) - log_cdf).exp()

    return rising


def _above(kernel: Kernel) -> Rising:
    def rising(a: Tensor, eps: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        log_survival = kernel.log_survival(a, eps)
        return wanted - log_survival, (kernel.log_pdf(a, eps) - log_survival).exp()

    return rising


def radius_of(kernel: Kernel, angle: Tensor, eps: Tensor) -> Tensor:
    """Inverse of :func:`angle_of`; differentiable in the angle."""
    shape, n = angle.shape, kernel.degrees
    with torch.no_grad():
        a, e = angle.reshape(-1), eps.reshape(-1).clamp_max(WIDEST)
        least = _SMALLEST * e.clamp_max(1.0)
        held = a.clamp_min(least)
        radius = torch.empty_like(held)
        for below, here in _groups(held < e.clamp_max(1.2), e):
            if bool(here.any()):
                wanted = (kernel.log_cdf if below else kernel.log_survival)(held[here], e[here])
                low, high = torch.zeros_like(wanted), 60 + 2 * held[here] / e[here]
                guess = held[here] / e[here].clamp_max(1.0)

                def rising(r: Tensor, wanted: Tensor, _: Tensor, below: bool = below) -> tuple[Tensor, Tensor]:
                    value = (_chi_log_cdf if below else _chi_log_survival)(n, r)
                    gap = value - wanted if below else wanted - value
                    return gap, (_chi_log_pdf(n, r) - value).exp()

                radius[here] = _root(rising, guess, low, high, wanted, wanted)
        slope = (kernel.log_pdf(held, e) - _chi_log_pdf(n, radius)).exp()
        slope = torch.where(a < least, radius / held, slope)
        radius = radius * (a / held)
    if not angle.requires_grad:
        return radius.reshape(shape)
    return radius.reshape(shape) + slope.reshape(shape) * (angle - angle.detach())


# ---- the score, inverted ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _branch(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Knots in log eps, and log(pi - angle) where the score is longest: found once, by golden section."""
    log_eps = torch.linspace(math.log(1e-4), math.log(WIDEST), 240, dtype=torch.float64)
    eps = log_eps.exp()
    # in the logarithm of the distance from pi, where the place of the maximum is a smooth function
    low, high = torch.full_like(eps, math.log(1e-9)), torch.full_like(eps, math.log(math.pi - 1e-3))
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(45):
        one, two = high - golden * (high - low), low + golden * (high - low)
        better = kernel.score(math.pi - one.exp(), eps) < kernel.score(math.pi - two.exp(), eps)
        high, low = torch.where(better, two, high), torch.where(better, low, one)
    return log_eps, (low + high) / 2


def branch_end(kernel: Kernel, eps: Tensor) -> Tensor:
    """The angle (a little below the one) where the score is longest: up to it, the score tells the angle."""
    log_eps, log_gap = (part.to(eps.device) for part in _branch(kernel))
    place = (eps.log().clamp(log_eps[0], log_eps[-1]) - log_eps[0]) / (log_eps[1] - log_eps[0])
    left = place.floor().long().clamp(0, len(log_eps) - 2)
    gap = torch.lerp(log_gap[left], log_gap[left + 1], place - left).exp()
    return (math.pi - gap) * (1 - 1e-3)


def angle_of_score(kernel: Kernel, length: Tensor, eps: Tensor) -> Tensor:
    """The angle on the near branch whose score has this length; longer ones are held at the branch's end.

    Differentiable in the length (the gradient is 0 where it is held).
    """
    shape = length.shape
    with torch.no_grad():
        wanted, e = length.reshape(-1), eps.reshape(-1).clamp_max(WIDEST)
        end = branch_end(kernel, e)
        inside = wanted < -kernel.score(end, e)
        guess = torch.minimum(wanted * e**2, end / 2)

        def rising(a: Tensor, eps: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
            step = (1e-4 * torch.minimum(a, eps)).clamp_min(1e-12)
            up, down = kernel.score(a + step, eps), kernel.score((a - step).clamp_min(0), eps)
            return -kernel.score(a, eps) - wanted, (down - up) / (2 * step)

        angle = end.clone()
        for small in (True, False):
            here = inside & ((e < SWITCH) == small)
            angle[here] = _root(rising, guess[here], torch.zeros_like(end[here]), end[here], e[here], wanted[here])
    if not length.requires_grad:
        return angle.reshape(shape)
    with torch.enable_grad():
        at = angle.detach().clamp_min(1e-9).requires_grad_()
        (curvature,) = torch.autograd.grad(-kernel.score(at, e.detach()).sum(), at)
    slope = torch.where(inside, 1 / curvature, 0.0)
    return angle.reshape(shape) + slope.reshape(shape) * (length - length.detach())
