"""What is learned: the loss at hidden tokens alone is the loss of the process, of gaps and of plain rows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sfumato.diffusion import Denoiser, Masked, Streams, key
from sfumato.diffusion.gaps import Gaps
from sfumato.fields.text.contexts import Contexts, Hidden, Stretched
from sfumato.training.objective import plain
from tests.fields.text.test_network import network, tokens

NONE: dict[str, Any] = {"given": {}, "condition": {}}


def rows(count: int = 16, length: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens below 20, noise, and times of every kind."""
    rng = Streams(key("learning"), range(count))
    x = tokens(length, 20)[torch.arange(count) % 3]
    u = (torch.arange(count) + 0.5) / count
    return x, Masked(20).prior(x, rng), Contexts(0.4, 0.3).draw(u, rng, Masked(20), {"x": x}).float()


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_at_hidden_tokens_alone_is_the_loss(gaps: bool, weighted: bool) -> None:
    """Its value, and what is learned from it; also of rows of which nothing is hidden, and of prompts, which weigh nothing."""
    net = network(gaps=gaps, once=True)
    x, z, t = rows()
    weight = (torch.arange(12) > 3).float().expand(x.shape) if weighted else None
    t[0] = 0
    asked: list[Any] = []
    net.register_forward_pre_hook(lambda module, given, named: asked.append(named.get("where")), with_kwargs=True)
    losses, gradients = [], []
    for criterion in (plain, Hidden()):
        net.zero_grad()
        value = criterion(Denoiser(net, Masked(20)), x, t, rng=None, z=z, weight=weight, **NONE)
        value.mean().backward()
        losses.append(value.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(*losses, rtol=1e-5)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)
    assert losses[0][0] == 0
    assert asked[0] is None
    assert 0 < len(asked[1].unique()) < x.numel() / 2


def test_gaps_are_learned_in_a_share_of_the_rows_and_the_others_as_ever() -> None:
    """A network that knows nothing loses ln V at each gap, of V - 2 tokens and two rules: so does a row of gaps, on the average,
    where gaps are one token long, so that none is beyond the row's end."""
    net, gaps = network(gaps=True, once=True), Gaps(21, 22, 24, 23, q=1e-9, d=0.0)
    x, z, t = rows(512, 40)
    denoiser = Denoiser(net, Masked(20))

    def found(share: float) -> torch.Tensor:
        rng = Streams(key("gaps"), range(512))
        value = Stretched(gaps, share)(denoiser, x, t, rng=rng, z=z, weight=None, **NONE)
        assert isinstance(value, torch.Tensor)
        return value.detach()

    usual = plain(denoiser, x, t, rng=None, z=z, weight=None, **NONE).detach()
    assert torch.allclose(found(0.0), usual, rtol=1e-4)
    some = ~torch.isclose(found(0.3), usual, rtol=1e-4)
    assert 0.2 < some.double().mean() < 0.4
    assert torch.allclose(
        found(0.3)[some], found(1.0)[some], rtol=1e-4
    )  # which rows they are changes nothing about them
    with torch.no_grad():
        net.embed.weight.zero_()
    every = found(1.0)
    error = float(every.std()) / math.sqrt(len(every))
    assert float(every.mean()) == pytest.approx(math.log(22), abs=4 * error)
    assert error < 0.15
