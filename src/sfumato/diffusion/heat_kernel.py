r"""Heat kernels of the circle, of rotations and of the sphere as functions of the angle a in [0, pi] and of the deviation eps.

They are the laws of Brownian motion after time eps^2: normal with deviation eps per tangent coordinate while eps is
small, uniform when it is large. Densities are relative to the uniform law. Two forms, each exact where it is used:

    eps > 0.7   a sum over the eigenfunctions: f = sum_m c_m cos(m a)
    eps < 0.7   a sum over the images of the angle, a + 2 pi k (Poisson's formula); three of them carry all digits

    circle      c_m = 2 e^{-m^2 eps^2 / 2}                       (the wrapped normal)
    rotations   sum_l (2 l + 1) e^{-l (l + 1) eps^2 / 2} sin((l + 1/2) a) / sin(a / 2)       (IGSO(3), Nikolayev 1997)
    sphere      the rotations' kernel averaged over the turns that leave a direction alone (Hopf's fibres):
                f(a) = (2 / pi) int_0^{pi/2} f_rotations(phi) db,    cos(phi / 2) = cos(a / 2) cos(b)

Everything is float64 and works with logarithms, so it holds 300 deviations away from the centre too. Nothing is
stored but quadrature nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sfumato.diffusion.manifold import angle_of_sides
from sfumato.diffusion.quadrature import gauss_legendre

SWITCH = 0.7
"""Deviation at which the two forms meet."""
_MODES = 16
TINY = 1e-300
WIDEST = 12.0
"""Deviations above this one are the uniform law to all digits."""


class Kernel(Protocol):
    """A heat kernel: all take angle (...) in [0, pi] and eps (...) of the same shape, float64."""

    def __hash__(self) -> int:
        """Kernels are keys of the cache of score branches."""

    @property
    def degrees(self) -> int:
        """Number of tangent coordinates that one angle stands for."""

    def log_density(self, a: Tensor, eps: Tensor) -> Tensor:
        """Logarithm of the density relative to the uniform law."""

    def score(self, a: Tensor, eps: Tensor) -> Tensor:
        """Its derivative in the angle: 0 at 0, negative, 0 at pi."""

    def log_pdf(self, a: Tensor, eps: Tensor) -> Tensor:
        """Log-density of the angle itself on [0, pi]."""

    def log_cdf(self, a: Tensor, eps: Tensor) -> Tensor:
        """Log of the probability of an angle below a; exact up to a few eps."""

    def log_survival(self, a: Tensor, eps: Tensor) -> Tensor:
        """Log of the probability of an angle above a."""


def _total(x: Tensor) -> Tensor:
    """Sum over the last axis, in an order that does not depend on the batch (torch's does, in the last digit)."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = torch.cat([x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]], -1)
    return x[..., 0]


def _log_total_exp(x: Tensor) -> Tensor:
    most = x.amax(-1, keepdim=True).detach()
    return _total((x - most).exp()).log() + most[..., 0]


def _log_integral(log_f: Callable[[Tensor, Tensor], Tensor], low: Tensor, high: Tensor, eps: Tensor, n: int) -> Tensor:
    place, weight = (part.to(low.device) for part in gauss_legendre(n))
    at = low[..., None] + (high - low)[..., None] * place
    return _log_total_exp(log_f(at, eps[..., None].expand_as(at)) + weight.log()) + (high - low).log()


def _far(a: Tensor, eps: Tensor) -> Tensor:
    """The angle beyond which a kernel has fallen by e^-45 of what it is at a."""
    return (a**2 + 90 * eps**2).sqrt().clamp_max(math.pi)


def _images(a: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """exp of (a^2 - (2 pi -+ a)^2) / (2 eps^2): the two next images relative to the one at a."""
    return (-2 * math.pi * (math.pi - a) / eps**2).exp(), (-2 * math.pi * (math.pi + a) / eps**2).exp()


def _folded(a: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The angle b = a or pi - a below pi / 2, and the signs (..., m) with which cos(m a) is cos(m b) and sin(m a) is
    sin(m b): so sines have all their digits near pi too."""
    far = (a > math.pi / 2)[..., None]
    sign = torch.where(far & (m % 2 == 1), -1.0, 1.0)
    return torch.where(far, math.pi - a[..., None], a[..., None]), sign, sign * torch.where(far, -1.0, 1.0)


def _log_sum(coefficients: Tensor, a: Tensor) -> Tensor:
    """log of sum_m c_m cos(m a), coefficients (..., m) from m = 0."""
    m = torch.arange(coefficients.shape[-1], dtype=a.dtype, device=a.device)
    near, sign, _ = _folded(a, m)
    return _total(coefficients * sign * (m * near).cos()).clamp_min(TINY).log()


def _slope_of_log_sum(coefficients: Tensor, a: Tensor) -> Tensor:
    """Derivative of :func:`_log_sum` in the angle."""
    m = torch.arange(coefficients.shape[-1], dtype=a.dtype, device=a.device)
    near, sign, turned = _folded(a, m)
    f = _total(coefficients * sign * (m * near).cos()).clamp_min(TINY)
    return -_total(m * coefficients * turned * (m * near).sin()) / f


def _either(eps: Tensor, narrow: Callable[[Tensor], Tensor], wide: Callable[[Tensor], Tensor]) -> Tensor:
    """The sum over images where eps is small, over eigenfunctions where it is large; both only if both occur."""
    small = eps < SWITCH
    if bool(small.all()):
        return narrow(eps)
    if not bool(small.any()):
        return wide(eps.clamp_max(WIDEST))
    return torch.where(small, narrow(eps.clamp_max(SWITCH)), wide(eps.clamp(SWITCH, WIDEST)))


class _Base:
    """What the kernels share: tails by quadrature of a positive function, hence to all digits."""

    degrees: int

    def log_pdf(self, a: Tensor, eps: Tensor) -> Tensor:
        raise NotImplementedError

    def log_cdf(self, a: Tensor, eps: Tensor) -> Tensor:
        return _log_integral(self.log_pdf, torch.zeros_like(a), torch.minimum(a, 12 * eps), eps, 24)

    def log_survival(self, a: Tensor, eps: Tensor) -> Tensor:
        a = a.clamp_max(math.pi * (1 - 1e-15))
        return _log_integral(self.log_pdf, a, _far(a, eps), eps, 32)


class Circle(_Base):
    """The wrapped normal of one angle, folded to [0, pi]."""

    degrees = 1

    def _coefficients(self, eps: Tensor) -> Tensor:
        m = torch.arange(_MODES, dtype=eps.dtype, device=eps.device)
        return torch.where(m == 0, 1.0, 2.0) * (-(m**2) * eps[..., None] ** 2 / 2).exp()

    def log_density(self, a: Tensor, eps: Tensor) -> Tensor:
        def narrow(e: Tensor) -> Tensor:
            left, right = _images(a, e)
            return math.log(2 * math.pi) / 2 - e.log() - (a / e) ** 2 / 2 + torch.log1p(left + right)

        return _either(eps, narrow, lambda e: _log_sum(self._coefficients(e), a))

    def score(self, a: Tensor, eps: Tensor) -> Tensor:
        def narrow(e: Tensor) -> Tensor:
            left, right = _images(a, e)
            return -a / e**2 + 2 * math.pi / e**2 * (left - right) / (1 + left + right)

        return _either(eps, narrow, lambda e: _slope_of_log_sum(self._coefficients(e), a))

    def log_pdf(self, a: Tensor, eps: Tensor) -> Tensor:
        return self.log_density(a, eps) - math.log(math.pi)


class Rotations(_Base):
    """IGSO(3): the angle of a rotation after Brownian motion."""

    degrees = 3

    def _coefficients(self, eps: Tensor) -> Tensor:
        # sin((l + 1/2) a) / sin(a / 2) = 1 + 2 sum_{m <= l} cos(m a), so nothing is divided by a small sine
        l = torch.arange(_MODES, dtype=eps.dtype, device=eps.device)
        q = (2 * l + 1) * (-l * (l + 1) * eps[..., None] ** 2 / 2).exp()
        return torch.where(l == 0, 1.0, 2.0) * q.flip(-1).cumsum(-1).flip(-1)

    def _odd(self, a: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        a = a.clamp_min(1e-5)  # what the images add is divided by a, and is an odd function of it
        left, right = _images(a, eps)
        return a, (2 * math.pi - a) * left - (2 * math.pi + a) * right

    def log_density(self, a: Tensor, eps: Tensor) -> Tensor:
        def narrow(e: Tensor) -> Tensor:
            b, odd = self._odd(a, e)
            start = e**2 / 8 + math.log(2 * math.pi) / 2 - 3 * e.log() - (a / e) ** 2 / 2
            return start + torch.log1p(odd / b) - _log_half_sine(a)

        return _either(eps, narrow, lambda e: _log_sum(self._coefficients(e), a))

    def score(self, a: Tensor, eps: Tensor) -> Tensor:
        def narrow(e: Tensor) -> Tensor:
            b, odd = self._odd(a, e)
            left, right = _images(b, e)
            rate = 2 * math.pi / e**2 * ((2 * math.pi - b) * left + (2 * math.pi + b) * right) - left - right
            return -a / e**2 + _half_cotangent(a) + (rate - odd / b) / (b + odd) * (a / b)

        return _either(eps, narrow, lambda e: _slope_of_log_sum(self._coefficients(e), a))

    def log_pdf(self, a: Tensor, eps: Tensor) -> Tensor:
        return self.log_density(a, eps) + 2 * (a / 2).sin().clamp_min(TINY).log() + math.log(2 / math.pi)

    def log_theta(self, a: Tensor, eps: Tensor) -> Tensor:
        """log of 2 sum_l e^{-l (l + 1) eps^2 / 2} cos((l + 1/2) a), whose derivative is -f sin(a / 2)."""

        def narrow(e: Tensor) -> Tensor:
            _, right = _images(a, e)
            rest = (-torch.expm1(-2 * math.pi * (math.pi - a) / e**2) - right).clamp_min(TINY)
            return e**2 / 8 + math.log(2 * math.pi) / 2 - e.log() - (a / e) ** 2 / 2 + rest.log()

        def wide(e: Tensor) -> Tensor:
            l = torch.arange(_MODES, dtype=a.dtype, device=a.device)
            q = (-l * (l + 1) * e[..., None] ** 2 / 2).exp()
            far = (a > math.pi / 2)[..., None]  # there cos((l + 1/2) a) is a sine of what is left to pi
            sign = torch.where(l % 2 == 1, -1.0, 1.0)
            half = (l + 0.5) * torch.where(far, math.pi - a[..., None], a[..., None])
            return (2 * _total(q * torch.where(far, sign * half.sin(), half.cos()))).clamp_min(TINY).log()

        return _either(eps, narrow, wide)


# |B_2k| / (2k)! (Bernoulli numbers): the series of 1/a - cot(a/2)/2 in a^(2k - 1)
_COTANGENT = (1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000, 1 / 74724249600)


def _log_half_sine(a: Tensor) -> Tensor:
    """log(sin(a / 2) / a), whose derivative is right near 0 too."""
    small = a < 0.4
    b, square = torch.where(small, torch.ones_like(a), a), a * a
    series = torch.zeros_like(a)
    for k in range(len(_COTANGENT), 0, -1):
        series = (series + _COTANGENT[k - 1] / (2 * k)) * square
    return torch.where(small, -math.log(2) - series, ((b / 2).sin() / b).log())


def _half_cotangent(a: Tensor) -> Tensor:
    """1 / a - cot(a / 2) / 2, the derivative of -log(sin(a / 2) / a), without cancellation near 0."""
    small = a < 0.4
    b = torch.where(small, torch.ones_like(a), a)
    series = torch.zeros_like(a)
    for c in reversed(_COTANGENT):
        series = series * a * a + c
    return torch.where(small, series * a, 1 / b - 0.5 / (b / 2).tan())


class Directions(_Base):
    """The sphere in three dimensions: the angle from its pole after Brownian motion."""

    degrees = 2

    def _fibre(self, a: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quadrature over the fibre: phi, d phi / d a, cos(phi / 2) and the log-weight, all (..., nodes)."""
        place, weight = (part.to(a.device) for part in gauss_legendre(32))
        a = a.clamp_max(math.pi * (1 - 1e-15))
        end = _far(a, eps)
        rise = (((end - a) / 2).sin() * ((end + a) / 2).sin()).clamp_min(0).sqrt()
        last = torch.where(end < math.pi, angle_of_sides(rise, (end / 2).cos()), math.pi / 2).detach()
        b = last[..., None] * place
        sine, cosine = (a / 2).sin()[..., None], (a / 2).cos()[..., None]
        opposite, adjacent = (sine**2 + (cosine * b.sin()) ** 2).sqrt(), cosine * b.cos()
        log_weight = weight.log() + (2 / math.pi * last).clamp_min(TINY).log()[..., None]
        return 2 * angle_of_sides(opposite, adjacent), sine * b.cos() / opposite, adjacent, log_weight

    def log_density(self, a: Tensor, eps: Tensor) -> Tensor:
        phi, _, _, log_weight = self._fibre(a, eps)
        return _log_total_exp(ROTATIONS.log_density(phi, eps[..., None].expand_as(phi)) + log_weight)

    def score(self, a: Tensor, eps: Tensor) -> Tensor:
        phi, rate, _, log_weight = self._fibre(a, eps)
        eps = eps[..., None].expand_as(phi)
        log_share = ROTATIONS.log_density(phi, eps) + log_weight
        share = (log_share - log_share.amax(-1, keepdim=True).detach()).exp()
        return _total(share * ROTATIONS.score(phi, eps) * rate) / _total(share)

    def log_pdf(self, a: Tensor, eps: Tensor) -> Tensor:
        return self.log_density(a, eps) + a.sin().clamp_min(TINY).log() - math.log(2)

    def log_survival(self, a: Tensor, eps: Tensor) -> Tensor:
        # integrating by parts leaves one integral, of a positive function
        phi, _, cosine, log_weight = self._fibre(a, eps)
        theta = ROTATIONS.log_theta(phi, eps[..., None].expand_as(phi))
        return _log_total_exp(theta + cosine.clamp_min(TINY).log() + log_weight)

    def log_cdf(self, a: Tensor, eps: Tensor) -> Tensor:
        return _log_integral(self.log_pdf, torch.zeros_like(a), torch.minimum(a, 12 * eps), eps, 12)


CIRCLE, ROTATIONS, DIRECTIONS = Circle(), Rotations(), Directions()
