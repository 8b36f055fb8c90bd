"""Rows through the shared core: what is known stays, what is no number does not count, other columns' states cannot come."""

import numpy as np
import pytest
import torch

from sfumato.diffusion import Denoiser, loss, sample, walk
from sfumato.diffusion.parts import Parts
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import Euler
from sfumato.diffusion.solvers import dpmpp_2m
from sfumato.diffusion.tokens import best
from sfumato.diffusion.unmasking import RandomOrder
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.network import TableMLP
from sfumato.fields.tables.process import RowTimes, cascade, process_of
from sfumato.fields.tables.rows import Rows, rows_of
from tests.fields.tables.tables import mixed, table


def ready(facts: Facts, seed: int = 0) -> Denoiser:
    """A network with random heads, so that its answers say something."""
    torch.manual_seed(seed)
    network = TableMLP(
        sizes=facts.sizes, first_bins=facts.first_bins, valued=facts.valued, width=32, depth=2, by_bin=True
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Denoiser(network, process_of(facts.sizes, len(facts.valued)))


@pytest.fixture(scope="module")
def small() -> tuple[Facts, Rows, Denoiser]:
    made = mixed(400)
    facts = Facts.of(made, np.arange(400))
    return facts, rows_of(made, facts), ready(facts)


def streams(n: int) -> Streams:
    return Streams(key("test"), range(n))


def test_values_that_are_none_change_neither_loss_nor_gradient(small: tuple[Facts, Rows, Denoiser]) -> None:
    facts, rows, denoiser = small
    batch = rows.batch(np.arange(64))
    t = {"states": torch.full((64, len(facts.sizes)), 0.6), "values": torch.full((64, len(facts.valued)), 0.4)}
    found = []
    for filling in (0.0, 17.0):
        dead = batch["weight"]["values"] == 0
        assert dead.any()
        x = {"states": batch["x"]["states"], "values": batch["x"]["values"].masked_fill(dead, filling)}
        # the states are told, so the network itself does not look at a value that is none
        t_known = {**t, "states": torch.zeros_like(t["states"])}
        denoiser.network.zero_grad()
        each = loss(denoiser, x, t_known, streams(64), weight=batch["weight"])
        each.sum().backward()
        found.append((each.detach(), [p.grad.clone() for p in denoiser.network.parameters() if p.grad is not None]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1]))


def test_states_of_other_columns_are_never_drawn(small: tuple[Facts, Rows, Denoiser]) -> None:
    facts, _, denoiser = small
    n = 200
    x = {"states": torch.zeros(n, len(facts.sizes), dtype=torch.int64), "values": torch.zeros(n, len(facts.valued))}
    z = denoiser.process.prior(x, streams(n))
    times = cascade(torch.linspace(1, 0, 5), torch.linspace(1, 0, 3))
    drawn = sample(denoiser, z, times, Euler(), streams(n))
    assert (drawn["states"] < torch.tensor(facts.sizes)).all()
    assert (drawn["states"] >= 0).all()
    assert drawn["states"].unique().numel() > 3


def test_known_columns_stay_and_all_others_are_drawn(small: tuple[Facts, Rows, Denoiser]) -> None:
    facts, rows, denoiser = small
    n, columns = 50, len(facts.sizes)
    x = rows.batch(np.arange(n))["x"]
    z = denoiser.process.prior(x, streams(n))
    known = torch.zeros(columns, dtype=torch.bool)
    known[[0, 2]] = True
    owner = torch.tensor(facts.valued)
    times = [
        {"states": t["states"] * ~known[None], "values": t["values"] * ~known[owner][None]}
        for t in cascade(torch.linspace(1, 0, columns + 1), torch.linspace(1, 0, 5))
    ]
    start = {
        "states": torch.where(known, x["states"], denoiser.process.start(z)["states"]),
        "values": torch.where(known[owner], x["values"], z["values"]),
    }
    solver = Parts({"states": RandomOrder(), "values": dpmpp_2m()})

    for here, _ in walk(denoiser, z, times, solver, streams(n), x_t=start):
        assert torch.equal(here["states"][:, known], x["states"][:, known])
        assert torch.equal(here["values"][:, known[owner]], x["values"][:, known[owner]])
    assert (here["states"] < max(facts.sizes)).all()  # no mask is left


