"""Whole lines of held-out documents written anew by a run of text, with everything around them in sight.

    python -m benchmarks.text_lines RUN --out OUT.json [--lines 100] [--skip 0] [--parts calls budgets echoes tries open]

Lines of 8 to 60 characters that stand in no training document, of documents that parse, are written as `sfumato text fill
--lines` writes them: the surest token first, at temperature .7, as many tokens as stood there. Of each way to write them: how
many are what stood there, how like it the others are, and how many are sound: the document parses with the line, no other line
of the same batch was written the same, and none of the training text is it (blanks at the ends do not count).

  calls     in 1, 2, 4, 8 calls of the network and in one a token
  budgets   in as many calls as it takes to reveal tokens of so many nats of entropy together
  echoes    where what stands between the same tokens elsewhere counts, as the verb has it: in a call a token, in 8 steps, in 8
            where a step may mask again what it doubts, and a token a step with 8, 4 or 2 calls (`--calls`)
  tries     the same, the first of four tries with which the document parses: in a call a token, and in 8 calls a try; of eight
  open      by the verb as it is: as many tokens as it finds, of four tries one with which it parses; and whatever is likeliest

Settings are chosen on lines that the first --skip ones are not among. Nothing is run: texts are parsed alone. --show lines are
printed with what is around them. A second call with the same OUT goes on with the parts that are missing.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.text import held_out_lines
from sfumato.diffusion import Confidence, Endpoints, EntropyBound, Guess, Solver, Streams, key, uniform
from sfumato.diffusion.guidance import Wrapped
from sfumato.diffusion.sample import walk
from sfumato.fields.text.data import Corpus
from sfumato.fields.text.echo import Echo, Echoing, Source
from sfumato.fields.text.filling import Draft, fill
from sfumato.fields.text.grammar import everything, grammar
from sfumato.fields.text.opening import fill_open
from sfumato.fields.text.originals import Hole, Original
from sfumato.fields.text.reading import reader
from sfumato.fields.text.steering import OneLine, breaks_of, one_line, seldom
from sfumato.fields.text.writing import Layout, Sharpened, around, laid_out
from sfumato.jobs.model import Model, load
from sfumato.jobs.walk import Drawing, Walk
from sfumato.metrics.intervals import share_interval

WARMTH = 0.7


class Place(NamedTuple):
    """A line of a document: what is before it, its bytes without blanks at its ends, what is after; its layout in a window."""

    name: str
    before: bytes
    line: bytes
    after: bytes
    layout: Layout


def parses(text: bytes) -> bool:
    """Whether all of it is accepted by Python's grammar."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def chosen(corpus: Corpus, number: int) -> list[Place]:
    """So many lines, the same every time."""
    found: list[Place] = []
    for name, before, line, after in held_out_lines(corpus, 10 * number):
        if len(found) == number:
            break
        if len(before) + len(after) < 100_000 and parses(before + line + after):
            tokens = len(corpus.vocabulary.encode(line))
            found.append(
                Place(
                    name, before, line, after, laid_out([before, tokens, after], corpus.vocabulary, corpus.facts.window)
                )
            )
    return found


def judged(places: Sequence[Place], written: Sequence[bytes], known: set[bytes]) -> dict[str, Any]:
    """What is true of the lines that were written, against those of the training text."""
    lines = [line.strip() for line in written]
    times = Counter(lines)
    parsed = np.array([parses(p.before + line + p.after) for p, line in zip(places, written, strict=True)])
    alone = np.array([times[line] == 1 for line in lines])
    new = np.array([line not in known for line in lines])
    right = np.array([line == p.line.strip() for p, line in zip(places, lines, strict=True)])
    alike = [SequenceMatcher(None, p.line, line, autojunk=False).ratio() for p, line in zip(places, lines, strict=True)]
    sound, n = float((parsed & alone & new).mean()), len(lines)
    return {
        "lines": n, "right": float(right.mean()), "right, 90 %": share_interval(float(right.mean()), n),
        "alike": float(np.mean(alike)), "parses": float(parsed.mean()), "unique": float(alone.mean()),
        "new": float(new.mean()), "sound": sound, "sound, 90 %": share_interval(sound, n),
    }  # fmt: skip


class Written(NamedTuple):
    """Lines, and how many calls of the network each took, where that is known."""

    lines: list[bytes]
    calls: list[int]


def drawn(model: Model, corpus: Corpus, places: Sequence[Place], solver: Solver, calls: int | None) -> Written:
    """The lines drawn in so many calls at most, or (None) in as many as the line has tokens: of as many tokens together."""
    found: dict[int, tuple[bytes, int]] = {}
    for size, members in grouped(places).items():
        for start in range(0, len(members), 16):
            rows = members[start : start + 16]
            x = torch.from_numpy(np.stack([places[i].layout.tokens for i in rows]))
            known = torch.from_numpy(np.stack([places[i].layout.known for i in rows]))
            closed = torch.ones(len(rows), dtype=torch.bool)
            warmth = torch.full((len(rows),), WARMTH)
            one = OneLine(reader(model.denoiser), breaks_of(corpus.vocabulary))
            guess = around(Sharpened(one, warmth, corpus.facts.end, closed), x, known)
            rng = Streams(key("lines", "written"), rows)
            times = uniform(guess.process.schedule, calls or size[1])
            states = [state for state, _ in walk(guess, guess.process.prior(x, rng), times, solver, rng)]
            moved = torch.stack([(a != b).any(1) for a, b in pairwise(states)]).sum(0)
            for i, row, there, count in zip(rows, states[-1].numpy(), known.numpy(), moved.tolist(), strict=True):
                found[i] = corpus.vocabulary.decode(row[~there]), count
    return Written([found[i][0] for i in range(len(places))], [found[i][1] for i in range(len(places))])


