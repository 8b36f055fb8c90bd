"""Guidance: functions from denoiser to denoiser. They compose, and no solver knows of them.

Guesses of the endpoints are affine in each other, so mixing them mixes answers of any kind alike: the same strength w
means the same for data, noise, v, velocity and score. Every process mixes in its own way (``Process.mix``): Gaussian
guesses in a straight line, tokens in log-probabilities, points of a manifold in the tangent space of x_t, products part
by part.

What depends on the conditions alone is worked out once a walk (``Guess.given``): guidance keeps both sides of it, the
conditions and their hidden twins, hidden *before* anything is made of them, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import numbers
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.tree import Tree, each, hide, own


class Wrapped:
    """A denoiser around another: shares its process, and is given what that is given."""

    base: Guess

    def __post_init__(self) -> None:
        numbers(self)

    @property
    def process(self) -> Any:
        """The process of the denoiser inside."""
        return self.base.process

    def given(self, **condition: Tree) -> Tree:
        """What the denoiser inside makes of the conditions."""
        return self.base.given(**condition)


def both_sides(
    base: Guess, condition: dict[str, Tree], drop: Sequence[str] | None, weak: Guess | None = None,
    instead: Mapping[str, Tree] | None = None,
) -> Tree:  # fmt: skip
    """{"strong": what the base makes of the conditions, "weak": what it (or ``weak``) makes of them once hidden, or once
    replaced by those of ``instead``}."""
    hidden = {**hide(condition, drop), **(instead or {})}
    return {"strong": base.given(**condition), "weak": (weak or base).given(**hidden)}


@dataclass(frozen=True)
class Guide(Wrapped):
    """See :func:`guide`."""

    base: Guess
    w: float | Tensor
    drop: tuple[str, ...] | None = None
    instead: Mapping[str, Tree] | None = None

    def given(self, **condition: Tree) -> Tree:
        """Both sides: {"strong": ..., "weak": ...}."""
        return both_sides(self.base, condition, self.drop, instead=self.instead)

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any
    ) -> Endpoints:
        def strong() -> Endpoints:
            return (
                self.base(x_t, t, s, given=given["strong"], **condition) if given else self.base(x_t, t, s, **condition)
            )

        def weak() -> Endpoints:
            if given:
                return self.base(x_t, t, s, given=given["weak"], **condition)
            return self.base(x_t, t, s, **{**hide(condition, self.drop), **(self.instead or {})})

        if isinstance(self.w, (int, float)) and self.w in (0, 1):  # one call is enough
            return strong() if self.w == 1 else weak()
        without, mixed = weak(), strong()
        return self.process.mix(without, mixed, self.w, x_t, t)


def guide(
    denoiser: Guess, w: float | Tensor, drop: Sequence[str] | None = None, instead: Mapping[str, Tree] | None = None
) -> Guide:
    """Classifier-free guidance (Ho & Salimans 2022): unconditional at w = 0, conditional at 1, guided beyond.

    Args:
        denoiser: trained with conditions dropped now and then, as :func:`~sfumato.diffusion.tree.hide` says.
        w: strength, one number or one per sample (B,).
        drop: names of the conditions to guide by (default: all).
        instead: name -> conditions (B, ...) that the weak side is given for hidden ones, what the samples are led away from
            (negative prompts).
    """
    return Guide(denoiser, w, None if drop is None else tuple(drop), instead)


@dataclass(frozen=True)
class Autoguide(Wrapped):
    """See :func:`autoguide`."""

    base: Guess
    weak: Guess
    w: float | Tensor

    def given(self, **condition: Tree) -> Tree:
        """Both sides, each by its own denoiser: {"strong": ..., "weak": ...}."""
        return both_sides(self.base, condition, (), self.weak)

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any
    ) -> Endpoints:
        if given:
            weak = self.weak(x_t, t, s, given=given["weak"], **condition)
            strong = self.base(x_t, t, s, given=given["strong"], **condition)
        else:
            weak, strong = self.weak(x_t, t, s, **condition), self.base(x_t, t, s, **condition)
        return self.process.mix(weak, strong, self.w, x_t, t)


def autoguide(good: Guess, bad: Guess, w: float | Tensor) -> Autoguide:
    """Guide a denoiser by a worse one of itself: smaller, less trained, an early average (Karras 2024, arXiv 2406.02507)."""
    return Autoguide(good, bad, w)


@dataclass(frozen=True)
class During(Wrapped):
    """See :func:`during`."""

    guided: Any
    low: float
    high: float

    @property
    def base(self) -> Guess:  # type: ignore[override]
        return self.guided.base

    def given(self, **condition: Tree) -> Tree:
        """Both sides, as the guidance has them."""
        return self.guided.given(**condition)

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any
    ) -> Endpoints:
        def plainly() -> Endpoints:
            return (
                self.base(x_t, t, s, given=given["strong"], **condition) if given else self.base(x_t, t, s, **condition)
            )

        def guided() -> Endpoints:
            return self.guided(x_t, t, s, given=given, **condition) if given else self.guided(x_t, t, s, **condition)

        inside = each(lambda u: (u >= self.low) & (u <= self.high), t)
        if isinstance(inside, Tensor) and inside.ndim == 0:  # one time for all, known on the CPU: no call is wasted
            return guided() if inside else plainly()
        yes, no = guided(), plainly()
        return Endpoints(_pick(inside, yes.x, no.x), _pick(inside, yes.z, no.z))


def _pick(inside: Tree, yes: Tree, no: Tree) -> Tree:
    """``yes`` where inside, else ``no``: by row, by frame or token, or by part (a part that stays clean has one guess)."""
    if yes is no:
        return yes
    if isinstance(yes, Mapping):
        return {
            name: value if (here := own(inside, name)) is None else _pick(here, value, no[name])
            for name, value in yes.items()
        }
    return torch.where(inside.to(yes.device).reshape(inside.shape + (1,) * (yes.ndim - inside.ndim)), yes, no)


def during(guided: Guide | Autoguide | APG, low: float, high: float) -> During:
    """Guide only while low <= t <= high (Kynkaanniemi 2024, arXiv 2404.07724), and plainly outside.

    Raises:
        ValueError: no interval within 0..1; what is no guidance itself (wrap outside: ``clip(during(...), -1, 1)``).
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"during needs 0 <= low <= high <= 1, got {low} and {high}")
    if not isinstance(guided, (Guide, Autoguide, APG)):
        raise ValueError(
            f"during limits a guidance, not {type(guided).__name__}: wrap it outside, as in clip(during(...))"
        )
    return During(guided, low, high)


