"""Weights of captions: each takes as many turns as it is heavy, and what is no weight is said."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import Wrong
from sfumato.fields.captions.reading import Asked, listed
from sfumato.fields.captions.recipe import Captions
from sfumato.fields.captions.weighing import ROUNDS, taking_turns, turns, weighed
from tests.fields.captions.test_reading import pictures


@pytest.mark.parametrize(("weights", "wanted"), [
    ([1, 1], {0: 1, 1: 1}), ([0.5, 0.5], {0: 1, 1: 1}), ([3, 1], {0: 3, 1: 1}), ([1, 3], {0: 1, 1: 3}),
    ([0.7, 0.3], {0: 5, 1: 2}), ([0.9, 0.1], {0: 7, 1: 1}), ([2, 1, 1], {0: 2, 1: 1, 2: 1}), ([5.0], {0: 1}),
    ([1e6, 1e-6], {0: 7, 1: 1}),
])  # fmt: skip
def test_each_takes_as_many_turns_as_it_is_heavy(weights: list[float], wanted: dict[int, int]) -> None:
    found = turns(weights)
    assert Counter(found) == wanted
    assert weights[found[0]] == max(weights)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12))
def test_no_other_number_of_turns_would_be_nearer(weights: list[float]) -> None:
    found = Counter(turns(weights))
    assert sum(found.values()) <= ROUNDS
    heaviest = sorted(weights, reverse=True)[: len(found)]
    assert sorted((weights[i] for i in found), reverse=True) == heaviest
    assert len(found) == min(len(weights), ROUNDS)
    if len(weights) <= 3:
        shares = [weight / sum(weights) for weight in weights]

        def far(counts: tuple[int, ...]) -> float:
            return max(abs(count / sum(counts) - share) for count, share in zip(counts, shares))

        every = itertools.product(range(1, ROUNDS + 1), repeat=len(weights))
        best = min(far(counts) for counts in every if sum(counts) <= ROUNDS)
        assert far(tuple(found[i] for i in range(len(weights)))) == pytest.approx(best, abs=1e-6)


def test_turns_of_a_caption_are_spread_out() -> None:
    order = turns([0.75, 0.25])
    assert sorted(order) == [0, 0, 0, 1]
    assert order[-1] != 1 or order[0] != 1
    assert taking_turns({"b": 1.0, "a": 1.0}) == ("b", "a")
    assert taking_turns({str(i): 1.0 for i in range(20)}) == tuple(map(str, range(20)))  # which are cut later, and said


@pytest.mark.parametrize(("columns", "said"), [
    (("long=.5", "short"), "caption_column = 'short': has no weight, and others have; give each one, such as short=.5"),
    (("long=much",), "caption_column = 'long=much': must be a column, or a column and a weight above 0"),
    (("long=0",), "weight above 0"), (("long=-1",), "weight above 0"), (("long=nan",), "weight above 0"),
    (("=1",), "must be a column"),
])  # fmt: skip
def test_what_is_no_weight_is_said_before_anything_is_read(columns: tuple[str, ...], said: str) -> None:
    with pytest.raises(Wrong, match=said):
        Captions(Path("nowhere"), caption_column=columns)


def test_columns_have_their_shares_of_a_table(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "a.png", "b.png", "c.png")
    lines = ["file_name,short,long", "a.png,hat,a red hat", "b.png,,only long", "c.png,same,same", ""]
    (data / "x.csv").write_text("\n".join(lines))
    assert weighed(("short=1", "long=3")) == (("short", "long"), (1.0, 3.0))
    found = listed(data / "x.csv", Asked(caption=("short=1", "long=3")), tmp_path)
    by_name = {path.name: texts for path, texts in zip(found.files, found.captions)}
    assert Counter(by_name["a.png"]) == {"hat": 1, "a red hat": 3}
    assert by_name["a.png"][0] == "a red hat"  # the heaviest first: it is the one that is held out
    assert by_name["b.png"] == ("only long",)
    assert by_name["c.png"] == ("same",)


def test_a_heavier_caption_is_learned_from_more_often(tmp_path: Path) -> None:
    """Over one pass of the data each caption is met as often as its weight says, and every picture as often as the others."""
    pytest.importorskip("tokenizers", reason="needs the extra sfumato[captions]")
    from sfumato.training.run import Run

    data = pictures(tmp_path / "data", *(f"{i}.png" for i in range(20)))
    rows = [f"{i}.png,short {i},long {i}" for i in range(20)]
    (data / "metadata.csv").write_text("\n".join(["file_name,short,long", *rows]))
    run = Run(tmp_path / "run")
    run.create()
    recipe = Captions(data, caption_column=("short=1", "long=3"), side=16, vocab=280, held_out=0.2)
    opened = recipe.prepare(run, lambda text: None).open(run)
    train = opened.train
    said = Counter(train.caption(i).split()[0] for i in range(len(train)))
    assert said["long"] == 3 * said["short"] > 0
    assert set(Counter(train.name(i) for i in range(len(train))).values()) == {4}
    assert all(opened.held_out.caption(i).startswith("long") for i in range(len(opened.held_out)))
    assert opened.facts.captions == 40
    assert np.array_equal(train.batch(np.array([0]))["caption"], train.batch(np.array([len(train.of)]))["caption"])