def grouped(places: Sequence[Place]) -> dict[tuple[int, int], list[int]]:
    """The places whose layouts and holes have as many tokens: (tokens, of the hole) -> their numbers."""
    found: dict[tuple[int, int], list[int]] = {}
    for i, place in enumerate(places):
        found.setdefault((len(place.layout.tokens), int((~place.layout.known).sum())), []).append(i)
    return dict(sorted(found.items()))


def by_the_verb(
    model: Model, corpus: Corpus, places: Sequence[Place], *, open_: bool = False, steps: int | None = None,
    calls: int | None = None, tries: int = 1, parsed: bool = False, solver: str = "confidence",
) -> Written:  # fmt: skip
    """Each line alone by what `sfumato text fill` does: of as many tokens as stood there, or as many as it finds, the network
    asked at each of so many steps, or at most ``calls`` times."""
    written, asked, train = [], [], Source(np.asarray(corpus.train).astype(np.int64))
    for p in places:
        text, hole = p.before + p.line + p.after, Hole(len(p.before), len(p.before) + len(p.line), line=True)
        file, draft = Original(Path(p.name), text), Draft.of(text, [hole], corpus.vocabulary, None)
        counted = Counted(reader(model.denoiser))
        heard = Echoing(counted, Echo((train, Source(draft.tokens)), corpus.facts.end))
        walk = model.walked(Walk(batch=1, steps=steps or int((draft.hole == 0).sum()), solver=solver), "surest")
        who = dataclasses.replace(model, denoiser=heard, walk=walk)
        who = one_line(who if calls is None else seldom(who, calls), [hole])
        accepts = grammar(file, [hole]) if parsed else everything
        (made,) = (fill_open if open_ else fill)(who, file, [hole], temperature=WARMTH, tries=tries, accepts=accepts)
        written.append(made[len(p.before) : len(made) - len(p.after)])
        asked.append(len(counted.calls))
    return Written(written, asked)


@dataclasses.dataclass(frozen=True)
class Counted(Wrapped):
    """A guess that counts how often it is asked."""

    base: Guess
    calls: list[int] = dataclasses.field(default_factory=list)

    def __call__(
        self, x_t: torch.Tensor, t: torch.Tensor, s: torch.Tensor | None = None, **condition: Any
    ) -> Endpoints:
        self.calls.append(len(x_t))
        return self.base(x_t, t, s, **condition)


WAYS: dict[str, dict[str, Callable[[Model, Corpus, Sequence[Place]], Written]]] = {
    "calls": {
        f"{calls or 'one a token'}": partial(drawn, solver=Confidence(), calls=calls) for calls in (None, 8, 4, 2, 1)
    },
    "budgets": {f"{budget:g}": partial(drawn, solver=EntropyBound(budget), calls=None) for budget in (0.1, 0.3, 1.0)},
    "echoes": {
        "one a token": by_the_verb,
        "8 steps": partial(by_the_verb, steps=8),
        "8 steps, masking again": partial(by_the_verb, steps=8, solver="remask"),
        **{f"{calls} calls": partial(by_the_verb, calls=calls) for calls in (8, 4, 2)},
    },
    "tries": {
        "one a token": partial(by_the_verb, tries=4, parsed=True),
        **{f"{calls} calls": partial(by_the_verb, calls=calls, tries=4, parsed=True) for calls in (8, 4)},
        "8 tries of 8 calls": partial(by_the_verb, calls=8, tries=8, parsed=True),
    },
    "open": {
        "that parses": partial(by_the_verb, open_=True, tries=4, parsed=True),
        "the likeliest": partial(by_the_verb, open_=True, tries=4),
    },
}


def main() -> None:
    """The parts that are missing."""
    parser = argparse.ArgumentParser(description="Lines of held-out documents written by a run of text.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0, help="lines that are passed over, to choose settings on others")
    parser.add_argument("--parts", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--ways", nargs="*", help="of the parts, those of these names alone")
    parser.add_argument("--show", type=int, default=10)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="bf16")
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else {}
    model = load(asked.run, drawing=Drawing(precision=asked.precision))
    recipe: Any = model.recipe
    corpus = recipe.corpus(model.run)
    places = chosen(corpus, asked.skip + asked.lines)[asked.skip :]
    known = {line.strip() for _, ids in corpus.texts("train") for line in corpus.vocabulary.decode(ids).splitlines()}
    found["asked"] = {name: str(value) for name, value in vars(asked).items()}
    for part in asked.parts:
        for way, write in WAYS[part].items():
            name = f"{part}, {way}"
            if name in found or (asked.ways and way not in asked.ways):
                continue
            began = time.process_time()
            made = write(model, corpus, places)
            seconds = time.process_time() - began
            found[name] = {**judged(places, made.lines, known), "cpu seconds": seconds}
            if made.calls:
                found[name]["calls"] = float(np.mean(made.calls))
            found["shown"] = [*found.get("shown", []), *shown(name, places, made.lines, asked.show)]
            asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(name, json.dumps(found[name]), flush=True)


def shown(name: str, places: Sequence[Place], written: Sequence[bytes], most: int) -> list[str]:
    """The first few, with the line before and the line after."""
    rows = []
    for p, line in list(zip(places, written, strict=True))[:most]:
        above, below = p.before.splitlines()[-2:-1] or [b""], p.after.splitlines()[1:2] or [b""]
        words = [part.decode("utf-8", "replace").strip() for part in (above[0], p.line, line, below[0])]
        rows.append(f"{name}: {p.name}: {words[0]!r} / was {words[1]!r} / is {words[2]!r} / {words[3]!r}")
    return rows


if __name__ == "__main__":
    main()
