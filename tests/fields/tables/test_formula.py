"""Formulas say what arithmetic, calendars and three-valued logic say, and refuse everything else by name."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import DataError
from sfumato.fields.tables.formula import parse

KINDS = {"a": "number", "b": "number", "day": "date", "end": "date", "city": "word", "odd name": "number"}
NAN = float("nan")


def rows(**given: list[object]) -> dict[str, np.ndarray]:
    """Columns of equal length: numbers as float64, anything else as objects."""
    kind = {name: object if KINDS[name.replace("_", " ")] == "word" else np.float64 for name in given}
    return {name.replace("_", " "): np.array(cells, dtype=kind[name]) for name, cells in given.items()}


def of(text: str, **given: list[object]) -> list[object]:
    return parse(text, KINDS).of(rows(**given)).tolist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a + b * 2", [7.0, NAN]),
        ("(a + b) * 2", [8.0, NAN]),
        ("a - b - 1", [-3.0, NAN]),
        ("-a * -b", [3.0, NAN]),
        ("8 / a / b", [8 / 3, NAN]),
        ("b / (a - 1)", [NAN, NAN]),
        ("min(a, b) + max(a, 10) + abs(-a) + mod(7, b) + floor(1.7) + round(.6)", [15.0, NAN]),
        ("a + b = 4 and not a > b", [1.0, NAN]),
        ("a = 2 or b = 3", [1.0, 1.0]),
        ("a is missing", [0.0, 0.0]),
        ("b is missing = (a = 2)", [1.0, 1.0]),
        ("b is not missing or a >= 2", [1.0, 1.0]),
        ("a = 1 and b = 4", [0.0, 0.0]),
        ("a = 1 or b = 4", [1.0, NAN]),
        ("1e1 - .5", [9.5, 9.5]),
    ],
)
def test_arithmetic_and_unknowns(text: str, wanted: list[float]) -> None:
    found = of(text, a=[1, 2], b=[3, NAN])
    np.testing.assert_allclose(found, wanted)


def test_numbers_that_are_not_told_apart_by_rounding_are_equal() -> None:
    assert of("a + b = 0.3", a=[0.1], b=[0.2]) == [1.0]
    assert of("a + b < 0.3", a=[0.1], b=[0.2]) == [0.0]
    assert of("a = b", a=[1.0], b=[1.0001]) == [0.0]


def test_words_are_compared_and_may_be_missing() -> None:
    assert of("city = 'New York' or city is missing", city=["New York", "Rome", None]) == [1.0, 0.0, 1.0]
    np.testing.assert_array_equal(of("city != 'it''s'", city=["it's", "x", None]), [0.0, 1.0, NAN])
    assert of("`odd name` * 2", odd_name=[4.0]) == [8.0]


@given(st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31)))
def test_parts_of_a_date_are_those_of_the_calendar(moment: datetime) -> None:
    moment = moment.replace(second=0, microsecond=0, tzinfo=UTC)
    days = (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(days=1)
    parts = ("year", "month", "day", "hour", "minute")
    found = [of(f"{part}(day)", day=[days])[0] for part in parts]
    assert found == [getattr(moment, part) for part in parts]
    assert of("weekday(day)", day=[days]) == [moment.isoweekday()]


@given(st.integers(0, 23), st.integers(0, 59), st.integers(-3000, 3000))
def test_a_clock_goes_round(hour: int, minute: int, later: int) -> None:
    at = (datetime(2000, 1, 2, hour, minute) + timedelta(minutes=later)).time()
    assert of("hhmm(minutes(a) + b)", a=[100 * hour + minute], b=[later]) == [100 * at.hour + at.minute]


def test_dates_differ_by_days() -> None:
    assert of("end - day", day=[3.0, NAN], end=[5.5, 1.0])[0] == 2.5
    assert parse("day + a", KINDS).kind == "date"
    assert parse("end - day >= 2", KINDS).columns == {"end", "day"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a +", "ends in the middle"),
        ("a b", "'b' is one too many"),
        ("(a + b", r"'\)' should stand before 'its end'"),
        ("aa + 1", "no column 'aa'; did you mean 'a'"),
        ("sqrt(a)", "no function 'sqrt'"),
        ("min(a)", "min takes 2, not 1"),
        ("city + 1", "a number is wanted where a word stands"),
        ("city < 'x'", "a number or date is wanted where a word stands"),
        ("a = city", "a number is compared with a word"),
        ("a and b", "a truth is wanted where a number stands"),
        ("year(a)", "a date is wanted where a number stands"),
        ("day + end", "a number is wanted where a date stands"),
        ("a; b", "cannot read ';"),
        ("__import__('os')", "no function '__import__'"),
        ("a.__class__", "no column"),
        ("(" * 60 + "a" + ")" * 60, "more than 50 brackets"),
        ("a" * 3000, "3000 characters"),
    ],
)
def test_what_is_no_formula_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        parse(text, KINDS)


@given(st.text("ab+-*/()=<>, 1.'`isnotmgd", max_size=40))
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        made = parse(text, KINDS)
    except DataError:
        return
    found = made.of(rows(a=[1, NAN], b=[0, 2], day=[1, NAN], end=[0, 1], city=["x", None], odd_name=[1, 1]))
    assert found.shape == (2,)
