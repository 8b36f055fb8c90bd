"""What a model of texts is judged by: bits per byte, the holes it fills rightly, and plain facts about what it writes.

Every number stands beside its ruler: compressors and n-grams for the bits, a trigram for the holes, held-out texts for the
facts. All are functions of the run and the options alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from sfumato.diffusion import Confidence, Denoiser, Streams, key, sample, uniform
from sfumato.fields.text.bits import Scores, See, score
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.heard import Heard, Hearing
from sfumato.fields.text.options import Measured
from sfumato.fields.text.reading import reader
from sfumato.fields.text.rulers import compressed, likeliest, ngram
from sfumato.fields.text.samples import Seen, parses
from sfumato.fields.text.writing import Sharpened, around
from sfumato.metrics.distances import MetricError
from sfumato.metrics.intervals import share_interval
from sfumato.metrics.table import Better, Row

GREEDY = 1e-3  # a temperature at which the likeliest is drawn


Texts = list[tuple[str, np.ndarray]]
"""Documents: their names and tokens."""
Look = Callable[[str, int, int], None]  # what, how many are done, of how many


def bits(
    corpus: Corpus,
    denoiser: Denoiser,
    asked: Measured,
    device: torch.device | str,
    look: Look,
    cache: Path | None = None,
) -> list[Row]:
    """Bits per byte of held-out documents: the model's, and each ruler's of the same documents.

    MetricError where fewer than two documents are held out.
    """
    chosen = choose(corpus, asked.tokens)
    alone, heard = read_bits(corpus, denoiser, chosen, asked.span, asked.draws, device, look)
    return [
        _bits_row(name, scores, corpus.facts.train.documents)
        for name, scores in {
            "bits_per_byte": alone,
            "bits_per_byte_heard": heard,
            **{f"... of {k}": v for k, v in rulers(corpus, chosen, cache).items()},
        }.items()
    ]


def read_bits(
    corpus: Corpus, denoiser: Denoiser, chosen: Texts, span: int, draws: int, device: torch.device | str, look: Look
) -> tuple[Scores, Scores]:
    """The model's bits of documents, `span` tokens at a time: alone, and where what it has read before counts (`heard`)."""
    hearing = Hearing(Heard.of(corpus.train, [ids for _, ids in chosen], corpus.facts.end), draws)
    alone = own_bits(corpus, denoiser, chosen, span, draws, device, look, hearing.see)
    return alone, hearing.scores(alone)


def own_bits(
    corpus: Corpus, denoiser: Denoiser, chosen: Texts, span: int, draws: int, device: torch.device | str, look: Look,
    see: See | None = None,
) -> Scores:  # fmt: skip
    """The model's bits of documents, `span` tokens at a time."""
    span = min(span, corpus.facts.window - 1)
    return score(
        denoiser,
        [ids for _, ids in chosen],
        corpus.vocabulary.lengths(),
        corpus.facts.end,
        context=max(1, corpus.facts.window - span),
        block=span,
        draws=draws,
        batch=64 if torch.device(device).type == "cpu" else 512,
        device=device,
        look=lambda done, of: look("bits per byte", done, of),
        given=corpus.prompts_of([name for name, _ in chosen]),
        see=see,
    )


