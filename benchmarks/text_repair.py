"""Repair of held-out lines by a run of text: one token of a line replaced by another, or one slip of typing in a word of it.

    python -m benchmarks.text_repair RUN --out OUT.json [--lines 200] [--alone]

A line of 8 to 80 characters of a held-out document is broken and `sfumato text repair --lines N` is asked to mend it: exact are
those after which the document is the right one to the byte. `token`: one token replaced by one drawn as often as tokens come in
the training text. `slip`: one letter of a word of three letters or more left out, doubled by another, changed, or swapped with
the next. Beside it what repair does to as many lines that are right (`right lines left alone`). Everything is a function of the
run and --seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.fields.text.originals import Original, of_lines
from sfumato.fields.text.repairing import page_of, repaired
from sfumato.fields.text.slips import WORD
from sfumato.jobs.model import load
from sfumato.metrics.intervals import share_interval

SIGNS = b"abcdefghijklmnopqrstuvwxyz_"


def token_replaced(line: bytes, page: Any, common: np.ndarray, rng: np.random.Generator) -> bytes | None:
    """The line with one of its tokens, of more than blanks, another."""
    ids = page.vocabulary.encode(line)
    places = [i for i, token in enumerate(ids) if page.vocabulary.decode([int(token)]).strip()]
    if not places:
        return None
    ids[rng.choice(places)] = rng.choice(common)
    broken: bytes = page.vocabulary.decode(ids)
    return broken


def slip(line: bytes, rng: np.random.Generator) -> bytes | None:
    """The line with one slip in one of its words."""
    found = [(m.start(), m.group()) for m in WORD.finditer(line)]
    if not found:
        return None
    start, word = found[rng.integers(len(found))]
    kind, i, sign = rng.integers(4), int(rng.integers(len(word))), bytes([SIGNS[rng.integers(len(SIGNS))]])
    if kind == 0:
        made = word[:i] + word[i + 1 :]
    elif kind == 1:
        made = word[:i] + sign + word[i:]
    elif kind == 2:
        made = word[:i] + sign + word[i + 1 :]
    else:
        i = min(i, len(word) - 2)
        made = word[:i] + word[i + 1 : i + 2] + word[i : i + 1] + word[i + 2 :]
    return line[:start] + made + line[start + len(word) :]


def main() -> None:
    """Break, mend, count."""
    parser = argparse.ArgumentParser(description="Repair of held-out lines.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--sure", type=float, default=0.5)
    parser.add_argument("--doubt", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--kinds", nargs="*", choices=("token", "slip", "right"), default=["token", "slip", "right"])
    parser.add_argument("--show", type=int, default=10)
    asked = parser.parse_args()
    model = load(asked.run)
    recipe: Any = model.recipe
    corpus, page = recipe.corpus(model.run), page_of(model, asked.alone)
    train = np.asarray(corpus.train)
    common = train[train < len(page.vocabulary)]
    texts = [(name, page.vocabulary.decode(ids)) for name, ids in corpus.texts("held_out") if len(ids) > 300]
    rng = np.random.default_rng(asked.seed)
    every = [
        (name, text, number)
        for name, text in texts
        for number, line in enumerate(text.split(b"\n"), 1)
        if 8 <= len(line.strip()) <= 80
    ]
    found: dict[str, Any] = {"asked": {k: str(v) for k, v in vars(asked).items()}, "documents": len(texts)}
    shown: list[str] = []
    began = time.process_time()
    for kind in asked.kinds:
        counts: Counter[str] = Counter()
        sures: list[tuple[float, bool]] = []
        while counts["lines"] < asked.lines:
            name, text, number = every[rng.integers(len(every))]
            lines = text.split(b"\n")
            right = lines[number - 1]
            broken: bytes | None = right
            if kind != "right":
                broken = token_replaced(right, page, common, rng) if kind == "token" else slip(right, rng)
            if broken is None or (broken == right) != (kind == "right") or b"\n" in broken:
                continue
            try:
                broken.decode()
            except UnicodeDecodeError:
                continue
            lines[number - 1] = broken
            given = b"\n".join(lines)
            out, made = repaired(
                page, Original(Path(name), given), of_lines(given, [str(number)]), doubt=asked.doubt, sure=asked.sure,
                rounds=2,
            )  # fmt: skip
            exact = out == text
            counts["lines"] += 1
            counts["exact"] += exact
            counts["left as they were"] += not made
            counts["same number of tokens"] += len(page.vocabulary.encode(broken)) == len(page.vocabulary.encode(right))
            sures += [(change.sure, exact) for change in made]
            if kind != "right" and counts["lines"] <= asked.show:
                now = out.split(b"\n")[number - 1].decode(errors="replace").strip()
                shown.append(f"{kind}: {broken.decode().strip()!r} -> {now!r}" + " (right)" * exact)
        n = counts["lines"]
        found[kind] = {**{k: v / n for k, v in counts.items() if k != "lines"}, "lines": n,
                       "exact, 90 %": share_interval(counts["exact"] / n, n)}  # fmt: skip
        if sures:
            found[kind] |= {
                "changes": len(sures), "mean of sure": float(np.mean([s for s, _ in sures])),
                "share of changes in exact lines": float(np.mean([e for _, e in sures])),
            }  # fmt: skip
        found["cpu seconds"] = time.process_time() - began
        asked.out.write_text(json.dumps({**found, "shown": shown}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({**found, "shown": shown}, indent=1))


if __name__ == "__main__":
    main()
