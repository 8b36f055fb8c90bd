"""Large networks of four fields, planned for many processes: bytes of each beside a formula.

    python -m benchmarks.large [--world 128] [--shard 8]

No weights are made: networks are on the meta device, the other processes are pretended. The formula counts numbers by hand,
from widths and depths, and shares them out evenly; the plan lays the network in parts by the function that trains it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.data import Items
from sfumato.diffusion import Gaussian, Linear, Masked
from sfumato.fields.captions.network import Captioned
from sfumato.fields.text.network import TokenTransformer
from sfumato.fields.weather.network import FieldNetwork
from sfumato.networks import DiT
from sfumato.training.dry import Foreseen, foresee
from sfumato.training.objective import Task
from sfumato.training.options import ParallelOptions, TrainOptions

FLOW = Gaussian(Linear(), "data", "velocity")
COUNT = 4


@dataclass(frozen=True)
class Large:
    """A network, the data it is for, the batch of all processes, and how many numbers it has by the formula."""

    build: Callable[[], nn.Module]
    data: Callable[[], dict[str, Tensor]]
    batch: int
    numbers: Callable[[], int]
    tokens: bool = False


def hidden(width: int) -> int:
    """Of the gated layer: 8/3 of the width, in 64s."""
    return round(8 / 3 * width / 64) * 64


def condition(width: int, classes: int = 0, vectors: int = 0) -> int:
    """Two levels of 128 waves, through two layers each; labels; numbers."""
    level = 128 * width + width + width * width + width
    labels = (classes + 1) * width if classes else 0
    return 2 * level + labels + (vectors * width + width + width * width + width + width if vectors else 0)


def block(width: int, head: int) -> int:
    """Attention, gated layer, six offsets."""
    return 4 * width**2 + head + 3 * width * hidden(width) + 6 * width


def around(width: int, numbers: int, head: int) -> int:
    """Modulation, the way in, places, the way out."""
    return 8 * width * (width + 1) + numbers * width + width + head * width + width * numbers + numbers


def images() -> int:
    """DiT-XL on latents of 4 x 32 x 32, patch 2, a thousand classes."""
    width, depth, head = 1152, 28, 64
    return condition(width, classes=1000) + around(width, 16, head) + depth * block(width, head)


def text() -> int:
    """24 blocks of 2048 over 32,000 tokens, whose table is the last layer too."""
    width, depth, head = 2048, 24, 64
    return 32_001 * width + depth * (block(width, head) - 6 * width) + width


def captions() -> int:
    """24 blocks of two streams of 1536; the words' stream in the last is only looked at."""
    width, depth, head, told = 1536, 24, 64, 1024
    both = 2 * depth * block(width, head) - (width**2 + 3 * width * hidden(width))
    return condition(width, vectors=told) + around(width, 16, head) + both + told * width + width + width


def residual(inside: int, outside: int, told: int, attends: bool) -> int:
    """Two norms, two convolutions, scale and shift, a short cut; attention to all pixels: its norm, two layers."""
    short = inside * outside + outside if inside != outside else 0
    plain = 2 * inside + 9 * inside * outside + outside + 2 * outside * (told + 1) + 2 * outside
    return plain + 9 * outside**2 + outside + short + (attention(outside) if attends else 0)


def attention(width: int) -> int:
    """Of a U-Net."""
    from sfumato.networks.unet import PixelAttention

    with torch.device("meta"):  # one layer, counted as it is
        return sum(p.numel() for p in PixelAttention(width).parameters())


def weather() -> int:
    """A U-Net of 256, 512 and 1024 channels, three blocks a level, told two frames and six maps of 20 fields."""
    wide, depth, fields, maps = (256, 512, 1024), 3, 20, 6
    told = 4 * wide[0]
    total = condition(told, vectors=4)
    total += 9 * (3 * fields + maps) * wide[0] + wide[0]
    here = wide[0]
    for i, there in enumerate(wide):
        low = i == 2
        total += sum(residual(here if k == 0 else there, there, told, low) for k in range(depth))
        total += 0 if low else 9 * there**2 + there
        here = there
    total += residual(here, here, told, True) + residual(here, here, told, False)
    for i, there in reversed(list(enumerate(wide))):
        low = i == 2
        total += sum(residual((here if k == 0 else there) + there, there, told, low) for k in range(depth))
        total += 0 if i == 0 else 9 * there**2 + there
        here = there
    return total + 2 * here + 9 * here * fields + fields


FIELDS = {
    "images": Large(
        lambda: DiT(channels=4, width=1152, depth=28, heads=18, patch=2, classes=1000),
        lambda: {"x": torch.zeros(COUNT, 4, 32, 32), "label": torch.zeros(COUNT, dtype=torch.int64)}, 1024, images,
    ),
    "text": Large(
        lambda: TokenTransformer(answers=32_000, width=2048, depth=24, heads=32),
        lambda: {"x": torch.zeros(COUNT, 1024, dtype=torch.int64)}, 512, text, True,
    ),
    "captions": Large(
        lambda: Captioned(channels=4, attention="joint", width=1536, depth=24, patch=2, vocab=0, context_dim=1024),
        lambda: {"x": torch.zeros(COUNT, 4, 64, 64), "caption": torch.zeros(COUNT, 77, 1024),
                 "caption_mask": torch.ones(COUNT, 77, dtype=torch.bool)}, 512, captions,
    ),
    "weather": Large(
        lambda: FieldNetwork(channels=20, maps=6, rows=181, columns=360, closes=True, width=256, depth=3, multipliers=(1, 2, 4)),
        lambda: {"x": torch.zeros(COUNT, 20, 181, 360), "state": torch.zeros(COUNT, 40, 181, 360),
                 "clock": torch.zeros(COUNT, 4)}, 128, weather,
    ),
}  # fmt: skip


def planned(name: str, world: int, shard: int) -> tuple[Foreseen, float]:
    """The plan of a field's large network, and the seconds it took."""
    large, begin = FIELDS[name], time.perf_counter()
    with torch.device("meta"):
        network = large.build()
    task = Task(network, Masked(32_000) if large.tokens else FLOW, Items(large.data()))
    options = TrainOptions(batch=large.batch, precision="bf16", parallel=ParallelOptions(shard=shard))
    return foresee(task, options, world), time.perf_counter() - begin


def measured(world: int = 128, shard: int = 8) -> dict[str, dict[str, float]]:
    """Every field's plan beside the formula."""
    found = {}
    for name, large in FIELDS.items():
        plan, seconds = planned(name, world, shard)
        numbers = large.numbers()
        even = numbers / plan.mesh.holders
        print(f"\n{name}: {plan.parameters / 1e6:.1f} M numbers, by the formula {numbers / 1e6:.1f} M")
        print("\n".join(plan.lines()))
        print(
            f"formula   state {4 * 6 * even / 1e9:.4f} GB, plan {plan.state / 1e9:.4f} GB; planned in {seconds:.1f} s"
        )
        found[name] = {
            "parameters": plan.parameters, "formula": numbers, "state": plan.state, "even": round(4 * 6 * even),
            "gathered": plan.gathered, "kept": plan.kept, "flops": plan.flops, "seconds": seconds,
        }  # fmt: skip
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", type=int, default=128)
    parser.add_argument("--shard", type=int, default=8)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    result = measured(words.world, words.shard)
    if words.out:
        words.out.write_text(json.dumps(result, indent=1) + "\n")
