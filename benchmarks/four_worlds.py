"""One model of four worlds at once: angles, a rotation, a place and tokens, whose modes belong together.

    python -m benchmarks.four_worlds [--steps 2000] [--out four_worlds.png]

The data is a mixture of three modes with shares 0.5, 0.3 and 0.2. In a mode, two angles and a rotation are spread by
0.15 rad about its own, the place by 0.15 about its own, and each of four tokens is the mode's own with probability 0.97.
A small network learns the product process (flow matching on the torus, on SO(3) and in R^3, masks on the tokens) with
the one `loss`, and is sampled with the one `sample`. What is recovered: the shares of the
modes in each world alone, how often the four worlds agree on the mode, and the spread within the modes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.diffusion import Denoiser, Gaussian, Linear, Streams, cosine, key, loss, sample
from sfumato.diffusion.geodesic import Geodesic
from sfumato.diffusion.manifold import SO3, Torus
from sfumato.diffusion.masked import Masked
from sfumato.diffusion.product import Product
from sfumato.diffusion.sample import Euler
from sfumato.training.ema import PowerEMA

SHARES = (0.5, 0.3, 0.2)
SPREAD, TRUE_TOKEN, VOCAB, LENGTH = 0.15, 0.97, 5, 4
MASK = VOCAB
WORLDS = ("angles", "rotation", "place", "tokens")
PROCESS = Product(
    angles=Geodesic(Torus()),
    rotation=Geodesic(SO3()),
    place=Gaussian(Linear(), "data", "velocity"),
    tokens=Masked(MASK),
)


@dataclass(frozen=True)
class Modes:
    """The middles of the modes: angles (3, 2), rotation (3, 3, 3), place (3, 3), tokens (3, 4)."""

    angles: Tensor
    rotation: Tensor
    place: Tensor
    tokens: Tensor

    @classmethod
    def fixed(cls) -> Modes:
        """Angles on both sides of the seam, rotations a right angle and a half turn away, tokens that share values."""
        turns = torch.tensor([[0.0, 0.0, 0.0], [1.6, 0.0, 0.0], [0.0, 3.1, 0.0]])
        start = torch.eye(3).expand(3, 3, 3)
        return cls(
            angles=torch.tensor([[3.1, 0.0], [-1.5, 1.5], [0.5, -2.5]]),
            rotation=SO3().exp(start, turns),
            place=torch.tensor([[1.0, 0.0, 0.5], [-1.0, 0.8, -0.5], [0.0, -1.2, 0.3]]),
            tokens=torch.tensor([[0, 1, 2, 3], [0, 2, 4, 1], [3, 3, 0, 1]]),
        )

    def draw(self, count: int, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Data (count, ...) and the mode of each (count,)."""
        which = torch.multinomial(torch.tensor(SHARES), count, replacement=True, generator=rng)

        def normal(*shape: int) -> Tensor:
            return SPREAD * torch.randn(count, *shape, generator=rng)

        own = torch.rand(count, LENGTH, generator=rng) < TRUE_TOKEN
        other = torch.randint(VOCAB, (count, LENGTH), generator=rng)
        return {
            "angles": Torus().exp(self.angles[which], normal(2)),
            "rotation": SO3().exp(self.rotation[which], normal(3)),
            "place": self.place[which] + normal(3),
            "tokens": torch.where(own, self.tokens[which], other),
        }, which

    def distances(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """World -> distance of each sample to each mode, (count, 3); for tokens the number of differences."""
        rows = len(x["angles"])

        def spread(value: Tensor) -> tuple[Tensor, Tensor]:
            return tuple(torch.broadcast_tensors(value[:, None], value.new_empty(rows, 3, *value.shape[1:])))  # type: ignore[return-value]

        angles, rotation = spread(x["angles"])[0], spread(x["rotation"])[0]
        return {
            "angles": Torus().log(self.angles.expand(rows, 3, 2), angles).norm(dim=-1),
            "rotation": SO3().log(self.rotation.expand(rows, 3, 3, 3), rotation).norm(dim=-1),
            "place": (x["place"][:, None] - self.place).norm(dim=-1),
            "tokens": (x["tokens"][:, None] != self.tokens).double().sum(-1),
        }


class Network(nn.Module):
    """A residual MLP that sees all four worlds and answers each in its own tangent space or logits."""

    def __init__(self, width: int = 192, depth: int = 3) -> None:
        super().__init__()
        self.sizes = {"angles": 2, "rotation": 3, "place": 3, "tokens": LENGTH * VOCAB}
        self.enter = nn.Linear(12 + 9 + 3 + LENGTH * (VOCAB + 1) + 8 * len(WORLDS), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        self.leave = nn.Linear(width, sum(self.sizes.values()))

    def forward(self, x: Mapping[str, Tensor], levels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """World -> answer (B, ...)."""
        angles = torch.cat([k * x["angles"] for k in (1, 2, 3)], 1)
        level = torch.cat([torch.stack([levels[name] for name in WORLDS], 1) / 8 * k for k in (1, 2, 4, 8)], 1)
        h = self.enter(
            torch.cat(
                [
                    angles.cos(), angles.sin(), x["rotation"].flatten(1), x["place"],
                    nn.functional.one_hot(x["tokens"], VOCAB + 1).flatten(1).float(),
                    level.sin(), level.cos(),
                ],
                1,
            )
        )  # fmt: skip
        for block in self.blocks:
            h = h + block(h)
        parts = dict(zip(self.sizes, self.leave(h).split(tuple(self.sizes.values()), 1), strict=True))
        return {**parts, "tokens": parts["tokens"].unflatten(1, (LENGTH, VOCAB))}


def train(steps: int = 2000, batch: int = 256, seed: int = 0) -> tuple[Denoiser, list[float]]:
    """The denoiser after ``steps`` of AdamW, and the loss of each step."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network, modes = Network(), Modes.fixed()
    denoiser = Denoiser(network, PROCESS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    losses = []
    average = PowerEMA(dict(network.named_parameters()), (0.1, 0.15))
    for step in range(steps):
        x, _ = modes.draw(batch, rng)
        t = 1e-3 + (1 - 2e-3) * (torch.arange(batch) + torch.rand(batch, generator=rng)) / batch
        value = loss(denoiser, x, t, rng).mean()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update(dict(network.named_parameters()), step + 1, step)
        losses.append(value.detach())
    network.load_state_dict(average.averages[0.1])
    return denoiser, torch.stack(losses).tolist()


def draw_samples(denoiser: Denoiser, count: int = 2000, steps: int = 64, seed: int = 0) -> dict[str, Tensor]:
    """Samples (count, ...) of all four worlds; sample i depends on the seed and i alone."""
    rng = Streams(key("four worlds", seed), range(count))
    like, _ = Modes.fixed().draw(count, torch.Generator().manual_seed(0))
    return sample(denoiser, PROCESS.prior(like, rng), cosine(Linear(), steps), Euler(), rng)


def measure(x: Mapping[str, Tensor]) -> dict[str, object]:
    """Shares of the modes world by world, agreement of the worlds, spread within modes."""
    distances = Modes.fixed().distances(x)
    nearest = {name: far.argmin(1) for name, far in distances.items()}
    together = torch.stack(list(nearest.values()))
    agree = (together == together[0]).all(0)
    mode = together[0]
    within = {
        name: float(distances[name][torch.arange(len(mode)), mode][agree].square().mean().sqrt())
        for name in ("angles", "rotation", "place")
    }
    off = float(distances["tokens"][torch.arange(len(mode)), mode][agree].mean() / LENGTH)
    return {
        "shares": {name: [round(float((which == k).float().mean()), 4) for k in range(3)] for name, which in nearest.items()},
        "agree": float(agree.float().mean()),
        "spread": within,
        "tokens_off": off,
    }  # fmt: skip


def picture(x: Mapping[str, Tensor], data: Mapping[str, Tensor], path: Path) -> None:
    """Data above, samples below: the torus, the rotations' axes, the place, the tokens; a colour for each mode."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(14, 7))
    for row, (name, value) in enumerate((("data", data), ("samples", x))):
        mode = Modes.fixed().distances(value)["place"].argmin(1)
        colours = [f"C{int(k)}" for k in mode]
        axes[row, 0].scatter(*value["angles"].T, s=3, c=colours)
        axes[row, 0].set(title=f"{name}: angles", xlim=(-3.15, 3.15), ylim=(-3.15, 3.15))
        image = value["rotation"] @ torch.tensor([1.0, 1.0, 1.0]) / 3**0.5  # where a rotation takes one direction
        axes[row, 1].scatter(image[:, 0], image[:, 1], s=3, c=colours)
        axes[row, 1].set(title=f"{name}: rotated (1, 1, 1)", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
        axes[row, 2].scatter(value["place"][:, 0], value["place"][:, 1], s=3, c=colours)
        axes[row, 2].set(title=f"{name}: place", xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
        counts = torch.stack([(value["tokens"] == k).float().mean(0) for k in range(VOCAB)])
        axes[row, 3].imshow(counts, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axes[row, 3].set(title=f"{name}: tokens", xlabel="place in the sequence", ylabel="token")
    figure.suptitle("colour: the mode nearest in place; the other worlds agree with it")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> None:
    """Train, sample, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "four_worlds.png")
    asked = parser.parse_args()
    before = time.perf_counter()
    denoiser, losses = train(asked.steps)
    seconds = time.perf_counter() - before
    x = draw_samples(denoiser)
    data, _ = Modes.fixed().draw(2000, torch.Generator().manual_seed(1))
    found = {"training_seconds": round(seconds, 1), "steps": asked.steps, "samples": measure(x), "data": measure(data)}
    print(json.dumps(found, indent=1))
    print(f"loss {losses[0]:.3f} -> {sum(losses[-50:]) / 50:.3f}")
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    picture(x, data, asked.out)


if __name__ == "__main__":
    main()
