"""The autoencoder of pictures: sizes, edges, and what the noise on its codes is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.networks.coder import Coder

from .test_contract import shaken


def small(**options: object) -> Coder:
    """With weights that are all something, so that nothing is hidden by zeros."""
    torch.manual_seed(0)
    network = shaken(Coder(**{"latent": 3, "width": 48, "depth": 1, **options}))  # type: ignore[arg-type]
    assert isinstance(network, Coder)
    return network


@pytest.mark.parametrize(
    ("unshuffle", "multipliers", "factor"), [(1, (1,), 1), (2, (1,), 2), (2, (1, 2), 4), (1, (1, 1, 2), 4)]
)
def test_a_code_has_a_fraction_of_the_side(unshuffle: int, multipliers: tuple[int, ...], factor: int) -> None:
    network, x = small(unshuffle=unshuffle, multipliers=multipliers), torch.randn(2, 3, 8, 24)
    code = network.encode(x)
    assert network.factor == factor
    assert code.shape == (2, *network.size(8, 24)) == (2, 3, 8 // factor, 24 // factor)
    assert network.decode(code).shape == x.shape


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.floats(-1, 1, width=32)] * 3), st.sampled_from([(8, 8), (16, 8), (12, 20)]))
def test_one_colour_has_one_code_to_the_edge(colour: tuple[float, float, float], size: tuple[int, int]) -> None:
    network = small()
    with torch.no_grad():
        code = network.encode(torch.tensor(colour).reshape(1, 3, 1, 1).expand(1, 3, *size))
        again = network.decode(code)
    torch.testing.assert_close(code, code[..., :1, :1].expand_as(code), rtol=0, atol=2e-2)
    cell = again[..., :2, :2].repeat(1, 1, size[0] // 2, size[1] // 2)  # a cell of folded pixels repeats
    torch.testing.assert_close(again, cell, rtol=0, atol=2e-2)


def test_noise_moves_codes_by_their_spread() -> None:
    network, x = small(spread=0.25), torch.randn(2, 3, 8, 8)
    noise = torch.randn(2, 3, 2, 2)
    with torch.no_grad():
        found, plain = network(x, noise), network(x)
        assert torch.equal(found["code"], plain["code"])
        torch.testing.assert_close(found["x"], network.decode(plain["code"] + 0.25 * noise))
        assert (found["x"] - plain["x"]).abs().max() > 1e-3


def test_what_does_not_fit_is_said() -> None:
    network = small()
    for shape, wrong in (
        ((1, 3, 10, 8), "height 10 is not divisible by 4"),
        ((1, 3, 8, 6), "width 6"),
        ((1, 1, 8, 8), "3"),
    ):
        with pytest.raises(ValueError, match=wrong):
            network.encode(torch.randn(shape))
    with pytest.raises(ValueError, match="codes have shape"):
        network.decode(torch.randn(1, 4, 2, 2))
    with pytest.raises(ValueError, match="multipliers is empty"):
        Coder(multipliers=())
