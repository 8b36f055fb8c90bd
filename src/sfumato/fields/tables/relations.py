"""How good made linked tables are: keys, orphans, children of a parent, rules, and every table as by itself with its parent's
columns beside its own.

Each number stands beside that of the real tables, and the shape of a count beside its **floor**, the same of other real
parents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.errors import shown
from sfumato.errors import DataError
from sfumato.fields.tables.detector import detector
from sfumato.fields.tables.families import body_of, parts_of, table_of_run
from sfumato.fields.tables.linked import Linked, Member, parents, tuples
from sfumato.fields.tables.rules import broken
from sfumato.fields.tables.schema import Link
from sfumato.fields.tables.table import Table

if TYPE_CHECKING:
    from sfumato.fields.tables.options import RowAsk, TableMeasure
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report

MOST_ROWS = 40_000
"""Rows of the tables together that an evaluation draws, about, of those whose number is free."""
FEWEST = 50


@dataclass(frozen=True)
class Relation:
    """How one link of a made table is kept.

    Args:
        missing, dangling: share of rows whose cell is empty, and of those that point at nothing; real_ of the real table.
        children: 1 - Kolmogorov-Smirnov distance of the numbers of children of a parent; of a list see :func:`relations`.
        floor: the same of as many other real parents, half of them at most.
        parents: made rows of the parent.
    """

    table: str
    link: str
    missing: float
    real_missing: float
    dangling: float
    real_dangling: float
    children: float
    floor: float
    parents: int


def counted(child: Table, link: Link, parent: Table) -> tuple[np.ndarray, float, float]:
    """Children of each parent (n,), and the shares of rows whose cell is empty and of those that point at nothing."""
    rows = parents(child, link, parent)
    counts = np.bincount(rows[rows >= 0], minlength=len(parent))
    return counts, float((rows == -2).mean()), float((rows == -1).mean())


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """1 - Kolmogorov-Smirnov distance of two lists of numbers."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    return 1 - float(np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max())


