"""Few data, repeated: where masked diffusion passes its autoregressive twin.

    python -m benchmarks.text_repeated --out OUT [--megabytes 0.2] [--passes 256] [--width 96 --depth 4 --window 64]

So many megabytes of documents of Python's standard library are learned from, again and again, by a masked model and by a left
to right one of the same blocks, tokens, batches and optimiser, at a constant rate. Their averages are kept as they learn, and
afterwards each is measured on the same held-out documents: bits per byte with the tokens of a window before each block in
sight, of the masked model `--span` at a time (a bound), of the twin exactly. The least of each, and after how many passes, are
what is compared; nothing is chosen by it but that. OUT/results.json has both curves, with the seconds of the processor; a
second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.text import SKIP
from benchmarks.twin import course, next_token, twin_of
from sfumato.data.dataset import split
from sfumato.diffusion import Denoiser, key
from sfumato.fields.text import measure
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.options import TextNetwork
from sfumato.fields.text.recipe import Text
from sfumato.jobs.recipe import Data
from sfumato.training import loop
from sfumato.training.ema import read_snapshots
from sfumato.training.objective import Precise, Task, bf16_pays
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.run import Run


def part(recipe: Text, bytes_: int, window: int) -> Corpus:
    """Of the documents that train: so many bytes of small ones, in an order that their names fix; held out are the run's own."""
    documents = recipe.documents(lambda _: None)
    train, rest = split([document.key for document in documents], recipe.held_out)
    kept, total = {documents[i].name for i in rest}, 0
    for i in sorted(train, key=lambda i: key("few", documents[i].name)):
        size = len(documents[i].text)
        if total < bytes_ and size <= bytes_ / 4:
            kept.add(documents[i].name)
            total += size
    few = [document for document in documents if document.name in kept]
    return Corpus.of(few, vocab=recipe.vocab, window=window, held_out=recipe.held_out, tell=lambda _: None)


def masked_course(
    network: Any, process: Any, place: Run, width: float, corpus: Corpus, chosen: measure.Texts, span: int
) -> dict[int, Any]:
    """Bits per byte of a masked model at each snapshot of its training, by its step."""
    found: dict[int, Any] = {}
    denoiser = Denoiser(Precise(network, bf16_pays(torch.device("cpu"))), process)
    network.eval()
    for snapshot in read_snapshots(place.snapshots):
        if snapshot.width == width:
            network.load_state_dict(dict(snapshot.weights))
            scores = measure.own_bits(corpus, denoiser, chosen, span, 2, "cpu", lambda *_: None)
            found[snapshot.step] = scores.interval()
    return found


def main() -> None:
    """Both trained, both measured, both written down."""
    parser = argparse.ArgumentParser(description="Few data, repeated: a masked model and a left-to-right one.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=0.2)
    parser.add_argument("--passes", type=int, nargs="*", default=[256, 64], help="of the masked model, and of the twin")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--span", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=12_000, help="held-out tokens scored at most")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    recipe = Text(
        Path(sysconfig.get_path("stdlib")), suffixes=(".py",), skip=SKIP, vocab=asked.vocab, window=asked.window,
        network=TextNetwork(asked.width, asked.depth), stretch=0.0,
    )  # fmt: skip
    corpus = part(recipe, round(1e6 * asked.megabytes), asked.window)
    facts = dataclasses.replace(corpus.facts, once=True)
    chosen = measure.choose(corpus, asked.tokens)
    windows = corpus.windows("train"), corpus.windows("held_out")
    torch.manual_seed(asked.seed)
    masked: Any = recipe.build(facts, "cpu")
    twin = twin_of(corpus, masked.options, asked.seed)
    process = recipe.process(facts)
    tasks = {
        "masked": recipe.task(Data(facts, *windows), masked),
        "left to right": Task(twin, process, *windows, criterion=next_token),
    }
    file = asked.out / "results.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found |= {
        "asked": {name: str(value) for name, value in vars(asked).items()}, "data": facts.words(),
        "parameters": sum(p.numel() for p in masked.parameters()), "documents": [name for name, _ in chosen],
    }  # fmt: skip
    for (name, task), passes in zip(tasks.items(), asked.passes, strict=True):
        place = Run(asked.out / name.replace(" ", "_"))
        place.path.mkdir(parents=True, exist_ok=True)
        steps = round(passes * facts.train.tokens / (asked.batch * asked.window))
        options = TrainOptions(
            steps=steps, batch=asked.batch, seed=asked.seed, threads=1, previews=0, snapshots=16, save_seconds=120,
            optim=OptimOptions(lr=asked.lr, decay=0.0, warmup=100), ema=(0.1, 0.2),
        )  # fmt: skip
        began = time.process_time()
        if not place.model.is_file():
            loop.train(task, place, options, "cpu")
        seconds = found.get(name, {}).get("cpu seconds", 0) + time.process_time() - began
        if name == "masked":
            curve = masked_course(masked, process, place, 0.1, corpus, chosen, asked.span)
        else:
            curve = course(twin, place, 0.1, corpus, chosen)
        by_passes = {f"{step * asked.batch * asked.window / facts.train.tokens:.1f}": v for step, v in curve.items()}
        found[name] = {"steps": steps, "cpu seconds": seconds, "bits per byte by passes": by_passes}
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