def rulers(corpus: Corpus, chosen: Texts, cache: Path | None = None) -> dict[str, Scores]:
    """Bits of documents under compressors and n-grams of the training text, by name; kept in the folder `cache`, since
    they depend on the texts alone."""
    key_ = f"{corpus.facts.source} {sha256(repr([name for name, _ in chosen]).encode()).hexdigest()}"
    file = None if cache is None else cache / "rulers.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
        if kept.get("of") == key_:
            return {name: Scores(np.array(b, float), np.array(n)) for name, (b, n) in kept["rulers"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # not kept, or damaged: found again
    documents, lengths, decode = [ids for _, ids in chosen], corpus.vocabulary.lengths(), corpus.vocabulary.decode
    given = corpus.prompts_of([name for name, _ in chosen])
    prompts = [decode(ids[:count]) for ids, count in zip(documents, given)]
    train = [decode(ids) for _, ids in corpus.texts("train")]
    found = dict(compressed(train, [decode(ids) for ids in documents], prompts))
    for order in (1, 3, 4):
        if (corpus.facts.vocab + 2) ** order < 2**63:
            found[f"{order}-gram of tokens"] = ngram(
                corpus.train, documents, lengths, corpus.facts.end, corpus.facts.vocab, order, given
            )
    if file is not None:
        plain = {name: [scores.bits.tolist(), scores.bytes.tolist()] for name, scores in found.items()}
        file.write_text(json.dumps({"of": key_, "rulers": plain}), encoding="utf-8")
    return found


def choose(corpus: Corpus, tokens: int) -> Texts:
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
    """Share of holes of 1, 3 and 8 tokens in held-out windows (none in prompts, which are not learned) that are filled with
    what stood there, to the token, the surest first; beside what a trigram fills in, which sees the left side alone."""
    rows: list[Row] = []
    for size in (1, 3, 8):
        found = drawn_holes(corpus, size, asked.holes)
        if found is None:
            continue
        x, open_ = found
        truth, count = x[open_].reshape(-1, size), len(x)
        before = torch.stack([row[f - 2 : f] for row, f in zip(x, open_.int().argmax(1).tolist())]).numpy()
        trigram = int((likeliest(corpus.train, before, size, corpus.facts.vocab) == truth.numpy()).all(1).sum())
        right = 0
        for start in range(0, count, 32):
            part = slice(start, start + 32)
            filled = fill(denoiser, x[part], ~open_[part], size, device)[open_[part]].reshape(-1, size)
            right += int((filled == truth[part]).all(1).sum())
            look(f"holes of {size}", min(start + 32, count), count)
        for name, hits in ((f"holes_of_{size}_right", right), (f"... of {size} by a trigram", trigram)):
            rows.append(_share_row(name, hits / count, None, count, corpus.facts.train.documents))
    return rows


def drawn_holes(corpus: Corpus, size: int, most: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Held-out windows (B, L), and where each has a hole of ``size`` tokens (B, L) bool, none of them of a prompt; at most so
    many, the same every time. None where there are none."""
    windows = corpus.windows("held_out")
    length = windows.batch([0])["x"].shape[1]
    if length < size + 4 or not most:
        return None
    count = min(most, len(windows) * (length // (2 * size)))
    where = Streams(key("holes", size), range(count)).uniform((count, 2), torch.float64)
    batch = windows.batch((where[:, 0] * len(windows)).long().numpy())
    x, place = torch.from_numpy(batch["x"]), torch.arange(length)
    first = 2 + (where[:, 1] * (length - size - 2)).long()[:, None]
    open_ = (place >= first) & (place < first + size)
    if "weight" in batch:
        learned = ~(open_ & (torch.from_numpy(batch["weight"]) == 0)).any(1)
        x, open_ = x[learned], open_[learned]
    return (x, open_) if len(x) else None


def fill(
    denoiser: Denoiser, x: torch.Tensor, known: torch.Tensor, steps: int, device: torch.device | str
) -> torch.Tensor:
    """Tokens (B, L) with what is not `known` (B, L) written greedily, the surest first."""
    x, known = x.to(device), known.to(device)
    guess = around(Sharpened(reader(denoiser), GREEDY), x, known)
    rng = Streams(key("fill"), range(len(x)), device)
    times = uniform(guess.process.schedule, steps)
    return sample(guess, guess.process.prior(x, rng), times, Confidence(), rng).cpu()


def facts(corpus: Corpus, written: Sequence[bytes], seen: Seen | None = None) -> list[Row]:
    """Shares of written texts that differ, that are not copied, and, for Python, that parse; the floors are those of as many
    beginnings of held-out documents, cut to as many tokens.

    `sound` are those that parse (of Python), stand alone among those written, and are copied for less than half. `seen` is
    what the training text holds, where it is known already.
    """
    n, reference, code = len(written), corpus.facts.train.documents, corpus.facts.suffix in (".py", ".pyi")
    tokens = corpus.vocabulary.encode_all(written)
    typical = int(np.median([len(ids) for ids in tokens]))
    real = [ids[:typical] for _, ids in corpus.texts("held_out")]
    seen, decode = Seen(corpus.train) if seen is None else seen, corpus.vocabulary.decode

    def shares(texts: Sequence[bytes], ids: Sequence[np.ndarray]) -> dict[str, float]:
        copies, times = seen.copies(ids), Counter(texts)
        alone = np.array([times[text] == 1 for text in texts])
        well = np.array([parses(text) if code else bool(text.strip()) for text in texts])
        return {
            "parses" if code else "not_empty": float(well.mean()),
            "distinct": len(times) / len(texts),
            "copied": float(copies.share.mean()),
            "half_is_copied": float((copies.longest > typical / 2).mean()),
            "sound": float((well & alone & (copies.longest <= typical / 2)).mean()),
        }

    mine = shares(written, tokens)
    theirs = shares([decode(ids) for ids in real], real) if real else {}
    return [
        _share_row(name, share, theirs.get(name), n, reference, "lower" if "copied" in name else "higher")
        for name, share in mine.items()
    ]


def _share_row(name: str, share: float, floor: float | None, n: int, reference: int, better: Better = "higher") -> Row:
    low, high = share_interval(share, n)
    return Row(name, share, low, high, floor, better, n, reference)
