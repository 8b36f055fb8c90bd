"""Transformers of clips: what looks at what, what is kept, what is carried."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.networks.clips import ClipDiT, cleanest
from sfumato.networks.dit import DiT
from sfumato.networks.strips import Strip

B, T, SIDE = 2, 5, 16
WAYS = [("full", False), ("full", True), ("factored", False), ("factored", True)]


def stirred(network: nn.Module) -> Any:
    """With weights that say something: what starts at zero too."""
    generator = torch.Generator().manual_seed(5)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return network.eval()


def made(attention: str = "full", causal: bool = False, **more: Any) -> Any:
    torch.manual_seed(0)
    return stirred(ClipDiT(channels=3, attention=attention, causal=causal, width=32, depth=4, patch=8, **more))


def clip(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, 3, SIDE, SIDE, generator=generator), torch.randn(B, T, generator=generator)


@torch.no_grad()
def test_full_attention_is_the_plain_transformer_to_the_bit() -> None:
    network = made()
    plain = DiT(channels=3, dims=3, width=32, depth=4, patch=8).eval()
    plain.load_state_dict(network.state_dict())
    x, level = clip()
    assert torch.equal(network(x, level), plain(x, level))
    assert torch.equal(network(x, level[:, 0]), plain(x, level[:, 0]))


@torch.no_grad()
@pytest.mark.parametrize(("attention", "causal"), WAYS)
@pytest.mark.parametrize("carry", [False, True])
def test_every_frame_hears_of_the_others_and_causal_ones_of_no_later(attention: str, causal: bool, carry: bool) -> None:
    network = made(attention, causal, carry=carry)
    x, level = clip()
    level[:, 1] = -4.0  # nearly clean, so that something is carried
    before = network(x, level)
    for frame in range(T):
        other = x.clone()
        other[:, frame, :, :8] += 1.0
        moved = (network(other, level) - before).abs().amax((0, 2, 3, 4)) > 1e-6
        expected = [bool(causal and k < frame) for k in range(T)]
        assert [not bool(value) for value in moved] == expected, frame


@torch.no_grad()
def test_factored_blocks_take_turns() -> None:
    """One block looks within a frame alone, the second along time at one place alone."""
    torch.manual_seed(0)
    network = stirred(ClipDiT(channels=3, attention="factored", width=32, depth=2, patch=8))
    x, level = clip()
    before, other = network(x, level), x.clone()
    other[:, 0, :, :8, :8] += 1.0  # one patch of the first frame
    moved = (network(other, level) - before).abs().unflatten(4, (2, 8)).unflatten(3, (2, 8)).amax((0, 2, 4, 6)) > 1e-6
    assert bool(moved.all())  # within the first frame to every place, and from there along time
    network.blocks[0].attention.out.weight.data.zero_()
    before = network(x, level)
    moved = (network(other, level) - before).abs().unflatten(4, (2, 8)).unflatten(3, (2, 8)).amax((0, 2, 4, 6)) > 1e-6
    assert moved[:, 0, 0].all()
    assert not bool(moved[:, 1].any())
    assert not bool(moved[:, 0, 1].any())


@torch.no_grad()
@pytest.mark.parametrize("attention", ["full", "factored"])
@pytest.mark.parametrize("carry", [False, True])
def test_frames_that_are_kept_need_not_be_shown_again(attention: str, carry: bool) -> None:
    network = made(attention, True, carry=carry)
    x, level = clip()
    level[:, :2] = -4.0
    whole = network(x, level)
    memory = network.remember(x[:, :2], level[:, :2])
    assert torch.allclose(network(x[:, 2:], level[:, 2:], memory=memory), whole[:, 2:], atol=1e-5)


def test_what_looks_at_later_frames_keeps_nothing() -> None:
    with pytest.raises(ValueError, match="causal=False"):
        made().remember(*clip())
    with pytest.raises(ValueError, match="full or factored"):
        ClipDiT(channels=3, attention="all")


@torch.no_grad()
@pytest.mark.parametrize(("attention", "causal"), WAYS)
def test_one_level_for_all_frames_is_that_level_of_each(attention: str, causal: bool) -> None:
    network = made(attention, causal, carry=True)
    x, level = clip()
    one = level[:, :1].expand(-1, T)
    assert torch.allclose(network(x, level[:, 0]), network(x, one), atol=1e-5)


def test_the_cleanest_frame_is_taken_the_nearest_of_several() -> None:
    x = torch.arange(5.0).reshape(1, 5, 1, 1, 1) + 1
    level = torch.tensor([[-4.0, 0.5, 0.5, -4.0, -3.0]])
    assert cleanest(x, level, None, False).flatten().tolist() == [0, 1, 4, 0, 4]
    assert cleanest(x, level, None, True).flatten().tolist() == [0, 1, 1, 0, 4]
    noisy = torch.tensor([[-1.0, 0.5, 0.5, 0.0, 0.0]])
    assert cleanest(x, noisy, None, False).abs().max() == 0  # none is nearly clean
    memory = {"frame": torch.full((1, 1, 1, 1, 1), 9.0), "level": torch.tensor([[-5.0]])}
    assert cleanest(x, level, memory, True).flatten().tolist() == [9, 9, 9, 9, 9]


@torch.no_grad()
def test_carrying_starts_silent() -> None:
    torch.manual_seed(0)
    network = ClipDiT(channels=3, carry=True, width=32, depth=2, patch=8)
    x, level = clip()
    level[:, 0] = -4.0
    assert network(x, level).abs().max() == 0


@pytest.mark.parametrize(
    ("attention", "causal", "carry"), [*((*way, False) for way in WAYS[1:]), ("full", False, True)]
)
def test_only_tokens_that_all_look_at_all_are_shared_out(attention: str, causal: bool, carry: bool) -> None:
    """A strip of the tokens would look at its own alone, and nobody would notice."""
    network = made(attention, causal, carry=carry, heads=2)
    with pytest.raises(ValueError, match="leave context out"):
        network.in_strips(Strip(0, 2, None))
    assert network.strip is None
    whole = made(heads=2)
    whole.in_strips(Strip(0, 2, None))
    assert whole.strip is not None
