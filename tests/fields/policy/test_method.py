"""How chunks are learned: cloning, times that cover the start, levels of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.diffusion import Covered, Denoiser, Gaussian, Linear, LogitNormal, Streams, loss
from sfumato.diffusion.times import ramp
from sfumato.fields.policy.acting import Policy
from sfumato.fields.policy.cloning import Regression
from sfumato.fields.policy.method import ChunkMethod
from sfumato.jobs.methods import MethodOptions
from tests.fields.policy.reach import QUICK, look_of
from tests.jobs.small import sfumato


def fitted(process: Gaussian, steps: int = 250) -> Denoiser:
    """A small network taught that from the one observation there is, people go left or right, never ahead."""
    from sfumato.fields.policy.network import ChunkNetwork

    torch.manual_seed(0)
    network = ChunkNetwork(dim=1, horizon=2, observed=1, state=1, width=64, depth=2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    denoiser = Denoiser(network, process)
    for _ in range(steps):
        side = torch.randint(0, 2, (128, 1, 1)) * 2.0 - 1
        found = loss(denoiser, 0.8 * side.expand(-1, 2, 1), torch.rand(128), state=torch.zeros(128, 1, 1)).mean()
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
    return denoiser


def test_cloning_goes_ahead_where_people_go_left_or_right():
    """The mean of both ways, whatever the noise and the number of steps; the flow goes one way or the other."""
    from sfumato.diffusion import sample, uniform

    z, state = torch.randn(64, 2, 1), torch.zeros(64, 1, 1)
    cloned, flow = fitted(Regression()), fitted(Gaussian())
    mean = sample(cloned, z, uniform(cloned.process.schedule, 1), state=state)
    torch.testing.assert_close(mean, sample(cloned, z, uniform(cloned.process.schedule, 9), state=state))
    assert mean.abs().max() < 0.2
    ways = sample(flow, z, uniform(flow.process.schedule, 16), state=state)
    assert ((ways.abs() - 0.8).abs() < 0.25).float().mean() > 0.9
    assert 0.25 < (ways[:, 0] > 0).float().mean() < 0.75
    assert ((ways[:, 0] > 0) == (ways[:, 1] > 0)).float().mean() > 0.9  # and stays with it


def test_training_times_cover_the_start_of_every_sample_and_are_else_as_asked():
    u = (torch.arange(20_000) + 0.5) / 20_000
    found = Covered(LogitNormal(), share=0.1)(u, Linear())
    at_start, rest = found == 1, found[found < 1]
    assert at_start.double().mean().item() == pytest.approx(0.1, abs=1e-3)
    assert ((found > 0) & (found <= 1)).all()
    assert (LogitNormal()(u, Linear()) < 0.99).all()  # it alone never comes near
    plain, even = LogitNormal()(u, Linear()), u.double()
    for q in (0.05, 0.5, 0.95):  # below 1 it is the mixture of both: its distribution function is theirs, mixed
        value = rest.quantile(q)
        mixed = (0.1 * (even < value).double().mean() + 0.8 * (plain < value).double().mean()) / 0.9
        assert mixed.item() == pytest.approx(q, abs=2e-3)


def test_ramps_rise_from_low_to_noise_and_cover_what_sampling_walks_through():
    low, length = torch.tensor([[0.0], [0.3], [1.0]]), torch.tensor([[4.0], [1.0], [8.0]])
    found = ramp(low, length, 8)
    torch.testing.assert_close(found[:, :1], low)
    assert (found.diff(dim=1) >= 0).all()
    assert (found[0, 4:] == 1).all()
    assert found[0, 3] < 1
    assert (found[1, 1:] == 1).all()
    assert (found[2] == 1).all()


def test_actions_have_levels_of_their_own_where_each_is_asked_for():
    """Half of the chunks rise to the time that they would have had, the others have it all along."""
    count = 400
    u, x = (torch.arange(count) + 0.5) / count, torch.zeros(count, 8, 2)
    one, each = (ChunkMethod(MethodOptions(), levels).distribution() for levels in ("one", "each"))
    plain = one.draw(u, Streams(1, range(count)), Gaussian(), {"x": x})
    rising = each.draw(u, Streams(1, range(count)), Gaussian(), {"x": x})
    torch.testing.assert_close(plain, Covered(LogitNormal(0.3))(u, Linear()))
    assert rising.shape == (count, 8)
    assert (rising.diff(dim=1) >= 0).all()
    assert (rising <= plain[:, None]).all()
    flat = (rising == plain[:, None]).all(1)
    assert 0.4 < flat.double().mean() < 0.6
    assert (rising[~flat, -1] == plain[~flat]).double().mean() > 0.7  # the last action has all the noise, mostly
    few = each.draw(u[:3], Streams(1, range(3)), Gaussian(), {"x": x[:3]})
    torch.testing.assert_close(few, rising[:3])  # whatever the batch


def test_adaptive_times_learn_where_to_look_by_themselves():
    assert type(ChunkMethod(MethodOptions(times="adaptive")).distribution()).__name__ == "Adaptive"


def test_cloning_is_a_recipe_of_its_own(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert sfumato("train", "policy", world / "reach.npz", *QUICK, "--cloning", "--out", tmp_path / "run") == 0
    assert "behaviour cloning" in capsys.readouterr().err
    session = Policy.load(tmp_path / "run").session(2, [0, 1])
    assert session.walk.steps == 1
    same = session.act({"state": look_of(1)["state"].repeat(2, 0)})
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5)  # whatever the seed
