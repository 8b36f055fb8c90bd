"""Rows as data: shared values lie elsewhere each time that they are learned from, and are the same values for all that."""

import numpy as np
import pytest
import torch

from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.families import LinkedRows
from sfumato.fields.tables.rows import TIMES, Anew, Rows, rows_of, table_of
from tests.fields.tables.tables import table


@pytest.fixture(scope="module")
def known() -> tuple[Facts, Rows]:
    """Minutes, of which several rows share most; amounts that one row each has; a word."""
    rng = np.random.default_rng(0)
    made = table(
        minutes=[f"{m}" for m in rng.integers(0, 240, 600)],
        amount=[f"{a:.6f}" for a in rng.normal(size=600)],
        word=[("a", "b")[i] for i in rng.integers(0, 2, 600)],
    )
    facts = Facts.of(made, np.arange(600))
    return facts, rows_of(made, facts)


def test_shared_values_move_and_stay_what_they_are(known: tuple[Facts, Rows]) -> None:
    facts, rows = known
    again = rows.anew()
    assert isinstance(again, Anew)
    assert len(again) == TIMES * len(rows)
    n, everyone = len(rows), np.arange(len(rows))
    real = table_of(rows.states, rows.values, facts, everyone.tolist())
    assert torch.equal(again.batch(everyone + n)["x"]["values"], again.batch(everyone + n)["x"]["values"])
    places = []
    for time in range(TIMES):
        batch = again.batch(everyone + time * n)
        assert torch.equal(batch["x"]["states"], torch.from_numpy(rows.states))
        values = batch["x"]["values"].numpy()
        places.append(values[:, 0])
        assert (values[:, 1] == rows.values[:, 1]).all()  # of one row alone: its place says what it is
        assert table_of(rows.states, values, facts, everyone.tolist()).rows() == real.rows()
    moved = np.stack(places).std(0)
    shared = np.array([real["minutes"].words[c] for c in real["minutes"].codes])
    words, counts = np.unique(shared, return_counts=True)
    several = np.isin(shared, words[counts > 1])
    assert (moved[several & rows.live[:, 0]] > 0).all()
    assert several[rows.live[:, 0]].mean() > 0.5
    # all places together are as normal as those of the rows
    assert float(np.stack(places)[:, rows.live[:, 0]].std()) == pytest.approx(1, abs=0.03)
    assert again.name(3 * n + 7) == rows.name(7)


def test_places_on_a_flat_piece_say_nothing_of_the_row(known: tuple[Facts, Rows]) -> None:
    """One time's places do not tell another's: within each value they are as good as independent."""
    _, rows = known
    again, n = rows.anew(), len(rows)
    here = (rows.wide[:, 0] > 1e-4) & rows.live[:, 0]
    low, wide = rows.low[here, 0], rows.wide[here, 0]
    places = []
    for time in (3, 9):
        values = again.batch(np.arange(n) + time * n)["x"]["values"][:, 0].double()
        places.append((torch.special.ndtr(values).numpy()[here] - low) / wide)
    assert abs(np.corrcoef(*places)[0, 1]) < 4 / np.sqrt(here.sum())
    assert np.mean(places) == pytest.approx(0.5, abs=0.06)
    assert np.std(places) == pytest.approx(12**-0.5, abs=0.04)  # as likely anywhere on it


def test_rows_without_shared_values_and_of_great_tables_stay(known: tuple[Facts, Rows]) -> None:
    _, rows = known
    words = table(a=["x", "y"] * 50, b=["1", "2", "3", "4"] * 25)
    plain = rows_of(words, Facts.of(words, np.arange(100)))
    assert plain.anew() is plain
    linked = LinkedRows.of({"minutes": rows, "words": plain}, evenly=False)
    again = linked.anew()
    assert len(again) == TIMES * len(linked)
    for index in (5, len(linked) + 5, 7 * len(linked) + 100):
        (name,) = again.batch(np.array([index]))["x"]
        assert again.name(index) == linked.name(index % len(linked))
        states = again.batch(np.array([index]))["x"][name]["states"]
        assert torch.equal(states, linked.batch(np.array([index % len(linked)]))["x"][name]["states"])
