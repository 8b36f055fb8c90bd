"""The walk of rows, and the process of their states: the laws of random order and of masks, with less work."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sfumato.diffusion import Denoiser, generate, walk
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.parts import Parts
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.unmasking import RandomOrder
from sfumato.fields.tables import asking
from sfumato.fields.tables.data import Facts
from sfumato.fields.tables.process import Cells, cascade, process_of, walked
from sfumato.fields.tables.turns import InTurn
from tests.fields.tables.exact import GaussianColumns, JointTable, denoiser
from tests.fields.tables.tables import mixed
from tests.fields.tables.test_process import ready
from tests.fields.tables.test_truths import COVARIANCE, JOINT, chi_square, streams


class Counted(Streams):
    """Streams that count how often all rows draw."""

    uniforms = 0
    normals = 0

    def uniform(self, shape, dtype=torch.float32):
        self.uniforms += 1
        return super().uniform(shape, dtype)

    def normal(self, shape, dtype=torch.float32):
        self.normals += 1
        return super().normal(shape, dtype)


def drawn(guess: Denoiser, columns: int, values: int, n: int, rows: range | None = None, eta: float = 0.0):
    """States and values of rows, and the streams they drew from."""
    rows = range(n) if rows is None else rows
    x = {"states": torch.zeros(len(rows), columns, dtype=torch.int64)}
    if values:
        x["values"] = torch.zeros(len(rows), values)
    rng = Counted(key("turns"), rows)
    z = guess.process.prior(x, rng)
    rng.uniforms = rng.normals = 0
    times = walked(
        torch.linspace(1, 0, columns + (8 if values else 0) + 1, dtype=torch.float64), (columns, 8 if values else 0)
    )
    *_, (last, _) = walk(guess, z, times, InTurn(eta), rng)
    return last, rng


def test_rows_in_turn_have_the_known_joint_table() -> None:
    last, rng = drawn(denoiser(JointTable(JOINT), JOINT.shape, 0), 2, 0, 8000)
    counts = np.zeros(JOINT.shape)
    np.add.at(counts, tuple(last["states"].numpy().T), 1)
    assert chi_square(counts, JOINT) < 4  # of 5 degrees: by chance once in 1000
    assert rng.uniforms == 1  # for all the steps


def test_each_row_has_an_order_of_its_own() -> None:
    """After the first of two calls about half of the rows know their first column, the others their second."""
    guess, n = denoiser(JointTable(JOINT), JOINT.shape, 0), 2000
    z = guess.process.prior({"states": torch.zeros(n, 2, dtype=torch.int64)}, streams(n))
    states = [x["states"] for x, _ in walk(guess, z, walked(torch.linspace(1, 0, 3), (2, 0)), InTurn(), streams(n))]
    known = states[1] != guess.process.processes["states"].mask_id
    assert (known.sum(1) == 1).all()
    assert float(known[:, 0].float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(states[2][known], states[1][known])


def test_a_row_is_the_same_in_any_company() -> None:
    """Alone, and beside rows of which all states are known already: by itself it draws as often as with them."""
    guess, n = denoiser(GaussianColumns(COVARIANCE), [1, 1, 1], 3), 6
    whole, _ = drawn(guess, 3, 3, n)
    part, _ = drawn(guess, 3, 3, 2, range(3, 5))
    for name in whole:
        assert torch.allclose(whole[name][3:5], part[name])
    x = {"states": torch.zeros(n, 3, dtype=torch.int64), "values": torch.zeros(n, 3)}
    known = {part: (torch.arange(n) < 3)[:, None].expand(n, 3) for part in x}
    for eta in (0.0, 0.7):
        found = []
        for rows in (range(n), range(3, n)):
            own = {
                what: {part: value[list(rows)] for part, value in of.items()}
                for what, of in (("x", x), ("known", known))
            }
            rng = Streams(key("turns"), rows)
            z = guess.process.prior(own["x"], rng)
            start, times = asking.begin(guess.process, z, cascade(*[torch.linspace(1, 0, 4)] * 2), {"aside": own})
            *_, (last, _) = walk(guess, z, times, InTurn(eta), rng, x_t=start)
            found.append(last["values"])
        assert (found[0][:3] == 0).all()
        assert torch.allclose(found[0][3:], found[1])


def test_fresh_noise_is_drawn_for_values_alone() -> None:
    guess = denoiser(GaussianColumns(COVARIANCE), [1, 1, 1], 3)
    still, quiet = drawn(guess, 3, 3, 3000)
    moved, loud = drawn(guess, 3, 3, 3000, eta=0.7)
    assert quiet.normals == 0
    assert loud.normals > 1
    assert not torch.allclose(still["values"], moved["values"])


def test_few_steps_keep_the_spread_of_values_that_hang_together() -> None:
    """Against many steps from the same noise: the covariance of 5 within a tenth, of 10 within a fiftieth."""
    guess, found = denoiser(GaussianColumns(COVARIANCE), [1, 1, 1], 3), {}
    for calls in (5, 10, 80):
        x = {"states": torch.zeros(2000, 3, dtype=torch.int64), "values": torch.zeros(2000, 3)}
        z = guess.process.prior(x, streams(2000))
        times = cascade(torch.linspace(1, 0, 4), torch.linspace(1, 0, calls + 1, dtype=torch.float64))
        *_, (last, _) = walk(guess, z, times, InTurn(), streams(2000))
        found[calls] = np.cov(last["values"].numpy().T)
    assert np.abs(found[80] - COVARIANCE).max() < 0.1  # of so many rows
    assert np.abs(found[10] - found[80]).max() < 0.02
    assert np.abs(found[5] - found[80]).max() < 0.1


class Same(Streams):
    """Streams that give the same numbers whenever they are asked."""

    def uniform(self, shape, dtype=torch.float32):
        self.kept = super().uniform(shape, dtype) if getattr(self, "kept", None) is None else self.kept
        return self.kept


@pytest.mark.parametrize("calls", [2, 3, 6])
def test_turns_reveal_what_random_order_reveals_by_the_same_numbers(calls: int) -> None:
    """Six columns in two, three and six calls, one of them given in half of the rows."""
    facts, n = Facts.of(mixed(400), np.arange(400)), 50
    guess = ready(facts)
    columns = len(facts.sizes)
    x = {"states": torch.zeros(n, columns, dtype=torch.int64), "values": torch.zeros(n, len(facts.valued))}
    known = torch.zeros(n, columns, dtype=torch.bool)
    known[::2, 1] = True
    z = guess.process.prior(x, streams(n))
    start = {"states": torch.where(known, x["states"], guess.process.start(z)["states"]), "values": z["values"]}
    times = [
        {"states": t * ~known, "values": torch.ones(())} for t in torch.linspace(1, 0, calls + 1, dtype=torch.float64)
    ]
    found = []
    for solver in (InTurn(), Parts({"states": RandomOrder()})):
        rng = Same(key("turns"), range(n))
        found.append([rows["states"] for rows, _ in walk(guess, z, times, solver, rng, x_t=start)])
    for mine, theirs in zip(*found, strict=True):
        whole = ~known.any(1)  # where a column is given the others are spread over the calls in another way
        assert torch.equal(mine[whole], theirs[whole])
    assert torch.equal(found[0][-1], found[1][-1]) or calls < columns
    assert (found[0][-1] < guess.process.processes["states"].mask_id).all()


class Noticing(torch.nn.Module):
    """A network that counts how it is called."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.some, self.all = network, 0, 0

    def forward(self, shown, level, only=None):
        self.some, self.all = self.some + (only is not None), self.all + (only is None)
        return self.network(shown, level, only)


