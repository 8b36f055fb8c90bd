"""Words as the network is told them: tokens of a vocabulary of their own, or states of an encoder that is not trained.

    texts --Words.encode--> {"caption": (n, S) int64, -1 behind the end, or (n, S, D) float32; "caption_mask": (n, S) bool}

A caption that says nothing is all absent, exactly what a hidden one is (`sfumato.diffusion.hide`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sfumato.data.errors import DataError
from sfumato.data.vocabulary import LEAST, Vocabulary

TOKENIZER, TOKENS = "tokenizer.json", "tokens.npy"
OWN = "own"


class Told(Protocol):
    """Captions of a run, numbered, as the network is told them."""

    def batch(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """Those of these numbers (B,)."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Captions as tokens (n, S), -1 for none."""

    rows: np.ndarray

    def batch(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """{"caption": (B, S) int64, "caption_mask": (B, S) bool}."""
        found = np.asarray(self.rows[which], dtype=np.int64)
        return {"caption": found, "caption_mask": found >= 0}


@dataclass(frozen=True, eq=False)
class Words:
    """A byte-pair vocabulary fitted on the captions, at most ``length`` tokens of each; its encoder is a part of the network."""

    vocabulary: Vocabulary
    length: int
    name: str = OWN
    width: int = 0

    @classmethod
    def fit(cls, texts: Sequence[str], vocab: int, most: int) -> Words:
        """Fitted on captions; ``most`` tokens of a caption are kept, fewer where all are shorter."""
        vocabulary = Vocabulary.fit([spelt(text) for text in texts if text], max(LEAST, vocab))
        lengths = [len(ids) for ids in vocabulary.encode_all([spelt(text) for text in dict.fromkeys(texts)])]
        return cls(vocabulary, max(1, min(most, max(lengths, default=1))))

    @classmethod
    def load(cls, run: Path, length: int) -> Words:
        """The vocabulary of a run. Raises DataError."""
        return cls(Vocabulary.load(run / TOKENIZER), length)

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary)

    def save(self, run: Path) -> None:
        """Into the run's folder."""
        self.vocabulary.save(run / TOKENIZER)

    def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(n, S) int64, -1 behind the end; and how many tokens each text has in full, (n,). Cut where a word begins."""
        every = self.vocabulary.encode_all([spelt(text) for text in texts])
        rows = np.full((len(texts), self.length), -1, dtype=np.int64)
        for row, ids in zip(rows, every):
            kept = ids[: self.cut(ids)]
            row[: len(kept)] = kept
        return rows, np.array([len(ids) for ids in every], dtype=np.int64)

    def cut(self, ids: np.ndarray) -> int:
        """How many of the tokens are kept: all, or those up to the last word that is whole."""
        if len(ids) <= self.length:
            return len(ids)
        pieces = self.vocabulary.pieces
        starts = [i for i in range(1, self.length + 1) if pieces[int(ids[i])][:1].isspace()]
        return starts[-1] if starts else self.length

    def encode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As the network is told them."""
        return Tokens(self.tokens(texts)[0]).batch(np.arange(len(texts)))

    def write(self, texts: Sequence[str], cache: Path) -> tuple[int, float]:
        """Keep all captions of a run; returns the length of the longest and the share that is cut."""
        rows, lengths = self.tokens(texts)
        np.save(cache / TOKENS, rows.astype(np.int32))
        return int(lengths.max(initial=0)), float((lengths > self.length).mean()) if len(lengths) else 0.0

    @staticmethod
    def read(cache: Path, count: int) -> Told:
        """What `write` kept. Raises ValueError for another number of captions."""
        rows = np.load(cache / TOKENS, mmap_mode="r", allow_pickle=False)
        if len(rows) != count:
            raise ValueError(f"{TOKENS} has {len(rows)} rows for {count} captions")
        return Tokens(rows)


def spelt(text: str) -> bytes:
    """A caption as the vocabulary sees it: in small letters, and every word with a space before it, the first too."""
    return f" {text.lower()}".encode("utf-8", "replace") if text else b""


def chosen(encoder: str, texts: Sequence[str], vocab: int, most: int) -> tuple[Words, list[str]]:
    """What reads the words, and what is to be said of the choice. Raises DataError."""
    if encoder not in ("auto", OWN):
        raise DataError(f"encoder = {encoder!r}: must be auto or {OWN}")
    if not any(texts):
        raise DataError("all captions are empty: there is nothing to tell pictures by; expected a few words for each")
    return Words.fit(texts, vocab, most), []
