"""The autoregressive twin of a run of text: the same blocks, tokens, batches and optimiser, each token told those before it.

    python -m benchmarks.twin RUN --out OUT [--steps N] [--tokens 60000]

RUN is one of `sfumato train text`. The twin is trained by the same loop on the run's own windows; measured are its bits per
byte on the same held-out documents with as many tokens before each block in sight, in the course of its training and at its
end, and the same holes of 1, 3 and 8 tokens, filled from left to right without a look at what comes after. OUT/twin is its run
(a second call goes on with it), OUT/twin.json what was found, with the seconds of the processor beside.
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
from sfumato.fields.text.echo import REACH
from sfumato.fields.text.heard import Heard, Hearing, Said
from sfumato.fields.text.network import TokenTransformer
from sfumato.jobs.config import read_config
from sfumato.jobs.model import load
from sfumato.training import checkpoint, loop
from sfumato.training.ema import read_snapshots
from sfumato.training.objective import Precise, Task, bf16_pays
from sfumato.training.options import TrainOptions
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
    lost = nn.functional.cross_entropy(answer.flatten(0, 1), x[:, 1:].flatten(), reduction="none")
    return lost.view(len(x), -1).mean(1).double()


def precise(network: nn.Module) -> nn.Module:
    """The network in the precision that pays on this machine, as it was trained."""
    return Precise(network, bf16_pays(torch.device("cpu")))


@torch.no_grad()
def bits(
    network: nn.Module,
    corpus: Corpus,
    chosen: measure.Texts,
    span: int,
    batch: int = 64,
    hearing: Hearing | None = None,
) -> Scores:
    """-log2 p of documents, `span` tokens at a time with the tokens of a window before them in sight. `hearing` is told what was
    said of each token: of what is before it, all is known."""
    documents, end = [ids for _, ids in chosen], corpus.facts.end
    every = list(spans(documents, end, corpus.facts.window - span, span))
    nats, network = np.zeros(len(documents)), precise(network)
    began = np.cumsum([0, *(2 + len(ids) for ids in documents)])
    for length in sorted({len(each.tokens) for each in every}):
        group = [each for each in every if len(each.tokens) == length]
        for start in range(0, len(group), batch):
            part = group[start : start + batch]
            x = torch.from_numpy(np.stack([each.tokens for each in part]))
            log_p = network(x[:, :-1], torch.zeros(len(x))).log_softmax(-1)
            own = -log_p.gather(-1, x[:, 1:, None])[..., 0].double()
            for row, each in zip(own.numpy(), part, strict=True):
                nats[each.document] += row[each.first - 1 :].sum()
                for place in range(each.first, length) if hearing is not None else ():
                    assert hearing is not None
                    left, at = each.tokens[max(0, place - REACH) : place].tolist(), each.start + place
                    p, token = math.exp(-row[place - 1]), int(each.tokens[place])
                    laws = hearing.heard.laws(p, token, left, [], each.document, at)
                    number = int(began[each.document]) + at
                    hearing.documents[number] = each.document
                    hearing.said.append(Said(number, 1, laws, 1.0))
    return Scores(nats / math.log(2), sizes(documents, corpus.vocabulary.lengths()))


@torch.no_grad()
def holes(network: nn.Module, corpus: Corpus, most: int) -> dict[str, float]:
    """Share of holes filled to the token, the likeliest token after the other."""
    found, network = {}, precise(network)
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


def twin_of(corpus: Corpus, settings: Mapping[str, Any], seed: int) -> Twin:
    """An untrained one of the size of a network with these settings."""
    torch.manual_seed(seed)
    same = {name: settings[name] for name in ("width", "depth", "heads", "dropout")}
    return Twin(answers=corpus.facts.vocab + 1, **same)


def trained(network: Twin, process: Any, corpus: Corpus, options: TrainOptions, place: Run) -> float:
    """The twin trained by the loop, with its averaged weights at the end; the seconds of the processor that this call took."""
    place.path.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    if not place.model.is_file():
        windows = corpus.windows("train"), corpus.windows("held_out")
        loop.train(Task(network, process, *windows, criterion=next_token), place, options, "cpu")
    weights, _ = checkpoint.read_weights(place.model)
    network.load_state_dict(weights)
    network.eval()
    return time.process_time() - began


def course(network: nn.Module, place: Run, width: float, corpus: Corpus, chosen: measure.Texts) -> dict[int, Any]:
    """Bits per byte at each snapshot of a training, by its step; the network has its last weights afterwards."""
    last = {name: value.clone() for name, value in network.state_dict().items()}
    found: dict[int, Any] = {}
    for snapshot in read_snapshots(place.snapshots):
        if snapshot.width == width:
            network.load_state_dict(dict(snapshot.weights))
            found[snapshot.step] = bits(network, corpus, chosen, 32).interval()
    network.load_state_dict(last)
    return found


def main() -> None:
    """The twin trained, measured, and written down."""
    parser = argparse.ArgumentParser(description="The autoregressive twin of a run of text.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="as many as the run unless said")
    parser.add_argument("--tokens", type=int, default=60_000, help="held-out tokens scored at most")
    parser.add_argument("--holes", type=int, default=200)
    parser.add_argument(
        "--early", type=int, default=16_000, help="held-out tokens scored in the course of the training"
    )
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    model = load(asked.run)
    recipe: Any = model.recipe
    corpus, config = recipe.corpus(model.run), read_config(model.run)
    options = dataclasses.replace(
        config.training, steps=asked.steps or config.training.steps, minutes=None, previews=0
    )  # fmt: skip
    place, network = Run(asked.out / "twin"), twin_of(corpus, model.settings, options.seed)
    file = asked.out / "twin.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def note(**more: Any) -> None:
        found.update(more)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    seconds = trained(network, recipe.process(corpus.facts), corpus, options, place)
    note(**{"steps": options.steps, "cpu seconds": found.get("cpu seconds", 0) + seconds})
    chosen = measure.choose(corpus, asked.tokens)
    note(parameters=sum(p.numel() for p in network.parameters()), documents=[name for name, _ in chosen])
    hearing = Hearing(Heard.of(corpus.train, [ids for _, ids in chosen], corpus.facts.end), 1)
    alone = bits(network, corpus, chosen, 32, hearing=hearing)
    note(**{"bits per byte": alone.interval(), "... heard": hearing.scores(alone).interval()})
    note(**holes(network, corpus, asked.holes))
    note(course=course(network, place, options.ema[0], corpus, measure.choose(corpus, asked.early)))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
