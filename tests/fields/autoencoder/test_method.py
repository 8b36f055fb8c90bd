"""What an autoencoder learns from: the divergence of its posterior, edges, errors."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sfumato.diffusion import Clean, Denoiser, Streams, key
from sfumato.errors import Wrong
from sfumato.fields.autoencoder.method import Reconstruction, edges
from sfumato.networks.coder import Coder
from sfumato.training.objective import Precise


def terms(method: Reconstruction, network: Coder, x: torch.Tensor, places: range, wrapped: bool = False) -> dict:
    denoiser = Denoiser(Precise(network, False) if wrapped else network, Clean())
    with torch.no_grad():
        return method.criterion(
            denoiser, x, torch.zeros(len(x)), rng=Streams(key("test"), places), z=x, weight=None, given={}, condition={}
        )


def test_the_size_of_codes_is_the_divergence_from_a_standard_normal() -> None:
    torch.manual_seed(0)
    network, x = Coder(latent=2, width=8, depth=1, spread=0.3), torch.randn(4, 3, 8, 8)
    code = network.encode(x).detach()
    divergence = kl_divergence(Normal(code, 0.3), Normal(0.0, 1.0)).flatten(1).mean(1)
    found = terms(Reconstruction(size=0.5), network, x, range(4))["size"]
    torch.testing.assert_close(found - found[0], 0.5 * (divergence - divergence[0]))  # the fixed spread adds a constant


def test_a_row_has_its_own_noise_whatever_stands_beside_it() -> None:
    torch.manual_seed(0)
    network, x = Coder(latent=2, width=8, depth=1, spread=1.0), torch.randn(4, 3, 8, 8)
    whole, part = (
        terms(Reconstruction(), network, x, range(4)),
        terms(Reconstruction(), network, x[2:], range(2, 4), True),
    )
    for name, value in whole.items():
        torch.testing.assert_close(value[2:], part[name], msg=name)
    other = terms(Reconstruction(), network, x[2:], range(2))
    assert not torch.allclose(whole["pixels"][2:], other["pixels"])


def test_edges_of_even_errors_are_none_and_of_slopes_their_slope() -> None:
    assert edges(torch.full((2, 3, 8, 8), 0.7)).abs().max() == 0
    slope = torch.arange(16.0).expand(1, 1, 16, 16)
    for error in (slope, -slope, slope.mT):  # of one direction alone, and twice as steep at half the size
        torch.testing.assert_close(edges(error), torch.tensor([(1 + 2 + 4) / 3 / 2]))
    assert edges(torch.randn(2, 3, 2, 2)).shape == (2,)  # too small for a half of it


def test_options_that_make_no_sense() -> None:
    for options in ({"edges": -1.0}, {"size": 0.0}):
        with pytest.raises(Wrong):
            Reconstruction(**options)
