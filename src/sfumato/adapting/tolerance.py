"""As many steps of a flow map as each sample needs: one long step against two short ones.

A map that were exact would arrive at the same point by one step or by two. Where it is not, their distance is an estimate
of the error of the long one, for free: so every sample walks at its own pace, and says how many calls it took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion import Guess, tree
from sfumato.diffusion.process import States
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.sample import Solver


@dataclass(frozen=True)
class LeapWithin(Solver):
    """A solver for flow maps that shortens a step until one long step and two short ones agree; walk times [1, 0].

    Each sample first tries to go all the way. Where the ends differ by more than ``tol`` it tries only the first of the
    two short steps (which is the long one of the next try); where they agree it goes with the two short steps, and from
    there tries all the way again. The memory is the number of calls of each sample, (B,) int64.

    Args:
        tol: largest root mean square distance of the two ends, in units of the data's spread.
        split: where the first short step ends, as a share of the way from the end in shares of noise. Below a half, since
            maps err most where there is little noise left (measured on a checkerboard and on pictures).
        finest: share of noise below which no step starts; the last one goes from there to the end at once.
        most: calls of a sample after which it takes every step as it comes.

    Raises:
        ValueError: tol not above 0, split or finest not between 0 and 1, or most below 3.
    """

    tol: float = 0.05
    split: float = 1 / 3
    finest: float = 0.01
    most: int = 64
    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("vectors", "points", "parts")
    counts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.tol > 0:
            raise ValueError(f"tol = {self.tol}: must be above 0")
        if not 0 < self.split < 1:
            raise ValueError(f"split = {self.split}: must be between 0 and 1")
        if not 0 < self.finest < 1:
            raise ValueError(f"finest = {self.finest}: must be between 0 and 1")
        if self.most < 3:
            raise ValueError(f"most = {self.most}: must be at least 3, one long step and two short ones")

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Any, t: Tensor, s: Tensor, memory: Tensor | None, rng: Rng) -> tuple[Any, Tensor]:
        process = guess.process

        def leap(x: Any, start: Tensor, end: Tensor) -> Any:
            return process.step(guess(x, start, end), x, start, end)

        leaf = tree.first(x_t)
        rows, device = len(leaf), leaf.device
        dtype = leaf.dtype if leaf.is_floating_point() else torch.float32
        t, last = (u.to(device, dtype).expand(rows).clone() for u in (t, s))
        calls = torch.zeros(rows, dtype=torch.int64, device=device) if memory is None else memory.clone()
        end, far, known = last.clone(), x_t, torch.zeros(rows, dtype=torch.bool, device=device)
        active = t > last
        while bool(active.any()):
            if bool((active & ~known).any()):
                far = tree.where(known, far, leap(x_t, t, end))
                calls += (active & ~known).long()
            share = process.fraction(end) + self.split * (process.fraction(t) - process.fraction(end))
            middle = process.at_fraction(torch.minimum(share.clamp_min(self.finest), process.fraction(t)))
            half = leap(x_t, t, middle)
            near = leap(half, middle, end)
            calls += 2 * active.long()
            gap = process.fraction(t) - process.fraction(end)
            apart = process.apart(process.chord(x_t, t, near, end), process.chord(x_t, t, far, end), x_t, t)
            good = (gap * apart.sqrt() <= self.tol) | (calls >= self.most) | (process.fraction(t) <= self.finest * 1.01)
            accept = active & good
            x_t, far = tree.where(accept, near, x_t), half
            known = ~good
            t, end = torch.where(accept, end, t), torch.where(good, last, middle)
            active = t > last
        return x_t, calls