def test_asking_for_the_states_alone_that_are_drawn_changes_nothing() -> None:
    facts, n = Facts.of(mixed(400), np.arange(400)), 40
    plain = ready(facts)
    columns, values = len(facts.sizes), len(facts.valued)
    network = Noticing(plain.network)
    quick = Denoiser(network, process_of(facts.sizes, values, only=True))
    for calls in (columns, 3):
        network.some = network.all = 0
        found = []
        for guess in (plain, quick):
            x = {"states": torch.zeros(n, columns, dtype=torch.int64), "values": torch.zeros(n, values)}
            z = guess.process.prior(x, streams(n))
            times = cascade(torch.linspace(1, 0, calls + 1), torch.linspace(1, 0, 5))
            *_, (last, _) = walk(guess, z, times, InTurn(), streams(n))
            found.append(last)
        assert torch.equal(found[0]["states"], found[1]["states"])
        assert torch.allclose(found[0]["values"], found[1]["values"], atol=1e-5)
        assert (network.some, network.all) == (calls, 4)
        assert (found[0]["states"] != found[0]["states"][:1]).any()
    network.some = network.all = 0
    together = [{part: torch.tensor(t) for part in ("states", "values")} for t in (1.0, 0.0)]
    list(walk(quick, quick.process.prior(x, streams(n)), together, InTurn(), streams(n)))
    assert (network.some, network.all) == (0, 1)  # where values move too, all is asked for at once


def test_who_looks_at_the_guess_is_given_all_of_it() -> None:
    """Films and pages look on: then nothing is left out, and what is drawn is the same."""
    facts, n = Facts.of(mixed(400), np.arange(400)), 10
    plain = ready(facts)
    network = Noticing(plain.network)
    guess = Denoiser(network, process_of(facts.sizes, len(facts.valued), only=True))
    seen = []
    for look in (None, lambda numbers, step, steps, x: seen.append(x["states"])):
        network.some = network.all = 0
        (drawn,) = generate(
            guess, asking.Asked(facts, n), range(n), solver=InTurn(), batch=n, look=look,
            begin=lambda process, z, query: (process.start(z), walked(torch.linspace(1, 0, 9, dtype=torch.float64), (4, 4))),
        )  # fmt: skip
        assert (network.some > 0) == (look is None)
        seen.append(drawn.x["states"])
    assert torch.equal(seen[0], seen[-1])
    assert all(states.shape == seen[0].shape for states in seen)


