r"""Proposals from a network whose density is known: the stochastic walk, weighed step by step against the prior's own.

On the quarter circle y_a = cos(a) x + sin(a) z, a from 0 (data) to pi/2 (noise), the noising chain is
y_a = rho y_b + sqrt(1 - rho^2) e for b < a, rho = cos(a) / cos(b). It leaves the standard normal alone and is reversible there,
so of x standard normal its way back is known exactly:

    R(y_b | y_a) = N(rho y_a, 1 - rho^2).

A network that answers v makes of it, with g = cos(b) (1 - rho^2) / sin(a) and m the mean square of what it does not know of v,

    Q(y_b | y_a) = N(rho y_a - g v, 1 - rho^2 - g^2 (1 - m)),

which is R where v = 0 and m = 1: an untrained network draws the prior. Along a whole path

    w = prod R / Q = pi(x) F(path | x) / Q(path),

with pi the prior of x, F the noising chain and Q the walk: E_Q[w f(x)] = E_pi[f(x)] for any f. So every draw comes with an
exact importance weight, for any network in any number of dimensions, and no divergence is taken: the discrete form of
Girsanov's theorem. (The path stands beside x as one more random number. Metropolis' rule holds on both together: the path of the
present state is drawn from F anew, which leaves its law alone, and that of the proposal comes with it. A path may also go up
to some angle alone, and down again from there: of an untrained network that is pCN, of a trained one pCN that knows where to.)

The mean of -log w over failures whose law is right is a lower bound of their log-likelihood ratio, and at most -log p: what
of the failures' information the network has learned, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion.rng import Streams, key

ROWS = 1000
"""Rows that the network sees at once."""
LARGEST = math.log(40.0)
"""ln(sigma / alpha) that a network is shown at most: it is not trained beyond."""
SMALLEST = math.log(0.02)

Answer = Callable[[Tensor, Tensor], Tensor]
"""y (B, n), ln tan a (B,) -> the guess of v, (B, n)."""


def streams(words: Sequence[str | int], count: int, first: int = 0) -> Streams:
    """The rows' own streams, for a purpose."""
    return Streams(key("failure", *words), range(first, first + count), counted=True)


def normals(words: Sequence[str | int], count: int, n: int) -> np.ndarray:
    """Standard normal numbers (count, n) float64, row by row from the rows' own streams."""
    return streams(words, count).normal((count, n), torch.float64).numpy()


