"""A solver that chooses its steps by itself, for every sample its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import along
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.sample import Solver
from sfumato.errors import Mendable


class NotMet(Mendable, RuntimeError):
    """A tolerance that could not be kept within the calls allowed."""


@dataclass(frozen=True)
class AdaptiveSolver(Solver):
    """Error-controlled steps, each sample at its own pace (Bogacki & Shampine 1989, orders 3 and 2, in the angle).

    Between two times of the grid it takes as many steps as the tolerance asks; ``times = [1, 0]`` leaves all to it. Its
    memory is what each sample has cost: the calls (B,), int64, that its row needed since the start of the walk. The batch
    is called as a whole until its last row arrives, but a row that has arrived counts no more.

        x_s, calls = AdaptiveSolver().step(guess, x_t, t, s, None, None)

    Args:
        rtol, atol: tolerated local error, relative and absolute (data has unit variance).
        finest: angle, about sigma / alpha, from which the rest is one Euler step: a network is not trained below it.
        most: calls between two times of the grid after which it gives up.

    Raises:
        NotMet: the tolerance was not met within ``most`` calls.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    finest: float = 1e-3
    most: int = 3000
    order: int = 3
    counts: ClassVar[bool] = True

    def prepare(self, times: Tensor) -> None:
        return None

    def step(
        self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Tensor | None, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        schedule, rows = guess.process.schedule, len(x_t)
        # frames or tokens with times of their own go at one pace, in proportion to their ways
        own = max(t.ndim, s.ndim) > 1
        shape = torch.broadcast_shapes(t.shape, s.shape, (rows, 1)) if own else (rows,)
        t, s = (a.to(device=x_t.device, dtype=x_t.dtype).expand(shape) for a in (t, s))
        final, angle = schedule.angle(s), schedule.angle(t).clone()
        # at pure data the noise cannot be asked for; the rest is one Euler step. What stands still stays where it is
        end = torch.where(angle > final, torch.minimum(final.clamp_min(self.finest), angle), angle)
        moving = (angle > end).reshape(rows, -1).to(x_t.dtype).mean(1).clamp_min(1e-9) if own else 1.0
        step = ((angle - end) / 10).clone()

        def slope(y: Tensor, angle: Tensor) -> tuple[Tensor, Endpoints]:
            at = schedule.at_angle(angle).clamp(0, 1)  # in float32 the quarter circle ends a little beyond pi / 2
            ends = guess(y * along(schedule.hypot(at), y), at)
            return along(-angle.sin(), y) * ends.x + along(angle.cos(), y) * ends.z, ends

        y = x_t / along(schedule.hypot(t), x_t)
        k1, ends = slope(y, angle)
        calls = (angle > final).reshape(rows, -1).any(1).long()  # a row that stands still needs none
        while bool((under_way := (angle > end).reshape(rows, -1).any(1)).any()):
            if int(calls.max()) > self.most:
                raise NotMet(f"tolerance rtol={self.rtol}, atol={self.atol} not met in {self.most} calls: raise it")
            step = torch.minimum(step, angle - end)
            h = along(-step, y)
            k2, _ = slope(y + h * k1 / 2, angle - step / 2)
            k3, _ = slope(y + h * k2 * 0.75, angle - step * 0.75)
            proposed = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
            k4, found = slope(proposed, angle - step)
            calls += 3 * under_way
            error = h * (-5 * k1 / 72 + k2 / 12 + k3 / 9 - k4 / 8)
            scale = self.atol + self.rtol * torch.maximum(y.abs(), proposed.abs())
            size = ((error / scale).flatten(1).pow(2).mean(1) / moving).sqrt().clamp_min(1e-10)
            accept = size <= 1
            angle = torch.where(along(accept, angle) > 0, angle - step, angle)
            angle = torch.where(angle - end < 1e-6, end, angle)
            y, k1 = torch.where(along(accept, y) > 0, proposed, y), torch.where(along(accept, y) > 0, k4, k1)
            ends = Endpoints(
                *(torch.where(along(accept, y) > 0, new, old) for new, old in zip(found, ends, strict=True))
            )
            step = step.clamp_min(1e-9) * along((0.9 * size ** (-1 / 3)).clamp(0.2, 5.0), step)
        at = schedule.at_angle(angle).clamp(0, 1)
        reached = y * along(schedule.hypot(at), y)
        x_s = torch.where(along(final < end, y) > 0, guess.process.step(ends, reached, at, s), reached)
        return x_s, calls if memory is None else memory + calls
