"""What every network promises, whatever is inside it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.networks import build

# name: options, shape of one item, shape of the level of one item
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "mlp": ({"kind": "mlp", "dim": 5, "width": 32, "depth": 2, "classes": 3}, (5,), ()),
    "unet": (
        {"kind": "unet", "channels": 3, "width": 16, "depth": 1, "multipliers": [1, 2], "classes": 3},
        (3, 8, 12),
        (),
    ),
    "unet, folded, odd channels": (
        {
            "kind": "unet",
            "channels": 5,
            "width": 20,
            "depth": 1,
            "multipliers": [1, 2, 3],
            "unshuffle": 2,
            "classes": 3,
        },
        (5, 16, 8),
        (),
    ),
    "unet, one level": (
        {
            "kind": "unet",
            "channels": 1,
            "width": 24,
            "depth": 2,
            "multipliers": [1],
            "attention_levels": 0,
            "classes": 3,
        },
        (1, 7, 9),
        (),
    ),
    "unet, context": (
        {
            "kind": "unet",
            "channels": 3,
            "width": 16,
            "depth": 1,
            "multipliers": [1, 2, 2],
            "classes": 3,
            "context_dim": 6,
        },
        (3, 8, 12),
        (),
    ),
    "dit": (
        {"kind": "dit", "channels": 3, "width": 48, "depth": 3, "heads": 3, "patch": 2, "classes": 3},
        (3, 8, 12),
        (),
    ),
    "dit, odd": (
        {"kind": "dit", "channels": 1, "width": 36, "depth": 2, "heads": 2, "patch": 3, "classes": 3},
        (1, 9, 15),
        (),
    ),
    "dit, sequence": (
        {"kind": "dit", "channels": 7, "dims": 1, "width": 32, "depth": 2, "patch": 2, "classes": 3},
        (10, 7),
        (),
    ),
    "dit, sequence of levels": (
        {"kind": "dit", "channels": 7, "dims": 1, "width": 32, "depth": 2, "patch": 2, "classes": 3},
        (10, 7),
        (10,),
    ),
    "dit, clip": (
        {"kind": "dit", "channels": 2, "dims": 3, "width": 32, "depth": 2, "patch": 4, "classes": 3},
        (3, 2, 8, 4),
        (),
    ),
    "dit, clip of levels": (
        {"kind": "dit", "channels": 2, "dims": 3, "width": 32, "depth": 2, "patch": 4, "classes": 3},
        (3, 2, 8, 4),
        (3,),
    ),
    "dit, context": (
        {"kind": "dit", "channels": 3, "width": 32, "depth": 2, "patch": 4, "classes": 3, "context_dim": 6},
        (3, 8, 8),
        (),
    ),
    "joint": (
        {"kind": "joint", "channels": 3, "width": 32, "depth": 2, "patch": 4, "classes": 3, "context_dim": 6},
        (3, 8, 12),
        (),
    ),
    "joint, clip": (
        {
            "kind": "joint",
            "channels": 2,
            "dims": 3,
            "width": 32,
            "depth": 2,
            "patch": 4,
            "classes": 3,
            "context_dim": 6,
        },
        (3, 2, 8, 4),
        (),
    ),
}
every = pytest.mark.parametrize("name", CASES)


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with noise on every weight, so that nothing is zero by its start alone."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn(p.shape, generator=rng)
    return network


def make(name: str, batch: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    """Network, x and level; levels over the whole range."""
    options, item, levels = CASES[name]
    torch.manual_seed(0)
    return build(options), torch.randn(batch, *item), torch.rand(batch, *levels) * 19 - 12


@every
def test_answers_zero_at_the_start_shaped_like_its_input(name: str) -> None:
    network, x, level = make(name)
    answer = network(x, level)
    assert answer.shape == x.shape
    assert answer.dtype == x.dtype
    assert not answer.any()
    assert shaken(network)(x, level).abs().mean() > 0.01


@every
def test_arrival_level_says_nothing_at_the_start_and_something_later(name: str) -> None:
    network, x, level = make(name)
    with torch.no_grad():
        for p in [q for n, q in network.named_parameters() if "arrival.outer" not in n]:
            p += 0.1 * torch.randn(p.shape)
    torch.testing.assert_close(network(x, level, level - 1), network(x, level), rtol=0, atol=0)
    shaken(network)
    assert (network(x, level, level - 1) - network(x, level)).abs().max() > 1e-3


@every
def test_items_of_a_batch_do_not_see_each_other(name: str) -> None:
    network, x, level = make(name)
    shaken(network)
    label = torch.tensor([2, -1, 0])
    together = network(x, level, level - 1, label=label)
    alone = network(x[:1], level[:1], level[:1] - 1, label=label[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


@every
def test_no_label_and_minus_one_are_the_same_and_labels_differ(name: str) -> None:
    network, x, level = make(name)
    shaken(network)
    none = network(x, level)
    torch.testing.assert_close(network(x, level, label=torch.tensor([-1, -1, -1])), none, rtol=0, atol=0)
    answers = [network(x, level, label=torch.full((3,), label)) for label in range(3)]
    for one, other in ((none, answers[0]), (answers[0], answers[1]), (answers[1], answers[2])):
        assert (one - other).abs().max() > 1e-3


@every
def test_level_changes_the_answer(name: str) -> None:
    network, x, level = make(name)
    shaken(network)
    assert (network(x, level + 0.5) - network(x, level)).abs().max() > 1e-3


@every
def test_gradient_reaches_every_parameter(name: str) -> None:
    network, x, level = make(name)
    shaken(network)
    condition: dict[str, Any] = {"label": torch.tensor([0, 1, 2])}
    if CASES[name][0].get("context_dim"):
        condition["context"] = torch.randn(3, 4, CASES[name][0]["context_dim"])
    x.requires_grad_()
    network(x, level, level - 1, **condition).square().sum().backward()
    for parameter, value in [*network.named_parameters(), ("x", x)]:
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        assert value.grad.any(), parameter


@every
def test_bfloat16_autocast_stays_near_float32(name: str) -> None:
    network, x, level = make(name)
    shaken(network)
    wide = network(x, level)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = network(x, level)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).square().mean().sqrt() < 0.05 * wide.square().mean().sqrt()


@every
def test_options_survive_json(name: str) -> None:
    network, x, level = make(name)
    twin = build(json.loads(json.dumps(network.options)))
    assert twin.options == network.options
    twin.load_state_dict(shaken(network).state_dict())
    torch.testing.assert_close(twin(x, level), network(x, level), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(network)(x, level), network(x, level), rtol=0, atol=0)


@every
def test_wrong_shapes_and_unwanted_conditions_raise(name: str) -> None:
    network, x, level = make(name)
    options = CASES[name][0]
    with pytest.raises(ValueError, match="level has shape"):
        network(x, level[:2])
    with pytest.raises(ValueError, match="level_s has shape"):
        network(x, level, level[:2])
    with pytest.raises(ValueError, match="label has shape"):
        network(x, level, label=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="x has shape"):
        network(x[0], level)
    with pytest.raises(ValueError, match="takes no label"):
        build({**options, "classes": 0})(x, level, label=torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", ["mlp", "unet", "dit"])
def test_a_level_per_element_is_for_sequences_and_clips(name: str) -> None:
    network, x, level = make(name)
    with pytest.raises(ValueError, match="level has shape"):
        network(x, level[:, None].expand(-1, x.shape[1]))


@pytest.mark.parametrize("name", ["dit, sequence", "dit, clip"])
def test_equal_levels_per_element_are_one_level(name: str) -> None:
    network, x, level = make(name)
    shaken(network)
    label = torch.tensor([0, -1, 2])
    one = network(x, level, level - 1, label=label)
    each = level[:, None].expand(-1, x.shape[1])
    torch.testing.assert_close(network(x, each, each - 1, label=label), one, rtol=1e-5, atol=1e-5)
    other = each.clone()
    other[:, 0] += 1
    assert (network(x, other) - network(x, each)).abs().max() > 1e-3
