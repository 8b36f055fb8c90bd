"""A product of all four worlds, learned by a small network and recovered: `benchmarks/four_worlds.py`, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.four_worlds import SHARES, WORLDS, Modes, draw_samples, measure, picture, train
from sfumato.diffusion import SO3, Denoiser, Heat, Streams, key, loss, sample, uniform
from sfumato.diffusion.sample import Euler
from sfumato.diffusion.times import Uniform


@pytest.mark.trained
@pytest.mark.slow
def test_a_product_of_four_worlds_is_learned(tmp_path: Path) -> None:
    denoiser, losses = train(steps=1000)
    assert sum(losses[-50:]) < 0.5 * sum(losses[:50])
    x = draw_samples(denoiser, 1000)
    found, true = measure(x), measure(Modes.fixed().draw(4000, torch.Generator().manual_seed(1))[0])
    for name in WORLDS:  # marginals: the shares of the modes in each world alone
        assert max(abs(a - b) for a, b in zip(found["shares"][name], SHARES, strict=True)) < 0.07, name  # type: ignore[index]
    assert found["agree"] > 0.93  # type: ignore[operator]  # dependence: unrelated worlds would agree in 0.16 of the samples
    for name in ("angles", "rotation", "place"):
        assert found["spread"][name] < 1.6 * true["spread"][name], name  # type: ignore[index]
    assert found["tokens_off"] < 0.08  # type: ignore[operator]
    picture(x, x, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.trained
@pytest.mark.slow
def test_heat_on_rotations_is_learned() -> None:
    """Two modes, a half turn apart, of shares 0.7 and 0.3, by the score of the heat kernel; sampled with fresh noise."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    process = Heat(SO3())
    middles = SO3().exp(torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.1, 0.0]]))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(13, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 3)
            )  # fmt: skip

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            waves = torch.stack([(level / 2).sin(), (level / 2).cos(), level.sin(), level.cos()], 1)
            answer: Tensor = self.layers(torch.cat([x.flatten(1), waves], 1))
            return answer

    def draw(count: int) -> Tensor:
        which = (torch.rand(count, generator=rng) < 0.3).long()
        return SO3().exp(middles[which], 0.2 * torch.randn(count, 3, generator=rng))

    denoiser = Denoiser(Network(), process)
    optimizer = torch.optim.AdamW(denoiser.network.parameters(), lr=2e-3)  # type: ignore[attr-defined]
    for _ in range(500):
        u = (torch.arange(256) + torch.rand(256, generator=rng)) / 256
        loss(denoiser, draw(256), Uniform(1e-3)(u, process.schedule).float(), rng).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    streams = Streams(key("rotations"), range(600))
    x = sample(denoiser, process.prior(draw(600), streams), uniform(process.schedule, 40), Euler(1.0), streams)
    away = SO3().log(middles.expand(600, 2, 3, 3), x[:, None].expand(600, 2, 3, 3)).norm(dim=-1)
    near = away.min(1).values
    assert abs(float((away.argmin(1) == 1).float().mean()) - 0.3) < 0.08
    assert abs(float(near.median()) - 0.2 * 1.538) < 0.06  # the median of a chi law of 3 degrees is 1.538
    assert float((near > 1.0).float().mean()) < 0.06