class Asked(torch.nn.Module):
    """A network of one kind of answer that counts its calls."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, shown, level):
        self.calls += 1
        return self.network(shown, level)


def test_the_network_is_asked_when_something_is_drawn_and_once() -> None:
    """In eight steps two columns take two calls, and a step of states and values together takes one."""
    joint, normal, n = denoiser(JointTable(JOINT), JOINT.shape, 0), denoiser(GaussianColumns(COVARIANCE), [1] * 3, 3), 5
    for guess, x, times, calls in (
        (joint, {"states": torch.zeros(n, 2, dtype=torch.int64)}, walked(torch.linspace(1, 0, 9), (8, 0)), 2),
        (normal, {"states": torch.zeros(n, 3, dtype=torch.int64), "values": torch.zeros(n, 3)},
         [{part: torch.tensor(t) for part in ("states", "values")} for t in (1.0, 0.0)], 1),
    ):  # fmt: skip
        network = Asked(guess.network)
        z = guess.process.prior(x, streams(n))
        *_, (last, _) = walk(Denoiser(network, guess.process), z, times, InTurn(), streams(n))
        assert network.calls == calls
        assert (last["states"] != guess.process.processes["states"].mask_id).all()


# ---- the process of states -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 1], ids=["mask beyond the logits", "mask among the logits"])
def test_cells_lose_what_masked_tokens_lose(more: int) -> None:
    """With columns given, hidden and shown, and rows that count for more: the same loss and gradient."""
    torch.manual_seed(0)
    plain, cells, n = Masked(7), Cells(7), 40
    x = torch.randint(0, 7, (n, 5))
    z, t = plain.prior(x, streams(n)), torch.rand(n, 5)
    t[::4] = 0.0
    t[1, :3] = 0.0
    for weight in (None, torch.rand(n, 5).round() * 2):
        found = []
        for process in (plain, cells):
            answer = torch.randn(n, 5, 7 + more, generator=torch.Generator().manual_seed(1)).requires_grad_()
            each = process.loss(answer, x, z, t, weight)
            each.sum().backward()
            found.append((each.detach(), answer.grad))
        assert torch.allclose(found[0][0], found[1][0])
        assert torch.allclose(found[0][1], found[1][1], atol=1e-6)
        assert (found[1][0][::4] == 0).all()
    weight = torch.rand(n, 5).round()
    answer = torch.randn(n, 5, 7 + more).masked_fill((weight == 0)[..., None], torch.inf).requires_grad_()
    cells.loss(answer, x, z, t, weight).sum().backward()  # what does not count does not, whatever was answered
    assert answer.grad is not None
    assert answer.grad.isfinite().all()


@pytest.mark.parametrize("more", [0, 1], ids=["mask beyond the logits", "mask among the logits"])
def test_cells_guess_what_masked_tokens_guess(more: int) -> None:
    torch.manual_seed(0)
    plain, cells, n = Masked(7), Cells(7), 40
    x, t = torch.randint(0, 7, (n, 5)), torch.rand(n)
    x_t = plain.interpolate(x, plain.prior(x, streams(n)), t)
    answer = torch.randn(n, 5, 7 + more) * 5
    ends, usual = cells.endpoints(answer, x_t, t), plain.endpoints(answer, x_t, t)
    assert torch.allclose(F.softmax(ends.x, -1), F.softmax(usual.x, -1), atol=1e-6)
    assert torch.equal(ends.z, usual.z)
    assert torch.equal(cells.interpolate(*ends, t), x_t)  # law 3, for any answer
    known = cells.endpoints(answer, x, t)  # nothing is masked: the states themselves
    assert torch.equal(known.x, x)
    assert torch.equal(cells.interpolate(*known, t), x)


def test_cells_refuse_what_masked_tokens_refuse() -> None:
    cells, x = Cells(3), torch.tensor([[0, 2]])
    z, t = torch.rand(1, 2, dtype=torch.float64), torch.rand(1)
    with pytest.raises(ValueError, match="must be logits"):
        cells.loss(torch.zeros(1, 3), x, z, t)
    with pytest.raises(ValueError, match="beyond the 2 logits"):
        cells.loss(torch.zeros(1, 2, 2), x, z, t)
    with pytest.raises(ValueError, match="the mask token 3"):
        cells.loss(torch.zeros(1, 2, 3), x + 1, z, t)
