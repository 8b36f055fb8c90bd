r"""Flow maps: one network for any number of steps.

A denoiser tells where the flow heads at x_t; a flow map tells where it arrives at s. It is asked with a second time,
``map(x_t, t, s)``, and guesses the endpoints of the *chord*: the path that runs through x_t at time t and through the
flow's own x_s at time s. So the step is the one that every process has, ``process.step(ends, x_t, t, s)``, and one of any
length is exact. With u = z - x of those endpoints, the average velocity from t to s,

    X(t, s) = x_t - (tau_t - tau_s) u(x_t, t, s)          tau = sigma / (alpha + sigma), states at unit sum
    u(x_t, t, t) = v(x_t, t)                              the denoiser itself

Three things are true of the map, each of them makes it from a teacher v, and none needs a derivative of the network:

    lagrangian   its end moves along the flow:            dX(t, s)/ds = v(X(t, s), s)                (default)
    semigroup    two short steps are one long step:       X(t, s) = X(r, s) after X(t, r)
    mean_flow    its end stays where it is when the       d/dt X(t, s) = 0 along the flow
                 start moves along the flow:              <=>  u = v - (tau_t - tau_s) du/dt
    consistency  the same with s = 0 only, and a short step in place of the derivative:  X(t, 0) = X(r, 0)

Sources: flow map matching (Boffi 2024, arXiv 2406.07507), MeanFlow (Geng 2025, arXiv 2505.13447), terminal velocity
matching (Zhou 2025, arXiv 2511.19797), shortcut models (Frans 2024, arXiv 2410.12557), consistency models (Song 2023,
arXiv 2303.01469). Derivatives in time are central differences between points of the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from sfumato.diffusion import Clean, Denoiser, Guess, guide, tree
from sfumato.diffusion.process import Endpoints, States
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.sample import Solver
from sfumato.diffusion.tree import Tree

Kind = Literal["lagrangian", "semigroup", "mean_flow", "consistency"]
KINDS: tuple[Kind, ...] = ("lagrangian", "semigroup", "mean_flow", "consistency")


@dataclass(frozen=True)
class FlowMap(Denoiser):
    """A denoiser with two times. Without ``s`` it is the ordinary denoiser of its flow, s = t.

    The network takes ``network(shown, level, level_s, **condition)``.
    """

    def answer(self, x_t: Tree, t: Tree, s: Tree | None = None, *, given: Tree | None = None, **condition: Any) -> Tree:
        return super().answer(x_t, t, t if s is None else s, given=given, **condition)


def check_path(process: Any, where: str = "") -> None:
    """Raises TypeError, and says what to use instead, where a process, or a part of it, has no velocity and no flow map."""
    for name, part in getattr(process, "parts", ()):
        check_path(part, f"{where}part {name!r}: ")
    if not where and isinstance(process, Clean):
        raise TypeError("nothing is noised here, so there is no walk that fewer steps could shorten")
    if not hasattr(process, "chord"):
        raise TypeError(
            f"{where}{type(process).__name__} has no paths with a velocity, hence no flow map: use Gaussian or Geodesic, "
            "OneHot(vocab) for tokens (gaussian noise on one-hot vectors), or a product of these"
        )


@dataclass(frozen=True)
class Guided:
    """Which guidance a map learns as inputs: strengths w in [low, high] and any interval of times.

    The condition "guidance" (B, 3) holds w and the two times between which the teacher is guided; the rest of the way it
    is plainly conditional (Kynkaanniemi 2024, arXiv 2404.07724).
    """

    low: float = 1.0
    high: float = 2.0
    interval: float = 0.25
    """Share of training samples with an interval of their own; the rest are guided everywhere."""

    def draw(self, rows: int, rng: Rng, device: torch.device) -> Tensor:
        """Random inputs (rows, 3), each from its row's own stream."""
        u = _uniform(rows, 4, rng).to(device, torch.float32)
        ends = u[:, 1:3].sort(1).values
        whole = torch.tensor([0.0, 1.0], device=device)
        ends = torch.where(u[:, 3:] < self.interval, ends, whole)
        return torch.cat([self.low + (self.high - self.low) * u[:, :1], ends], 1)


