"""A shop that tests are made of: customers, their orders, the lines of each order, and a list of products.

What must be kept: a customer of the kind "firm" has 4 orders in the mean, a person 1; an order's channel depends on the kind
(firms 90 % by mail, persons 20 %), its city is its customer's; one order in ten has no customer (half of these a gap, half a
number that nobody has); a line's price is what its product costs.
"""

from pathlib import Path

import numpy as np

from sfumato.fields.tables.table import Table
from sfumato.fields.tables.writing import write_table
from tests.fields.tables.tables import table

SCHEMA = """
tables:
  customers: {key: id}
  products: {keep: true, key: code}
  orders:
    key: number
    links: [customer -> customers]
  lines:
    key: order, line
    links: [order -> orders, product -> products]
    rules: {derive: {price: lookup(product)}}
"""


def hash_(i: int) -> int:
    return i * 7919 % 5


def shop(customers: int = 400, seed: int = 0) -> dict[str, Table]:
    rng = np.random.default_rng(seed)
    firm = rng.random(customers) < 0.4
    age = rng.integers(18, 90, customers)
    orders = np.where(firm, rng.poisson(4, customers), rng.poisson(1, customers))
    owner = np.repeat(np.arange(customers), orders)
    alone = len(owner) // 9
    owner = np.concatenate([owner, np.full(alone, -1)])
    mail = rng.random(len(owner)) < np.where(owner < 0, 0.5, np.where(firm[owner], 0.9, 0.2))
    who = [f"K-{i:04d}" for i in rng.permutation(9000)[:customers]]
    names = [who[i] if i >= 0 else "" if k % 2 else f"K-9{k % 3:03d}" for k, i in enumerate(owner.tolist())]
    lines = rng.integers(1, 4, len(owner))
    of = np.repeat(np.arange(len(owner)), lines)
    product = rng.integers(0, 12, len(of))
    return {
        "customers": table(id=who, kind=np.where(firm, "firm", "person").tolist(), age=age.astype(str).tolist()),
        "products": table(code=[f"P{i}" for i in range(12)], name=[f"product {i}" for i in range(12)]),
        "orders": table(
            number=[str(i + 1) for i in range(len(owner))],
            customer=names,
            city=[f"city {hash_(i)}" for i in owner.tolist()],
            channel=np.where(mail, "mail", "shop").tolist(),
            weight=[f"{w:.2f}" for w in rng.exponential(2, len(owner))],
        ),
        "lines": table(
            order=[str(i + 1) for i in of.tolist()],
            line=[str(k + 1) for n in lines.tolist() for k in range(n)],
            product=[f"P{i}" for i in product.tolist()],
            price=[f"{2.5 * i + 1:.2f}" for i in product.tolist()],
            count=rng.integers(1, 30, len(of)).astype(str).tolist(),
        ),
    }


def folder(path: Path, schema: str = SCHEMA, **tables: Table) -> Path:
    """Tables as .csv files beside their schema."""
    path.mkdir(parents=True, exist_ok=True)
    for name, each in (tables or shop()).items():
        write_table(each, path / f"{name}.csv")
    (path / "schema.yaml").write_text(schema)
    return path
