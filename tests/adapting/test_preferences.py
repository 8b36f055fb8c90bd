"""Truths about learning from judgements: where nothing is learned, which way it goes, and what is left over of the plain loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from sfumato.adapting.preferences import (
    MERIT,
    REJECTED,
    Improvement,
    Preference,
    Unaware,
    extremes,
    merits,
    variety,
)  # fmt: skip
from sfumato.diffusion import Cosine, Denoiser, Gaussian, Linear, Masked, Streams

ROWS = 6
GAUSSIANS = [
    Gaussian(Cosine(), "v"),
    Gaussian(Linear(), "velocity"),
    Gaussian(Cosine(), "noise"),
    Gaussian(Linear(), "data"),
]


class Net(nn.Module):
    """A small network of vectors that is told a label, or of tokens."""

    def __init__(self, seed: int, vocabulary: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.inside = nn.Embedding(vocabulary + 1, 8) if vocabulary else nn.Linear(4, 8)
        self.out = nn.Linear(8, vocabulary or 4)
        self.label = nn.Embedding(3, 8)

    def forward(self, shown: Any, level: Any, label: Any = None) -> Any:
        hidden = self.inside(shown)
        if label is not None:
            hidden = hidden + self.label(label)
        return self.out(torch.tanh(hidden))


def batch(seed: int = 0) -> dict[str, Any]:
    """x, z, t, and conditions with both judgements."""
    g = torch.Generator().manual_seed(seed)
    x, z, other = (torch.randn(ROWS, 4, generator=g) for _ in range(3))
    t = 0.2 + 0.6 * torch.rand(ROWS, generator=g)
    return {"x": x, "z": z, "t": t, "condition": {"label": torch.arange(ROWS) % 3, REJECTED: other}}


def asked(criterion: Any, denoiser: Denoiser, given: dict[str, Any], **condition: Any) -> dict[str, torch.Tensor]:
    told = {**given["condition"], **condition}
    found: dict[str, torch.Tensor] = criterion(
        denoiser, given["x"], given["t"], rng=Streams(0, range(ROWS)), z=given["z"], weight=None,
        given=denoiser.given(**told), condition=told,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("process", GAUSSIANS, ids=lambda p: p.predicts)
def test_a_preference_begins_at_log_two_and_sees_both_alike(process: Gaussian) -> None:
    net = Net(0)
    found = asked(Preference(Denoiser(Net(0), process), 50.0), Unaware(net, process), batch())["preference"]
    torch.testing.assert_close(found, torch.full((ROWS,), math.log(2.0)))
    # the other way round, what is gained by one is lost by the other: sigmoid(m) + sigmoid(-m) = 1
    one, two = batch(1), batch(1)
    two["x"], two["condition"] = one["condition"][REJECTED], {**one["condition"], REJECTED: one["x"]}
    criterion = Preference(Denoiser(Net(1), process), 5.0)
    chances = [(-asked(criterion, Unaware(net, process), each)["preference"]).exp() for each in (one, two)]
    torch.testing.assert_close(chances[0] + chances[1], torch.ones(ROWS))
    assert float((chances[0] - 0.5).detach().abs().max()) > 0.01


def test_a_preference_is_learned_of_tokens_too() -> None:
    process = Masked(mask_id=5)
    net, before = Net(0, 5), Net(0, 5)
    g = torch.Generator().manual_seed(0)
    x, other = torch.randint(0, 2, (ROWS, 7), generator=g), torch.randint(3, 5, (ROWS, 7), generator=g)
    z = process.prior(x, Streams(0, range(ROWS)))
    given = {"x": x, "z": z, "t": torch.full((ROWS,), 0.6), "condition": {REJECTED: other}}
    criterion, denoiser = Preference(Denoiser(before, process), 10.0), Unaware(net, process)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    first = float(asked(criterion, denoiser, given)["preference"].detach().mean())
    assert first == pytest.approx(math.log(2.0), rel=1e-5)
    for _ in range(30):
        optimizer.zero_grad()
        loss = asked(criterion, denoiser, given)["preference"].mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first


@pytest.mark.parametrize("process", GAUSSIANS, ids=lambda p: p.predicts)
def test_from_samples_that_are_as_good_as_others_nothing_is_learned(process: Gaussian) -> None:
    net = Net(0)
    criterion = Improvement(Denoiser(Net(0), process), Denoiser(Net(0), process), beta=0.7, leash=0.1)
    found = asked(criterion, Unaware(net, process), batch(), **{MERIT: torch.full((ROWS,), 0.5)})
    sum(found.values()).sum().backward()  # type: ignore[union-attr]
    assert max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None) < 1e-5


@pytest.mark.parametrize("process", GAUSSIANS, ids=lambda p: p.predicts)
def test_what_is_good_is_learned_as_data_are_and_what_is_bad_the_other_way(process: Gaussian) -> None:
    def slopes(merit: float, beta: float) -> list[torch.Tensor]:
        net = Net(0)
        criterion = Improvement(Denoiser(Net(0), process), Denoiser(Net(0), process), beta, leash=0.0)
        asked(criterion, Unaware(net, process), batch(), **{MERIT: torch.full((ROWS,), merit)})[
            "merit"
        ].sum().backward()
        return [p.grad.flatten() for p in net.parameters() if p.grad is not None]

    net, given = Net(0), batch()
    x_t = process.interpolate(given["x"], given["z"], given["t"])
    error = Denoiser(net, process)(x_t, given["t"], label=given["condition"]["label"]).x - given["x"]
    size = error.abs().mean(1).detach()
    (error.square().mean(1) / size).sum().backward()
    plain = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    good, bad, bold = (torch.cat(slopes(*how)) for how in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.2)))
    torch.testing.assert_close(good, torch.cat(plain), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bad, -good, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bold, good, rtol=1e-3, atol=1e-5)  # at the old guess beta cancels


def test_the_leash_pulls_back_to_what_was_before() -> None:
    process, net = GAUSSIANS[1], Net(0)
    given = batch()
    criterion = Improvement(Denoiser(Net(0), process), Denoiser(Net(1), process), leash=2.0)
    found = asked(criterion, Unaware(net, process), given, **{MERIT: torch.full((ROWS,), 0.5)})["leash"]
    x_t = process.interpolate(given["x"], given["z"], given["t"])
    label = given["condition"]["label"]
    apart = Net(1)(x_t / process.schedule.hypot(given["t"])[:, None], None, label=label) - net(
        x_t / process.schedule.hypot(given["t"])[:, None], None, label=label
    )
    torch.testing.assert_close(found, 2.0 * apart.square().mean(1), rtol=1e-4, atol=1e-5)


def test_rewards_are_refused_where_distances_mean_nothing() -> None:
    denoiser = Denoiser(Net(0, 5), Masked(mask_id=5))
    with pytest.raises(TypeError, match="states of Masked are tokens"):
        Improvement(denoiser, denoiser)


def test_merits_are_of_the_group_alone() -> None:
    rewards = torch.tensor([0.0, 1.0, 2.0, 100.0, 100.0, 7.0])
    found = merits(rewards, torch.tensor([0, 0, 0, 1, 1, 2]))
    torch.testing.assert_close(found[3:], torch.full((3,), 0.5, dtype=torch.float64))
    assert float(found[1]) == 0.5
    assert float(found[2] - 0.5) == pytest.approx(1.5**0.5 / 10)  # 1 is sqrt(3/2) deviations above the mean
    assert float(found[0] + found[2]) == pytest.approx(1.0)
    far = merits(torch.tensor([0.0] * 99 + [1.0]), torch.zeros(100, dtype=torch.int64))
    assert float(far[-1]) == 1.0  # ten deviations away


def test_the_best_and_the_worst_are_of_every_group() -> None:
    merit = torch.tensor([0.5, 0.1, 0.9, 0.4, 0.2, 0.8, 0.6, 0.7])
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert extremes(merit, groups, 0.5).tolist() == [1, 2, 4, 5]
    assert extremes(merit, groups, 1.0).tolist() == list(range(8))
    assert extremes(merit, torch.arange(8), 0.1).tolist() == list(range(8))  # of groups of one that one


def test_variety_is_the_distance_of_pairs_of_a_group() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [100.0, 0.0], [100.0, 0.0]])
    assert variety(x, torch.tensor([0, 0, 1, 1])) == pytest.approx((5 + 0) / 2 / 2**0.5)
    assert math.isnan(variety(x, torch.arange(4)))
