"""The texts asked for, as blanks of tokens with what is known of them aside; and texts longer than a window, written on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.data.errors import DataError, shown
from sfumato.data.vocabulary import Vocabulary
from sfumato.diffusion import Drawn, Guess, blocks
from sfumato.diffusion.generate import bunches
from sfumato.diffusion.tree import Tree
from sfumato.fields.text.facts import Facts
from sfumato.fields.text.files import Limits, wrong_with
from sfumato.fields.text.options import TextAsk
from sfumato.fields.text.writing import Layout, Sharpened, Stressed, around, filled, prompted

if TYPE_CHECKING:
    from sfumato.jobs.model import Model
    from sfumato.jobs.walk import Walk


@dataclass(frozen=True, eq=False)
class TextQueries:
    """`count` texts of one layout. `rest` tokens are to be written beyond its window; `tails`, number -> tokens (n,), stand
    for the layout's own where texts are written on. The first, `prompt` tokens of the layout after its opening end are guided by,
    with strength `stress`."""

    vocabulary: Vocabulary
    layout: Layout
    count: int
    temperature: float = 1.0
    block: int | None = None
    rest: int = 0
    tails: Mapping[int, Tensor] | None = None
    stress: float = 1.0
    prompt: int = 0
    buckets: None = None

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """{"x": blanks (b, L) int64, "aside": known tokens (b, L), where they are, and how to write, (b,) each}."""
        count, length = len(numbers), len(self.layout.tokens)
        known = torch.from_numpy(self.layout.tokens).expand(count, length)
        if self.tails is not None:
            known = torch.stack([self.tails[int(number)].cpu() for number in numbers])
            known = torch.nn.functional.pad(known, (0, length - known.shape[1]))
        aside: dict[str, Tree] = {
            "known": known,
            "where": torch.from_numpy(self.layout.known).expand(count, length),
            "temperature": torch.full((count,), self.temperature),
            "closed": torch.full((count,), not self.layout.ends),
            "block": torch.full((count,), self.block or 0),
            "stress": torch.full((count,), self.stress),
            "prompt": torch.full((count,), self.prompt),
        }
        return {"x": torch.zeros(count, length, dtype=torch.int64), "aside": aside}

    def after(self, numbers: Sequence[int], x: Tensor) -> TextQueries:
        """What follows texts x (b, n) of these numbers: windows that begin with the last half window of them."""
        keep = len(self.layout.tokens) // 2
        more = min(len(self.layout.tokens) - keep, self.rest)
        return replace(self.with_more(numbers, x, keep, more), rest=self.rest - more)

    def with_more(self, numbers: Sequence[int], x: Tensor, keep: int, more: int) -> TextQueries:
        """`more` tokens to be written after the last `keep` of texts x (b, n) of these numbers."""
        layout = Layout(np.zeros(keep + more, dtype=np.int64), np.arange(keep + more) < keep)
        tails = {int(number): row[-keep:] for number, row in zip(numbers, x)}
        prompt = max(0, self.prompt - (x.shape[1] - keep))
        return replace(self, layout=layout, tails=tails, rest=0, block=None, prompt=prompt)


def asked(ask: TextAsk, vocabulary: Vocabulary, facts: Facts, n: int) -> TextQueries:
    """The texts that are asked for. Raises DataError for files that cannot be read, and holes that cannot be filled."""
    if ask.around is not None:
        text = read(ask.around)
        try:
            layout = filled(text, vocabulary, facts.window, ask.hole)
        except DataError as error:
            raise DataError(f"{shown(ask.around)}: {error}") from None
        return TextQueries(vocabulary, layout, n, ask.temperature, ask.block)
    prompt = (ask.prompt or "").encode() if ask.prompt_file is None else read(ask.prompt_file)
    length = ask.length or facts.window
    layout = prompted(prompt, vocabulary, min(length, facts.window))
    rest, known = max(0, length - facts.window), int(layout.known.sum()) - 1
    return TextQueries(vocabulary, layout, n, ask.temperature, ask.block, rest, stress=ask.stress, prompt=known)


def read(file: Path) -> bytes:
    """The text of a file of the asker's. Raises DataError where it is none."""
    limits = Limits()
    try:
        if not file.is_file():  # a pipe would never end
            raise DataError(f"{shown(file)}: there is no such file; give one of text")
        with file.open("rb") as stream:
            text = stream.read(limits.document + 1)
    except OSError as error:
        raise DataError(f"{shown(file)}: cannot be read ({error.strerror})") from None
    if (problem := wrong_with(text, limits)) is not None:
        raise DataError(f"{shown(file)}: {problem[1].partition(';')[0]}; expected a text of UTF-8")
    return text


