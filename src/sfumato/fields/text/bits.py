r"""Bits per byte of documents under a masked model: a bound on -log p, block after block, the same number every time.

A document x is written in blocks b of `block` tokens, each with up to `context` tokens before it in sight. By the chain
rule -log p(x) = sum_b -log p(x_b | x_<b), and each term is bounded as in training, by the cross-entropy under masks that
fall on the block alone (Sahoo 2024, arXiv 2406.07524; blocks: Arriola 2025, arXiv 2503.09573). Small blocks give a tighter
bound and take longer. Divided by the bytes of the document, the vocabulary no longer matters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, Streams, key
from sfumato.fields.text.reading import reader
from sfumato.metrics.distances import MetricError


class Span(NamedTuple):
    """What one call sees: the tokens (n,), of which those from `first` on are scored, the document they are of, and where in
    it, an end before it counted, they begin."""

    tokens: np.ndarray
    first: int
    document: int
    start: int


@dataclass(frozen=True)
class Scores:
    """Bits and bytes of each document, (D,) float64 and int64."""

    bits: np.ndarray
    bytes: np.ndarray

    @property
    def per_byte(self) -> float:
        """Bits per byte of all of them together."""
        return float(self.bits.sum() / self.bytes.sum())

    def interval(self) -> tuple[float, float, float]:
        """(value, low, high) of bits per byte, 90 %: a ratio of sums over documents, by its linearisation (Cochran 1977, 6.4).

        MetricError for fewer than two documents.
        """
        count = len(self.bits)
        if count < 2:
            raise MetricError(f"an interval over documents needs at least 2 of them, not {count}")
        value = self.per_byte
        rest = self.bits - value * self.bytes
        error = math.sqrt(count / (count - 1) * float((rest**2).sum())) / float(self.bytes.sum())
        t = 1.6449 + 1.524 / (count - 1) + 1.42 / (count - 1) ** 2 + 1.75 / (count - 1) ** 3  # within 2 % from 3 on
        return value, value - t * error, value + t * error


def spans(
    documents: Sequence[np.ndarray], end: int, context: int, block: int, given: Sequence[int] | None = None
) -> Iterator[Span]:
    """Every token of every document (but for the first, `given` ones), and the end of each, scored exactly once; `end` stands
    before each document.

    Spans have context + block tokens where the document is long enough, so that they fit into few batches: its last block,
    if it is short, sees more of what is before it. ValueError for a block below 1 or a context below 1.
    """
    if block < 1 or context < 1:
        raise ValueError(f"block and context must be at least 1 token, got {block} and {context}")
    for number, ids in enumerate(documents):
        tokens = np.concatenate([[end], ids, [end]]).astype(np.int64)
        for first in range(1 + (given[number] if given else 0), len(tokens), block):
            last = min(first + block, len(tokens))
            start = max(0, last - context - block)
            yield Span(tokens[start:last], first - start, number, start)


class Asked(NamedTuple):
    """One draw of masks over spans: what is hidden (B, L), the surprise there (B, L) in nats, float64 and 0 elsewhere, and the
    share (B,) of the scored tokens that it is."""

    open_: Tensor
    surprise: Tensor
    share: Tensor


See = Callable[[Sequence[int], Sequence[Span], Sequence[Asked]], None]


@torch.no_grad()
def score(
    denoiser: Denoiser,
    documents: Sequence[np.ndarray],
    lengths: np.ndarray,
    end: int,
    *,
    context: int,
    block: int,
    draws: int = 4,
    batch: int = 64,
    device: torch.device | str = "cpu",
    look: Callable[[int, int], None] | None = None,
    given: Sequence[int] | None = None,
    see: See | None = None,
) -> Scores:
    """Bits and bytes of `documents`, lists of tokens (n,).

    Args:
        lengths: bytes of each token, (V + 2,).
        draws: masks per block, of as many different sizes. They are functions of the block's and the draw's number.
        look: told after each batch how many of how many spans are done.
        see: shown each draw of each batch: the numbers of its spans, and the spans.

    Raises:
        ValueError: draws below 1; see also `spans`. MetricError: the model's bound is not finite.
    """
    nats, done = np.zeros(len(documents)), 0
    everything = list(spans(documents, end, context, block, given))
    for numbers, each in asked(denoiser, everything, draws, batch, device):
        bounds = torch.stack([(one.surprise.sum(1) / one.share) for one in each]).mean(0)
        for number, value in zip(numbers, bounds.tolist(), strict=True):
            nats[everything[number].document] += value
        done += len(numbers)
        if see is not None:
            see(numbers, [everything[number] for number in numbers], each)
        if look is not None:
            look(done, len(everything))
    if not np.isfinite(nats).all():
        raise MetricError(
            "the bound on the probability of a document is not finite: the network answers NaN or infinity"
        )
    return Scores(nats / math.log(2), sizes(documents, lengths, given))


@torch.no_grad()
def asked(
    denoiser: Denoiser, everything: Sequence[Span], draws: int, batch: int, device: torch.device | str
) -> Iterator[tuple[list[int], list[Asked]]]:
    """The numbers of spans that are looked at together, and each of their draws, until all have been. ValueError for draws
    below 1."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    denoiser = reader(denoiser)
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)  # those that `reader` can read together
    for number, span in enumerate(everything):
        groups[len(span.tokens), span.first].append(number)
    for _, members in sorted(groups.items()):
        for start in range(0, len(members), batch):
            numbers = members[start : start + batch]
            part = [everything[number] for number in numbers]
            x = torch.from_numpy(np.stack([span.tokens for span in part])).to(device)
            first = torch.tensor([span.first for span in part], device=device)
            yield numbers, [_drawn(denoiser, x, first, draw, draws, numbers) for draw in range(draws)]


