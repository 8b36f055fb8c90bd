"""Products of worlds: one process over a dict of tensors, each part with its own process, schedule and, if wanted, time.

    Product(position=Gaussian(Linear()), angle=Geodesic(Torus()), label=Clean())

The parts are noised independently of each other, so every method of the contract is a map over the parts; what joins
them is the network, which sees all of them. Loss and sampler do not change. A condition is a part that stays clean.

The network's contract: ``network({part: shown}, {part: level}, **condition) -> {part: answer}``. Every part has its own
level, shaped as its process gives it; clean parts may be left out of the answer.

Time ``t`` is one tensor for all parts, or a dict part -> t (nested for nested products; clean parts may be left out).
Times to sample along are one tensor, or a list of such dicts: one part may arrive before another one starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.likelihood import divergence
from sfumato.diffusion.process import Endpoints, Gaussian, Process, States, along
from sfumato.diffusion.rng import Rng, normal_like
from sfumato.diffusion.schedule import Linear, Schedule

Part = Any
"""What belongs to one part: a tensor, or the dict of a nested product."""

CLEAN_LEVEL = -12.0
"""ln(sigma / alpha) shown for a part without noise: the lowest level that a Gaussian process shows."""


@dataclass(frozen=True)
class Clean:
    """The process of a part that stays as it is given, of any dtype and shape (B, ...): a condition.

    Its noise is itself: sample with ``z = {"image": noise, "label": labels}``. Its loss is 0, its level is constant.
    """

    states: ClassVar[States] = "points"
    habits: ClassVar[Mapping[str, Any]] = {}

    @property
    def schedule(self) -> Schedule:
        """Of no consequence: nothing moves."""
        return Linear()

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        return x

    def start(self, z: Tensor) -> Tensor:
        return z

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return x

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, torch.full((len(x_t),), CLEAN_LEVEL, device=x_t.device)

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return x

    def loss(self, answer: Tensor | None, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        return torch.zeros(len(x), dtype=x.dtype if x.is_floating_point() else torch.float32, device=x.device)

    def endpoints(self, answer: Tensor | None, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        return Endpoints(x_t, x_t)

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        return x_t

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        return strong

    def chord(self, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor) -> Endpoints:
        return Endpoints(x_t, x_t)

    def between(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        return a

    def apart(self, a: Endpoints, b: Endpoints, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(len(x_t), device=x_t.device)


@dataclass(frozen=True, init=False, repr=False)
class Product:
    """A process over a dict of tensors. A product is a process, so products nest.

    Args:
        weights: part -> factor on its loss, 1 where not given.
        processes: part -> its process, in the order in which the parts draw their random numbers.

    Raises:
        TypeError: a part that is not a process (so a misspelt ``weights`` is found too).
        ValueError: no parts at all; a weight of an unknown part, negative or not finite. Later on: a value, answer or
            time with a part missing or unknown.
    """

    parts: tuple[tuple[str, Process], ...]
    factors: tuple[float, ...]

    states: ClassVar[States] = "parts"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "euler", "grid": "cosine", "eta": 1.0}

    def __init__(self, weights: Mapping[str, float] | None = None, **processes: Process):
        if not processes:
            raise ValueError("a product needs at least one part, as in Product(position=Gaussian())")
        if weights is not None and not isinstance(weights, Mapping):
            raise TypeError(f"weights must be a dict part -> factor, got {weights!r}; no part can be called 'weights'")
        for name, process in processes.items():
            if isinstance(process, type) or not all(hasattr(process, each) for each in ("prior", "endpoints", "step")):
                raise TypeError(f"part {name!r} must be a process such as Gaussian() or Clean(), got {process!r}")
        object.__setattr__(self, "parts", tuple(processes.items()))
        factors = self._same_parts("weights", {**dict.fromkeys(processes, 1.0), **(weights or {})})
        for name, factor in factors.items():
            if not 0 <= factor < math.inf:
                raise ValueError(f"the weight of part {name!r} must be finite and not negative, got {factor}")
        object.__setattr__(self, "factors", tuple(float(factors[name]) for name in processes))

    def __repr__(self) -> str:
        weights = {name: factor for (name, _), factor in zip(self.parts, self.factors) if factor != 1}
        inside = [f"weights={weights}"] * bool(weights) + [f"{name}={process!r}" for name, process in self.parts]
        return f"Product({', '.join(inside)})"

    @property
    def processes(self) -> dict[str, Process]:
        """Part -> its process."""
        return dict(self.parts)

    def moving(self) -> dict[str, Process]:
        """The parts that do not stay clean, as a product of clean parts does. Raises TypeError where there are none."""
        found = {name: process for name, process in self.parts if not _stays(process)}
        if not found:
            raise TypeError("every part of this product is clean: nothing moves")
        return found

    @property
    def schedule(self) -> Schedule:
        """That of the first part that moves: where the parts share their times, it is the pace that grids ask for."""
        return next(iter(self.moving().values())).schedule

    def _same_parts(self, what: str, value: Any, optional: bool = False) -> Mapping[str, Part]:
        """``value``, found to have exactly the parts of this product (clean ones may be missing if ``optional``)."""
        if optional and value is None and _stays(self):
            return {}
        if not isinstance(value, Mapping):
            raise TypeError(f"{what} must be a dict of the parts {self._names()}, got {type(value).__name__}")
        missing = [name for name, process in self.parts if name not in value and not (optional and _stays(process))]
        unknown = [name for name in value if name not in self.processes]
        if missing or unknown:
            found = [f"lacks {', '.join(missing)}"] * bool(missing)
            found += [f"has unknown {', '.join(map(repr, unknown))}"] * bool(unknown)
            raise ValueError(f"{what} {' and '.join(found)}: the parts are {self._names()}")
        return value

    def _names(self) -> str:
        return ", ".join(name for name, _ in self.parts)

    def _times(self, t: Any, what: str = "t") -> Mapping[str, Any]:
        if isinstance(t, Tensor):
            return dict.fromkeys(self.processes, t)
        given = self._same_parts(what, t, optional=True)
        return {name: given[name] if name in given else torch.zeros(()) for name, _ in self.parts}

    def prior(self, x: Mapping[str, Part], rng: Rng = None) -> dict[str, Part]:
        """Noise of every part, drawn in the order of declaration."""
        x = self._same_parts("x", x)
        return {name: process.prior(x[name], rng) for name, process in self.parts}

    def start(self, z: Mapping[str, Part]) -> dict[str, Part]:
        z = self._same_parts("z", z)
        return {name: process.start(z[name]) for name, process in self.parts}

    def interpolate(self, x: Mapping[str, Part], z: Mapping[str, Part], t: Any) -> dict[str, Part]:
        x, z, t = self._same_parts("x", x), self._same_parts("z", z), self._times(t)
        return {name: process.interpolate(x[name], z[name], t[name]) for name, process in self.parts}

    def precondition(self, x_t: Mapping[str, Part], t: Any) -> tuple[dict[str, Part], Any]:
        """What the network is shown of each part, and each part's own level: two dicts."""
        x_t, t = self._same_parts("x_t", x_t), self._times(t)
        both = {name: process.precondition(x_t[name], t[name]) for name, process in self.parts}
        return {name: shown for name, (shown, _) in both.items()}, {name: level for name, (_, level) in both.items()}

    def target(self, x: Mapping[str, Part], z: Mapping[str, Part], t: Any) -> dict[str, Part]:
        x, z, t = self._same_parts("x", x), self._same_parts("z", z), self._times(t)
        return {name: process.target(x[name], z[name], t[name]) for name, process in self.parts}

    def losses(
        self, answer: Mapping[str, Part], x: Mapping[str, Part], z: Mapping[str, Part], t: Any, weight: Any = None
    ) -> dict[str, Tensor]:
        """Part -> its loss per sample, (B,), without its factor. ``weight``: a dict part -> weight, where a part that it
        leaves out counts in full, or one tensor for all parts, (B,)."""
        answer, t = self._same_parts("the network's answer", answer, optional=True), self._times(t)
        x, z = self._same_parts("x", x), self._same_parts("z", z)
        counts, losses = self._weights(weight), {}
        for name, process in self.parts:
            try:
                losses[name] = process.loss(answer.get(name), x[name], z[name], t[name], counts.get(name))
            except ValueError as wrong:
                raise ValueError(f"part {name!r}: {wrong}") from wrong
        return losses

    def _weights(self, weight: Any) -> Mapping[str, Any]:
        if weight is None or isinstance(weight, Tensor):
            return dict.fromkeys(self.processes, weight)
        if unknown := [name for name in weight if name not in self.processes]:
            raise ValueError(f"weight has unknown {', '.join(map(repr, unknown))}: the parts are {self._names()}")
        counts: Mapping[str, Any] = weight
        return counts

    def loss(
        self, answer: Mapping[str, Part], x: Mapping[str, Part], z: Mapping[str, Part], t: Any, weight: Any = None
    ) -> Tensor:
        """The sum of the parts' losses, each times its factor, (B,)."""
        parts = self.losses(answer, x, z, t, weight).values()
        weighted = [factor * part for factor, part in zip(self.factors, parts, strict=True)]
        return sum(weighted[1:], start=weighted[0])

    def endpoints(self, answer: Mapping[str, Part], x_t: Mapping[str, Part], t: Any, rng: Rng = None) -> Endpoints:
        """Endpoints(x, z), each a dict of the parts."""
        answer, t = self._same_parts("the network's answer", answer, optional=True), self._times(t)
        x_t = self._same_parts("x_t", x_t)
        ends = {name: process.endpoints(answer.get(name), x_t[name], t[name], rng) for name, process in self.parts}
        return _joined(ends)

    def step(
        self, ends: Endpoints, x_t: Mapping[str, Part], t: Any, s: Any, eta: float = 0.0, rng: Rng = None
    ) -> dict[str, Part]:
        """Every part's own step, in the order of declaration. A part whose time stands still is not touched."""
        x: Mapping[str, Part] = self._same_parts("the guessed x", ends.x)
        z: Mapping[str, Part] = self._same_parts("the guessed z", ends.z)
        x_t, t, s = self._same_parts("x_t", x_t), self._times(t), self._times(s, "s")
        return {
            name: x_t[name]
            if _same_time(t[name], s[name])
            else process.step(Endpoints(x[name], z[name]), x_t[name], t[name], s[name], eta, rng)
            for name, process in self.parts
        }

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Mapping[str, Part], t: Any) -> Endpoints:
        t = self._times(t)
        parts = {
            name: process.mix(_part(weak, name), _part(strong, name), w, x_t[name], t[name])
            for name, process in self.parts
        }
        return _joined(parts)

    # ---- geometry, for flow maps: all parts share the time t ---------------------------------------------------------

    def _pace(self) -> Any:
        """The first part that moves: its share of noise stands for the product's."""
        self._paths()
        return next(iter(self.moving().values()))

    def fraction(self, t: Tensor) -> Tensor:
        share: Tensor = self._pace().fraction(t)
        return share

    def at_fraction(self, tau: Tensor) -> Tensor:
        t: Tensor = self._pace().at_fraction(tau)
        return t

    def chord(self, x_t: Mapping[str, Part], t: Tensor, x_s: Mapping[str, Part], s: Tensor) -> Endpoints:
        return _joined({name: process.chord(x_t[name], t, x_s[name], s) for name, process in self._paths()})

    def between(self, a: Mapping[str, Part], b: Mapping[str, Part], share: Tensor) -> dict[str, Part]:
        return {name: process.between(a[name], b[name], share) for name, process in self._paths()}

    def apart(self, a: Endpoints, b: Endpoints, x_t: Mapping[str, Part], t: Tensor) -> Tensor:
        """The weighted sum of the parts', (B,)."""
        parts = [process.apart(_part(a, name), _part(b, name), x_t[name], t) for name, process in self._paths()]
        weighted = [factor * part for factor, part in zip(self.factors, parts, strict=True)]
        return sum(weighted[1:], start=weighted[0])

    def _paths(self) -> tuple[tuple[str, Any], ...]:
        for name, process in self.parts:
            if not hasattr(process, "chord"):
                raise TypeError(f"part {name!r} ({type(process).__name__}) has no velocity, hence no flow map")
        return self.parts


