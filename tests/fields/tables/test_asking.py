"""Conditions are read, checked and met; known columns stand, and come back to the letter."""

import numpy as np
import pytest
import torch

from sfumato.diffusion.generate import generate
from sfumato.errors import DataError
from sfumato.fields.tables.asking import Asked, begin, restored
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.process import cascade
from sfumato.fields.tables.rows import table_of
from sfumato.fields.tables.table import Table
from sfumato.fields.tables.where import All, Clause, Either, Not, checked, given_by, meets, parse
from tests.fields.tables.tables import mixed, table
from tests.fields.tables.test_process import ready


@pytest.fixture(scope="module")
def known() -> tuple[Table, Facts]:
    made = mixed(500)
    return made, Facts.of(made, np.arange(500))


def test_conditions_are_read() -> None:
    found = parse("age>=40 and sex = 'a ''b'' and c' and city in (Rome, \"New York\") AND n != -1.5")
    assert found == [
        Clause("age", ">=", ("40",)),
        Clause("sex", "=", ("a 'b' and c",)),
        Clause("city", "in", ("Rome", "New York")),
        Clause("n", "!=", ("-1.5",)),
    ]


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("age >", "ends in the middle"),
        ("age 40 x", "'40' is no comparison"),
        ("age = 40 sex = man", "'sex' where 'and' or 'or' should stand"),
        ("(age = 40", "a bracket is not closed"),
        ("age between 3", "between '3' and what"),
        ("age is gone", "comes  missing  or  not missing"),
        ("age not > 3", "'>' is no comparison"),
        ("(" * 60 + "a = 1", "more than 50 brackets"),
        ("sex in man", "a list in brackets"),
        ("age = 'x", "cannot read"),
    ],
)
def test_what_is_not_understood_is_quoted(where: str, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        parse(where)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("agge > 4", "did you mean 'age'"),
        ("sex = robot", "'sex' is never 'robot'; it is"),
        ("sex = womann", "'sex' is never 'womann'; did you mean 'woman'"),
        ("sex = man or agee = 3", "did you mean 'age'"),
        ("age is missing", "'age' is never missing"),
        ("age > 200", "'age' is never > 200; it goes from 18 to"),
        ("age between 1 and 5", "'age' is never <= 5; it goes from 18"),
        ("sex < woman", "have no order"),
        ("age > old", "'old' is none"),
    ],
)
def test_impossible_conditions_are_refused(known: tuple[Table, Facts], where: str, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        checked(parse(where), known[1])


def test_rows_that_meet_a_condition_are_found(known: tuple[Table, Facts]) -> None:
    made, facts = known
    clauses = checked(parse("age >= 50 and sex = woman and income != NA"), facts)
    rows = made.take(np.flatnonzero(meets(made, clauses, facts))).rows()
    wanted = [row for row in made.rows() if row[0] == "woman" and row[2] != "NA" and int(row[3]) >= 50]
    assert rows == wanted
    assert 10 < len(rows) < 300
    assert (
        meets(made, checked(parse("income > 0"), facts), facts).sum() < (np.array(made["income"].cells()) != "NA").sum()
    )
    assert given_by(clauses, facts).rows() == [("woman",)]  # type: ignore[union-attr]


def test_conditions_with_or_not_between_and_missing(known: tuple[Table, Facts]) -> None:
    assert parse("a = 1 or b = 2 and not c = 3") == [
        Either((Clause("a", "=", ("1",)), All((Clause("b", "=", ("2",)), Not(Clause("c", "=", ("3",)))))))
    ]
    assert parse("(a = 1 or b = 2) and c = 3")[1] == Clause("c", "=", ("3",))
    assert parse("not 'not' = 1") == [Not(Clause("not", "=", ("1",)))]
    made, facts = known

    def rows(where: str) -> list[bool]:
        return list(meets(made, checked(parse(where), facts), facts))

    cells = made.rows()  # sex, smokes, income, age
    assert rows("sex = man or age between 30 and 39") == [r[0] == "man" or 30 <= int(r[3] or 0) <= 39 for r in cells]
    assert rows("income is missing") == [r[2] == "NA" for r in cells]
    assert rows("income is not missing and not smokes = yes") == [r[2] != "NA" and r[1] == "no" for r in cells]
    assert rows("age not between 30 and 39") == [not 30 <= int(r[3] or 0) <= 39 for r in cells]
    assert rows("sex not in (man, woman)") == [False] * len(cells)
    assert rows("not (sex = man or smokes = yes)") == [r[0] != "man" and r[1] != "yes" for r in cells]
    assert 0 < sum(rows("income is missing")) < len(cells)
    gap = given_by(checked(parse("income is missing and sex = man"), facts), facts)
    assert gap is not None
    assert gap.rows() == [("NA", "man")]  # known from the start
    assert given_by(checked(parse("sex = man or smokes = yes"), facts), facts) is None


def test_known_cells_stand_and_the_rest_is_drawn_for_each_row(known: tuple[Table, Facts]) -> None:
    _, facts = known
    given = table(sex=["man", "", "woman"], income=["0.00", "123.45", ""])
    asked = Asked(facts, 4, given, named=True)
    assert len(asked) == 12
    assert asked.name(5) == ("row 2", 1)
    denoiser = ready(facts)
    times = cascade(torch.linspace(1, 0, 5), torch.linspace(1, 0, 3))
    found = list(generate(denoiser, asked, range(12), batch=8, begin=lambda p, z, query: begin(p, z, times, query)))
    states, values = (np.concatenate([each.x[part].numpy() for each in found]) for part in ("states", "values"))
    sex = [states.kind.name for states in facts.learned].index("sex")
    man = facts.learned[sex].words.index("man")
    assert (states[:4, sex] == man).all()  # the network saw it, too
    assert (states[8:, sex] == 1 - man).all()
    drawn = restored(table_of(states, values, facts, range(12)), asked, range(12))
    cells = list(zip(drawn["sex"].cells(), drawn["income"].cells()))
    assert all(sex == "man" and income == "0.00" for sex, income in cells[:4])
    assert all(income == "123.45" for _, income in cells[4:8])  # a number that the table never had, to the letter
    assert all(sex == "woman" for sex, _ in cells[8:])
    assert len({income for _, income in cells[8:]}) > 1
    alone = next(generate(denoiser, asked, [6], batch=8, begin=lambda p, z, query: begin(p, z, times, query)))
    assert torch.equal(alone.x["states"][0], torch.from_numpy(states[6]))  # a draw of a row is the same alone


def test_unknown_columns_of_known_rows_are_named(known: tuple[Table, Facts]) -> None:
    with pytest.raises(DataError, match="column 'colour' is not in the table"):
        Asked(known[1], 1, table(colour=["red"]))
    with pytest.raises(DataError, match="'robot' never occurs"):
        Asked(known[1], 1, table(sex=["robot"]))
