"""A run of text with gaps in all its modes: bits, holes of known and unknown length, blocks with and without a cache, steps.

    python -m benchmarks.text_modes RUN --out OUT.json [--holes 100] [--texts 32] [--tokens 30000]

Parts are measured one after the other and written down at once; a second call with the same OUT goes on with those that are
missing. Everything is a function of the run and the options.

  bits      bits per byte of held-out documents, 32 tokens at a time, alone and with what was read before, beside the rulers
  cache     the seconds of the processor with and without reading what is given once, on fewer documents
  course    the same of fewer documents at each snapshot of the training
  holes     of 1, 3 and 8 tokens of held-out windows filled to the token: their length known, the surest first, by a trigram,
            alone and with echoes; unknown, the likeliest of --tries and one that takes the likeliest rule each time, and how
            often the length alone is right, all with echoes as `sfumato text fill` has them, or --alone
  blocks    texts of two windows by blocks of 32: what is true of them and tokens a second, with and without the cache
  steps     texts of one window in 4 to 128 steps: how many parse, stand alone and are not copied
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.fields.text import bits, measure, reading, scoring
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.echo import Echo, Echoing, Source
from sfumato.fields.text.opening import Tries, heard, opened
from sfumato.fields.text.opening import likeliest as the_likeliest
from sfumato.fields.text.options import TextAsk
from sfumato.fields.text.reading import reader
from sfumato.fields.text.recipe import gaps_of
from sfumato.fields.text.rulers import likeliest
from sfumato.fields.text.samples import Seen
from sfumato.jobs.config import read_config
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics.intervals import share_interval
from sfumato.training.ema import read_snapshots


@contextmanager
def uncached() -> Iterator[None]:
    """Every call reads everything."""
    kept = reading.reader
    for module in (reading, bits, scoring, measure):
        module.reader = lambda denoiser: denoiser  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in (reading, bits, scoring, measure):
            module.reader = kept  # type: ignore[attr-defined]


def bits_of(model: Model, corpus: Corpus, asked: argparse.Namespace) -> dict[str, Any]:
    chosen = measure.choose(corpus, asked.tokens)
    alone, heard = measure.read_bits(corpus, model.denoiser, chosen, 32, 2, model.device, lambda *_: None)
    ruled = measure.rulers(corpus, chosen, model.run.cache)
    return {
        "bits per byte": alone.interval(), "heard": heard.interval(), "documents": len(chosen),
        "rulers": {name: each.per_byte for name, each in ruled.items()},
    }  # fmt: skip


def cache_of(model: Model, corpus: Corpus, asked: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    chosen = measure.choose(corpus, asked.early)
    for name in ("once", "every time"):
        began = time.process_time()
        with contextlib.nullcontext() if name == "once" else uncached():
            scores = measure.own_bits(corpus, model.denoiser, chosen, 32, 2, model.device, lambda *_: None)
        found[name] = {"bits per byte": scores.interval(), "cpu seconds": time.process_time() - began}
    return found | {"documents": len(chosen)}


def course_of(model: Model, corpus: Corpus, asked: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    chosen = measure.choose(corpus, asked.early)
    network, width = model.denoiser.network.network, read_config(model.run).training.ema[0]  # type: ignore[attr-defined]
    last = {name: value.clone() for name, value in network.state_dict().items()}
    for snapshot in read_snapshots(model.run.snapshots):
        if snapshot.width == width:
            network.load_state_dict(dict(snapshot.weights))
            alone, heard = measure.read_bits(corpus, model.denoiser, chosen, 32, 2, model.device, lambda *_: None)
            found[str(snapshot.step)] = {"bits per byte": alone.interval(), "heard": heard.interval()}
    network.load_state_dict(last)
    return found | {"documents": len(chosen)}


def document(corpus: Corpus, row: np.ndarray, first: int, size: int) -> np.ndarray:
    """The held-out document around a hole of a window, an end in the place of each token of the hole."""
    stream = np.asarray(corpus.held_out).astype(np.int64)
    starts = np.flatnonzero(np.lib.stride_tricks.sliding_window_view(stream, 32)[:, 0] == row[0])
    start = next(int(s) for s in starts if np.array_equal(stream[s : s + len(row)], row))
    stream[start + first : start + first + size] = corpus.facts.end
    ends = np.flatnonzero(np.asarray(corpus.held_out) == corpus.facts.end)
    place = np.searchsorted(ends, start + first, side="right")
    return stream[ends[place - 1] : ends[min(place, len(ends) - 1)] + 1]


def holes_of(model: Model, corpus: Corpus, asked: argparse.Namespace) -> dict[str, Any]:
    gaps, window, found = gaps_of(model.facts), corpus.facts.window, {}
    train = Source(np.asarray(corpus.train).astype(np.int64))
    for size in asked.sizes:
        drawn = measure.drawn_holes(corpus, size, asked.holes)
        if drawn is None:
            continue
        x, open_ = drawn
        truth, counts = x[open_].reshape(-1, size).numpy(), Counter[str]()
        before = np.stack([row[f - 2 : f] for row, f in zip(x.numpy(), open_.int().argmax(1).tolist(), strict=True)])
        trigram = likeliest(corpus.train, before, size, corpus.facts.vocab)
        counts["known, a trigram"] = int((trigram == truth).all(1).sum())
        for number, (row, where) in enumerate(zip(x.numpy(), open_.numpy(), strict=True)):
            one = slice(number, number + 1)
            first = int(where.argmax())
            file = Source(document(corpus, row, first, size))
            echoing: Any = Echoing(reader(model.denoiser), Echo((train, file), corpus.facts.end))
            for name, guess in (("known, alone", model.denoiser), ("known", echoing)):
                written = measure.fill(guess, x[one], ~open_[one], size, model.device)
                counts[name] += bool((written == x[number]).all())
            who = model if asked.alone else dataclasses.replace(model, denoiser=echoing)
            tries = Tries.of(row[:first], row[first + size :], gaps, window, max(1, asked.tries))
            texts = opened(who, tries, [0], temperature=0.0, stream=("hole", number))
            counts["unknown, one try, by the network's lengths"] += texts[0].tokens.tolist() == truth[number].tolist()
            if asked.tries:
                texts += opened(who, tries, range(asked.tries), temperature=0.7, stream=("hole", number))
            if asked.alone:
                best = the_likeliest(texts, lambda tokens: True)
            else:
                best = heard(texts, echoing.echo, tries, lambda tokens: True)
            assert best is not None
            counts["unknown"] += best.tokens.tolist() == truth[number].tolist()
            counts["unknown, its length"] += len(best.tokens) == size
        n = len(x)
        found[str(size)] = {
            "holes": n,
            **{name: [hits / n, *share_interval(hits / n, n)] for name, hits in counts.items()},
        }
    return found


def texts_of(model: Model, corpus: Corpus, ask: TextAsk, walk: Walk, count: int, seen: Seen) -> dict[str, Any]:
    who = dataclasses.replace(model, walk=model.walked(walk))
    recipe: Any = model.recipe
    queries = recipe.queries(who, ask, count)
    began, things = time.process_time(), []
    for drawn in recipe.draw(who, queries, range(count)):
        things += recipe.things(who, queries, drawn)
    seconds = time.process_time() - began
    tokens = sum(len(ids) for ids in corpus.vocabulary.encode_all([thing.text for thing in things]))
    rows = measure.facts(corpus, [thing.text for thing in things], seen)
    return {
        **{row.metric: [row.value, row.low, row.high, row.floor] for row in rows},
        "cpu seconds": seconds, "tokens a cpu second": tokens / seconds,
    }  # fmt: skip


def blocks_of(model: Model, corpus: Corpus, asked: argparse.Namespace) -> dict[str, Any]:
    seen, found = Seen(corpus.train), {}
    ask = TextAsk(length=2 * corpus.facts.window, block=32)
    walk = Walk(solver="confidence:temperature=1", steps=64, batch=min(16, asked.texts))
    found["with the cache"] = texts_of(model, corpus, ask, walk, asked.texts, seen)
    with uncached():
        found["without"] = texts_of(model, corpus, ask, walk, asked.texts, seen)
    return found


def steps_of(model: Model, corpus: Corpus, asked: argparse.Namespace) -> dict[str, Any]:
    seen, found = Seen(corpus.train), {}
    for steps in (4, 8, 16, 32, 64, 128):
        walk = Walk(solver="confidence:temperature=1", steps=steps, batch=min(16, asked.texts))
        found[str(steps)] = texts_of(model, corpus, TextAsk(), walk, asked.texts, seen)
    walk = Walk(solver="entropy_bound:budget=0.5", steps=128, batch=min(16, asked.texts))
    found["entropy bound .5"] = texts_of(model, corpus, TextAsk(), walk, asked.texts, seen)
    return found


PARTS: dict[str, Callable[[Model, Corpus, argparse.Namespace], dict[str, Any]]] = {
    "bits": bits_of, "cache": cache_of, "holes": holes_of, "course": course_of, "blocks": blocks_of, "steps": steps_of,
}  # fmt: skip


def main() -> None:
    """The parts that are missing."""
    parser = argparse.ArgumentParser(description="A run of text in all its modes.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--holes", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 3, 8], help="tokens of the holes")
    parser.add_argument("--tries", type=int, default=8, help="drawn besides the likeliest rule each time")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=30_000)
    parser.add_argument(
        "--early", type=int, default=16_000, help="held-out tokens scored in the course of the training"
    )
    parser.add_argument("--alone", action="store_true", help="holes of unknown length without echoes")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="bf16")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else {}
    model = load(asked.run, drawing=Drawing(precision=asked.precision))
    recipe: Any = model.recipe
    corpus = recipe.corpus(model.run)
    for name in asked.parts:
        if name in found:
            continue
        began = time.process_time()
        found[name] = PARTS[name](model, corpus, asked)
        found[name]["cpu seconds of all"] = time.process_time() - began
        asked.out.write_text(json.dumps(found, indent=1, default=np.ndarray.tolist) + "\n", encoding="utf-8")
        print(name, json.dumps(found[name], indent=1), flush=True)


if __name__ == "__main__":
    main()
