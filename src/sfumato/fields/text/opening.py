"""A hole whose length nobody knows: a gap between the tokens before it and those after it, opened until nothing is open.

Several tries are drawn, and the likeliest is kept. What is compared is the probability of the whole text with each of them in
it, of whatever length (`diffusion.stretching`), so that no rule of thumb about lengths is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion import Endpoints, Guess, Masked, generate, uniform
from sfumato.diffusion.gaps import Gaps
from sfumato.diffusion.generate import Look
from sfumato.diffusion.guidance import Wrapped
from sfumato.diffusion.stretching import Stretch
from sfumato.errors import DataError
from sfumato.fields.text.echo import REACH, Echo, echo_of
from sfumato.fields.text.filling import TRIES
from sfumato.fields.text.filling import Look as Seen
from sfumato.fields.text.grammar import Accepts, everything
from sfumato.fields.text.originals import Hole, Original
from sfumato.fields.text.queries import TextQueries
from sfumato.fields.text.writing import Layout, Sharpened, in_window

if TYPE_CHECKING:
    from sfumato.jobs.model import Model

WEIGHED = 32
"""Of the likeliest texts of a hole: how many are looked through for one that is preferred."""


@dataclass(frozen=True, eq=False)
class Tries:
    """`count` rows of one gap: tokens `before` (b,) and `after` (a,) it, and nothing up to `window` places."""

    before: np.ndarray
    after: np.ndarray
    gaps: Gaps
    window: int
    count: int
    buckets: None = None

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray, gaps: Gaps, window: int, count: int) -> Tries:
        """With as much of both sides as a row had in training, three quarters of a window."""
        room = window - window // 4 - 1
        right = after[: max(room // 2, room - len(before))]
        return cls(before[max(0, len(before) - (room - len(right))) :], right, gaps, window, count)

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return {"x": torch.zeros(len(numbers), self.window, dtype=torch.int64)}

    @property
    def row(self) -> np.ndarray:
        """The first state, (window,)."""
        rest = self.window - len(self.before) - 1 - len(self.after)
        ends = [self.before, np.array([self.gaps.gap]), self.after, np.full(rest, self.gaps.nothing)]
        return np.concatenate(ends).astype(np.int64)

    @property
    def most(self) -> int:
        """Tokens that fit into the gap."""
        return self.window - len(self.before) - len(self.after)

    def between(self, row: np.ndarray) -> np.ndarray:
        """What was written in a row (window,): tokens (n,)."""
        there = int((row != self.gaps.nothing).sum())
        return row[len(self.before) : there - len(self.after)]


@dataclass(frozen=True)
class Sides(Wrapped):
    """A guess that is told what is given: so many tokens at the beginning of each row, and so many at its end."""

    base: Guess
    before: int
    after: int
    nothing: int

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        there = (x_t != self.nothing).sum(1, keepdim=True)
        place = torch.arange(x_t.shape[1], device=x_t.device)
        open_ = (place >= self.before) & (place < there - self.after)
        own = torch.where(open_, t.to(x_t.device).reshape(-1, 1), 0.0)
        return self.base(x_t, own, s, **condition)


@dataclass(frozen=True)
class Opened:
    """What was written into a gap: tokens (n,), and log p of the text with it in (but for what is alike for all)."""

    tokens: np.ndarray
    log_text: float


def opened(
    model: Model,
    tries: Tries,
    numbers: Sequence[int],
    *,
    temperature: float,
    stream: Sequence[str | int],
    look: Look | None = None,
) -> list[Opened]:
    """The gap opened once for each number, at a temperature (0: the likeliest rule each time). No end of the text is drawn.

    One gap is opened after the other, or as many together as the budget of the model's walk allows, where it has one.
    """
    gaps = tries.gaps
    budget = getattr(model.solver(model.walk), "budget", 0.0)
    row = torch.from_numpy(tries.row).to(model.device)

    def begin(process: Any, z: Tensor, query: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        return row.expand(len(z), -1), uniform(process.schedule, 2 * tries.most)

    def guide(guess: Guess, query: Mapping[str, Any]) -> Guess:
        told = Sides(guess, len(tries.before), len(tries.after), gaps.nothing)
        return Sharpened(told, 1.0, model.facts.end, torch.ones(len(query["x"]), dtype=torch.bool, device=model.device))

    denoiser = with_process(model.denoiser, Masked(gaps.gap))
    found = []
    for drawn in generate(
        denoiser, tries, numbers, seed=model.drawing.seed, stream=stream, begin=begin, guide=guide,
        solver=Stretch(gaps, 0.0, temperature, budget), batch=model.given.batch or min(len(numbers), 16), device=model.device,
        look=look,
    ):  # fmt: skip
        x: Any = drawn.x
        scores: Any = drawn.scores["log_text"]
        found += [Opened(tries.between(row), float(s)) for row, s in zip(x.cpu().numpy(), scores, strict=True)]
    return found


def with_process(guess: Any, process: Masked) -> Any:
    """A denoiser, or what is around one, of another process."""
    base = getattr(guess, "base", None)
    return replace(guess, process=process) if base is None else replace(guess, base=with_process(base, process))


Fits = Callable[[np.ndarray], bool]


def likeliest(found: Sequence[Opened], fits: Fits, prefers: Fits = lambda tokens: True) -> Opened | None:
    """The likeliest of those that fit and are preferred, of WEIGHED of them; the likeliest that fits where none of these is; the
    first of equal ones; None where none fits."""
    ordered = sorted(found, key=lambda each: -each.log_text)
    good = list(islice((each for each in ordered if fits(each.tokens)), WEIGHED))
    return next((each for each in good if prefers(each.tokens)), good[0] if good else None)


def heard(
    found: Sequence[Opened], echo: Echo, tries: Tries, fits: Fits, prefers: Fits = lambda tokens: True
) -> Opened | None:
    """The likeliest that fits of those that were drawn, and of what stands elsewhere between the same tokens, whatever its
    length; what was drawn is as likely as the model says it is beside the others that were drawn. Those that are preferred come
    first, as in `likeliest`."""
    top = max((each.log_text for each in found), default=0.0)
    known = {tuple(each.tokens.tolist()): math.exp(each.log_text - top) for each in found}
    total = sum(known.values())
    law = echo.runs(
        tries.before[-REACH:].tolist(), tries.after[:REACH].tolist(), {run: p / total for run, p in known.items()}
    )  # fmt: skip
    texts = [Opened(np.array(run, dtype=np.int64), math.log(max(p, 1e-300))) for run, p in law.items()]
    return likeliest(texts, lambda tokens: len(tokens) <= tries.most and fits(tokens), prefers)


# ---- files -----------------------------------------------------------------------------------------------------------


def fill_open(
    model: Model,
    original: Original,
    holes: Sequence[Hole],
    draws: int = 1,
    *,
    temperature: float = 0.7,
    tries: int = 4,
    accepts: Accepts = everything,
    look: Seen | None = None,
) -> list[bytes]:
    """The text with its holes filled, ``draws`` times, as UTF-8; holes that do not say how long they are, are as long as the
    likeliest of so many ``tries``. What is known of it is the same to the byte. What is accepted in a hole and those before it
    comes before what is likelier and is not.

    The holes of a draw are filled from the top, each with what was written before it in sight, and what is known up to the
    next. Draw i depends on the seed and i alone. Raises Wrong for a run without gaps, DataError where nothing is written that
    is text in the file's encoding, and for a hole longer than a window.
    """
    recipe: Any = model.recipe
    vocabulary, end = recipe.vocabulary(model.run), model.facts.end
    edges = [0, *(edge for hole in holes for edge in (hole.start, hole.stop)), len(original.text)]
    known = [original.text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    ids = [vocabulary.encode(part).astype(np.int64) for part in known]
    texts = []
    for number in range(draws):
        before, parts = np.concatenate([[end], ids[0]]), [known[0]]
        for i, hole in enumerate(holes):
            after = ids[i + 1] if i + 2 < len(ids) else np.concatenate([ids[-1], [end]])
            see = None if look is None or number else partial(_told, look, vocabulary, end, known[i + 1])
            whole = partial(_accepted, accepts, vocabulary, [*parts[1::2]])
            one = Filled(model, original, before, after, i, hole.line, number, temperature, see, whole)
            written = one.open(tries) if hole.tokens is None else one.of_length(hole.tokens, tries)
            before = np.concatenate([before, written, ids[i + 1]])
            parts += [vocabulary.decode(written), known[i + 1]]
        texts.append(b"".join(parts))
    return texts


@dataclass(frozen=True, eq=False)
class Filled:
    """One hole, the `hole`-th, of the `number`-th draw, between tokens `before` (b,) and `after` (a,) it."""

    model: Model
    original: Original
    before: np.ndarray
    after: np.ndarray
    hole: int
    line: bool
    number: int
    temperature: float
    look: Callable[[bytes, np.ndarray], None] | None
    prefers: Fits

    def fits(self, tokens: np.ndarray) -> bool:
        """Whether it is text in the file's encoding, and one line where it has to be."""
        recipe: Any = self.model.recipe
        text = recipe.vocabulary(self.model.run).decode(tokens)
        return self.original.can(text) and not (self.line and (b"\n" in text or b"\r" in text))

    def open(self, tries: int) -> np.ndarray:
        """Of a length that the model finds, (n,)."""
        from sfumato.fields.text.recipe import gaps_of

        row = Tries.of(self.before, self.after, gaps_of(self.model.facts), self.model.facts.window, tries)
        for attempt in range(TRIES):
            numbers = [self.number * tries + k for k in range(tries)]
            row = replace(row, count=numbers[-1] + 1)
            see = self._seeing(row) if not attempt else None
            stream = ("gap", self.hole, attempt)
            found = opened(self.model, row, numbers, temperature=self.temperature, stream=stream, look=see)
            echo = echo_of(self.model.denoiser)
            if echo is None:
                best = likeliest(found, self.fits, self.prefers)
            else:
                best = heard(found, echo, row, self.fits, self.prefers)
            if best is not None:
                return best.tokens
        raise DataError(_nothing(self))

    def of_length(self, count: int, tries: int) -> np.ndarray:
        """Of `count` tokens: the first of so many tries that is preferred, else the first."""
        window = self.model.facts.window
        if not 1 <= count <= window:
            raise DataError(
                f"hole {self.hole + 1} is {count} tokens long: must be from 1 to {window}, the window of this run"
            )
        recipe: Any = self.model.recipe
        whole = np.concatenate([self.before, np.full(count, self.model.facts.end), self.after])
        first = len(self.before)
        start, stop = in_window(first, first + count, len(whole), window)
        place = np.arange(start, stop)
        layout = Layout(whole[start:stop], (place < first) | (place >= first + count), ends=False)
        queries = TextQueries(recipe.vocabulary(self.model.run), layout, self.number + 1, self.temperature)
        walk, kept = replace(self.model.walk, batch=self.model.given.batch or 1), None
        for attempt in range(max(TRIES, tries)):
            if kept is not None and attempt >= tries:
                break
            (drawn,) = self.model.draw(queries, [self.number], walk=walk, stream=("fill", self.hole, attempt))
            x: Any = drawn.x
            written: np.ndarray = x[0].cpu().numpy()[first - start : first - start + count]
            if self.fits(written):
                kept = written if kept is None else kept
                if self.prefers(written):
                    return written
        if kept is None:
            raise DataError(_nothing(self))
        return kept

    def _seeing(self, row: Tries) -> Look | None:
        """Tells what is guessed in the gap of the first try."""
        look = self.look
        if look is None:
            return None
        recipe: Any = self.model.recipe
        before = recipe.vocabulary(self.model.run).decode(row.before[-64:])

        def see(numbers: Sequence[int], step: int, steps: int, x: Any) -> None:
            look(before, row.between(x[0].cpu().numpy()))

        return see


def _accepted(accepts: Accepts, vocabulary: Any, before: Sequence[bytes], tokens: np.ndarray) -> bool:
    return accepts([*before, vocabulary.decode(tokens)])


def _told(look: Seen, vocabulary: Any, end: int, after: bytes, before: bytes, tokens: np.ndarray) -> None:
    look(before, vocabulary.decode(tokens[tokens < end]), after[:256])


def _nothing(one: Filled) -> str:
    return (
        f"hole {one.hole + 1}: none of {TRIES} draws is text in {one.original.encoding}; say that it is longer, or write "
        "the file as UTF-8"
    )
