"""Choosing, rebuilding and describing networks; and that they learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato.networks import MLP, DiT, UNet, build, choose, describe, flops
from sfumato.networks.parts import LevelEmbedding, count


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((2,), MLP),
        ((3, 32, 32), DiT),
        ((1, 28, 28), DiT),
        ((3, 48, 64), DiT),
        ((1, 31, 31), UNet),
        ((1, 6, 35), UNet),
        ((16, 7), DiT),
        ((4, 3, 16, 16), DiT),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chosen_network_takes_the_shape(shape: tuple[int, ...], kind: type[nn.Module], device: str) -> None:
    network = choose(shape, count=500, classes=2, width=32, depth=2, device=device)
    assert isinstance(network, kind)
    x = torch.randn(2, *shape)
    assert network(x, torch.zeros(2), label=torch.tensor([0, 1])).shape == x.shape


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (16, 2), (28, 4), (32, 4), (48, 6), (64, 8), (128, 16)])
def test_pictures_have_about_64_tokens_on_a_cpu(side: int, patch: int) -> None:
    network = choose((3, side, side), count=10, width=32, depth=1)
    assert network.options["patch"] == patch
    wide = choose((3, side, side), count=10, width=32, depth=1, device="cuda").options["patch"]  # type: ignore[index]
    assert wide <= patch


def test_more_data_and_a_faster_machine_get_a_larger_network() -> None:
    shape, sizes = (3, 32, 32), []
    with torch.device("meta"):
        for device, number in (("cpu", 100), ("cpu", 10_000), ("cuda", 10_000), ("cuda", 100_000), ("cuda", 5_000_000)):
            sizes.append(count(choose(shape, count=number, device=device)))
    assert sizes == sorted(set(sizes))


def test_what_cannot_be_chosen_raises() -> None:
    for shape, options in (
        ((), {}),
        ((1, 2, 3, 4, 5), {}),
        ((3, 32, 32), {"kind": "mlp"}),
        ((5,), {"kind": "dit"}),
        ((3, 32, 32), {"kind": "unet", "patch": 2}),
        ((3, 32, 32), {"kind": "vit"}),
    ):
        with pytest.raises(ValueError):
            choose(shape, count=10, **options)  # type: ignore[arg-type]


def test_choices_are_kept() -> None:
    network = choose((3, 32, 32), count=10, kind="dit", width=128, depth=3, patch=8)
    assert {"width": 128, "depth": 3, "patch": 8}.items() <= network.options.items()  # type: ignore[operator, union-attr]
    unet = choose((3, 32, 32), count=10, kind="unet", width=32)
    assert isinstance(unet, UNet)
    assert unet(torch.randn(1, 3, 32, 32), torch.zeros(1)).shape == (1, 3, 32, 32)


def test_unknown_options_raise() -> None:
    with pytest.raises(TypeError, match="colour"):
        build({"kind": "mlp", "dim": 2, "colour": "red"})
    with pytest.raises(ValueError, match="kind is 'vgg'"):
        build({"kind": "vgg"})
    with pytest.raises(ValueError, match="kind is None"):
        build({"dim": 2})


def test_describes_in_one_line() -> None:
    network = DiT(channels=3, width=64, depth=2, patch=4)
    size = f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M"
    assert describe(network) == f"DiT {size} parameters: width 64, depth 2, patch 4"
    assert describe(nn.Linear(3, 3)) == "Linear 12 parameters"


def test_counts_operations() -> None:
    width, depth = 16, 3
    levels = 2 * 2 * (128 * width + width**2)  # the two embeddings, two operations per weight
    network = MLP(dim=4, width=width, depth=depth)
    expected = levels // 2 + 2 * (4 * width + depth * 4 * width**2 + width * 4)  # without arrival level
    assert flops(network, (4,)) == expected
    small, large = (flops(DiT(channels=3, width=32, depth=d), (3, 16, 16)) for d in (2, 4))
    each = 16 * 2 * (4 * 32**2 + 3 * 32 * 64) + 2 * 2 * 16 * 16 * 32  # layers, then scores and mixing
    assert large - small == 2 * each
    folded = flops(UNet(width=16, depth=1, multipliers=(1, 2), unshuffle=2), (3, 16, 16))
    assert 3 < flops(UNet(width=16, depth=1, multipliers=(1, 2)), (3, 16, 16)) / folded < 5


def test_level_embedding_tells_levels_apart_everywhere() -> None:
    embed = LevelEmbedding(64)
    levels = torch.linspace(-12, 7, 500)
    vectors = embed(levels)
    assert vectors.dtype == torch.float32
    apart = torch.cdist(vectors, vectors)
    apart.fill_diagonal_(torch.inf)
    assert apart.min() > 0.01
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(embed(levels), vectors, rtol=0, atol=0)


@pytest.mark.trained
@pytest.mark.parametrize(
    "options",
    [
        {"kind": "dit", "channels": 3, "width": 64, "depth": 4, "patch": 2},
        {"kind": "unet", "channels": 3, "width": 32, "depth": 1, "multipliers": [1, 2]},
    ],
    ids=["dit", "unet"],
)
def test_learns_a_batch_by_heart(options: dict[str, object]) -> None:
    """Four random pictures told apart by their noise levels: the error falls to a tenth."""
    torch.manual_seed(0)
    network = build(options)
    x, z, level = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.tensor([-3.0, -1, 1, 3])
    shown = (x + z * level.exp().view(-1, 1, 1, 1)) / (1 + (2 * level).exp()).sqrt().view(-1, 1, 1, 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(150):
        loss = (network(shown, level) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1 * x.square().mean()