def _stays(process: Any) -> bool:
    """Whether it stays as it is given: clean, or a product of nothing else."""
    if isinstance(process, Product):
        return all(_stays(part) for _, part in process.parts)
    return isinstance(process, Clean)


def _part(ends: Endpoints, name: str) -> Endpoints:
    x: Any = ends.x
    z: Any = ends.z
    return Endpoints(x[name], z[name])


def _joined(parts: Mapping[str, Endpoints]) -> Endpoints:
    x, z = ({name: ends[i] for name, ends in parts.items()} for i in (0, 1))
    return Endpoints(x, z)


def _same_time(t: Any, s: Any) -> bool:
    return t is s or (isinstance(t, Tensor) and isinstance(s, Tensor) and torch.equal(t, s))


def product_log_likelihood(
    denoiser: Guess,
    x: Mapping[str, Tensor],
    steps: int = 40,
    *,
    order: Sequence[str] | None = None,
    probes: int | None = None,
    rng: Rng = None,
    smallest: float = 1e-3,
    differentiable: bool = False,
    **condition: Any,
) -> dict[str, Tensor]:
    """Log-density in nats of the Gaussian parts of x given its clean parts: part -> (B,); the sum is the joint's.

    Each part walks from its own smallest noise angle to its own largest, and the joint density changes along the way by
    the sum of the parts' divergences (the instantaneous change of variables of Song 2021, eq. 39, part by part). Any way
    through the plane of the parts' noise levels leads to the same sum:

    * ``order=None``: all parts together, ``steps`` Runge-Kutta steps of 4 calls. The share of a part is its own
      log-density if the parts are independent, and otherwise only a share.
    * ``order=("a", "b")``: first a turns to noise while b stays data, then b: the chain rule. The share of a is
      log p(a | b), that of b is log p(b). ``steps`` for each part.

    Args:
        x: part -> (B, ...). probes, rng, smallest, differentiable: as for :func:`~likelihood.log_likelihood`.

    Raises:
        ValueError: steps or probes below 1; a part neither Gaussian nor clean; an order that is not of all the parts.
    """
    if steps < 1 or (probes is not None and probes < 1):
        raise ValueError(f"steps and probes must be at least 1, got {steps} and {probes}")
    process: Product = denoiser.process
    moving: dict[str, Gaussian] = {}
    for name, part in process.parts:
        if isinstance(part, Gaussian):
            moving[name] = part
        elif not isinstance(part, Clean):
            raise ValueError(f"likelihood needs Gaussian or clean parts, and part {name!r} is {type(part).__name__}")
    if order is not None and sorted(order) != sorted(moving):
        raise ValueError(f"order must name each of {', '.join(moving)} once, got {', '.join(order)}")
    x = process._same_parts("x", x)
    x = x if differentiable else {name: value.detach() for name, value in x.items()}

    angles, width, y, gained = {}, {}, dict(x), {}
    for name, part in moving.items():
        ends = part.schedule.angle(torch.tensor([0.0, 1.0], dtype=torch.float64))
        first = max(float(ends[0]), math.atan(smallest))
        angles[name], width[name] = first, float(ends[1]) - first
        t = _time_at(part, first)
        scale = part.schedule.alpha(t) / part.schedule.hypot(t)  # x is read as data at the smallest noise
        y[name] = along(scale, x[name]) * x[name]
        gained[name] = x[name].new_full((len(x[name]),), x[name][0].numel() * math.log(float(scale)))
    signs = {
        name: None if probes is None else [normal_like(x[name], rng).sign() for _ in range(probes)] for name in moving
    }

    def slope(at: dict[str, Tensor], group: Sequence[str], u: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """d/du of y and of the log-density for the parts of the group, u in [0, 1] of their ways."""
        here = {name: angles[name] + (u * width[name] if name in group else 0.0) for name in moving}
        t = {name: _time_at(moving[name], angle) for name, angle in here.items()}
        velocity, gain = {}, {}
        with torch.enable_grad():
            at = {**at, **{n: at[n] if at[n].requires_grad else at[n].detach().requires_grad_() for n in group}}
            x_t = {n: along(moving[n].schedule.hypot(t[n]), v) * v if n in moving else v for n, v in at.items()}
            found = denoiser(x_t, t, **condition)
            for name in group:
                moved = width[name] * (math.cos(here[name]) * found.z[name] - math.sin(here[name]) * found.x[name])
                velocity[name], gain[name] = moved, divergence(moved, at[name], signs[name], differentiable)
        if differentiable:
            return velocity, gain
        return ({n: v.detach() for n, v in each.items()} for each in (velocity, gain))  # type: ignore[return-value]

    def plus(a: dict[str, Tensor], h: float, b: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value + h * b[name] if name in b else value for name, value in a.items()}

    h = 1 / steps
    for group in [list(moving)] if order is None else [[name] for name in order]:
        for i in range(steps):
            k1, d1 = slope(y, group, i * h)
            k2, d2 = slope(plus(y, h / 2, k1), group, (i + 0.5) * h)
            k3, d3 = slope(plus(y, h / 2, k2), group, (i + 0.5) * h)
            k4, d4 = slope(plus(y, h, k3), group, (i + 1) * h)
            for weight, k, d in ((1, k1, d1), (2, k2, d2), (2, k3, d3), (1, k4, d4)):
                y, gained = plus(y, weight * h / 6, k), plus(gained, weight * h / 6, d)
        angles.update({name: angles[name] + width[name] for name in group})
    return {name: gained[name] - (y[name].flatten(1) ** 2 / 2 + math.log(2 * math.pi) / 2).sum(1) for name in moving}


def _time_at(part: Gaussian, angle: float) -> Tensor:
    return part.schedule.at_angle(torch.tensor(angle, dtype=torch.float64)).clamp(0, 1)