class Times(NamedTuple):
    """Departures t and arrivals s, and their shares of noise; (B,) each."""

    t: Tensor
    s: Tensor
    tau: Tensor
    tau_s: Tensor
    anchored: Tensor
    """Which rows learn the teacher's guess itself: bool (B,), on the CPU, where their number is known without waiting."""


@dataclass(frozen=True)
class Conversion:
    """The criterion that makes a flow map out of a trained denoiser.

    Args:
        teacher: the trained denoiser, its weights frozen.
        kind: which truth about the map is held against it, see the head of this file.
        guided: make the guidance of the teacher an input of the map; needs a condition, and a network that takes
            "guidance".
        h: half the width of the differences, in units of the share of noise; for consistency half of its short step. By
            default 0.01 where the end moves, and 0.05 where the start does: a network sees its level in fine detail, and
            over less than that detail the difference is noise (measured: 0.06 has a fifth of the error of 0.01).
        anchor: share of the samples of a batch that learn from the teacher itself, three quarters of them the plain
            denoiser, s = t, the others the last step. They cost 4 network passes (backward ones twice), others 6 or 7.
        ends: share of the samples that start at pure noise, and of those that go all the way to the data.
        finest: share of noise from which the last step goes to the data in one, as the teacher's does: below it a network
            that answers data is not trained (``Gaussian.cap``).
        power: 0 sums squared errors; 1 lets samples of small and of large error pull alike, which pictures need.

    Raises:
        TypeError: the teacher's process has no velocity (masked tokens).
        ValueError: an unknown kind.
    """

    teacher: Guess
    kind: Kind = "lagrangian"
    guided: Guided | None = None
    h: float | None = None
    anchor: float = 0.25
    ends: float = 0.2
    finest: float = 0.01
    power: float = 0.0

    def __post_init__(self) -> None:
        check_path(self.teacher.process)
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}: must be one of {', '.join(KINDS)}")

    def __call__(
        self, denoiser: Denoiser, x: Tree, t: Tensor, *, rng: Rng = None, z: Tree | None = None, weight: Tree | None = None,
        given: Tree | None = None, condition: Mapping[str, Tree] | None = None,
    ) -> Tensor:  # fmt: skip
        """Loss per sample (B,) for data x (B, ...) and uniform numbers t (B,), which become times of departure.

        All that is drawn comes from ``rng``, the rows' own streams. ``given`` is not used: map and teacher are asked at other
        rows than those of the batch, and with a condition of their own. Raises ValueError for other times than (B,).
        """
        if not isinstance(t, Tensor) or t.ndim != 1:
            raise ValueError(
                "a flow map is converted with one number a sample, such as Uniform() draws, not more times"
            )
        process: Any = denoiser.process
        flow_map = denoiser if isinstance(denoiser, FlowMap) else FlowMap(denoiser.network, process)
        z = process.prior(x, rng) if z is None else z
        times = self._times(process, t, rng)
        t, s = times.t, times.s
        condition = dict(condition or {})
        if self.guided is not None:
            condition["guidance"] = self.guided.draw(len(t), rng, t.device)
        x_t = process.interpolate(x, z, t)
        if self.kind == "lagrangian":
            return self._weighted(self._lagrangian(flow_map, x_t, times, condition, weight))
        make = {"semigroup": self._semigroup, "mean_flow": self._mean_flow, "consistency": self._consistency}[self.kind]
        with torch.no_grad():
            wanted = make(flow_map, x_t, times, condition)
        return self._weighted(process.loss(flow_map.answer(x_t, t, s, **condition), wanted.x, wanted.z, t, weight))

    @property
    def width(self) -> float:
        """h, or its default for this kind."""
        return self.h if self.h is not None else 0.01 if self.kind == "lagrangian" else 0.05

    def _times(self, process: Any, u: Tensor, rng: Rng) -> Times:
        """Times of departure and arrival for uniform numbers (B,)."""
        own = _uniform(len(u), 4, rng)
        v, role = own[:, :3].T.to(u), own[:, 3]
        one, zero = process.fraction(torch.ones_like(u)), process.fraction(torch.zeros_like(u))  # 1 and 0, or nearly so
        finest = torch.maximum(torch.full_like(u, self.finest), zero)
        tau = torch.where(v[0] < self.ends, one, finest + (one - finest) * u)
        inside = finest + (tau - finest) * v[2]
        arrival = zero if self.kind == "consistency" else torch.where(v[1] < self.ends, zero, inside)
        # learned from the teacher: the plain denoiser s = t, and the last step, which the teacher takes in one
        anchored = role < self.anchor
        last = (role < (self.anchor if self.kind == "consistency" else self.anchor / 4)).to(u.device)
        tau, arrival = (
            torch.where(last, finest, tau),
            torch.where(last, zero, torch.where(anchored.to(u.device), tau, arrival)),
        )
        return Times(process.at_fraction(tau), process.at_fraction(arrival), tau, arrival, anchored)

    def _teach(self, x_t: Any, t: Tensor, condition: dict[str, Any]) -> Any:
        """The teacher's guess of the endpoints, guided as asked."""
        with torch.no_grad():
            if self.guided is None:
                return self.teacher(x_t, t, **condition)
            plain, guidance = {**condition}, condition["guidance"]
            del plain["guidance"]
            inside = (t >= guidance[:, 1]) & (t <= guidance[:, 2])
            w = torch.where(inside, guidance[:, 0], torch.ones_like(t))
            return guide(self.teacher, w)(x_t, t, **plain)

    def _lagrangian(
        self, flow_map: FlowMap, x_t: Any, times: Times, condition: dict[str, Any], weight: Tree | None
    ) -> Tensor:
        """Anchored rows against the teacher's guess, the others by the velocity of their end against the teacher's there.

        The map is asked once for all: anchored rows, near ends, far ends. Rows are told apart by their places in an order,
        not by a mask, whose size a GPU would have to be asked for.
        """
        process: Any = flow_map.process
        order, count = (~times.anchored).byte().argsort(stable=True).to(times.t.device), int(times.anchored.sum())
        still, moving = order[:count], order[count:]
        t, _, tau, tau_s = (value[moving] for value in times[:4])
        last = tau_s < self.finest  # the last step: as the teacher, from the finest level to the data in one
        near = torch.where(last, self.finest, torch.minimum(tau_s + self.width, tau))
        far = torch.where(last, tau_s, (tau_s - self.width).clamp_min(self.finest))
        near = torch.maximum(near, torch.minimum(far + self.width, tau))
        s_near, s_far = process.at_fraction(near), process.at_fraction(far)
        middle = process.at_fraction(torch.where(last, near, (near + far) / 2))

        asked, ends = torch.cat([order, moving]), torch.cat([times.s[still], s_near, s_far])
        own = tree.take(condition, asked)
        guess = flow_map(tree.take(x_t, asked), times.t[asked], ends, **own)
        x_near, x_far = (
            process.step(Endpoints(*(tree.take(end, rows) for end in guess)), tree.take(x_t, moving), t, s)
            for rows, s in ((slice(count, len(order)), s_near), (slice(len(order), None), s_far))
        )
        moved = process.chord(x_near, s_near, x_far, s_far)
        with torch.no_grad():
            x_middle = process.interpolate(moved.x, moved.z, middle)
        at, time = tree.join(tree.take(x_t, still), x_middle), torch.cat([times.t[still], middle])
        found = Endpoints(
            *(tree.join(tree.take(end, slice(count)), far) for end, far in zip(guess, moved, strict=True))
        )
        taught = self._teach(at, time, tree.take(condition, order))
        counts = None if weight is None else tree.take(weight, order)
        return process.apart(found, taught, at, time, counts)[order.argsort()]

    def _semigroup(self, flow_map: FlowMap, x_t: Any, times: Times, condition: dict[str, Any]) -> Endpoints:
        """The chord of two short steps; where s = t, the teacher's guess."""
        process: Any = flow_map.process
        t, s = times.t, times.s
        middle = process.at_fraction(((times.tau + times.tau_s) / 2).clamp_min(self.finest))
        x_middle = _arrive(flow_map, x_t, t, middle, condition)
        x_s = _arrive(flow_map, x_middle, middle, s, condition)
        taught = self._teach(x_t, t, condition)
        return tree.where(times.anchored, taught, process.chord(x_t, t, x_s, s))

    def _mean_flow(self, flow_map: FlowMap, x_t: Any, times: Times, condition: dict[str, Any]) -> Endpoints:
        """u = v - (tau_t - tau_s) du/dt, as a chord: the end is moved against its drift. Where s = t, the teacher's guess."""
        process: Any = flow_map.process
        t, s, tau, tau_s, anchored = times
        taught = self._teach(x_t, t, condition)
        up = torch.minimum(tau + self.width, process.fraction(torch.ones_like(t)))
        down = torch.maximum(tau - self.width, tau_s).clamp_min(self.finest)
        t_up, t_down = process.at_fraction(up), process.at_fraction(down)
        starts = [process.step(taught, x_t, t, at) for at in (t_up, t_down)]
        both = tree.join(condition, condition)
        arrived = _arrive(flow_map, tree.join(*starts), torch.cat([t_up, t_down]), torch.cat([s, s]), both)
        x_up, x_down = tree.take(arrived, slice(None, len(t))), tree.take(arrived, slice(len(t), None))
        # with up and down about t alike, x_s = their middle, and x_s - (tau - tau_s) dx_s/dtau is the end of the chord
        at_t, gap = (tau - down) / (up - down), (tau - tau_s) / (up - down)
        return tree.where(anchored, taught, process.chord(x_t, t, process.between(x_down, x_up, at_t - gap), s))

    def _consistency(self, flow_map: FlowMap, x_t: Any, times: Times, condition: dict[str, Any]) -> Endpoints:
        """The end of the path from a little further on, where the teacher's flow leads in one step of second order."""
        process: Any = flow_map.process
        t, s, tau, _, anchored = times
        taught = self._teach(x_t, t, condition)
        r, middle = (
            process.at_fraction((tau - width).clamp_min(self.finest)) for width in (2 * self.width, self.width)
        )
        half = process.step(taught, x_t, t, middle)
        one, two = process.step(taught, x_t, t, r), process.step(self._teach(half, middle, condition), half, middle, r)
        x_r = process.between(one, two, torch.full_like(tau, 2.0))  # Richardson: the error of first order cancels
        return tree.where(anchored, taught, process.chord(x_t, t, _arrive(flow_map, x_r, r, s, condition), s))

    def _weighted(self, losses: Tensor) -> Tensor:
        """Divided by (loss + 0.01)^power, so that steps of every length pull alike (MeanFlow, section 4.3)."""
        return losses / (losses.detach() + 0.01) ** self.power if self.power else losses


