r"""Rows that grow and shrink while they are written: gaps of unknown length, opened one after the other (``gaps.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.gaps import Gaps, opened
from sfumato.diffusion.process import States
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.sample import Solver
from sfumato.diffusion.tokens import F64, draw, probabilities
from sfumato.diffusion.unmasking import _gumbel, _masks


@dataclass(frozen=True)
class Stretch(Solver):
    """Open one gap of each row a step: that of least entropy first, or in any order; with exact conditionals each order draws
    from the exact posterior, for it looks at the row and not at what is drawn. The process is Masked, its mask the gap.

    With a budget several are opened together, as in ``EntropyBound``: they ignore each other, which costs at most their summed
    entropy less the greatest one, and that is held below the budget a step.

    The grid only bounds the number of calls, 2 n - 1 for n tokens where nothing is deleted and one is opened at a time: in the
    last step all gaps that are left become one token or nothing. A gap does not expand where its row has no room for all
    that are opened. The random numbers are those of places, so a row does not depend on its batch.

    Args:
        gaps: their grammar and tokens.
        temperature: of the order, as in ``Confidence``: 0 is strictly that of least entropy first.
        warmth: what is drawn is likelier where it is likely, below 1; at 0 the likeliest is taken.
        budget: nats per step; 0 opens one gap a step, and no more.

    The memory is the ``Score`` of each row: log p(text) but for what is alike for all texts in the same place, if the guess is
    exact; of texts of different lengths, too, for the grammar's own preference is taken out (the sum over the derivation of
    log p of each rule given the row, less log p of the rule before it is seen).

    Raises:
        ValueError: a temperature, warmth or budget below 0.
    """

    gaps: Gaps
    temperature: float = 0.0
    warmth: float = 1.0
    budget: float = 0.0
    order: int = 1
    states: ClassVar[tuple[States, ...]] = ("tokens",)

    def __post_init__(self) -> None:
        if min(self.temperature, self.warmth, self.budget) < 0:
            raise ValueError(
                f"temperature = {self.temperature:g}, warmth = {self.warmth:g}, budget = {self.budget:g}: none may be negative"
            )

    def prepare(self, times: Tensor) -> None:
        return None

    def scores(self, memory: Tensor) -> dict[str, Tensor]:
        return {"log_text": memory}

    def step(
        self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Tensor | None, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        gaps, process = self.gaps, _masks(guess.process, "Stretch")
        total = torch.zeros(len(x_t), dtype=F64, device=x_t.device) if memory is None else memory
        u = uniform_like(x_t, rng, (*x_t.shape, 2))
        gap, last = process.open(x_t), bool((s <= 0).all())
        if not bool(gap.any()):
            return x_t, total
        law = probabilities(guess(x_t, t).x[gap], 0)  # (gaps, V)
        room, open_ = (x_t == gaps.nothing).sum(1), gap.sum(1)
        full = (room < (open_.clamp_max(1) if self.budget == 0 else open_)) | last
        law[:, gaps.expand] = torch.where(full[:, None].expand(x_t.shape)[gap], 0.0, law[:, gaps.expand])
        law = law / law.sum(-1, keepdim=True)
        drawn = law.argmax(-1) if self.warmth == 0 else draw(_warmer(law, self.warmth), u[..., 0][gap])
        found, log_p = torch.full_like(x_t, -1), torch.full(x_t.shape, -torch.inf, dtype=F64, device=x_t.device)
        found[gap], log_p[gap] = drawn, law.gather(-1, drawn[:, None])[:, 0].log()
        score = torch.full(x_t.shape, -torch.inf, dtype=F64, device=x_t.device)
        entropy = torch.special.entr(law).sum(-1)
        score[gap] = self.temperature * _gumbel(u[..., 1][gap]) - entropy
        chosen = gap if last else self.first(gap, score, torch.zeros_like(score).masked_scatter(gap, entropy))
        becomes = torch.where(chosen, found, -1)
        gained = torch.where(chosen, log_p - gaps.log_rule(found), 0.0).sum(1)
        return opened(x_t, becomes, gaps), total + gained

    def first(self, gap: Tensor, score: Tensor, entropy: Tensor) -> Tensor:
        """Which gaps (B, L) of each row are opened: that of the greatest score (B, L), and of the next ones as many as the
        budget allows."""
        if self.budget == 0:
            return torch.zeros_like(gap).scatter(1, score.argmax(1, keepdim=True), True) & gap
        order = score.argsort(dim=1, descending=True, stable=True)
        sorted_ = entropy.gather(1, order)
        spent = sorted_.cumsum(1) - sorted_.cummax(1).values
        return torch.zeros_like(gap).scatter(1, order, spent <= self.budget) & gap


def _warmer(law: Tensor, warmth: float) -> Tensor:
    return law if warmth == 1 else torch.softmax(law.log() / warmth, -1)
