"""Low-rank changes: nothing at first, any change at full rank, merged as they were, sums when added."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato import networks
from sfumato.networks import lora
from sfumato.networks.dit import DiT
from sfumato.networks.unet import UNet

X, LEVEL = torch.randn(3, 3, 8, 8), torch.tensor([0.3, 1.0, -2.0])


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    network = (
        DiT(channels=3, dims=2, width=32, depth=2, patch=2) if kind == "dit" else UNet(channels=3, width=16, depth=1)
    )
    for value in network.parameters():  # an untrained network answers nothing, whatever is changed within it
        nn.init.normal_(value, std=0.1)
    return network.eval()


def taught(network: Any) -> Any:
    """With factors that are not zero."""
    torch.manual_seed(1)
    for name, value in network.named_parameters():
        if lora.FACTORS in name:
            nn.init.normal_(value, std=0.1)
    return network


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_a_change_that_was_not_trained_changes_nothing(kind: str) -> None:
    network = made(kind)
    before = network(X, LEVEL)
    changed = lora.adapted(network, 4)
    torch.testing.assert_close(changed(X, LEVEL), before, rtol=0, atol=1e-6)
    assert changed is network


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_the_factors_alone_are_trained(kind: str) -> None:
    network = lora.adapted(made(kind), 4)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {name for name in network.state_dict() if lora.FACTORS in name}
    network(X, LEVEL).square().sum().backward()
    moved = {name for name, value in network.named_parameters() if value.grad is not None and bool(value.grad.any())}
    # B is 0, so A has no say in the first step; the second time is that of flow maps, and was not told here
    used = {name for name in trained if "arrival" not in name}
    assert moved == {name for name in used if name.endswith(".up")}


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_merged_weights_answer_as_the_adapted_network_does(kind: str) -> None:
    network, plain = taught(lora.adapted(made(kind), 4, alpha=12.0)), made(kind)
    before = plain(X, LEVEL)
    plain.load_state_dict(lora.merged(network.state_dict(), scale=3.0))
    torch.testing.assert_close(plain(X, LEVEL), network(X, LEVEL), rtol=1e-4, atol=1e-5)
    assert (plain(X, LEVEL) - before).abs().max() > 1e-2


def test_a_change_added_to_the_weights_is_the_merged_one_and_two_are_their_sum() -> None:
    plain = made("dit").state_dict()
    network = taught(lora.adapted(made("dit"), 4))
    change = lora.factors(network.state_dict())
    once = lora.added(plain, change, 1.0)
    torch.testing.assert_close(once, lora.merged(network.state_dict(), 1.0))
    twice = lora.added(once, change, 0.5)
    torch.testing.assert_close(twice, lora.added(plain, change, 1.5))
    torch.testing.assert_close(lora.added(once, change, -1.0), dict(plain), rtol=1e-4, atol=1e-5)


def test_untaught_it_is_what_it_was() -> None:
    network = taught(lora.adapted(made("dit"), 4))
    torch.testing.assert_close(lora.merged(lora.untaught(network.state_dict()), 1.0), dict(made("dit").state_dict()))


def test_plain_weights_are_as_they_are() -> None:
    plain = made("dit").state_dict()
    assert lora.factors(plain) == {}
    found = lora.merged(plain, 1.0)
    assert all(found[name] is value for name, value in plain.items())
    assert found.keys() == plain.keys()


def test_full_rank_reaches_any_change_of_a_matrix() -> None:
    torch.manual_seed(0)
    wanted = torch.randn(6, 4)
    layer: Any = lora.adapted(nn.Linear(4, 6, bias=False), 9)
    start = layer.weight.detach().clone()
    factors = dict(layer.named_parameters())
    up, down = (next(value for name, value in factors.items() if name.endswith(end)) for end in (".up", ".down"))
    assert down.shape == (4, 4)
    assert up.shape == (6, 4)  # the rank of a weight is at most its smaller side
    scale = 9 / 9
    with torch.no_grad():
        up.copy_(wanted @ torch.linalg.inv(down) / scale)
    torch.testing.assert_close(layer.weight, start + wanted, rtol=1e-4, atol=1e-4)


def test_a_rank_that_is_cut_keeps_the_scale_that_was_asked_for() -> None:
    narrow = taught(lora.adapted(nn.Sequential(nn.Linear(2, 6)), 8, alpha=16.0))
    kept = lora.merged(narrow.state_dict(), 2.0)
    torch.testing.assert_close(kept["0.weight"], narrow[0].weight.detach())


def test_a_network_may_be_copied_and_has_the_options_of_a_plain_one() -> None:
    network = lora.adapted(made("dit"), 2)
    assert networks.build(network.options).state_dict().keys() == made("dit").state_dict().keys()
    twin = copy.deepcopy(network)
    torch.testing.assert_close(twin(X, LEVEL), network(X, LEVEL))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rank = 0: must be at least 1"):
        lora.adapted(made("dit"), 0)
    with pytest.raises(ValueError, match="LayerNorm has no linear layers"):
        lora.adapted(nn.LayerNorm(3), 2)
    weights: dict[str, Tensor] = {"a.weight": torch.zeros(3, 4)}
    with pytest.raises(ValueError, match=r"changes b.weight .* which is not there"):
        lora.added(weights, {"b.lora_A.weight": torch.zeros(1, 4), "b.lora_B.weight": torch.zeros(3, 1)}, 1.0)
    with pytest.raises(ValueError, match=r"changes a.weight by \(3, 1\) x \(1, 5\), which is of shape \(3, 4\)"):
        lora.added(weights, {"a.lora_A.weight": torch.zeros(1, 5), "a.lora_B.weight": torch.zeros(3, 1)}, 1.0)
    with pytest.raises(ValueError, match=r"a: lora_A .* are expected"):
        lora.added(weights, {"a.lora_A.weight": torch.zeros(1, 4)}, 1.0)
    with pytest.raises(ValueError, match="rank 0"):
        lora.scale_of({"rank": "0", "alpha": "1"})
