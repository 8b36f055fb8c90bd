"""Guesses that are steered while a hole is filled: a line stays one, and the network is asked less often than tokens are
written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sfumato.data.vocabulary import Vocabulary
from sfumato.diffusion import Endpoints, Guess
from sfumato.diffusion.guidance import Wrapped
from sfumato.diffusion.tokens import NEVER
from sfumato.fields.text.originals import Hole
from sfumato.fields.text.reading import reader

if TYPE_CHECKING:
    from sfumato.jobs.model import Model


@dataclass(frozen=True)
class OneLine(Wrapped):
    """A guess of tokens of which those that hold the end of a line, True in ``breaks`` (V,), are not written."""

    base: Guess
    breaks: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        ends = self.base(x_t, t, s, **condition)
        count = len(self.breaks)
        written = (x_t >= count)[..., None]  # masks and gaps, and the end of a document, of which nothing is asked
        text = torch.where(written & self.breaks, NEVER, ends.x[..., :count])
        return Endpoints(torch.cat([text, ends.x[..., count:]], -1), ends.z)


def one_line(model: Model, holes: Sequence[Hole]) -> Model:
    """The model that writes no end of a line, where each hole is one line; else as it is."""
    if not all(hole.line for hole in holes):
        return model
    recipe: Any = model.recipe
    return replace(
        model, denoiser=OneLine(reader(model.denoiser), breaks_of(recipe.vocabulary(model.run), model.device))
    )


def breaks_of(vocabulary: Vocabulary, device: torch.device | str = "cpu") -> Tensor:
    """Which tokens hold the end of a line, (V,) bool."""
    held = [b"\n" in text or b"\r" in text for text in vocabulary.pieces]
    return torch.tensor(held, device=device)


@dataclass(frozen=True)
class Seldom(Wrapped):
    """A guess of masked tokens that asks the one inside at most ``calls`` times a filling, and else says again what that said
    last: of tokens that have been written since, it has not heard. What is around it has: with echoes around it, neighbours
    that are written after one answer still fit together.

    The calls are dealt out evenly over the surprise, and not over the tokens: a token that was expected tells nothing new of
    the others. So the next answer is due when the tokens since the last one had their part, of as many parts as there are calls
    left and one, of the nats since then and the entropies of what is open, by that answer; and with every token when there
    are no more of them than calls.

    A filling is known by its tokens: where they are not those that were shown last and a few more, it is another one.
    """

    base: Guess
    calls: int
    last: Answer = field(default_factory=lambda: Answer())

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        due = self.last.due(x_t, x_t == self.process.mask_id, self.calls)
        if bool(due.any()):
            self.last.keep(self.base(x_t, t, s, **condition), x_t, x_t == self.process.mask_id, due)
        assert self.last.ends is not None
        return self.last.ends


class Answer:
    """What was said last of each row, of which tokens, and when the next answer is due."""

    def __init__(self) -> None:
        self.ends: Endpoints | None = None
        self.x = self.made = torch.zeros(0, dtype=torch.int64)
        self.open_ = torch.zeros(0, dtype=torch.bool)

    def due(self, x_t: Tensor, open_: Tensor, calls: int) -> Tensor:
        """Of which rows (B,) the next answer is, of ``calls`` a filling."""
        if self.ends is None or self.x.shape != x_t.shape:
            self.ends, self.made = None, torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)
            return self.made == 0
        same = ((x_t == self.x) | self.open_).all(1)
        self.made = torch.where(same, self.made, 0)
        written, log_p = self.open_ & ~open_, torch.log_softmax(self.ends.x.double(), -1)
        told = -log_p.gather(-1, x_t.clamp_max(log_p.shape[-1] - 1)[..., None])[..., 0].clamp_max(50)
        left = -(log_p.exp() * log_p.clamp_min(-700)).sum(-1)
        told, left = (torch.where(where, each, 0.0).sum(1) for where, each in ((written, told), (open_, left)))
        spare = calls - self.made
        now = (told * (spare + 1) >= told + left) | (open_.sum(1) <= spare)
        return (self.made == 0) | written.any(1) & (spare > 0) & now

    def keep(self, ends: Endpoints, x_t: Tensor, open_: Tensor, due: Tensor) -> None:
        """The answer of the rows (B,) for which it was due."""
        if self.ends is None:
            self.ends, self.x, self.open_ = ends, x_t.clone(), open_
        else:
            rows = due[:, None]
            self.ends = Endpoints(torch.where(rows[..., None], ends.x, self.ends.x), ends.z)
            self.x, self.open_ = torch.where(rows, x_t, self.x), torch.where(rows, open_, self.open_)
        self.made = self.made + due


def seldom(model: Model, calls: int) -> Model:
    """The model, asked at most so many times a filling beneath its echoes, of which every token that is written hears."""
    heard: Any = model.denoiser
    return replace(model, denoiser=replace(heard, base=Seldom(heard.base, calls)))
