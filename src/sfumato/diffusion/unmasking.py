r"""Which tokens to reveal, and when: solvers, infilling and block times for tokens.

``Euler()`` is ancestral sampling: every mask falls by its own chance, which draws tokens independently of each other
within a step. The solvers here choose the order instead, so that fewer steps do; they fit :func:`sample` like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.guidance import Wrapped
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.process import Endpoints, States
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.sample import Solver
from sfumato.diffusion.tokens import F64, UniformTokens, certain, check_tokens, draw, probabilities, share

# ---- infilling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A token process in which some tokens are given: they are there at every time. See :func:`infill`."""

    base: Masked | UniformTokens
    known: Tensor
    where: Tensor

    states: ClassVar[States] = "tokens"

    @property
    def habits(self) -> Any:
        """Those of the process inside."""
        return self.base.habits

    @property
    def schedule(self) -> Any:
        """The schedule of the process inside."""
        return self.base.schedule

    def hold(self, x_t: Tensor) -> Tensor:
        """x_t with the known tokens in their places."""
        return torch.where(self.where, self.known, x_t)

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        return self.base.prior(x, rng)

    def start(self, z: Tensor) -> Tensor:
        return self.hold(self.base.start(z))

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return self.hold(self.base.interpolate(x, z, t))

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.base.precondition(x_t, t)

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return self.base.target(x, z, t)

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.base.loss(answer, x, z, t, weight)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        return self.base.endpoints(answer, x_t, t, rng)

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        return self.base.mix(weak, strong, w, x_t, t)

    def transition(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, remask: Tensor | None = None) -> Tensor:
        """Law of x_s (B, L, V): the known tokens are certain."""
        if remask is None:
            law = self.base.transition(ends, x_t, t, s)
        else:
            law = _masks(self, "remasking").transition(ends, x_t, t, s, remask)
        sure = certain(torch.where(self.where, self.known, 0).expand(x_t.shape), law.shape[-1])
        return torch.where(self.where.expand(x_t.shape)[..., None], sure, law)

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        return self.hold(self.base.step(ends, x_t, t, s, eta, rng))


@dataclass(frozen=True)
class Infill(Wrapped):
    """See :func:`infill`."""

    base: Guess
    known: Tensor
    where: Tensor

    @property
    def process(self) -> Known:
        """The process of the denoiser inside, with the known tokens in their places."""
        return Known(self.base.process, self.known, self.where)

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        return self.base(x_t, t, s, **condition)


def infill(denoiser: Guess, known: Tensor, where: Tensor) -> Infill:
    """Write only what is missing: the tokens ``known``, where ``where`` is True, stand from the start and never change.

    With masks this is exact, for given tokens are just tokens revealed early; with uniform noise the network believes the
    known tokens as noisy as the rest (replacement, as :func:`inpaint` does for tensors).

    Args:
        known: int64 (B, L) or (1, L), read where ``where`` (bool, same shape) is True.

    Raises:
        ValueError: tokens of another type, a ``where`` that is not bool, or the mask among the known tokens.
    """
    check_tokens(known)
    if where.dtype != torch.bool or where.shape != known.shape:
        raise ValueError(f"where must be bool of shape {tuple(known.shape)}, got {where.dtype} {tuple(where.shape)}")
    mask = getattr(denoiser.process, "mask_id", None)
    if mask is not None and bool((where & (known == mask)).any()):
        raise ValueError(f"the mask token {mask} is among the known tokens: set `where` to False there")
    return Infill(denoiser, known, where)


# ---- solvers ---------------------------------------------------------------------------------------------------------


def _masks(process: Any, user: str) -> Masked:
    inner = process.base if isinstance(process, Known) else process
    if not isinstance(inner, Masked):
        raise ValueError(f"{user} works on masks: it needs a Masked process, not {type(inner).__name__}; use Euler()")
    return inner


def _revealed_law(process: Masked, ends: Endpoints, x_t: Tensor, t: Tensor) -> Tensor:
    """What each token would be if it were revealed now: (B, L, V), float64."""
    return process.transition(ends, x_t, t, torch.zeros((), dtype=F64))


@dataclass(frozen=True)
class Confidence(Solver):
    """Reveal, per step, the expected number of tokens, the surest first (MaskGIT, Chang 2022, arXiv 2202.04200).

    A token is drawn at every mask; those whose probability under the guess, perturbed by Gumbel noise, is greatest stay.
    The number is alpha's, with fractions carried from step to step, so that a fine grid reveals one token at a time.

    Args:
        temperature: of the order. 0 is strictly the surest first (which writes the likely at the cost of variety); a large
            one is a random order, hence the data's own law as the steps grow.
    """

    temperature: float = 0.0
    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("tokens",)

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, rng: Rng) -> tuple[Tensor, Any]:
        process = _masks(guess.process, type(self).__name__)
        u = uniform_like(x_t, rng, (*x_t.shape, 2))  # drawn even if nothing is left to do: rows keep their streams
        gain, count, rest = _due(process, x_t, t, s, memory)
        if count is None:
            return x_t, rest
        law = _revealed_law(process, guess(x_t, t), x_t, t)
        drawn = draw(law, u[..., 0])
        score = law.gather(-1, drawn[..., None])[..., 0].log() + self.temperature * _gumbel(u[..., 1])
        return torch.where(_first(score, gain, count), drawn, x_t), rest


