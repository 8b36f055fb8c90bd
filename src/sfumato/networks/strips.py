"""The tokens of each sample, shared out among processes: all that is done token by token is done for a strip of them alone.

Attention alone needs all tokens. On the way into it the processes exchange tokens for heads (all-to-all, Jacobs et al. 2023,
arXiv 2309.14509): each then attends among all tokens with its share of the heads, and on the way out they exchange back. No
sum is taken in another order, so what comes out is what one process would make.

Every process of a strip group computes the whole loss, from the whole answer, and gradients are averaged over processes. So
what flows back out of the whole answer into a strip is multiplied by their number: then the average of what the strips send
back, each its own share, is what one process would send, to parameters inside the strips and before them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Strip:
    """A process's tokens: the ``index``-th of ``count`` even strips, those of the processes of ``group``, in their order."""

    index: int
    count: int
    group: Any

    def rows(self, tokens: int) -> slice:
        """Which of so many tokens. Raises ValueError where they cannot be shared out evenly."""
        if tokens % self.count:
            raise ValueError(
                f"{tokens} tokens cannot be shared out evenly among {self.count} processes: --parallel.context must divide them"
            )
        each = tokens // self.count
        return slice(self.index * each, (self.index + 1) * each)

    def cut(self, x: Tensor) -> Tensor:
        """x (B, N, ...), which all have -> this process's tokens of it, (B, N / count, ...)."""
        return x[:, self.rows(x.shape[1])]

    def join(self, x: Tensor) -> Tensor:
        """This process's tokens (B, n, ...) -> those of all, (B, n count, ...)."""
        return _Join.apply(x, self)

    def to_heads(self, x: Tensor) -> Tensor:
        """This process's tokens (B, n, heads, head) with all heads -> all tokens with its share of the heads, (B, n count,
        heads / count, head)."""
        return _Exchange.apply(x, self, True)

    def to_tokens(self, x: Tensor) -> Tensor:
        """The inverse of `to_heads`."""
        return _Exchange.apply(x, self, False)

    # ---- without gradients -----------------------------------------------------------------------------------------------

    def gathered(self, x: Tensor) -> Tensor:
        """(B, n, ...) of each process -> (B, n count, ...)."""
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, 1)

    def exchanged(self, x: Tensor, into_heads: bool) -> Tensor:
        """`to_heads` or `to_tokens`."""
        if into_heads:
            parts = x.unflatten(2, (self.count, -1)).movedim(2, 0)  # (count, B, n, heads / count, head)
        else:
            parts = x.unflatten(1, (self.count, -1)).movedim(1, 0)
        sent = parts.contiguous()
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=self.group)
        return got.movedim(0, 1 if into_heads else 2).flatten(1 if into_heads else 2, 2 if into_heads else 3)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strip: Strip) -> Tensor:
        ctx.strip = strip
        return strip.gathered(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope[:, ctx.strip.rows(slope.shape[1])] * ctx.strip.count, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strip: Strip, into_heads: bool) -> Tensor:
        ctx.strip, ctx.into_heads = strip, into_heads
        return strip.exchanged(x, into_heads)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return ctx.strip.exchanged(slope, not ctx.into_heads), None, None


def divisible(heads: int, strip: Strip | None) -> None:
    """Raises ValueError where heads cannot be shared out evenly."""
    if strip is not None and heads % strip.count:
        raise ValueError(
            f"{heads} heads cannot be shared out evenly among {strip.count} processes: --parallel.context must divide them"
        )
