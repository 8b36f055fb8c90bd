"""Tables whose law is known: what a perfect network would answer is written down; bounds, draws and fillings must agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sfumato.diffusion import Denoiser, generate, loss, sample, walk
from sfumato.diffusion.parts import Parts
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler
from sfumato.diffusion.solvers import dpmpp_2m
from sfumato.diffusion.unmasking import RandomOrder
from sfumato.fields.tables import asking
from sfumato.fields.tables.asking import Asked, drawn_to_meet
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.network import TableMLP
from sfumato.fields.tables.process import RowTimes, cascade, process_of, walked
from sfumato.fields.tables.rows import rows_of, table_of
from sfumato.fields.tables.rules import Derived, Rules, broken, derive, fits
from sfumato.fields.tables.table import Table, stacked
from sfumato.fields.tables.turns import InTurn
from sfumato.jobs.walk import Walk
from tests.fields.tables.exact import Frequencies, GaussianColumns, JointTable, denoiser
from tests.fields.tables.tables import table

JOINT = np.array([[0.30, 0.02, 0.08], [0.05, 0.35, 0.20]])
COVARIANCE = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
RANDOM_ORDER = RandomOrder()


def streams(n: int, name: str = "test") -> Streams:
    return Streams(key(name), range(n))


# ---- states ----------------------------------------------------------------------------------------------------------


def chi_square(counts: np.ndarray, law: np.ndarray) -> float:
    """Of counts that should be distributed like law, divided by its degrees of freedom: about 1."""
    usual = counts.sum() * law
    return float(((counts - usual) ** 2 / usual).sum() / (law.size - 1))


@pytest.fixture(scope="module")
def joint() -> Denoiser:
    return denoiser(JointTable(JOINT), JOINT.shape, 0)


def test_the_bound_of_a_known_table_is_its_log_probability(joint: Denoiser) -> None:
    """Two columns: the mean loss of a row over masks and times, times 2, is -log p(row)."""
    n = 20_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for a, b in ((0, 1), (1, 1), (1, 2)):
        batch = {"x": {"states": torch.tensor([[a, b]]).expand(n, 2)}}
        t = RowTimes((), known=0.0).draw(u, streams(n, f"times {a} {b}"), joint.process, batch)
        each = 2 * loss(joint, batch["x"], t, streams(n)).double()
        error = float(each.std()) / n**0.5
        assert float(each.mean()) == pytest.approx(-np.log(JOINT[a, b]), abs=4 * error)
        assert error < 0.1


@pytest.mark.parametrize("solver", [RANDOM_ORDER, Euler()], ids=["a column a call", "each at its own chance"])
def test_drawn_rows_have_the_known_joint_table(joint: Denoiser, solver: object) -> None:
    n = 8000
    z = joint.process.prior({"states": torch.zeros(n, 2, dtype=torch.int64)}, streams(n))
    times = walked(torch.linspace(1, 0, 3 if solver is RANDOM_ORDER else 65), (2, 0))
    drawn = sample(joint, z, times, Parts({"states": solver}), streams(n))["states"].numpy()
    counts = np.zeros(JOINT.shape)
    np.add.at(counts, tuple(drawn.T), 1)
    assert chi_square(counts, JOINT) < 4  # of 5 degrees: by chance once in 1000


def test_a_column_given_the_other_has_the_exact_conditional(joint: Denoiser) -> None:
    n = 4000
    for column, given in ((0, 1), (1, 0)):
        x = torch.zeros(n, 2, dtype=torch.int64)
        x[:, column] = given
        known = {"states": (torch.arange(2) == column).expand(n, 2)}
        z = joint.process.prior({"states": x}, streams(n))
        start, times = asking.begin(
            joint.process, z, walked(torch.linspace(1, 0, 3), (2, 0)), {"aside": {"x": {"states": x}, "known": known}}
        )
        *_, (last, _) = walk(joint, z, times, Parts({"states": RANDOM_ORDER}), streams(n), x_t=start)
        assert (last["states"][:, column] == given).all()
        law = JOINT[given] if column == 0 else JOINT[:, given]
        counts = np.bincount(last["states"][:, 1 - column].numpy(), minlength=len(law))
        assert chi_square(counts, law / law.sum()) < 7


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normal() -> Facts:
    """Three columns of normal numbers, in one bin each."""
    numbers = np.random.default_rng(0).multivariate_normal(np.zeros(3), COVARIANCE, 4000)
    made = table(**{name: [f"{value:.6f}" for value in numbers[:, i]] for i, name in enumerate("abc")})
    return Facts.of(made, np.arange(len(made)), bins=1)


def test_normal_columns_are_filled_by_regression(normal: Facts) -> None:
    """Two columns given the first: mean and covariance are those of the regression, within 3 standard errors."""
    facts = normal
    assert facts.sizes == [1, 1, 1]
    exact, n, given = denoiser(GaussianColumns(COVARIANCE), facts.sizes, 3), 4000, 1.3
    x = {"states": torch.zeros(n, 3, dtype=torch.int64), "values": torch.full((n, 3), given)}
    first = (torch.arange(3) == 0).expand(n, 3)
    aside = {"x": x, "known": {"states": first, "values": first}}
    z = exact.process.prior(x, streams(n))
    start, times = asking.begin(
        exact.process, z, walked(torch.linspace(1, 0, 44, dtype=torch.float64), (3, 40)), {"aside": aside}
    )
    solver = Parts({"states": RANDOM_ORDER, "values": dpmpp_2m()})
    *_, (last, _) = walk(exact, z, times, solver, streams(n), x_t=start)
    drawn = last["values"].double().numpy()
    assert (drawn[:, 0] == np.float32(given)).all()
    mean = COVARIANCE[1:, 0] * given
    rest = COVARIANCE[1:, 1:] - np.outer(COVARIANCE[1:, 0], COVARIANCE[0, 1:])
    assert drawn[:, 1:].mean(0) == pytest.approx(mean, abs=3 * np.sqrt(np.diag(rest).max() / n))
    assert np.cov(drawn[:, 1:].T) == pytest.approx(rest, abs=3 * np.sqrt(2 / n) * np.diag(rest).max())


def test_a_trained_network_comes_to_the_least_loss_that_normal_columns_allow(normal: Facts) -> None:
    """Within 2 % of the network that is right by construction, on the same rows, times and noise."""
    facts = normal
    torch.manual_seed(0)
    exact = denoiser(GaussianColumns(COVARIANCE), facts.sizes, 3)
    network = TableMLP(sizes=facts.sizes, first_bins=facts.first_bins, valued=facts.valued, width=64, depth=1)
    learner = Denoiser(network, process_of(facts.sizes, 3))
    rng, steps, n = np.random.default_rng(1), 500, 512
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps, pct_start=0.1)
    times = RowTimes(tuple(facts.valued))

    def error(of: Denoiser, step: int, count: int, values: np.ndarray) -> torch.Tensor:
        x = {"states": torch.zeros(count, 3, dtype=torch.int64), "values": torch.tensor(values, dtype=torch.float32)}
        u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        t = times.draw(u, streams(count, f"times {step}"), of.process, {"x": x})
        return loss(of, x, t, streams(count, f"noise {step}"), weight={"values": torch.ones(count, 3)}).mean()

    for step in range(steps):
        batch = rng.multivariate_normal(np.zeros(3), COVARIANCE, n)
        optimizer.zero_grad()
        error(learner, step, n, batch).backward()
        optimizer.step()
        rate.step()
    held = rng.multivariate_normal(np.zeros(3), COVARIANCE, 20_000)
    with torch.no_grad():
        least, reached = (float(error(of, -1, 20_000, held)) for of in (exact, learner))
    assert least < reached < 1.02 * least


# ---- exact zeros and gaps --------------------------------------------------------------------------------------------


def test_zeros_and_gaps_come_back_as_often_as_they_are_and_never_nearly() -> None:
    """Mostly 0, else an exponential amount, now and then unknown: of 100,000 rows drawn by the frequencies of states."""
    rng, rows, n = np.random.default_rng(0), 20_000, 100_000
    chance, amount = rng.random(rows), rng.exponential(100, rows)
    cells = ["" if c < 0.05 else "0" if c < 0.8 else f"{a + 0.01:.2f}" for c, a in zip(chance, amount, strict=True)]
    made = table(amount=cells, other=[str(i % 3) for i in range(rows)])
    facts = Facts.of(made, np.arange(rows))
    states = rows_of(made, facts).states
    exact = denoiser(Frequencies(states, facts), facts.sizes, 1)
    x = {"states": torch.zeros(n, 2, dtype=torch.int64), "values": torch.zeros(n, 1)}
    times = cascade(torch.linspace(1, 0, 3), torch.linspace(1, 0, 4))
    solver = Parts({"states": RANDOM_ORDER, "values": dpmpp_2m()})
    drawn = sample(exact, exact.process.prior(x, streams(n)), times, solver, streams(n))
    column = table_of(drawn["states"].numpy(), drawn["values"].numpy(), facts, range(n))["amount"]
    share = dict(zip(column.words, column.counts() / n, strict=True))
    for word in ("", "0"):
        usual = cells.count(word) / rows
        assert share[word] == pytest.approx(usual, abs=4 * np.sqrt(usual * (1 - usual) / n))
    numbers = [float(word) for word in column.words if word not in ("", "0")]
    assert min(numbers) >= min(float(cell) for cell in cells if cell not in ("", "0"))
    assert all(len(word.partition(".")[2]) <= 2 for word in column.words if word)


# ---- rules -----------------------------------------------------------------------------------------------------------


class Plain:
    """As much of a model as drawing again asks for: rows of an exact denoiser."""

    def __init__(self, guess: Denoiser, facts: Facts):
        self.guess, self.facts, self.walk, self.seen = guess, facts, Walk(batch=500), 0

    def draw(self, queries, numbers, stream):  # type: ignore[no-untyped-def]
        def begin(process, z, query):  # type: ignore[no-untyped-def]
            return process.start(z), walked(torch.linspace(1, 0, 3), (2, 0))

        for drawn in generate(
            self.guess, queries, list(numbers), stream=stream, begin=begin, solver=InTurn(), batch=500
        ):
            self.seen += len(drawn.numbers)
            yield drawn

    def rows(self, model, queries, drawn):  # type: ignore[no-untyped-def]
        return table_of(drawn.x["states"].numpy(), np.zeros((len(drawn.numbers), 0)), self.facts, drawn.numbers)


def test_a_check_is_met_by_the_law_given_that_it_is_met(joint: Denoiser) -> None:
    """Rows that break it are drawn again: as many as the model breaks it in (of the first draws .3 and .05), and the rest come
    as often, compared with each other, as they would."""
    words = table(a=[str(i // 3 % 2) for i in range(600)], b=[str(i % 3) for i in range(600)])
    rules = Rules(checks=("not (a = 0 and b = 0)", "not (a = 1 and b = 0)"))
    facts = replace(Facts.of(words, np.arange(600)), rules=rules)
    assert facts.sizes == [2, 3]
    model, n = Plain(joint, facts), 4000
    first = [model.rows(model, None, drawn) for drawn in model.draw(Asked(facts, n), range(n), ("sample",))]
    refused = 1 - fits(stacked(first), rules, facts.kinds).mean()
    assert refused == pytest.approx(JOINT[:, 0].sum(), abs=4 * np.sqrt(0.35 * 0.65 / n))
    model.seen = 0
    made = [model.rows(model, None, drawn) for drawn in drawn_to_meet(model, Asked(facts, n), range(n), model.rows)]
    whole = stacked(made)
    assert len(whole) == n
    assert broken(whole, rules, facts.kinds)[""] == 0
    assert model.seen >= n / (1 - refused) - 200
    counts = np.zeros((2, 3))
    np.add.at(counts, ([int(v) for v in whole["a"].cells()], [int(v) for v in whole["b"].cells()]), 1)
    law = np.where([[False, True, True]], JOINT, 0)
    here = law > 0
    assert chi_square(counts[here], law[here] / law.sum()) < 5  # of 3 degrees


def test_what_is_derived_breaks_no_rule_in_100000_rows() -> None:
    """Whatever the other columns are: sums, parts of dates, and a lookup in what the training rows had."""
    rng, n = np.random.default_rng(0), 100_000
    city = rng.choice(["Rome", "Paris", "Bonn"], n)
    land = {"Rome": "Italy", "Paris": "France", "Bonn": "Germany"}
    day = np.datetime64("2024-01-01") + rng.integers(0, 300, n)
    price, amount = np.round(rng.gamma(3, 4, n), 2), rng.integers(1, 9, n)
    made = table(
        city=city.tolist(), land=[land[each] for each in city], price=[f"{p:.2f}" for p in price],
        amount=amount.astype(str).tolist(), total=[f"{t:.2f}" for t in price * amount], day=day.astype(str).tolist(),
        month=[str(int(each[5:7])) for each in day.astype(str)],
    )  # fmt: skip
    formulas = (Derived("total", "price * amount"), Derived("month", "month(day)"))
    rules = Rules((Derived("land", "lookup(city)", ("city",)), *formulas))
    facts = Facts.of(made, np.arange(2000), rules=rules)
    order = rng.permutation(n)  # other rows of the other columns
    shuffled = Table(tuple(c if c.name in facts.rules.columns else c.take(order) for c in made.columns))
    assert broken(shuffled, facts.rules, facts.kinds)[""] > 0.9
    found, could = derive(shuffled, facts.rules, facts.kinds)
    assert could.all()
    assert broken(found, facts.rules, facts.kinds)[""] == 0
