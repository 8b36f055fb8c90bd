"""Linked tables: every key that should be found is, children go with their parents, and what cannot be is said in one line."""

import json
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import sfumato
from sfumato.cli import main
from sfumato.errors import DataError
from sfumato.fields.tables.families import opened, parts_of, sides
from sfumato.fields.tables.joining import prepare, read_linked
from sfumato.fields.tables.keys import KeyPattern
from sfumato.fields.tables.linked import Linked, parents
from sfumato.fields.tables.pointing import assigned
from sfumato.fields.tables.reading import read_table
from sfumato.fields.tables.schema import Entry, Link, entries_of
from sfumato.fields.tables.sqlite import read_database, write_database
from sfumato.fields.tables.table import Table
from sfumato.training.run import Run
from tests.fields.tables.shop import SCHEMA, folder, shop
from tests.fields.tables.tables import table

FLAGS = ["--steps=250", "--batch=128", "--previews=1", "--snapshots=0", "--threads=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "shop"
    assert main(["train", "tables", str(data), "--out", str(out), *FLAGS]) == 0
    return out


@pytest.fixture(scope="module")
def made(run: Path) -> dict[str, Table]:
    return {each.name: each.table for each in sfumato.load(run).sample(500, seed=1)}


def rows(found: Table) -> list[dict[str, str | None]]:
    return [dict(zip(found.names, row)) for row in found.rows()]


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_every_key_that_should_be_found_is(made: dict[str, Table]) -> None:
    orders, lines = made["orders"], made["lines"]
    assert len(made["customers"]) == 500
    assert (parents(lines, Link(("order",), "orders", ("number",)), orders) >= 0).all()
    assert (parents(lines, Link(("product",), "products", ("code",)), made["products"]) >= 0).all()
    found = parents(orders, Link(("customer",), "customers", ("id",)), made["customers"])
    real = shop()
    before = parents(real["orders"], Link(("customer",), "customers", ("id",)), real["customers"])
    for what in (-1, -2):  # as many point at nothing, and as many are empty
        assert (found == what).mean() == pytest.approx((before == what).mean(), abs=0.01)


def test_keys_are_new_unique_and_of_the_real_pattern(made: dict[str, Table]) -> None:
    real = shop()
    ids = made["customers"]["id"].cells()
    assert len(set(ids)) == 500
    assert not set(ids) & set(real["customers"]["id"].words)
    assert all(cell and len(cell) == 6 and cell.startswith("K-") and cell[2:].isdigit() for cell in ids)
    assert made["orders"]["number"].cells()[0] == str(len(real["orders"]) + 1)
    pairs = list(zip(made["lines"]["order"].cells(), made["lines"]["line"].cells()))
    assert len(set(pairs)) == len(pairs)


def test_a_list_stays_and_what_follows_from_it_is_never_wrong(made: dict[str, Table]) -> None:
    real = shop()
    assert made["products"].rows() == real["products"].rows()
    price = {row["product"]: row["price"] for row in rows(real["lines"])}
    assert all(price[row["product"]] == row["price"] for row in rows(made["lines"]))


def test_children_are_like_their_parent(made: dict[str, Table]) -> None:
    """Firms have 4 orders in the mean and persons 1; firms order by mail (90 %), persons do not (20 %). A short training keeps
    about half of it, 2.2 times as many of 170 firms, give or take .2."""
    kind = {row["id"]: row["kind"] for row in rows(made["customers"])}
    orders = [row for row in rows(made["orders"]) if row["customer"] in kind]
    number = Counter(kind[row["customer"]] for row in orders)
    customers = Counter(kind.values())
    assert number["firm"] / customers["firm"] > 1.5 * number["person"] / customers["person"]
    mail = Counter(kind[row["customer"]] for row in orders if row["channel"] == "mail")
    assert mail["firm"] / number["firm"] > 0.7
    assert mail["person"] / number["person"] < 0.45
    cities: dict[str | None, list[str | None]] = {}
    for row in orders:
        cities.setdefault(row["customer"], []).append(row["city"])
    several = [Counter(each).most_common(1)[0][1] / len(each) for each in cities.values() if len(each) > 1]
    assert np.mean(several) > 0.75  # by chance it is about 0.5


def test_a_row_is_drawn_for_the_parent_that_it_points_at(run: Path) -> None:
    """What stood beside it while it was drawn is what its parent became, to the letter."""
    made = {each.name: each for each in sfumato.load(run).sample(60, seed=2)}
    parent = {row["id"]: row for row in rows(made["customers"].table)}
    beside = zip(rows(made["orders"].table), rows(made["orders"].body))
    linked = [(row, body) for row, body in beside if row["customer"] in parent]
    assert len(linked) > 50
    for row, body in linked:
        for name in ("kind", "age"):
            assert body[f"customer.{name}"] == parent[row["customer"]][name]
    counts = Counter(row["customer"] for row, _ in linked)
    for row in rows(made["customers"].body):
        key = next(iter(parent))
        parent_row = parent.pop(key)
        assert int(row["rows of orders by customer"] or 0) == counts[parent_row["id"]]


def test_how_tables_are_drawn_can_be_said_when_they_are(run: Path) -> None:
    """Calls asked for in `sample` are those of a model that was loaded with them, for every table."""
    told, loaded, usual = (
        sfumato.load(run, **asked).sample(15, seed=3, **given)
        for asked, given in (({}, {"steps": 2}), ({"steps": 2}, {}), ({}, {}))
    )
    for one, other in zip(told, loaded, strict=True):
        assert one.table.rows() == other.table.rows()
    assert any(one.table.rows() != other.table.rows() for one, other in zip(told, usual, strict=True))


def test_a_second_parent_is_one_like_the_row(tmp_path: Path) -> None:
    """A visit has a patient, who says how many there are, and a doctor of the right trade; doctors stay as busy as real ones; a
    street of 300 is drawn as often as it is there."""
    rng = np.random.default_rng(0)
    doctors, patients, n = 150, 200, 1500
    trade = rng.integers(0, 3, doctors)
    busy = rng.exponential(1, doctors) * (1 + 2 * (trade == 0))
    which = rng.choice(doctors, n, p=busy / busy.sum())
    tables = {
        "doctors": table(code=[f"D{i:03d}" for i in range(doctors)], trade=[f"trade {i}" for i in trade]),
        "patients": table(
            id=[str(i) for i in range(patients)], sex=[("f", "m")[i] for i in rng.integers(0, 2, patients)]
        ),
        "visits": table(
            patient=rng.integers(0, patients, n).astype(str).tolist(),
            doctor=["" if i % 20 == 0 else f"D{d:03d}" for i, d in enumerate(which.tolist())],
            reason=[f"reason {trade[d]}" for d in which.tolist()],
            street=[f"street {i % 300}" for i in range(n)],
        ),
    }
    schema = """
    tables:
      doctors: {key: code}
      patients: {key: id}
      visits: {links: [patient -> patients, doctor -> doctors]}
    """
    data = folder(tmp_path / "data", schema, **tables)
    found = sfumato.train(
        str(data), field="tables", steps=250, batch=128, threads=1, previews=0, snapshots=0, out=tmp_path / "run"
    )  # fmt: skip
    made = {each.name: each.table for each in sfumato.load(found).sample()}
    own = {row["code"]: row["trade"] for row in rows(made["doctors"])}
    visits = [row for row in rows(made["visits"]) if row["doctor"] in own]
    assert len(visits) / len(made["visits"]) == pytest.approx(0.95, abs=0.03)
    right = np.mean([own[row["doctor"]] == f"trade {(row['reason'] or ' ')[-1]}" for row in visits])
    assert right > 0.7  # by chance it is about 0.4
    busy_made = np.sort([Counter(row["doctor"] for row in visits)[code] for code in own])
    busy_real = np.sort(np.bincount(which, minlength=doctors))
    assert np.abs(busy_made / busy_made.mean() - busy_real / busy_real.mean()).mean() < 0.3
    streets = Counter(made["visits"]["street"].cells())
    assert max(streets.values()) - min(streets.values()) <= 1 + len(made["visits"]) // 300


def test_a_table_of_nothing_but_links(tmp_path: Path) -> None:
    """Who is in which course, once each: the number of a student's courses and of a course's students stay about as they are."""
    rng = np.random.default_rng(0)
    pairs = sorted({(int(s), int(c)) for s, c in zip(rng.integers(0, 150, 700), rng.integers(0, 80, 700) ** 2 // 80)})
    tables = {
        "students": table(id=[str(i) for i in range(150)], year=[str(i % 4) for i in range(150)]),
        "courses": table(code=[f"C{i:02d}" for i in range(80)], points=[str(5 * (i % 3)) for i in range(80)]),
        "enrolments": table(student=[str(s) for s, _ in pairs], course=[f"C{c:02d}" for _, c in pairs]),
    }
    schema = """
    tables:
      students: {key: id}
      courses: {key: code}
      enrolments: {key: [student, course], links: [student -> students, course -> courses]}
    """
    data = folder(tmp_path / "data", schema, **tables)
    found = sfumato.train(
        str(data), field="tables", steps=20, batch=32, threads=1, previews=0, snapshots=0, out=tmp_path / "run"
    )  # fmt: skip
    made = {each.name: each.table for each in sfumato.load(found).sample()}
    rows_made = made["enrolments"].rows()
    assert len(set(rows_made)) == len(rows_made)
    assert {row[0] for row in rows_made} <= set(made["students"]["id"].words)
    assert {row[1] for row in rows_made} <= set(made["courses"]["code"].words)
    assert len(rows_made) == pytest.approx(len(pairs), rel=0.3)


def test_tables_are_a_function_of_the_seed(run: Path) -> None:
    model = sfumato.load(run)
    a, b, c = (model.sample(40, seed=seed) for seed in (3, 3, 4))
    assert [each.rows() for each in a] == [each.rows() for each in b]
    assert a[0].rows() != c[0].rows()


def test_a_folder_goes_in_and_out(run: Path, data: Path, tmp_path: Path) -> None:
    assert main(["sample", str(run), "-n", "60", "--out", str(tmp_path / "out")]) == 0
    tables, entries = read_linked(tmp_path / "out")
    assert [entry.name for entry in entries] == ["customers", "products", "orders", "lines"]
    before, _ = read_linked(data)
    for name, each in tables.items():
        assert each.names == before[name].names
        assert each.format == before[name].format
    assert len(tables["customers"]) == 60
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["making"]["seed"] == 0


def test_a_database_goes_out_and_in(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.sqlite"
    assert main(["sample", str(run), "-n", "60", "--out", str(file)]) == 0
    _, entries = read_database(file)
    known = {entry.name: entry for entry in entries}
    assert known["lines"].key == ("order", "line")
    assert known["lines"].links[0] == Link(("order",), "orders", ("number",))
    with sqlite3.connect(file) as database:  # SQLite's own look: only orders that point at nothing
        broken = database.execute("PRAGMA foreign_key_check").fetchall()
        assert {row[0] for row in broken} == {"orders"}
        assert database.execute("SELECT typeof(weight) FROM orders").fetchone() == ("real",)
    assert main(["sample", str(run), "-n", "60", "--out", str(tmp_path / "rows.csv")]) == 1
    assert "must be a folder" in capsys.readouterr().err


def test_a_database_is_learned_with_its_own_keys(tmp_path: Path) -> None:
    entries = entries_of(
        {"tables": {"customers": {"key": "id"}, "orders": {"key": "number", "links": ["customer -> customers"]}}}, "x"
    )
    tables = shop(200)
    file = write_database(tmp_path / "shop.sqlite", {name: tables[name] for name in ("customers", "orders")}, entries)
    found = sfumato.train(
        str(file), field="tables", steps=3, batch=32, threads=1, previews=0, snapshots=0, out=tmp_path / "run"
    )
    made = {each.name: each.table for each in sfumato.load(found).sample(20)}
    assert made["orders"]["weight"].type == "sql REAL"
    assert (parents(made["orders"], entries[1].links[0], made["customers"]) >= -2).all()
    (tmp_path / "shop.yaml").write_text("tables: {customers: {keep: true}}")
    assert [entry.keep for entry in read_linked(file)[1]] == [True, False]


def test_a_table_s_name_leads_nowhere(tmp_path: Path) -> None:
    """Names that are paths stay names: in the cache of a run and in the folder of a sample."""
    real = table(a=[str(i % 7) for i in range(90)], b=["x", "y"] * 45)
    file = write_database(tmp_path / "odd.sqlite", {"../up": real, "a/b": real, "a_b": real})
    found = sfumato.train(
        str(file), field="tables", steps=2, batch=16, threads=1, previews=0, snapshots=0, out=tmp_path / "in" / "run"
    )
    assert main(["sample", str(found.path), "-n", "5", "--out", str(tmp_path / "in" / "out")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"odd.sqlite", "in"}
    tables, entries = read_linked(tmp_path / "in" / "out")
    assert [(entry.name, entry.file) for entry in entries] == [
        ("../up", "_up.csv"), ("a/b", "a_b.csv"), ("a_b", "a_b_3.csv"),
    ]  # fmt: skip
    assert all(each.names == ["a", "b"] for each in tables.values())
    with pytest.raises(DataError, match=r"'../up' cannot be the name of a file"):
        read_linked(folder(tmp_path / "x", "tables: {../up: {}}", a=real))


def test_links_are_measured_beside_the_real_ones(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightgbm")
    assert main(["evaluate", str(run)]) == 0
    assert "lines: 0 of" in capsys.readouterr().out
    found = {each["link"]: each for each in json.loads((run / "metrics.json").read_text())["links"]}
    assert found["customer -> customers(id)"]["children"] > 0.85
    assert found["order -> orders(number)"]["missing"] == 0.0


# ---- how -------------------------------------------------------------------------------------------------------------


def test_a_batch_is_of_one_table_and_its_loss_is_that_table_s(data: Path, tmp_path: Path) -> None:
    facts, train = ready(data, tmp_path)
    network, process = facts.network(32, 1), facts.process()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    first = np.flatnonzero(train.table == 1)[:40]
    batch = train.batch(first)
    assert list(batch["x"]) == ["orders"]
    denoiser = sfumato.Denoiser(network, process)
    t = {
        "orders": {
            "states": torch.full((40, len(facts["orders"].facts.sizes)), 0.5),
            "values": torch.full((40, 1), 0.5),
        }
    }
    rng = sfumato.diffusion.rng.Streams(7, range(40))
    whole = sfumato.diffusion.loss(denoiser, batch["x"], t, rng, weight=batch["weight"])
    alone = sfumato.Denoiser(network.of("orders"), facts["orders"].facts.process())
    rng = sfumato.diffusion.rng.Streams(7, range(40))
    own = sfumato.diffusion.loss(alone, batch["x"]["orders"], t["orders"], rng, weight=batch["weight"]["orders"])
    torch.testing.assert_close(whole, own)
    whole.sum().backward()
    assert all(p.grad is None for p in network.of("customers").parameters())


def test_what_is_the_parent_s_is_always_given(data: Path, tmp_path: Path) -> None:
    facts, train = ready(data, tmp_path)
    batch = train.batch(np.flatnonzero(train.table == 1)[:200])
    rng = sfumato.diffusion.rng.Streams(7, range(200))
    u = torch.linspace(0.01, 0.99, 200, dtype=torch.float64)
    t = facts.times(0.25).draw(u, rng, facts.process(), {"x": batch["x"]})["orders"]
    member = facts["orders"]
    names = [states.kind.name for states in member.facts.learned]
    assert {names[i] for i in member.context()} == {
        "customer.kind", "customer.age", "customer.rows of orders by customer", "customer.city of most orders",
    }  # fmt: skip
    assert not t["states"][:, list(member.context())].any()
    free = [i for i in range(len(names)) if i not in member.context()]
    assert t["states"][:, free].mean() > 0.3


def test_small_tables_are_seen_more_often_than_their_rows(data: Path, tmp_path: Path) -> None:
    _, train = ready(data, tmp_path)
    seen = np.bincount(train.table)
    sizes = [len(each) for each in train.tables.values()]
    assert sizes[0] < sizes[1] < sizes[2] == seen[2]
    assert seen[0] == 2 * sizes[0]  # the root of 4.4
    assert len(set(train.table[:20].tolist())) == 3  # the first ones are some of each: losses are measured on them


def test_children_are_held_out_with_their_parent(data: Path, tmp_path: Path) -> None:
    facts, _ = ready(data, tmp_path)
    run = Run(tmp_path / "run")
    real = shop()
    sides = {}
    for name in ("customers", "orders"):
        sides[name] = np.zeros(len(real[name]), dtype=bool)
        sides[name][parts_of(run, facts[name], 0.2)[1]] = True
    owner = parents(real["orders"], Link(("customer",), "customers", ("id",)), real["customers"])
    assert 0.1 < sides["customers"].mean() < 0.3
    assert (sides["orders"] == sides["customers"][owner])[owner >= 0].all()


def test_of_large_families_some_rows_are_on_neither_side() -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(40, dtype=np.uint64) * 977, 300))
    train, held = sides(groups, 0.5)
    assert not set(groups[train]) & set(groups[held])
    assert len(held) == 2000
    counts = np.unique(groups[held], return_counts=True)[1]
    assert len(counts) > 10
    assert counts.max() - counts.min() <= 1  # every family has one before any has two
    assert len(train) + 300 * len(counts) == len(groups)


def ready(data: Path, path: Path) -> tuple[Linked, object]:
    run = Run(path / "run")
    run.create()
    tables, entries = read_linked(data)
    facts = prepare(tables, entries, run, 8, 0.1, lambda line: None)
    return facts, opened(run, facts, 0.1)[0]


def test_stopping_and_going_on_is_the_same_run(data: Path, tmp_path: Path) -> None:
    """Six steps are bit-equal to three, a stop, and three, whichever tables they are of."""
    import shutil

    from safetensors.torch import load_file

    options = {
        "batch": 32,
        "previews": 0,
        "snapshots": 0,
        "threads": 1,
        "precision": "fp32",
        "save_seconds": 1e-9,
        "keep": 20,
    }
    whole = sfumato.train(str(data), field="tables", out=tmp_path / "whole", steps=6, **options)
    shutil.copytree(whole.path, tmp_path / "half")
    half = Run(tmp_path / "half")
    for path in half.checkpoints.iterdir():
        if int(path.name.rpartition("-")[2]) > 3:
            shutil.rmtree(path)
    half.model.unlink()
    sfumato.resume(half)
    a, b = load_file(whole.model), load_file(half.model)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_places_are_taken_once_and_by_those_most_like_them() -> None:
    rng = np.random.default_rng(0)
    there = [rng.integers(0, 3, 300), rng.integers(0, 4, 300)]
    order = rng.permutation(300)
    found = assigned([each[order] for each in there], there, 300)
    assert sorted(found.tolist()) == list(range(300))
    assert all((each[found] == each[order]).all() for each in there)  # the same rows: each finds its like
    other = [rng.integers(0, 3, 300), rng.integers(0, 4, 300)]
    found = assigned(other, there, 300)
    assert sorted(found.tolist()) == list(range(300))
    most = sum(min((other[0] == k).sum(), (there[0] == k).sum()) for k in range(3))
    assert (there[0][found] == other[0]).sum() == most  # no assignment agrees in more of them


def test_patterns_of_keys() -> None:
    rng = np.random.default_rng(0)
    pattern = KeyPattern.of(["N10156", "N102UW", "N103US", "N24211"])
    made = pattern.make(30, rng, {"N10156"})
    assert len(set(made)) == 30
    assert "N10156" not in made
    assert all(len(word) == 6 and word[0] == "N" and word[1:4].isdigit() for word in made)
    assert KeyPattern.of(["7", "9", "12"]).make(3, rng, {"7", "9", "12", "40"}) == ["41", "42", "43"]
    assert KeyPattern.of_plain(json.loads(json.dumps(pattern.plain()))) == pattern
    dense = KeyPattern.of(["D001", "D002", "D004"])
    assert dense.make(2, rng, {"D001", "D002", "D004"}) == ["D005", "D006"]
    assert KeyPattern.of_plain(dense.plain()) == dense
    few = KeyPattern.of(["AX", "BY"])
    assert len(set(few.make(40, rng, {"AX"}))) == 40  # more than the letters seen allow: others of their kind
    with pytest.raises(DataError, match=r"orders\.id: 67[56] new ones like 'AX' could be made, 900 are wanted"):
        few.make(900, rng, {"AX"}, "orders.id")


def test_real_keys_stay_where_the_schema_says_so(tmp_path: Path) -> None:
    """A table that keeps its keys has every one of them once; its other columns are drawn for them."""
    rng = np.random.default_rng(0)
    days = [str(np.datetime64("2020-01-01") + i % 100) for i in range(300)]
    place = [f"p{i // 100}" for i in range(300)]
    warm = [("warm" if (i // 100) == 1 else "cold") if rng.random() < 0.95 else "mild" for i in range(300)]
    month = [
        day[5:7] + day[8:] for day in days
    ]  # each day is at three places alone, so that some are held out altogether
    schema = "tables: {weather: {key: [place, day], keys: keep, rules: {derive: {month: lookup(day)}}}}"
    data = folder(tmp_path / "data", schema, weather=table(place=place, day=days, sky=warm, month=month))
    found = sfumato.train(
        str(data),
        field="tables",
        steps=150,
        batch=64,
        threads=1,
        previews=0,
        snapshots=0,
        out=tmp_path / "run",
        held_out=0.4,
    )
    ((made,),) = ([each.table for each in sfumato.load(found).sample()],)
    assert list(zip(made["place"].cells(), made["day"].cells())) == list(zip(place, days))
    p1 = [sky for where, sky in zip(made["place"].cells(), made["sky"].cells()) if where == "p1"]
    assert p1.count("warm") > 70
    assert made["month"].cells() == month


# ---- what cannot be --------------------------------------------------------------------------------------------------

WRONG = [
    ("tabels: {}", "expected  tables:"),
    ("tables: {a: {kye: id}}", "'kye' is nothing that a table has; did you mean 'key'"),
    ("tables: {orders: {links: [customer -> custmers]}, customers: {key: id}}", "no table 'custmers'; did you mean 'customers'"),
    ("tables: {orders: {links: [customer customers]}, customers: {key: id}}", "should be like  COLUMN -> TABLE"),
    ("tables: {orders: {links: [customer -> customers]}, customers: {}}", "customers has no key; give it one"),
    ("tables: {orders: {links: ['a, b -> customers']}, customers: {key: id}}", "2 columns point at 1: id"),
    ("tables: {orders: {key: number, links: [customer -> orders]}}", "orders points at itself"),
    ("tables: {orders: {key: number, links: [a -> customers]}, customers: {key: id, links: [b -> orders]}}",
     "customers, orders point at each other"),
    ("tables: {customers: {keys: new}}", "keys is 'new'; must be make or keep"),
    ("tables: {customers: {keep: perhaps}}", "keep is 'perhaps'; must be true or false"),
    ("tables: {customers: {file: ../customers.csv}}", "must be the name of a file beside the schema"),
    ("tables: {clients: {}}", "there is no clients.csv for the table 'clients'"),
    ("tables: {customers: {key: idd}}", "customers has no column 'idd'; its columns are id, kind, age"),
    ("tables: {customers: {key: kind}}", "the key kind is 'firm' in rows 2 and 3"),
    ("tables: {orders: {key: [customer, number]}}", "the key customer, number is empty in row"),
    ("tables: {orders: {keep: true, links: [customer -> customers]}, customers: {key: id}}",
     "orders is kept and points at customers, which is not"),
    ("tables: {customers: {leave_out: ag}}", "names 'ag', but the columns are"),
    ("tables: {customers: {keep: true}}", "every table is kept as it is"),
    ("tables: {customers: {key: id, leave_out: [kind, age]}}", "customers: has nothing but its key"),
    ("tables: {lines: {rules: {derive: {price: lookup(produkt)}}}}", "there is no column 'produkt'; did you mean 'product'"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "wanted"), WRONG, ids=range(len(WRONG)))
def test_what_a_schema_cannot_say_is_refused_in_one_line(
    tmp_path: Path, schema: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder(tmp_path / "data", schema, **shop(120))
    assert main(["inspect", "tables", str(data), "--threads=1"]) == 1
    said = capsys.readouterr().err
    assert wanted in said
    assert said.count("\n") == 1


def test_a_folder_without_a_schema_and_a_file_that_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a folder of tables needs a schema\.yaml"):
        read_linked(tmp_path)
    (tmp_path / "a.sqlite").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is no SQLite database"):
        read_table(tmp_path / "a.sqlite")
    write_database(tmp_path / "b.sqlite", {name: shop(60)[name] for name in ("customers", "orders")})
    with pytest.raises(DataError, match="holds 2 tables; say which with --table: customers, orders"):
        read_table(tmp_path / "b.sqlite")
    with pytest.raises(DataError, match="holds no table 'order'; its tables are customers, orders"):
        read_table(tmp_path / "b.sqlite", table="order")


def test_what_asks_a_single_table_is_refused_of_several(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in (["--where", "age > 3"], ["--known", "x.csv"]):
        assert main(["sample", str(run), *asked]) == 1
        assert "it asks a single table, and this run has several" in capsys.readouterr().err
    assert main(["distill", str(run)]) == 1
    assert "no flow map" in capsys.readouterr().err


def test_an_entry_comes_back_from_its_words() -> None:
    entry = Entry("a b", key=("x",), links=(Link(("p, q",), "t", ("y",)),), leave_out=("z",), kind={"k": "date"})
    plain = {"tables": {"a b": entry.plain(), "t": {"key": ["y"]}}}
    assert entry in entries_of(json.loads(json.dumps(plain)), "x")
    assert SCHEMA.strip().startswith("tables:")
