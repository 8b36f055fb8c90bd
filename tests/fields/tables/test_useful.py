"""What tables are good for, and what in them no real row has, where both are known."""

import numpy as np
import pytest

from sfumato.fields.tables import trees
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.detector import giveaways
from sfumato.fields.tables.frames import Frame, frames
from sfumato.fields.tables.likeness import associations, patterns
from sfumato.fields.tables.rules import Rules
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.useful import everywhere, useful
from sfumato.fields.tables.validity import flaws
from tests.fields.tables.tables import mixed, table

pytest.importorskip("lightgbm")


def law(rows: int, seed: int) -> Frame:
    """A number, its sign as a category, that number and noise of variance 1, three kinds of it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, rows)
    kinds = np.digitize(x, [-1, 1]).astype(float)
    return Frame(np.stack([x, x > 0, x + rng.normal(size=rows), kinds], 1), np.array([False, True, False, True]))


def shuffled(frame: Frame, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    return Frame(np.stack([rng.permutation(column) for column in frame.cells.T], 1), frame.words)


def test_a_target_is_learned_from_real_rows_and_not_from_shuffled_ones() -> None:
    train, test = law(2000, 0), law(2000, 1)
    for target in (1, 3):  # two classes and three
        assert useful(train, test, target).value > 0.99
        assert useful(shuffled(train), test, target).value < 0.8
    known = useful(train, test, 2)
    assert known.name == "rmse"
    assert 1.0 < known.value < 1.15  # the noise alone is 1
    assert useful(shuffled(train), test, 2).value == pytest.approx(np.sqrt(5), rel=0.1)


def test_a_target_of_one_kind_is_worth_nothing_and_too_few_rows_say_nothing() -> None:
    train, test = law(500, 0), law(500, 1)
    flat = Frame(np.where(np.arange(4) == 1, 1.0, train.cells), train.words)
    assert useful(flat, test, 1).value == 0.5
    gone = Frame(np.where(np.arange(4) == 1, np.nan, train.cells), train.words)
    assert useful(gone, test, 1) is None


def test_every_column_is_predicted_as_well_as_by_real_rows_or_worse() -> None:
    real, test = law(1500, 0), law(1500, 1)
    other, loose, some = everywhere(real, test, law(1500, 2), shuffled(real), Frame(real.cells[:50], real.words))
    assert other == pytest.approx(1, abs=0.05)
    assert loose < 0.6
    assert loose < some < other


def test_without_lightgbm_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    train, test = law(1000, 0), law(1000, 1)
    first = [useful(train, test, target).value for target in (1, 2, 3)]
    monkeypatch.setattr(trees, "detector", lambda: "scikit-learn")
    assert [useful(train, test, target).value for target in (1, 2, 3)] == pytest.approx(first, rel=0.1)


def test_the_column_that_is_wrong_gives_the_rows_away() -> None:
    real, made = law(2000, 0), law(2000, 1)
    cells = made.cells.copy()
    cells[:, 2] = np.random.default_rng(0).permutation(cells[:, 2])  # right by itself
    lost = giveaways(real.cells, cells, real.words)
    assert lost.argmax() in (0, 2)  # one of the two that no longer go together
    assert lost[2] > 0.1
    assert giveaways(real.cells, made.cells, real.words).max() < 0.05


def test_associations_are_one_zero_and_between() -> None:
    rng = np.random.default_rng(0)
    x, word = rng.normal(size=4000), rng.integers(0, 3, 4000).astype(float)
    frame = Frame(
        np.stack([x, -2 * x, word, 2 - word, word + rng.normal(size=4000)], 1), np.array([0, 0, 1, 1, 0], bool)
    )
    found = associations(frame)
    assert found[0, 1] == pytest.approx(1)
    assert found[2, 3] == pytest.approx(1)
    assert found[0, 2] < 0.05
    spread = np.sqrt(2 / 3)  # of the word: correlation ratio is its share of the whole deviation
    assert found[2, 4] == pytest.approx(spread / np.sqrt(spread**2 + 1), abs=0.03)


def test_patterns_of_gaps_are_compared_and_not_gaps_alone() -> None:
    """Two columns, each empty in half of the rows: together or by turns is as far apart as can be."""
    gap = np.arange(100) % 2 == 0
    together, turns = (np.where(np.stack(each, 1), np.nan, 1.0) for each in ((gap, gap), (gap, ~gap)))
    words = np.zeros(2, bool)
    assert patterns(Frame(together, words), Frame(turns, words)) == 1.0
    assert patterns(Frame(together, words), Frame(together[::-1], words)) == 0.0
    assert patterns(Frame(turns, words), Frame(turns[:1], words)) == 0.5  # one gap in a row, but in which column?


def test_what_no_real_row_has_is_found_by_name() -> None:
    real = table(
        age=[str(20 + i % 50) for i in range(200)], city=["Rome", "Paris"] * 100, price=[f"{i / 7:.2f}" for i in range(200)],
        end=["" if i % 4 else "2020-01-01" for i in range(200)],
        start=["" if i % 4 else f"2020-02-{1 + i % 28:02d}" for i in range(200)],
        country=["Utopia"] * 200,
    )  # fmt: skip
    facts = Facts.of(real, np.arange(200), {"city": "category", "start": "date", "end": "category"})
    assert flaws(real, real, facts) == ([], 0.0)
    made = table(
        age=["25", "19", "many", "30"], city=["Rome", "Roma", "Paris", "Rome"], price=["1.00", "1.234", "2.00", "3.00"],
        end=["", "", "", "2020-01-01"], start=["", "", "", ""], country=["Utopia", "Utopia", "Utopia", "Ruritania"],
    )  # fmt: skip
    found, share = flaws(real, made, facts)
    named = {(flaw.column, flaw.what): (flaw.example, flaw.share) for flaw in found}
    assert named == {
        ("age", "out of range"): ("19", 0.25),
        ("age", "no number"): ("many", 0.25),
        ("city", "a new word"): ("Roma", 0.25),
        ("price", "too many decimals"): ("1.234", 0.25),
        ("country", "no constant"): ("Ruritania", 0.25),
        ("", "gaps in columns that are never empty together"): ("start", 0.25),
    }
    assert share == 0.75


def test_keys_that_come_twice_are_found() -> None:
    real = table(no=[str(i) for i in range(100)], x=[str(i % 5) for i in range(100)])
    facts = Facts.of(real, np.arange(100), rules=Rules())
    twice = Table((Column.of("no", ["7", "8", "7"]), Column.of("x", ["1", "2", "3"])))
    found, share = flaws(real, twice, facts)
    assert [(flaw.column, flaw.what) for flaw in found] == [("no", "a key that comes twice")]
    assert share == pytest.approx(2 / 3)


def test_a_cell_that_is_no_number_is_measured_as_a_gap() -> None:
    made = mixed(300)
    facts = Facts.of(made, np.arange(300))
    broken = Table((*(c for c in made.columns if c.name != "age"), Column.of("age", ["old", "1e999"] * 150)))
    (frame,) = frames([Table(tuple(broken[name] for name in made.names))], facts)
    assert np.isnan(frame.cells[:, made.names.index("age")]).all()