def test_training_times_give_columns_and_are_the_rows_own(small: tuple[Facts, Rows, Denoiser]) -> None:
    facts, rows, denoiser = small
    batch, times = rows.batch(np.arange(400)), RowTimes(tuple(facts.valued))
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    t = times.draw(u, streams(400), denoiser.process, batch)
    assert t["states"].shape == (400, len(facts.sizes))
    assert t["values"].shape == (400, len(facts.valued))
    owner = torch.tensor(facts.valued)
    assert torch.equal(t["states"][:, owner] == 0, t["values"] == 0)  # given is given, state and value
    given = (t["states"] == 0).any(1).float().mean()
    assert 0.1 < given < 0.25  # of a quarter some have no column given
    noise = (t["values"] == 1).any(1) & (t["values"] != 0).any(1)
    assert 0.4 < noise.float().mean() < 0.6
    few = Streams(key("test"), range(10, 20))
    again = times.draw(u[10:20], few, denoiser.process, rows.batch(np.arange(10, 20)))
    assert torch.allclose(again["states"], t["states"][10:20])
    assert torch.allclose(again["values"], t["values"][10:20])


def test_a_table_of_words_alone_has_no_values() -> None:
    made = table(a=["x", "y"] * 50, b=["1", "2", "3", "4"] * 25)
    facts = Facts.of(made, np.arange(100))
    assert facts.valued == []
    rows, denoiser = rows_of(made, facts), ready(facts)
    batch = rows.batch(np.arange(100))
    assert set(batch["x"]) == {"states"}
    t = RowTimes(()).draw(torch.linspace(0.01, 0.99, 100).double(), streams(100), denoiser.process, batch)
    each = loss(denoiser, batch["x"], t, streams(100))
    assert each.shape == (100,)
    assert each.isfinite().all()


def test_known_states_stand_though_their_logits_are_not_worked_out(small: tuple[Facts, Rows, Denoiser]) -> None:
    """Where no state is masked, sampling leaves their logits out: the guess is that of the whole answer."""
    _, rows, denoiser = small
    x = rows.batch(np.arange(32))["x"]
    t = {"states": torch.zeros(32), "values": torch.full((32,), 0.5)}
    x_t = denoiser.process.interpolate(x, denoiser.process.prior(x, streams(32)), t)
    whole = denoiser(x_t, t)
    with torch.no_grad():
        short = denoiser(x_t, t)
    assert torch.equal(best(whole.x["states"]), best(short.x["states"]))
    assert torch.allclose(whole.x["values"], short.x["values"])
    masked = torch.full_like(x["states"], denoiser.process.processes["states"].mask_id)
    with torch.no_grad():
        assert not torch.allclose(denoiser.network({**x_t, "states": masked}, t)["states"], torch.tensor(0.0))


def test_wrong_shapes_are_refused(small: tuple[Facts, Rows, Denoiser]) -> None:
    facts, _, denoiser = small
    x = torch.zeros(2, len(facts.sizes), dtype=torch.int64)
    with pytest.raises(ValueError, match="states have shape"):
        denoiser.network({"states": x[:, 1:], "values": torch.zeros(2, 2)}, {"values": torch.zeros(2)})
    with pytest.raises(ValueError, match="values have shape"):
        denoiser.network({"states": x, "values": torch.zeros(2, 9)}, {"values": torch.zeros(2)})
    with pytest.raises(ValueError, match="level of the values"):
        denoiser.network({"states": x, "values": torch.zeros(2, len(facts.valued))}, {"values": torch.zeros(2, 7)})