@dataclass(frozen=True)
class RandomOrder(Solver):
    """Reveal, per step, the expected number of tokens, whichever they are: the data's own law where it is one a step.

    As ``Confidence`` of a temperature beyond all bounds; but the order needs no probabilities, so only those of the tokens
    that are revealed are worked out.
    """

    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("tokens",)

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, rng: Rng) -> tuple[Tensor, Any]:
        process = _masks(guess.process, type(self).__name__)
        u = uniform_like(x_t, rng, (*x_t.shape, 2))
        gain, count, rest = _due(process, x_t, t, s, memory)
        if count is None:
            return x_t, rest
        chosen, guessed = _first(u[..., 1], gain, count), guess(x_t, t).x
        x_s, few = x_t.clone(), guessed[chosen]
        if len(few):
            x_s[chosen] = draw(probabilities(few, few.shape[-1]), u[..., 0][chosen]) if few.is_floating_point() else few
        return x_s, rest


def _due(
    process: Masked, x_t: Tensor, t: Tensor, s: Tensor, memory: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The chance of each mask (B, L) to fall, how many of a row should, (B,), and the fraction that is left for the next step;
    no number where none falls in any row, and the guess is not needed."""
    gain = process.gain(x_t, t, s) * process.open(x_t)
    due = gain.sum(1) + (0.0 if memory is None else memory)
    count = (due + 1e-9).floor()
    some = bool(((count[:, None] >= 1) & (gain > 0) | (gain >= 1)).any())
    return gain, count if some else None, due - count


def _gumbel(u: Tensor) -> Tensor:
    return -torch.log(-torch.log(u.clamp(1e-300, 1 - 1e-16)))


def _first(score: Tensor, gain: Tensor, count: Tensor) -> Tensor:
    """Where the masks of the greatest scores are, ``count`` (B,) of each row, and those that fall anyway: bool (B, L)."""
    score = score.masked_fill(gain <= 0, -torch.inf)
    place = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ((place < count[:, None]) & (gain > 0)) | (gain >= 1)


@dataclass(frozen=True)
class EntropyBound(Solver):
    """Reveal, per step, as many of the tokens of lowest entropy as a budget allows; the last step reveals the rest.

    Tokens drawn together ignore each other. The harm is at most their summed entropy less the greatest one, which is held
    below ``budget`` (Ben-Hamu 2025, arXiv 2505.24857). The grid only bounds the number of calls: once no mask is
    left, none is made.

    Args:
        budget: nats per step; 0 reveals one token a step, besides those already certain.

    Raises:
        ValueError: a negative budget.
    """

    budget: float = 0.1
    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("tokens",)

    def __post_init__(self) -> None:
        if self.budget < 0:
            raise ValueError(f"budget must not be negative, got {self.budget}")

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        process = _masks(guess.process, type(self).__name__)
        gain = process.gain(x_t, t, s) * process.open(x_t)
        u = uniform_like(x_t, rng)
        if not bool((gain > 0).any()):
            return x_t, None
        law = _revealed_law(process, guess(x_t, t), x_t, t)
        entropy = torch.special.entr(law).sum(-1).masked_fill(gain <= 0, torch.inf)
        rising, order = entropy.sort(dim=1, stable=True)
        within = rising.isfinite() & (rising.cumsum(1) - rising <= self.budget + 1e-12)
        chosen = torch.zeros_like(within).scatter(1, order, within) | (gain >= 1)
        return torch.where(chosen, draw(law, u), x_t), None


@dataclass(frozen=True)
class Remask(Solver):
    """Ancestral sampling that also takes back revealed tokens and writes them anew (ReMDM, Wang 2025, arXiv 2503.00307).

    The share of tokens that are there at each time stays alpha(s), so the same denoiser serves. What is taken back goes
    with the length of the step, so that the walk tends to the data's law at first order; with ReMDM's fixed share per
    step the distance falls only with about the root of their number.

    Args:
        strength: rate per unit of alpha. 0 is ancestral sampling; infinity takes back all that the share allows.

    Raises:
        ValueError: a negative strength.
    """

    strength: float = 1.0
    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("tokens",)

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"strength must not be negative, got {self.strength}")

    def prepare(self, times: Tensor) -> None:
        return None

    def transition(self, process: Any, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Law of x_s given x_t and the guess: probabilities (B, L, V), float64."""
        schedule = _masks(process, "Remask").schedule
        walked = share(schedule, s, x_t) - share(schedule, t, x_t)
        taken = -torch.expm1(-torch.where(walked > 0, self.strength * walked.clamp_min(1e-300), 0.0))
        law: Tensor = process.transition(ends, x_t, t, s, taken)
        return law

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        law = self.transition(guess.process, guess(x_t, t), x_t, t, s)
        return draw(law, uniform_like(x_t, rng)), None


TOKEN_SOLVERS: dict[str, Solver] = {
    "confidence": Confidence(),
    "random_order": RandomOrder(),
    "entropy_bound": EntropyBound(),
    "remask": Remask(),
}
"""Solvers of tokens by the name a command line gives them; Euler walks tokens, too."""


# ---- times -----------------------------------------------------------------------------------------------------------


def blocks(length: int, block: int, steps: int) -> Tensor:
    """Times for writing block after block (semi-autoregressive, BD3-LM, arXiv 2503.09573): (n + 1, 1, length), float64.

    Each block of ``block`` tokens falls from 1 to 0 in ``steps`` even steps while those before it are data and those after
    it are noise; n is the number of blocks times ``steps``.

    Raises:
        ValueError: a length, block or number of steps below 1.
    """
    if min(length, block, steps) < 1:
        raise ValueError(f"length, block and steps must be at least 1, got {length}, {block} and {steps}")
    turn = torch.arange(length) // block
    step = torch.arange(int(turn[-1] + 1) * steps + 1, dtype=F64)
    return (1 - (step[:, None] - turn * steps) / steps).clamp(0, 1)[:, None]