def held(guess: Guess, query: Mapping[str, Tree], weak: Guess | None = None) -> Guess:
    """The guess at the temperature asked for, around what is known; ``weak`` is asked what it were without the prompt."""
    aside: Any = query["aside"]
    end = guess.process.mask_id - 1
    if bool((aside["stress"] != 1).any()):
        guess = Stressed(guess, weak or guess, aside["prompt"], aside["stress"])
    return around(Sharpened(guess, aside["temperature"], end, aside["closed"]), aside["known"], aside["where"])


def begun(process: Any, z: Tensor, times: Tensor, query: Mapping[str, Tree]) -> tuple[Tensor, Tensor]:
    """The first state, and the times: all tokens together, or block after block with as many steps a token in all."""
    aside: Any = query["aside"]
    block, length = int(aside["block"][0]), z.shape[1]
    if not 0 < block < length:
        return process.start(z), times
    steps = max(1, round((len(times) - 1) * block / length))
    return process.start(z), blocks(length, block, steps).to(times)


def by_blocks(model: Model, queries: TextQueries, numbers: Sequence[int], walk: Walk | None = None) -> Iterator[Tensor]:
    """Texts (b, n) of these numbers, longer by a block each time, until they are as long as asked or all have ended.

    Each block is written with what a window holds before it in sight, which is read once for all steps of the block, and with
    as many steps a token as a whole window has. A block longer than a window less one token is shortened to that.
    """
    walk, window = walk or model.walk, model.facts.window
    layout = queries.layout
    x = torch.from_numpy(layout.tokens[layout.known]).expand(len(numbers), -1).to(model.device)
    length, turn = len(layout.tokens) + queries.rest, 0
    block = min(queries.block or window, window - 1)
    while x.shape[1] < length:
        more = min(block, length - x.shape[1])
        keep = min(x.shape[1], window - more)
        steps = max(1, round((walk.steps or 1) * more / window))
        asked = queries.with_more(numbers, x, keep, more)
        fresh: list[Tensor] = []
        for drawn in model.draw(asked, numbers, walk=replace(walk, steps=steps), stream=("block", turn)):
            rows: Any = drawn.x
            fresh.append(rows[:, keep:])
        x, turn = torch.cat([x, torch.cat(fresh)], 1), turn + 1
        yield x
        if bool((x[:, int(layout.known.sum()) :] == queries.vocabulary.end).any(1).all()):
            return


def in_blocks(model: Model, queries: TextQueries, numbers: Sequence[int]) -> Iterator[Drawn]:
    """Texts written `by_blocks`, a batch at a time."""
    for own in bunches(queries, numbers, model.walk.batch or 16):
        x = torch.from_numpy(queries.layout.tokens[queries.layout.known]).expand(len(own), -1).to(model.device)
        for x in by_blocks(model, queries, own):  # noqa: B007 - the last one is whole
            pass
        short = max(0, len(queries.layout.tokens) - x.shape[1])
        x = torch.nn.functional.pad(x, (0, short), value=queries.vocabulary.end)
        yield Drawn(x, queries.batch(own), own, {})


def carried_on(model: Model, queries: TextQueries, drawn: Drawn) -> Drawn:
    """Texts (b, window) written on, a half window at a time, until they are as long as asked or all have ended."""
    x: Any = drawn.x
    numbers, turn = drawn.numbers, 0
    while queries.rest > 0 and not bool((x[:, 1:] == queries.vocabulary.end).any(1).all()):
        queries, turn = queries.after(numbers, x), turn + 1
        (more,) = model.draw(queries, numbers, stream=("written on", turn))
        fresh: Any = more.x
        x = torch.cat([x, fresh[:, int(queries.layout.known.sum()) :]], 1)
    return drawn._replace(x=x)
