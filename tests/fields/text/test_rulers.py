"""The rulers: compressors count what they write, n-grams are probabilities and know what is common."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sfumato.fields.text.rulers import compressed, likeliest, ngram
from tests.laws.token_tables import sequences

V, LONG = 3, 3
END = V
LENGTHS = np.array([1, 2, 3, 0, 0])


def test_witten_bell_by_hand() -> None:
    """Training text [end] 0 0 1 [end]: three kinds among its five tokens."""
    train = np.array([END, 0, 0, 1, END])
    counts, kinds, total = {0: 2, 1: 1, END: 2}, 3, 5
    first = {w: (counts.get(w, 0) + kinds / (V + 1)) / (total + kinds) for w in range(V + 1)}
    after = {END: {0: 1}, 0: {0: 1, 1: 1}, 1: {END: 1}}

    def second(w: int, h: int) -> float:
        seen = after.get(h, {})
        n, k = sum(seen.values()), len(seen)
        return (seen.get(w, 0) + k * first[w]) / (n + k) if n else first[w]

    document = np.array([0, 2, 1])
    pairs = [(0, END), (2, 0), (1, 2), (END, 1)]
    for order, p in ((1, lambda w, h: first[w]), (2, second)):
        found = ngram(train, [document, document], LENGTHS, END, V, order)
        expected = -sum(math.log2(p(w, h)) for w, h in pairs)
        assert found.bits[0] == pytest.approx(expected)
        assert found.bits.shape == (2,)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_n_grams_are_probabilities(order: int) -> None:
    """Over all documents of up to six tokens they add up to one, less what is left for longer ones."""
    rng = np.random.default_rng(0)
    train = np.concatenate([[END], *([*rng.integers(0, V, rng.integers(0, 4)), END] for _ in range(60))])
    totals = [
        float((2.0 ** -ngram(train, list(sequences(V, n).reshape(-1, n).numpy()), LENGTHS, END, V, order).bits).sum())
        for n in range(1, 7)
    ]
    empty = float(2.0 ** -ngram(train, [np.array([], dtype=np.int64)], LENGTHS, END, V, order).bits[0])
    assert 0.9 < empty + sum(totals) < 1
    with pytest.raises(ValueError, match="order must be from 1 to"):
        ngram(train, [np.array([0])], LENGTHS, END, V, 40)


def test_compressors_count_what_they_write() -> None:
    import gzip

    train, held = [b"the quick brown fox " * 50], [b"the quick brown fox jumps " * 20, bytes(range(256)) * 3]
    found = compressed(train, held)
    assert found["gzip"].bits.tolist() == [8 * len(gzip.compress(text, 9)) for text in held]
    assert found["xz after the training text"].per_byte < found["xz, all at once"].per_byte < found["xz"].per_byte
    assert all(scores.bytes.tolist() == [520, 768] for scores in found.values())


def test_what_a_trigram_fills_in() -> None:
    """After 0 1 comes 2 more often than 0; after an unseen pair ending in 1, what follows 1; after nothing known, the mode."""
    train = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0, 3, 1, 0, 0, 1])
    found = likeliest(train, np.array([[9, 0, 1], [9, 2, 1], [9, 5, 5]]), 2, 10)
    assert found.tolist() == [[2, 0], [0, 0], [0, 1]]
