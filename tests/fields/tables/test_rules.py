"""Rules are read, found by looking, and kept: derived cells by construction, checks by drawing again."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import sfumato
from sfumato.cli import main
from sfumato.errors import DataError
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.measure import scores
from sfumato.fields.tables.proposals import propose
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.rules import Rules, broken, derive, fits, fitted, read_rules
from sfumato.fields.tables.table import Table
from sfumato.fields.tables.writing import write_table
from tests.fields.tables.tables import table

RULES = """\
derive:
  country: lookup(city)
  total: price * amount
  month: month(ordered)
check:
  - ordered <= sent
  - sent is missing = carrier is missing
"""
COUNTRY = {"Rome": "Italy", "Milan": "Italy", "Paris": "France", "Lyon": "France", "Bonn": "Germany"}


def shop(n: int, seed: int = 0) -> Table:
    """Orders: the country is that of the city, the total is price times amount; what is sent is sent later."""
    rng = np.random.default_rng(seed)
    city = rng.choice(list(COUNTRY), n)
    price, amount = np.round(rng.gamma(3, 4, n), 2), rng.integers(1, 6, n)
    ordered = np.datetime64("2024-01-01") + rng.integers(0, 360, n)
    sent = ordered + rng.integers(0, 40, n)
    open_ = rng.random(n) < 0.2
    return table(
        city=city.tolist(),
        country=[COUNTRY[each] for each in city],
        price=[f"{each:.2f}" for each in price],
        amount=amount.astype(str).tolist(),
        total=[f"{each:.2f}" for each in price * amount],
        ordered=ordered.astype(str).tolist(),
        month=[str(int(str(each)[5:7])) for each in ordered],
        sent=np.where(open_, "", sent.astype(str)).tolist(),
        carrier=np.where(open_, "", rng.choice(["post", "van"], n)).tolist(),
    )


def with_rules(text: str, tmp_path: Path, made: Table | None = None) -> Facts:
    (tmp_path / "rules.yaml").write_text(text)
    made = shop(600) if made is None else made
    return Facts.of(made, np.arange(len(made) - 50), rules=read_rules(tmp_path / "rules.yaml"))


def changed(made: Table, **cells: list[str]) -> Table:
    """The table with other cells in some columns."""
    return table(**{name: cells.get(name, made[name].cells()) for name in made.names})


def test_derived_columns_leave_the_model_and_come_back(tmp_path: Path) -> None:
    made = shop(600)
    facts = with_rules(RULES, tmp_path, made)
    assert [states.kind.name for states in facts.learned] == ["city", "price", "amount", "ordered", "sent", "carrier"]
    assert broken(made, facts.rules, facts.kinds)[""] == 0
    blank = changed(made, **{name: ["7"] * 600 for name in ("total", "month")}, country=["Italy"] * 600)
    again, could = derive(blank, facts.rules, facts.kinds)
    assert again.rows() == made.rows()
    assert could.all()


def test_rows_that_break_a_rule_are_counted_rule_by_rule(tmp_path: Path) -> None:
    made = shop(600)
    facts = with_rules(RULES, tmp_path, made)
    total, sent = made["total"].cells(), made["sent"].cells()
    total[:30] = ["0.01"] * 30
    sent[20:40] = ["2023-01-01"] * 20
    found = broken(changed(made, total=total, sent=sent), facts.rules, facts.kinds)
    empty = sum(cell == "" for cell in made["sent"].cells()[20:40])
    assert found["total: price * amount"] == pytest.approx(30 / 600)
    assert found["ordered <= sent"] == pytest.approx(20 / 600)
    assert found["sent is missing = carrier is missing"] == pytest.approx(empty / 600)
    assert found["country: lookup(city)"] == 0
    assert found[""] == pytest.approx(40 / 600)


def test_a_combination_that_never_was_cannot_be_looked_up(tmp_path: Path) -> None:
    made = shop(600)
    kinds = with_rules(RULES, tmp_path, made).kinds
    rules = fitted(
        read_rules(tmp_path / "rules.yaml"), kinds, made, np.flatnonzero(np.array(made["city"].cells()) != "Bonn")
    )
    good = fits(made, rules, kinds)
    assert good.tolist() == [city != "Bonn" for city in made["city"].cells()]


def test_the_most_frequent_cell_is_looked_up_and_gaps_are_cells_too(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(1000)
    made = table(
        city=["Rome"] * 600 + ["Oslo"] * 400, n=[str(i % 30) for i in range(1000)],
        zone=["1"] * 500 + ["2"] * 100 + [""] * 400,
    ).take(order)  # fmt: skip
    facts = with_rules("derive: {zone: lookup(city)}", tmp_path, made)
    again, _ = derive(made, facts.rules, facts.kinds)
    assert Counter(again["zone"].cells()) == {"1": 600, "": 400}
    assert broken(made, facts.rules, facts.kinds)[""] == pytest.approx(0.1)


def test_rules_come_back_from_a_run(tmp_path: Path) -> None:
    rules = with_rules(RULES, tmp_path).rules
    assert Rules.of_plain(json.loads(json.dumps(rules.plain()))) == rules
    assert not Rules.of_plain(None)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("derive: {towns: lookup(city)}", "no column 'towns'"),
        ("derive: {country: lookup(citty)}", "no column 'citty'; did you mean 'city'"),
        ("derive: {country: lookup()}", "lookup takes columns"),
        ("derive: {total: city}", "'city' is a word, the column a number"),
        ("derive: {total: total + 1}", "needs the column itself"),
        ("derive: {total: price * amount, price: total / amount}", "price, total follow from each other"),
        ("derive: {total: price *}", "ends in the middle"),
        ("check: [price + 1]", "is a number; a check is true or false"),
        ("check: price > 0", "expected  derive"),
        ("checks: [price > 0]", "'checks' is no kind of rule; did you mean check"),
        ("derive: {total: [1]}", "expected  derive"),
        ("derive: {total: price, total: amount}", "'total' stands there twice"),
        ("a: &x [1, 1]\nb: [*x", "not YAML"),
        ("[1]", "expected  derive"),
    ],
)
def test_what_is_no_rule_of_the_table_is_refused(text: str, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=wanted):
        with_rules(text, tmp_path)


def test_no_file_of_rules_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.yaml: cannot be read"):
        read_rules(tmp_path / "none.yaml")


# ---- found by looking ------------------------------------------------------------------------------------------------


def test_the_rules_of_a_table_are_found_and_no_others() -> None:
    made = shop(4000)
    found = propose(made, Facts.of(made, np.arange(3900)).kinds)
    assert {(each.column, each.text) for each in found} == {
        ("country", "lookup(city)"),
        ("total", "price * amount"),
        ("month", "month(ordered)"),
        ("", "ordered <= sent"),
        ("", "sent is missing = carrier is missing"),
    }
    assert all(each.broken == 0 for each in found)


def test_a_rule_with_few_exceptions_is_found_and_they_are_counted() -> None:
    made = shop(4000)
    country = made["country"].cells()
    country[:2] = ["Spain", "Spain"]
    found = {
        each.column: each for each in propose(changed(made, country=country), Facts.of(made, np.arange(3900)).kinds)
    }
    assert found["country"].broken == pytest.approx(2 / 4000)
    assert "# broken by 0.050%" in found["country"].line()
    country[:40] = ["Spain"] * 40
    assert "country" not in {
        e.column for e in propose(changed(made, country=country), Facts.of(made, np.arange(3900)).kinds)
    }


def test_nothing_is_found_where_nothing_is() -> None:
    rng = np.random.default_rng(0)
    made = table(
        a=[f"{v:.3f}" for v in rng.normal(size=3000)], b=[f"{v:.3f}" for v in rng.normal(size=3000)],
        c=rng.choice(["x", "y", "z"], 3000).tolist(), d=rng.choice(["p", "q"], 3000, p=[0.999, 0.001]).tolist(),
        e=rng.integers(0, 9, 3000).astype(str).tolist(), far=[f"{v:.3f}" for v in rng.uniform(50, 60, 3000)],
    )  # fmt: skip
    assert propose(made, Facts.of(made, np.arange(2900)).kinds) == []


def test_broken_rules_stand_beside_those_of_real_rows_and_of_shuffled_ones(tmp_path: Path) -> None:
    made = shop(900)
    facts = with_rules("check: [ordered <= sent]", tmp_path, made)
    train, real, other = (made.take(np.arange(900)[i::3]) for i in range(3))
    sent = other["sent"].cells()
    row = next(
        r
        for r in scores(changed(other, sent=["2020-01-01"] * 150 + sent[150:]), train, real, facts)
        if "rules" in r.name
    )
    assert row.value == pytest.approx(0.5)
    assert row.low < 0.5 < row.high
    assert row.floor == 0
    assert row.shuffled > 0.1


# ---- through the command -------------------------------------------------------------------------------------------------


def test_no_drawn_row_breaks_a_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of dates, gaps, words and numbers, through every verb: SDV #1711 and #1717 are rules at which others stop with an error."""
    file = write_table(shop(1500), tmp_path / "shop.csv")
    assert main(["inspect", "tables", str(file), "--threads=1"]) == 0
    said = capsys.readouterr().out
    shown = said[said.index("derive:") :].splitlines()
    end = next(i for i, line in enumerate(shown) if not line.startswith(("derive:", "check:", "  ")))
    (tmp_path / "rules.yaml").write_text("\n".join(shown[:end]))  # as a person would take them over
    out = tmp_path / "run"
    words = ["--steps=120", "--batch=128", "--previews=0", "--snapshots=0", "--threads=1"]
    assert main(["train", "tables", str(file), "--rules", str(tmp_path / "rules.yaml"), "--out", str(out), *words]) == 0
    assert main(["sample", str(out), "-n", "400", "--out", str(tmp_path / "made.csv")]) == 0
    made = read_table(tmp_path / "made.csv")
    facts = sfumato.load(out).facts
    assert len(facts.rules.derived) == 3
    assert len(facts.rules.checks) == 2
    assert broken(made, facts.rules, facts.kinds)[""] == 0
    assert made.names == shop(5).names
    for row in made.rows():
        cells = dict(zip(made.names, row))
        assert cells["country"] == COUNTRY[cells["city"]]
        assert float(cells["total"]) == pytest.approx(float(cells["price"]) * int(cells["amount"]), abs=0.0051)
        assert (cells["sent"] == "") == (cells["carrier"] == "")
        assert cells["sent"] == "" or cells["sent"] >= cells["ordered"]
    alone = sfumato.load(out).sample(1, seed=0)[0]
    assert tuple(alone.values()) == made.rows()[0]  # a row that is drawn again is the same in any company
    model = sfumato.load(out)
    assert {row["country"] for row in model.sample(20, where="country = 'France' and amount >= 2")} == {"France"}
    assert main(["evaluate", str(out), "--rows=120"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("rules_broken"))
    assert line.split()[1] == "0.000"
    assert line.split()[4] == "0.000"  # real rows
    assert float(line.split()[5]) > 0.5  # shuffled columns
