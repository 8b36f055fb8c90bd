r"""How usual texts are to a model: bits per byte of each, and of each of their lines, the same numbers every time.

Blocks and their context are those of `bits`; so is the bound, K / k times the surprise at k of K masked tokens. Its masks
are dealt here so that lines can be told apart: a block's tokens are put into one random order, and each draw hides the next
k of them in turn, k from its own stratum. A draw alone still hides any k tokens alike, so the bound keeps its mean; but
from four draws on no token is left out, and each is hidden about as often as the others (systematic sampling, Madow 1949).
"""

from __future__ import annotations

import lzma
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser, Streams, key
from sfumato.fields.text.bits import Span, spans, surprise_at
from sfumato.fields.text.files import Document
from sfumato.fields.text.originals import starts_of
from sfumato.fields.text.reading import reader
from sfumato.metrics.distances import MetricError

if TYPE_CHECKING:
    from sfumato.data.vocabulary import Vocabulary
    from sfumato.jobs.model import Model


@dataclass(frozen=True, eq=False)
class Surprise:
    """Of a document's n tokens and its end, (n + 1,) float64 each, in bits: `bound`, whose sum is the bound on -log2 p of the
    document; `doubt`, the mean surprise at a token where it was hidden, 0 where it never was."""

    bound: np.ndarray
    doubt: np.ndarray


def dealt(scored: Tensor, draws: int, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which tokens each draw hides, bool (draws, B, L), of those that are `scored` (B, L), and their numbers k (draws, B);
    a function of the rows' `numbers` alone."""
    rng = Streams(key("score"), numbers)  # on the CPU: the same masks on every machine
    u = rng.uniform((len(scored), draws), torch.float64).T.to(scored.device)
    order = rng.uniform(scored.shape, torch.float64).to(scored.device)
    count = scored.sum(1)
    stratum = torch.arange(draws, device=scored.device)[:, None]
    hidden = 1 + (count * ((stratum + u) / draws)).long().clamp_max(count - 1)
    place = order.masked_fill(~scored, 2.0).argsort(1).argsort(1)
    turn = (place - (hidden.cumsum(0) - hidden)[..., None]) % count[:, None]
    return scored & (turn < hidden[..., None]), hidden


@torch.no_grad()
def surprises(
    denoiser: Denoiser,
    documents: Sequence[np.ndarray],
    end: int,
    *,
    context: int,
    block: int,
    draws: int = 4,
    batch: int = 64,
    device: torch.device | str = "cpu",
    look: Callable[[int, int], None] | None = None,
) -> list[Surprise]:
    """The surprise at each token of documents (tokens without ends) under a masked model, whose token `end` opens and closes
    each. A document's numbers depend on it alone.

    Args:
        block, context: tokens scored at a time, and tokens before them in sight. draws: of masks, for each block.
        look: told after each batch how many of how many blocks are done.

    Raises:
        ValueError: draws below 1; see also `spans`. MetricError: the bound is not finite.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    denoiser = reader(denoiser)
    groups: dict[tuple[int, int], list[tuple[int, int, Span]]] = defaultdict(list)
    found = [Surprise(np.zeros(len(ids) + 1), np.zeros(len(ids) + 1)) for ids in documents]
    for number, ids in enumerate(documents):
        place = 0
        for own, span in enumerate(spans([ids], end, context, block)):
            groups[len(span.tokens), span.first].append((own, place, span._replace(document=number)))
            place += len(span.tokens) - span.first
    done, of = 0, sum(map(len, groups.values()))
    for _, members in sorted(groups.items()):
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            x = torch.from_numpy(np.stack([span.tokens for _, _, span in part])).to(device)
            first = torch.tensor([span.first for _, _, span in part], device=device)
            bound, doubt = _of_blocks(denoiser, x, first, draws, [own for own, _, _ in part])
            for row, (_, place, span) in enumerate(part):
                length = len(span.tokens) - span.first
                found[span.document].bound[place : place + length] = bound[row, span.first :]
                found[span.document].doubt[place : place + length] = doubt[row, span.first :]
            done += len(part)
            if look is not None:
                look(done, of)
    if not all(np.isfinite(each.bound).all() for each in found):
        raise MetricError(
            "the bound on the probability of a document is not finite: the network answers NaN or infinity"
        )
    return found


def _of_blocks(
    denoiser: Denoiser, x: Tensor, first: Tensor, draws: int, numbers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bound and doubt of the tokens x (B, L) from `first` on, in bits, (B, L) each."""
    scored = torch.arange(x.shape[1], device=x.device) >= first[:, None]
    count = scored.sum(1)
    bound, doubt = (torch.zeros(x.shape, dtype=torch.float64, device=x.device) for _ in range(2))
    masks, hidden = dealt(scored, draws, numbers)
    for open_, k in zip(masks, hidden):
        surprise = surprise_at(denoiser, x, open_, torch.where(scored, (k / count)[:, None], 0.0)) / math.log(2)
        bound += surprise * (count / k)[:, None] / draws
        doubt += surprise
    doubt = doubt / masks.sum(0).clamp_min(1)
    return bound.cpu().numpy(), doubt.cpu().numpy()


# ---- files and their lines -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scored:
    """A document with its bits (a bound on -log2 p, its end among them), those that xz takes for it alone, and what its lines
    are doubted by: (lines,) bits, bytes (ends of lines among them)."""

    document: Document
    bits: float
    xz: float
    doubt: np.ndarray
    sizes: np.ndarray

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.document.text)

    def line(self, number: int) -> bytes:
        """A line, counted from 0, without its end."""
        return self.document.text.split(b"\n")[number].rstrip(b"\r")


