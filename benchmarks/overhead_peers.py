"""What sampling and a training step cost beside the bare network: ours, diffusers, k-diffusion, azula, lucidrains.

    python -m benchmarks.overhead_peers [--repeats 15]       about five minutes

All in one process of the peers' environment, on one thread, with our DiT behind thin adapters. Every round runs every
sampler with 50 steps, and 50 bare calls of the network; a figure is the median over rounds of the ratio within a round,
with the middle half of the rounds. Training: a step of our loop and one of denoising-diffusion-pytorch's Trainer, each
against a hand-written forward, backward and optimiser step taken in turn with it.
"""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.common import COLOURS, figure, save_figure, store


def report(facts: dict[str, Any]) -> None:
    """Print the table and draw the plot."""
    table = Table("what", "ratio to bare", "middle half of the rounds", title="overhead beside peers")
    for name, row in facts["sampling"]["ratios"].items():
        table.add_row(f"sampling, {name}", f"{row['median']:.3f}", f"{row['low']:.3f}..{row['high']:.3f}")
    for name in ("sfumato", "lucidrains"):
        row = facts["training"][name]["ratio"]
        table.add_row(f"training step, {name}", f"{row['median']:.3f}", f"{row['low']:.3f}..{row['high']:.3f}")
    Console(width=110).print(table)
    draw(facts)


def draw(facts: dict[str, Any]) -> None:
    """docs/bench_overhead.png"""
    rows = {**facts["sampling"]["ratios"]}
    for name in ("sfumato", "lucidrains"):
        rows[f"{name} training step"] = facts["training"][name]["ratio"]
    sheet, [[axes]] = figure(1, 1, 6.4, 3.6)
    for place, (name, row) in enumerate(reversed(rows.items())):
        colour = COLOURS[name.split()[0]]
        axes.barh(place, row["median"] - 1, left=1, color=colour, height=0.7)
        axes.plot([row["low"], row["high"]], [place, place], color="black", lw=1)
    axes.set_yticks(range(len(rows)), reversed(rows))
    axes.tick_params(labelsize=7)
    axes.set_xlabel("time relative to the bare network (line: the middle half of the rounds)", fontsize=8)
    save_figure(sheet, "bench_overhead")


def main() -> None:
    """Measure, print, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--training-steps", type=int, default=60)
    asked = parser.parse_args()
    settings = {**vars(asked), "width": 128, "depth": 4}
    facts = {"settings": settings, **peers.run("peer_overhead", settings), "peers": peers.pins()}
    store("overhead_peers", facts)
    report(facts)


if __name__ == "__main__":
    main()
