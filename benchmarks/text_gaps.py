"""An earlier run of text taught what it did not learn: gaps of unknown length, and to read once what is given.

    python -m benchmarks.text_gaps OLD OUT --steps 500 [--lr 1e-3]

A run of `sfumato train text` of a revision without gaps is prepared again (its data, vocabulary and split come out the same), its
averaged weights are taken over, the four new tokens start as the mask does, and the loop trains on. OUT is a run like any other;
a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from sfumato.jobs.config import Configuration, read_config
from sfumato.jobs.model import load, task_of
from sfumato.jobs.seal import seal
from sfumato.jobs.train import starting
from sfumato.training import loop
from sfumato.training.optim import OptimOptions
from sfumato.training.run import Run, write_text


def main() -> None:
    """Prepare, take over, train."""
    parser = argparse.ArgumentParser(description="An earlier run of text taught gaps of unknown length.")
    parser.add_argument("old", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-3)
    asked = parser.parse_args()
    before, run = load(asked.old), Run(asked.out)
    config = read_config(before.run)
    options = dataclasses.replace(
        config.training, steps=asked.steps, minutes=None, previews=1, save_seconds=240.0,
        optim=OptimOptions(lr=asked.lr, warmup=30, decay=0.6),
    )  # fmt: skip
    if not run.config.exists():
        prepared(config, options, run)
    config = read_config(run)
    task = task_of(config, run)
    facts: Any = config.recipe.facts(run)
    if (facts.vocab, facts.source) != (before.facts.vocab, before.facts.source):
        raise SystemExit(f"{asked.old}: its texts are not there any more as they were")
    old, new = before.denoiser.network.network.state_dict(), task.network.state_dict()
    rows = len(old["embed.weight"])
    weights = {**old, "embed.weight": new["embed.weight"].clone()}
    weights["embed.weight"][:rows] = old["embed.weight"]
    weights["embed.weight"][rows:] = old["embed.weight"][facts.mask] + 0.01 * torch.randn(
        len(new["embed.weight"]) - rows, 1
    )
    task.network.load_state_dict(weights)
    loop.train(task, run, config.training, "cpu")


def prepared(config: Any, options: Any, run: Run) -> None:
    """The folder of the new run, its data made ready."""
    with starting(run):
        recipe = dataclasses.replace(config.recipe, stretch=0.35).prepare(run, print)
        seal(run)
        write_text(run.config, Configuration(recipe, options).to_yaml())


if __name__ == "__main__":
    main()