def uniforms(words: Sequence[str | int], count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (count,) float64."""
    return streams(words, count).uniform((count,), torch.float64).numpy()


def even(steps: int, smallest: float = 0.05, largest: float = 20.0) -> tuple[float, ...]:
    """Angles (steps + 1,) from pi/2 to 0: even in the angle's own walk from tan a = largest to smallest, on a scale between the
    angle and ln tan a, where information comes in."""
    low, high = math.atan(smallest), math.atan(largest)
    u = np.linspace(0, 1, steps - 1)
    inside = np.arctan(np.exp(np.log(math.tan(high)) + u * (np.log(math.tan(low)) - np.log(math.tan(high)))))
    return (math.pi / 2, *inside.tolist(), 0.0)


@dataclass(frozen=True)
class Chain:
    """The walk of a network: the angles, falling from pi/2 to 0, and m of each step, (steps, n) or (steps, 1)."""

    answer: Answer
    angles: tuple[float, ...]
    unknown: np.ndarray

    def _steps(self) -> list[tuple[float, float, float, float]]:
        """(ln tan a, rho, g, 1 - rho^2) of each step."""
        found = []
        for a, b in zip(self.angles[:-1], self.angles[1:], strict=True):
            rho = 0.0 if a >= math.pi / 2 else math.cos(a) / math.cos(b)
            level = min(max(math.log(math.tan(min(a, 1.5707))), SMALLEST), LARGEST)
            left = 1 - rho**2
            found.append((level, rho, math.cos(b) * left / math.sin(a), left))
        return found

    @torch.no_grad()
    def propose(self, words: Sequence[str | int], count: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws x (count, n) float64, and log w of each, (count,)."""
        return self.down((*words, "down"), normals((*words, "noise"), count, n), 0)

    @torch.no_grad()
    def down(self, words: Sequence[str | int], y: np.ndarray, begin: int) -> tuple[np.ndarray, np.ndarray]:
        """The walk from states y (B, n) at the angle of step ``begin`` to x, and log w of that part, (B,)."""
        xs, ws = [], []
        steps = self._steps()
        for first in range(0, len(y), ROWS):
            now = torch.from_numpy(np.ascontiguousarray(y[first : first + ROWS]))
            rng = streams(words, len(now), first)
            log_w = torch.zeros(len(now), dtype=torch.float64)
            for i in range(begin, len(steps)):
                level, rho, g, left = steps[i]
                middle, spread = self._move(now, i, level, rho, g, left)
                e = rng.normal(now.shape, torch.float64)
                new = middle + spread * e
                log_w += _ratio(new, rho * now, left, e, spread)
                now = new
            xs.append(now.numpy())
            ws.append(log_w.numpy())
        return np.concatenate(xs), np.concatenate(ws)

    def weigh(self, words: Sequence[str | int], x: np.ndarray) -> np.ndarray:
        """log w (B,) of given x (B, n), along a path that is drawn from the noising chain."""
        return self.up(words, x, 0)[1]

    @torch.no_grad()
    def up(self, words: Sequence[str | int], x: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
        """States (B, n) at the angle of step ``end`` to which the noising chain leads from x (B, n), and log w of that part."""
        ys, ws = [], []
        for first in range(0, len(x), ROWS):
            part = torch.from_numpy(np.ascontiguousarray(x[first : first + ROWS]))
            rng = streams(words, len(part), first)
            log_w, y = torch.zeros(len(part), dtype=torch.float64), part
            steps = self._steps()
            for i in reversed(range(end, len(steps))):
                level, rho, g, left = steps[i]
                above = rho * y + math.sqrt(left) * rng.normal(y.shape, torch.float64)
                middle, spread = self._move(above, i, level, rho, g, left)
                log_w += _ratio(y, rho * above, left, (y - middle) / spread, spread)
                y = above
            ys.append(y.numpy())
            ws.append(log_w.numpy())
        return np.concatenate(ys), np.concatenate(ws)

    def _move(self, y: Tensor, i: int, level: float, rho: float, g: float, left: float) -> tuple[Tensor, Tensor]:
        """Mean (B, n) and spread (n,) or (1,) of step i from y."""
        v = self.answer(y, torch.full((len(y),), level, dtype=torch.float32))
        known = torch.from_numpy(self.unknown[i])
        return rho * y - g * v.double(), (left - g * g * (1 - known)).clamp_min(1e-6 * left).sqrt()


def _ratio(y: Tensor, middle: Tensor, left: float, e: Tensor, spread: Tensor) -> Tensor:
    """log R / Q (B,) of a step that came to y: R has mean ``middle`` and variance ``left``, Q the spread (n,) or (1,) and the
    normal numbers e."""
    per = spread.log() - 0.5 * math.log(left)
    return (per + 0.5 * e**2 - 0.5 * (y - middle) ** 2 / left).sum(1)


@torch.no_grad()
def unknown(
    answer: Answer, angles: Sequence[float], x: np.ndarray, words: Sequence[str | int], each: bool = True
) -> np.ndarray:
    """What a network does not know of v at each angle but the last: the mean square of its error over x (N, n), for each number
    (steps, n), or over all (steps, 1). At pure noise v is -x itself."""
    found = []
    rows = torch.from_numpy(np.ascontiguousarray(x[:4000]))
    z = streams(words, len(rows)).normal(rows.shape, torch.float64)
    for a in angles[:-1]:
        level = min(max(math.log(math.tan(min(a, 1.5707))), SMALLEST), LARGEST)
        y, v = math.cos(a) * rows + math.sin(a) * z, math.cos(a) * z - math.sin(a) * rows
        error = [
            (answer(part, torch.full((len(part),), level, dtype=torch.float32)).double() - true) ** 2
            for part, true in zip(y.split(ROWS), v.split(ROWS), strict=True)
        ]
        found.append(torch.cat(error).mean(0).numpy())
    whole = np.stack(found)
    return whole if each else whole.mean(1, keepdims=True)


def answering(network: Any, level: float) -> Answer:
    """A network's answer at a level of robustness, as it conditions on it; the noise must be the same in all rows."""
    told = torch.full((1, 1), level, dtype=torch.float32)
    body, condition = getattr(network, "body", None), getattr(network, "condition", None)

    def answer(y: Tensor, noise: Tensor) -> Tensor:
        found: Tensor
        if callable(body) and condition is not None:  # what modulates is worked out once for all rows
            found = body(y.float(), condition(noise[:1], None, None, None, told, None))
        else:
            found = network(y.float(), noise, vector=told.expand(len(y), 1))
        return found

    return answer
