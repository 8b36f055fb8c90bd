"""What is to be written: a prompt to go on from, or a text with holes, laid out as tokens of which some are known.

    def area(r):\\n    return <fill:8>\\n        ->        known tokens, 8 masks, known tokens

Holes are `<fill>`, or `<fill:12>` for 12 tokens. What is around them is known to the byte, and stays so: each stretch is
encoded by itself, its tokens never change, and what does not fit into a window beside the holes is put back untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.data.errors import DataError
from sfumato.data.vocabulary import Vocabulary
from sfumato.diffusion import Endpoints, Guess, infill
from sfumato.diffusion.guidance import Wrapped
from sfumato.diffusion.process import lerp
from sfumato.diffusion.tokens import NEVER
from sfumato.diffusion.unmasking import Infill
from sfumato.fields.text.originals import MARK


@dataclass(frozen=True, eq=False)
class Layout:
    """Tokens (L,) int64, read where `known` (L,) is True; `before` and `after` are the bytes around them.

    `written` turns drawn tokens into the text. `ends` says whether a drawn end of the document ends the text (a prompt is
    gone on from), or cannot be drawn at all (a hole has another side).
    """

    tokens: np.ndarray
    known: np.ndarray
    before: bytes = b""
    after: bytes = b""
    ends: bool = True

    def written(self, drawn: np.ndarray, vocabulary: Vocabulary) -> bytes:
        """The whole text of drawn tokens (L,), up to its end if one was drawn."""
        tokens = np.where(self.known, self.tokens, drawn)
        if self.ends:
            closing = np.flatnonzero((tokens == vocabulary.end) & ~self.known)
            tokens = tokens[: closing[0]] if len(closing) else tokens
        return self.before + vocabulary.decode(tokens) + self.after

    def marked(self, drawn: np.ndarray, vocabulary: Vocabulary) -> bytes:
        """What the window of drawn tokens (L,) holds, with quotes around what was written into each hole."""
        edges = np.flatnonzero(np.diff(self.known)) + 1
        parts = []
        for begin, run in zip([0, *edges], np.split(np.where(self.known, self.tokens, drawn), edges)):
            text = vocabulary.decode(run)
            parts.append(text if self.known[begin] else "\u00ab".encode() + text + "\u00bb".encode())
        return b"".join(parts)

    def longer(self, length: int) -> Layout:
        """The same with what follows its window open, `length` tokens in all."""
        more = length - len(self.tokens)
        tokens = np.concatenate([self.tokens, np.zeros(more, dtype=np.int64)])
        known = np.concatenate([self.known, np.zeros(more, dtype=bool)])
        return Layout(tokens, known, self.before, self.after, self.ends)


def prompted(prompt: bytes, vocabulary: Vocabulary, length: int) -> Layout:
    """A document that begins with `prompt`, the rest of `length` tokens (its opening end among them) to be written.

    A prompt that leaves less than half of the length free is known by its last tokens only; none of it is lost.
    Raises DataError for a length below 2.
    """
    if length < 2:
        raise DataError(f"length = {length}: must be at least 2 tokens")
    ids = np.concatenate([[vocabulary.end], vocabulary.encode(prompt)]).astype(np.int64)
    seen = ids[-max(1, length // 2) :]
    tokens = np.concatenate([seen, np.full(length - len(seen), vocabulary.end)])
    return Layout(tokens, np.arange(length) < len(seen), vocabulary.decode(ids[: len(ids) - len(seen)]))


def filled(text: bytes, vocabulary: Vocabulary, window: int, hole: int) -> Layout:
    """A text with holes, `hole` tokens long unless they say how long; what is known around them as far as a window holds it.

    Raises DataError without a hole, for a hole of no tokens, and where the holes do not fit into one window with what is
    between them.
    """
    pieces: list[bytes | int] = []
    place = 0
    for number, match in enumerate(MARK.finditer(text), 1):
        count = int(match.group(1) or hole)
        if not 1 <= count <= window:
            raise DataError(f"hole {number} is {count} tokens long: must be from 1 to {window}, the window of this run")
        pieces += [text[place : match.start()], count]
        place = match.end()
    if not pieces:
        raise DataError("the text has no hole: mark what is to be written with <fill>, or <fill:12> for 12 tokens")
    return laid_out([*pieces, text[place:]], vocabulary, window)


def laid_out(pieces: Sequence[bytes | int], vocabulary: Vocabulary, window: int) -> Layout:
    """Known stretches (bytes) and holes (their number of tokens) in order, as one document; what is known around the holes
    as far as a window holds it.

    Raises DataError where the holes do not fit into one window with what is between them.
    """
    holes_ = [isinstance(piece, int) for piece in pieces]
    parts = [np.full(piece, vocabulary.end) if isinstance(piece, int) else vocabulary.encode(piece) for piece in pieces]
    edge = [np.array([vocabulary.end])]
    tokens = np.concatenate(edge + parts + edge).astype(np.int64)
    where = np.concatenate([[True], *(np.full(len(part), not hole) for part, hole in zip(parts, holes_)), [True]])
    holes = np.flatnonzero(~where)
    first, last = int(holes[0]), int(holes[-1]) + 1
    if last - first > window:
        raise DataError(
            f"from the first hole to the end of the last there are {last - first} tokens, a window of this run has {window}: "
            "fill them one after the other, or make them shorter"
        )
    start, stop = in_window(first, last, len(tokens), window)
    before, after = vocabulary.decode(tokens[:start]), vocabulary.decode(tokens[stop:])
    return Layout(tokens[start:stop], where[start:stop], before, after, ends=False)


def in_window(first: int, last: int, count: int, window: int) -> tuple[int, int]:
    """[start, stop) of `window` tokens of `count` around those of [first, last), as much of each side as there is."""
    start = min(max(0, first - (window - (last - first)) // 2), max(0, count - window))
    return start, min(count, start + window)


@dataclass(frozen=True)
class Sharpened(Wrapped):
    """A guess of tokens at another temperature: log-probabilities divided by it, so that below 1 the likely is likelier.

    ``temperature`` is one number, or one a row (B,). ``barred`` (B,) bool or None: rows in which the token ``bar`` cannot
    be drawn.
    """

    base: Guess
    temperature: float | Tensor = 1.0
    bar: int = 0
    barred: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        ends = self.base(x_t, t, s, **condition)
        warmth = self.temperature
        x = ends.x / (warmth if isinstance(warmth, float) else warmth.to(ends.x)[:, None, None])
        if self.barred is not None:
            closing = torch.arange(x.shape[-1], device=x.device) == self.bar
            x = torch.where(self.barred[:, None, None] & closing & (x_t != self.bar)[..., None], NEVER, x)
        return Endpoints(x, ends.z)


@dataclass(frozen=True)
class Given(Wrapped):
    """A guess that is told what is given: the time of the tokens where ``where`` (B, L) is True is 0, as in training."""

    base: Guess
    where: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        own = t[:, None] if t.ndim == 1 else t
        return self.base(x_t, torch.where(self.where.to(own.device), 0.0, own).expand(x_t.shape), s, **condition)


@dataclass(frozen=True)
class Stressed(Wrapped):
    """Guidance by a prompt (Ho and Salimans 2022, for a prefix): what the text would be without it is left behind.

    log p = w log p(. | prompt, rest) + (1 - w) log p(. | rest): the weak side is shown masks where the first, ``prompt`` (B,)
    tokens after the opening end stand, which training shows it, too. ``w`` (B,).
    """

    base: Guess
    weak: Guess
    prompt: Tensor
    w: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        place = torch.arange(x_t.shape[1], device=x_t.device)
        gone = (place >= 1) & (place <= self.prompt[:, None])
        own = (t[:, None] if t.ndim == 1 else t).to(x_t.device).expand(x_t.shape)
        hidden = torch.where(gone, self.process.mask_id, x_t)
        weak = self.weak(hidden, torch.where(gone, 1.0, own), s, **condition)
        strong = self.base(x_t, t, s, **condition)
        return Endpoints(lerp(weak.x, strong.x, self.w.to(strong.x)[:, None, None]), strong.z)


def around(guess: Guess, known: Tensor, where: Tensor) -> Infill:
    """The guess with tokens given: ``known`` (B, L) where ``where`` (B, L) is True."""
    return infill(Given(guess, where), known, where)