def by_line(text: bytes, doubt: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits and bytes of each line of a text, from the bits `doubt` (n,) of its tokens, `lengths` (n,) bytes long: a token
    across several lines is shared out among them by its bytes."""
    starts = np.array(starts_of(text))
    sizes = np.diff(np.append(starts, len(text)))
    each = np.repeat(doubt / np.maximum(lengths, 1), lengths)
    return np.bincount(np.repeat(np.arange(len(starts)), sizes), each, len(starts)), sizes


def scored(
    model: Model, documents: Sequence[Document], span: int, draws: int, look: Callable[[int, int], None] | None = None
) -> list[Scored]:
    """Each document scored, `span` tokens at a time with what is before them in sight."""
    recipe: Any = model.recipe
    vocabulary: Vocabulary = recipe.vocabulary(model.run)
    tokens, lengths = vocabulary.encode_all([document.text for document in documents]), vocabulary.lengths()
    span = min(span, model.facts.window - 1)
    found = surprises(
        model.denoiser, tokens, model.facts.end, context=model.facts.window - span, block=span, draws=draws,
        batch=model.given.batch or (64 if torch.device(model.device).type == "cpu" else 512), device=model.device, look=look,
    )  # fmt: skip
    return [
        Scored(
            document, float(each.bound.sum()), xz(document.text), *by_line(document.text, each.doubt[:-1], lengths[ids])
        )
        for document, ids, each in zip(documents, tokens, found)
    ]


def xz(text: bytes) -> float:
    """Bits that xz takes for a text alone."""
    return 8.0 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def least_likely(every: Sequence[Scored], count: int) -> list[tuple[int, int]]:
    """(document, line) of the lines with the most bits beyond what as many bytes have on the average, the most first; equal
    ones in order. Lines without anything but blanks are left out."""
    rate = sum(each.doubt.sum() for each in every) / max(1, sum(each.size for each in every))
    ranked = []
    for i, each in enumerate(every):
        lines = each.document.text.split(b"\n")
        excess = each.doubt - rate * each.sizes
        ranked += [(-float(excess[line]), i, line) for line in range(len(excess)) if lines[line].strip()]
    return [(i, line) for _, i, line in sorted(ranked)[:count]]
