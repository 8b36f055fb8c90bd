"""What bits per byte and fillings are read beside: compressors that everybody has, and n-grams of the same tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sfumato.fields.text.bits import Scores, sizes


def compressed(
    train: Sequence[bytes], held_out: Sequence[bytes], prompts: Sequence[bytes] | None = None
) -> Mapping[str, Scores]:
    """Bits of the held-out documents under compressors that everybody has; of those that begin with a prompt, what the rest
    adds to it.

    gzip and xz take each document by itself, as the model does; "xz, all at once" the held-out documents joined, and
    "xz after the training text" what they add to it (for which xz's window, 64 MB, is long enough or not). The last two
    share their bits out by the documents' bytes: an interval of theirs would mean nothing.
    """
    import lzma
    import zlib

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 64 << 20}]

    def xz(text: bytes) -> int:
        return len(lzma.compress(text, lzma.FORMAT_XZ, filters=filters))

    before_ = prompts or [b""] * len(held_out)
    size = np.array([len(text) - len(prompt) for text, prompt in zip(held_out, before_)], dtype=np.int64)

    def each(bytes_of: Callable[[bytes], int]) -> Scores:
        added = [bytes_of(text) - (bytes_of(prompt) if prompt else 0) for text, prompt in zip(held_out, before_)]
        return Scores(8.0 * np.array(added), size)

    def shared(total: int) -> Scores:
        return Scores(8.0 * total * size / size.sum(), size)

    joined, before, asked = b"".join(held_out), b"".join(train), b"".join(before_)
    return {
        "gzip": each(lambda text: len(zlib.compress(text, 9, wbits=31))),
        "xz": each(xz),
        "xz, all at once": shared(xz(joined) - (xz(asked) if asked else 0)),
        "xz after the training text": shared(xz(before + joined) - xz(before + asked)),
    }


def ngram(
    train: np.ndarray, documents: Sequence[np.ndarray], lengths: np.ndarray, end: int, vocab: int, order: int,
    given: Sequence[int] | None = None,
) -> Scores:  # fmt: skip
    """Bits of documents under token n-grams with Witten-Bell back-off (Witten and Bell 1991), counted in `train` (n,).

    p_k(w | h) = (c(h w) + T(h) p_(k-1)(w | h')) / (c(h) + T(h)), where T(h) is the number of different tokens seen after h
    and h' is h without its first token; p_0 is even over the V + 1 tokens that can be written. Order 1 is the unigram. The
    first, `given` tokens of each document are in sight and not counted.
    ValueError for an order below 1, or so high that a run of tokens has no number of 64 bits.
    """
    base = vocab + 2
    if order < 1 or base**order >= 2**63:
        raise ValueError(f"order must be from 1 to {int(63 / math.log2(base))} for {vocab} tokens, got {order}")
    whole = [np.concatenate([[end], ids, [end]]).astype(np.int64) for ids in documents]
    asked = np.concatenate(whole)
    scored = np.concatenate([np.arange(len(ids)) > skip for ids, skip in zip(whole, given or [0] * len(whole))])
    p = np.full(len(asked), 1.0 / (vocab + 1))
    for k in range(1, order + 1):
        runs, counts = np.unique(_runs(train.astype(np.int64), k, base), return_counts=True)
        heads, first, kinds = np.unique(runs // base, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        here = _runs(asked, k, base)
        c, total, kind = (
            _find(runs, counts, here),
            _find(heads, totals, here // base),
            _find(heads, kinds, here // base),
        )
        lower = p[k - 1 :]
        p = p.copy()
        p[k - 1 :] = np.where(total > 0, (c + kind * lower) / np.maximum(total + kind, 1), lower)
    bits = -np.log2(p) * scored
    starts = np.cumsum([0, *map(len, whole)])[:-1]
    return Scores(np.add.reduceat(bits, starts), sizes(documents, lengths, given))


def likeliest(train: np.ndarray, before: np.ndarray, count: int, vocab: int) -> np.ndarray:
    """What a trigram would fill in, `count` tokens after `before` (B, n >= 2), one by one: (B, count) int64.

    The token most often seen in `train` after the last two, after the last one where those were never seen, or the most
    common one; of equally common ones the smallest.
    """
    base, tokens = vocab + 2, train.astype(np.int64)
    tables = []
    for k in (3, 2, 1):
        runs, counts = np.unique(_runs(tokens, k, base), return_counts=True)
        order = np.lexsort((runs, -counts, runs // base))
        heads, first = np.unique((runs // base)[order], return_index=True)
        tables.append((k, heads, runs[order][first] % base))
    line = before.astype(np.int64)
    for _ in range(count):
        best = np.full(len(line), -1)
        for k, heads, tokens in tables:
            head = _runs(line[:, -(k - 1) :].T, k - 1, base)[0] if k > 1 else np.zeros(len(line), dtype=np.int64)
            best = np.where(best < 0, _find(heads, tokens + 1, head) - 1, best)
        line = np.concatenate([line, best[:, None]], 1)
    return line[:, -count:]


def _runs(tokens: np.ndarray, length: int, base: int) -> np.ndarray:
    """The number of each run of `length` tokens along the first axis: (n - length + 1, ...) int64."""
    number = np.zeros((max(0, len(tokens) - length + 1), *tokens.shape[1:]), dtype=np.int64)
    for offset in range(length):
        number = number * base + tokens[offset : offset + len(number)]
    return number


def _find(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key among the sorted ones, 0 for those that are not there."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
