"""The U-Net: sizes, short cuts, layout in memory."""

from __future__ import annotations

import pytest
import torch

from sfumato.networks import UNet

from .test_contract import shaken


def test_a_side_that_cannot_be_halved_raises() -> None:
    network = UNet(channels=1, width=16, depth=1, multipliers=(1, 2, 2), unshuffle=2)
    with pytest.raises(ValueError, match="height 12 is not divisible by 8"):
        network(torch.randn(1, 1, 12, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="width 20 is not divisible by 8"):
        network(torch.randn(1, 1, 16, 20), torch.zeros(1))
    with pytest.raises(ValueError, match="multipliers is empty"):
        UNet(multipliers=())


def test_every_short_cut_counts() -> None:
    network = shaken(UNet(channels=1, width=16, depth=2, multipliers=(1, 2)))
    x, level = torch.randn(1, 1, 8, 8), torch.zeros(1)
    answer = network(x, level)
    for up in network.up:  # type: ignore[union-attr]
        for block in up.blocks:
            skipped = block.conv2.out_channels  # the short cut's channels come last

            def cut(_: object, inputs: tuple[torch.Tensor, ...], skipped: int = skipped) -> tuple[torch.Tensor, ...]:
                h = inputs[0].clone()
                h[:, -skipped:] = 0
                return (h, *inputs[1:])

            handle = block.register_forward_pre_hook(cut)
            assert (network(x, level) - answer).abs().max() > 1e-3
            handle.remove()
    assert torch.equal(network(x, level), answer)


def test_layout_in_memory_changes_nothing() -> None:
    network = shaken(UNet(channels=3, width=16, depth=1, multipliers=(1, 2)))
    x, level = torch.randn(2, 3, 8, 8), torch.zeros(2)
    answer = network(x, level)
    last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last), level)
    torch.testing.assert_close(last, answer, rtol=1e-4, atol=1e-4)


def test_far_pixels_reach_each_other() -> None:
    network = shaken(UNet(channels=1, width=16, depth=1, multipliers=(1, 2), attention_levels=1))
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    network(x, torch.zeros(1))[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert x.grad[0, 0, -1, -1] != 0


def test_the_lowest_levels_alone_attend_to_the_context_and_each_of_them_does() -> None:
    """What a level hears changes its answer: with the words' way out of it shut the answer is another."""
    network = shaken(UNet(channels=1, width=16, depth=1, multipliers=(1, 2, 2), context_dim=4))
    x, level, context = torch.randn(2, 1, 16, 16), torch.zeros(2), torch.randn(2, 3, 4)
    answer, deaf = network(x, level, context=context), network(x, level)
    assert (answer - deaf).abs().max() > 1e-3
    hears = {name.removesuffix(".words") for name, part in network.named_modules() if name.endswith(".words")}
    assert hears == {"down.1.blocks.0", "down.2.blocks.0", "bottom1", "up.0.blocks.0", "up.1.blocks.0"}
    for name in hears:
        block = network.get_submodule(name)
        words, block.words = block.words, None  # type: ignore[assignment]
        assert (network(x, level, context=context) - answer).abs().max() > 1e-4, name
        block.words = words  # type: ignore[assignment]
    hidden = network(x, level, context=context, context_mask=torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(hidden, deaf)


def test_what_does_not_fit_the_context_is_said() -> None:
    with pytest.raises(ValueError, match="context_levels is 0, expected 1 or more"):
        UNet(context_dim=4, context_levels=0)
    with pytest.raises(ValueError, match="built with context_dim=0 and takes no context"):
        UNet(channels=1, width=16, depth=1)(torch.randn(1, 1, 16, 16), torch.zeros(1), context=torch.randn(1, 2, 4))