def _uniform(rows: int, count: int, rng: Rng) -> Tensor:
    """Uniform numbers (rows, count), each row from its own stream, float64 on the CPU."""
    return uniform_like(torch.empty(0), rng, (rows, count))


def _arrive(flow_map: FlowMap, x_t: Any, t: Tensor, s: Tensor, condition: dict[str, Any]) -> Any:
    return flow_map.process.step(flow_map(x_t, t, s, **condition), x_t, t, s)


# ---- sampling ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leap(Solver):
    """A step of a flow map, exact for any length.

    Args:
        gamma: 0 walks the flow (deterministic). Above 0 each step but the last goes further, to the share of noise
            (1 - gamma) tau_s, and comes back to s with fresh noise; 1 is the sampler of consistency models, which gets
            worse with many steps.
        mean: the last of several steps goes to the mean of the data given x_t, which is the map's guess with s = t, and
            not on to the end of its path. Samples vary less than the data by what x_t leaves open.

    Raises:
        ValueError: gamma outside 0 to 1.
    """

    gamma: float = 0.0
    mean: bool = False
    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("vectors", "points", "parts")

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma = {self.gamma}: must be from 0 to 1")

    def prepare(self, times: Tensor) -> int:
        """How many steps come before the one that goes to the mean; below 0 where none does."""
        return len(times) - 2 if self.mean and len(times) > 2 else -1

    def step(self, guess: Guess, x_t: Any, t: Tensor, s: Tensor, memory: int, rng: Rng) -> tuple[Any, int]:
        process = guess.process
        if memory == 0:
            return process.step(guess(x_t, t, t), x_t, t, s), -1
        beyond = s if self.gamma == 0 else process.at_fraction((1 - self.gamma) * process.fraction(s))
        x_beyond = process.step(guess(x_t, t, beyond), x_t, t, beyond)
        if self.gamma == 0:
            return x_beyond, memory - 1
        return process.noised(x_beyond, beyond, s, rng), memory - 1
