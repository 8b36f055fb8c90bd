"""The autoregressive twin of a run of text: the same blocks, tokens, batches, optimiser and steps, each token told those before.

    python -m benchmarks.twin RUN --out OUT [--steps N] [--tokens 60000]

RUN is one of `sfumato train text`. The twin is trained by the same loop on the run's own windows; measured are its bits per
byte on the same held-out documents with as many tokens before each block in sight, and the same holes of 1, 3 and 8 tokens,
filled from left to right without a look at what comes after. OUT/twin is its run (a second call goes on with it), OUT/twin.json
what was found, with the run's own bits beside.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.diffusion import Denoiser
from sfumato.fields.text import measure
from sfumato.fields.text.bits import Scores, sizes, spans
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.network import TokenTransformer
from sfumato.jobs.config import read_config
from sfumato.jobs.model import load
from sfumato.training import checkpoint, loop
from sfumato.training.objective import Task
from sfumato.training.run import Run


class Twin(TokenTransformer):
    """The same network with one difference: a token sees itself and those before it, and answers the next."""

    def sight(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.ones(1, x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()


def next_token(
    denoiser: Denoiser, x: Any, t: Any, *, rng: Any, z: Any, weight: Any, given: Any, condition: Mapping[str, Any]
) -> Tensor:
    """Cross-entropy of each token given those before it, nats a token, (B,)."""
    answer = denoiser.network(x[:, :-1], torch.zeros(len(x), device=x.device)).float()
    return nn.functional.cross_entropy(answer.transpose(1, 2), x[:, 1:], reduction="none").mean(1).double()


@torch.no_grad()
def bits(network: nn.Module, corpus: Corpus, chosen: measure.Texts, span: int, batch: int = 64) -> Scores:
    """-log2 p of documents, `span` tokens at a time with the tokens of a window before them in sight."""
    documents = [ids for _, ids in chosen]
    every = list(spans(documents, corpus.facts.end, corpus.facts.window - span, span))
    nats = np.zeros(len(documents))
    for length in sorted({len(each.tokens) for each in every}):
        group = [each for each in every if len(each.tokens) == length]
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            x = torch.from_numpy(np.stack([each.tokens for each in part]))
            log_p = network(x[:, :-1], torch.zeros(len(x))).float().log_softmax(-1)
            own = -log_p.gather(-1, x[:, 1:, None])[..., 0].double()
            for row, each in zip(own, part, strict=True):
                nats[each.document] += float(row[each.first - 1 :].sum())
    return Scores(nats / math.log(2), sizes(documents, corpus.vocabulary.lengths()))


@torch.no_grad()
def holes(network: nn.Module, corpus: Corpus, most: int) -> dict[str, float]:
    """Share of holes filled to the token, the likeliest token after the other."""
    found = {}
    for size in (1, 3, 8):
        drawn = measure.drawn_holes(corpus, size, most)
        if drawn is None:
            continue
        x, open_ = drawn
        first, right = open_.int().argmax(1), 0
        for row, place in zip(x, first.tolist(), strict=True):
            line = row[:place].clone()
            for _ in range(size):
                answer = network(line[None], torch.zeros(1))[0, -1, : corpus.facts.end]
                line = torch.cat([line, answer.argmax()[None]])
            right += bool((line[place:] == row[place : place + size]).all())
        found[f"holes_of_{size}_right"] = right / len(x)
    return found


def trained(run: Run, corpus: Corpus, out: Path, steps: int | None) -> tuple[nn.Module, dict[str, Any]]:
    """The twin of a run, trained by the same loop with the same options (and its averaged weights taken)."""
    config = read_config(run)
    recipe: Any = config.recipe
    options = dataclasses.replace(config.training, steps=steps or config.training.steps, previews=0)
    width = recipe.network.width
    torch.manual_seed(options.seed)
    network = Twin(
        answers=corpus.facts.vocab + 1, width=width, depth=recipe.network.depth, heads=max(1, width // 64),
        dropout=recipe.network.dropout,
    )  # fmt: skip
    task = Task(
        network, recipe.process(corpus.facts), corpus.windows("train"), corpus.windows("held_out"), criterion=next_token
    )
    place = Run(out / "twin")
    place.path.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    if not place.model.is_file():
        loop.train(task, place, options, "cpu")
    weights, _ = checkpoint.read_weights(place.model)
    network.load_state_dict(weights)
    return network.eval(), {"steps": options.steps, "cpu seconds": time.process_time() - began}


def main() -> None:
    """The twin trained, measured, and written down."""
    parser = argparse.ArgumentParser(description="The autoregressive twin of a run of text.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="as many as the run unless said")
    parser.add_argument("--tokens", type=int, default=60_000, help="held-out tokens scored at most")
    parser.add_argument("--holes", type=int, default=200)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    model = load(asked.run)
    recipe: Any = model.recipe
    corpus = recipe.corpus(model.run)
    network, found = trained(model.run, corpus, asked.out, asked.steps)
    chosen = measure.choose(corpus, asked.tokens)

    def note(**more: Any) -> None:
        found.update(more)
        (asked.out / "twin.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    note(parameters=sum(p.numel() for p in network.parameters()), documents=[name for name, _ in chosen])
    for span in (32,):
        scores = bits(network, corpus, chosen, span)
        note(**{f"twin, bits per byte, blocks of {span}": scores.interval()})
    note(**holes(network, corpus, asked.holes))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