@dataclass(frozen=True)
class APG(Wrapped):
    """See :func:`apg`."""

    base: Guess
    w: float
    parallel: float
    limit: float | None
    drop: tuple[str, ...] | None = None
    instead: Mapping[str, Tree] | None = None

    def given(self, **condition: Tree) -> Tree:
        """Both sides: {"strong": ..., "weak": ...}."""
        return both_sides(self.base, condition, self.drop, instead=self.instead)

    def __call__(
        self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any
    ) -> Endpoints:
        if given:
            strong, weak = (self.base(x_t, t, s, given=given[side], **condition).x for side in ("strong", "weak"))
        else:
            hidden = {**hide(condition, self.drop), **(self.instead or {})}
            strong, weak = self.base(x_t, t, s, **condition).x, self.base(x_t, t, s, **hidden).x
        push = strong - weak
        if self.limit is not None:
            push = push * (self.limit / _norm(push)).clamp_max(1.0)
        along_data = strong / _norm(strong)
        shared = (push * along_data).flatten(1).sum(1).reshape(-1, *[1] * (push.ndim - 1)) * along_data
        x = strong + (self.w - 1) * (push - (1 - self.parallel) * shared)
        return Endpoints(x, self.process.noise_given(x, x_t, t))


def _vectors(denoiser: Guess, who: str) -> Guess:
    """The denoiser, found to guess vectors, whose noise follows from their data."""
    if denoiser.process.states != "vectors":
        process = denoiser.process
        raise ValueError(f"{who} works on vectors, and the states of {type(process).__name__} are {process.states}")
    return denoiser


def _norm(x: Tensor) -> Tensor:
    size = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return size.reshape(-1, *[1] * (x.ndim - 1))


def apg(
    denoiser: Guess, w: float, parallel: float = 0.0, limit: float | None = None, drop: Sequence[str] | None = None,
    instead: Mapping[str, Tree] | None = None,
) -> APG:  # fmt: skip
    """Adaptive projected guidance (Sadat 2024, arXiv 2410.02416), without its momentum, which would be hidden state.

    The part of the push that is parallel to the guessed data over-saturates pictures; only ``parallel`` of it is kept.
    ``limit`` bounds the norm of the push. parallel = 1 without a limit is :func:`guide`, whose drop and instead these are.

    Raises:
        ValueError: a denoiser of other states than vectors.
    """
    return APG(_vectors(denoiser, "apg"), w, parallel, limit, None if drop is None else tuple(drop), instead)


@dataclass(frozen=True)
class Clip(Wrapped):
    """See :func:`clip`."""

    base: Guess
    low: float
    high: float

    def __call__(self, x_t: Tree, t: Tree, s: Tree | None = None, **condition: Any) -> Endpoints:
        x = self.base(x_t, t, s, **condition).x.clamp(self.low, self.high)
        return Endpoints(x, self.process.noise_given(x, x_t, t))


def clip(denoiser: Guess, low: float, high: float) -> Clip:
    """Hold the guessed data within known bounds; the guessed noise follows, so that x_t stays explained.

    Raises:
        ValueError: a denoiser of other states than vectors.
    """
    return Clip(_vectors(denoiser, "clip"), low, high)


@dataclass(frozen=True)
class Inpaint(Wrapped):
    """See :func:`inpaint`."""

    base: Guess
    known: Tensor
    mask: Tensor

    def __call__(self, x_t: Tree, t: Tree, s: Tree | None = None, **condition: Any) -> Endpoints:
        x = torch.where(self.mask, self.known, self.base(x_t, t, s, **condition).x)
        return Endpoints(x, self.process.noise_given(x, x_t, t))


def inpaint(denoiser: Guess, known: Tensor, mask: Tensor) -> Inpaint:
    """Fill in what is missing by replacement: where ``mask`` is True the data is ``known`` (both broadcast to x).

    Raises:
        ValueError: a denoiser of other states than vectors; tokens are filled in by ``infill``.
    """
    return Inpaint(_vectors(denoiser, "inpaint"), known, mask)
