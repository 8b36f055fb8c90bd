"""Bits per byte: exact where the model is exact, every token counted once, the same number every time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.diffusion import Masked
from sfumato.fields.text.bits import Scores, score, spans
from sfumato.metrics.distances import MetricError
from tests.laws.token_tables import random_table, sequences

V, LONG = 3, 3
END, MASK = V, V + 1
LENGTHS = np.array([1, 2, 3, 0, 0])


@dataclass(frozen=True)
class Exact:
    """The exact conditionals of documents of three tokens, whose joint law is a table, between two ends."""

    law: Tensor
    process: Any = Masked(MASK)

    def answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Logits (B, L, V + 1) of the first L tokens of [end] document [end]; what is not in sight is summed over."""
        ends = torch.full((len(self.law), 1), END)
        data = torch.cat([ends, sequences(V, LONG), ends], 1)[:, : x_t.shape[1]]
        fits = ((x_t[:, None] == data) | (x_t[:, None] == MASK)).all(-1) * self.law  # (B, N)
        hot = torch.nn.functional.one_hot(data, V + 1).double()
        return torch.einsum("bn,nlv->blv", fits, hot).log().clamp_min(-700)


def bits(block: int, draws: int, documents: Tensor, law: Tensor) -> Scores:
    return score(Exact(law), [d.numpy() for d in documents], LENGTHS, END, context=4, block=block, draws=draws)  # type: ignore[arg-type]


def test_law_11_one_token_at_a_time_the_bound_is_the_probability() -> None:
    """Each block is then one token, and the chain rule has no slack: to rounding, whatever the draws."""
    law, documents = random_table(V, LONG, seed=1), sequences(V, LONG)
    for draws in (1, 3):
        np.testing.assert_allclose(bits(1, draws, documents, law).bits, -law.log2().numpy(), atol=1e-5)


@pytest.mark.parametrize("block", [2, 3, 4])
def test_law_11_the_bound_of_exact_conditionals_is_the_probability(block: int) -> None:
    """In expectation over masks: 300 copies of each document, of which each has masks of its own."""
    law, copies = random_table(V, LONG, seed=1), 150
    found = bits(block, 4, sequences(V, LONG).repeat_interleave(copies, 0), law).bits.reshape(-1, copies)
    error = found.std(1, ddof=1) / math.sqrt(copies)
    away = (found.mean(1) + law.log2().numpy()) / np.maximum(error, 1e-6)
    assert np.abs(away).max() < 4
    assert abs(away.mean()) * math.sqrt(len(away)) < 4


def test_the_bound_of_a_worse_model_is_higher() -> None:
    """Gibbs: by the relative entropy, in the mean over the data's law."""
    data, model = random_table(V, LONG, seed=1), random_table(V, LONG, seed=2)
    found = bits(1, 1, sequences(V, LONG), model).bits
    excess = float((data * (torch.from_numpy(found) + data.log2())).sum())
    assert excess == pytest.approx(float((data * (data / model).log2()).sum()), abs=1e-5)
    assert excess > 0.1


def test_two_calls_give_the_same_number_at_any_batch() -> None:
    law, documents = random_table(V, LONG), list(sequences(V, LONG).numpy())
    found = [
        score(Exact(law), documents, LENGTHS, END, context=4, block=2, draws=2, batch=batch).bits  # type: ignore[arg-type]
        for batch in (64, 64, 5)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4), context=st.integers(1, 20), block=st.integers(1, 20))
def test_every_token_and_every_end_is_scored_once_in_its_place(sizes: list[int], context: int, block: int) -> None:
    documents = [np.arange(size) % V for size in sizes]
    scored: list[list[int]] = [[] for _ in documents]
    for span in spans(documents, END, context, block):
        whole = [END, *documents[span.document], END]
        scored[span.document] += span.tokens[span.first :].tolist()
        assert len(span.tokens) <= context + block  # and no shorter where there is that much before its end
        assert len(span.tokens) in (context + block, 1 + len(scored[span.document]))
        assert 1 <= span.first < len(span.tokens)  # something is always in sight, were it only the end before
        place = 1 + len(scored[span.document])
        assert span.tokens.tolist() == whole[place - len(span.tokens) : place]
    assert scored == [[*document.tolist(), END] for document in documents]


def test_bytes_are_those_of_the_pieces() -> None:
    found = bits(4, 1, torch.tensor([[0, 0, 0], [2, 1, 2]]), random_table(V, LONG))
    assert found.bytes.tolist() == [3, 8]


def test_a_network_that_answers_nan_is_not_given_a_number() -> None:
    law = random_table(V, LONG)
    with pytest.raises(MetricError, match="not finite"):
        bits(2, 1, sequences(V, LONG)[:3], law * math.nan)


def test_interval_of_a_ratio() -> None:
    """Documents of one rate have no interval; it covers the true rate in about nine of ten draws."""
    even = Scores(np.array([2.0, 4.0, 8.0]), np.array([1, 2, 4]))
    assert even.interval() == pytest.approx((2.0, 2.0, 2.0))
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        size = rng.integers(100, 1000, 25)
        _, low, high = Scores(size * rng.normal(2.0, 0.4, 25), size).interval()
        hits += low <= 2.0 <= high
    assert 850 < hits < 950
    with pytest.raises(MetricError, match="at least 2"):
        Scores(np.array([1.0]), np.array([1])).interval()
