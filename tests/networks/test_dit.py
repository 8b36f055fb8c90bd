"""The transformer: patches, positions, levels, context, routing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sfumato.networks import DiT
from sfumato.networks.attention import attend, rotary_angles, rotary_turns, rotate
from sfumato.networks.dit import put, take

from .test_contract import shaken


@pytest.mark.parametrize(
    ("dims", "item"), [(1, (12, 5)), (2, (3, 8, 12)), (2, (1, 4, 4)), (3, (3, 2, 8, 4))], ids=["1", "2", "2 small", "3"]
)
def test_patches_return_to_their_places(dims: int, item: tuple[int, ...]) -> None:
    network = DiT(channels=item[0] if dims == 2 else item[1], dims=dims, width=32, depth=1, patch=4)
    x = torch.randn(2, *item)
    sides = network.patches.sides(x)
    torch.testing.assert_close(network.patches.join(network.patches.cut(x, sides), sides), x, rtol=0, atol=0)


def test_a_patch_is_a_square_of_pixels() -> None:
    network = DiT(channels=1, width=32, depth=1, patch=2)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert network.patches.cut(x, (2, 2))[0, 1].tolist() == [2, 3, 6, 7]  # second in the first row of patches


@pytest.mark.parametrize("sides", [(7,), (4, 5), (3, 4, 2)])
def test_attention_scores_depend_on_differences_of_position(sides: tuple[int, ...]) -> None:
    head, moved = 24, tuple(side + 3 for side in sides)
    near, far = rotary_angles(sides, head), rotary_angles(moved, head).view(*moved, -1)
    for axis in range(len(sides)):  # the same grid, three further along every axis
        far = far.narrow(axis, 3, sides[axis])
    q, k = torch.randn(2, near.shape[0], head, dtype=torch.float64)

    def scores(angles: Tensor) -> Tensor:
        turns = rotary_turns(angles.reshape(-1, head // 2).double(), torch.float64)
        return rotate(q, turns) @ rotate(k, turns).T

    torch.testing.assert_close(scores(far), scores(near), rtol=1e-4, atol=1e-4)
    assert (scores(near) - q @ k.T).abs().max() > 0.1
    # Position zero turns nothing, and no turn changes a length.
    turns = rotary_turns(near.double(), torch.float64)
    torch.testing.assert_close(rotate(q, turns)[0], q[0])
    torch.testing.assert_close(rotate(q, turns).norm(dim=-1), q.norm(dim=-1))


def test_attention_is_the_same_on_every_path() -> None:
    q, k, v = torch.randn(3, 2, 6, 4, 8)
    scores = torch.einsum("bnhd,bshd->bhns", q, k) / 8**0.5
    expected = torch.einsum("bhns,bshd->bnhd", scores.softmax(-1), v).flatten(2)
    torch.testing.assert_close(attend(q, k, v), expected)
    torch.testing.assert_close(attend(q, k, v, torch.ones(2, 6, dtype=torch.bool)), expected)
    narrow = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    torch.testing.assert_close(narrow.float(), expected, rtol=0.05, atol=0.05)
    some = torch.tensor([[True, True, False, True, True, False], [True] + [False] * 5])
    masked = scores.masked_fill(~some[:, None, None], -torch.inf)
    expected = torch.einsum("bhns,bshd->bnhd", masked.softmax(-1), v).flatten(2)
    torch.testing.assert_close(attend(q, k, v, some), expected)
    narrow = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), some)
    torch.testing.assert_close(narrow.float(), expected, rtol=0.05, atol=0.05)


def test_places_are_told_apart() -> None:
    network = shaken(DiT(channels=1, width=32, depth=2, patch=2))
    x, level = torch.randn(1, 1, 8, 8), torch.zeros(1)
    moved = network(x.roll(2, -1), level).roll(-2, -1)
    assert (moved - network(x, level)).abs().max() > 1e-3


def test_any_side_that_patches_divide() -> None:
    network = shaken(DiT(channels=2, width=32, depth=2, patch=4))
    for height, width in ((4, 4), (4, 20), (16, 8)):
        x = torch.randn(2, 2, height, width)
        assert network(x, torch.zeros(2)).shape == x.shape
    with pytest.raises(ValueError, match="height 6 is not divisible by the patch, 4"):
        network(torch.randn(2, 2, 6, 8), torch.zeros(2))
    with pytest.raises(ValueError, match="length 6 is not divisible"):
        DiT(channels=2, dims=1, width=32, depth=1, patch=4)(torch.randn(1, 6, 2), torch.zeros(1))


def test_options_that_do_not_fit_raise() -> None:
    for options, words in (
        ({"dims": 4}, "dims is 4"),
        ({"width": 50, "heads": 4}, "not divisible by 4 heads"),
        ({"width": 15, "heads": 1}, "head of 15"),
        ({"width": 8, "heads": 4, "dims": 3}, "head of 2"),
        ({"routing": 1.0}, "routing is 1.0"),
        ({"routing": 0.5, "depth": 3}, "depth of 4"),
    ):
        with pytest.raises(ValueError, match=words):
            DiT(channels=3, **options)  # type: ignore[arg-type]


@pytest.fixture
def attentive() -> nn.Module:
    torch.manual_seed(0)
    return shaken(DiT(channels=2, width=32, depth=2, patch=4, context_dim=6))


def test_masked_context_is_no_context(attentive: nn.Module) -> None:
    x, level = torch.randn(3, 2, 8, 8), torch.randn(3)
    context = torch.randn(3, 5, 6)
    mask = torch.tensor([[False] * 5, [True, True, False, False, False], [True] * 5])
    answer, without = attentive(x, level, context=context, context_mask=mask), attentive(x, level)
    assert answer.isfinite().all()
    torch.testing.assert_close(answer[0], without[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        answer[1:2], attentive(x[1:2], level[1:2], context=context[1:2, :2]), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(answer[2:], attentive(x, level, context=context)[2:], rtol=1e-5, atol=1e-5)
    assert (answer[1:] - without[1:]).abs().amax((1, 2, 3)).min() > 1e-3
    answer.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in attentive.parameters())


def test_order_of_context_does_not_matter_but_its_content_does(attentive: nn.Module) -> None:
    x, level, context = torch.randn(1, 2, 8, 8), torch.randn(1), torch.randn(1, 5, 6)
    answer = attentive(x, level, context=context)
    torch.testing.assert_close(attentive(x, level, context=context.flip(1)), answer, rtol=1e-5, atol=1e-5)
    assert (attentive(x, level, context=-context) - answer).abs().max() > 1e-3


def test_wrong_context_raises(attentive: nn.Module) -> None:
    x, level, context = torch.randn(1, 2, 8, 8), torch.randn(1), torch.randn(1, 5, 6)
    keep = torch.ones(1, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="context has shape"):
        attentive(x, level, context=context[..., :4])
    with pytest.raises(ValueError, match="context_mask has shape"):
        attentive(x, level, context=context, context_mask=keep[:, :4])
    with pytest.raises(ValueError, match="without context"):
        attentive(x, level, context_mask=keep)
    with pytest.raises(ValueError, match="takes no context"):
        DiT(channels=2, width=32, depth=1)(x, level, context=context)


def test_take_and_put_are_inverse() -> None:
    h, index = torch.randn(2, 6, 4), torch.tensor([[4, 0, 2], [1, 5, 3]])
    part = take(h, index)
    assert torch.equal(part[1, 1], h[1, 5])
    assert torch.equal(put(h, index, part), h)
    changed = put(h, index, part + 1)
    assert torch.equal(changed[0, [1, 3, 5]], h[0, [1, 3, 5]])
    assert torch.equal(changed[0, [0, 2, 4]], h[0, [0, 2, 4]] + 1)


def test_routed_tokens_skip_the_middle_blocks_unchanged() -> None:
    network = shaken(DiT(channels=2, width=32, depth=5, patch=2, routing=0.5))
    x, level, order = torch.randn(2, 2, 8, 8), torch.randn(2), torch.rand(2, 16)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in network.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    network(x, level, route=True, routing_order=order)
    assert [inside.shape[1] for inside, _ in seen] == [16, 8, 8, 16, 16]
    before, after = seen[0][1], seen[3][0]
    away = order.argsort(1)[:, 8:]
    through = order.argsort(1)[:, :8]
    assert torch.equal(take(before, away), take(after, away))
    assert torch.equal(take(after, through), seen[2][1])
    assert (take(before, through) - take(after, through)).abs().amin(-1).max() > 0


def test_routing_happens_in_training_or_when_asked_for() -> None:
    plain = shaken(DiT(channels=2, width=32, depth=4, patch=2))
    routed = DiT(channels=2, width=32, depth=4, patch=2, routing=0.5)
    routed.load_state_dict(plain.state_dict())
    x, level, order = torch.randn(2, 2, 8, 8), torch.randn(2), torch.rand(2, 16)
    whole, part = plain(x, level), routed(x, level, route=True, routing_order=order)
    assert (part - whole).abs().max() > 1e-3
    assert torch.equal(routed(x, level, routing_order=order), part)  # networks start in training
    assert torch.equal(routed(x, level, route=False), whole)
    assert torch.equal(routed.eval()(x, level), whole)
    assert not torch.equal(routed(x, level, route=True), routed(x, level, route=True))  # drawn anew
    with pytest.raises(ValueError, match="routing=0"):
        plain(x, level, route=True)
    with pytest.raises(ValueError, match="routing_order has shape"):
        routed(x, level, route=True, routing_order=order[:, :3])


def test_routed_tokens_keep_their_own_levels_and_places() -> None:
    network = shaken(DiT(channels=2, dims=3, width=32, depth=4, patch=4, routing=0.5))
    x, level, order = torch.randn(2, 3, 2, 8, 8), torch.randn(2), torch.rand(2, 12)
    one = network(x, level, routing_order=order)
    each = network(x, level[:, None].expand(-1, 3), routing_order=order)
    torch.testing.assert_close(each, one, rtol=1e-5, atol=1e-5)
    # A share so small that no token skips must change nothing, although their order is shuffled on the way.
    network.routing = 1e-9
    torch.testing.assert_close(
        network(x, torch.randn(2, 3).copy_(level[:, None] + torch.arange(3)), routing_order=order),
        network(x, level[:, None] + torch.arange(3), route=False),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.slow
def test_compiles_whole() -> None:
    network = shaken(DiT(channels=2, width=32, depth=4, patch=2, classes=3, context_dim=4, routing=0.5))
    x, level, context = torch.randn(2, 2, 8, 4), torch.randn(2), torch.randn(2, 3, 4)
    options = {"label": torch.tensor([1, -1]), "context": context, "routing_order": torch.rand(2, 8)}
    with torch.no_grad():
        answer = torch.compile(network, fullgraph=True)(x, level, level - 1, **options)
        torch.testing.assert_close(answer, network(x, level, level - 1, **options), rtol=1e-4, atol=1e-4)


def test_traces_without_graph_breaks() -> None:
    network = shaken(DiT(channels=2, width=32, depth=4, patch=2, classes=3, context_dim=4, routing=0.5))
    x, level, context = torch.randn(2, 2, 8, 4), torch.randn(2), torch.randn(2, 3, 4)
    options = {"label": torch.tensor([1, -1]), "context": context, "routing_order": torch.rand(2, 8)}
    with torch.autocast("cpu", torch.bfloat16):
        answer = torch.compile(network, fullgraph=True, backend="eager")(x, level, level - 1, **options)
        torch.testing.assert_close(answer, network(x, level, level - 1, **options), rtol=1e-4, atol=1e-4)
