"""What was read before counts: the mixture is a law over texts, looks at nothing that is not read yet, and learns in a text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion import Masked
from sfumato.fields.text.bits import Scores, score
from sfumato.fields.text.echo import Source
from sfumato.fields.text.heard import LAWS, Heard, Hearing, Said, mixed
from tests.laws.token_tables import sequences

NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Even:
    """Knows nothing: all tokens, and the end, are as likely."""

    tokens: int

    @property
    def process(self) -> Masked:
        return Masked(self.tokens + 1)

    def answer(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x_t.shape, self.tokens + 1)


def heard(
    documents: list[np.ndarray], guess: Any, train: np.ndarray = NOTHING, block: int = 1, draws: int = 1
) -> tuple[Scores, Scores]:
    """The bits of documents alone, and heard."""
    end = guess.tokens
    hearing = Hearing(Heard.of(train, documents, end), draws)
    lengths = np.ones(end + 2, dtype=np.int64)
    alone = score(guess, documents, lengths, end, context=6, block=block, draws=draws, see=hearing.see)
    return alone, hearing.scores(alone)


@pytest.mark.parametrize("train", [NOTHING, np.tile([1, 0, 0, 1, 0, 0, 0], 5)])
def test_the_probabilities_of_all_texts_of_a_length_sum_to_one(train: np.ndarray) -> None:
    """Of all rows of eight tokens, of which the end of a text may be one: token after token, so that there is no bound but the
    probability itself. Who looked ahead would promise more than there is."""
    documents = list(sequences(2, 8).numpy())
    hearing = Hearing(Heard.of(train, documents, 1), 1)
    score(Even(1), documents, np.ones(3, dtype=np.int64), 1, context=6, block=1, draws=1, see=hearing.see)
    last = {document: number for number, document in sorted(hearing.documents.items())}
    rows = [each for each in hearing.said if each.span != last[hearing.documents[each.span]]]  # without what follows
    p = np.exp(-mixed(rows, hearing.documents, len(documents)))
    assert p.sum() == pytest.approx(1)
    assert p.max() > 5 * p.min()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2), min_size=12, max_size=30), st.integers(4, 10), st.data())
def test_each_law_is_one_and_knows_what_stands_before_alone(text: list[int], before: int, data: st.DataObject) -> None:
    left = data.draw(st.lists(st.integers(0, 2), max_size=3))
    right = data.draw(st.lists(st.integers(0, 2), max_size=3))
    base = np.array([0.5, 0.3, 0.2])
    laws = []
    for rest in (text[before:], [2, 1, 0] * 6, []):
        document = np.array(text[:before] + rest)
        both = Heard(Source(np.array(text)), [Source(document)])
        laws.append(np.array([both.laws(base[token], token, left, right, 0, before) for token in range(3)]))
    assert laws[0].shape == (3, LAWS)
    np.testing.assert_allclose(laws[0].sum(0), 1)
    np.testing.assert_allclose(laws[0], laws[1])
    if before > 8:  # long enough to look anything up
        places = [p for p in Source(np.array(text)).places(left, right, before) if p + len(right) < before]
        assert len(places) == len(Source(np.array(text)).places(left, right, before))


def test_places_before_a_place_are_those_of_the_text_up_to_it() -> None:
    text = np.random.default_rng(0).integers(0, 2, 60)
    for before in (10, 31, 60):
        for left, right in (([0], [1]), ([1, 0], []), ([], [0, 1]), ([0, 1, 1], [0]), ([1], [1, 0, 0])):
            found = Source(text).places(left, right, before)
            inside = [p for p in Source(text).places(left, right) if p + len(right) < before]
            assert sorted(found.tolist()) == sorted(inside)
            assert len(found) < len(Source(text).places(left, right)) or before == 60


def test_a_text_that_repeats_itself_is_learned_as_it_is_read() -> None:
    line = np.random.default_rng(1).integers(0, 30, 12)
    guess = Even(30)
    once, often = (heard([np.tile(line, n)], guess)[1] for n in (1, 12))
    assert once.per_byte == pytest.approx(math.log2(31) * 13 / 12, rel=0.02)
    assert often.per_byte < 0.35 * once.per_byte
    random = np.random.default_rng(2).integers(0, 30, 144)
    alone, with_ = heard([random], guess)
    assert with_.per_byte < 1.1 * alone.per_byte  # where nothing repeats little is lost
    learned = heard([line], guess, np.tile(np.append(line, 30), 4))[1]
    assert learned.per_byte < 0.6 * once.per_byte
    blocks = heard([np.tile(line, 12)], guess, block=4, draws=4)[1]
    assert often.per_byte < blocks.per_byte < 0.8 * once.per_byte  # what is hidden around tells less


def test_the_law_that_says_well_is_heeded_from_the_next_block_on() -> None:
    good, flat = np.array([0.1, 0.1, 0.1, 0.9]), np.full(LAWS, 0.25)
    first = mixed([Said(0, 1, good, 1.0)], {0: 0}, 1)[0]
    assert first == pytest.approx(-math.log(0.3))
    both = mixed([Said(0, 1, good, 1.0), Said(0, 1, good, 1.0)], {0: 0}, 1)[0]
    assert both == pytest.approx(2 * first)  # of one block nothing is known yet
    many = [mixed([Said(i, 1, good, 1.0) for i in range(n)], dict.fromkeys(range(n), 0), 1)[0] for n in (1, 2, 30, 31)]
    assert many[1] - many[0] < first
    assert many[3] - many[2] == pytest.approx(-math.log(0.9), abs=0.15)
    other = mixed([Said(0, 1, good, 1.0), Said(1, 2, good, 1.0), Said(2, 1, flat, 1.0)], {0: 0, 1: 0, 2: 1}, 2)
    assert other[0] == pytest.approx(2 * first)  # neighbours elsewhere, another document: each begins anew
    assert other[1] == pytest.approx(-math.log(0.25))
