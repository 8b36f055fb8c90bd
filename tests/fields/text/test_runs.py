"""Runs of unknown length that stand elsewhere between the same tokens: by brute force, and beside what was drawn."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion.gaps import Gaps
from sfumato.fields.text.echo import Echo, Source, runs
from sfumato.fields.text.opening import Opened, Tries, heard

GAPS = Gaps(12, 13, 15, 14)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2), min_size=14, max_size=40), st.data())
def test_runs_are_those_between_the_same_tokens(text: list[int], data: st.DataObject) -> None:
    left = data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=3))
    right = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    expected: Counter[tuple[int, ...]] = Counter()
    for place in range(2, len(text) - 2):
        if text[max(0, place - len(left)) : place] != left or place + 4 + len(right) > len(text):
            continue
        for n in range(5):
            if text[place + n : place + n + len(right)] == right:
                expected[tuple(text[place : place + n])] += 1
                break  # the nearest end is its end
    assert runs(Source(np.array(text)), left, right, 4) == expected
    assert not runs(Source(np.array(text)), left[:1], right, 4)
    assert not runs(Source(np.array(text)), left, [], 4)


def test_what_stands_elsewhere_is_weighed_against_what_was_drawn() -> None:
    """Once against what the model is sure of, and often: counts over counts and kinds, two neighbours before three."""
    line = [1, 2, 5, 6, 7, 3, 4, 0]
    once, often = (Echo((Source(np.array([0, 0, *line * n, 0, 0] + [9] * 30)),), 10) for n in (1, 9))
    drawn = {(8,): 0.75, (8, 8): 0.25}
    law = once.runs([2, 1, 2], [3, 4, 1], drawn)  # three neighbours stand nowhere
    assert law[5, 6, 7] == pytest.approx(1 / 2)
    assert law[8,] == pytest.approx(0.75 / 2)
    assert sum(law.values()) == pytest.approx(1)
    three = once.runs([0, 1, 2], [3, 4, 0], drawn)
    assert three[5, 6, 7] == pytest.approx((1 + 1 / 2) / 2)
    assert often.runs([0, 1, 2], [3, 4, 0], drawn)[8,] < 0.02
    two = Echo((Source(np.array([0, 0, *line, 1, 2, 9, 3, 4, 0, 0, 0] + [9] * 30)),), 10)
    law = two.runs([2, 1, 2], [3, 4, 1], drawn)
    assert (law[5, 6, 7], law[9,], law[8,]) == pytest.approx((1 / 4, 1 / 4, 2 * 0.75 / 4))  # two kinds count two
    assert once.runs([4, 4], [3, 4], drawn) == drawn
    ends = Echo((Source(np.array([0, 1, 2, 11, 3, 4] + [9] * 30)),), 10)  # an end is no text: the hole itself
    assert ends.runs([1, 2], [3, 4], drawn) == drawn


def test_a_gap_is_filled_by_what_is_likeliest_of_both() -> None:
    line = [1, 2, 5, 6, 7, 3, 4, 0]
    echo = Echo((Source(np.array(line * 3 + [9] * 30)),), 10)
    tries = Tries.of(np.array([0, 1, 2]), np.array([3, 4, 0]), GAPS, 24, 2)
    drawn = [Opened(np.array([8]), -3.0), Opened(np.array([8, 8]), -4.0)]
    best = heard(drawn, echo, tries, lambda tokens: True)
    assert best is not None
    assert best.tokens.tolist() == [5, 6, 7]
    best = heard(drawn, echo, tries, lambda tokens: 6 not in tokens)
    assert best is not None
    assert best.tokens.tolist() == [8]
    assert heard(drawn, echo, tries, lambda tokens: False) is None
    nowhere = Tries.of(np.array([4, 4, 4]), np.array([4, 4, 4]), GAPS, 24, 2)
    best = heard(drawn, echo, nowhere, lambda tokens: True)
    assert best is not None
    assert best.tokens.tolist() == [8]
    assert math.exp(best.log_text) == pytest.approx(1 / (1 + math.exp(-1)))
    full = Tries(np.array([0, 1, 2]), np.array([3, 4, 0]), GAPS, 8, 2)
    best = heard(drawn, echo, full, lambda tokens: True)
    assert best is not None
    assert best.tokens.tolist() == [8]  # there is no room for more