def relations(made: Mapping[str, Table], real: Mapping[str, Table], facts: Linked, seed: int = 0) -> list[Relation]:
    """Every link of every table that is not written as it is.

    Where the parents are the real ones, of a list, it is the shares of each that are compared: 1 - total variation.
    """
    rng, found = np.random.default_rng(seed), []
    for member in facts.learned:
        for link, mode in zip(member.entry.links, member.modes):
            mine, missing, dangling = counted(made[member.name], link, made[link.table])
            theirs, real_missing, real_dangling = counted(real[member.name], link, real[link.table])
            if mode == "list" and len(mine) == len(theirs):
                score = shares_alike(mine, theirs)
                half = rng.binomial(theirs, 0.5)
                floor = shares_alike(half, theirs - half)
            else:
                score, order = alike(mine, theirs), rng.permutation(len(theirs))
                part = min(len(mine), len(order) // 2)
                floor = alike(theirs[order[:part]], theirs[order[part:]]) if part else 1.0
            found.append(
                Relation(
                    member.name, link.text, missing, real_missing, dangling, real_dangling, score, floor, len(mine)
                )
            )  # fmt: skip
    return found


def shares_alike(a: np.ndarray, b: np.ndarray) -> float:
    """1 - total variation of two lists of counts of the same things."""
    return 1 - float(np.abs(a / max(1, a.sum()) - b / max(1, b.sum())).sum()) / 2


def repeated(table: Table, key: tuple[str, ...]) -> int:
    """Rows whose key an earlier row has."""
    return len(table) - len(tuples(table, key)[1]) if key else 0


def measurable(measure: TableMeasure, ask: RowAsk) -> None:
    """Raises DataError for what an evaluation of linked tables cannot be told, or lacks."""
    if measure.real is not None:
        raise DataError(
            f"--real {shown(measure.real)}: linked tables are measured by the rows that were held out: leave it out"
        )
    if ask.known is not None or ask.where is not None:
        raise DataError("--known and --where ask a single table, and this run has several: leave them out")
    detector()


def evaluate(model: Model, asked: TableMeasure, n: int | None = None) -> Report:
    """All tables drawn once, n rows of the leading one, and what is kept of keys, links and rows."""
    from sfumato.fields.tables.linking import draw_tables
    from sfumato.jobs.report import Report

    facts: Any = model.facts
    made: dict[str, Table] = {}
    bodies: dict[str, Table] = {}
    for drawn in draw_tables(model, n or _enough(facts)):
        made[drawn.name], bodies[drawn.name] = drawn.table, drawn.body
    real = {member.name: table_of_run(model.run, member) for member in facts.members}
    links = relations(made, real, facts)
    lines: list[str] = []
    about: dict[str, Any] = {"links": [asdict(each) for each in links]}
    for each in links:
        alone, real_alone = each.missing + each.dangling, each.real_missing + each.real_dangling
        lines.append(
            f"{each.table}: {each.link}: without {alone:.2%} (real {real_alone:.2%}), children {each.children:.3f} "
            f"(floor {each.floor:.3f}; {each.parents} parents)"
        )
    for member in facts.learned:
        twice = repeated(made[member.name], member.entry.key)
        rules = broken(bodies[member.name], member.facts.rules, member.facts.kinds)[""]
        if member.entry.key:
            lines.append(f"{member.name}: {twice} of {len(made[member.name])} keys stand twice")
        if member.facts.rules:
            lines.append(f"{member.name}: {rules:.3%} of the rows break a rule")
        about[member.name] = {"rows": len(made[member.name]), "repeated_keys": twice, "rules_broken": rules}
        mine = one_each(made[member.name], member, made, without_parent(real[member.name], member, real))
        _rows(model, member, bodies[member.name].take(mine), asked, lines, about[member.name])
    return Report(about=about, table="\n".join(lines))


def _enough(facts: Linked) -> int | None:
    """Rows of the leading table with which all tables whose number is free have about so many rows."""
    if facts.lead is None:
        return None
    free = sum(member.rows + member.held for member in facts.learned if not member.entry.whole)
    real = facts.lead.rows + facts.lead.held
    return max(min(FEWEST, real), min(real, round(real * MOST_ROWS / max(1, free))))


def one_each(table: Table, member: Member, tables: Mapping[str, Table], alone: float) -> np.ndarray:
    """Numbers of rows of which each parent has one, at random: siblings share so much that a detector knows families, and finds
    even real ones that it has not seen. Of rows without a parent there are so many that their share is ``alone``, as in the
    whole table: each by itself, they would be nearly all."""
    if member.driver is None:
        return np.arange(len(table))
    order = np.random.default_rng(0).permutation(len(table))
    link = member.entry.links[member.driver]
    rows = parents(table, link, tables[link.table])[order]
    ones = np.unique(rows[rows >= 0], return_index=True)[1]
    orphans = np.flatnonzero(rows < 0)
    if len(ones) and alone < 1:
        orphans = orphans[: round(len(ones) * alone / (1 - alone))]
    return np.sort(order[np.concatenate([np.flatnonzero(rows >= 0)[ones], orphans])])


def without_parent(table: Table, member: Member, tables: Mapping[str, Table]) -> float:
    """Share of the rows whose driver, if there is one, names no parent."""
    if member.driver is None:
        return 0.0
    link = member.entry.links[member.driver]
    return float((parents(table, link, tables[link.table]) < 0).mean())


def _rows(
    model: Model, member: Member, body: Table, asked: TableMeasure, lines: list[str], about: dict[str, Any]
) -> None:
    """The scores of one table's rows, its parent's columns beside its own."""
    from sfumato.fields.tables import measure

    facts: Any = member.facts
    recipe: Any = model.recipe
    whole, real = body_of(model.run, member), table_of_run(model.run, member)
    others = {link.table: table_of_run(model.run, model.facts[link.table]) for link in member.entry.links}
    parts, alone = parts_of(model.run, member, recipe.held_out), without_parent(real, member, others)
    train, held = (whole.take(part[one_each(real.take(part), member, others, alone)]) for part in parts)
    n = min(len(held), len(train), len(body), asked.rows or measure.MOST)
    if n < FEWEST:
        lines.append(f"{member.name}: {n} rows to compare, at least {FEWEST} are needed")
        return
    rng = np.random.default_rng(0)
    body = body.take(np.sort(rng.permutation(len(body))[:n]))
    found = measure.scores(body, train, held, facts)
    lines += [
        "",
        f"{member.name}, of each parent one row, its columns beside:",
        measure.as_text(found, len(train), "held-out ones"),
    ]
    lines += [line for line in measure.remarks(found) if line.startswith("ALARM")]
    about["metrics"] = {row.name: {k: v for k, v in asdict(row).items() if k != "name"} for row in found}
