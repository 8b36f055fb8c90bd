"""What is given is read once, and what is answered is what the network itself answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfumato.diffusion import Denoiser, Masked
from sfumato.fields.text.network import TokenTransformer
from sfumato.fields.text.reading import Reader, reader
from sfumato.training.objective import Precise
from tests.fields.text.test_network import network, tokens


def pair(**options: Any) -> tuple[TokenTransformer, Reader]:
    net = network(once=True, **options)
    return net, Reader(net)


def level(given: torch.Tensor) -> torch.Tensor:
    return torch.where(given, -12.0, 1.0).expand(3, 10)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("given", [range(6), [0, 1, 7, 8, 9], [4], range(9)])
def test_the_answers_are_those_of_the_network(given: Any, gaps: bool) -> None:
    net, read = pair(gaps=gaps)
    x, here = tokens(most=20), torch.zeros(10, dtype=torch.bool)
    here[list(given)] = True
    for _ in range(3):  # the second and third time what is given is not read
        x[:, ~here] = torch.randint(20, x[:, ~here].shape)
        assert torch.allclose(read(x, level(here))[:, ~here], net(x, level(here))[:, ~here], atol=1e-4)
    assert read.reads == 1


def test_it_reads_again_where_what_is_given_is_another_text_or_stands_elsewhere() -> None:
    net, read = pair()
    x, here = tokens(most=20), torch.arange(10) < 5
    read(x, level(here))
    x[1, 2] = (x[1, 2] + 1) % 20
    assert torch.allclose(read(x, level(here))[:, 5:], net(x, level(here))[:, 5:], atol=1e-4)
    there = torch.arange(10) >= 5
    assert torch.allclose(read(x, level(there))[:, :5], net(x, level(there))[:, :5], atol=1e-4)
    assert read.reads == 3


@pytest.mark.parametrize("kind", ["nothing is given", "all is given", "rows differ", "one level a row", "gaps"])
def test_what_it_does_not_know_how_to_read_the_network_reads(kind: str) -> None:
    net, read = pair(gaps=True)
    x, here = tokens(most=20), level(torch.arange(10) < 5).clone()
    if kind == "nothing is given":
        here[:] = 1
    elif kind == "all is given":
        here[:] = -12
    elif kind == "rows differ":
        here[1, 5] = -12
    elif kind == "one level a row":
        here = torch.zeros(3)
    else:
        x[:, 7] = 24
    assert torch.equal(read(x, here), net(x, here))
    assert read.reads == 0


def test_only_networks_that_can_are_asked_so() -> None:
    plain, once = (Denoiser(Precise(network(once=able), False), Masked(20)) for able in (False, True))
    assert reader(plain) is plain
    made = reader(once)
    assert isinstance(made.network.network, Reader)
    exact = Denoiser(lambda x, level: x, Masked(20))
    assert reader(exact) is exact
