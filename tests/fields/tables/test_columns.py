"""Cells become states and values and come back: gaps as gaps, words as words, numbers to their own digits."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tables_sets import SETS, Set, split
from sfumato.errors import DataError
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.kinds import find_kind, key_word
from sfumato.fields.tables.rows import rows_of, table_of
from sfumato.fields.tables.spelling import Dates, Numbers
from sfumato.fields.tables.table import Column, Table
from sfumato.training.run import Run, RunError
from tests.fields.tables.tables import mixed, table


def quiet(line: str) -> None:
    pass


def facts_of(made: Table, **kinds: str) -> Facts:
    return Facts.of(made, np.arange(len(made)), kinds)


def back_and_forth(made: Table, facts: Facts) -> Table:
    rows = rows_of(made, facts)
    return table_of(rows.states, rows.values, facts, range(len(made)))


def column(*cells: str | None, type: str = "text") -> Column:
    return Column.of("c", cells, type)


# ---- what a column is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (("1", "2", "", "3"), "number"),
        (("1.5", "NA", "?", "2e3"), "number"),
        (("1,5", "2,25", "-3"), "number"),
        (("007", "042", "007"), "category"),
        (("9007199254740993", "9007199254740995", "9007199254740993"), "category"),
        (("yes", "no", "NA"), "category"),
        (("2020-01-02", "2021-12-31", ""), "date"),
        (("31.12.2020", "01.01.2021", "31.12.2020"), "date"),
        (("2020-01-02T03:04:05Z", "2020-01-02T04:04:05Z", "NA"), "date"),
        (("4", "2", "3"), "key"),
        (("N017", "N003", "N101"), "key"),
        (("x", "x", "x"), "constant"),
        (("", "", ""), "constant"),
        (("1", "two", "1"), "category"),
    ],
)
def test_kinds_are_found(cells: tuple[str, ...], kind: str) -> None:
    assert find_kind(column(*cells), None, quiet).kind == kind


def test_gaps_are_gaps_among_numbers_and_words_among_words() -> None:
    assert find_kind(column("1", "NA", "?", "", "1"), None, quiet).gaps == ("NA", "?", "")
    assert find_kind(column("x", "NA", "y", "", "x"), None, quiet).gaps == ("",)  # NA may be Namibia
    assert find_kind(column("1", "NA", "1"), "category", quiet).gaps == ()


@pytest.mark.parametrize(
    ("cells", "asked", "wanted"),
    [
        (("1", "2", "x", "1"), "number", "row 3 holds 'x'"),
        (("a", "b", "a"), "date", "row 1 holds 'a'"),
        (("a", "b", "a"), "key", "is no key"),
        (("a", "b", "a"), "float", "the kinds are number, category"),
        (("a", "b", "a"), "constant", "2 different cells"),
        (tuple(f"some text {i}!" for i in range(300)), None, "another word in each of 300 rows.*--leave-out c"),
        ((*map(str, range(0, 900, 3)), "x", "x"), None, "mixes numbers and words: row 301 holds 'x'"),
    ],
)
def test_what_does_not_fit_is_refused_by_cell(cells: tuple[str, ...], asked: str | None, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        find_kind(column(*cells), asked, quiet)


def test_keys_go_on_where_the_data_stop() -> None:
    numbers = find_kind(column("3", "1", "2"), None, quiet)
    assert [key_word(numbers, i) for i in range(2)] == ["4", "5"]
    codes = find_kind(column("AB098", "AB007", "AB099"), None, quiet)
    assert [key_word(codes, i) for i in range(2)] == ["AB100", "AB101"]


# ---- spelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["1", "-20", "300"],
        ["1.50", "-0.25", "12.00"],
        ["1.0", "2.5", "3.25"],
        ["1", "2.5", "1012.75"],
        ["1,5", "2,25", "-3"],
        ["1e-07", "2.5", "3e+20", "4.0"],
        ["10.357019999999999", "0", "8.05546"],
        ["0.1", "0.30000000000000004"],
    ],
)
def test_numbers_are_spelt_as_they_were(words: list[str]) -> None:
    spelling = Numbers.of(words)
    assert spelling is not None
    assert [spelling.word(spelling.value(word)) for word in words] == words


def test_a_rounded_number_has_no_negative_zero_and_the_digits_of_its_column() -> None:
    assert Numbers(2, "fixed").word(-0.001) == "0.00"
    assert Numbers(1, "short").word(2.04) == "2"
    assert Numbers(1, "point").word(2.04) == "2.0"
    assert Numbers(0, "whole").word(2.6) == "3"
    rates = Numbers.of(["0", "0.015384615", "3.92e-05", "0.2"])  # nine decimals, however they are spelt
    assert rates is not None
    assert rates.word(0.019905257329414457) == "0.019905257"
    assert rates.word(4.1234567891e-05) == "4.1235e-05"
    assert [Numbers.of([word, "1e3"]).decimals for word in ("1.5e-7", "2.5e1", "1e-400", "1e-" + "0" * 5000)] == [
        8,
        0,
        330,
        0,
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["2020-02-29", "1969-12-31"],
        ["2020-01-02 03:00:00", "2020-01-02 05:00:00"],
        ["2013-01-01T06:00:00Z", "2013-12-30T23:00:00Z"],
        ["31.12.1999", "01.01.2000"],
        ["2020-01-02 03:04:05.250000", "2020-01-02 03:04:05.000000"],
    ],
)
def test_dates_are_spelt_as_they_were_and_count_in_their_own_steps(words: list[str]) -> None:
    spelling = Dates.of(words)
    assert spelling is not None
    values = [spelling.value(word) for word in words]
    assert [spelling.word(value) for value in values] == words
    assert all(value == round(value) and value >= 0 for value in values)
    assert 0 in values


# ---- there and back --------------------------------------------------------------------------------------------------

word = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
whole = st.integers(-(2**53), 2**53).map(str)
cents = st.integers(-(10**6), 10**6).map(lambda n: f"{n / 100:.2f}")
float_ = st.floats(-1e300, 1e300, allow_nan=False).map(lambda x: repr(x + 0.0))
day = st.dates(min_value=__import__("datetime").date(1000, 1, 1)).map(str)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_table_comes_back(data: st.DataObject) -> None:
    """Every training cell, to the letter, but for rare words, which come back as another rare word."""
    rows = data.draw(st.integers(50, 120))
    columns = {}
    for i, cell in enumerate(
        data.draw(st.lists(st.sampled_from([word, whole, cents, float_, day]), min_size=1, max_size=3))
    ):
        pool = data.draw(st.lists(cell | st.sampled_from(["NA", "", "?"]), min_size=2, max_size=rows))
        picks = data.draw(st.lists(st.sampled_from(pool), min_size=rows, max_size=rows))
        columns[f"c{i}"] = picks
    made = table(**columns)
    try:
        facts = facts_of(made)
    except DataError:  # words that look like text, or nothing to learn
        return
    back = back_and_forth(made, facts)
    for states in facts.columns:
        kind = states.kind
        if kind.kind == "key":
            continue
        rare = {word for word, _ in states.rare}
        for there, here in zip(made[kind.name].cells(), back[kind.name].cells(), strict=True):
            if there in rare:
                assert here in rare
            elif kind.kind == "number" and there not in kind.gaps:
                assert kind.spelling.value(here) == kind.spelling.value(there)  # +1 comes back as 1, 1e3 as 1000
            else:
                assert here == there


@pytest.mark.parametrize("each", SETS, ids=[each.name for each in SETS])
def test_the_cells_of_real_tables_come_back(each: Set) -> None:
    """1500 rows of each of the six of the benchmark: every cell to the letter, but for keys and rare words."""
    folder = Path(__file__).parents[4] / "shared" / "data" / "tables"
    if not folder.is_dir():
        pytest.skip("the tables of the benchmark are not here")
    made = split(each, folder).validation
    made = made.take(np.arange(min(len(made), 1500)))
    facts = Facts.of(made, np.arange(len(made)), dict(kind.split(":") for kind in each.kinds))
    back, compared = back_and_forth(made, facts), 0
    for states in facts.measured:
        rare = {word for word, _ in states.rare}
        pairs = zip(made[states.kind.name].cells(), back[states.kind.name].cells(), strict=True)
        assert all(here in rare if there in rare else here == there for there, here in pairs), states.kind.name
        compared += 1
    assert compared >= 10


def test_bins_hold_equal_mass_and_values_are_standard_normal() -> None:
    rng = np.random.default_rng(0)
    made = table(x=[f"{x:.9f}" for x in rng.lognormal(0, 1, 20_000)])
    facts = facts_of(made)
    rows = rows_of(made, facts)
    assert Counter(rows.states[:, 0].tolist()) == dict.fromkeys(range(8), 2500)
    values = rows.values[:, 0]
    assert rows.live.all()
    for k in range(8):
        part = np.sort(values[rows.states[:, 0] == k].astype(np.float64))
        normal = 0.5 * (1 + np.vectorize(math.erf)(part / math.sqrt(2)))
        assert np.abs(normal - (np.arange(2500) + 0.5) / 2500).max() < 1e-3


def test_shared_values_are_states_or_flat_pieces() -> None:
    """0 with .8, else exponential to the tenth: the zero is a state; what else repeats comes back exactly, from noise too."""
    rng = np.random.default_rng(1)
    x = np.where(rng.random(5000) < 0.8, 0, rng.exponential(10, 5000))
    made = table(x=[f"{value:.1f}" for value in x])
    facts = facts_of(made)
    states = facts.learned[0]
    assert "0.0" in states.words
    rows = rows_of(made, facts)
    assert (rows.live[:, 0] == (rows.states[:, 0] >= states.first_bin)).all()
    assert (rows.values[~rows.live] == 0).all()
    normal = rng.normal(size=(4000, 1)).astype(np.float32)
    bins = rng.integers(states.first_bin, states.count, (4000, 1))
    drawn = table_of(bins, normal, facts, range(4000))["x"].cells()
    seen = set(made["x"].cells())
    assert np.mean([cell in seen for cell in drawn]) > 0.95  # 2,000 rows on 500 tenths
    low, high = min(map(float, seen)), max(map(float, seen))
    assert all(low <= float(cell) <= high for cell in drawn if cell)


def test_rows_and_columns_in_another_order_are_the_same_states_and_values() -> None:
    made = mixed(400)
    facts, rows = facts_of(made), rows_of(made, facts_of(made))
    order = np.random.default_rng(0).permutation(400)
    turned = Table(tuple(reversed(made.take(order).columns)), made.format)
    again = rows_of(turned, facts_of(turned))
    assert [c.words for c in reversed(facts_of(turned).learned)] != []
    # words are numbered as they first appear, so states of words are compared by word
    for i, states in enumerate(facts.learned):
        j = len(facts.learned) - 1 - i
        other = facts_of(turned).learned[j]
        names = [[*s.kind.gaps, *s.words, *(["rare"] if s.rare else []), *range(s.bins)] for s in (states, other)]
        assert [names[0][k] for k in rows.states[order, i]] == [names[1][k] for k in again.states[:, j]]
    assert np.array_equal(rows.values[order], again.values[:, ::-1])


def test_facts_are_kept_and_read_as_they_are(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = mixed(600)
    facts = facts_of(made)
    facts.save(Run(tmp_path))
    again = Facts.read(Run(tmp_path))
    assert again.columns == facts.columns
    assert again.format == facts.format
    assert again.source == made.source()
    assert back_and_forth(made, again).rows() == made.rows()
    (tmp_path / "data.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"data\.safetensors: cannot be read"):
        Facts.read(Run(tmp_path))


def test_cells_that_never_occurred_and_missing_columns_are_named() -> None:
    made = mixed(300)
    facts = facts_of(made)
    other = Table((Column.of("sex", ["robot"]), *(c.take(np.array([0])) for c in made.columns[1:])))
    with pytest.raises(DataError, match="column 'sex', row 1: 'robot' never occurs"):
        rows_of(other, facts)
    with pytest.raises(DataError, match="lacks column 'sex'"):
        rows_of(Table(made.columns[1:]), facts)
    with pytest.raises(DataError, match="49 rows to train on, at least 50"):
        Facts.of(made, np.arange(49))
    with pytest.raises(DataError, match="--kind names 'sexx'"):
        facts_of(made, sexx="category")