def sizes(documents: Sequence[np.ndarray], lengths: np.ndarray, given: Sequence[int] | None = None) -> np.ndarray:
    """Bytes of each document, (D,) int64, but for those of its first, `given` tokens."""
    first = given or [0] * len(documents)
    return np.array([int(lengths[ids[begin:]].sum()) for ids, begin in zip(documents, first)], dtype=np.int64)


def _drawn(denoiser: Denoiser, x: Tensor, first: Tensor, draw: int, draws: int, numbers: Sequence[int]) -> Asked:
    """One draw of masks over the tokens from `first` on.

    Of K tokens k = 1 ... K are hidden, each number as likely as the others, and the surprise at them is taken K / k times:
    the same expectation as the integral over time, for every schedule (Hoogeboom 2022, arXiv 2110.02037), without its
    infinite variance at little noise.
    """
    rng = Streams(key("bits", draw), numbers)  # on the CPU: the same masks on every machine
    u, order = rng.uniform((len(x),), torch.float64).to(x.device), rng.uniform(x.shape, torch.float64).to(x.device)
    count = x.shape[1] - first
    hidden = 1 + (count * ((draw + u) / draws)).long().clamp_max(count - 1)
    scored = torch.arange(x.shape[1], device=x.device) >= first[:, None]
    place = order.masked_fill(~scored, 2.0).argsort(1).argsort(1)
    open_ = place < hidden[:, None]
    share = hidden / count
    return Asked(open_, surprise_at(denoiser, x, open_, torch.where(scored, share[:, None], 0.0)), share)


def surprise_at(denoiser: Denoiser, x: Tensor, open_: Tensor, t: Tensor) -> Tensor:
    """-log p of the tokens x (B, L) that are masked where open_ (B, L), in nats, float64; 0 at the others."""
    process: Any = denoiser.process
    x_t = torch.where(open_, process.mask_id, x)
    belief = process.endpoints(denoiser.answer(x_t, t), x_t, t).x
    return torch.where(open_, -belief.gather(-1, x[..., None])[..., 0].double(), 0.0)
