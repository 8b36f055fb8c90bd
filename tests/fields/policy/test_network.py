"""Networks for chunks of actions: what each body promises, what each kind of observation does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.fields.policy.network import BODIES, ChunkNetwork, Pictures, choose_network
from sfumato.networks import build, describe
from sfumato.networks.parts import count
from tests.networks.test_contract import shaken

HORIZON, DIM, OBSERVED = 8, 3, 2
SEEN: dict[str, dict[str, Any]] = {
    "state": {"state": 5},
    "picture": {"picture": (3, 16, 24), "cameras": 2},
    "task": {"tasks": 4},
    "all": {"state": 5, "picture": (1, 16, 16), "tasks": 4},
}
body = pytest.mark.parametrize("body", BODIES)
CASES = [*((name, "all") for name in BODIES), *(("mlp", name) for name in SEEN)]
every = pytest.mark.parametrize(("body", "seen"), CASES)


def make(body: str, seen: str, batch: int = 3) -> tuple[ChunkNetwork, Tensor, Tensor, dict[str, Tensor]]:
    """Network, x, level over the whole range, and what it is shown."""
    torch.manual_seed(0)
    shown = SEEN[seen]
    network = ChunkNetwork(dim=DIM, horizon=HORIZON, observed=OBSERVED, body=body, width=32, depth=2, **shown)
    condition: dict[str, Tensor] = {}
    if "state" in shown:
        condition["state"] = torch.rand(batch, OBSERVED, 5) * 2 - 1
    if "picture" in shown:
        condition["picture"] = torch.rand(batch, OBSERVED, shown.get("cameras", 1), *shown["picture"]) * 2 - 1
    if "tasks" in shown:
        condition["task"] = torch.arange(batch) % 4
    return network.eval(), torch.randn(batch, HORIZON, DIM), torch.rand(batch) * 19 - 12, condition


@every
def test_answers_zero_at_the_start_and_something_later(body: str, seen: str) -> None:
    network, x, level, condition = make(body, seen)
    answer = network(x, level, **condition)
    assert answer.shape == x.shape
    assert not answer.any()
    assert shaken(network)(x, level, **condition).abs().mean() > 0.01


@every
def test_items_of_a_batch_do_not_see_each_other(body: str, seen: str) -> None:
    network, x, level, condition = make(body, seen)
    shaken(network)
    together = network(x, level, level - 1, **condition)
    alone = network(x[1:2], level[1:2], level[1:2] - 1, **{name: value[1:2] for name, value in condition.items()})
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)


@every
def test_everything_shown_changes_the_answer(body: str, seen: str) -> None:
    network, x, level, condition = make(body, seen)
    shaken(network)
    answer = network(x, level, **condition)
    for name, value in condition.items():
        other = (value + 1) % 4 if name == "task" else value.flip(1)  # another order of the observed steps, too
        assert (network(x, level, **{**condition, name: other}) - answer).abs().max() > 1e-4, name
    assert (network(x, level + 0.5, **condition) - answer).abs().max() > 1e-4


@body
def test_the_arrival_level_says_nothing_at_the_start_and_something_later(body: str) -> None:
    network, x, level, condition = make(body, "state")
    silent = ("arrival.outer", "arrive")
    with torch.no_grad():
        for p in [q for n, q in network.named_parameters() if not any(word in n for word in silent)]:
            p += 0.1 * torch.randn(p.shape)
    torch.testing.assert_close(
        network(x, level, level - 1, **condition), network(x, level, **condition), rtol=0, atol=0
    )
    shaken(network)
    assert (network(x, level, level - 1, **condition) - network(x, level, **condition)).abs().max() > 1e-3


@body
def test_a_level_per_action_is_the_one_level_where_all_are_equal(body: str) -> None:
    network, x, level, condition = make(body, "state")
    shaken(network)
    each = level[:, None].expand(-1, HORIZON)
    one = network(x, level, level - 1, **condition)
    torch.testing.assert_close(network(x, each, each - 1, **condition), one, rtol=1e-5, atol=1e-5)
    for place in (0, HORIZON - 1):  # every action's own level counts
        other = each.clone()
        other[:, place] += 2
        assert (network(x, other, **condition) - network(x, each, **condition)).abs().max() > 1e-4


@every
def test_gradient_reaches_every_parameter(body: str, seen: str) -> None:
    network, x, level, condition = make(body, seen)
    shaken(network).train()
    network(x.requires_grad_(), level, level - 1, **condition).square().sum().backward()
    for name, value in [*network.named_parameters(), ("x", x)]:
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        if name != "condition.labels.weight":  # row 0 means no task
            assert value.grad.any(), name


@every
def test_options_survive_json(body: str, seen: str) -> None:
    network, x, level, condition = make(body, seen)
    twin = build(json.loads(json.dumps(network.options)), {"policy": ChunkNetwork})
    assert twin.options == network.options
    twin.load_state_dict(shaken(network).state_dict())
    for other in (twin.eval(), copy.deepcopy(network)):
        torch.testing.assert_close(other(x, level, **condition), network(x, level, **condition), rtol=0, atol=0)


@every
def test_bfloat16_autocast_stays_near_float32(body: str, seen: str) -> None:
    network, x, level, condition = make(body, seen)
    shaken(network)
    wide = network(x, level, **condition)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = network(x, level, **condition)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).square().mean().sqrt() < 0.05 * wide.square().mean().sqrt()


def test_wrong_shapes_and_missing_observations_raise() -> None:
    network, x, level, condition = make("mlp", "all")
    for change, message in (
        ({"state": None}, r"state is missing, expected \(batch, 2, 5\)"),
        ({"state": condition["state"][:, :1]}, r"state has shape \(3, 1, 5\), expected \(batch, 2, 5\)"),
        ({"picture": condition["picture"][:, :, :, :, :8]}, r"expected \(batch, 2, 1, 1, 16, 16\)"),
        ({"task": torch.zeros(2, dtype=torch.int64)}, "label has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            network(x, level, **{**condition, **change})
    with pytest.raises(ValueError, match=r"x has shape \(3, 7, 3\), expected \(batch, 8, 3\)"):
        network(x[:, :7], level, **condition)
    with pytest.raises(ValueError, match="level has shape"):
        network(x, level[:, None].expand(-1, 7), **condition)
    blind, *_ = make("mlp", "state")
    with pytest.raises(ValueError, match="built without picture"):
        blind(x, level, state=condition["state"], picture=condition["picture"])


@pytest.mark.parametrize(("options", "message"), [
    ({}, "must see something"), ({"state": 1, "body": "rnn"}, "body is 'rnn', expected one of mlp"),
    ({"state": 1, "body": "unet", "depth": 5}, "needs a horizon divisible by 16, not 8"),
    ({"state": 1, "body": "transformer", "width": 200}, "width 200 is not divisible by 3 heads"),
])  # fmt: skip
def test_options_that_do_not_fit_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChunkNetwork(dim=DIM, horizon=HORIZON, **options)


def test_presets_suit_the_machine() -> None:
    with torch.device("meta"):
        for name in BODIES:
            small, large = (choose_network(dim=2, horizon=16, body=name, state=5, device=d) for d in ("cpu", "cuda"))
            assert 1e6 < count(small) < 4e6, name
            assert count(large) > 4 * count(small)
        assert [choose_network(dim=2, horizon=16, state=5, device=d).options["body"] for d in ("cpu", "cuda")] == [
            "mlp",
            "unet",
        ]
        assert choose_network(dim=2, horizon=6, body="unet", state=5).options["depth"] == 2  # 6 can be halved once
        assert "body mlp, width 384, depth 4" in describe(choose_network(dim=2, horizon=16, state=5))


# ---- pictures --------------------------------------------------------------------------------------------------------------


def test_a_picture_is_cropped_at_random_in_training_and_in_the_middle_afterwards() -> None:
    encoder = Pictures((1, 1, 1, 8, 10), 8, 0.75)
    where = torch.arange(80.0).reshape(1, 1, 8, 10).expand(40, -1, -1, -1)  # a pixel is its own place
    middle = encoder.eval().cropped(where)
    assert torch.equal(middle, where[:, :, 1:7, 1:9])
    shown = encoder.train().cropped(where)
    assert shown.shape == middle.shape
    corners = shown[:, 0, 0, 0]
    assert set((corners // 10).tolist()) == {0, 1, 2}
    assert set((corners % 10).tolist()) == {0, 1, 2}
    assert torch.equal(
        shown - corners[:, None, None, None], (where[:, :, :6, :8] - where[:, :, :1, :1])
    )  # whole, in order


def test_where_a_channel_looks_moves_with_what_it_sees() -> None:
    """A blob moved right and down moves the position of a channel that looks for brightness right and down."""
    torch.manual_seed(0)
    encoder = Pictures((1, 1, 1, 64, 64), 8, 1.0).eval()
    places: list[Tensor] = []
    encoder.out.register_forward_hook(lambda module, inputs, output: places.append(inputs[0]))
    with torch.no_grad():
        for top, left in ((16, 16), (16, 40), (40, 16)):
            picture = -torch.ones(1, 1, 1, 1, 64, 64)
            picture[..., top : top + 8, left : left + 8] = 1
            encoder(picture)
    down, right = (torch.stack(places)[:, 0, 0, 0, part] for part in (slice(0, 64), slice(64, 128)))
    # channels look towards the blob or away from it: what moves them right at all moves them alike in both directions
    moved_right, moved_down = right[1] - right[0], down[2] - down[0]
    assert moved_right.abs().max() > 1e-3
    clear = moved_right.abs() > 0.3 * moved_right.abs().max()
    assert torch.equal(moved_right[clear] > 0, moved_down[clear] > 0)
    assert ((right[2] - right[0])[clear].abs() < 0.2 * moved_right[clear].abs().max()).all()


@body
def test_learns_what_depends_on_the_observation(body: str) -> None:
    """Chunks that are a function of the state are told from noise by the state alone: the error falls to half and less."""
    torch.manual_seed(0)
    network = ChunkNetwork(
        dim=2, horizon=4, observed=1, state=3, body=body, width=16 if body == "unet" else 64, depth=2
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    mixing = torch.randn(3, 8) / 3**0.5
    state = torch.randn(32, 1, 3)
    wanted = (state[:, 0] @ mixing).view(-1, 4, 2)
    for _ in range(100):
        answer = network(torch.randn_like(wanted), torch.full((32,), 5.0), state=state)
        error = (answer - wanted).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert error < 0.5 * wanted.square().mean()
