"""A text whose law is known: a Markov chain over a few bytes, and the exact answer about it by passing messages both ways."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.data.vocabulary import Vocabulary
from sfumato.diffusion import Denoiser, Masked
from sfumato.fields.text.facts import Facts, Part
from sfumato.fields.text.recipe import Text
from sfumato.jobs.model import Model
from sfumato.jobs.walk import USUAL, Drawing, Walk
from sfumato.training.run import Run


@cache
def bytes_alone() -> Vocabulary:
    """Of the 256 single bytes."""
    return Vocabulary.fit([b"abc"], 256)


@dataclass(frozen=True)
class Plain(Text):
    """Text with that vocabulary, whatever the run."""

    def vocabulary(self, run: Run) -> Vocabulary:
        return bytes_alone()


def ids(text: bytes) -> list[int]:
    return [int(i) for i in bytes_alone().encode(text)]


@dataclass(frozen=True, eq=False)
class Chain:
    """A Markov chain whose states are the letters (and the end of a document, as the last of them): ``moves`` (S + 1, S + 1)
    are its transitions, of positive entries.

    As a network it answers the exact law of each token given all the others in sight, wherever a window begins: what is
    before is unknown, so the first token has the chain's own stationary law. Tokens that are no letters tell nothing.
    """

    letters: bytes
    moves: np.ndarray
    seen: list[torch.Tensor]

    @property
    def tokens(self) -> list[int]:
        return [*ids(self.letters), bytes_alone().end]

    @property
    def stationary(self) -> np.ndarray:
        return np.linalg.matrix_power(self.moves, 500)[0]

    def __call__(self, x: torch.Tensor, level: torch.Tensor, **condition: Any) -> torch.Tensor:
        self.seen.append(x.clone())
        moves, states = torch.from_numpy(self.moves), torch.tensor(self.tokens)
        here = (x[..., None] == states).double()  # (B, L, S)
        told = torch.where(here.any(-1, keepdim=True), here, 1.0)
        forth, back = torch.empty_like(told), torch.empty_like(told)
        message = torch.from_numpy(self.stationary).expand(len(x), -1)
        for place in range(x.shape[1]):
            forth[:, place] = message
            message = (message * told[:, place]) @ moves
            message = message / message.sum(1, keepdim=True)
        message = torch.ones_like(message)
        for place in reversed(range(x.shape[1])):
            back[:, place] = message
            message = (message * told[:, place]) @ moves.T
            message = message / message.sum(1, keepdim=True)
        answer = torch.full((*x.shape, len(bytes_alone()) + 1), -700.0, dtype=torch.float64)
        answer[..., states] = (forth * back).clamp_min(1e-300).log()
        return answer


def chain(letters: bytes = b"abc", seed: int = 0, sharp: float = 1.5) -> Chain:
    """A random one, in which a document next to never ends: so nothing is lost where a filling may not end it."""
    logits = sharp * np.random.default_rng(seed).normal(size=(len(letters) + 1,) * 2)
    logits[:, -1] = -20
    moves = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Chain(letters, moves, [])


def told(network: Any, window: int = 32, walk: Walk = Walk(solver="random_order", steps=64)) -> Model:
    """A model whose network is this one."""
    vocab = len(bytes_alone())
    facts = Facts(vocab, window, ".txt", Part(1, 1, 1), Part(1, 1, 1), "")
    recipe = Plain(Path("nowhere"))
    return Model(
        Run(Path("nowhere")), recipe, facts, Denoiser(network, Masked(vocab + 1)), walk.over(Walk(grid="uniform")).over(USUAL),
        Drawing(), (), torch.device("cpu"), given=walk,
    )  # fmt: skip
