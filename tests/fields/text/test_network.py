"""The network: blind to time, told places, in any precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sfumato.diffusion import Denoiser, Masked, loss
from sfumato.fields.text.network import TokenTransformer

LEVEL = torch.zeros(3)


def network(seed: int = 0, **options: Any) -> TokenTransformer:
    torch.manual_seed(seed)
    made = TokenTransformer(**{"answers": 20, "width": 32, "depth": 2, "heads": 2, **options})
    for parameter in made.parameters():  # so that blocks, which begin as the identity, do something
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def tokens(length: int = 10, most: int = 21) -> torch.Tensor:
    return torch.randint(most, (3, length), generator=torch.Generator().manual_seed(1))


def test_its_answer_depends_on_tokens_and_places_but_not_on_time() -> None:
    net, x = network(), tokens()
    answer = net(x, LEVEL)
    assert answer.shape == (3, 10, 20)
    assert torch.equal(answer, net(x, LEVEL + 5))
    assert torch.equal(answer, net(x, torch.rand(3, 10)))
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 21
    for place in (2, 9):  # it looks both ways
        assert not torch.allclose(net(changed, LEVEL)[:, place], answer[:, place], atol=1e-3)
    swapped = x[:, [1, 0, *range(2, 10)]]
    assert not torch.allclose(net(swapped, LEVEL)[:, 5], answer[:, 5], atol=1e-3)


def test_only_the_distance_of_tokens_counts() -> None:
    """Rotary places: the same tokens further along are answered the same."""
    from sfumato.networks import attention

    net, x = network(), tokens()
    plain = net(x, LEVEL)
    angles = attention.rotary_angles((40,), 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.fields.text.network.rotary_angles", lambda sides, head, device=None: angles[30:])
        assert torch.allclose(net(x, LEVEL), plain, atol=1e-4)


def test_rows_do_not_see_each_other() -> None:
    net, x = network(), tokens()
    assert torch.allclose(net(x[1:2], LEVEL[:1]), net(x, LEVEL)[1:2], atol=1e-5)


def test_bfloat16_is_close() -> None:
    net, x = network(), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, LEVEL)
    fine = net(x, LEVEL)
    assert rough.dtype == torch.bfloat16
    assert (torch.log_softmax(rough.float(), -1) - torch.log_softmax(fine, -1)).abs().mean() < 0.1


@pytest.mark.trained
def test_it_learns_what_only_context_tells() -> None:
    """Sequences of one token, repeated: the bound falls from ln 6 a token to ln 6 a sequence, and no lower."""
    torch.manual_seed(0)
    net = TokenTransformer(answers=6, width=32, depth=1, heads=1)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    guess, generator = Denoiser(net, Masked(6)), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(100):
        x = torch.randint(6, (64, 1), generator=generator).expand(64, 6)
        t = (torch.arange(64, dtype=torch.float64) + torch.rand((), generator=generator)) / 64
        value = loss(guess, x, t.clamp_min(1e-3), generator).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] > 1.5
    assert 0.8 * math.log(6) / 6 < sum(losses[-20:]) / 20 < 1.5 * math.log(6) / 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"answers": 1}, "answers = 1: must be at least 2"),
        ({"depth": 0}, "depth = 0: must be at least 1"),
        ({"width": 33}, "width = 33: must be divisible by the 2 heads"),
        ({"extra": -1}, "extra = -1: must be 0 or more"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network(**options)


def test_what_is_no_tokens() -> None:
    with pytest.raises(ValueError, match=r"tokens are int64 of shape \(batch, length\)"):
        network()(torch.zeros(3, 10), LEVEL)


def test_what_is_given_does_not_see_what_is_open_and_sees_the_same_without_it() -> None:
    net, x = network(once=True), tokens()
    given = torch.arange(10) < 6
    level = torch.where(given, -12.0, 1.0).expand(3, 10)
    changed = x.clone()
    changed[:, 8] = (changed[:, 8] + 1) % 21
    before, after = net(x, level), net(changed, level)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-5)
    assert torch.allclose(before[:, :6], net(x[:, :6], level[:, :6]), atol=1e-5)
    assert not torch.allclose(before[:, 6], after[:, 6], atol=1e-3)  # what is open sees everything
    changed = x.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 21
    assert not torch.allclose(before[:, 6], net(changed, level)[:, 6], atol=1e-3)


def test_nobody_sees_what_is_not_there_and_only_gaps_follow_rules() -> None:
    net, x = network(gaps=True, once=True), tokens(10, 20)
    expand, delete, nothing, gap = 21, 22, 23, 24
    x[:, 4] = gap
    level = torch.where(torch.arange(10) == 4, 1.0, -12.0).expand(3, 10)
    short = net(x[:, :7], level[:, :7])
    x[:, 7:] = nothing
    answer = net(x, level)
    assert answer.shape == (3, 10, 24)
    assert torch.allclose(answer[:, :7], short, atol=1e-5)
    rules = answer[..., [expand, delete]].isfinite()
    assert bool(rules[:, 4].all())
    assert int(rules.sum()) == 3 * 2
    assert not bool(answer[..., [20, nothing]].isfinite().any())  # the mask and nothing are never answered
    assert bool(answer[:, :, :20].isfinite().all())
