"""Attacks on tables of which it is known who is in them: honest rows give nobody away, copies give away all."""

import re
from pathlib import Path

import numpy as np
import pytest

import sfumato
from sfumato.cli import main
from sfumato.fields.tables.attack import _caught, attacks
from sfumato.fields.tables.copies import copied, nearest_share
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.frames import Frame, frames, nearest, spread
from sfumato.fields.tables.saying import remarks
from sfumato.fields.tables.scoring import scores
from sfumato.fields.tables.table import Column, Table
from sfumato.fields.tables.writing import write_table
from tests.fields.tables.tables import table

pytest.importorskip("lightgbm")
ROWS = 1200


def people(rows: int, seed: int) -> Table:
    """Numbers of which hardly two are equal, and a category that depends on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) @ np.array([[1.0, 0.6, 0.2], [0, 0.8, 0.3], [0, 0, 0.9]])
    names = np.where(x[:, 0] + 0.5 * rng.normal(size=rows) > 0, "left", "right")
    numbers = [Column.of(f"n{i}", [f"{value:.4f}" for value in x[:, i]]) for i in range(3)]
    return Table((*numbers, Column.of("side", names.tolist())))


@pytest.fixture(scope="module")
def known() -> tuple[Table, Table, Facts]:
    """Rows that were trained on, others that were not."""
    train, held = people(ROWS, 0), people(ROWS, 1)
    return train, held, Facts.of(train, np.arange(ROWS))


def test_honest_rows_give_nobody_away(known: tuple[Table, Table, Facts]) -> None:
    train, held, facts = known
    made, a, b = frames([people(ROWS, 2), train, held], facts)
    for attack in attacks(made, a, b):
        assert attack.n == ROWS // 2
        assert attack.auc == pytest.approx(0.5, abs=3 * attack.half / 1.645)
        assert attack.caught < 0.01 + 3 * np.sqrt(0.01 / attack.n)
    near, n = nearest_share(made, a, b)
    assert near == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(n))


def test_a_table_that_is_the_training_set_gives_all_away_and_is_shouted_at(known: tuple[Table, Table, Facts]) -> None:
    train, held, facts = known
    made, _, b = frames([train, train, held], facts)
    by = {attack.name: attack for attack in attacks(made, made, b)}
    assert by["distance"].auc > 0.99
    assert by["distance"].caught > 0.95
    assert by["trees"].auc > 0.55  # smooth trees see less of single rows
    found = scores(train, train, held, facts)
    told = {score.name: score for score in found}
    assert told["copied"].value == 1.0
    assert told["nearer_to_training"].value > 0.99
    assert told["detection_train"].value > 0.9
    said = "\n".join(remarks(found))
    assert "an attack by distance finds out which rows were trained on" in said
    assert said.count("ALARM") >= 3


def test_half_of_the_training_rows_are_found_where_half_are_copied(known: tuple[Table, Table, Facts]) -> None:
    """The attack names the copied half and guesses about the rest: the area under the curve is 3/4."""
    train, held, facts = known
    fresh = people(ROWS // 2, 3)
    half = train.take(np.arange(ROWS // 2))
    rows = [*half.rows(), *fresh.rows()]
    made = Table(
        tuple(Column.of(c.name, cells) for c, cells in zip(train.columns, zip(*rows, strict=True), strict=True))
    )
    a, b, c = frames([made, train, held], facts)
    found = {attack.name: attack for attack in attacks(a, b, c)}["distance"]
    assert found.auc == pytest.approx(0.75, abs=0.05)
    assert found.caught == pytest.approx(0.5, abs=0.08)
    assert copied(made, train)[0] == 0.5


def test_planted_rows_come_back_from_a_copy_and_from_no_honest_table(known: tuple[Table, Table, Facts]) -> None:
    """Twenty odd rows among the training rows: all in a table that is the training set, none in rows of the same law."""
    train, _, _ = known
    rng = np.random.default_rng(5)
    odd = Table(tuple(column.take(rng.integers(0, ROWS, 20)) for column in train.columns))
    rows = [*train.rows(), *odd.rows()]
    whole = Table(
        tuple(Column.of(c.name, cells) for c, cells in zip(train.columns, zip(*rows, strict=True), strict=True))
    )
    assert copied(odd, whole)[0] == 1.0
    assert copied(odd, people(ROWS, 2))[0] == 0.0


def test_a_row_as_near_to_both_counts_half() -> None:
    """Two words in both tables: every made row has a twin on either side."""
    words = np.array([True])
    some = Frame((np.arange(100.0) % 2)[:, None], words)
    assert nearest_share(some, some, some) == (0.5, 100)


def test_gowers_distance_counts_gaps_and_words_whole_and_numbers_by_their_range() -> None:
    words = np.array([False, False, True])
    a = Frame(np.array([[0.0, np.nan, 0.0], [10.0, 2.0, 1.0]]), words)
    b = Frame(np.array([[5.0, np.nan, 1.0]]), words)
    scale = spread(a, b)
    assert nearest(b, a, scale) == pytest.approx([0.5 + 0 + 1])  # to the first; to the second .5 + 1 + 0
    assert nearest(Frame(np.array([[1e9, 2.0, 7.0]]), words), a, scale) == pytest.approx([1 + 0 + 1])


def test_the_share_caught_is_counted_at_one_false_in_a_hundred() -> None:
    others = np.arange(1000.0)
    assert _caught(np.array([995.0, 988.5, 500.0, 2000.0]), others) == pytest.approx(0.5)
    assert _caught(others, others) == pytest.approx(0.01, abs=0.001)
    assert _caught(np.zeros(50), np.zeros(1000)) == pytest.approx(0.01)  # nothing is known: by lot


@pytest.mark.slow
def test_rows_that_were_learned_by_heart_are_an_alarm_and_those_of_a_short_training_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CTGAN 264: who trains too long is told. 249 rows of six independent numbers say nothing but themselves."""
    x = np.random.default_rng(0).normal(size=(400, 6))
    file = write_table(table(**{f"c{i}": [f"{value:.3f}" for value in x[:, i]] for i in range(6)}), tmp_path / "a.csv")
    said = {}
    for steps in (60, 1200):
        out = tmp_path / str(steps)
        options = {"steps": steps, "batch": 128, "previews": 0, "snapshots": 0, "threads": 1, "held_out": 0.4}
        sfumato.train(str(file), field="tables", out=out, **options)
        capsys.readouterr()
        assert main(["evaluate", str(out)]) == 0
        said[steps] = re.sub(r"\s+", " ", capsys.readouterr().out)
    alarm = "an attack by distance finds out which rows were trained on"
    assert alarm in said[1200]
    assert alarm not in said[60]
