"""The encoder of tokens, and the transformer of two streams: what is absent says nothing, what is there is heard."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.networks import DiT, JointDiT
from sfumato.networks.attention import rotary_angles, rotary_turns
from sfumato.networks.encoder import TokenBlock, TokenEncoder

from .test_contract import shaken

TOKENS = torch.tensor([[3, 1, 4, -1], [2, 7, 1, 8], [-1, -1, -1, -1]])


def encoder() -> TokenEncoder:
    torch.manual_seed(0)
    made: Any = shaken(TokenEncoder(vocab=9, width=32, depth=2))
    return made


def test_padding_and_neighbours_change_nothing() -> None:
    made, mask = encoder(), TOKENS >= 0
    states, kept = made(TOKENS, mask)
    assert kept[:, 0].all()
    assert torch.equal(kept[:, 1:], mask)
    longer = torch.nn.functional.pad(TOKENS, (0, 3), value=-1)
    wide, _ = made(longer, longer >= 0)
    other = torch.where(mask, TOKENS, 5)  # whatever stands where nothing is
    for row in range(3):
        here = kept[row]
        torch.testing.assert_close(wide[row, :5][here], states[row][here])
        torch.testing.assert_close(made(other, mask)[0][row][here], states[row][here])
        alone, _ = made(TOKENS[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(alone[0][here], states[row][here])
    assert (states[0, 0] - states[1, 0]).abs().max() > 1e-2  # the first state has heard the others


def test_order_counts() -> None:
    made = encoder()
    turned = TOKENS[1:2].flip(1)
    assert (made(turned, turned >= 0)[0][0, 0] - made(TOKENS[1:2], TOKENS[1:2] >= 0)[0][0, 0]).abs().max() > 1e-3


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="tokens are int64"):
        encoder()(TOKENS.float(), TOKENS >= 0)
    with pytest.raises(ValueError, match="vocab = 0: must be at least 1"):
        TokenEncoder(vocab=0)


# ---- both transformers under words ---------------------------------------------------------------------------------------


def network(kind: type[DiT | JointDiT]) -> Any:
    torch.manual_seed(0)
    return shaken(kind(channels=3, width=32, depth=2, patch=4, context_dim=6))


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    return torch.randn(3, 3, 8, 12), torch.tensor([-2.0, 0.0, 1.0]), torch.randn(3, 3, 6), mask


both = pytest.mark.parametrize("kind", [DiT, JointDiT])


@both
def test_words_are_heard_and_absent_ones_are_not(kind: type[DiT | JointDiT]) -> None:
    made, (x, level, context, mask) = network(kind), inputs()
    answer = made(x, level, context=context, context_mask=mask)
    changed = context.clone()
    changed[~mask] = 9.0
    torch.testing.assert_close(made(x, level, context=changed, context_mask=mask), answer)
    torch.testing.assert_close(answer[2], made(x, level)[2])  # a fully masked sequence means the same as none
    assert (made(x, level, context=context.roll(1, 0), context_mask=mask) - answer).abs()[:2].amax(
        (1, 2, 3)
    ).min() > 1e-3
    padded = torch.nn.functional.pad(context, (0, 0, 0, 2)), torch.nn.functional.pad(mask, (0, 2))
    torch.testing.assert_close(made(x, level, context=padded[0], context_mask=padded[1]), answer)


def test_in_the_joint_one_words_change_with_the_picture() -> None:
    """The stream of words is told the level and sees the picture; but in the last block, where it is only looked at."""
    made, (x, level, context, mask) = network(JointDiT), inputs()
    seen: list[Tensor] = []
    made.blocks[0].register_forward_hook(lambda module, given, out: seen.append(out[1]))
    made.blocks[1].register_forward_hook(lambda module, given, out: seen.append(out[1]))
    for other in (x, x + 1):
        made(other, level, context=context, context_mask=mask)
    first, last, changed, _ = seen
    assert torch.equal(first, last)
    assert (changed - first).abs().max() > 1e-4
    assert made.blocks[1].words.out is None
    with pytest.raises(ValueError, match="context_dim = 0: must be at least 1"):
        JointDiT(channels=3, context_dim=0)


def test_a_mask_for_each_query_and_keys_of_tokens_read_before() -> None:
    """What each sees is what it would see alone with that; and keys read before are as if their tokens stood there."""
    torch.manual_seed(0)
    block = TokenBlock(16, 2, 32).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    h = torch.randn(2, 6, 16)
    turns = rotary_turns(rotary_angles((6,), 8), h.dtype)
    causal = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, -1, -1)
    whole = block(h, turns, causal)
    for length in (1, 3, 6):
        torch.testing.assert_close(block(h[:, :length], turns[:, :length])[:, -1], whole[:, length - 1])
    kept = block.keys(h[:, :4], turns[:, :4])
    later = block(h[:, 4:], turns[:, 4:], before=kept)
    torch.testing.assert_close(later, block(h, turns)[:, 4:])
