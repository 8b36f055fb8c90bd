"""What a model of texts is judged by: bits per byte, the holes it fills rightly, and plain facts about what it writes.

Every number stands beside its ruler: compressors and n-grams for the bits, a trigram for the holes, held-out texts for the
facts. All are functions of the run and the options alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sfumato.diffusion import Confidence, Denoiser, Streams, infill, key, sample, uniform
from sfumato.fields.text.bits import Scores, score
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.rulers import compressed, likeliest, ngram
from sfumato.fields.text.samples import Seen, parses
from sfumato.fields.text.writing import Sharpened
from sfumato.metrics.distances import MetricError
from sfumato.metrics.table import Row, _share_interval

GREEDY = 1e-3  # a temperature at which the likeliest is drawn


@dataclass(frozen=True)
class Measured:
    """How a model of texts is measured."""

    block: int = 32
    """Tokens written at a time when bits are counted: fewer give a tighter bound and take longer."""
    draws: int = 2
    """Masks drawn for each block."""
    tokens: int = 100_000
    """Held-out tokens scored at most: whole documents, chosen by their content."""
    holes: int = 200
    """Holes of each size that are filled."""

    def __post_init__(self) -> None:
        for name in ("block", "draws", "tokens", "holes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")


Look = Callable[[str, int, int], None]  # what, how many are done, of how many


def bits(corpus: Corpus, denoiser: Denoiser, asked: Measured, device: torch.device | str, look: Look) -> list[Row]:
    """Bits per byte of held-out documents: the model's, and each ruler's of the same documents.

    MetricError where fewer than two documents are held out.
    """
    chosen = choose(corpus, asked.tokens)
    documents, lengths, end = [ids for _, ids in chosen], corpus.vocabulary.lengths(), corpus.facts.end
    context = max(1, corpus.facts.window - asked.block)
    mine = score(
        denoiser,
        documents,
        lengths,
        end,
        context=context,
        block=min(asked.block, corpus.facts.window - 1),
        draws=asked.draws,
        device=device,
        look=lambda done, of: look("bits per byte", done, of),
    )
    decode = corpus.vocabulary.decode
    rulers = compressed([decode(ids) for _, ids in corpus.texts("train")], [decode(ids) for ids in documents])
    grams = {
        f"{order}-gram of tokens": ngram(corpus.train, documents, lengths, end, corpus.facts.vocab, order)
        for order in (1, 3)
    }
    return [
        _bits_row(name, scores, corpus.facts.train.documents)
        for name, scores in {
            "bits_per_byte": mine,
            **{f"... of {k}": v for k, v in {**rulers, **grams}.items()},
        }.items()
    ]


def choose(corpus: Corpus, tokens: int) -> list[tuple[str, np.ndarray]]:
    """Held-out documents of at most so many tokens together, at least two of them, in an order that their names fix."""
    texts = list(corpus.texts("held_out"))
    if len(texts) < 2:
        raise MetricError(
            f"{len(texts)} documents are held out: bits per byte need at least 2; train with more held out"
        )
    order = sorted(range(len(texts)), key=lambda i: key("held out", texts[i][0]))
    total = 0
    chosen: list[tuple[str, np.ndarray]] = []
    for i in order:
        total += len(texts[i][1])
        if total > tokens and len(chosen) >= 2:
            break
        chosen.append(texts[i])
    return chosen


def _bits_row(name: str, scores: Scores, reference: int) -> Row:
    value, low, high = scores.interval()
    return Row(name, value, low, high, None, "lower", len(scores.bits), reference)


@torch.no_grad()
def holes(corpus: Corpus, denoiser: Denoiser, asked: Measured, device: torch.device | str, look: Look) -> list[Row]:
    """Share of holes of 1, 3 and 8 tokens in held-out windows that are filled with what stood there, to the token, the surest
    first; beside what a trigram fills in, which sees the left side alone."""
    windows = corpus.windows("held_out")
    length = windows.batch([0])["x"].shape[1]
    rows = []
    for size in (1, 3, 8):
        if length < size + 4:
            continue
        count = min(asked.holes, len(windows) * (length // (2 * size)))
        rng = Streams(key("holes", size), range(count))
        where = rng.uniform((count, 2), torch.float64)
        numbers = (where[:, 0] * len(windows)).long().numpy()
        first = 2 + (where[:, 1] * (length - size - 2)).long()
        x = torch.from_numpy(windows.batch(numbers)["x"])
        open_ = (torch.arange(length) >= first[:, None]) & (torch.arange(length) < first[:, None] + size)
        right = trigram = 0
        for start in range(0, count, 32):
            part = slice(start, start + 32)
            truth = x[part][open_[part]].reshape(-1, size)
            filled = fill(denoiser, x[part], ~open_[part], size, device)[open_[part]].reshape(-1, size)
            right += int((filled == truth).all(1).sum())
            before = torch.stack([row[f - 2 : f] for row, f in zip(x[part], first[part])]).numpy()
            trigram += int((likeliest(corpus.train, before, size, corpus.facts.vocab) == truth.numpy()).all(1).sum())
            look(f"holes of {size}", min(start + 32, count), count)
        for name, hits in ((f"holes_of_{size}_right", right), (f"... of {size} by a trigram", trigram)):
            rows.append(_share_row(name, hits / count, None, count, corpus.facts.train.documents))
    return rows


def fill(
    denoiser: Denoiser, x: torch.Tensor, known: torch.Tensor, steps: int, device: torch.device | str
) -> torch.Tensor:
    """Tokens (B, L) with what is not `known` (B, L) written greedily, the surest first."""
    x, known = x.to(device), known.to(device)
    guess = infill(Sharpened(denoiser, GREEDY), x, known)
    rng = Streams(key("fill"), range(len(x)), device)
    times = uniform(guess.process.schedule, steps)
    return sample(guess, guess.process.prior(x, rng), times, Confidence(), rng).cpu()


def facts(corpus: Corpus, written: Sequence[bytes]) -> list[Row]:
    """Shares of written texts that differ, that are not copied, and, for Python, that parse; the floors are those of as many
    beginnings of held-out documents, cut to as many tokens."""
    tokens = corpus.vocabulary.encode_all(written)
    texts = [ids for _, ids in corpus.texts("held_out")]
    typical = int(np.median([len(ids) for ids in tokens])) if tokens else 0
    real = [ids[:typical] for ids in texts]
    n, reference = len(written), corpus.facts.train.documents
    seen = Seen(corpus.train)
    mine, theirs = seen.copies(tokens), seen.copies(real)
    rows = [
        _share_row("distinct", len(set(written)) / n, 1.0, n, reference),
        _share_row("copied", float(mine.share.mean()), float(theirs.share.mean()), n, reference, "lower"),
        _share_row(
            "longest_copy_is_half",
            float(np.mean(mine.longest > typical / 2)),
            float(np.mean(theirs.longest > typical / 2)),
            n,
            reference,
            "lower",
        ),
    ]
    if corpus.facts.suffix in (".py", ".pyi"):
        floor = float(np.mean([parses(corpus.vocabulary.decode(ids)) for ids in real])) if real else None
        rows.insert(0, _share_row("parses", float(np.mean([parses(text) for text in written])), floor, n, reference))
    return rows


def _share_row(name: str, share: float, floor: float | None, n: int, reference: int, better: str = "higher") -> Row:
    low, high = _share_interval(share, n)
    return Row(name, share, low, high, floor, better, n, reference)  # type: ignore[arg-type]
